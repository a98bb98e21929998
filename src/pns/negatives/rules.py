"""Negatives made from a correct response by rule: `flip` and `corruption` (comparisons of method.md; rules ours).

Both return None where a rule finds nothing to change; the caller verifies what comes back, for a rule may land on
the right answer by chance. Numbers are exact fractions; a changed decimal has as many places as the old one, or those it needs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import gcd
from typing import NamedTuple

from pns.rewards.arithmetic import Statement, find_steps
from pns.verify import extract
from pns.verify.numbers import compare_plain, parse_plain

LARGEST = 10**9

_WRITTEN = r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?"
_STEP = re.compile(  # brackets stand around a second number below 0 alone: `2 - (-3)`
    rf"(\$?)({_WRITTEN})( ?)([-+*/])( ?(?:(\((?=-))|\$)?)({_WRITTEN})((?(6)\)) ?= ?\$?)({_WRITTEN})"
)
_FRACTIONS = (
    re.compile(r"(-?\\[dt]?frac\{)([1-9][0-9]{0,8})(\}\{([1-9][0-9]{0,8})\})"),
    re.compile(r"(-?\\[dt]?frac)([1-9])(([1-9]))"),
    re.compile(r"(-?)([1-9][0-9]{0,8})(/([1-9][0-9]{0,8}))"),
)
_DIGITS = re.compile(r"[0-9](?:[0-9,]|\{,\}|\\[,!])*(?:\.[0-9]+)?|\.[0-9]+")
_SEPARATOR = re.compile(r"[^0-9.]")


class _Number(NamedTuple):
    """A number, and how many decimal places it is written with."""

    value: Fraction
    places: int = 0


@dataclass(frozen=True)
class _Step:
    """A step of two operands that can be changed. `form` is its text with places for the four."""

    left: _Number
    operator: str
    right: _Number
    result: _Number
    form: str = "{} {} {} = {}"
    bracketed: bool = False  # the second number; then its brackets are not in `form`


class _Limits(NamedTuple):
    """What new results may be: numbers of the solution's own kind. `unread`: equations that are not read, and mention a
    number that has changed, are passed over, as they always were beside whole steps alone.
    """

    places: int
    below_zero: bool
    largest: int
    unread: bool


def flip(text: str, rng: random.Random, *, answer_format: str, top: int | None) -> str | None:
    """The same derivation with another number as its final answer.

    The new number is near the old one: within 10 units of its last place, or of a fraction's numerator. It has the old
    one's sign (a whole number may become 0), and is at most `top` where one is given.
    """
    found = extract(text, answer_format)
    near = [new for new, size in _near_answers(found.answer or "") if top is None or size <= top]
    return text[: found.start] + rng.choice(near) + text[found.end :] if near else None


def _near_answers(answer: str) -> Iterator[tuple[str, Fraction]]:
    """Other answers, and their absolute values."""
    for pattern in _FRACTIONS:
        if (found := pattern.fullmatch(answer)) is not None:
            head, above, tail, below = found[1], int(found[2]), found[3], int(found[4])
            for v in _near(above, 10, 1):
                # In lowest terms where the old one was; as many digits, for braces may be missing.
                if (gcd(above, below) > 1 or gcd(v, below) == 1) and len(str(v)) == len(found[2]):
                    yield f"{head}{v}{tail}", Fraction(v, below)
    number = _read(answer)
    if number is not None:
        sign, unit = (-1 if number.value < 0 else 1), Fraction(1, 10**number.places)
        for v in _near(int(abs(number.value) / unit), 10, 0 if sign == unit == 1 else 1):
            yield _shown(sign * v * unit, number.places), v * unit


def corruption(text: str, rng: random.Random, *, answer_format: str, top: int | None) -> str | None:
    """One operand or operator of one step is changed, and the change is carried through the later steps to the answer.

    Every later operand that was the result of a changed step becomes the new result. Where every step has two whole
    operands and a whole result of at least 0, new results are so, too. Otherwise only steps written `a * b = c` are
    changed; new results have no more decimal places than these have, and are below 0 only where one of their numbers is;
    and no later step of another form, or equation that is not read, mentions a number that has changed. Results are
    within `top`. None where a step is false, or no change leads to another answer.
    """
    found = find_steps(text)
    if not all(s.right for s in found):
        return None
    steps, limits = [_whole_step(text, s) for s in found], _Limits(0, False, LARGEST if top is None else top, True)
    answer = _read(extract(text, answer_format).answer or "")
    if None in steps or (answer is not None and answer.places):
        steps = [_written_step(text, s) for s in found]
        numbers = [n for s in steps if s is not None for n in (s.left, s.right, s.result)]
        places, below_zero = max((n.places for n in numbers), default=0), any(n.value < 0 for n in numbers)
        limits = limits._replace(places=places, below_zero=below_zero, unread=False)
    for index in rng.sample(range(len(steps)), len(steps)):
        step = steps[index]
        for move in _changes(step, rng) if step is not None else ():
            out = _carried(text, found[index:], [move, *steps[index + 1 :]], limits, answer_format)
            if out is not None and out != text:
                return out
    return None


def _changes(step: _Step, rng: random.Random) -> list[_Step]:
    value, places = step.right.value, 0
    while (value * 10**places).denominator != 1:
        places += 1
    unit = Fraction(-1 if value < 0 else 1, 10**places)
    near = _near(int(value / unit), 5, 1)
    changes = [replace(step, right=step.right._replace(value=v * unit)) for v in rng.sample(near, min(2, len(near)))]
    changes += [replace(step, operator=o) for o in rng.sample([o for o in "+-*/" if o != step.operator], 2)]
    rng.shuffle(changes)
    return changes


def _near(size: int, reach: int, least: int) -> list[int]:
    return [v for v in range(max(least, size - reach), size + reach + 1) if v != size]


def _carried(
    text: str, found: Sequence[Statement], steps: Sequence[_Step | None], limits: _Limits, answer_format: str
) -> str | None:
    """The text with the first of these steps changed; `found` is where they stand."""
    new: dict[Fraction, Fraction] = {}  # old result -> new result, from the changed step on
    pieces, at, after = [], 0, found[0].start
    for place, step in zip(found, steps, strict=True):
        moved = _moved(new)
        if not limits.unread and _stale(text, after, place.start, moved):
            return None
        after = place.end
        if step is None:
            if moved & {*_numbers(text[place.start : place.end]), *map(abs, (*place.operands, place.result))}:
                return None
            continue
        if any(n.value not in new and abs(n.value) in moved for n in (step.left, step.right)):
            return None  # `a loss of 3` after `2 - 5 = -3`
        left, right = (n._replace(value=new.get(n.value, n.value)) for n in (step.left, step.right))
        result = _result(left.value, step.operator, right.value)
        if result is None or not _fits(result, limits):
            return None
        new[step.result.value] = result
        brackets = right.value < 0 and (step.bracketed or step.right.value >= 0)
        second = f"({_shown(*right)})" if brackets else _shown(*right)
        told = step.form.format(_shown(*left), step.operator, second, _shown(result, step.result.places))
        pieces += [text[at : place.start], told]
        at = place.end
    out = "".join([*pieces, text[at:]])
    answer = extract(out, answer_format)
    old = _read(answer.answer or "")
    if old is None or old.value not in new:
        return None
    if not limits.unread and _stale(text, after, len(text), _moved(new)):
        return None
    shown = _shown(new[old.value], old.places)
    return out[: answer.start] + shown + out[answer.end :] if _differ(_shown(*old), shown) else None


def _whole_step(text: str, step: Statement) -> _Step | None:
    """A step of two whole operands and a whole result of at least 0, units or not; those without a sign or a calculator's mark."""
    whole = all(v.denominator == 1 for v in (*step.operands, step.result)) and step.result >= 0
    if len(step.operands) != 2 or not whole or step.percents or "<<" in text[step.start : step.end]:
        return None
    (left, right), operator = map(_Number, step.operands), step.operators[0]
    value = _result(left.value, operator, right.value)
    # Signs are not in the operands. A result may be rounded: `100 / 3 ≈ 33`.
    near = value is not None and abs(value - step.result) < 1
    return _Step(left, operator, right, _Number(step.result)) if near else None


