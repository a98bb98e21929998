"""The first wrong step of a response, where rules can decide it; otherwise undecided. (Source: ours.)

- `arithmetic`: the first step with a false arithmetic statement, where every step before it has a statement that was read,
  or no digit, or stands in the chosen response too.
- `consistency`: the step with the final answer, where the answer is verified wrong, all statements hold and fit together,
  and the last of them gives another number than the answer.
- `only_step`: the step at which the response leaves the chosen one, where the chosen answer is verified correct and the
  other one wrong, and nothing else differs but results that are carried on.

A label says more than that a step is wrong: it says that all steps before it are right. So a false statement behind steps
that nobody could read decides nothing, unless `any_false` takes it. A response with a right answer has no label: on human
labels a statement that is called false there is rarely the first wrong step.

`only_step` takes the steps of a chosen response with a correct answer as right, which the answer alone does not prove.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pns.evaluation.texts import any_answer
from pns.records import Outcome
from pns.rewards.arithmetic import Statement, find_steps
from pns.rewards.problem_numbers import problem_numbers
from pns.rewards.steps import judge_steps
from pns.verify.check import normalise
from pns.verify.numbers import parse_plain

By = Literal["arithmetic", "consistency", "only_step", "judge"]
"""Who decided. `judge`: a judge was asked (see `step_labels`); it is none of the rules here."""

RIGHT_ANSWER = "its answer is right"
NOTHING_FOUND = "no rule finds a wrong step"
UNREAD = "a false statement, but not all steps before it were read"
SHARED = "the chosen response has the same false step"

_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(r"[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?|\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Label:
    """The first wrong step (0-based) and who decided it; or None, None and why it is undecided.

    `at_latest`: an undecided response has a false statement here, so that no later step is the first wrong one.
    """

    step: int | None
    by: By | None = None
    why: str = ""
    at_latest: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The correct response to the same problem: its steps, and what the verifier says of its answer (None: not asked)."""

    steps: Sequence[str]
    outcome: Outcome | None = None


def first_error(
    problem: str,
    steps: Sequence[str],
    outcome: Outcome | None,
    chosen: Chosen | None = None,
    *,
    any_false: bool = False,
) -> Label:
    """The first wrong step, by the rules at the head of this module.

    Args:
        steps: of the response, one or more.
        outcome: what the verifier says of its answer; None where there is no gold answer.
        any_false: take the first false statement also where steps before it could not be read.
    """
    if outcome == "correct":
        return Label(None, why=RIGHT_ANSWER)
    shared = 0
    if chosen is not None and chosen.outcome != "wrong":
        shared = common_steps(chosen.steps, steps)
    found = [find_steps(step) for step in steps]
    false = next((i for i, statements in enumerate(found) if any(not s.right for s in statements)), None)
    if false is not None:
        if chosen is not None and _plain(steps[false]) in {_plain(step) for step in chosen.steps}:
            return Label(None, why=SHARED)
        read = all(found[i] or not _DIGIT.search(steps[i]) for i in range(shared, false))
        return Label(false, "arithmetic") if read or any_false else Label(None, why=UNREAD, at_latest=false)
    if outcome == "wrong":
        at = _contradiction(problem, steps, found)
        if at is not None:
            return Label(at, "consistency")
        if chosen is not None and chosen.outcome == "correct" and _only_step(steps, chosen.steps, shared):
            return Label(shared, "only_step")
    return Label(None, why=NOTHING_FOUND)


def common_steps(left: Sequence[str], right: Sequence[str]) -> int:
    """How many steps two responses share from the beginning, word for word, white space aside."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if _plain(a) != _plain(b)), min(len(left), len(right)))


def numbers_differ(left: str, right: str) -> bool:
    """Whether two steps have other numbers: one that only words its numbers in another way is not another step."""
    return sorted(_numbers(left)) != sorted(_numbers(right))


def _contradiction(problem: str, steps: Sequence[str], found: Sequence[Sequence[Statement]]) -> int | None:
    """The step with the answer, where all that comes before it leads to another number than the answer."""
    at = next((i for i in reversed(range(len(steps))) if any_answer(steps[i]) is not None), None)
    flat = [statement for statements in found for statement in statements]
    if at is None or not flat or any(found[at + 1 :]):
        return None
    answer = any_answer(steps[at]) or ""
    value = parse_plain(normalise(answer)) if len(answer) <= 100 else None
    if value is None or not all(found[i] or not _DIGIT.search(steps[i]) for i in range(at)):
        return None
    result = flat[-1].result
    text, numbers = "\n\n".join(steps), (value.value, value.value / 100)
    if abs(value.value) == abs(result) or (result.denominator != 1 and abs(value.value - result) < 1):
        return None  # another sign, or the result rounded
    if judge_steps(problem, text, answer).consistency > 0 or judge_steps(problem, text, str(result)).total < 12:
        return None  # an earlier result may be what is asked for; and the checker must have no other doubt
    if any(number in numbers for step in steps[:at] for number in _numbers(step)):
        return None
    # What stands between the last statement and the answer may be a step of its own, in words: `half of it is`
    said = steps[at][found[at][-1].end if found[at] else 0 :].replace(answer, " ")
    written, implied = problem_numbers(said)
    return None if implied or any(number != result for number in written) else at


def _only_step(steps: Sequence[str], chosen: Sequence[str], at: int) -> bool:
    """Whether two responses differ in the step `at`, and after it in nothing but results that were carried on."""
    if len(steps) != len(chosen) or at >= len(steps) or not numbers_differ(chosen[at], steps[at]):
        return False
    carried: dict[Fraction, set[Fraction]] = {}
    for i, (old, new) in enumerate(zip(chosen[at:], steps[at:], strict=True)):
        before, after = find_steps(old), find_steps(new)
        if len(before) != len(after) or any(not s.right for s in before):
            return False
        for a, b in zip(before, after, strict=True):
            carried.setdefault(a.result, set()).add(b.result)
        if i and not _same_but(old, new, carried):
            return False
    return True


def _same_but(old: str, new: str, carried: dict[Fraction, set[Fraction]]) -> bool:
    """Whether two steps have the same words, and numbers that are the same or carried on."""
    if _plain(_NUMBER.sub("0", old)) != _plain(_NUMBER.sub("0", new)):
        return False
    pairs = zip(_numbers(old), _numbers(new), strict=True)
    return all(a == b or b in carried.get(a, ()) for a, b in pairs)


def _numbers(text: str) -> list[Fraction]:
    """The numbers of a text in order. Digits beyond 40, which no statement has, are cut."""
    return [Fraction(m.group().replace(",", "")[:40].rstrip(".")) for m in _NUMBER.finditer(text)]


def _plain(step: str) -> str:
    return " ".join(step.split())
