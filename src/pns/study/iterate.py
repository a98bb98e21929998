"""`pns iterate`: rounds of generator, negatives and alignment, and what each round was worth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pns.display import Display
from pns.evaluation.contrasts import contrast, estimate
from pns.launch import Launcher
from pns.recipe import Method, Recipe
from pns.run import STUDY, Run, read_json, seed_of, write_atomic, write_json
from pns.scheduler import Done, Task, published, run_tasks
from pns.stages.summary import environment
from pns.study.graph import Graph
from pns.study.results import KINDS, benchmarks, scores_of
from pns.study.rounds import add_rounds, for_rounds
from pns.study.spec import with_settings

Rounds = dict[int, list[dict[str, str]]]
"""seed -> for each round, from 0 on: stage name -> task."""


def add_all(recipe: Recipe, seeds: Sequence[int], rounds: int, method: Method) -> tuple[Graph, Rounds]:
    """The tasks of an iteration, seed by seed."""
    graph, whole = Graph(), for_rounds(recipe, rounds, method)
    return graph, {s: add_rounds(graph, with_settings(whole, {"seed": s}), rounds, method) for s in seeds}


def execute(
    recipe: Recipe, run: Run, display: Display, *, seeds: Sequence[int], rounds: int, method: Method,
    launcher: Launcher | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run an iteration to its results, which are also written to `report/results.json`. What is done is not done again.

    Raises:
        UserError, StageStopped, StageFailed, KeyboardInterrupt: the same command goes on from there.
    """
    graph, found = add_all(recipe, seeds, rounds, method)
    told = {"recipe": recipe.model_dump(mode="json"), "method": method, "rounds": rounds, "seeds": list(seeds)}
    with run.lock():
        write_atomic(run.folder / STUDY, yaml.safe_dump(told, sort_keys=False))
        done: Done = {n: state for n, task in graph.tasks.items() if (state := published(run, task)) is not None}
        run_tasks(graph.tasks, list(graph.tasks), done, run, display, jobs=recipe.runtime.jobs, launcher=launcher)
        results = results_of(recipe, run, graph.tasks, found, method)
        (run.folder / "report").mkdir(exist_ok=True)
        write_json(run.folder / "report" / "results.json", results)
    return results


def results_of(recipe: Recipe, run: Run, tasks: Mapping[str, Task], found: Rounds, method: Method) -> dict[str, Any]:
    """Figures by round: accuracy and its difference to the first policy, KL from it, yield, pairs, reward model."""

    def folder(task: str) -> Path:
        return run.published(tasks[task].label)

    seeds = list(found)
    names = benchmarks(folder(tasks[found[seeds[0]][0]["test"]].needs["problems"]))
    values = {s: [scores_of(folder(one["test"]), names) for one in found[s]] for s in seeds}
    samples, seed = recipe.evaluate.bootstrap, seed_of(recipe.seed, "rounds")
    out = []
    for number in range(len(found[seeds[0]])):
        row: dict[str, Any] = {"round": number}
        for kind in KINDS:
            mine, start = ([values[s][i][kind] for s in seeds] for i in (number, 0))
            row[kind] = estimate(mine, samples=samples, seed=seed)
            if number:
                row[f"{kind}_minus_start"] = contrast(mine, start, samples=samples, seed=seed)
        row["kl"] = statistics.fmean(read_json(folder(found[s][number]["test"]) / "kl.json")["kl"] for s in seeds)
        if number:
            row |= {name: _mean([read_json(folder(found[s][number][stage]) / file) for s in seeds])
                    for name, (stage, file) in _files(method, number).items()}  # fmt: skip
        out.append(row)
    return {
        "recipe": recipe.name, "method": method, "seeds": seeds, "benchmarks": names, "k": recipe.evaluate.k,
        "rounds": out, "environment": environment(),
    }  # fmt: skip


def _files(method: Method, number: int) -> dict[str, tuple[str, str]]:
    """name -> (stage, file) of a round's figures."""
    files = {
        "negatives": (f"negatives-{method}", "stats.json"),
        "pairs": ("pairs", "stats.json"),
        "reward_model": ("reward_model", "worth.json"),
    }
    return files | ({"hard": ("reward_model", "hard.json")} if number > 1 else {})


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds of whatever numbers they all have, also inside."""
    out: dict[str, Any] = {}
    for key, first in rows[0].items():
        values = [row.get(key) for row in rows]
        if isinstance(first, Mapping):
            out[key] = _mean([row[key] for row in rows])
        elif all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            out[key] = statistics.fmean(values)  # type: ignore[arg-type]
    return out
