"""What can be known before a run starts: files, models, servers, disk, memory, lengths, the answer's form.

Every check says one of three things: it holds, it fails (with what mends it), or it could not be checked and why.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pns.doctor import packages
from pns.doctor.examine import library_findings
from pns.doctor.needs import Asked, needs_of
from pns.errors import UserError
from pns.extras import TRAINING, install, missing
from pns.launch import Launcher
from pns.plan.advice import advice
from pns.plan.check import Check, State, on_hub, refused
from pns.plan.check_models import models, prompted, reward
from pns.plan.check_servers import servers
from pns.plan.estimate import Estimate, Setting, totals, vllm_of
from pns.plan.words import size
from pns.plan.work import Which, longest_generated, rows_of
from pns.problems.registry import check_file, existing, find, local_file
from pns.recipe import GrpoVllmPart, Recipe, VllmPart
from pns.training.batches import check_batches


def checks(
    recipe: Recipe, found: list[Estimate], setting: Setting, run_dir: Path, *, ask: bool, launcher: Launcher | None = None
) -> list[Check]:  # fmt: skip
    """All of them.

    Args:
        found: the estimates, for disk and memory.
        ask: off: neither servers nor the hub are asked, and all that rests on them is unchecked.
        launcher: of the trainings; what it needs is among the libraries.
    """
    every: list[Callable[[], Iterator[Check]]] = [
        lambda: _libraries(recipe, launcher),
        lambda: _problems(recipe, ask),
        lambda: _splits(recipe),
        lambda: models(recipe, ask),
        lambda: prompted(recipe, ask),
        lambda: reward(recipe, ask),
        lambda: servers(recipe, ask),
        lambda: _lengths(recipe, setting),
        lambda: _batches(recipe, setting),
        lambda: _memory(recipe, found, setting),
        lambda: (Check(name, "advice", text) for name, text in advice(recipe, found, setting)),
        lambda: _shares(recipe, setting),
        lambda: _disk(recipe, found, setting, run_dir),
    ]
    return [check for some in every for check in some()]


def _libraries(recipe: Recipe, launcher: Launcher | None) -> Iterator[Check]:
    """As `pns doctor` tells them from their versions; where it cannot, whether those of every training are there."""
    known, lacking, needs = packages.requirements(), missing(TRAINING), needs_of(recipe, launcher)
    if known is not None:
        untold = {f"extra {need.name}" for need in needs if need.kind == "extra" and need.name not in known}
        for found in library_findings(Asked("recipe", recipe.name, needs, {})):
            state: State = "ok" if found.state == "ok" else "unchecked" if found.what in untold else "failed"
            yield Check(f"libraries: {found.what}", state, f"{found.said} ({found.why})", found.mend or "")
    elif lacking:
        yield Check("libraries", "failed", f"not installed: {', '.join(lacking)}", install("train"))
    else:
        yield Check("libraries", "unchecked", "this package's own metadata, which says what is needed, is not there")


def _problems(recipe: Recipe, ask: bool) -> Iterator[Check]:
    part = recipe.problems
    for name, source in [("training", f) for f in part.train_file or ()] + list(part.benchmarks.items()):
        yield _source(f"problems: {name}" if name != "training" else f"problems: {source}", source, ask)


def _source(name: str, source: Path, ask: bool) -> Check:
    try:
        entry = find(source)
        if entry is None:
            if existing(source).is_file():
                return Check(name, "ok", str(source))
            return Check(name, "failed", f"{source}: no such file", "check the path in the recipe")
        file = local_file(entry)
        if file is not None:
            check_file(entry, file)
            return Check(name, "ok", f"{entry.rows} problems in {file}")
    except UserError as error:
        return refused(name, error)
    return on_hub(name, "dataset", entry.hub.id, ask, entry.hub.revision)


def _splits(recipe: Recipe) -> Iterator[Check]:
    part = recipe.problems
    if part.train_file is None:
        return
    need, have = sum(part.splits.model_dump().values()), sum(rows_of(f) for f in part.train_file)
    if have >= 10**9:
        yield Check("splits", "unchecked", f"{need} problems are needed; how many the files hold is read by the run")
    elif need > have:
        yield Check(
            "splits", "failed", f"{need} problems are needed, and there are {have}", "make problems.splits smaller"
        )
    else:
        yield Check(
            "splits", "ok", f"{need} of {have} problems; repeats and overlap with benchmarks are taken out first"
        )


def _lengths(recipe: Recipe, setting: Setting) -> Iterator[Check]:
    """Whether a completion of full length fits behind a usual prompt."""
    longest = {
        "policy": max(recipe.rlvr.max_new_tokens, recipe.rollouts.max_new_tokens, recipe.evaluate.max_new_tokens),
        "generator": max(recipe.generator.max_new_tokens, longest_generated(recipe)),
        "reward_model": max(recipe.generator.max_new_tokens, recipe.rollouts.max_new_tokens),
    }
    for name, new in longest.items():
        shape = setting.shapes[name]  # type: ignore[index]
        need = round(setting.given.prompt_tokens) + new
        detail = f"{need} tokens of {shape.positions} positions"
        if not shape.positions:
            yield Check(f"positions: {name}", "unchecked", "its configuration does not say how many")
        elif need > shape.positions:
            yield Check(f"positions: {name}", "failed", detail, "make max_new_tokens smaller")
        else:
            yield Check(f"positions: {name}", "ok", detail)


def _batches(recipe: Recipe, setting: Setting) -> Iterator[Check]:
    """Whether every training can divide its batch among the devices, as `pns run` asks before it starts."""
    n = setting.spread.gpus
    try:
        check_batches(recipe, n)
    except UserError as error:
        yield Check("batches", "failed", f"{error.field}: {error.message}", error.remedy or "")
    else:
        yield Check("batches", "ok", f"every training can divide its batch among {n} process{'es' * (n > 1)}")


def _memory(recipe: Recipe, found: list[Estimate], setting: Setting) -> Iterator[Check]:
    worst = max(found, key=lambda e: e.memory)
    have = setting.machine.memory_gb * 1e9
    detail = f"{worst.name} needs about {size(worst.memory)} a device, and one has {size(have)}"
    if worst.memory > have:
        several = setting.spread.gpus > 1
        whole = several and setting.spread.divided == "nothing" and worst.work.train is not None
        if recipe.runtime.device == "cpu":
            remedy = "fewer runtime.processes, " if several else ""
        else:
            remedy = "a configuration that divides it (--launcher-config recipes/accelerate/fsdp2.yaml), " * whole
            remedy += "more GPUs (--gpus), "
        remedy += "a larger gradient_accumulation or a smaller micro_batch, "
        remedy += "runtime.gradient_checkpointing=true, "
        remedy += "runtime.vllm.sleep=true, or align.lora" if recipe.runtime.vllm is not None else "or align.lora"
        if worst.work.train is None and vllm_of(recipe, setting, training=False) is not None:
            remedy = (
                "a smaller engine.vllm.gpu_memory_utilization: other models are read beside vLLM; or smaller models"
            )
        yield Check("memory", "failed", detail, remedy)
    elif (jobs := recipe.runtime.jobs) > 1 and (recipe.runtime.device == "cuda" or jobs * worst.memory > have):
        share = "share it"
        if recipe.runtime.device == "cuda":
            share = "share a GPU where there are fewer, or where a launcher or Ray places them"
        detail += f"; {jobs} stages may run side by side (runtime.jobs), and {share}"
        yield Check("memory", "unchecked", detail)
    else:
        yield Check("memory", "ok", detail)


def _shares(recipe: Recipe, setting: Setting) -> Iterator[Check]:
    """Whether vLLM's share of a GPU holds the weights and the keys and values of one row of full length: else it does not start."""
    drawn: list[tuple[Which, int, int]] = [
        ("policy", recipe.rlvr.max_new_tokens, max(recipe.rollouts.max_new_tokens, recipe.evaluate.max_new_tokens))
    ]
    if recipe.trains_generator:
        drawn.append(("generator", recipe.generator.max_new_tokens, longest_generated(recipe)))
    for key, training in (("engine.vllm", False), ("runtime.vllm", True)):
        part = vllm_of(recipe, setting, training=training)
        if part is None:
            continue
        for model, in_grpo, elsewhere in drawn:
            new = in_grpo if training else elsewhere
            yield _share(f"{key}: {model}", key, part, setting, model, round(setting.given.prompt_tokens) + new)


