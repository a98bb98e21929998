"""Which engine a recipe means: one table, from its name to what makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.extras import install, missing
from pns.parts.engine import EnginePart, VllmPart
from pns.readers import Readers
from pns.sampling.engine import Engine, TransformersEngine

Loaded = tuple[Any, Any] | None

# What each kind of engine needs beside transformers: modules, the key that asks for them, and what installs them.
_NEEDS = {
    "vllm": (("vllm",), "engine.kind", f"{install('vllm')}, on a machine with a GPU that it supports"),
    "server": (("httpx2", "tenacity"), "engine.kind", install("server")),
    "ray_workers": (("ray",), "engine.ray_workers", install("ray")),
    "ray_readers": (("ray",), "engine.ray_readers", install("ray")),
}


def check_engine(part: EnginePart) -> None:
    """Whether what the engine needs is installed; loads none of it. Raises UserError."""
    for kind in (part.kind, *(name for name in ("ray_workers", "ray_readers") if getattr(part, name))):
        modules, field, remedy = _NEEDS.get(kind, ((), "", ""))
        for name in missing(modules):
            what = f"{kind} needs {name}, which is not installed"
            raise UserError(what, field=field, remedy=f"{remedy}; or leave `engine` out of the recipe")


def make_engine(
    path: str | Path,
    part: EnginePart,
    *,
    device: str,
    stage: str = "",
    threads: int = 1,
    pool: bool = True,
    loaded: Loaded = None,
    readers: Readers | None = None,
) -> Engine:
    """The engine over a model directory; `close` it.

    Args:
        stage: that made the model, which servers may know it by.
        threads: OpenMP threads of a Ray actor.
        pool: false: one engine in this process, whatever `ray_workers` says.
        readers: that Ray actors share GPUs with.
        loaded: model and tokenizer in memory, for an engine by transformers in this process; the path only names them.
    Raises UserError where what it needs is missing, or the model cannot be loaded.
    """
    check_engine(part)
    if pool and part.ray_workers:
        from pns.sampling.ray import RayEngine

        return RayEngine(path, part, device=device, stage=stage, threads=threads, readers=readers)
    return _ENGINES[part.kind](Path(path), part, device, stage, loaded)


def _transformers(path: Path, part: EnginePart, device: str, stage: str, loaded: Loaded) -> Engine:
    if part.continuous_batching:
        from pns.sampling.continuous import ContinuousEngine

        return ContinuousEngine(path, device=device, loaded=loaded)
    return TransformersEngine(path, device=device, loaded=loaded, compiled=part.compiled)


def _vllm(path: Path, part: EnginePart, device: str, stage: str, loaded: Loaded) -> Engine:
    from pns.sampling.vllm import VllmEngine

    return VllmEngine(path, part.vllm or VllmPart())


def _server(path: Path, part: EnginePart, device: str, stage: str, loaded: Loaded) -> Engine:
    assert part.server is not None  # the recipe has seen to it
    from pns.sampling.server import ServerEngine

    return ServerEngine(path, part.server, stage)


_ENGINES: dict[str, Callable[[Path, EnginePart, str, str, Loaded], Engine]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "server": _server,
}
