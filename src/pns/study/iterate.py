"""`pns iterate`: rounds of generator, negatives and alignment, and what each round was worth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pns.display import Display
from pns.evaluation.contrasts import Contrast, contrast, estimate
from pns.launch import Launcher
from pns.recipe import Recipe
from pns.run import STUDY, Run, read_json, seed_of, write_atomic, write_json
from pns.scheduler import Done, Task, published, run_tasks
from pns.stages.environment import environment
from pns.study.graph import Graph, check_side_by_side
from pns.study.results import KINDS, benchmarks, scores_of, warned
from pns.study.rounds import IteratedMethod, add_rounds, aligned_by, for_rounds, negatives_of
from pns.study.spec import with_settings

Rounds = dict[IteratedMethod, dict[int, list[dict[str, str]]]]
"""method -> seed -> for each round, from 0 on: stage name -> task."""
Scores = list[list[dict[str, list[Any]]]]
"""[seed][round] -> kind -> for each benchmark its (N_b,) values."""


def add_all(
    recipe: Recipe, seeds: Sequence[int], rounds: int, methods: Sequence[IteratedMethod]
) -> tuple[Graph, Rounds]:
    """The tasks of an iteration, method by method and seed by seed. Of one seed the methods begin with the same policy."""
    graph = Graph()
    found: Rounds = {}
    for method in methods:
        whole = for_rounds(recipe, rounds, method)
        found[method] = {s: add_rounds(graph, with_settings(whole, {"seed": s}), rounds, method) for s in seeds}
    return graph, found


def execute(
    recipe: Recipe, run: Run, display: Display, *, seeds: Sequence[int], rounds: int, methods: Sequence[IteratedMethod],
    launcher: Launcher | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run an iteration to its results, which are also written to `report/results.json`. What is done is not done again.

    Raises:
        UserError, StageStopped, StageFailed, KeyboardInterrupt: the same command goes on from there.
    """
    check_side_by_side(recipe, recipe.runtime.jobs)
    graph, found = add_all(recipe, seeds, rounds, methods)
    data = recipe.model_dump(mode="json")
    told = {"recipe": data, "methods": list(methods), "rounds": rounds, "seeds": list(seeds)}
    with run.lock():
        write_atomic(run.folder / STUDY, yaml.safe_dump(told, sort_keys=False))
        done: Done = {n: state for n, task in graph.tasks.items() if (state := published(run, task)) is not None}
        run_tasks(graph.tasks, list(graph.tasks), done, run, display, jobs=recipe.runtime.jobs, launcher=launcher)
        results = results_of(recipe, run, graph.tasks, found)
        (run.folder / "report").mkdir(exist_ok=True)
        write_json(run.folder / "report" / "results.json", results)
    return results


def results_of(recipe: Recipe, run: Run, tasks: Mapping[str, Task], found: Rounds) -> dict[str, Any]:
    """Figures by method and round: accuracy and its difference to the first policy, KL from it, yield, pairs, reward model,
    what training warned of (seed, text);
    and by round the differences of the first method to each of the others.
    """

    def folder(task: str) -> Path:
        return run.published(tasks[task].label)

    methods = list(found)
    seeds = list(found[methods[0]])
    first = found[methods[0]][seeds[0]][0]
    names = benchmarks(folder(tasks[first["test"]].needs["problems"]))
    scores: dict[IteratedMethod, Scores] = {
        m: [[scores_of(folder(one["test"]), names) for one in found[m][s]] for s in seeds] for m in methods
    }
    bootstrap = {"samples": recipe.evaluate.bootstrap, "seed": seed_of(recipe.seed, "rounds")}
    every: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        every[method] = []
        for number in range(len(scores[method][0])):
            row: dict[str, Any] = {"round": number}
            mine = [found[method][s][number] for s in seeds]
            for kind in KINDS:
                row[kind] = estimate([one[number][kind] for one in scores[method]], **bootstrap)
                if number:
                    row[f"{kind}_minus_start"] = _contrast(scores[method], scores[method], kind, number, 0, bootstrap)
            row["kl"] = statistics.fmean(read_json(folder(one["test"]) / "kl.json")["kl"] for one in mine)
            if number:
                row |= {
                    name: _mean([read_json(folder(one[stage]) / file) for one in mine])
                    for name, (stage, file) in _files(method, number).items()
                }
                trained = {s: folder(one[aligned_by(method)]) for s, one in zip(seeds, mine, strict=True)}
                row["warnings"] = warned(trained)
            every[method].append(row)
    a, *others = methods
    contrasts = [
        {"a": a, "b": b, "round": number}
        | {kind: _contrast(scores[a], scores[b], kind, number, number, bootstrap) for kind in KINDS}
        for b in others
        for number in range(1, len(every[a]))
    ]
    return {
        "recipe": recipe.name, "methods": methods, "seeds": seeds, "benchmarks": names, "k": recipe.evaluate.k,
        "rounds": every, "contrasts": contrasts, "environment": environment(recipe.runtime.device),
    }  # fmt: skip


def _contrast(a: Scores, b: Scores, kind: str, at: int, to: int, bootstrap: Mapping[str, int]) -> Contrast:
    """Round `at` of one against round `to` of the other."""
    return contrast([one[at][kind] for one in a], [one[to][kind] for one in b], **bootstrap)


def _files(method: IteratedMethod, number: int) -> dict[str, tuple[str, str]]:
    """name -> (stage, file) of a round's figures."""
    files = {
        "negatives": (f"negatives-{negatives_of(method)}", "stats.json"),
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
