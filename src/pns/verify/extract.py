"""Find the final answer in a response. Linear in the length of the text, whatever the text is.

Formats (source: ours; the `gsm8k` and `boxed` marks are the data sets' own):

- `boxed`: the last `\\boxed{...}`, brace-balanced. If the last box never closes there is *no* answer: an earlier box is
  not the response's last word, and paying for it would reward a response that breaks off.
- `gsm8k`: the rest of the line after the last `####`.
- `answer_tag`: between the last `<answer>` and its `</answer>`.
- `think_boxed`: `boxed`, in what follows the last `</think>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FORMATS = ("boxed", "gsm8k", "answer_tag", "think_boxed")

_BOX = re.compile(r"\\boxed(?![A-Za-z])")
_SPACE = re.compile(r"\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MARKS = {
    "boxed": _BOX,
    "gsm8k": re.compile(r"####"),
    "answer_tag": re.compile(r"<answer>"),
    "think_boxed": _BOX,
}


@dataclass(frozen=True, slots=True)
class Extraction:
    """Where the final answer stands.

    `answer` is exactly `text[start:end]`, without outer white space. `outer_start`, `outer_end` enclose the whole mark
    (`\\boxed{...}`, `#### ...`, the tags). Without an answer all four are -1 and `reason` says why.
    """

    answer: str | None
    start: int = -1
    end: int = -1
    reason: str = ""
    outer_start: int = -1
    outer_end: int = -1


def extract(text: str, answer_format: str = "boxed") -> Extraction:
    """The final answer of a response.

    Raises ValueError for a format that is not in FORMATS.
    """
    _known(answer_format)
    if answer_format == "gsm8k":
        return _gsm8k(text)
    if answer_format == "answer_tag":
        return _tagged(text)
    if answer_format == "think_boxed":
        close = text.rfind("</think>")
        return Extraction(None, reason="no </think>") if close < 0 else _boxed(text, close + len("</think>"))
    return _boxed(text, 0)


def count_marks(text: str, answer_format: str = "boxed") -> int:
    """How many final answers the response opens, complete or not. Raises ValueError for an unknown format."""
    _known(answer_format)
    start = text.rfind("</think>") + len("</think>") if answer_format == "think_boxed" and "</think>" in text else 0
    return sum(1 for _ in _MARKS[answer_format].finditer(text, start))


def _known(answer_format: str) -> None:
    if answer_format not in FORMATS:
        raise ValueError(f"unknown answer format {answer_format!r}; known: {', '.join(FORMATS)}")


def _inner(text: str, start: int, end: int, outer_start: int, outer_end: int, what: str) -> Extraction:
    inner = text[start:end]
    body = inner.strip()
    if not body:
        return Extraction(None, reason=f"empty {what}")
    first = start + len(inner) - len(inner.lstrip())
    return Extraction(body, first, first + len(body), "", outer_start, outer_end)


def _boxed(text: str, begin: int) -> Extraction:
    boxes = list(_BOX.finditer(text, begin))
    if not boxes:
        return Extraction(None, reason="no \\boxed{}")
    last = boxes[-1]
    space = _SPACE.match(text, last.end())
    brace = space.end() if space else last.end()
    if brace >= len(text) or text[brace] != "{":
        return Extraction(None, reason="the last \\boxed has no brace")
    depth = 0
    for hit in _BRACE.finditer(text, brace):
        mark = hit.group()
        depth += (mark == "{") - (mark == "}")
        if depth == 0 and mark == "}":
            return _inner(text, brace + 1, hit.start(), last.start(), hit.end(), "\\boxed{}")
    return Extraction(None, reason="the last \\boxed{ is not closed")


def _gsm8k(text: str) -> Extraction:
    mark = text.rfind("####")
    if mark < 0:
        return Extraction(None, reason="no ####")
    newline = text.find("\n", mark)
    end = len(text) if newline < 0 else newline
    return _inner(text, mark + 4, end, mark, end, "#### line")


def _tagged(text: str) -> Extraction:
    opened = text.rfind("<answer>")
    if opened < 0:
        return Extraction(None, reason="no <answer>")
    start = opened + len("<answer>")
    closed = text.find("</answer>", start)
    if closed < 0:
        return Extraction(None, reason="the last <answer> is not closed")
    return _inner(text, start, closed, opened, closed + len("</answer>"), "<answer> tag")
