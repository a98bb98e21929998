"""Compare two values with three outcomes. Structure is decided here; single expressions by the `leaf` that is given.

In process the leaf knows plain numbers and leaves the rest open; in a worker it is algebra (`symbolic`). So the rules
for lists, tuples and intervals stand once. (Source: ours.)

`wrong` always rests on two parsed values that differ: two numbers, a list with a member too many, an interval with
another end, two words of one vocabulary. What may be the same thing said otherwise stays undecided.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pns.records import AnswerKind, Outcome
from pns.verify.numbers import ROUNDED, compare_plain
from pns.verify.reading import joined, other_readings, read
from pns.verify.units import may_convert, same_unit
from pns.verify.values import Based, Choice, Clock, Expr, Group, Named, Num, Ratio, Relation, Text, Value
from pns.verify.words import exclude

Cause = Literal["response", "gold"]


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome with its reason; `open` where only algebra could say. `cause` as in `pns.records.Verdict`."""

    outcome: Outcome | Literal["open"]
    reason: str
    cause: Cause | None = None


Leaf = Callable[[Expr | Num | Relation, Expr | Num | Relation], Result]

# more than one comma between groups of three: too many ways to read it, unless it is one plain number
_CHAIN = re.compile(r"[0-9](?:,[0-9]{3}){2,}(?![0-9])")

OPEN = Result("open", "needs the symbolic check")


def undecided(reason: str, cause: Cause = "response") -> Result:
    """An undecided result; unless told otherwise the response's doing."""
    return Result("undecided", reason, cause)


def left_open(gold: Expr | Num | Relation, answer: Expr | Num | Relation) -> Result:
    """The leaf of the check in process: all that is no pair of plain numbers stays open, but for the same text."""
    if isinstance(gold, Expr) and isinstance(answer, Expr) and _squeeze(gold.latex) == _squeeze(answer.latex):
        return Result("correct", "the same text")
    ours, theirs = _endless(gold), _endless(answer)
    if (ours and (theirs or isinstance(answer, Num))) or (theirs and isinstance(gold, Num)):
        return Result("correct", "the same infinity") if ours == theirs else Result("wrong", "infinite or not")
    return OPEN


