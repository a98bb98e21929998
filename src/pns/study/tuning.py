"""Tuning on the development split: every combination of a grid for every method, and the choice that two protocols make."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from pns.run import Run, read_json
from pns.scheduler import Task
from pns.study.cells import Cell, Recipes, add_cell, cells, grid_of, tuned_for
from pns.study.graph import Graph
from pns.study.results import outcomes
from pns.study.spec import Settings, Study


class Trial(TypedDict):
    """One combination of one method, tried on every tuning seed. Accuracies are shares of the development split."""

    objective: str
    model: str
    settings: Settings
    greedy: list[float]
    sampled: list[float]
    kl: list[float]


Trials = dict[tuple[str, str], list[tuple[Settings, list[str]]]]
"""(objective, model) -> (settings, its dev task of each tuning seed)."""


def add_tuning(graph: Graph, recipes: Recipes) -> Trials:
    """Add all that tuning needs to the graph: the grid of every method, and the policy itself, on the tuning seeds."""
    study = recipes.study
    for seed in study.tuning.seeds:
        add_cell(graph, recipes, Cell("policy", "policy"), seed, {}, kind="dev")
    out: Trials = {}
    for objective, model in tuned_for(study):
        cell = Cell("", model, objective, study.tuning.regime, study.protocols[0])
        out[objective, model] = [
            (settings, [add_cell(graph, recipes, cell, seed, settings, kind="dev") for seed in study.tuning.seeds])
            for settings in grid_of(study, objective, model)
        ]
    return out


def read_trials(run: Run, tasks: Mapping[str, Task], trials: Trials) -> list[Trial]:
    """What every combination reached. All tasks must be done."""
    out = []
    for (objective, model), tried in trials.items():
        for settings, keys in tried:
            folders = [run.published(tasks[key].label) for key in keys]
            out.append(
                Trial(
                    objective=objective,
                    model=model,
                    settings=settings,
                    greedy=[_dev(folder, "greedy") for folder in folders],
                    sampled=[_dev(folder, "sampled") for folder in folders],
                    kl=[_kl(folder) for folder in folders],
                )
            )
    return out


def _dev(folder: Path, kind: str) -> float:
    return float(np.mean(outcomes(folder / f"{kind}-dev.parquet")))


def _kl(folder: Path) -> float:
    return float(read_json(folder / "kl.json")["kl"])


def value_of(trial: Trial, metric: str) -> float:
    """What decides: the mean over tuning seeds of greedy accuracy, sampled accuracy, or both together."""
    kinds = ("greedy", "sampled") if metric == "mean" else (metric,)
    return statistics.fmean(statistics.fmean(trial[kind]) for kind in kinds)  # type: ignore[literal-required]


def choose(study: Study, trials: list[Trial]) -> dict[str, dict[str, dict[str, Settings]]]:
    """protocol -> objective -> model -> settings. Ties go to the combination that stands first in the grid.

    In `held` all models get what is best on the pairs of `tuning.held_on`; the SFT control reads of it what concerns it.
    """
    best: dict[tuple[str, str], Settings] = {}
    for objective, model in dict.fromkeys((t["objective"], t["model"]) for t in trials):
        tried = [t for t in trials if (t["objective"], t["model"]) == (objective, model)]
        best[objective, model] = max(tried, key=lambda t: value_of(t, study.tuning.metric))["settings"]
    out: dict[str, dict[str, dict[str, Settings]]] = {}
    for cell in cells(study).values():
        if cell.protocol is not None and cell.objective is not None:
            model = study.tuning.held_on if cell.protocol == "held" else cell.model
            found = out.setdefault(cell.protocol, {}).setdefault(cell.objective, {})
            found[cell.model] = best[cell.objective, model]
    return out


def settings_for(chosen: Mapping[str, Any], cell: Cell) -> Settings:
    """The tuned settings of a cell; none where it has no objective."""
    if cell.protocol is None or cell.objective is None:
        return {}
    found: Settings = chosen[cell.protocol][cell.objective][cell.model]
    return found
