"""What a gold answer is: its kind, the absolute tolerance its source states, the unit that it leaves out. (Rules ours.)

Each rule takes a problem as its source has it and fills `kind`, `tolerance` and `unit` where they are still open.
`math` is whatever is compared as mathematics: numbers, expressions, intervals, lists.
"""

from __future__ import annotations

import math
import re

from pns.records import Problem

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_CHOICE = re.compile(r"\\text(?:bf|rm|it)?\{\(([A-Z])\)\}[.,]?")
_WORDS = re.compile(r"\\text(?:bf|rm|it)?\{[A-Za-z][A-Za-z .'-]+\}")
_BRACKETED = re.compile(r"\(([^()]*)\)\s*$")
_UNIT_MARKUP = re.compile(r"\\(?:text|mathrm|rm)\b|[${}~]")
_DEGREES = re.compile(r"\^?\s*\{?\s*\\circ\s*\}?")


def number(problem: Problem) -> Problem:
    """Sets whose answers are plain numbers."""
    return _filled(problem, kind="math")


def latex(problem: Problem) -> Problem:
    r"""Answers in LaTeX: `\text{(C)}` is a choice, `\text{Evelyn}` a text, anything else mathematics.

    So is a list of letters, `\text{A, B}`: its order does not matter.
    """
    answer = problem.answer.strip()
    kind = "choice" if _CHOICE.fullmatch(answer) else "text" if _WORDS.fullmatch(answer) else "math"
    return _filled(problem, kind=kind)


def asdiv(problem: Problem) -> Problem:
    """ASDiv: numbers and fractions are mathematics; names, times of day, ratios and ordinals are texts.

    The unit is what stands in brackets behind the number in `meta.answer_raw`: `9 (apples)`.
    """
    if not _NUMBER.fullmatch(problem.answer.strip()):
        return _filled(problem, kind="text")
    found = _BRACKETED.search(str(problem.meta.get("answer_raw", "")))
    unit = found[1].strip() if found else ""
    # -(1/3) is a number in brackets.
    return _filled(problem, kind="math", unit=None if not unit or _NUMBER.fullmatch(unit) else unit)


def olympiad(problem: Problem) -> Problem:
    """OlympiadBench: `meta.error` is an absolute tolerance, `meta.unit` a unit, either may be empty."""
    base = latex(problem)
    return _filled(base, tolerance=tolerance_of(problem.meta.get("error")), unit=unit_of(problem.meta.get("unit")))


def tolerance_of(text: object) -> float | None:
    """A stated error, such as `1e-1`, as an absolute tolerance.

    None for an empty one, for what is no positive number, and for several that differ: one tolerance for all parts of
    an answer would make a decided verdict of a guess.
    """
    if text is None or isinstance(text, bool):
        return None
    found = set()
    for part in str(text).replace("$", "").split(","):
        try:
            found.add(float(part))
        except ValueError:
            return None
    value = found.pop() if len(found) == 1 else math.nan
    return value if math.isfinite(value) and value > 0 else None


def unit_of(text: object) -> str | None:
    r"""A unit without its LaTeX: `$cm^2$` is `cm^2`, `^{\circ}` is `degrees`; None for an empty one."""
    if not isinstance(text, str):
        return None
    plain = _UNIT_MARKUP.sub(" ", _DEGREES.sub(" degrees ", text))
    return " ".join(plain.split()) or None


def _filled(problem: Problem, **values: object) -> Problem:
    open_ = {name: value for name, value in values.items() if value is not None and getattr(problem, name) is None}
    return problem.model_copy(update=open_) if open_ else problem
