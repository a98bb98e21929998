"""How the verifier reads an answer, in words for a person."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from pns.records import AnswerKind
from pns.verify.check import refuse
from pns.verify.reading import read
from pns.verify.units import Unit
from pns.verify.values import Based, Choice, Clock, Expr, Group, Named, Num, Ratio, Relation, Text, Value

_LONG = 200
_MEMBERS = 8


def describe(answer: str, kind: AnswerKind | None = None, unit: str | None = None) -> str:
    """One line: `fraction 1/2`, `interval from 0 to 1`, `expression for algebra: ...`. Bounded for any text."""
    refused = refuse("0", answer)
    if refused is not None:
        return f"not read: {refused.reason}"
    value = read(answer, kind, unit)
    return "not read: nothing is left of it" if value is None else _short(_words(value))


def _words(value: Value) -> str:
    return _WORDS[type(value)](value)


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]} ..."


def _number(num: Num) -> str:
    plain = num.plain
    exact = plain.value
    what = "integer" if exact.denominator == 1 and not plain.places else "decimal" if plain.places else "fraction"
    same = f" = {exact}" if what == "decimal" else ""
    shown = _decimal(exact, plain.places) if what == "decimal" and plain.places else str(exact)
    return f"{what} {shown}{same}{' per cent' if plain.percent else ''}{_unit(num.unit)}"


def _decimal(value: Fraction, places: int) -> str:
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _unit(unit: Unit | None) -> str:
    if unit is None:
        return ""
    return f" with the unit `{unit.name}`" + (f" ({unit.dimension})" if unit.dimension else "")


def _clock(value: Clock) -> str:
    hours, rest = divmod(value.seconds, 3600)
    fixed = "" if value.half else ", morning or evening"
    return f"time of day {hours:02d}:{rest // 60:02d}:{rest % 60:02d}{fixed}"


def _ratio(value: Ratio) -> str:
    also = ", or a time of day" if value.clock is not None else ""
    return f"ratio {':'.join(map(str, value.parts))}{also}"


def _group(value: Group) -> str:
    members = [_words(item) for item in value.items[:_MEMBERS]]
    if value.kind == "tuple" and len(members) == 2 and value.ends != "()":
        return f"interval {value.ends[0]}from {members[0]} to {members[1]}{value.ends[-1]}"
    more = f"; and {len(value.items) - _MEMBERS} more" if len(value.items) > _MEMBERS else ""
    what: str = value.kind
    if value.kind == "matrix":
        what = f"matrix with {value.columns} column{'s' * (value.columns > 1)}"
    elif value.kind == "tuple" and len(members) == 2:
        what = "tuple, or open interval,"
    order = ", in any order" if value.kind in ("list", "set", "union") else ""
    return f"{what} of {len(value.items)}{order}: {'; '.join(members)}{more}"


_WORDS: dict[type, Any] = {
    Num: _number,
    Text: lambda v: f"text `{v.words}`",
    Choice: lambda v: f"choice {v.letter}" + ("" if v.sure else ", or a variable"),
    Clock: _clock,
    Ratio: _ratio,
    Based: lambda v: f"digits {v.digits} in base {v.base}",
    Expr: lambda v: f"expression for algebra: {v.latex}{_unit(v.unit)}",
    Named: lambda v: f"`{v.name}` set to {_words(v.value)}",
    Relation: lambda v: f"relation for algebra: {v.left} {v.sign} {v.right}",
    Group: _group,
}
