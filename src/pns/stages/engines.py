"""The engines of a stage: the one that samples, as the recipe's `engine` says, and the one that computes log-probabilities."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.processes import own_device
from pns.recipe import ModelPart
from pns.sampling.engine import Engine, TransformersEngine
from pns.sampling.make import Loaded, make_engine
from pns.stages.context import Context

log = logging.getLogger("pns.engines")


def scorer(context: Context, stage: str) -> TransformersEngine:
    """Log-probabilities under the model of a stage: by transformers whatever samples, since stages compare models by them.

    It may sample, too (see `sampler`), so it decodes as the recipe's engine does.
    """
    return reader(context, context.model(stage), compiled=context.recipe.engine.compiled)


def reader(context: Context, path: Path, **how: Any) -> TransformersEngine:
    """Log-probabilities under a model directory, by the stage's readers where it has some."""
    passes = None if context.readers is None else context.readers.of("causal", str(path))
    return TransformersEngine(path, device=own_device(context.recipe.runtime.device), passes=passes, **how)


@contextmanager
def sampler(
    context: Context, stage: str, own: TransformersEngine | None = None, *, pool: bool = True
) -> Iterator[Engine]:
    """The engine that samples from the model of a stage, until the block ends.

    Args:
        own: a scorer of the same model, which samples too where that is what the recipe says: one copy in memory.
        pool: false: one engine in this process, for samples that depend on those before.
    """
    part = context.recipe.engine
    shared = part.kind == "transformers" and not part.continuous_batching and not (pool and part.ray_workers)
    if own is not None and shared:
        _warn(own, part.kind)
        yield own
        return
    with _made(context, context.model(stage), stage, pool=pool) as engine:
        yield engine


@contextmanager
def other_sampler(context: Context, model: ModelPart, field: str) -> Iterator[Engine]:
    """One engine that samples from a pretrained model which no stage has made, until the block ends.

    Args:
        field: of the recipe, that names the model.
    Raises UserError where it cannot be loaded, or is no directory and the engine reads nothing else.
    """
    try:
        path, loaded = _found(context, model)
    except UserError as error:
        raise UserError(error.message, file=error.file, field=field, remedy=error.remedy) from None
    # Servers that run already may know it by the name of the stage at work (`served_model`).
    with _made(context, path, context.name, pool=False, loaded=loaded) as engine:
        yield engine


def _found(context: Context, model: ModelPart) -> tuple[Path, Loaded]:
    from pns.training.pretrained import check_readable, load_pretrained

    path, kind = Path(str(model.path)), context.recipe.engine.kind
    if kind == "transformers":
        return path, load_pretrained(model, device=context.recipe.runtime.device)
    check_readable(model, kind)
    return path.expanduser(), None


@contextmanager
def _made(context: Context, path: Path, stage: str, *, pool: bool, loaded: Loaded = None) -> Iterator[Engine]:
    part, runtime = context.recipe.engine, context.recipe.runtime
    made = make_engine(
        path, part, device=runtime.device, stage=stage, threads=runtime.threads, pool=pool, loaded=loaded,
        readers=context.readers,
    )  # fmt: skip
    _warn(made, part.kind)
    with closing(made) as engine:
        yield engine


def _warn(engine: Engine, kind: str) -> None:
    if not engine.deterministic:
        log.warning("%s does not promise the same samples for the same seed", kind)