def _written_step(text: str, step: Statement) -> _Step | None:
    found = _STEP.fullmatch(text, step.start, step.end)
    if found is None:
        return None
    left, right, result = (_number(found[i]) for i in (2, 7, 9))
    if _result(left.value, found[4], right.value) != result.value:  # rounded
        return None
    form = f"{found[1]}{{}}{found[3]}{{}}{found[5].rstrip('(')}{{}}{found[8].lstrip(')')}{{}}"
    return _Step(left, found[4], right, result, form, bracketed=found[6] is not None)


def _moved(new: dict[Fraction, Fraction]) -> set[Fraction]:
    return {abs(old) for old, now in new.items() if old != now}


def _stale(text: str, start: int, end: int, moved: set[Fraction]) -> bool:
    """Whether an equation that is not read mentions a number that has changed."""
    return any("=" in line and moved & _numbers(line) for line in text[start:end].splitlines())


def _numbers(text: str) -> set[Fraction]:
    """All numbers that are written in a text, without their signs."""
    return {Fraction(_SEPARATOR.sub("", m.group())) for m in _DIGITS.finditer(text)}


def _result(left: Fraction, operator: str, right: Fraction) -> Fraction | None:
    if operator == "/":
        return left / right if right else None
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def _fits(value: Fraction, limits: _Limits) -> bool:
    exact = (value * 10**limits.places).denominator == 1
    return exact and (value >= 0 or limits.below_zero) and abs(value) <= limits.largest


def _differ(old: str, new: str) -> bool:
    """Whether no reader takes the one for the other, rounded."""
    a, b = parse_plain(old), parse_plain(new)
    return a is not None and b is not None and compare_plain(a, b)[0] == "wrong"


def _read(text: str) -> _Number | None:
    """A final answer that is a whole number or a decimal."""
    plain = text.replace(",", "").strip()
    if plain.isascii() and plain.isdigit() and len(plain) <= 9:
        return _Number(Fraction(plain))
    return _number(text) if re.fullmatch(_WRITTEN, text) else None


def _number(written: str) -> _Number:
    return _Number(Fraction(written), len(written.partition(".")[2]))


def _shown(value: Fraction, places: int = 0) -> str:
    """A decimal with so many places, or as many more as it needs."""
    while (value * 10**places).denominator != 1:
        places += 1
    return f"{Decimal(int(value * 10**places)).scaleb(-places):f}"
