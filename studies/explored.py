"""What a study tried on its development split, with the pairs of every trial: figures for docs/results.md.

    python studies/explored.py studies/resample.yaml runs/prefix --json docs/results/resample.json

The study has been run with `--until protocol` and this store. Differences are to the first trial, seed by seed, in points, with
95 % t intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_1samp

from pns.errors import UserError
from pns.run import Run, read_json
from pns.scheduler import Task, published
from pns.study.cells import SFT, Recipes, Tuned
from pns.study.graph import Graph, widest
from pns.study.spec import load_study
from pns.study.tuning import STEPS, add_step, choose, read_trials


def pairs_of(tasks: Mapping[str, Task], run: Run, task: str, pairs: str) -> dict[str, Any] | None:
    """Figures of the pairs that a scored model was trained on, and how many problems its method served; None: it saw none."""
    todo, seen = [task], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if tasks[name].stage.name == "pairs":
            return dict(read_json(run.published(tasks[name].label) / "stats.json")[pairs])
        todo += tasks[name].needs.values()
    return None


def trials_of(recipes: Recipes, run: Run) -> list[dict[str, Any]]:
    """Every trial with the pairs of each seed (of an SFT control those whose chosen side it saw). Raises UserError where one
    is not done.
    """
    graph, tuned, study = Graph(), Tuned(), recipes.study
    out: list[dict[str, Any]] = []
    for step in STEPS:
        tried = add_step(graph, recipes, step, tuned)
        if any(published(run, task) is None for task in graph.tasks.values()):
            raise UserError(
                "the tuning of this study is not over in this store", file=run.stages,
                remedy="run it first: pns study STUDY --until protocol --store STORE",
            )  # fmt: skip
        found = read_trials(run, graph.tasks, step, tried)
        tuned = choose(study, tuned, step, found)
        for trial, (_, model, _, names) in zip(found, tried, strict=True):
            seen = widest(study.methods) if model == "sft_chosen" else model.removeprefix(SFT)
            pairs = [pairs_of(graph.tasks, run, name, f"{study.tuning.regime}-{seen}") for name in names]
            out.append({**trial, "pairs": [p for p in pairs if p is not None]})
    return out


def against(mine: list[float], first: list[float]) -> dict[str, float]:
    """Points, with the 95 % t interval over seeds."""
    points = [100 * (a - b) for a, b in zip(mine, first, strict=True)]
    if len(set(points)) == 1:
        return dict.fromkeys(("difference", "low", "high"), points[0])
    low, high = ttest_1samp(points, 0).confidence_interval(0.95)
    return {"difference": statistics.fmean(points), "low": float(low), "high": float(high)}


def mean(values: list[float]) -> float:
    """NaN of nothing."""
    return statistics.fmean(values) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    try:
        recipes = Recipes(load_study(given.study), given.study)
        trials = trials_of(recipes, Run(given.store))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    names = ("model", "settings", "pairs", "coverage, %", "separated, %", "rejected log p", "greedy, %", "sampled, %", "KL",
             "against the first, greedy", "sampled")  # fmt: skip
    table = Table(*names, title=recipes.study.name)
    for trial in trials:
        trial["against_first"] = {kind: against(trial[kind], trials[0][kind]) for kind in ("greedy", "sampled")}
        shown = [
            mean([p[key] for p in trial["pairs"]]) for key in ("n", "coverage", "separated_before", "rejected_logp")
        ]
        table.add_row(
            trial["model"], json.dumps(trial["settings"]), f"{shown[0]:.0f}", f"{100 * shown[1]:.0f}", f"{100 * shown[2]:.0f}",
            f"{shown[3]:.2f}", *(f"{100 * mean(trial[kind]):.1f}" for kind in ("greedy", "sampled")), f"{mean(trial['kl']):.2f}",
            *("{difference:+.1f} ({low:+.1f} to {high:+.1f})".format(**d) for d in trial["against_first"].values()),
        )  # fmt: skip
    Console(width=220).print(table)
    if given.json is not None:
        told = {
            "study": recipes.study.name,
            "seeds": recipes.study.tuning.seeds,
            "regime": recipes.study.tuning.regime,
            "trials": trials,
        }
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
