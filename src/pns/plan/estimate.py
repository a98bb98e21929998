"""Estimates of every stage: the counted work put through the cost model. Pure functions, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pns import pipeline
from pns.errors import UserError
from pns.plan import cost
from pns.plan.cost import Spread
from pns.plan.machine import Machine
from pns.plan.shapes import Shape
from pns.plan.work import Assumptions, Read, Sample, Train, Which, Work, longest_generated, work_of
from pns.recipe import GrpoVllmPart, Recipe, VllmPart
from pns.sampling.vllm import MOST_TOGETHER

TEXT_BYTES = 5.0
"""Bytes on disk of a sampled token, its row's other fields with it."""


@dataclass(frozen=True)
class Setting:
    """All that an estimate rests on besides the recipe. `continuous`: of all sampling, in place of what the recipe says."""

    shapes: Mapping[Which, Shape]
    machine: Machine
    spread: Spread
    given: Assumptions
    price_in: float | None = None
    price_out: float | None = None
    continuous: bool | None = None


@dataclass
class Estimate:
    """Of one stage. Seconds by what they go to, of all devices at work together; bytes of one device."""

    name: str
    work: Work
    seconds: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0
    disk: float = 0.0
    scratch: float = 0.0
    price: float | None = None

    @property
    def total(self) -> float:
        """Seconds of the stage."""
        return sum(self.seconds.values())

    @property
    def bound(self) -> str:
        """What most of its time goes to."""
        return max(self.seconds, key=lambda k: self.seconds[k]) if self.seconds else ""


def estimates(recipe: Recipe, setting: Setting) -> list[Estimate]:
    """One for each stage, in the order of the flow. Raises UserError where numbers are too large to reckon with."""
    nodes = pipeline.stages(recipe).values()
    try:
        found = [estimate(node.name, work_of(node, recipe, setting.given), recipe, setting) for node in nodes]
        finite = all(map(math.isfinite, _numbers(totals(found, setting.spread, recipe.runtime.jobs))))
    except OverflowError:
        finite = False
    if not finite:
        raise UserError(
            "the estimates are beyond all numbers",
            remedy="is a number of the recipe, of --machine, or of --assume far too large?",
        )
    return found


def _numbers(whole: Mapping[str, Any]) -> list[float]:
    """All that `totals` gives."""
    return [x for x in (*whole.values(), *whole["seconds_by"].values()) if isinstance(x, int | float)]


def estimate(name: str, work: Work, recipe: Recipe, setting: Setting) -> Estimate:
    """Seconds, memory, disk and price of a stage's work."""
    machine, given = setting.machine, setting.given
    out = Estimate(name, work)
    seconds = {"decode": _decode_seconds(work, recipe, setting), "read": 0.0, "train": 0.0}
    for sample in work.samples:
        out.memory = max(out.memory, _sample_bytes(sample, work, recipe, setting))
    for read in work.reads:
        seconds["read"] += read.rounds * _read_seconds(read, work, recipe, setting)
    out.memory = max(out.memory, _held(work, setting))
    if work.train is None:  # one shard is read while the next one is drawn
        out.memory += max((_read_bytes(read, recipe, setting) for read in work.reads), default=0.0)
    if work.train is not None:
        seconds["train"] = work.train.steps * _step_seconds(work.train, recipe, setting)
        beside = _held(work, setting) + _awake(work, recipe, setting)
        out.memory = max(out.memory, _train_bytes(work.train, recipe, setting) + beside)
        out.scratch = cost.checkpoint_bytes(
            setting.shapes[work.train.model],
            head=_head(work.train.model),
            trained=_trained(work.train, recipe, setting),
            stored=_stored(recipe, setting),
        )
    out.memory += 1e9 * machine.process_gb
    seconds["verify"] = work.verified * given.symbolic * machine.verify_seconds / recipe.reward.verify_workers
    judge = recipe.reward.judge_server
    if judge is not None and work.calls:
        concurrency = judge.server.concurrency
        seconds["judge"] = cost.judge_seconds(work.calls, work.rounds, given.judge_seconds, concurrency)
        if setting.price_in is not None and setting.price_out is not None:
            out.price = cost.judge_cost(
                work.calls, given.judge_prompt_tokens, given.judge_tokens, setting.price_in, setting.price_out
            )
    kept = sum(machine.width * setting.shapes[m].parameters(head=_head(m)) for m in work.models)
    out.disk = kept + TEXT_BYTES * work.decoded
    seconds["fixed"] = machine.stage_seconds + out.disk / (machine.disk_gbs * 1e9)
    out.seconds = {k: v for k, v in seconds.items() if v}
    return out


