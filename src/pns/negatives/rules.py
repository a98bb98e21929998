"""Negatives made from a correct response by rule: `flip` and `corruption` (comparisons of method.md; rules ours).

Both return None where a rule finds nothing to change; the caller verifies what comes back, for a rule may land on
the right answer by chance.
"""

from __future__ import annotations

import random
from fractions import Fraction

from pns.rewards.arithmetic import Statement, find_steps
from pns.verify import extract

LARGEST = 10**9


def flip(text: str, rng: random.Random, *, answer_format: str, top: int | None) -> str | None:
    """The same derivation with another number as its final answer.

    The new number is near the old one (within 10), at least 0, and at most `top` where one is given.
    """
    found = extract(text, answer_format)
    value = _whole(found.answer)
    if found.answer is None or value is None:
        return None
    near = [v for v in range(max(0, value - 10), value + 11) if v != value and (top is None or v <= top)]
    return text[: found.start] + str(rng.choice(near)) + text[found.end :] if near else None


def corruption(text: str, rng: random.Random, *, answer_format: str, top: int | None) -> str | None:
    """One operand or operator of one step is changed, and the change is carried through the later steps to the answer.

    Steps are the arithmetic statements with two whole operands. Every later operand that was the result of a changed
    step becomes the new result. None where no change keeps all results whole, within 0..`top` and the answer changed.
    """
    steps = find_steps(text)
    if not steps or any(_plain(step) is None for step in steps):
        return None
    for index in rng.sample(range(len(steps)), len(steps)):
        for left, operator, right in _changes(steps[index], rng):
            out = _carried(text, steps, index, (left, operator, right), answer_format, top)
            if out is not None and out != text:
                return out
    return None


def _changes(step: Statement, rng: random.Random) -> list[tuple[int, str, int]]:
    left, operator, right = _plain(step) or (0, "+", 0)
    others = [o for o in "+-*/" if o != operator]
    near = [v for v in range(max(1, right - 5), right + 6) if v != right]
    changes = [(left, operator, v) for v in rng.sample(near, min(2, len(near)))]
    changes += [(left, o, right) for o in rng.sample(others, 2)]
    rng.shuffle(changes)
    return changes


def _carried(
    text: str,
    steps: list[Statement],
    changed: int,
    move: tuple[int, str, int],
    answer_format: str,
    top: int | None,
) -> str | None:
    new: dict[int, int] = {}  # old result -> new result, from the changed step on
    pieces, at = [], 0
    for i, step in enumerate(steps):
        left, operator, right = _plain(step) or (0, "+", 0)
        if i == changed:
            left, operator, right = move
        elif i > changed:
            left, right = new.get(left, left), new.get(right, right)
        result = _result(left, operator, right, top)
        if i < changed:
            continue
        if result is None:
            return None
        new[int(step.result)] = result
        pieces += [text[at : step.start], f"{left} {operator} {right} = {result}"]
        at = step.end
    out = "".join([*pieces, text[at:]])
    found = extract(out, answer_format)
    old = _whole(found.answer)
    if old is None or old not in new or new[old] == old:
        return None
    return out[: found.start] + str(new[old]) + out[found.end :]


def _plain(step: Statement) -> tuple[int, str, int] | None:
    """Left, operator, right of a right step of two whole operands."""
    whole = all(v.denominator == 1 for v in (*step.operands, step.result))
    if len(step.operands) != 2 or not whole or not step.right or step.percents or step.operators[0] not in "+-*/":
        return None
    return int(step.operands[0]), step.operators[0], int(step.operands[1])


def _result(left: int, operator: str, right: int, top: int | None) -> int | None:
    if operator == "/" and (right == 0 or left % right):
        return None
    value = {
        "+": lambda: Fraction(left + right),
        "-": lambda: Fraction(left - right),
        "*": lambda: Fraction(left * right),
        "/": lambda: Fraction(left, right),
    }[operator]()
    limit = LARGEST if top is None else top
    return int(value) if value.denominator == 1 and 0 <= value <= limit else None


def _whole(answer: str | None) -> int | None:
    text = (answer or "").replace(",", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
