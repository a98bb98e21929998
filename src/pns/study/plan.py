"""How long a study will take: the work of each task in units, and seconds a unit measured here or on a reference machine;
by the cost model of `pns plan` where there is neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pns.parts.negatives import RULED
from pns.problems.families import BENCHMARKS as EMBEDDED
from pns.recipe import GrpoPart, Recipe
from pns.scheduler import Done, Task
from pns.study.modelled import CostModel

# Seconds a unit on one core of a two-core machine, tiny scratch model (recipes/embedded.yaml), both cores at work. They are
# used until a stage of the kind has been measured.
REFERENCE = {
    "data:make_problems": 0.0004, "policy:make_start": 1.0, "policy:sft": 0.0085, "policy:rlvr": 0.011,
    "policy:rlvr_more": 0.011, "policy:reinforce": 0.011,
    "policy:rollouts": 0.011, "models:reward_model": 0.008, "models:hardened_reward_model": 0.008,
    "models:generator": 0.016,
    "negatives:negatives": 0.005, "negatives:negatives/prefix": 0.018, "samples:samples": 0.018, "samples:prefix_samples": 0.018,
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
        modelled: of the tasks that are left those whose time the cost model gives.
        supposed: whether some of the tasks rest on settings that stand for what tuning has not chosen yet.
    """

    phase: str
    tasks: int
    done: int
    seconds_left: float | None
    measured: int
    modelled: int = 0
    supposed: bool = False

    def wall(self, jobs: int) -> float | None:
        """Seconds to wait with so many processes side by side, when they are always busy."""
        return None if self.seconds_left is None else self.seconds_left / jobs


def units(task: Task) -> float:
    """The work of a task in rows: sampled, trained on or scored. Counted from the recipe, so an upper bound for pairs, and for
    prefixes, which are done after the round that gave a wrong answer.
    """
    recipe, call = task.recipe, task.stage.call
    splits = recipe.problems.splits
    n = recipe.rollouts.n
    if call == "policy:rollouts":
        return float(getattr(splits, task.stage.args[0]) * n)
    if call in ("models:reward_model", "models:hardened_reward_model"):
        part = recipe.reward_model
        return part.steps * part.batch_size * 2 + getattr(splits, task.stage.args[0]) * part.holdout * n
    if call == "models:generator":
        return float(_grpo(recipe.generator.of(task.stage.name)))
    if call == "samples:samples":
        return float(splits.pairs * recipe.negatives.sample.n)
    if call == "samples:prefix_samples":
        return float(splits.pairs * _prefixes(recipe))
    if call == "negatives:negatives":
        return float(splits.pairs * _candidates(task.stage.args[0], recipe))
    return _other(call, recipe)


def _candidates(method: str, recipe: Recipe) -> int:
    """Rows that a method samples or scores of a problem, at most."""
    part = recipe.negatives
    if method == "prefix":
        return _prefixes(recipe)
    if method == "prompted":
        return part.prompted.n * (2 if part.prompted.style == "both" else 1)
    if method in ("rejection", "rejection_hard"):
        drawn = part.drawn(method)
        return recipe.rollouts.n if drawn is None else min(recipe.rollouts.n, drawn)
    return part.per_problem if method in RULED else 1


def _prefixes(recipe: Recipe) -> int:
    return recipe.negatives.prefix.n * recipe.negatives.prefix.rounds


def _other(call: str, recipe: Recipe) -> float:
    splits, evaluate = recipe.problems.splits, recipe.evaluate
    if call in ("policy:rlvr_more", "policy:reinforce"):
        part = recipe.generator
        return sum(_grpo(part.of(stage)) for stage in part.stages) + recipe.sampled_for_pns
    table = {
        "data:make_problems": sum(splits.model_dump().values()),
        "policy:sft": recipe.sft.steps * recipe.sft.batch_size,
        "policy:rlvr": _grpo(recipe.rlvr),
        "uses:rl": _grpo(recipe.generator),
        "uses:step_verifier": recipe.uses.step_verifier.steps * recipe.uses.step_verifier.batch_size
        + splits.reward * recipe.rollouts.n,
        "uses:calibration": 3 * recipe.uses.calibration_responses,
        "negatives:pairs": splits.pairs,
        "negatives:reward_scores": splits.pairs * (1 + len(recipe.negatives.methods)),
        "align:align": recipe.pairs.n * recipe.align.epochs,
        "align:sft_chosen": recipe.pairs.n * recipe.align.epochs,
        "evaluate:dev": splits.dev * (1 + evaluate.k),
        "evaluate:test": recipe.problems.benchmark_size * sum(1 + evaluate.samples(b) for b in _benchmarks(recipe)),
    }
    return float(table.get(call, 1))


def _benchmarks(recipe: Recipe) -> list[str]:
    return list(EMBEDDED if recipe.problems.source == "embedded" else recipe.problems.benchmarks)


def _grpo(part: GrpoPart) -> int:
    return part.steps * part.prompts_per_step * part.num_generations


def _kind(task: Task) -> str:
    """What has a rate of its own: a stage's function, and of negatives the method too, for one rewrites and another samples."""
    call = task.stage.call
    return f"{call}/{task.stage.args[0]}" if call == "negatives:negatives" else call


def seconds_a_unit(tasks: Mapping[str, Task], done: Done) -> dict[str, tuple[float, int]]:
    """Of each kind of stage that is done: median seconds a unit, and how many were measured."""
    found: dict[str, list[float]] = {}
    for name, state in done.items():
        if name in tasks:
            found.setdefault(_kind(tasks[name]), []).append(state["seconds"] / max(1.0, units(tasks[name])))
    return {kind: (statistics.median(values), len(values)) for kind, values in found.items()}


def plan(phases: Mapping[str, Iterable[str]], tasks: Mapping[str, Task], done: Done) -> list[Share]:
    """What each phase has still to do; a task counts in the first phase that needs it.

    Where no stage of a kind has been measured the reference rates stand in for a small model made from scratch on a CPU, and
    the cost model for another model or machine; where it has no answer either, the phase has no estimate.
    """
    rates, seen, out = seconds_a_unit(tasks, done), set[str](), list[Share]()
    model = CostModel()
    for phase, names in phases.items():
        mine = [name for name in dict.fromkeys(names) if name not in seen]
        seen.update(mine)
        left = [name for name in mine if name not in done]
        told = [_seconds(tasks[name], rates) for name in left]
        unknown = [name for name, seconds in zip(left, told, strict=True) if seconds is None]
        guessed = [model.seconds(tasks[name]) for name in unknown]
        times = [t for t in told if t is not None] + guessed
        known = [t for t in times if t is not None]
        total = sum(known) if len(known) == len(times) else None
        measured = sum(_kind(tasks[name]) in rates for name in left)
        modelled = sum(t is not None for t in guessed)
        out.append(Share(phase, len(mine), len(mine) - len(left), total, measured, modelled))
    return out


def _seconds(task: Task, rates: Mapping[str, tuple[float, int]]) -> float | None:
    kind, model = _kind(task), task.recipe.model
    if kind in rates:
        return rates[kind][0] * units(task)
    rate = REFERENCE.get(kind, REFERENCE.get(task.stage.call))
    like_it = model.kind == "scratch" and model.hidden <= LARGEST[0] and model.layers <= LARGEST[1]
    if not like_it or task.recipe.runtime.device != "cpu" or rate is None:
        return None
    return OVERHEAD + rate * units(task)
