"""A GPU of its own for each of several stages that run side by side on one machine. (Ours.)"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from pns.recipe import Recipe

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them. Starts nothing on them."""
    told = os.environ.get(VISIBLE)
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


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
