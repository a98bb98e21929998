"""Compare an answer with the gold one, in process and exactly. What this cannot decide goes to the symbolic check.

Three outcomes, as in `pns.records.Verdict`; `wrong` only for two parsed answers that differ. The common cases, the
same text and plain numbers, are decided before anything is taken apart. (Source: ours.)
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from pns.records import AnswerKind, Verdict
from pns.verify.compare import compare_readings, left_open
from pns.verify.numbers import compare_plain, parse_plain
from pns.verify.reading import read

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
_GROUPED = re.compile(r"(?<=[0-9])(?:\{,\}|,\\! ?)(?=[0-9])")
_FRAC = re.compile(r"\\[dt]frac(?![A-Za-z])")
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_HUGE = re.compile(r"[0-9.]+[eE][+-]?[0-9]{4,}")


def unwrap(text: str) -> str:
    """Text of an answer without wrappers, spacing commands and a trailing full stop; runs of white space become one."""
    text = _FRAC.sub(r"\\frac", _DROP.sub("", _GROUPED.sub(",", text)))
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
    # two letters may be two variables, and `x` is not `X`
    if re.fullmatch(r"[A-Za-z ]*[A-Za-z]{3}[A-Za-z ]*", text):
        return text.casefold()
    # `5 6` is no 56, and `1, 100` no 1100
    return text.replace(" ", "") if not re.search(r"[0-9],? [0-9]|[0-9] ,", text) else text


def check(
    gold: str,
    answer: str | None,
    *,
    tolerance: float | None = None,
    unit: str | None = None,
    kind: AnswerKind | None = None,
) -> Verdict:
    """Decide in process whether `answer` equals `gold`.

    Args:
        gold: the reference answer, bare or in `$...$`.
        answer: the extracted answer; None or empty is undecided, caused by the response.
        tolerance: absolute difference up to which two numbers count as equal; it decides either way.
        unit: the unit that the gold answer leaves out (`km/h`, `%`).
        kind: `text` or `choice` where the gold answer is one; None lets its text decide.

    Returns: a Verdict. What only algebra can decide is `undecided`, cause `system` (nobody's fault); `Verifier` sends
        it on.
    """
    verdict = decide(gold, answer, tolerance=tolerance, unit=unit, kind=kind)
    if verdict is not None:
        return verdict
    return Verdict(outcome="undecided", reason="needs the symbolic check", answer=answer, cause="system")


def decide(
    gold: str,
    answer: str | None,
    *,
    tolerance: float | None = None,
    unit: str | None = None,
    kind: AnswerKind | None = None,
) -> Verdict | None:
    """Like `check`, but None where the symbolic check is needed."""
    if kind is None and answer is not None and _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return _integers(int(gold), int(answer), answer, tolerance)
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
    if unit is None and kind in (None, "math"):
        a, b = parse_plain(left), parse_plain(right)
        if a is not None and b is not None and not ("," in left and "," in right):
            outcome, reason = compare_plain(a, b, tolerance)
            cause: Literal["response"] | None = "response" if outcome == "undecided" else None
            if outcome != "wrong" or "$" not in left + right:  # else it may be dollars against cents
                return Verdict(outcome=outcome, reason=reason, answer=answer, cause=cause)
    return _compare_values(gold, answer, tolerance, unit, kind)


def _integers(gold: int, answer: int, text: str, tolerance: float | None) -> Verdict:
    """The commonest case by far, without a regular expression more than it needs. Says what `compare_plain` says."""
    if gold == answer:
        return Verdict(outcome="correct", reason="equal numbers", answer=text)
    if tolerance is not None:
        near = abs(gold - answer) <= tolerance
        reason = f"{'within' if near else 'outside'} the tolerance"
        return Verdict(outcome="correct" if near else "wrong", reason=reason, answer=text)
    return Verdict(outcome="wrong", reason="different numbers", answer=text)


def _compare_values(
    gold: str, answer: str, tolerance: float | None, unit: str | None, kind: AnswerKind | None
) -> Verdict | None:
    ours, theirs = read(gold, kind, unit), read(answer, kind)
    if ours is None or theirs is None:
        who: Literal["gold", "response"] = "gold" if ours is None else "response"
        return Verdict(outcome="undecided", reason="cannot be read", answer=answer, cause=who)
    result = compare_readings(gold, answer, (ours, theirs), tolerance, left_open, kind)
    if result.outcome == "open":
        return None
    return Verdict(outcome=result.outcome, reason=result.reason, answer=answer, cause=result.cause)


def refuse(gold: str, answer: str | None) -> Verdict | None:
    """An undecided verdict for what must not be looked at any further: empty, over-long, odd digits, invisible signs."""
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
        elif not text.isascii() and any(unicodedata.category(c) in ("Cf", "Co", "Cn", "Cs") for c in text):
            reason = "invisible characters"
        elif any(c < " " and c not in "\t\n\r" for c in text):
            reason = "control characters"
        if reason:
            return Verdict(outcome="undecided", reason=reason, answer=answer, cause=cause)
    return None


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