def _share(name: str, key: str, part: VllmPart | GrpoVllmPart, setting: Setting, model: Which, need: int) -> Check:
    """Args: need: tokens of a usual prompt with a completion of full length."""
    shape, width = setting.shapes[model], setting.machine.width
    # A GRPO training asks for its longest prompt and completion; elsewhere vLLM plans for all positions of the model.
    length = part.max_model_len or (need if isinstance(part, GrpoVllmPart) else shape.positions)
    if not length:
        return Check(name, "unchecked", "its configuration does not say how many positions it has")
    if length < need:
        return Check(name, "failed", f"{need} tokens, and max_model_len is {length}", f"a larger {key}.max_model_len")
    if shape.positions and length > shape.positions:
        return Check(
            name, "failed", f"{length} tokens of {shape.positions} positions", f"a smaller {key}.max_model_len"
        )
    weights = width * shape.parameters() / part.tensor_parallel
    row = length * shape.kv_bytes(width) / part.tensor_parallel
    share = part.gpu_memory_utilization * setting.machine.memory_gb * 1e9
    detail = f"weights {size(weights)} and a row of {length} tokens {size(row)}, of vLLM's {size(share)} a device"
    if weights + row > share:
        remedy = f"a smaller {key}.max_model_len, a larger {key}.gpu_memory_utilization, or more {key}.tensor_parallel"
        return Check(name, "failed", detail, remedy)
    return Check(name, "ok", detail)


def _disk(recipe: Recipe, found: list[Estimate], setting: Setting, run_dir: Path) -> Iterator[Check]:
    need = totals(found, setting.spread, recipe.runtime.jobs)["peak_disk_bytes"]
    place = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"about {size(need)} are needed at most, and {size(free)} are free at {place}"
    if need > free:
        yield Check("disk", "failed", detail, "free some, or write to another disk (--run-dir)")
    else:
        yield Check("disk", "ok", detail)
