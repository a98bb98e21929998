r"""The slow path: expressions. It runs only inside a worker process (see `pool`), under a CPU and a memory limit.

math-verify's parser (latex2sympy2-extended) turns LaTeX into SymPy. Whether two expressions are equal is decided by
their values: to 40 digits where they are numbers, at a dozen fixed points where they have variables. Two closed forms
that agree there are the same function; two that differ clearly at integer points are not. math-verify's own `verify` is
asked where no value can be had (sets, inequalities, matrices inside expressions); its False says nothing, since it
means "not equal" and "could not tell" alike. Its time-outs are signals, which count wall-clock time; they are off.

`wrong` needs more than a difference. Some spellings have two readings (`\log`, `3\frac12\pi`, a constant `C` of
integration, a letter that may be a unit): there the outcome is undecided. (Source: ours.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from pns.records import AnswerKind, Verdict
from pns.verify.compare import Result, compare_readings, left_open, undecided
from pns.verify.numbers import ROUNDED, rounds_to
from pns.verify.reading import read
from pns.verify.slash import open_slash
from pns.verify.units import Unit
from pns.verify.values import Expr, Num, Relation, needs_algebra

Phase = Literal["gold", "answer"]
DIGITS = 40
_PRIMES = (3, 7, 2, 11, 5, 13, 17, 23, 19, 29)
_POINTS = 5
_NEAR = 1e-25
_CLEAR = 1e-9
_HUGE = 1e30  # beyond it, equal digits leave room for another integer

# `\frac\pi 2` is TeX for pi over 2, but the parser reads another number; a false `wrong` would be paid for
_ONE = r"(\\(?!sqrt|frac)[A-Za-z]+|[0-9A-Za-z])"
_BARE_FIRST = re.compile(r"\\frac\s*" + _ONE)
_BARE_SECOND = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*" + _ONE)
_BARE_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_APART = re.compile(r"[0-9]\s+[0-9]")
_BASE_INDEX = re.compile(r"[0-9]\s*_")
# what the parser is trusted to read in one way
_KNOWN = re.compile(
    r"\\(?:frac|sqrt|pi|cdot|times|div|binom|left|right|infty|degree|circ|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|"
    r"sinh|cosh|tanh|ln|exp|lfloor|rfloor|lceil|rceil|log ?_|alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|"
    r"nu|rho|sigma|tau|phi|varphi|omega|Omega|Delta|,|;|!|:)"
)
_COMMAND = re.compile(r"\\(?:[A-Za-z]+ ?_?|.)")
_TWO_READINGS = re.compile(
    r"[0-9] ?\\frac|[0-9] ?\([0-9]+\) ?/|[0-9][eE] ?[-+]?[0-9]|\\log(?! ?_)|(?<![A-Za-z\\])[Cc] ?(?:_|\b)|(?<![A-Za-z\\])[A-Za-z]{3,}|\.\."
)
# `\sqrt25`, `\frac123`: TeX takes one digit, whoever wrote it meant more
_HYPHEN = re.compile(r"[0-9]+ ?- ?([0-9]+) ?/ ?([0-9]+)")  # `2-1/2`, as some write two and a half
_RUN_ON = re.compile(r"\\sqrt\s*[0-9]{2}|\\frac\s*(?:[0-9]\s*|\{[^{}]*\}\s*)[0-9]{2}")
_NUMBER_OF_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?\\degree ?")
_EULER = re.compile(r"(?<![A-Za-z\\])E(?![A-Za-z])")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
_TRIG = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")


def compare_texts(
    gold: str,
    answer: str,
    tolerance: float | None = None,
    unit: str | None = None,
    kind: AnswerKind | None = None,
    on_phase: Callable[[Phase], None] = lambda phase: None,
) -> Verdict:
    """Read both, compare. `on_phase` is told before each phase, so that whoever ends this process knows whose fault
    it was: `gold` while the gold answer alone is worked on, then `answer`.

    Returns: correct; wrong; undecided with cause `gold` (not parsed) or `response`.
    """
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    on_phase("gold")
    ours, theirs = read(gold, kind, unit), read(answer, kind)
    if ours is None or theirs is None:
        cause: Literal["gold", "response"] = "gold" if ours is None else "response"
        return Verdict(outcome="undecided", reason="cannot be read", answer=answer, cause=cause)

    itself = gold == answer and needs_algebra(ours)  # asked whether the gold can be parsed, not whether texts agree

    def leaf(g: Expr | Num | Relation, a: Expr | Num | Relation) -> Result:
        known = left_open(g, a)
        if known.outcome != "open" and not (itself and needs_algebra(g)):
            return known
        on_phase("gold")
        parsed = parse_side(g)
        if parsed is None:
            return undecided("the gold answer cannot be parsed", "gold")
        _values(parsed)  # before the answer is looked at: a gold answer that no machine can evaluate is not its fault
        on_phase("answer")
        found = parse_side(a)
        if found is None:
            return undecided("the answer cannot be parsed")
        return compare_parsed(parsed, found, g, a, tolerance)

    result = compare_readings(gold, answer, (ours, theirs), tolerance, leaf, kind)
    outcome = "undecided" if result.outcome == "open" else result.outcome
    return Verdict(outcome=outcome, reason=result.reason, answer=answer, cause=result.cause)


def compare_parsed(
    gold: Any, answer: Any, g: Expr | Num | Relation, a: Expr | Num | Relation, tolerance: float | None
) -> Result:
    """Two SymPy objects, with the values that they were read from."""
    from sympy import Eq

    if isinstance(gold, Eq) and isinstance(answer, Eq):
        return _equations(gold, answer)
    if isinstance(gold, Eq) or isinstance(answer, Eq):
        if any(isinstance(side, Eq) and () in (_values(side.lhs) or ()) for side in (gold, answer)):
            return undecided("an equation of two numbers")  # the library would look at its right side only
        return _by_library(gold, answer)
    gold, answer = _in_radians(gold, answer, g, a)
    if gold == answer:
        return Result("correct", "equal by algebra")
    ours, theirs = _values(gold), _values(answer)
    if ours is None or theirs is None:
        return _by_library(gold, answer)
    if set(ours) != set(theirs):
        return undecided("other variables")
    return _decide(ours, theirs, g, a, tolerance)


def _decide(
    ours: Values, theirs: Values, g: Expr | Num | Relation, a: Expr | Num | Relation, tolerance: float | None
) -> Result:
    """Two families of values at the same points."""
    if () in ours:
        return _numbers(ours[()], theirs[()], g, a, tolerance)
    shared = {p: (ours[p], theirs[p]) for p in ours if ours[p] is not None and theirs[p] is not None}
    equal = [p for p, (x, y) in shared.items() if _gap(x, y) < _NEAR]
    if len(shared) >= _POINTS and len(equal) == len(shared):
        return Result("correct", "equal at every point tried")
    whole = [(x, y) for p, (x, y) in shared.items() if p[0] == "whole" and _real(x) and _real(y)]
    apart = sum(_gap(x, y) > _CLEAR for x, y in whole)
    if len(whole) >= 3 and apart >= 0.8 * len(whole) and _one_reading(g, a):
        return Result("wrong", "different at the points tried")
    return undecided("not proved equal, not clearly different")


def _numbers(x: Any, y: Any, g: Expr | Num | Relation, a: Expr | Num | Relation, tolerance: float | None) -> Result:
    if x is None or y is None:
        return undecided("no value")
    gap = _gap(x, y)
    if gap < _NEAR:
        return Result("correct", f"equal to {DIGITS} digits")
    if tolerance is not None and _real(x) and _real(y):
        near = abs(x - y) <= tolerance
        return Result("correct" if near else "wrong", f"{'within' if near else 'outside'} the tolerance")
    if _rounded(x, a) or _rounded(y, g):
        return undecided(f"{ROUNDED} of the exact value")
    if _degrees_for_radians(x, y, g, a) or _degrees_for_radians(y, x, a, g):
        return undecided("perhaps the same angle")
    if any(not _real(v) and not _IMAGINARY.search(_latex(side)) for v, side in ((x, g), (y, a))):
        return undecided("a root of a negative number")  # `\sqrt[3]{-8}` is -2 to most, another root to SymPy
    if gap <= _CLEAR and not (x.is_Rational and y.is_Rational):
        return undecided("too near to call different")
    return Result("wrong", "different numbers") if _one_reading(g, a) else undecided("different in one of two readings")


def _gap(x: Any, y: Any) -> float:
    """Relative to the larger of the two. Exact for two fractions; 0 and a number too small to tell from it are apart by
    an amount between near and clear.
    """
    size = max(abs(x), abs(y))
    if x.is_Rational and y.is_Rational:
        return 0.0 if x == y else max(float(abs(x - y) / size), 2 * _NEAR)
    if size < _NEAR:
        return 0.0 if abs(x - y) < _NEAR**2 else 2 * _NEAR
    gap = float(abs(x - y) / size)
    return max(gap, 2 * _NEAR) if size > _HUGE else gap


def _degrees_for_radians(x: Any, y: Any, number: Expr | Num | Relation, other: Expr | Num | Relation) -> bool:
    """Whether a bare number is the degrees of an angle that the other side gives in radians."""
    from sympy import pi

    if not isinstance(number, Num) or number.unit is not None or "\\pi" not in _latex(other):
        return False
    return _gap(x * pi.evalf(DIGITS) / 180, y) < _NEAR


def _real(x: Any) -> bool:
    return bool(abs(x.as_real_imag()[1]) < 1e-25)


def _one_reading(*sides: Expr | Num | Relation) -> bool:
    """Whether the texts are made of what the parser reads in one way only. Needed for `wrong`, never for `correct`."""
    texts = [_latex(side) for side in sides]
    if len({_TRIG.search(t) is not None and "degree" in t for t in texts}) > 1 and all(map(_TRIG.search, texts)):
        return False
    for text in texts:
        bare = _COMMAND.sub(" ", text)
        if _RUN_ON.search(text) or _HYPHEN.fullmatch(text):
            return False
        if _TWO_READINGS.search(_strip_known(text)) or any(not _KNOWN.match(c) for c in _COMMAND.findall(text)):
            return False
        if re.search(r"[^-+*/^_=()\[\]{}.,!|0-9A-Za-z\s<>%]", bare):
            return False
    return True


def _strip_known(text: str) -> str:
    """Without the names of commands, so that the letters of `\\sqrt` are no variables; `\\frac` and `\\log` stay."""
    return re.sub(r"\\(?!frac|log(?! ?_))[A-Za-z]+", " ", text)


def _in_radians(gold: Any, answer: Any, g: Any, a: Any) -> tuple[Any, Any]:
    """Degrees against a value in radians (it has a pi in it): `30^\\circ` is `\\pi/6`."""
    from sympy import pi

    ours, theirs = (_degrees(side) for side in (g, a))
    if ours != theirs:
        if ours and answer.has(pi):
            return gold * pi / 180, answer
        if theirs and gold.has(pi):
            return gold, answer * pi / 180
    return gold, answer


def _degrees(side: Any) -> bool:
    unit: Unit | None = getattr(side, "unit", None)
    return unit is not None and unit.dimension == "angle"


def _equations(gold: Any, answer: Any) -> Result:
    """Equations are equal if their two sides' differences are, but for a factor; linear ones differ if they are not."""
    from sympy import Poly, PolynomialError

    ours, theirs = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    names = tuple(sorted(ours.free_symbols | theirs.free_symbols, key=str))
    x, y = _values(ours), _values(theirs)
    if names and x and y and set(x) == set(y):
        quotients = [x[p] / y[p] for p in x if x[p] is not None and y[p] is not None and abs(y[p]) > 1e-20]
        if (
            len(quotients) >= _POINTS
            and all(_gap(q, quotients[0]) < _NEAR for q in quotients)
            and abs(quotients[0]) > 0
        ):
            return Result("correct", "the same equation")
        try:
            linear = all(Poly(side, *names).total_degree() == 1 for side in (ours, theirs))
        except PolynomialError:
            linear = False
        if linear:
            return Result("wrong", "another linear equation")
    return _by_library(gold, answer)


