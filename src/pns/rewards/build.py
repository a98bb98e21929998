"""From a recipe's `reward` part to the composite: the one place that knows which kinds of judge and model there are."""

from __future__ import annotations

import importlib
from typing import Any

from pns.errors import UserError
from pns.recipe import RewardModelSource, RewardPart
from pns.rewards.composite import Composite, Scorer
from pns.rewards.judging import Judge, JudgeFunction
from pns.rewards.reward_model import Calibration
from pns.verify import Verifier


def build_composite(
    part: RewardPart,
    verifier: Verifier | None = None,
    trained: tuple[Scorer, Calibration] | None = None,
) -> Composite:
    """The composite of a recipe.

    Args:
        verifier: None makes one; the composite's `close` ends it either way.
        trained: a run's own reward model, used where the part names no other.
    Raises UserError where a model, server or callable that the part names cannot be had.
    """
    if part.reward_model is not None:
        scorer: Scorer | None = build_scorer(part.reward_model)
        calibration: Calibration | None = _calibration(part.reward_model)
    else:
        scorer, calibration = trained or (None, None)
    verifier = verifier or Verifier(part.answer_format, part.cpu_seconds, part.verify_workers)
    return Composite(part, verifier, scorer, calibration, build_judge(part))


def build_scorer(source: RewardModelSource) -> Scorer:
    """The reward model that a recipe names. See `build_composite`."""
    if source.kind == "transformers":
        from pns.rewards.reward_model import RewardModel

        return RewardModel(
            str(source.path), device=source.device, batch_size=source.batch_size,
            dtype=source.dtype, revision=source.revision,
        )  # fmt: skip
    if source.kind in ("vllm", "sglang"):
        from pns.rewards.reward_server import RewardServer

        return RewardServer(source)
    given = load_callable(source.kind, "reward.reward_model.kind")
    return given if hasattr(given, "score") else _Function(given)


def build_judge(part: RewardPart) -> Judge | JudgeFunction | Any:
    """The judge that a recipe names: `steps`, `none`, one behind a server, or a user's own callable."""
    if part.judge in ("steps", "none"):
        return part.judge
    if part.judge_server is not None:
        try:
            from pns.rewards.judge import ServerJudge
        except ModuleNotFoundError as error:
            raise UserError(
                f"a judge behind a server needs {error.name}", field="reward.judge_server",
                remedy='install it: pip install "plausible-negatives[server]"',
            ) from None  # fmt: skip

        return ServerJudge(part.judge_server)
    return load_callable(part.judge, "reward.judge")


def load_callable(path: str, field: str) -> Any:
    """The object behind `my.module:name`. Raises UserError where there is none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"cannot load {path!r} ({error})", field=field, remedy="write my.module:name, and have it on PYTHONPATH"
        ) from None
    if not callable(found) and not hasattr(found, "judge") and not hasattr(found, "score"):
        raise UserError(f"{path!r} is not callable", field=field, remedy="name a function")
    return found


class _Function:
    """A user's function (problems, texts) -> scores, as a Scorer."""

    def __init__(self, function: Any) -> None:
        self.score = function


def _calibration(source: RewardModelSource) -> Calibration:
    if source.calibration is None:
        raise UserError(
            "this reward model has no calibration", field="reward.reward_model.calibration",
            remedy="make one from correct responses: pns calibrate FILE --recipe RECIPE --out FOLDER",
        )  # fmt: skip
    return Calibration.load(source.calibration)
