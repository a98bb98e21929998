"""What is read from the text of any response: where its steps begin and end, and its final answer.

The rule for steps (ours; ProcessBench, arXiv 2412.06559, takes paragraphs):

1. Paragraphs, where blank lines make three or more of them.
2. Otherwise lines, where there are two or more: a blank line before the answer alone makes no two steps of a text.
3. Otherwise the sentences of the one line.

No step ends inside a displayed formula, an environment, a code fence or an arithmetic statement that goes on in the
next line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from pns.rewards.arithmetic import find_steps
from pns.verify import extract

FORMATS = ("boxed", "gsm8k", "answer_tag")

_BREAKS = (  # how a step ends, and how many steps the rule needs
    (re.compile(r"\n[ \t\r]*\n\s*"), 3),
    (re.compile(r"\n\s*"), 2),
    (re.compile(r"(?<=[.!?])\s+(?=[A-Z$\\(])"), 1),
)
_OPENS = re.compile(r"\\\[|\$\$|```|\\begin\{([a-z]{1,20}\*?)\}")
_CLOSED_BY = {"\\[": "\\]", "$$": "$$", "```": "```"}


def step_spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of each step, in characters; together they are the whole text. A blank text has none.

    A step ends with the white space behind it, so that what precedes a step can be continued by another one.
    """
    whole = list(_wholes(text))
    begins = [begin for begin, _ in whole]
    spans: list[tuple[int, int]] = []
    for pattern, fewest in _BREAKS:
        ends = [m.end() for m in pattern.finditer(text) if m.end() < len(text)]
        spans = _between([end for end in ends if not _inside(end, begins, whole)], text)
        if len(spans) >= fewest:
            break
    return spans


def split_steps(text: str) -> list[str]:
    """The steps of a response, without the white space around each. See the head of this module."""
    return [text[begin:end].strip() for begin, end in step_spans(text)]


def any_answer(text: str) -> str | None:
    """The final answer in whichever format the text has one: box, `####`, tags; None without."""
    for name in FORMATS:
        found = extract(text, name).answer
        if found is not None:
            return found
    return None


def _between(ends: list[int], text: str) -> list[tuple[int, int]]:
    """The pieces between the ends; a blank one belongs to the next."""
    spans, begin = [], 0
    for end in [*ends, len(text)]:
        if text[begin:end].strip():
            spans.append((begin, end))
            begin = end
    return spans


def _inside(place: int, begins: list[int], whole: list[tuple[int, int]]) -> bool:
    at = bisect_right(begins, place) - 1
    return at >= 0 and whole[at][0] < place < whole[at][1]


def _wholes(text: str) -> Iterator[tuple[int, int]]:
    """What no step ends in, in order, none overlapping another."""
    found = sorted([*_blocks(text), *((s.start, s.end) for s in find_steps(text))])
    begin, end = 0, 0
    for a, b in found:
        if a >= end:
            yield begin, end
            begin, end = a, b
        else:
            end = max(end, b)
    yield begin, end


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Displayed formulas, environments and code fences that are closed. Looks for each kind of end that is missing once."""
    missing: set[str] = set()
    at = 0
    while (opened := _OPENS.search(text, at)) is not None:
        close = _CLOSED_BY.get(opened.group()) or f"\\end{{{opened[1]}}}"
        end = -1 if close in missing else text.find(close, opened.end())
        if end < 0:
            missing.add(close)
            at = opened.end()
        else:
            at = end + len(close)
            yield opened.start(), at
