"""From a recipe's `reward` part to the composite: the one place that knows which kinds of judge and model there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.readers import Readers
from pns.recipe import RewardModelSource, RewardPart
from pns.rewards.callables import load_callable, source_of
from pns.rewards.composite import Composite, Scorer
from pns.rewards.identity import ModelMark
from pns.rewards.judging import Judge, JudgeFunction
from pns.rewards.reward_model import Calibration
from pns.run import file_hash
from pns.verify import Verifier


def build_composite(
    part: RewardPart,
    verifier: Verifier | None = None,
    trained: tuple[Scorer, Calibration] | None = None,
    spent: Path | None = None,
    readers: Readers | None = None,
) -> Composite:
    """The composite of a recipe.

    Args:
        verifier: None makes one; the composite's `close` ends it either way.
        trained: a run's own reward model, used where the part names no other.
        spent: a file for what a judge behind a server has cost, which its budgets count on (see `judge.budget`).
        readers: that compute the scores of a model which the part names and transformers runs.
    Raises UserError where a model, server or callable that the part names cannot be had.
    """
    scorer, calibration = trained or (None, None)
    if part.reward_model is not None:
        scorer, calibration = _named_model(part.reward_model, readers)
    verifier = verifier or Verifier(part.answer_format, part.cpu_seconds, part.verify_workers)
    return Composite(part, verifier, scorer, calibration, build_judge(part, spent))


def _named_model(source: RewardModelSource, readers: Readers | None) -> tuple[Scorer, Calibration]:
    """The reward model that a recipe names, with its calibration, which must be this model's."""
    calibration = calibration_of(source)
    scorer = build_scorer(source, readers)
    try:
        calibration.check(mark_of(source, scorer), folder_of(source))
    except UserError:
        close_scorer(scorer)
        raise
    return scorer, calibration


def build_scorer(source: RewardModelSource, readers: Readers | None = None) -> Scorer:
    """The reward model that a recipe names. See `build_composite`."""
    if source.kind == "transformers":
        from pns.rewards.reward_model import FittingScorer, RewardModel

        path = str(source.path)
        how: dict[str, Any] = {"dtype": source.dtype, "revision": source.revision}
        passes = None if readers is None else readers.of("reward", path, **how)
        return FittingScorer(
            RewardModel(path, device=source.device, batch_size=source.batch_size, passes=passes, **how)
        )
    if source.kind in ("vllm", "sglang"):
        try:
            from pns.rewards.reward_server import RewardServer

            return RewardServer(source)
        except ModuleNotFoundError as error:
            raise UserError(
                f"a reward model behind a server needs {error.name}", field="reward.reward_model.kind",
                remedy='install it: pip install "plausible-negatives[server]"',
            ) from None  # fmt: skip
    return FunctionScorer(load_callable(source.kind, "reward.reward_model.kind"))


def mark_of(source: RewardModelSource, scorer: Scorer) -> ModelMark:
    """What identifies the reward model of a recipe, for its calibration."""
    mark = getattr(scorer, "mark", None)
    if mark is not None:
        found: ModelMark = mark()
        return found
    file = source_of(source.kind)
    return ModelMark(kind=source.kind, digest=None if file is None else file_hash(file))


def build_judge(part: RewardPart, spent: Path | None = None) -> Judge | JudgeFunction | Any:
    """The judge that a recipe names: `steps`, `none`, one behind a server (see `build_composite`), or a user's own callable."""
    if part.judge in ("steps", "none"):
        return part.judge
    if part.judge_server is not None:
        try:
            from pns.rewards.judge import ServerJudge
        except ModuleNotFoundError as error:
            raise _needs(error) from None
        return ServerJudge(part.judge_server, spent=spent)
    return load_callable(part.judge, "reward.judge")


def build_locator(part: RewardPart) -> Any:
    """The server of a recipe's judge, asked for the first wrong step (see `judge.locating`)."""
    if part.judge_server is None:
        raise UserError(
            "this recipe has no judge behind a server", field="reward.judge_server",
            remedy="add one; a function of your own that names steps is given as my.module:name",
        )  # fmt: skip
    try:
        from pns.rewards.judge.locating import ServerLocator
    except ModuleNotFoundError as error:
        raise _needs(error) from None
    return ServerLocator(part.judge_server)


def _needs(error: ModuleNotFoundError) -> UserError:
    return UserError(
        f"a judge behind a server needs {error.name}", field="reward.judge_server",
        remedy='install it: pip install "plausible-negatives[server]"',
    )  # fmt: skip


def close_scorer(scorer: Scorer) -> None:
    """End what a scorer holds open, if anything."""
    close = getattr(scorer, "close", None)
    if callable(close):
        close()


class FunctionScorer:
    """A user's function (problems, texts) -> scores, or object with such a `score`, as a Scorer.

    A score is a number or None; numbers of numpy and torch are taken. Anything else is an error, and so is another
    count of scores than of texts: the composite then leaves the responses unscored.
    """

    def __init__(self, given: Any) -> None:
        self._given, self._score = given, getattr(given, "score", given)

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        """See `Scorer`. Raises what the function raises, TypeError or ValueError for what is no score."""
        try:
            found = list(self._score(list(problems), list(texts)))
        except SystemExit as error:  # it would end the command, without a word
            raise RuntimeError(f"the reward model has called sys.exit({error.code})") from error
        if len(found) != len(texts):
            raise ValueError(f"{len(found)} scores for {len(texts)} responses")
        return [None if score is None else _float(score) for score in found]

    def close(self) -> None:
        """Close the user's object, where it can be."""
        close_scorer(self._given)


def _float(score: Any) -> float:
    if isinstance(score, str | bytes | bool):
        raise TypeError(f"a score is a {type(score).__name__}, and a number or None is needed")
    return float(score)


def calibration_of(source: RewardModelSource) -> Calibration:
    """The calibration that a recipe names beside its reward model; `build_composite` sees to it that it is this model's."""
    return Calibration.load(folder_of(source))


def folder_of(source: RewardModelSource) -> Path:
    """Where its calibration lies: looked at before a model is loaded for nothing. Raises UserError where it has none."""
    if source.calibration is None:
        raise UserError(
            "this reward model has no calibration", field="reward.reward_model.calibration",
            remedy="make one from correct responses: pns calibrate FILE --recipe RECIPE --out FOLDER",
        )  # fmt: skip
    return source.calibration
