"""What the composite asks of a chain-of-thought judge, whoever answers. (Rubric: method.md; protocol: ours.)

A judge reads problem, response and the response's own final answer, never the gold one. It answers for a whole batch,
so that one behind a server can work on many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pns.records import Rubric

JudgeFailure = Literal["server", "malformed", "budget"]
JudgeFunction = Callable[[str, str, str | None], Rubric | tuple[Rubric, str]]
"""(problem, response, extracted answer) -> rubric, or rubric and the judge's own text."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer of a judge: a rubric, or the cause of its failure with a detail. Exactly one of the two is set.

    `text` is what the judge itself wrote, if anything. A failure leaves the response unscored, never at zero:
    `server` (unreachable, error status, time-out), `malformed` (an answer that is no verdict), `budget` (not asked).
    """

    rubric: Rubric | None = None
    text: str | None = None
    failure: JudgeFailure | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        if (self.rubric is None) == (self.failure is None):
            raise ValueError("a judgement has either a rubric or a failure")


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
            return Judgement(failure="server", detail=f"{type(error).__name__}: {error}")
        rubric, said = given if isinstance(given, tuple) else (given, None)
        if not isinstance(rubric, Rubric):
            return Judgement(failure="malformed", detail=f"a {type(rubric).__name__}, not a Rubric")
        return Judgement(rubric=rubric, text=said)
