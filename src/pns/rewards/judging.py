"""What the composite asks of a chain-of-thought judge, whoever answers. (Rubric: method.md; protocol: ours.)

A judge reads problem, response and the response's own final answer, never the gold one. It answers for a whole batch,
so that one behind a server can work on many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from pns.records import Rubric

JudgeFailure = Literal["server", "malformed", "budget"]
Marks = Rubric | Mapping[str, int]
JudgeFunction = Callable[[str, str, str | None], Marks | tuple[Marks, str]]
"""(problem, response, extracted answer) -> rubric, or rubric and the judge's own text.

A mapping with exactly the rubric's four names, each an integer 0..3, will do for a rubric.
"""


@dataclass(frozen=True, slots=True)
class FirstError:
    """What a judge that was asked for it says: the first wrong step (0-based), -1: none is, None: it cannot tell."""

    step: int | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer of a judge: a rubric (or, where it was asked for that, the first wrong step), or the cause of its
    failure with a detail. Exactly one of the three is set.

    `text` is what the judge itself wrote, if anything. A failure leaves the response unscored, never at zero:
    `server` (unreachable, error status, time-out), `malformed` (an answer that is no verdict), `budget` (not asked).
    `raised`: the failure `server` is an exception of a judge that is no server of ours.
    """

    rubric: Rubric | None = None
    text: str | None = None
    failure: JudgeFailure | None = None
    detail: str = ""
    first_error: FirstError | None = None
    raised: bool = False

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.rubric, self.failure, self.first_error)) != 1:
            raise ValueError("a judgement has either a rubric, or a first error, or a failure")


class Judge(Protocol):
    """Judges batches. `judge` must be safe to call from any thread, and returns one Judgement a response, in order."""

    def judge(
        self, problems: Sequence[str], responses: Sequence[str], answers: Sequence[str | None]
    ) -> list[Judgement]: ...


class EachJudge:
    """A plain function as a Judge. What it raises, or returns in place of a Rubric, is that response's failure."""

    def __init__(self, function: JudgeFunction) -> None:
        self.function = function

    def judge(
        self, problems: Sequence[str], responses: Sequence[str], answers: Sequence[str | None]
    ) -> list[Judgement]:
        return [self._one(*row) for row in zip(problems, responses, answers, strict=True)]

    def _one(self, problem: str, response: str, answer: str | None) -> Judgement:
        try:
            given = self.function(problem, response, answer)
        except Exception as error:  # a user's own function may raise anything; it was not the response's fault
            return Judgement(failure="server", detail=f"{type(error).__name__}: {error}", raised=True)
        marks, said = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        rubric: Any = marks
        if isinstance(marks, Mapping):
            rubric = _rubric(marks)
            if rubric is None:
                return Judgement(failure="malformed", detail="a mapping that is not the four integers 0 to 3")
        if not isinstance(rubric, Rubric):
            return Judgement(failure="malformed", detail=f"a {type(rubric).__name__}, not a Rubric")
        if said is not None and not isinstance(said, str):
            return Judgement(failure="malformed", detail=f"a {type(said).__name__} beside the Rubric, not a text")
        return Judgement(rubric=rubric, text=said)


def sound(given: Any) -> Judgement:
    """What a judge returned for one response; a failure `malformed` where that is no Judgement, or holds odd things."""
    if not isinstance(given, Judgement):
        return Judgement(failure="malformed", detail=f"a {type(given).__name__}, not a Judgement")
    if given.text is not None and not isinstance(given.text, str):
        return Judgement(failure="malformed", detail=f"a Judgement with a {type(given.text).__name__} for its text")
    if given.first_error is not None:
        return Judgement(failure="malformed", detail="a Judgement of steps, where a rubric is needed")
    if given.rubric is not None and not isinstance(given.rubric, Rubric):
        return Judgement(failure="malformed", detail=f"a Judgement with a {type(given.rubric).__name__} for its rubric")
    if given.failure is not None and given.failure not in get_args(JudgeFailure):
        return Judgement(failure="malformed", detail=f"a Judgement with the unknown failure {given.failure!r}")
    return given


def _rubric(marks: Mapping[Any, Any]) -> Rubric | None:
    """The rubric of a mapping, read as strictly as a judge's JSON; None where it is none."""
    if set(marks) != set(Rubric.model_fields):
        return None
    if any(type(mark) is not int or not 0 <= mark <= 3 for mark in marks.values()):  # bool is an int to isinstance
        return None
    return Rubric(**marks)
