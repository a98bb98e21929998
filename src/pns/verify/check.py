"""Compare an answer with the gold one, in process and exactly. What this cannot decide goes to the symbolic check.

Three outcomes, as in `pns.records.Verdict`; `wrong` only for two plain numbers that differ. (Source: ours.)
"""

from __future__ import annotations

import re
from typing import Literal

from pns.records import Outcome, Verdict
from pns.verify.numbers import Plain, parse_plain, rounds_to

MAX_CHARS = 1000

_SPACES = re.compile(r"\s+")
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("\\mathrm{", "}"),
)
_DROP = re.compile(r"\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\[!,;:]|~")
_GROUPED = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")
_FRAC = re.compile(r"\\[dt]frac(?![A-Za-z])")
_ASSIGNED = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_]{0,7})=(?P<value>[^=<>]+)")
_HUGE = re.compile(r"[0-9.]+[eE][+-]?[0-9]{4,}")


def unwrap(text: str) -> str:
    """Text of an answer without wrappers, spacing commands and a trailing full stop; runs of white space become one."""
    text = _GROUPED.sub(",", _FRAC.sub(r"\\frac", _DROP.sub("", text)))
    text = _SPACES.sub(" ", text).strip()
    while True:
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            wrapped = len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right)
            if wrapped and _whole(inner, right):
                text = inner.strip()
        if text == before:
            return text


def normalise(text: str) -> str:
    """An answer unwrapped, without white space (but `5 6` keeps its own); a text of words alone in lower case."""
    text = unwrap(text)
    if re.fullmatch(r"[A-Za-z ]+", text):
        return text.casefold()
    return text.replace(" ", "") if not re.search(r"[0-9] [0-9]", text) else text


def check(gold: str, answer: str | None, *, tolerance: float | None = None) -> Verdict:
    """Decide in process whether `answer` equals `gold`.

    Args:
        gold: the reference answer, bare or in `$...$`.
        answer: the extracted answer; None or empty is undecided, caused by the response.
        tolerance: absolute difference up to which two numbers count as equal; it decides either way.

    Returns: a Verdict. What only algebra can decide is `undecided`, cause `system` (nobody's fault); `Verifier` sends
        it on.
    """
    verdict = decide(gold, answer, tolerance=tolerance)
    if verdict is not None:
        return verdict
    return Verdict(outcome="undecided", reason="needs the symbolic check", answer=answer, cause="system")


def decide(gold: str, answer: str | None, *, tolerance: float | None = None) -> Verdict | None:
    """Like `check`, but None where the symbolic check is needed."""
    refused = refuse(gold, answer)
    if refused is not None or answer is None:
        return refused
    left, right = normalise(gold), normalise(answer)
    if not left:
        return Verdict(outcome="undecided", reason="empty gold answer", answer=answer, cause="gold")
    if not right:
        return Verdict(outcome="undecided", reason="empty answer", answer=answer, cause="response")
    if left == right:
        return Verdict(outcome="correct", reason="the same text", answer=answer)
    left, right = _unassign(left, right)
    a, b = parse_plain(left), parse_plain(right)
    if a is None or b is None:
        return None
    outcome, reason = compare_plain(a, b, tolerance)
    return Verdict(outcome=outcome, reason=reason, answer=answer, cause="response" if outcome == "undecided" else None)


def refuse(gold: str, answer: str | None) -> Verdict | None:
    """An undecided verdict for what must not be looked at any further: empty, over-long, digits that are not ASCII."""
    sides: tuple[tuple[Literal["gold", "response"], str | None], ...] = (("gold", gold), ("response", answer))
    for cause, text in sides:
        reason = None
        if text is None or not text.strip():
            reason = "empty answer" if cause == "response" else "empty gold answer"
        elif len(text) > MAX_CHARS:
            reason = f"longer than {MAX_CHARS} characters"
        elif any(c.isdecimal() and not c.isascii() for c in text):
            reason = "digits that are not ASCII"
        elif _HUGE.search(text):
            reason = "exponent out of bounds"
        if reason:
            return Verdict(outcome="undecided", reason=reason, answer=answer, cause=cause)
    return None


def compare_plain(gold: Plain, answer: Plain, tolerance: float | None = None) -> tuple[Outcome, str]:
    """Outcome and reason for two plain numbers.

    A per cent sign on one side only is read as a unit, or as a hundredth, whichever makes them equal; but `0.5%`
    against a gold `0.5` is undecided, since a share between 0 and 1 is rarely meant in per cent.
    """
    readings = [(gold.value, answer.value)]
    if gold.percent != answer.percent:
        readings.append((gold.value / 100, answer.value) if gold.percent else (gold.value, answer.value / 100))
        if answer.percent and gold.value == answer.value and 0 < abs(gold.value) <= 1:
            return "undecided", "per cent or share?"
    if any(a == b for a, b in readings):
        return "correct", "equal numbers"
    if tolerance is not None:
        near = any(abs(a - b) <= tolerance for a, b in readings)
        return ("correct", "within the tolerance") if near else ("wrong", "outside the tolerance")
    for a, b in readings:
        for exact, decimal, side in ((a, b, answer), (b, a, gold)):
            other = gold if side is answer else answer
            if side.places and not other.terminating and rounds_to(exact, decimal, side.places):
                return "undecided", "a rounded decimal of a number without a finite one"
    return "wrong", "different numbers"


def _unassign(left: str, right: str) -> tuple[str, str]:
    """`x=5` against `5`, or against `x=6`: compare the values. Different names are left to the symbolic check."""
    a, b = _ASSIGNED.fullmatch(left), _ASSIGNED.fullmatch(right)
    if a and b:
        return (a["value"], b["value"]) if a["name"] == b["name"] else (left, right)
    return (a["value"] if a else left), (b["value"] if b else right)


def _whole(inner: str, right: str) -> bool:
    """Whether stripping a wrapper keeps the inside whole: `$1$, $2$` and `\\text{a}b}` are not one wrapped thing."""
    if right != "}":
        return right not in inner
    depth = 0
    for c in inner:
        depth += (c == "{") - (c == "}")
        if depth < 0:
            return False
    return depth == 0
