"""How long a study will take: the work of each task in units, and seconds a unit measured here or on a reference machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pns.problems.families import BENCHMARKS as EMBEDDED
from pns.recipe import GrpoPart, Recipe
from pns.scheduler import Done, Task

# Seconds a unit on one core of a two-core machine, tiny scratch model (recipes/embedded.yaml), both cores at work. They are
# used until a stage of the kind has been measured.
REFERENCE = {
    "data:make_problems": 0.0004, "policy:make_start": 1.0, "policy:sft": 0.0085, "policy:rlvr": 0.011,
    "policy:rlvr_more": 0.011, "policy:reinforce": 0.011,
    "policy:rollouts": 0.011, "models:reward_model": 0.008, "models:hardened_reward_model": 0.008,
    "models:generator": 0.016,
    "negatives:negatives": 0.005, "negatives:samples": 0.018, "negatives:prefix_samples": 0.018,
    "negatives:pairs": 0.002, "negatives:reward_scores": 0.005,
    "align:align": 0.02, "align:sft_chosen": 0.012,
    "evaluate:dev": 0.008, "evaluate:test": 0.008,
    "uses:rl": 0.014, "uses:step_verifier": 0.006, "uses:calibration": 0.004,
}  # fmt: skip

LARGEST = (128, 4)
"""Hidden size and layers of the largest model of which the rates say anything."""

OVERHEAD = 1.5
"""Seconds that a stage takes on that machine whatever its size: a process, a model to load."""


@dataclass(frozen=True)
class Share:
    """A part of the plan: tasks of one phase. Times in seconds of one process.

    Attributes:
        supposed: whether some of the tasks rest on settings that stand for what tuning has not chosen yet.
    """

    phase: str
    tasks: int
    done: int
    seconds_left: float | None
    measured: int
    supposed: bool = False

    def wall(self, jobs: int) -> float | None:
        """Seconds to wait with so many processes side by side, when they are always busy."""
        return None if self.seconds_left is None else self.seconds_left / jobs


def units(task: Task) -> float:
    """The work of a task in rows: sampled, trained on or scored. Counted from the recipe, so an upper bound for pairs."""
    recipe, call = task.recipe, task.stage.call
    splits = recipe.problems.splits
    n = recipe.rollouts.n
    if call == "policy:rollouts":
        return float(getattr(splits, task.stage.args[0]) * n)
    if call in ("models:reward_model", "models:hardened_reward_model"):
        part = recipe.reward_model
        return part.steps * part.batch_size * 2 + getattr(splits, task.stage.args[0]) * part.holdout * n
    if call == "negatives:samples":
        return float(splits.pairs * recipe.negatives.sample.n)
    if call == "negatives:prefix_samples":
        return float(splits.pairs * recipe.negatives.prefix.n)
    if call == "negatives:negatives":
        each = {"prefix": recipe.negatives.prefix.n, "rejection": 2, "rejection_hard": n}
        return float(splits.pairs * each.get(task.stage.args[0], 1))
    return _other(call, recipe)


def _other(call: str, recipe: Recipe) -> float:
    splits, evaluate = recipe.problems.splits, recipe.evaluate
    if call in ("policy:rlvr_more", "policy:reinforce"):
        return _grpo(recipe.generator) + recipe.sampled_by_generator
    table = {
        "data:make_problems": sum(splits.model_dump().values()),
        "policy:sft": recipe.sft.steps * recipe.sft.batch_size,
        "policy:rlvr": _grpo(recipe.rlvr),
        "models:generator": _grpo(recipe.generator),
        "uses:rl": _grpo(recipe.generator),
        "uses:step_verifier": recipe.uses.step_verifier.steps * recipe.uses.step_verifier.batch_size
        + splits.reward * recipe.rollouts.n,
        "uses:calibration": 3 * recipe.uses.calibration_responses,
        "negatives:pairs": splits.pairs,
        "negatives:reward_scores": splits.pairs * (1 + len(recipe.negatives.methods)),
        "align:align": recipe.pairs.n * recipe.align.epochs,
        "align:sft_chosen": recipe.pairs.n * recipe.align.epochs,
        "evaluate:dev": splits.dev * (1 + evaluate.k),
        "evaluate:test": _benchmarks(recipe) * recipe.problems.benchmark_size * (1 + evaluate.k),
    }
    return float(table.get(call, 1))


def _benchmarks(recipe: Recipe) -> int:
    return len(EMBEDDED) if recipe.problems.source == "embedded" else len(recipe.problems.benchmarks)


def _grpo(part: GrpoPart) -> int:
    return part.steps * part.prompts_per_step * part.num_generations


def seconds_a_unit(tasks: Mapping[str, Task], done: Done) -> dict[str, tuple[float, int]]:
    """Of each kind of stage that is done: median seconds a unit, and how many were measured."""
    found: dict[str, list[float]] = {}
    for name, state in done.items():
        if name in tasks:
            found.setdefault(tasks[name].stage.call, []).append(state["seconds"] / max(1.0, units(tasks[name])))
    return {call: (statistics.median(values), len(values)) for call, values in found.items()}


def plan(phases: Mapping[str, Iterable[str]], tasks: Mapping[str, Task], done: Done) -> list[Share]:
    """What each phase has still to do; a task counts in the first phase that needs it.

    Where no stage of a kind has been measured the reference rates stand in for a small model made from scratch on a CPU; for
    another model or machine nothing is known, and the phase has no estimate.
    """
    rates, seen, out = seconds_a_unit(tasks, done), set[str](), list[Share]()
    for phase, names in phases.items():
        mine = [name for name in dict.fromkeys(names) if name not in seen]
        seen.update(mine)
        left = [name for name in mine if name not in done]
        times = [_seconds(tasks[name], rates) for name in left]
        known = [t for t in times if t is not None]
        total = sum(known) if len(known) == len(times) else None
        measured = sum(tasks[name].stage.call in rates for name in left)
        out.append(Share(phase, len(mine), len(mine) - len(left), total, measured))
    return out


def _seconds(task: Task, rates: Mapping[str, tuple[float, int]]) -> float | None:
    call, model = task.stage.call, task.recipe.model
    if call in rates:
        return rates[call][0] * units(task)
    like_it = model.kind == "scratch" and model.hidden <= LARGEST[0] and model.layers <= LARGEST[1]
    if not like_it or task.recipe.runtime.device != "cpu" or call not in REFERENCE:
        return None
    return OVERHEAD + REFERENCE[call] * units(task)
