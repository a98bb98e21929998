"""Plain numbers as exact fractions: integers, decimals, thousands separators, fractions, per cent, money, a * 10^n.

Everything is bounded before it is built: no text can make this module build a huge integer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from pns.records import Outcome

MAX_DIGITS = 400
MAX_EXPONENT = 300

_DIGITS = r"(?:[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)"
_DECIMAL = rf"(?P<whole>{_DIGITS})?(?:\.(?P<places>[0-9]*))?"
_EXPONENT = r"[+-]?[0-9]{1,4}"
_TEN_TO = r"(?:[eE]|(?:\*|\\times|\\cdot)10\^)"
_NUMBER = re.compile(rf"{_DECIMAL}(?:{_TEN_TO}(?P<exponent>{_EXPONENT}|\{{{_EXPONENT}\}}))?")
_SLASH = re.compile(rf"(?P<a>-?{_DIGITS})\.?/(?P<b>-?{_DIGITS})")
_FRAC = re.compile(
    r"(?P<whole>[0-9]*)\\frac"
    rf"(?:\{{(?P<a>-?{_DIGITS})\}}|(?P<a1>[0-9]))"
    rf"(?:\{{(?P<b>-?{_DIGITS})\}}|(?P<b1>[0-9]))"
)
_MONEY = re.compile(r"\\?[$€£]")
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-"})


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain number. `places` counts decimals as written (None: written exactly, as integer or fraction).

    `percent` says that a per cent sign followed; `value` is then still the number before the sign.
    """

    value: Fraction
    places: int | None = None
    percent: bool = False

    @property
    def terminating(self) -> bool:
        """Whether the value has a finite decimal expansion."""
        rest = self.value.denominator
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        return rest == 1


def parse_plain(text: str) -> Plain | None:
    """A plain number from text already normalised by `pns.verify.check.normalise`, else None. ASCII digits only."""
    text = text.translate(_SIGNS)
    if not text or len(text) > MAX_DIGITS:
        return None
    percent = text.endswith("%")
    if percent:
        text = text.removesuffix("%").removesuffix("\\")
    sign = 1
    if text[:1] in "+-" and text:
        sign, text = (-1 if text[0] == "-" else 1), text[1:]
    money = _MONEY.match(text)
    if money:
        text = text[money.end() :]
        # "$-5" and "-$5" are both written; a second sign is not a number
        if sign == 1 and text[:1] == "-":
            sign, text = -1, text[1:]
    found = _decimal(text) or _fraction(text)
    if found is None:
        return None
    return Plain(sign * found.value, found.places, percent)


def rounds_to(exact: Fraction, decimal: Fraction, places: int) -> bool:
    """Whether a decimal written with `places` digits is `exact` rounded or cut off at that place."""
    unit = Fraction(1, 10**places)
    gap = abs(exact) - abs(decimal)
    return (exact >= 0) == (decimal >= 0) and -unit / 2 <= gap < unit


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


def _decimal(text: str) -> Plain | None:
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["whole"] or match["places"]):
        return None
    whole, places = (match["whole"] or "0").replace(",", ""), match["places"]
    value = Fraction(int(whole + (places or "")), 10 ** len(places or ""))
    exponent = int((match["exponent"] or "0").strip("{}"))
    if abs(exponent) > MAX_EXPONENT:
        return None
    if exponent:
        value *= Fraction(10) ** exponent
    return Plain(value, max(0, len(places) - exponent) if places else None)


def _fraction(text: str) -> Plain | None:
    slash = _SLASH.fullmatch(text)
    if slash:
        below = int(slash["b"].replace(",", ""))
        return Plain(Fraction(int(slash["a"].replace(",", "")), below)) if below else None
    frac = _FRAC.fullmatch(text)
    if frac is None:
        return None
    above, below = (int((frac[x] or frac[x + "1"]).replace(",", "")) for x in "ab")
    if not below:
        return None
    return Plain(int(frac["whole"] or 0) + Fraction(above, below))