def _head(model: Which) -> bool:
    return model != "reward_model"


def _trained(train: Train, recipe: Recipe, setting: Setting) -> int | None:
    """Parameters with gradients, where these are adapters."""
    lora = recipe.align.lora
    if not train.lora or lora is None:
        return None
    return setting.shapes[train.model].lora_parameters(lora.r, lora.target_modules)


def _stored(recipe: Recipe, setting: Setting) -> int:
    """Bytes of a number of a training's state. Where it is shared, FSDP2 under accelerate turns it into float32, and DeepSpeed
    keeps it so.
    """
    return _loaded(recipe, setting) if setting.spread.sharing == 1 else 4


def _loaded(recipe: Recipe, setting: Setting) -> int:
    """Bytes of a weight as a training loads it: `runtime.train_dtype` on a GPU; on a CPU a model keeps its own."""
    if recipe.runtime.device == "cpu":
        return setting.machine.width
    return 4 if recipe.runtime.train_dtype == "float32" else 2


def loaded_bytes(work: Work, recipe: Recipe, setting: Setting) -> float:
    """Bytes of main memory into which each launched process of a training loads its models, whole, before the trainer takes
    them to its GPU: what it trains and, beside it, the reference.
    """
    if work.train is None:
        return 0.0
    weights = setting.shapes[work.train.model].parameters(head=_head(work.train.model))
    return (2 if work.train.reference else 1) * _loaded(recipe, setting) * weights


def _spread(sample: Sample, setting: Setting) -> Spread:
    flag = sample.continuous if setting.continuous is None else setting.continuous
    return replace(setting.spread, continuous=flag, compiled=sample.compiled)


def _decode_seconds(work: Work, recipe: Recipe, setting: Setting) -> float:
    """Seconds of all that a stage samples: in a training on all devices; else its calls divided among engines."""
    if work.train is not None:
        return sum(
            s.rounds * _sample_seconds(s, s.rows, setting.spread.gpus, work, recipe, setting) for s in work.samples
        )
    pooled = [s for s in work.samples if s.pool]
    alone = [s for s in work.samples if not s.pool]
    return _in_calls(pooled, work, recipe, setting) + sum(_in_calls([s], work, recipe, setting) for s in alone)


def _in_calls(samples: list[Sample], work: Work, recipe: Recipe, setting: Setting) -> float:
    """Seconds of completions whose shards are asked for together, by as many calls at a time as there are engines."""
    if not samples:
        return 0.0
    pool, size = samples[0].pool, _call(samples, recipe, setting)
    if size > samples[0].batch:  # a call takes shards of all of them, which have the same lengths
        samples = [replace(samples[0], rows=sum(s.rows for s in samples))]
    served = _replicas(recipe, setting)
    workers = 1 if served or not pool else engines(recipe, setting)
    calls: list[tuple[int, float]] = []
    for sample in samples:
        whole, rest = divmod(sample.rows, size)
        for count, rows in ((whole, size), (1, rest)):
            if count and rows:
                calls.append((count, _sample_seconds(sample, rows, served or 1, work, recipe, setting)))
    count = sum(n for n, _ in calls)
    if not count:
        return 0.0
    mean = sum(n * seconds for n, seconds in calls) / count
    return max(max(seconds for _, seconds in calls), math.ceil(count / workers) * mean)


