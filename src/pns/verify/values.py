"""What an answer is: number, text, choice, time, list, tuple, interval, matrix, equation, or an expression for algebra.

`reading.read` makes them from text. (Source: ours.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pns.verify.numbers import Plain
from pns.verify.units import Unit

MAX_ITEMS = 64
"""Most members of a group."""


@dataclass(frozen=True, slots=True)
class Num:
    """A plain number with the unit behind it, if any. `spoken` is the number before a word like `million`."""

    plain: Plain
    unit: Unit | None = None
    text: str = ""
    spoken: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Words, in the one spelling of `words.plain_words`."""

    words: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice letter. `sure`: written as one, in brackets or as text; a bare letter may be a variable."""

    letter: str
    sure: bool


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in seconds; `half` says whether a.m. or p.m. (or an hour above 12) fixed the half of the day."""

    seconds: int
    half: bool


@dataclass(frozen=True, slots=True)
class Ratio:
    """`3:4`, which may also be a time of day without a half: then `clock` is set."""

    parts: tuple[int, ...]
    clock: Clock | None


@dataclass(frozen=True, slots=True)
class Based:
    """Digits with the base as an index, `52_8`."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Expr:
    """Anything that only algebra can compare, as cleaned LaTeX, with the unit behind it."""

    latex: str
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """`x = 5`, `f(x) = ...`: a value with its name. `letter`: of a choice with its value, `(A) 5`."""

    name: str
    value: Value
    letter: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality that is no assignment."""

    left: str
    sign: str
    right: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several values. `ends` holds the two brackets, `columns` the width of a matrix. A chain is one value given several
    times: `2^3 = 8`, `\\sqrt2 \\approx 1.41`.
    """

    kind: Literal["list", "tuple", "set", "union", "matrix", "chain"]
    items: tuple[Value, ...]
    ends: str = ""
    columns: int = 0


Value = Num | Text | Choice | Clock | Ratio | Based | Expr | Named | Relation | Group


def needs_algebra(value: Value) -> bool:
    """Whether an expression or equation stands in it, which only the symbolic check can compare."""
    if isinstance(value, Group):
        return any(needs_algebra(item) for item in value.items)
    if isinstance(value, Named):
        return needs_algebra(value.value)
    return isinstance(value, Relation) or (isinstance(value, Expr) and value.latex.strip("+-") != "\\infty")
