"""The composite reward of the generator: one callable, gates cheapest first, a score with its whole breakdown.

    malformed, or undecided because of the response            -> part.malformed (-1)
    answer correct                                              -> 0
    otherwise                                                   -> w_A + w_M * M + w_C * C
    gold, verifier, reward model or judge failed                -> unscored, None

Terms and hard penalty: paper; gates and weights: ours. A term that is not there (no reward model given, judge `none`)
adds nothing, and the other weights are not rescaled: the best score is then the sum of the weights that are left. A
reward model or judge that is given is run on every decidedly wrong response, even at weight 0, for selection needs M
and C too. The two run at the same time, each on the whole batch of what the gates left.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol

from pns.errors import StageStopped, UserError
from pns.recipe import RewardPart
from pns.records import Problem, Scores, UnscoredBy, Verdict
from pns.rewards.format import format_failures
from pns.rewards.inversion import inversion
from pns.rewards.judging import EachJudge, Judge, JudgeFunction, Judgement, sound
from pns.rewards.reward_model import Calibration
from pns.rewards.steps import judge_and_tell
from pns.verify import Verifier, extract

Finish = Literal["stop", "length"]


class Scorer(Protocol):
    """What the composite asks of a reward model: a raw score a response, in order; None where it has none for it, and what
    went wrong where asking for this one failed. What it raises is the failure of all.

    It is called from one thread at a time for each composite.
    """

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> Sequence[float | Exception | None]: ...


def every_score(scorer: Scorer, problems: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """The scorer's scores, for those who can do without none of them. Raises the first failure among them."""
    out: list[float | None] = []
    for given in scorer.score(problems, texts):
        if isinstance(given, Exception):
            raise given
        out.append(given)
    return out


