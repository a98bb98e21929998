"""Two responses side by side: which lines differ, which words in them. For the page and the terminal alike."""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher
from itertools import zip_longest

Line = str | None

# Unlike the other invisible characters these re-order what follows them, so a text could show as another one.
_REORDER = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f]")
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def printable(text: str) -> str:
    """The text with what a page or a terminal could act on replaced by U+FFFD.

    Models write what they like: control characters (an escape sequence can rewrite a terminal), marks that re-order
    text, lone surrogates (which cannot be written as UTF-8). Newlines and tabs stay.
    """
    shown = "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd"
        for c in text.replace("\r\n", "\n")
    )
    return _REORDER.sub("\ufffd", shown)


def mark_steps(chosen: str, rejected: str) -> list[tuple[Line, Line, bool]]:
    """Align two responses line by line.

    Args:
        chosen, rejected: the two texts; a step is a line.

    Returns:
        rows of (chosen line, rejected line, differs). None is the absence of a line on that side. The lines of a side,
        read down, are that text again; rows that do not differ hold the same line twice.
    """
    left, right = chosen.split("\n"), rejected.split("\n")
    rows: list[tuple[Line, Line, bool]] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            rows += [(line, line, False) for line in left[i1:i2]]
        else:
            rows += [(a, b, True) for a, b in _face_to_face(left[i1:i2], right[j1:j2])]
    return rows


def _face_to_face(left: list[str], right: list[str]) -> list[tuple[Line, Line]]:
    """Pair the lines of two differing stretches: those alike but for their numbers first, the rest in order.

    Without this a step too many would stand beside the boxed answer, and the two answers never beside each other.
    """
    like_left, like_right = ([_NUMBER.sub("#", line) for line in side] for side in (left, right))
    rows: list[tuple[Line, Line]] = []
    for _, i1, i2, j1, j2 in SequenceMatcher(None, like_left, like_right, autojunk=False).get_opcodes():
        rows += zip_longest(left[i1:i2], right[j1:j2])
    return rows


def mark_words(line: Line, other: Line) -> list[tuple[str, bool]]:
    """The first line cut into runs of text, each with whether it is missing from the other line at that place.

    Joined, the runs are the line again. A line without a counterpart, or with hardly a word in common with it, is one
    run that differs: marks on every second word would only be noise.
    """
    if line is None:
        return []
    if other is None or line == other:
        return [(line, line != other)] if line else []
    left, right = _WORD.findall(line), _WORD.findall(other)
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    if matcher.ratio() < 0.4:
        return [(line, True)]
    spans = (("".join(left[i1:i2]), tag != "equal") for tag, i1, i2, _, _ in matcher.get_opcodes())
    return [(text, differs) for text, differs in spans if text]