def _call(samples: list[Sample], recipe: Recipe, setting: Setting) -> int:
    """Rows of one call of an engine. An actor draws a shard at a time, and so does transformers (docs/engines.md)."""
    rows, batch = sum(s.rows for s in samples), samples[0].batch
    if not samples[0].pool:
        return batch
    if _replicas(recipe, setting):
        return max(1, rows)
    if vllm_of(recipe, setting, training=False) is None or recipe.engine.ray_workers:
        return batch
    return max(batch, min(MOST_TOGETHER, rows // 4) // batch * batch)


def engines(recipe: Recipe, setting: Setting) -> int:
    """Engines that draw shards at a time on the devices of a plan, one where nothing says more."""
    part = vllm_of(recipe, setting, training=False)
    return max(1, min(recipe.engine.ray_workers, setting.spread.gpus // (1 if part is None else part.tensor_parallel)))


def _replicas(recipe: Recipe, setting: Setting) -> int:
    """Servers that draw; 0 where engines do."""
    server = recipe.engine.server if setting.continuous is not False else None
    return 0 if server is None else len(server.urls) or server.replicas


def _sample_seconds(sample: Sample, rows: int, gpus: int, work: Work, recipe: Recipe, setting: Setting) -> float:
    """Seconds of `rows` completions that are drawn at once on so many devices."""
    return cost.sample_seconds(
        setting.shapes[sample.model], setting.machine, replace(_spread(sample, setting), gpus=gpus), rows=rows, batch=sample.batch,
        prompt=setting.given.prompt_tokens, mean=sample.mean, longest=sample.longest,
        room=_room(sample, work, recipe, setting),
    )  # fmt: skip


def vllm_of(recipe: Recipe, setting: Setting, *, training: bool) -> VllmPart | GrpoVllmPart | None:
    """The vLLM that takes a share of a stage's own devices; None where something else draws, or servers do."""
    if setting.continuous is False:
        return None
    if training:
        part = recipe.runtime.vllm or (GrpoVllmPart() if setting.continuous else None)
        return None if part is None or part.mode == "server" else part
    if recipe.engine.kind == "vllm":
        return recipe.engine.vllm or VllmPart()
    return VllmPart() if setting.continuous and recipe.engine.kind == "transformers" else None


def _share(sample: Sample, work: Work, recipe: Recipe, setting: Setting) -> float | None:
    """Bytes of a device that the engine takes for all it has; 0 where servers draw, None where it takes what it needs."""
    if not _spread(sample, setting).continuous:
        return None
    part = vllm_of(recipe, setting, training=work.train is not None)
    if part is not None:
        return part.gpu_memory_utilization * 1e9 * setting.machine.memory_gb
    server = recipe.engine.server
    return 0.0 if work.train is not None or (server is not None and server.urls) else None


def _room(sample: Sample, work: Work, recipe: Recipe, setting: Setting) -> float:
    """Bytes for keys and values on the device that draws."""
    weights = setting.machine.width * setting.shapes[sample.model].parameters()
    part = vllm_of(recipe, setting, training=work.train is not None)
    if part is not None:
        return part.tensor_parallel * part.gpu_memory_utilization * 1e9 * setting.machine.memory_gb - weights
    beside = _resident(work, recipe, setting) if _share(sample, work, recipe, setting) is None else 0.0
    return cost.USABLE * 1e9 * setting.machine.memory_gb - weights - beside


def _sample_bytes(sample: Sample, work: Work, recipe: Recipe, setting: Setting) -> float:
    spread = _spread(sample, setting)
    context = setting.given.prompt_tokens + (sample.mean if spread.continuous else sample.longest)
    rows = sample.rows
    if work.train is None:
        served = _replicas(recipe, setting)
        spread, rows = replace(spread, gpus=served or 1), rows if served else min(rows, sample.batch)
    return cost.sample_bytes(
        setting.shapes[sample.model], setting.machine, spread, rows=rows, batch=sample.batch,
        context=context, beside=_resident(work, recipe, setting), share=_share(sample, work, recipe, setting),
        shared=not spread.continuous and _shared(sample, work, recipe, setting),
    )  # fmt: skip


def _shared(sample: Sample, work: Work, recipe: Recipe, setting: Setting) -> bool:
    """Whether transformers samples with weights that are there anyway: those that are trained, or read in the same process."""
    if work.train is not None:
        return not recipe.runtime.copies(divided=not setting.spread.whole)
    return not (recipe.engine.ray_workers or recipe.engine.ray_readers) and sample.model in work.beside


def _resident(work: Work, recipe: Recipe, setting: Setting) -> float:
    """Bytes that lie on the device of a sampler: of models that are read by transformers, and of a training."""
    train, stored, loaded = work.train, _stored(recipe, setting), _loaded(recipe, setting)
    if train is None:
        return _held(work, setting)
    shape, trained = setting.shapes[train.model], _trained(train, recipe, setting)
    machine, spread = setting.machine, setting.spread
    held = cost.state_bytes(shape, spread, width=loaded, trained=trained, stored=stored, working=machine.width)
    if train.reference:
        held += cost.reference_bytes(shape, machine, spread, loaded=loaded)
    return held + _held(work, setting)


def _held(work: Work, setting: Setting) -> float:
    """Bytes of the models that lie beside what trains or samples, each of them whole."""
    return sum(setting.machine.width * setting.shapes[m].parameters(head=_head(m)) for m in work.beside)


def _awake(work: Work, recipe: Recipe, setting: Setting) -> float:
    """Bytes that what samples keeps while a training computes its step: vLLM's weights and cache, or a copy's."""
    part = vllm_of(recipe, setting, training=True) if work.samples else None
    if part is not None:
        asleep = isinstance(part, GrpoVllmPart) and part.sleep
        return 0.0 if asleep else part.gpu_memory_utilization * 1e9 * setting.machine.memory_gb
    if not recipe.runtime.copies(divided=not setting.spread.whole):
        return 0.0
    kept = 0.0
    for sample in work.samples:
        shape, width = setting.shapes[sample.model], setting.machine.width
        kept += width * shape.parameters()
        if sample.compiled:  # one cache for all draws
            rows = math.ceil(sample.rows / setting.spread.gpus)
            kept += rows * (setting.given.prompt_tokens + sample.longest) * shape.kv_bytes(width)
    return kept


def _read_seconds(read: Read, work: Work, recipe: Recipe, setting: Setting) -> float:
    # A training of several processes was started by a launcher, and has no readers.
    alone = work.train is not None and setting.spread.gpus > 1
    readers = 1 if alone else max(1, recipe.engine.ray_readers)
    if work.samples and readers > 1:  # one shard is read after the other, and a pass of it by one reader
        shape = setting.shapes[read.model]
        tokens = cost.MAX_LOGITS / shape.vocab if _head(read.model) else cost.MAX_TOKENS
        shard = min(read.rows, work.samples[0].batch)
        readers = min(readers, math.ceil(shard / max(1, int(tokens / read.length))))
    spread = setting.spread if read.inside else Spread(readers)
    return cost.read_seconds(
        setting.shapes[read.model], setting.machine, spread, rows=read.rows, length=read.length,
        batch=cost.READ_AT_ONCE, head=_head(read.model),
    )  # fmt: skip


def _read_bytes(read: Read, recipe: Recipe, setting: Setting) -> float:
    longest = setting.given.prompt_tokens + max(recipe.rollouts.max_new_tokens, longest_generated(recipe))
    return cost.read_bytes(
        setting.shapes[read.model], setting.machine, rows=read.rows, longest=longest, head=_head(read.model)
    )


def _step_seconds(train: Train, recipe: Recipe, setting: Setting) -> float:
    return cost.step_seconds(
        setting.shapes[train.model], setting.machine, setting.spread, rows=train.rows, accumulation=train.accumulation,
        length=train.length, unit=train.unit, head=_head(train.model), again=recipe.runtime.gradient_checkpointing,
        trained=_trained(train, recipe, setting), stored=_stored(recipe, setting),
    )  # fmt: skip


def _train_bytes(train: Train, recipe: Recipe, setting: Setting) -> float:
    return cost.train_bytes(
        setting.shapes[train.model], setting.machine, setting.spread, rows=train.rows, accumulation=train.accumulation,
        length=train.longest, unit=train.unit, head=_head(train.model), again=recipe.runtime.gradient_checkpointing,
        trained=_trained(train, recipe, setting), reference=train.reference, stored=_stored(recipe, setting),
        loaded=_loaded(recipe, setting),
    )  # fmt: skip


def totals(found: list[Estimate], spread: Spread, jobs: int) -> dict[str, Any]:
    """Of the whole run, its stages one after the other: hours, device-hours, judge calls and price, disk, memory."""
    seconds = sum(e.total for e in found)
    prices = [e.price for e in found if e.price is not None]
    parts: dict[str, float] = {}
    for e in found:
        for kind, value in e.seconds.items():
            parts[kind] = parts.get(kind, 0.0) + value
    return {
        "hours": seconds / 3600,
        "device_hours": seconds * spread.gpus / 3600,
        "decoded_tokens": sum(e.work.decoded for e in found),
        "trained_tokens": sum(e.work.trained for e in found),
        "judge_calls": sum(e.work.calls for e in found),
        "judge_price": sum(prices) if prices else None,
        "memory_bytes": max(e.memory for e in found),
        "disk_bytes": sum(e.disk for e in found),
        "peak_disk_bytes": sum(e.disk for e in found) + jobs * max(e.scratch for e in found),
        "seconds_by": parts,
    }
