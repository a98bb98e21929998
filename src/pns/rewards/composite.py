"""The composite reward of the generator: one callable, gates cheapest first, a score with its whole breakdown.

    malformed, or undecided because of the response            -> part.malformed (-1)
    answer correct                                              -> 0
    otherwise                                                   -> w_A + w_M * M + w_C * C
    gold, verifier, reward model or judge failed                -> unscored, None

Terms and hard penalty: paper; gates and weights: ours. A term that is not there (no reward model given, judge `none`)
adds nothing, and the other weights are not rescaled: the best score is then the sum of the weights that are left. A
reward model or judge that is given is run on every decidedly wrong response, even at weight 0, for selection needs M
and C too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pns.errors import UserError
from pns.recipe import RewardPart
from pns.records import Problem, Rubric, Scores, Verdict
from pns.rewards.format import format_failures
from pns.rewards.inversion import inversion
from pns.rewards.reward_model import Calibration
from pns.rewards.steps import judge_steps
from pns.verify import Verifier, extract

Judge = Callable[[str, str, str | None], Rubric | tuple[Rubric, str]]
"""(problem, response, extracted answer) -> rubric, or rubric and the judge's own text. Never given the gold answer."""

Finish = Literal["stop", "length"]


class Scorer(Protocol):
    """What the composite asks of a reward model."""

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float]: ...


class Composite:
    """Scores responses; see the module's head for the rule.

    Args:
        part: weights, penalty, answer format, longest text.
        verifier: decides the answers; its answer format must be the part's.
        reward_model, calibration: both or neither.
        judge: `steps` (see `steps`), a callable, or None / `none`.
    Attributes:
        counts: per gate (`malformed`, `undecided`, `correct`, `scored`, `unscored`) and, for each dear part, calls
            made and calls saved (`verifier_calls`, `verifier_saved`, `reward_model_calls`, ...), in responses.
    Raises UserError for parts that do not fit together.
    """

    def __init__(
        self,
        part: RewardPart,
        verifier: Verifier,
        reward_model: Scorer | None = None,
        calibration: Calibration | None = None,
        judge: Literal["steps", "none"] | Judge | None = "steps",
    ) -> None:
        if (reward_model is None) != (calibration is None):
            raise UserError("a reward model and its calibration go together", remedy="give both or neither")
        if verifier.answer_format != part.answer_format:
            raise UserError(
                f"the verifier reads {verifier.answer_format}, the reward {part.answer_format}",
                field="reward.answer_format",
            )
        self.part, self.verifier = part, verifier
        self.reward_model, self.calibration = reward_model, calibration
        self.judge: Judge | None = judge_steps if judge == "steps" else None if judge in (None, "none") else judge  # type: ignore[assignment]
        self.counts: Counter[str] = Counter()

    def __call__(self, problems: Sequence[Problem], texts: Sequence[str], finishes: Sequence[Finish]) -> list[Scores]:
        """One Scores a response, in order. Raises ValueError when the lengths differ."""
        rows = list(zip(problems, texts, finishes, strict=True))
        scores: list[Scores | None] = [self._format_gate(*row) for row in rows]
        formed = [i for i, done in enumerate(scores) if done is None]
        verdicts = self._verify([rows[i][0].answer for i in formed], [rows[i][1] for i in formed])
        for i, verdict in zip(formed, verdicts, strict=True):
            scores[i] = self._answer_gate(verdict)
        wrong = [i for i in formed if scores[i] is None]
        raws, failure = self._reward([rows[i][0].problem for i in wrong], [rows[i][1] for i in wrong])
        for i, raw in zip(wrong, raws, strict=True):
            scores[i] = self._join(rows[i][0], rows[i][1], raw, failure)
        done = [score for score in scores if score is not None]
        self._count(done, len(formed), len(wrong), 0 if failure else len(wrong))
        return done

    def _format_gate(self, problem: Problem, text: str, finish: Finish) -> Scores | None:
        failures = format_failures(
            text,
            problem=problem.problem,
            finish=finish,
            answer_format=self.part.answer_format,
            max_chars=self.part.max_chars,
        )
        if not failures:
            return None
        return Scores(gate="malformed", score=self.part.malformed, well_formed=False, format_failures=failures)

    def _verify(self, golds: list[str], texts: list[str]) -> list[Verdict]:
        if not golds:
            return []
        try:
            return self.verifier.verify(golds, texts)
        except Exception as error:  # whatever broke, it was not the response
            return [Verdict(outcome="undecided", reason=_named(error), cause="system")] * len(golds)

    def _answer_gate(self, verdict: Verdict) -> Scores | None:
        turned = inversion(verdict)
        if turned is None and verdict.cause == "response":
            return Scores(gate="undecided", score=self.part.malformed, well_formed=True)
        if turned is None:
            return _unscored(f"verifier ({verdict.cause or 'system'}): {verdict.reason}")
        return Scores(gate="correct", score=0.0, well_formed=True, inversion=0.0) if turned == 0 else None

    def _reward(self, problems: list[str], texts: list[str]) -> tuple[list[float | None], str | None]:
        """Raw scores (None each without a reward model), and what made the reward model fail, if it did."""
        nothing: list[float | None] = [None] * len(texts)
        if self.reward_model is None or not texts:
            return nothing, None
        try:
            raws: list[float | None] = list(self.reward_model.score(problems, texts))
        except Exception as error:
            return nothing, f"reward model: {_named(error)}"
        if len(raws) != len(texts):
            return nothing, f"reward model: {len(raws)} scores for {len(texts)} responses"
        return raws, None

    def _join(self, problem: Problem, text: str, raw: float | None, failure: str | None) -> Scores:
        if failure is None and raw is not None and not math.isfinite(raw):
            failure = f"reward model: the score is {raw}"
        if failure is not None:
            return _unscored(failure, inversion=1.0)
        m = self.calibration.squash(raw) if self.calibration is not None and raw is not None else None
        rubric, said = None, None
        if self.judge is not None:
            try:
                given = self.judge(problem.problem, text, extract(text, self.part.answer_format).answer)
                rubric, said = given if isinstance(given, tuple) else (given, None)
                if not isinstance(rubric, Rubric):
                    raise TypeError(f"the judge gave a {type(rubric).__name__}, not a Rubric")
            except Exception as error:
                return _unscored(f"judge: {_named(error)}", inversion=1.0, reward_raw=raw, reward_model=m)
        part = self.part
        total = part.weight_inversion
        total += part.weight_reward_model * m if m is not None else 0.0
        total += part.weight_judge * rubric.value if rubric is not None else 0.0
        return Scores(
            gate="scored", score=total, well_formed=True, inversion=1.0,
            reward_raw=raw, reward_model=m, rubric=rubric, judge_text=said,
        )  # fmt: skip

    def _count(self, done: Sequence[Scores], formed: int, wrong: int, judged: int) -> None:
        self.counts.update(score.gate for score in done)
        calls = {"verifier": formed}
        if self.reward_model is not None:
            calls["reward_model"] = wrong
        if self.judge is not None:
            calls["judge"] = judged
        for name, made in calls.items():
            self.counts[f"{name}_calls"] += made
            self.counts[f"{name}_saved"] += len(done) - made


def _unscored(
    cause: str, *, inversion: float | None = None, reward_raw: float | None = None, reward_model: float | None = None
) -> Scores:
    return Scores(
        gate="unscored", score=None, well_formed=True, unscored_cause=cause,
        inversion=inversion, reward_raw=reward_raw, reward_model=reward_model,
    )  # fmt: skip


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
