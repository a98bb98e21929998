"""Which stages compute on GPUs of this machine, whether it has any, and one for each that runs side by side. (Ours.)"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from pns.errors import UserError
from pns.launch import TRAININGS, Launcher
from pns.pipeline import SAMPLE, Stage
from pns.recipe import Recipe

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them. Starts nothing on them."""
    told = os.environ.get(VISIBLE)
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def seen() -> int | None:
    """How many torch sees; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check_here(stages: Iterable[tuple[Stage, Recipe]], launcher: Launcher | None) -> None:
    """Whether this machine has a GPU where one of these stages computes on it. Raises UserError.

    Torch is asked only where one does: to import it takes a while.
    """
    keys = {stage.name: key for stage, recipe in stages if (key := key_here(stage, recipe, launcher)) is not None}
    if not keys or seen() != 0:
        return
    (name, key), more = next(iter(keys.items())), len(keys) - 1
    who = f"{name} computes" if not more else f"{name} and {more} more stage{'s' * (more > 1)} compute"
    raise UserError(
        f"{who} on a GPU of this machine, and torch sees none", field=key,
        remedy=f"set {key}=cpu, or run it on a machine with a GPU (`pns doctor RECIPE` says what torch lacks)",
    )  # fmt: skip


def key_here(stage: Stage, recipe: Recipe, launcher: Launcher | None) -> str | None:
    """The key of the recipe by which a stage computes on a GPU of this machine; None where it does not: Ray places the
    processes of a training, and the actors that draw or read for other stages, perhaps on machines with more.
    """
    if launcher is not None and launcher.kind == "ray" and stage.call in TRAININGS:
        return None
    on_gpu, named = recipe.runtime.device == "cuda", recipe.reward.reward_model
    if on_gpu and _computes(stage, recipe):
        return "runtime.device"
    read_elsewhere = on_gpu and recipe.engine.ray_readers
    if named is not None and named.device == "cuda" and "reward" in stage.keys and not read_elsewhere:
        return "reward.reward_model.device"
    return None


def _computes(stage: Stage, recipe: Recipe) -> bool:
    """Whether a stage's own process, or one that is launched for it, has a model on `runtime.device`."""
    if "runtime.device" not in stage.keys or stage.call == "data:make_problems":  # its verdicts count by that key
        return False
    if stage.call == "policy:make_start":
        return recipe.model.kind == "pretrained"
    if stage.call == "policy:sft":  # without steps the start is copied
        return recipe.sft.steps > 0
    if stage.call in (*TRAININGS, "policy:make_base", "uses:step_verifier"):
        return True
    engine = recipe.engine
    alone = stage.name in ("samples-pns_prefix", "negatives-prefix", "negatives-prompted")  # one engine, and no actors
    draws = SAMPLE in stage.keys and engine.kind != "server" and (alone or not engine.ray_workers)
    return draws or (_reads(stage, recipe) and not engine.ray_readers)


def _reads(stage: Stage, recipe: Recipe) -> bool:
    """Whether a stage that does not train reads texts with a model of the run: log-probabilities, or scores."""
    if stage.call in ("policy:rollouts", "evaluate:evaluate"):
        return "pairs" in stage.args
    scores = stage.call == "uses:calibration" or stage.name in ("negatives-rejection", "negatives-rejection_hard")
    return not scores or recipe.reward.reward_model is None


def takes_one(recipe: Recipe, *, launched: bool) -> bool:
    """Whether a stage computes in one process on one GPU: one that a launcher starts does not, nor one whose engine or
    readers are placed by Ray, has several GPUs, or is a server that the stage starts.
    """
    engine = recipe.engine
    elsewhere = engine.ray_workers or engine.ray_readers or (engine.server is not None and engine.server.start)
    several = engine.vllm is not None and engine.vllm.tensor_parallel > 1
    return recipe.runtime.device == "cuda" and not (launched or elsewhere or several)


def least_used(gpus: Sequence[str], used: Sequence[str | None]) -> str | None:
    """The GPU with the fewest of those stages, the first of several; None where there is nothing to choose."""
    if len(gpus) < 2:
        return None
    count = Counter(used)
    return min(gpus, key=lambda name: count[name])
