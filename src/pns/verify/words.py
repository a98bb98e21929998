"""Answers in words: one spelling for a text, and the few vocabularies in which two words exclude each other. (Ours.)"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

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
# words behind a number that change it, or deny it: `8 squared`, `8 and a half`, `5 or more`
_CHANGES = frozenset(
    re.findall(
        "[a-z']+",
        "squared cubed doubled tripled factorial choose root roots half tens plus minus over divided multiplied mod modulo "
        "pi below negative or than not isn't wrong incorrect false is except unless if but instead "
        "zero one two three four five six seven eight nine ten eleven twelve",
    )
)
_SCALES = {
    "dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(10**3), "million": Fraction(10**6),
    "billion": Fraction(10**9), "trillion": Fraction(10**12),
    "half": Fraction(1, 2), "halve": Fraction(1, 2), "third": Fraction(1, 3), "fourth": Fraction(1, 4),
    "quarter": Fraction(1, 4), "fifth": Fraction(1, 5), "sixth": Fraction(1, 6), "eighth": Fraction(1, 8),
    "tenth": Fraction(1, 10), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000),
}  # fmt: skip
_PER_CENT = frozenset({"percent", "per cent", "pct", "percentage", "percentage point", "percentage points"})
_PER_MORE = (["per", "hundred"], ["per", "thousand"], ["per", "mille"], ["per", "million"])
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


def per_cent(names: list[str]) -> bool:
    """Whether the words behind a number say per cent."""
    return " ".join(names) in _PER_CENT


def scaled(names: list[str]) -> tuple[Fraction, list[str]]:
    """What the first words behind a number multiply it by (`million dollars`, `tenths`), and the words left."""
    scale = Fraction(1)
    while names and (found := _SCALES.get(names[0]) or _SCALES.get(names[0].removesuffix("s"))):
        scale, names = scale * found, names[1:]
    return scale, names


def changes(names: list[str]) -> bool:
    """Whether words behind a number make it another one, or none."""
    return bool(_CHANGES & set(names)) or names in _PER_MORE
