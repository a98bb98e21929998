"""The engines of a stage: the one that samples, as the recipe's `engine` says, and the one that computes log-probabilities."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

from pns.sampling.engine import Engine, TransformersEngine
from pns.sampling.make import make_engine
from pns.stages.context import Context

log = logging.getLogger("pns.engines")


def scorer(context: Context, stage: str) -> TransformersEngine:
    """Log-probabilities under the model of a stage: by transformers whatever samples, since stages compare models by them."""
    return TransformersEngine(context.model(stage), device=context.recipe.runtime.device)


@contextmanager
def sampler(
    context: Context, stage: str, own: TransformersEngine | None = None, *, pool: bool = True
) -> Iterator[Engine]:
    """The engine that samples from the model of a stage, until the block ends.

    Args:
        own: a scorer of the same model, which samples too where that is what the recipe says: one copy in memory.
        pool: false: one engine in this process, for samples that depend on those before.
    """
    part, runtime = context.recipe.engine, context.recipe.runtime
    shared = part.kind == "transformers" and not part.continuous_batching and not (pool and part.ray_workers)
    if own is not None and shared:
        yield own
        return
    made = make_engine(
        context.model(stage), part, device=runtime.device, stage=stage, threads=runtime.threads, pool=pool
    )
    if not made.deterministic:
        log.warning("%s does not promise the same samples for the same seed", part.kind)
    with closing(made) as engine:
        yield engine