def _by_library(gold: Any, answer: Any) -> Result:
    """math-verify's word for `correct`; its False is nobody's proof."""
    from math_verify import verify

    if verify(gold, answer, timeout_seconds=None):
        return Result("correct", "equal by algebra")
    return undecided("not proved equal")


Values = dict[tuple[Any, ...], Any]


def _values(expr: Any) -> Values | None:
    """Values at fixed points, by point; the one key () for an expression without variables. None where it has none."""
    from sympy import Basic

    if not isinstance(expr, Basic):
        return None
    return _values_of(expr)


@lru_cache(maxsize=64)
def _values_of(expr: Any) -> Values | None:
    from sympy import Derivative, Integral
    from sympy import Expr as SymPyExpr

    if not isinstance(expr, SymPyExpr) or expr.has(Derivative, Integral):
        return None
    names = sorted(expr.free_symbols, key=str)
    if not names:
        value = _evaluate(expr, {})
        return None if value is None else {(): value}
    if len(names) > 8:
        return None
    # the names are part of the key: other variables are other points
    return {
        (kind, j, *map(str, names)): _evaluate(expr, _point(names, kind, j))
        for kind in ("whole", "broken", "below")
        for j in range(_POINTS)
    }


def _point(names: list[Any], kind: str, j: int) -> dict[Any, Any]:
    from sympy import Rational

    out = {}
    for i, name in enumerate(names):
        prime = _PRIMES[(i + 3 * j) % len(_PRIMES)] + 10 * ((i + 3 * j) // len(_PRIMES))
        out[name] = prime if kind == "whole" else Rational(prime * (1 if kind == "broken" else -1), 7 + 2 * i)
    return out


def _evaluate(expr: Any, at: dict[Any, Any]) -> Any | None:
    try:
        value = expr.subs(at).doit()
        if not value.is_Rational:  # exact as long as it can be: 2^1009 and its neighbour share their first 40 digits
            value = value.evalf(DIGITS)
    except Exception:  # SymPy raises many kinds; whatever has no value is not a number to us
        return None
    from sympy import I, Number

    real, imaginary = value.as_real_imag()
    if not (isinstance(real, Number) and isinstance(imaginary, Number)) or not (real.is_finite and imaginary.is_finite):
        return None
    return real + imaginary * I


def _rounded(exact: Any, decimal: Expr | Num | Relation) -> bool:
    """Whether one side is a plain decimal that the other, which is none, rounds to."""
    if not isinstance(decimal, Num) or decimal.plain.last is None or not _real(exact):
        return False
    places = decimal.plain.last
    value = Fraction(str(exact.as_real_imag()[0]))
    if decimal.plain.percent:
        return rounds_to(value, decimal.plain.value / 100, places + 2)
    return rounds_to(value, decimal.plain.value, places)


def parse_side(side: Expr | Num | Relation) -> Any | None:
    """A SymPy object, or None. Numbers side by side (`5 6`) are no number: math-verify would add them up."""
    text = _latex(side)
    spaced = text.replace("\\ ", " ")
    # the parser passes over a prime: `A'` would be `A`
    if ("\\" not in spaced and _APART.search(spaced)) or _BASE_INDEX.search(text) or "'" in text or open_slash(text):
        return None
    if _EULER.search(text):  # which the parser takes for Euler's number
        return None
    if _TRIG.search(text) and "\\degree" in text:
        # the parser passes over a degree sign
        text = _NUMBER_OF_DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
        if "\\degree" in text:
            return None
    text = _BARE_SECOND.sub(r"\\frac{\1}{\2}", _BARE_FIRST.sub(r"\\frac{\1}", text))
    return _parse(_BARE_ROOT.sub(r"\\sqrt{\1}", text).replace("\\degree", "^\\circ"))


def _latex(side: Expr | Num | Relation) -> str:
    if isinstance(side, Relation):
        return f"{side.left} {side.sign} {side.right}"
    if isinstance(side, Expr):
        return side.latex
    value = side.plain.value / 100 if side.plain.percent else side.plain.value
    return f"{value.numerator}/{value.denominator}" if value.denominator != 1 else str(value.numerator)


@lru_cache(maxsize=256)
def _parse(latex: str) -> Any | None:
    """By math-verify's parser, called itself: math-verify makes `R` and `r` one variable."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from sympy import Basic, MatrixBase

    config = ConversionConfig(lowercase_symbols=False)
    try:
        parsed = latex2sympy(latex, normalization_config=None, conversion_config=config)
    except Exception:  # antlr, the parser and SymPy each have their own errors; a text without a parse is no bug
        return None
    return _exact(parsed) if isinstance(parsed, Basic | MatrixBase) else None


def _exact(expr: Any) -> Any:
    """Decimals as the fractions that they are written as (math-verify would round to six places), `i` as the unit."""
    from sympy import Float, I, Rational, Symbol

    try:
        exact = {number: Rational(str(number)) for number in expr.atoms(Float)}
        return expr.xreplace(exact | {s: I for s in expr.atoms(Symbol) if s.name == "i"})
    except Exception:  # sets and matrices of the parser's own classes may refuse; unchanged they still compare
        return expr