class Composite:
    """Scores responses; see the module's head for the rule. Safe to call from several threads.

    Args:
        part: weights, penalty, answer format, longest text.
        verifier: decides the answers; its answer format must be the part's.
        reward_model, calibration: both or neither.
        judge: `steps` (see `steps`), a Judge, a plain function (see `judging`), or None / `none`.
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
        judge: Literal["steps", "none"] | Judge | JudgeFunction | None = "steps",
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
        self.judge = as_judge(judge)
        self.counts: Counter[str] = Counter()
        self._counting, self._scoring = threading.Lock(), threading.Lock()

    def __call__(self, problems: Sequence[Problem], texts: Sequence[str], finishes: Sequence[Finish]) -> list[Scores]:
        """One Scores a response, in order. Raises ValueError when the lengths differ."""
        rows = list(zip(problems, texts, finishes, strict=True))
        failures = [self.failures(*row) for row in rows]
        scores: list[Scores | None] = [self._format_gate(failed) for failed in failures]
        formed = [i for i, done in enumerate(scores) if done is None]
        verdicts = dict(
            zip(formed, self._verify([rows[i][0] for i in formed], [rows[i][1] for i in formed]), strict=True)
        )
        for i, verdict in verdicts.items():
            scores[i] = self._answer_gate(verdict)
        wrong = [i for i in formed if scores[i] is None]
        raws, judgements = self.terms([rows[i][0].problem for i in wrong], [rows[i][1] for i in wrong])
        for i, raw, judgement in zip(wrong, raws, judgements, strict=True):
            scores[i] = self._join(verdicts[i], raw, judgement)
        scores = [_told(score, failed) for score, failed in zip(scores, failures, strict=True)]
        done = [score for score in scores if score is not None]
        self._count(done, len(formed), len(wrong))
        return done

    def close(self) -> None:
        """End the verifier's workers, and the connections of a reward model or judge behind a server."""
        for part in (self.verifier, self.reward_model, self.judge):
            close = getattr(part, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Composite:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def failures(self, problem: Problem, text: str, finish: Finish) -> tuple[str, ...]:
        """The checks of the format that a response fails."""
        return format_failures(
            text,
            problem=problem.problem,
            finish=finish,
            answer_format=self.part.answer_format,
            max_chars=self.part.max_chars,
        )

    def _format_gate(self, failures: tuple[str, ...]) -> Scores | None:
        if not failures or not self.part.format_gate:
            return None
        return Scores(gate="malformed", score=self.part.malformed, well_formed=False, format_failures=failures)

    def _verify(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        if not problems:
            return []
        try:
            verdicts = self.verifier.verify_problems(problems, texts)
            if len(verdicts) != len(texts):
                raise RuntimeError(f"{len(verdicts)} verdicts for {len(texts)} responses")
        except Exception as error:  # whatever broke, it was not the response
            return [Verdict(outcome="undecided", reason=_named(error), cause="system")] * len(problems)
        return verdicts

    def _answer_gate(self, verdict: Verdict) -> Scores | None:
        turned = inversion(verdict)
        if turned is None and verdict.cause == "response":
            return Scores(gate="undecided", score=self.part.malformed, well_formed=True, verdict=verdict)
        if turned is None:
            by: UnscoredBy = "gold" if verdict.cause == "gold" else "verifier"
            return _unscored(by, f"verifier ({verdict.cause or 'system'}): {verdict.reason}", verdict=verdict)
        if turned == 0 and self.part.accuracy_gate:
            return Scores(gate="correct", score=0.0, well_formed=True, inversion=0.0, verdict=verdict)
        return None

    def terms(self, problems: list[str], texts: list[str]) -> tuple[list[float | str | None], list[Judgement | None]]:
        """Raw reward-model scores and judgements, whatever the gates say; the two at the same time.

        One of each a response, in order; None where there is no such part. A reward model's failure is the text of its
        cause in place of a score.
        """
        if not texts:
            return [], []
        if self.reward_model is None or self.judge is None:
            return self._reward(problems, texts), self._judge(problems, texts)
        with ThreadPoolExecutor(1, thread_name_prefix="pns-judge") as pool:
            judging = pool.submit(self._judge, problems, texts)
            return self._reward(problems, texts), judging.result()

    def _reward(self, problems: list[str], texts: list[str]) -> list[float | str | None]:
        nothing: list[float | str | None] = [None] * len(texts)
        if self.reward_model is None:
            return nothing
        try:
            with self._scoring:
                raws = list(self.reward_model.score(problems, texts))
        except StageStopped:  # its readers are lost, for every response that follows, too
            raise
        except Exception as error:
            return [_named(error)] * len(texts)
        if len(raws) != len(texts):
            return [f"{len(raws)} scores for {len(texts)} responses"] * len(texts)
        return [_number(raw) for raw in raws]

    def _judge(self, problems: list[str], texts: list[str]) -> list[Judgement | None]:
        if self.judge is None:
            return [None] * len(texts)
        answers = [extract(text, self.part.answer_format).answer for text in texts]
        try:
            given = list(self.judge.judge(problems, texts, answers))
        except Exception as error:
            return [Judgement(failure="server", detail=_named(error), raised=True)] * len(texts)
        if len(given) != len(texts):
            wrong = Judgement(failure="malformed", detail=f"{len(given)} verdicts for {len(texts)} responses")
            return [wrong] * len(texts)
        return [sound(one) for one in given]

    def _join(self, verdict: Verdict, raw: float | str | None, judgement: Judgement | None) -> Scores:
        failed = isinstance(raw, str)
        value = raw if isinstance(raw, float) else None
        m = self.calibration.squash(value) if self.calibration is not None and value is not None else None
        rubric, said = (judgement.rubric, judgement.text) if judgement is not None else (None, None)
        turned = inversion(verdict) or 0.0
        part, score = self.part, None
        by: UnscoredBy | None = None
        cause = None
        if failed:
            by, cause = "reward_model", f"reward model: {raw}"
        elif judgement is not None and judgement.failure is not None:
            how = "the function raised" if judgement.raised else judgement.failure
            by, cause = _JUDGE_FAILED[judgement.failure], f"judge ({how}): {judgement.detail}"
        else:
            score = part.weight_inversion * turned
            score += part.weight_reward_model * m if m is not None else 0.0
            score += part.weight_judge * rubric.value if rubric is not None else 0.0
        return Scores(
            # Without the accuracy gate a correct response is paid, and is no negative for that.
            gate="unscored" if score is None else "scored" if turned else "correct",
            score=score, well_formed=True, inversion=turned,
            reward_raw=value, reward_model=m, rubric=rubric, judge_text=said,
            unscored_by=by, unscored_cause=cause, verdict=verdict,
        )  # fmt: skip

    def _count(self, done: Sequence[Scores], formed: int, wrong: int) -> None:
        calls = {"verifier": formed}
        if self.reward_model is not None:
            calls["reward_model"] = wrong
        if self.judge is not None:
            calls["judge"] = wrong
        with self._counting:
            self.counts.update(score.gate for score in done)
            for name, made in calls.items():
                self.counts[f"{name}_calls"] += made
                self.counts[f"{name}_saved"] += len(done) - made


_JUDGE_FAILED: dict[str, UnscoredBy] = {
    "server": "judge_server",
    "malformed": "judge_malformed",
    "budget": "judge_budget",
}


def as_judge(judge: Literal["steps", "none"] | Judge | JudgeFunction | None) -> Judge | None:
    """The judge that is meant by `steps`, `none`, a Judge or a plain function. Raises ValueError for another word."""
    if judge is None or judge == "none":
        return None
    if judge == "steps":
        return EachJudge(judge_and_tell)
    if isinstance(judge, str):
        raise ValueError(f"unknown judge {judge!r}")
    if hasattr(judge, "judge"):
        return judge
    return EachJudge(judge)


def _told(score: Scores | None, failures: tuple[str, ...]) -> Scores | None:
    """What is malformed is called so where the format gate is off, too."""
    if score is None or not failures or not score.well_formed:
        return score
    return score.model_copy(update={"well_formed": False, "format_failures": failures})


def _unscored(by: UnscoredBy, cause: str, *, verdict: Verdict) -> Scores:
    return Scores(gate="unscored", score=None, well_formed=True, unscored_by=by, unscored_cause=cause, verdict=verdict)


def _number(raw: object) -> float | str:
    """A raw score as a float (NumPy's and torch's scalars too), or what is wrong with it. Nothing becomes 0."""
    if raw is None:
        return "no score"
    if isinstance(raw, Exception):
        return _named(raw)
    if isinstance(raw, bool | str | bytes | bytearray):  # float() would read them
        return f"a {type(raw).__name__}, not a score"
    try:
        score = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return f"a {type(raw).__name__}, not a score"
    return score if math.isfinite(score) else f"the score is {score}"


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
