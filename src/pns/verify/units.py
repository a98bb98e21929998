"""Units of measure that stand behind a number: enough of them to tell a conversion from a wrong number. (Ours.)

Pint knows thousands of units, symbols of one letter among them that are variables to a mathematician; here only what
word problems use, so that no expression is ever read as a unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_F = Fraction
# dimension -> names of a unit -> its size in the dimension's first unit
_TABLE: dict[str, dict[str, Fraction]] = {
    "length": {
        "mm millimeter millimetre": _F(1), "cm centimeter centimetre": _F(10), "dm decimeter": _F(100),
        "m meter metre": _F(1000), "km kilometer kilometre": _F(10**6), "inch inches": _F(254, 10),
        "ft foot feet": _F(3048, 10), "yd yard": _F(9144, 10), "mi mile": _F(1609344),
    },
    "mass": {
        "mg milligram": _F(1), "g gram gm": _F(1000), "kg kilogram kilo": _F(10**6), "ton tonne": _F(10**9),
        "oz ounce": _F(45359237, 1600), "lb pound": _F(45359237, 100),
    },
    "time": {
        "sec second s": _F(1), "min minute": _F(60), "h hr hour": _F(3600), "day": _F(86400), "week": _F(604800),
    },
    "calendar": {"month": _F(1), "year yr": _F(12), "decade": _F(120), "century centuries": _F(1200)},
    "volume": {"ml milliliter millilitre": _F(1), "cl centiliter": _F(10), "l liter litre": _F(1000)},
    "kitchen": {"cup": _F(1), "pint": _F(2), "quart": _F(4), "gallon": _F(16)},
    "money": {"cent penny pennies": _F(1), "nickel": _F(5), "dime": _F(10), "dollar usd $ buck": _F(100)},
    "angle": {"degree deg": _F(1)},
}  # fmt: skip
_SIZE = {
    name: (dimension, size)
    for dimension, units in _TABLE.items()
    for names, size in units.items()
    for name in names.split()
}
# how many of another unit one of these is, where that is no fixed size
_LOOSELY = {
    "month": (4, 28, 30, 31), "year": (52, 360, 365, 366), "yr": (52, 360, 365, 366),
    "day": (_F(1, 28), _F(1, 30), _F(1, 31), _F(1, 360), _F(1, 365), _F(1, 366)), "week": (_F(1, 4), _F(1, 52)),
    "pair": (2,), "couple": (2,), "score": (20,), "gross": (144,),
}  # fmt: skip
_SHORT_RATES = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "fps": "ft/s"}
_TEMPERATURES = frozenset({"f", "fahrenheit", "c", "celsius", "k", "kelvin"})
_PER = re.compile(r" ?/ ?| per ")
_POWER = re.compile(r"\^ ?\{?([1-4])\}?$")
_SQUARE = re.compile(r"^(square|sq|cubic|cu)\b\.? ?")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as written (lower case), with dimension and size where it is a known one."""

    name: str
    dimension: str = ""
    size: Fraction = Fraction(1)


def read_unit(text: str) -> Unit:
    """A unit from its words: `cm^2`, `square inches`, `km/h`, `red apples`. An unknown one has no dimension."""
    name = " ".join(text.lower().replace(".", "").split())
    above, *below = _PER.split(_SHORT_RATES.get(name, name))
    if len(below) == 1 and below[0]:
        top, bottom = read_unit(above), read_unit(below[0])
        if top.dimension and bottom.dimension:
            return Unit(name, f"{top.dimension}/{bottom.dimension}", top.size / bottom.size)
        return Unit(name)
    power = 1
    if name.endswith((" squared", " cubed")):
        name, _, how = name.rpartition(" ")
        power = 2 if how == "squared" else 3
    if square := _SQUARE.match(name):
        power = 2 if square[1].startswith("s") else 3
        name = name[square.end() :]
    if raised := _POWER.search(name):
        power, name = int(raised[1]), name[: raised.start()].strip()
    found = _SIZE.get(name) or _SIZE.get(name.removesuffix("s"))
    if found is None:
        return Unit(name if power == 1 else f"{name}^{power}")
    dimension, size = found
    return Unit(name, dimension if power == 1 else f"{dimension}^{power}", size**power)


def may_convert(unit: Unit, gold: Fraction, answer: Fraction) -> bool:
    """Whether an answer with a known unit may be a gold number in another unit of its dimension.

    `1800 cents` against a gold `18` that leaves its dollars out: the quotient of the two is that of two units.
    """
    if not gold or not answer:
        return False
    one = _LOOSELY.get(unit.name) or _LOOSELY.get(unit.name.removesuffix("s"), ())
    if abs(gold / answer) in one or _temperature(unit.name):
        return True
    return bool(unit.dimension) and answer * unit.size / gold in _sizes(unit.dimension) - {unit.size}


def _sizes(dimension: str) -> set[Fraction]:
    if "/" in dimension:
        above, _, below = dimension.partition("/")
        return {a / b for a in _sizes(above) for b in _sizes(below)}
    name, _, power = dimension.partition("^")
    return {size ** int(power or 1) for size in _TABLE[name].values()}


def _temperature(name: str) -> bool:
    """Two scales of temperature have two zeros, so that no quotient says whether they are the same."""
    first, _, scale = name.partition(" ")
    return (first in ("degree", "degrees", "deg") and scale in _TEMPERATURES) or first in _TEMPERATURES


def same_unit(a: Unit, b: Unit) -> bool:
    """Whether two units are one: the same name or size, or two unknown ones with the same noun (`red apples`)."""
    if a.dimension or b.dimension:
        return a.dimension == b.dimension and a.size == b.size
    return a.name == b.name or _noun(a.name) == _noun(b.name)


def _noun(name: str) -> str:
    return name.split()[-1].removesuffix("s") if name.split() else ""
