"""Tuning on the development split, in three steps, each with the same budget for every method that takes part.

1. `held`: the grid of each objective, on the pairs of `tuning.held_on`.
2. `negatives`: how each method makes its negatives (`tuning.negatives`), trained on with the settings of step 1.
3. `each`: the grid again for every method, on the negatives that step 2 chose. Only where a protocol asks for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from pns.run import Run, read_json
from pns.scheduler import Task
from pns.study.cells import SFT, Cell, Recipes, Tuned, add_cell, cells
from pns.study.graph import Graph
from pns.study.results import outcomes
from pns.study.spec import Settings, Study, combinations, grid_of, with_settings

Step = Literal["held", "negatives", "each"]
STEPS: tuple[Step, ...] = ("held", "negatives", "each")
# Of an objective's settings those that the SFT control reads.
_SFT_KEYS = ("align.learning_rate", "align.epochs", "align.batch_size", "align.max_length")


class Trial(TypedDict):
    """One combination of one method, tried on every tuning seed. Accuracies are shares of the development split."""

    step: Step
    objective: str
    model: str
    settings: Settings
    greedy: list[float]
    sampled: list[float]
    kl: list[float]


Tried = list[tuple[str, str, Settings, list[str]]]
"""(objective, model, settings, its dev task of each tuning seed)."""


def add_step(graph: Graph, recipes: Recipes, step: Step, tuned: Tuned) -> Tried:
    """Add what a step of tuning needs to the graph, on the tuning seeds; the policy itself with the first."""
    study = recipes.study
    seeds = study.tuning.seeds
    if step == "held":
        for seed in seeds:
            add_cell(graph, recipes, Cell("policy", "policy"), seed, tuned, {}, kind="dev")
    out: Tried = []
    seen = set[tuple[str, str, tuple[str, ...]]]()
    for objective, model, align, made in _combinations(study, step, tuned):
        cell = Cell("", model, objective, study.tuning.regime)
        state = Tuned(tuned.align, {**tuned.negatives, **({model: made} if made is not None else {})})
        keys = [add_cell(graph, recipes, cell, seed, state, align, kind="dev") for seed in seeds]
        # Settings that a method does not read make the same model: it is tried, and counted, once.
        if (objective, model, tuple(keys)) not in seen:
            seen.add((objective, model, tuple(keys)))
            out.append((objective, model, align if made is None else made, keys))
    return out


def _combinations(study: Study, step: Step, tuned: Tuned) -> list[tuple[str, str, Settings, Settings | None]]:
    """(objective, model, align settings, settings of its negatives where they are what is tuned)."""
    held = study.tuning.held_on
    if step == "held":
        return [(o, held, settings, None) for o in study.objectives for settings in tried_for(study, o, held)]
    if step == "negatives":
        align = tuned.held.get(study.main, {})
        grids = study.tuning.negatives
        return [(study.main, m, align, made) for m, grid in grids.items() for made in combinations(grid)]
    found = dict.fromkeys(
        (c.objective, c.model) for c in cells(study).values() if c.protocol == "each" and not c.switch
    )
    return [(o, m, settings, None) for o, m in found if o is not None for settings in tried_for(study, o, m)]


def tried_for(study: Study, objective: str, model: str) -> list[Settings]:
    """The align settings that are tried for a model; those that differ for it alone."""
    grid = grid_of(study, objective)
    if model.startswith(SFT):
        grid = {key: values for key, values in grid.items() if key in _SFT_KEYS}
    return combinations(grid)


def read_trials(run: Run, tasks: Mapping[str, Task], step: Step, tried: Tried) -> list[Trial]:
    """What every combination reached. All tasks must be done."""
    out = []
    for objective, model, settings, keys in tried:
        folders = [run.published(tasks[key].label) for key in keys]
        out.append(
            Trial(
                step=step, objective=objective, model=model, settings=settings,
                greedy=[_dev(folder, "greedy") for folder in folders],
                sampled=[_dev(folder, "sampled") for folder in folders],
                kl=[float(read_json(folder / "kl.json")["kl"]) for folder in folders],
            )
        )  # fmt: skip
    return out


def _dev(folder: Path, kind: str) -> float:
    return float(np.mean(outcomes(folder / f"{kind}-dev.parquet")))


def value_of(trial: Trial, metric: str) -> float:
    """What decides: the mean over tuning seeds of greedy accuracy, sampled accuracy, or both together."""
    sides = {"greedy": [trial["greedy"]], "sampled": [trial["sampled"]], "mean": [trial["greedy"], trial["sampled"]]}
    return statistics.fmean(statistics.fmean(side) for side in sides[metric])


def choose(study: Study, tuned: Tuned, step: Step, trials: Sequence[Trial]) -> Tuned:
    """What is tuned after a step. Ties go to the combination that stands first in the grid."""
    best: dict[tuple[str, str], Settings] = {}
    for at in dict.fromkeys((t["objective"], t["model"]) for t in trials):
        mine = [t for t in trials if (t["objective"], t["model"]) == at]
        best[at] = max(mine, key=lambda t: value_of(t, study.tuning.metric))["settings"]
    return _with(tuned, step, best)


def stand_in(recipes: Recipes, tuned: Tuned, step: Step, tried: Tried) -> Tuned:
    """What a plan takes for tuned after a step that is not over: of each grid the first combination that is not what stands
    already (the recipe's own, or what is held for all), so that what tuning may tell apart is apart in the plan.
    """
    best: dict[tuple[str, str], Settings] = {}
    for at in dict.fromkeys((objective, model) for objective, model, *_ in tried):
        grid = [settings for objective, model, settings, _ in tried if (objective, model) == at]
        best[at] = next((one for one in grid if not _stands(recipes, tuned, step, at[0], one)), grid[0])
    return _with(tuned, step, best)


def _stands(recipes: Recipes, tuned: Tuned, step: Step, objective: str, settings: Settings) -> bool:
    if step == "negatives":
        return with_settings(recipes.base, settings) == recipes.base
    held = tuned.held.get(objective, {})
    return step == "each" and all(held.get(key) == value for key, value in settings.items())


def _with(tuned: Tuned, step: Step, best: Mapping[tuple[str, str], Settings]) -> Tuned:
    if step == "negatives":
        return Tuned(tuned.align, {**tuned.negatives, **{model: s for (_, model), s in best.items()}})
    align = dict(tuned.align)
    for (objective, model), settings in best.items():
        name = "held" if step == "held" else model
        align[objective] = {**align.get(objective, {}), name: settings}
    return Tuned(align, tuned.negatives)
