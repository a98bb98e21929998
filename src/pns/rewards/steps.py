"""The judge that needs no model: it checks a solution's arithmetic, its links, its data and its ending. (Source: ours.)

It never sees the gold answer, and does not solve the problem: a wrong *reading* of the problem, worked out cleanly,
gets full marks. It reads arithmetic word problems only; a solution without a readable arithmetic statement gets no
credit for steps.

The dimensions are sharp on purpose. Averages ("share of right steps") teach a generator broken arithmetic; sharp
arithmetic without faithfulness teaches templates that ignore the problem. So a fault in one dimension caps those that
rest on it:

| fault | relevance | coherence | completeness | consistency |
|---|---|---|---|---|
| one wrong statement, or one result that nothing uses | | 1 | | at most 2 for a wrong statement |
| more of them | | 0 | | at most 1 |
| one number from nowhere, two thirds or more of the others known | 1 | at most 2 | at most 2 | |
| more numbers from nowhere | 0 | at most 1 | at most 1 | |
| the first step uses nothing of the problem | at most 1 | at most 2 | at most 2 | |
| a number of the problem used more often than it occurs, and once more | two less each | | | |
| fewer than half of the problem's numbers used | | | at most 2 | |
| gaps or empty steps, the same step twice, idle steps (`+ 0`, `* 1`), far too many steps or words | | | at most 1 | |
| the answer is an earlier result | | | at most 1 | 1 |
| the answer is no result at all | | | at most 1 | 0 |
| no statement, or no answer | 0 | 0 | 0 | 0 |
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from fractions import Fraction

from pns.records import Rubric
from pns.rewards.arithmetic import Statement, find_steps
from pns.rewards.problem_numbers import problem_numbers
from pns.verify.check import MAX_CHARS, normalise
from pns.verify.numbers import parse_plain

__all__ = ["NOTHING", "Statement", "find_steps", "judge_and_tell", "judge_steps"]

NOTHING = "no arithmetic statement found"
"""What the checker says of a response in which there was nothing for it to check: its 0 is then no finding."""

WORDS_PER_STEP = 80
SPARE_STEPS = 2
_LABEL = re.compile(r"\bstep\s+([0-9]{1,3})\b", re.IGNORECASE)


def judge_steps(problem: str, response: str, answer: str | None) -> Rubric:
    """The rubric of a response: four integers 0..3, by the table above.

    Args:
        problem: the statement. Never pass anything that holds the gold answer.
        response: the whole completion.
        answer: its extracted final answer, or None.
    """
    steps = find_steps(response)
    if not steps or answer is None:
        return Rubric(relevance=0, coherence=0, completeness=0, consistency=0)
    written, implied = problem_numbers(problem)
    relevance, unknown = _relevance(steps, written, implied)
    wrong = sum(not step.right for step in steps)
    coherence = _sharp(wrong + _loose_ends(steps))
    consistency = _consistency(steps, answer)
    completeness = _completeness(steps, response, written, implied)
    if consistency < 3:
        completeness = min(completeness, 1)
    if coherence < 3:
        consistency = min(consistency, 1 if coherence == 0 else 2 if wrong else 3)
    if unknown or relevance == 0:
        cap = 2 if relevance else 1
        coherence, completeness = min(coherence, cap), min(completeness, cap)
    return Rubric(relevance=relevance, coherence=coherence, completeness=completeness, consistency=consistency)


def judge_and_tell(problem: str, response: str, answer: str | None) -> Rubric | tuple[Rubric, str]:
    """As `judge_steps`; where there was nothing to check, with the text NOTHING beside the rubric."""
    rubric = judge_steps(problem, response, answer)
    return (rubric, NOTHING) if rubric.total == 0 and not find_steps(response) else rubric


def _sharp(faults: int) -> int:
    return 3 if faults == 0 else 1 if faults == 1 else 0


def _loose_ends(steps: list[Statement]) -> int:
    """Results, but for the last, that no later step uses. In a chain: steps that do not go on from the one before."""
    loose = 0
    used: set[Fraction] = set()  # by the later steps
    for i, step in enumerate(reversed(steps)):
        loose += i > 0 and step.result not in used
        used.update(step.operands, step.percents)
    return loose


def _relevance(steps: list[Statement], written: Counter[Fraction], implied: Counter[Fraction]) -> tuple[int, bool]:
    """The dimension, and whether numbers came from nowhere or the first step ignores the problem. 1 is neutral."""
    known = unknown = 0
    results: set[Fraction] = set()
    used: Counter[Fraction] = Counter()
    for step in steps:
        percents = {p / 100: p for p in step.percents}
        for value in step.operands:
            source = value if value in written or value in implied else percents.get(value, value)
            if value in results:
                known += 1
            elif source in written or source in implied:
                known += 1
                used[source] += 1
            elif value != 1 or _counts(step):
                unknown += 1
        results.add(step.result)
    first = steps[0]
    given = written + implied
    ignores = not any(value in given for value in (*first.operands, *first.percents))
    if unknown > 1 or (unknown and known < 2 * unknown):
        return 0, True
    score = 1 if unknown or ignores else 3
    over = sum(used[value] > written[value] + implied[value] + 1 for value in used)
    return max(0, score - 2 * over), bool(unknown or ignores)


def _counts(step: Statement) -> bool:
    """Whether a 1 in this step is a number like others (`14 - 1`), not a whole (`1 - 0.2`) or a unit (`60 * 1`)."""
    return set(step.operators) <= {"+", "-"} and all(value.denominator == 1 for value in step.operands)


def _consistency(steps: list[Statement], answer: str) -> int:
    plain = parse_plain(normalise(answer)) if len(answer) <= MAX_CHARS else None
    if plain is None:
        return 0
    readings = {plain.value, plain.value / 100} if plain.percent else {plain.value}
    reached = [bool(readings & ({s.result, s.result * 100} if s.percent else {s.result})) for s in steps]
    return 3 if reached[-1] else 1 if any(reached) else 0


def _completeness(steps: list[Statement], response: str, written: Counter[Fraction], implied: Counter[Fraction]) -> int:
    same = Counter((step.operands, step.operators) for step in steps)
    given = {value for value in written if value != 1}
    used = {value for step in steps for value in (*step.operands, *step.percents)}
    too_many = len(steps) > sum(written.values()) + sum(1 for value in implied if value != 1) + SPARE_STEPS
    if (
        _gaps(response, steps)
        or max(same.values()) > 1
        or any(_idle(step) for step in steps)
        or too_many
        or len(response.split()) > WORDS_PER_STEP * (len(steps) + 1)
    ):
        return 1
    return 2 if 2 * len(given & used) < len(given) else 3


def _gaps(response: str, steps: list[Statement]) -> bool:
    """Whether `Step i` labels, where there are any, leave a number out or name a step without a statement in it."""
    labels = list(_LABEL.finditer(response))
    if not labels:
        return False
    if [int(m[1]) for m in labels] != list(range(1, len(labels) + 1)):
        return True
    begins, ends = [s.start for s in steps], [m.start() for m in labels[1:]] + [len(response)]
    return any(bisect_left(begins, m.start()) == bisect_left(begins, end) for m, end in zip(labels, ends, strict=True))


def _idle(step: Statement) -> bool:
    """A step that changes nothing: `14 + 0`, `14 * 1`."""
    if len(step.operands) != 2 or len(step.operators) != 1:
        return False
    second, operator = step.operands[1], step.operators[0]
    if operator in "*/":
        return second == 1
    return second == 0 or (operator == "+" and step.operands[0] == 0)
