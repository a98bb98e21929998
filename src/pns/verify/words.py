"""Answers in words: one spelling for a text, and the few vocabularies in which two words exclude each other. (Ours.)"""

from __future__ import annotations

import re
import unicodedata

_VOCABULARIES = (
    "yes no",
    "true false",
    "monday tuesday wednesday thursday friday saturday sunday",
    "january february march april may june july august september october november december",
    "spring summer fall|autumn winter",
    "north south east west northeast northwest southeast southwest",
    "even odd neither",
    "increasing decreasing",
    "ellipse parabola hyperbola circle line point",
    "acute right obtuse",
    "rational irrational",
    "positive negative zero",
    "first second third fourth fifth sixth seventh eighth ninth tenth",
)
_CLASS = {
    word: (number, spellings)
    for number, words in enumerate(_VOCABULARIES)
    for spellings in words.split()
    for word in spellings.split("|")
}
_DROP = re.compile(r"[\"“”«»`*_]|\\[A-Za-z]+|[{}$]")
_ARTICLE = re.compile(r"^(?:the|an|a) ")


def plain_words(text: str) -> str:
    """Lower case, single spaces, no quotation marks, TeX commands, article in front or punctuation at the end."""
    text = _DROP.sub(" ", unicodedata.normalize("NFKC", text).casefold().replace("’", "'"))
    text = " ".join(text.split()).strip(" .,;:!?()")
    return _ARTICLE.sub("", text)


def exclude(a: str, b: str) -> bool:
    """Whether two texts (of `plain_words`) are different members of one vocabulary, so that one cannot be the other."""
    x, y = _CLASS.get(a), _CLASS.get(b)
    return x is not None and y is not None and x[0] == y[0] and x[1] != y[1]


def known_word(text: str) -> bool:
    """Whether a text is a member of one of the vocabularies; `no` is, though two letters are mostly two variables."""
    return plain_words(text) in _CLASS
