"""The slow path: math-verify. It runs only inside a worker process (see `pool`), under a CPU and a memory limit.

math-verify answers False for "not equal" and for "could not tell" alike. Here `wrong` needs more: both sides parsed to
numbers whose values differ clearly. Its own time-outs are signals, which count wall-clock time; they are switched off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from pns.records import Verdict
from pns.verify.check import normalise, unwrap
from pns.verify.numbers import parse_plain, rounds_to

Phase = Literal["gold", "answer"]
# `\frac\pi 2` is TeX for pi over 2, but the parser reads another number; a false `wrong` would be paid for
_ONE = r"(\\(?!sqrt|frac)[A-Za-z]+|[0-9A-Za-z])"
_BARE_FIRST = re.compile(r"\\frac\s*" + _ONE)
_BARE_SECOND = re.compile(r"\\frac\s*\{([^{}]*)\}\s*" + _ONE)
_APART = re.compile(r"[0-9}]\s+[0-9{]")


def compare(
    gold: str, answer: str, tolerance: float | None = None, on_phase: Callable[[Phase], None] = lambda phase: None
) -> Verdict:
    """Parse both, compare. `on_phase` is told before each phase, so that whoever ends this process knows whose fault
    it was.

    Returns: correct; wrong (two clearly different numbers); undecided with cause `gold` (not parsed) or `response`.
    """

    def undecided(cause: Literal["gold", "response"], reason: str) -> Verdict:
        return Verdict(outcome="undecided", reason=reason, answer=answer, cause=cause)

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    on_phase("gold")
    g = parse(gold)
    if g is None:
        return undecided("gold", "the gold answer cannot be parsed")
    expected = _value(g)  # before the answer is looked at: a gold answer that no machine can evaluate is not its fault
    on_phase("answer")
    a = parse(answer)
    if a is None:
        return undecided("response", "the answer cannot be parsed")
    if _equal(g, a):
        return Verdict(outcome="correct", reason="equal by algebra", answer=answer)
    found = _value(a)
    if expected is None or found is None:
        return undecided("response", "not proved equal, and not two plain numbers")
    gap = abs(expected - found)
    if tolerance is not None:
        near = gap <= tolerance
        return Verdict(
            outcome="correct" if near else "wrong",
            reason=f"{'within' if near else 'outside'} the tolerance",
            answer=answer,
        )
    if gap <= 1e-9 * max(1.0, abs(expected), abs(found)) or _rounded(expected, found, gold, answer):
        return undecided("response", "too near to call different")
    return Verdict(outcome="wrong", reason="different numbers", answer=answer)


def parse(text: str) -> Any | None:
    """A SymPy object, or None. Numbers side by side (`5 6`) are no number: math-verify would add them up."""
    bare = unwrap(text)
    spaced = bare.replace("\\ ", " ")
    if "\\" not in spaced and _APART.search(spaced):
        return None
    return _parse(_BARE_SECOND.sub(r"\\frac{\1}{\2}", _BARE_FIRST.sub(r"\\frac{\1}", bare)))


@lru_cache(maxsize=64)
def _parse(bare: str) -> Any | None:
    from math_verify import parse as parse_math
    from sympy import Basic, MatrixBase

    parsed = parse_math("\\boxed{" + bare + "}", fallback_mode="no_fallback", parsing_timeout=None)
    for item in parsed:
        if isinstance(item, (Basic, MatrixBase)):
            return _exact(item)
    return None


def _exact(expr: Any) -> Any:
    """Decimals as the fractions that they are written as: else math-verify rounds both sides to six places."""
    from sympy import Float, Rational

    try:
        return expr.xreplace({number: Rational(str(number)) for number in expr.atoms(Float)})
    except Exception:  # sets and matrices of the parser's own classes may refuse; unchanged they still compare
        return expr


def _equal(gold: Any, answer: Any) -> bool:
    from math_verify import verify

    return bool(verify(gold, answer, timeout_seconds=None))


def _value(expr: Any) -> complex | None:
    """The value of an expression that is a number, or of the right side of `x = number`; else None."""
    from sympy import Basic, Eq

    if isinstance(expr, Eq):
        expr = expr.rhs
    if not isinstance(expr, Basic) or expr.free_symbols or not getattr(expr, "is_number", False):
        return None
    try:
        value = complex(expr.doit().evalf(30))
    except Exception:  # SymPy raises many kinds; whatever has no value is not a number to us
        return None
    return value if abs(value) < 1e300 else None


def _rounded(expected: complex, found: complex, gold: str, answer: str) -> bool:
    """Whether one side is a plain decimal and the other rounds to it."""
    for decimal, other in ((answer, expected), (gold, found)):
        plain = parse_plain(normalise(decimal))
        if plain is None or not plain.places or other.imag:
            continue
        if rounds_to(Fraction(other.real), plain.value, plain.places):
            return True
    return False
