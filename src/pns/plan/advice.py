"""What would make a recipe faster on its machine, from the estimates: advice, so no check of it fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pns.plan.cost import USABLE
from pns.plan.estimate import Estimate, Setting, engines, estimate, vllm_of
from pns.plan.words import duration, size
from pns.recipe import Recipe


def advice(recipe: Recipe, found: list[Estimate], setting: Setting) -> Iterator[tuple[str, str]]:
    """(name, what to set and what it gains) of each piece."""
    yield from _samplers(recipe, setting)
    yield from _passes(recipe, found, setting)
    yield from _readers(recipe, found, setting)


def _samplers(recipe: Recipe, setting: Setting) -> Iterator[tuple[str, str]]:
    """Where stages that do not train sample on fewer devices than there are."""
    part, gpus = vllm_of(recipe, setting, training=False), setting.spread.gpus
    each = 1 if part is None else part.tensor_parallel
    drawing, most = engines(recipe, setting), gpus // each
    if recipe.engine.server is not None or drawing >= most:
        return
    one, more = ("GPU", "GPUs") if recipe.runtime.device == "cuda" else ("process", "processes")
    on = f"one {one}" if drawing * each == 1 else f"{drawing * each} {more}"
    yield "samples", f"samples run on {on} of {gpus}; set engine.ray_workers={most}"


# What says how many rows a pass has, of each part that trains.
_PASSES = {
    "sft": "gradient_accumulation", "reward_model": "gradient_accumulation", "align": "gradient_accumulation",
    "rlvr": "micro_batch", "generator": "micro_batch",
}  # fmt: skip


def _passes(recipe: Recipe, found: list[Estimate], setting: Setting) -> Iterator[tuple[str, str]]:
    """Where passes of more rows would fit: a GPU is slow at small ones, whose layers take as long to launch as large ones'.

    On a CPU small passes are the faster ones.
    """
    if recipe.runtime.device == "cpu":
        return
    worst: dict[str, Estimate] = {}  # of the stages of each part the one that takes the most memory
    for one in sorted(found, key=lambda e: -e.memory):
        part = one.name.split("-")[0]
        if one.work.train is not None and part in _PASSES:
            worst.setdefault(part, one)
    told = [text for part, one in worst.items() if (text := _wider(part, one, recipe, setting))]
    if told:
        yield "passes", f"wider ones would fit: {'; '.join(told)}"


def _wider(part: str, one: Estimate, recipe: Recipe, setting: Setting) -> str:
    """The widest passes of a training that fit, where they save a tenth of its time; else empty."""
    train, room = one.work.train, USABLE * setting.machine.memory_gb * 1e9 / recipe.runtime.jobs
    assert train is not None, "it trains"
    for several in (n for n in range(1, train.accumulation) if train.accumulation % n == 0):
        wide = estimate(one.name, replace(one.work, train=replace(train, accumulation=several)), recipe, setting)
        share = wide.seconds["train"] / one.seconds["train"]
        if wide.memory <= room and share < 0.9:
            key = _PASSES[part]
            value = several if key == "gradient_accumulation" else train.rows // several
            return f"{part}.{key}={value} takes about {size(wide.memory)} and {share:.0%} of the time in training"
    return ""


def _readers(recipe: Recipe, found: list[Estimate], setting: Setting) -> Iterator[tuple[str, str]]:
    """Where a reader on each GPU would save a twentieth of all time: what no training reads is on one GPU without."""
    part, gpus = recipe.engine, setting.spread.gpus
    whole = part.vllm is not None and part.vllm.tensor_parallel > 1  # no room beside an actor that has whole GPUs
    if recipe.runtime.device == "cpu" or part.ray_readers >= gpus or whole:
        return
    more = recipe.model_copy(update={"engine": part.model_copy(update={"ray_readers": gpus})})
    spread = [estimate(one.name, one.work, more, setting) for one in found]
    if max(one.memory for one in spread) > setting.machine.memory_gb * 1e9:
        return
    once = sum(one.total for one in found)
    reads, fewer = (sum(one.seconds.get("read", 0.0) for one in ones) for ones in (found, spread))
    if reads - fewer > 0.05 * once:
        detail = f"engine.ray_readers={gpus} reads in {duration(fewer)} what takes {duration(reads)}, of {duration(once)} in all"
        yield "readers", detail
