"""Plain numbers as exact fractions: integers, decimals, thousands separators, fractions, per cent, money, a * 10^n.

Everything is bounded before it is built: no text can make this module build a huge integer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from pns.records import Outcome

ROUNDED = "a rounded decimal"  # how the reason begins, for those who need to tell it from others
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
_REPEATING = re.compile(
    r"(?P<whole>[0-9]*)\.(?P<places>[0-9]*)\\(?:overline|bar|dot)(?:\{(?P<again>[0-9]{1,40})\}|(?P<again1>[0-9]))"
)
_MONEY = re.compile(r"\\?\$")
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-"})


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain number. `last` is the place of its last digit, counted behind the point (None: written exactly, as integer
    or fraction); below 0 where a power of ten follows: the last digit of `6.02*10^23` stands for 10^21.

    `percent` says that a per cent sign followed; `value` is then still the number before the sign.
    """

    value: Fraction
    last: int | None = None
    percent: bool = False

    @property
    def places(self) -> int | None:
        """How many decimals are written."""
        return None if self.last is None else max(0, self.last)

    def times(self, scale: Fraction) -> Plain:
        """The number times a scale; by a power of ten its last digit keeps its place, otherwise it counts as exact."""
        zeros = len(str(scale)) - 1
        last = self.last - zeros if self.last is not None and scale == 10**zeros else None
        return Plain(self.value * scale, last, self.percent)

    def finer_than(self, places: int) -> bool:
        """Whether a decimal with so many places may be this number rounded: no integer is rounded by a decimal point."""
        if self.last is None:
            return self.value.denominator != 1 or places < 0
        return self.last > places


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
    found = _decimal(text) or _fraction(text) or _repeating(text)
    if found is None:
        return None
    return Plain(sign * found.value, found.last, percent)


def rounds_to(exact: Fraction, decimal: Fraction, places: int) -> bool:
    """Whether a decimal written with `places` digits (below 0: in whole tens, hundreds) is `exact` rounded or cut off at that place."""
    unit = Fraction(10) ** -places
    gap = abs(exact) - abs(decimal)
    return (exact >= 0) == (decimal >= 0) and -unit / 2 <= gap < unit


def compare_plain(gold: Plain, answer: Plain, tolerance: float | None = None) -> tuple[Outcome, str]:
    """Outcome and reason for two plain numbers.

    A per cent sign on one side only is read as a unit, or as a hundredth, whichever makes them equal; but `0.5%`
    against a gold `0.5` is undecided, since a share between 0 and 1 is rarely meant in per cent. A decimal that the
    other number rounds to is undecided, on either side: a right answer that was rounded must not be paid as wrong.
    """
    readings = [(gold, answer)]
    if gold.percent != answer.percent:
        readings.append((_hundredth(gold), answer) if gold.percent else (gold, _hundredth(answer)))
        if answer.percent and gold.value == answer.value and 0 < abs(gold.value) <= 1:
            return "undecided", "per cent or share?"
    if any(a.value == b.value for a, b in readings):
        return "correct", "equal numbers"
    if tolerance is not None:
        near = any(abs(a.value - b.value) <= tolerance for a, b in readings)
        return ("correct", "within the tolerance") if near else ("wrong", "outside the tolerance")
    if any(_rounded(a, b) or _rounded(b, a) for a, b in readings):
        return "undecided", f"{ROUNDED} of the other number"
    return "wrong", "different numbers"


def _hundredth(number: Plain) -> Plain:
    return Plain(number.value / 100, None if number.last is None else number.last + 2)


def _rounded(exact: Plain, decimal: Plain) -> bool:
    """Whether a decimal is the other number, written more exactly, rounded or cut off."""
    last = decimal.last
    return last is not None and exact.finer_than(last) and rounds_to(exact.value, decimal.value, last)


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
    return Plain(value, len(places) - exponent if places else None)


def _repeating(text: str) -> Plain | None:
    """`0.1\\overline{6}`, exactly."""
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    again = match["again"] or match["again1"]
    fixed = Fraction(int(match["whole"] + match["places"] or "0"), 10 ** len(match["places"]))
    return Plain(fixed + Fraction(int(again), 10 ** len(match["places"]) * (10 ** len(again) - 1)))


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