def compare(gold: Value, answer: Value, tolerance: float | None = None, leaf: Leaf = left_open) -> Result:
    """Whether an answer's value is the gold one's.

    Args:
        tolerance: absolute difference up to which numbers count as equal; it decides either way.
        leaf: compares two expressions, or an expression and a number.
    """
    if _letter(gold) or _letter(answer):
        return _labelled(gold, answer, tolerance, leaf)
    if _is_chain(gold) or _is_chain(answer):
        return _chains(gold, answer, tolerance, leaf)
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _named(gold, answer, tolerance, leaf)
    if isinstance(gold, Num) and isinstance(answer, Num):
        return compare_numbers(gold, answer, tolerance)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _groups(gold, answer, tolerance, leaf)
    if isinstance(gold, Text | Choice) or isinstance(answer, Text | Choice):
        return _texts(gold, answer, leaf)
    if isinstance(gold, Clock | Ratio) or isinstance(answer, Clock | Ratio):
        return _times(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _based(gold, answer)
    return leaf(gold, answer)


def compare_readings(
    gold: str, answer: str, values: tuple[Value, Value], tolerance: float | None, leaf: Leaf, kind: AnswerKind | None
) -> Result:
    """`compare`, where a comma may part thousands as well as members: wrong only if it is in each reading.

    Args:
        values: gold and answer, read as written.
    """
    result = compare(*values, tolerance, leaf)
    if result.outcome == "correct" or "," not in gold + answer:
        return result
    # only the answer's comma may be read to the answer's good; the gold answer's own says nothing for it
    other = joined(answer)
    theirs = read(other, kind) if other else None
    if theirs and compare(values[0], theirs, tolerance, leaf).outcome == "correct":
        if isinstance(values[1], Group) and values[1].ends and not isinstance(theirs, Group):
            return undecided("a pair, or thousands?")
        return Result("correct", "equal with its commas as thousands")
    if result.outcome == "undecided":
        return result
    first, second = (
        [v, *(r for other in other_readings(text) if (r := read(other, kind)) is not None)]
        for v, text in zip(values, (gold, answer), strict=True)
    )
    if len(first) == len(second) == 1:
        return result
    results = [compare(a, b, tolerance, leaf) for a in first for b in second]
    if any(r.outcome == "open" for r in results):
        return OPEN
    chains = any(_CHAIN.search(text) for text in (gold, answer))
    if result.outcome == "wrong" and (chains or any(r.outcome != "wrong" for r in results)):
        return undecided("a list, or thousands?")
    return result


def _letter(value: Value) -> str:
    """The letter of a choice that stands with its value, or nothing."""
    return value.letter if isinstance(value, Named) else ""


def _is_chain(value: Value) -> bool:
    return isinstance(value, Group) and value.kind == "chain"


def _labelled(gold: Value, answer: Value, tolerance: float | None, leaf: Leaf) -> Result:
    """`(A) 5` against a letter, by its letter; against a value, by its value; against its like, by both."""
    ours, theirs = (v.value if isinstance(v, Named) and v.letter else v for v in (gold, answer))
    first, second = (Choice(_letter(v), True) if _letter(v) else v for v in (gold, answer))
    if isinstance(first, Choice) and isinstance(second, Choice):
        letters = _texts(first, second, leaf)
        if not (_letter(gold) and _letter(answer)):
            return letters
        values = compare(ours, theirs, tolerance, leaf)
        agree = letters.outcome == values.outcome or values.outcome == "open"
        return values if agree else undecided("the letter says one thing, its value another")
    return compare(ours, theirs, tolerance, leaf)


def _chains(gold: Value, answer: Value, tolerance: float | None, leaf: Leaf) -> Result:
    """One value given several times: all of them count, `9 = 8` is neither."""
    ours, theirs = (v.items if isinstance(v, Group) and v.kind == "chain" else (v,) for v in (gold, answer))
    results = [compare(a, b, tolerance, leaf) for a in ours for b in theirs]
    outcomes = {r.outcome for r in results}
    if "open" in outcomes:
        return OPEN
    # an approximation behind the value (`\\sqrt2 \\approx 1.41`) is undecided by itself
    if "correct" in outcomes and all(r.outcome == "correct" or r.reason.startswith(ROUNDED) for r in results):
        return Result("correct", "equal in all of its forms")
    if outcomes == {"wrong"}:
        return Result("wrong", "different in all of its forms")
    return next((r for r in results if r.outcome == "undecided"), undecided("its forms are not the same"))


def compare_numbers(gold: Num, answer: Num, tolerance: float | None) -> Result:
    """Two plain numbers with their units; a unit on one side only is taken as understood on the other."""
    a, b = gold.plain, answer.plain
    ours, theirs = gold.unit, answer.unit
    if (gold.spoken is None) != (answer.spoken is None):
        spoken, other = (gold.spoken, b.value) if gold.spoken is not None else (answer.spoken, a.value)
        if spoken == other:  # `5 million` for a gold `5` that may count in millions
            return undecided("the same but for a word like million")
    if ours and theirs and not same_unit(ours, theirs):
        if ours.dimension and ours.dimension == theirs.dimension:
            return _converted(a.value, b.value * theirs.size / ours.size, tolerance)
        return undecided(f"another unit, perhaps: {theirs.name}, not {ours.name}")
    if theirs and not ours and a.value != b.value and may_convert(theirs, a.value, b.value):
        return undecided(f"may be the same in {theirs.name}")
    if ours and not theirs and a.value != b.value and may_convert(ours, b.value, a.value):
        return undecided(f"may be the same in another unit than {ours.name}")
    outcome, reason = compare_plain(a, b, tolerance)
    if outcome == "wrong" and "," in gold.text and "," in answer.text and _pieces(gold) == _pieces(answer):
        return undecided("a list, or thousands?")
    return Result(outcome, reason, "response" if outcome == "undecided" else None)


def _converted(gold: Fraction, answer: Fraction, tolerance: float | None) -> Result:
    """After a conversion a rounded number cannot be told from a wrong one by its places; by 1 % it can."""
    if gold == answer:
        return Result("correct", "equal in the other unit")
    if tolerance is not None:
        near = abs(gold - answer) <= tolerance
        return Result("correct" if near else "wrong", f"{'within' if near else 'outside'} the tolerance")
    near = abs(gold - answer) <= max(abs(gold), abs(answer)) / 100
    return undecided("rounded in another unit?") if near else Result("wrong", "different in the other unit")


def _pieces(number: Num) -> list[str]:
    return sorted(number.text.replace(" ", "").split(","))


def _named(gold: Value, answer: Value, tolerance: float | None, leaf: Leaf) -> Result:
    """`x = 5` against `5` or `x = 5`. Under two names equal values are undecided, but `y = ...` is `f(x) = ...`."""
    ours, theirs = (v.name if isinstance(v, Named) else "" for v in (gold, answer))
    a = gold.value if isinstance(gold, Named) else gold
    b = answer.value if isinstance(answer, Named) else answer
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return leaf(*(_as_relation(v) for v in (gold, answer)))
    result = compare(a, b, tolerance, leaf)
    if ours and theirs and ours != theirs and not (_function(ours) and _function(theirs)):
        return result if result.outcome == "open" else undecided(f"{theirs} is not {ours}")
    return result


def _as_relation(value: Value) -> Expr | Num | Relation:
    if isinstance(value, Named):
        inner = value.value
        return Relation(value.name, "=", inner.latex if isinstance(inner, Expr) else getattr(inner, "text", ""))
    return value if isinstance(value, Expr | Num | Relation) else Expr("")


def _function(name: str) -> bool:
    return name == "y" or "(" in name


def _texts(gold: Value, answer: Value, leaf: Leaf) -> Result:
    if isinstance(gold, Choice) and isinstance(answer, Choice):
        if gold.letter == answer.letter:
            return Result("correct", "the same letter")
        sure = gold.sure or answer.sure
        return Result("wrong", "another choice") if sure else undecided("another letter, which may be a variable")
    a, b = (
        v.words if isinstance(v, Text) else v.letter.lower() if isinstance(v, Choice) else "" for v in (gold, answer)
    )
    if a and b:
        if a == b:
            return Result("correct", "the same words")
        return Result("wrong", "the other of its kind") if exclude(a, b) else undecided("other words")
    if isinstance(gold, Choice) and not gold.sure and isinstance(answer, Expr | Num):
        return leaf(Expr(gold.letter), answer)
    if isinstance(answer, Choice) and not answer.sure and isinstance(gold, Expr | Num):
        return leaf(gold, Expr(answer.letter))
    return undecided("words against mathematics")


def _times(gold: Value, answer: Value) -> Result:
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if gold.parts == answer.parts:
            return Result("correct", "equal parts")
        a, b = gold.parts, answer.parts
        same = len(a) == len(b) and all(x * b[0] == y * a[0] for x, y in zip(a, b, strict=True))
        if same or _half_apart(gold.clock, answer.clock):
            return undecided("the same ratio or time in other numbers")
        return Result("wrong", "other parts")
    if isinstance(gold, Ratio) and isinstance(answer, Num | Expr):
        return _ratio_as_number(gold, answer)
    if isinstance(answer, Ratio) and isinstance(gold, Num | Expr):
        return _ratio_as_number(answer, gold)
    clocks = [v.clock if isinstance(v, Ratio) else v if isinstance(v, Clock) else None for v in (gold, answer)]
    first, second = clocks
    if first is None or second is None:
        return undecided("a time of day against something else")
    if first.half and second.half:
        return Result("correct", "the same time") if first == second else Result("wrong", "another time")
    if first.seconds % 43200 == second.seconds % 43200:
        return undecided("a.m. or p.m.?")
    return Result("wrong", "another time")


def _half_apart(a: Clock | None, b: Clock | None) -> bool:
    return a is not None and b is not None and (a.seconds - b.seconds) % 43200 == 0


def _ratio_as_number(ratio: Ratio, other: Num | Expr) -> Result:
    if isinstance(other, Num) and len(ratio.parts) == 2 and ratio.parts[1]:
        if other.plain.value == Fraction(*ratio.parts) and ("/" in other.text or "\\frac" in other.text):
            return Result("correct", "a ratio as a fraction")
        return undecided("a ratio against another number")
    return undecided("a ratio against something else")


def _based(gold: Value, answer: Value) -> Result:
    """`52_8`: the same digits without the base, and the same value in another, stay undecided."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        if gold == answer:
            return Result("correct", "the same digits and base")
        if gold.base == answer.base:
            return Result("wrong", "other digits")
        same = int(gold.digits, gold.base) == int(answer.digits, answer.base)
        return undecided("the same value in another base") if same else Result("wrong", "another value in another base")
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    if not isinstance(based, Based) or not isinstance(other, Num):
        return undecided("a number with a base against something else")
    if other.plain.value in (int(based.digits, based.base), *_as_decimal(based)):
        return undecided("the same digits, or the same value, without the base")
    return Result("wrong", "another number")


def _as_decimal(based: Based) -> tuple[int, ...]:
    return (int(based.digits),) if based.digits.lstrip("-").isdecimal() else ()


def _groups(gold: Value, answer: Value, tolerance: float | None, leaf: Leaf) -> Result:
    if not isinstance(gold, Group) or not isinstance(answer, Group):
        return _one_and_many(gold, answer, tolerance, leaf)
    if "union" in (gold.kind, answer.kind):
        return _as_sets(_pieces_of(gold), _pieces_of(answer), tolerance, leaf)
    if _interval(gold) != _interval(answer) and gold.ends and answer.ends and len(gold.items) == len(answer.items) == 2:
        return _other_ends(gold, answer, tolerance, leaf)
    if bool(gold.columns) != bool(answer.columns) and any(isinstance(v, Group) for v in (*gold.items, *answer.items)):
        return undecided("a matrix against a list of lists")
    if gold.columns and answer.columns and len(gold.items) == len(answer.items) and gold.columns != answer.columns:
        return undecided("the same number of entries in another shape")
    ordered = _in_order(gold.items, answer.items, tolerance, leaf)
    if ("tuple" in (gold.kind, answer.kind) and gold.kind == answer.kind) or "matrix" in (gold.kind, answer.kind):
        return ordered
    if ordered.outcome == "correct":
        return ordered
    words = any(isinstance(item, Text | Choice) for item in (*gold.items, *answer.items))
    loose = _as_sets(gold.items, answer.items, tolerance, leaf)
    if loose.outcome == "correct" and ("tuple" in (gold.kind, answer.kind) or (words and not _choices(gold))):
        return undecided("the same members in another order")
    return loose


def _choices(group: Group) -> bool:
    return all(isinstance(item, Choice) for item in group.items)


def _pieces_of(group: Group) -> tuple[Value, ...]:
    """The parts of a union; `x < 2 or x > 3` was read as a list of intervals, which is the same."""
    return group.items if group.kind in ("union", "list") else (group,)


def _interval(group: Group) -> str:
    return group.ends or "()"


def _other_ends(gold: Group, answer: Group, tolerance: float | None, leaf: Leaf) -> Result:
    """Two pairs in different brackets: `(0,1]` is not `[0,1]`. `[1,2]` for the point `(1,2)` is mere spelling."""
    inner = _in_order(gold.items, answer.items, tolerance, leaf)
    if inner.outcome != "correct":
        return inner
    if {gold.ends, answer.ends} & {"(]", "[)"}:
        return Result("wrong", "an end is open on one side and closed on the other")
    return undecided("the same pair in other brackets")


def _one_and_many(gold: Value, answer: Value, tolerance: float | None, leaf: Leaf) -> Result:
    """A single value against several. With several answers of which one is right, nothing is decided."""
    group, single = (gold, answer) if isinstance(gold, Group) else (answer, gold)
    assert isinstance(group, Group)
    if isinstance(single, Text):
        return undecided("words against mathematics")
    if isinstance(single, Relation | Expr) and group.kind in ("tuple", "union", "matrix"):
        return undecided("not the same kind of answer")
    results = [
        compare(item, single, tolerance, leaf) if group is gold else compare(single, item, tolerance, leaf)
        for item in group.items
    ]
    if group is answer and _mixed(group.items, single):
        return undecided("two values, or a mixed number?")
    if isinstance(single, Num) and _one_quantity(group.items):
        return undecided("two values, or one in two units?")
    if len(group.items) == 1 and group.kind in ("list", "set"):
        return results[0]
    if group is gold and group.kind in ("list", "set", "tuple") and any(r.outcome == "wrong" for r in results):
        return Result("wrong", "not all of the values")
    if any(r.outcome == "open" for r in results):
        return OPEN
    if group is answer and results and all(r.outcome == "wrong" for r in results) and group.kind != "matrix":
        return Result("wrong", "several values, none of them the one")
    return undecided("not the same number of values")


def _one_quantity(items: Sequence[Value]) -> bool:
    """`2 hours and 30 minutes`."""
    units = [item.unit for item in items if isinstance(item, Num) and item.unit is not None]
    sizes = {unit.size for unit in units}
    return len(units) == len(items) == len(sizes) > 1 and len({u.dimension for u in units} - {""}) == 1


def _mixed(items: Sequence[Value], single: Value) -> bool:
    """`1 and 1/3` for four thirds."""
    if len(items) != 2 or not isinstance(single, Num):
        return False
    first, second = items
    if not isinstance(first, Num) or not isinstance(second, Num) or not 0 < second.plain.value < 1:
        return False
    return first.plain.value + second.plain.value == single.plain.value


def _in_order(gold: Sequence[Value], answer: Sequence[Value], tolerance: float | None, leaf: Leaf) -> Result:
    if len(gold) != len(answer):
        return Result("wrong", f"{len(answer)} values, not {len(gold)}")
    results = [compare(a, b, tolerance, leaf) for a, b in zip(gold, answer, strict=True)]
    for outcome in ("wrong", "open", "undecided"):
        found = next((r for r in results if r.outcome == outcome), None)
        if found is not None:
            return found
    return Result("correct", "all values equal, in order")


def _as_sets(gold: Sequence[Value], answer: Sequence[Value], tolerance: float | None, leaf: Leaf) -> Result:
    """Members matched in any order. Wrong where one member differs from every one of the other side."""
    table = [[compare(a, b, tolerance, leaf) for b in answer] for a in gold]
    if len(gold) == len(answer) and _matching(table):
        return Result("correct", "the same members")
    columns = list(zip(*table, strict=True))
    if any(all(r.outcome == "wrong" for r in line) for line in (*table, *columns)):
        return Result("wrong", "a member that the other side does not have")
    results = [r for row in table for r in row]
    if any(r.outcome == "open" for r in results):
        return OPEN
    blamed = any(r.cause == "gold" for r in results)
    return undecided("members that could not be matched", "gold" if blamed else "response")


def _matching(table: list[list[Result]]) -> bool:
    """Whether every row can be given a column of its own that is correct for it."""
    holder: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, result in enumerate(table[row]):
            if result.outcome == "correct" and column not in tried:
                tried.add(column)
                if column not in holder or place(holder[column], tried):
                    holder[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(table)))


def _endless(value: Expr | Num | Relation) -> int:
    """The sign of an infinity, 0 for anything else."""
    text = _squeeze(value.latex) if isinstance(value, Expr) else ""
    return {"\\infty": 1, "+\\infty": 1, "-\\infty": -1}.get(text, 0)


def _squeeze(latex: str) -> str:
    return latex.replace(" ", "")
