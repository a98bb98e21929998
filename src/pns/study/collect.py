"""results.json of a study: estimates of every cell, contrasts with their corrections, and what stands behind them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pns
from pns.evaluation.contrasts import Table, contrast, estimate, holm, seeds_needed, smallest_difference
from pns.recipe import Recipe
from pns.run import Run, read_json, seed_of
from pns.stages.environment import environment
from pns.stages.summary import curve
from pns.study.cells import Cell, cells, unswitched
from pns.study.family import Pair, containing_pns, unnamed_family
from pns.study.plausible import plausibility
from pns.study.results import KINDS, benchmarks, scores_of, undecided, warned
from pns.study.run import Work
from pns.study.spec import Study
from pns.study.uses import collect_uses

Scored = Mapping[tuple[str, int], str]
"""(cell, seed) -> the task that scored it."""

# What a model that was made from scratch on word problems cannot do. It is said, and never faked.
NOT_FROM_SCRATCH = {
    "prompted": "a word-problem model follows no prompt to write or edit a mistake; negatives.prompted.writer: model or server does",
    "a model as judge": "a word-problem model follows no rubric; the step checker judges, or reward.judge_server",
}


class Collected:
    """All that finished cells say, read once."""

    def __init__(self, work: Work, run: Run, scored: Scored) -> None:
        self.work, self.run, self.scored = work, run, scored
        self.tasks = work.graph.tasks
        self.cells: dict[str, Cell] = {c.name: c for c in cells(work.study).values()}
        self.names = benchmarks(self._input(next(iter(scored.values())), "problems"))
        self.values = {at: scores_of(self.folder(name), self.names) for at, name in scored.items()}

    def folder(self, task: str) -> Path:
        """Where a task's result lies."""
        return self.run.published(self.tasks[task].label)

    def _input(self, task: str, name: str) -> Path:
        return self.folder(self.tasks[task].needs[name])

    def seeds(self, cell: str) -> list[int]:
        """The seeds of which the cell is done."""
        return [seed for seed in self.cells[cell].seeds if (cell, seed) in self.scored]

    def table(self, cell: str, kind: str, seeds: Sequence[int]) -> Table:
        """[seed][benchmark] -> values, one a problem."""
        return [self.values[cell, seed][kind] for seed in seeds]

    def upstream(self, cell: str, seed: int, stage: str) -> Path | None:
        """The folder of a stage that the cell's model of a seed rests on, or None where it rests on no such stage."""
        todo, seen = [self.scored[cell, seed]], set[str]()
        while todo:
            name = todo.pop()
            if self.tasks[name].stage.name == stage:
                return self.folder(name)
            if name not in seen:
                seen.add(name)
                todo += self.tasks[name].needs.values()
        return None


def collect(found: Collected, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """All figures. Accuracies and differences are shares (0..1), KL is in nats a response."""
    work, study = found.work, found.work.study
    samples, seed = study.bootstrap, seed_of(0, f"study/{study.name}")
    rows = {name: _cell(found, name, work, samples, seed) for name in found.cells if found.seeds(name)}
    planned = {name: list(cell.seeds) for name, cell in found.cells.items()}
    missing = {n: [s for s in seeds if (n, s) not in found.scored] for n, seeds in planned.items()}
    primary = [_contrast(found, a, b, study, samples, seed) for a, b in study.primary]
    family = _family(found, protocol)
    secondary = _with_holm({(a, b): _contrast(found, a, b, study, samples, seed) for a, b in family})
    ablations = {
        name: _contrast(found, name, unswitched(study, cell), study, samples, seed)
        for name, cell in found.cells.items()
        if cell.switch is not None and name in rows
    }
    return {
        "study": study.name,
        "about": study.about,
        "recipe": work.recipes.base.name,
        "set": study.model_dump(mode="json")["set"],
        "version": pns.__version__,
        "metric": study.metric,
        "protocol": {k: protocol[k] for k in ("fingerprint", "written", "hypotheses", "versions")},
        "complete": not any(missing.values()),
        "missing": {n: seeds for n, seeds in missing.items() if seeds},
        "seeds": list(study.seeds),
        "benchmarks": found.names,
        "k": work.recipes.base.evaluate.k,
        "cells": rows,
        "primary": [c for c in primary if c],
        "secondary": secondary,
        "family": len(family),
        "pns_minus": _pns_minus(found, rows, study, samples, seed),
        "ablations": {n: c for n, c in ablations.items() if c},
        "switches": {n: s.model_dump(mode="json") for n, s in study.ablations.switches.items()},
        "tuning": {**protocol["tuning"], "chosen": protocol["chosen"]},
        "negatives": _negatives(found, study),
        "plausibility": _plausibility(found),
        "generator": _generator(found),
        "reward_model": _reward_model(found),
        "uses": _uses(found, study),
        "scores": _scores(found),
        "not_applicable": not_applicable(work.recipes.base),
        "environment": environment(work.recipes.base.runtime.device),
    }


def _cell(found: Collected, name: str, work: Work, samples: int, seed: int) -> dict[str, Any]:
    cell, seeds = found.cells[name], found.seeds(name)
    folders = [found.folder(found.scored[name, s]) for s in seeds]
    kl = [read_json(folder / "kl.json")["kl"] for folder in folders]
    out: dict[str, Any] = {
        "model": cell.model, "objective": cell.objective, "regime": cell.regime, "protocol": cell.protocol,
        "switch": cell.switch, "settings": work.tuned.of(cell), "seeds": seeds,
        **{kind: estimate(found.table(name, kind, seeds), samples=samples, seed=seed) for kind in KINDS},
        "by_benchmark": {
            kind: {
                b: statistics.fmean(float(found.values[name, s][kind][i].mean()) for s in seeds)
                for i, b in enumerate(found.names)
            }
            for kind in KINDS
        },
        "kl": {"mean": statistics.fmean(kl), "by_seed": kl},
        "undecided": statistics.fmean(undecided(folder, found.names) for folder in folders),
    }  # fmt: skip
    trained = {s: f for s in seeds if (f := found.upstream(name, s, cell.stage)) and (f / "stats.json").is_file()}
    if trained and cell.is_sft:  # it has seen no pairs; what was cut stands there
        return {**out, "warnings": warned(trained)}
    if trained:
        stats = [read_json(folder / "stats.json") for folder in trained.values()]
        keys = ("separated_after", "chosen_logp_shift", "rejected_logp_shift")
        out["training"] = {k: statistics.fmean(s[k] for s in stats) for k in keys}
        out["warnings"] = warned(trained)
        out["pairs"] = _pairs(found, cell, seeds)
    return out


def _pairs(found: Collected, cell: Cell, seeds: Sequence[int]) -> dict[str, Any]:
    """Of the pairs that the cell was trained on: their number, and what the policy thought of them; means over seeds. The
    number also of each seed, as `n_by_seed`.
    """
    folders = [found.upstream(cell.name, s, "pairs") for s in seeds]
    stats = [read_json(f / "stats.json")[f"{cell.regime}-{cell.model}"] for f in folders if f is not None]
    keys = ("n", "coverage", "separated_before", "chosen_logp", "rejected_logp", "length_difference")
    means = {k: statistics.fmean(s[k] for s in stats) for k in keys if all(s.get(k) is not None for s in stats)}
    return {**means, "n_by_seed": [s["n"] for s in stats]}


def _contrast(found: Collected, a: str, b: str, study: Study, samples: int, seed: int) -> dict[str, Any] | None:
    """a - b over the seeds that both have, or None where there are none."""
    seeds = [s for s in found.seeds(a) if (b, s) in found.scored]
    if not seeds:
        return None
    kinds = {
        kind: contrast(found.table(a, kind, seeds), found.table(b, kind, seeds), samples=samples, seed=seed)
        for kind in KINDS
    }
    by_seed = kinds[study.metric]["by_seed"]
    return {
        "a": a, "b": b, "seeds": seeds, **kinds,
        # Where all seeds are equal their spread says nothing yet.
        "seeds_needed": seeds_needed(by_seed, study.difference) if kinds[study.metric]["seed_sd"] else None,
        "smallest_difference": smallest_difference(by_seed),
        "kl": [statistics.fmean(_kl(found, c, s) for s in seeds) for c in (a, b)],
    }  # fmt: skip


def _kl(found: Collected, cell: str, seed: int) -> float:
    return float(read_json(found.folder(found.scored[cell, seed]) / "kl.json")["kl"])


def _family(found: Collected, protocol: Mapping[str, Any]) -> list[Pair]:
    """The secondary contrasts that were planned, done or not: those of the protocol, whatever would be planned today."""
    if "family" in protocol:
        return [(a, b) for a, b in protocol["family"]]
    return unnamed_family(found.work.study)


def _with_holm(found: Mapping[tuple[str, str], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """The contrasts that could be made, with p-values that are Holm-corrected over all that were planned, for each kind of
    accuracy apart. One that could not be made counts with p = 1.
    """
    for kind in KINDS:
        raw = {pair: 1.0 if c is None or (p := c[kind]["p_value"]) is None else p for pair, c in found.items()}
        for pair, value in holm(raw).items():
            if (row := found[pair]) is not None and row[kind]["p_value"] is not None:
                row[kind]["p_holm"] = value
    return [row for row in found.values() if row is not None]


def _pns_minus(
    found: Collected, rows: Mapping[str, Any], study: Study, samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """pns against every cell of its own regime, objective and protocol, the starts and the controls."""
    if "pns" not in rows:
        return {}
    plain = [n for n in rows if n != "pns" and "/" not in n and "@" not in n]
    no_rivals = containing_pns(found.work.recipes.base)
    out = {}
    for name in plain:
        one = _contrast(found, "pns", name, study, samples, seed)
        if one is not None:
            out[name] = {
                **{k: one[study.metric][k] for k in ("difference", "ci95", "ci95_t", "p_value")},
                "sampled": {k: one["sampled"][k] for k in ("difference", "ci95", "p_value")},
                "seeds": len(one["seeds"]),
                **({"note": "contains pns, so it is no rival"} if rows[name]["model"] in no_rivals else {}),
            }
    return out


def _anywhere(found: Collected, stage: str) -> dict[int, Path]:
    """seed -> folder of a stage with the unswitched recipe, of the test seeds that have it."""
    out: dict[int, Path] = {}
    for cell, seed in found.scored:
        if found.cells[cell].switch is None and seed not in out:
            folder = found.upstream(cell, seed, stage)
            if folder is not None:
                out[seed] = folder
    return out


def _negatives(found: Collected, study: Study) -> dict[str, Any]:
    """Of each method, means over seeds: coverage, selected negatives, the policy's log p of the pairs."""
    out: dict[str, Any] = {}
    folders = _anywhere(found, "pairs").values()
    stats = [read_json(folder / "stats.json") for folder in folders]
    for method in study.methods:
        for regime in study.regimes:
            rows = [s[f"{regime}-{method}"] for s in stats if f"{regime}-{method}" in s]
            if rows:
                keys = [
                    k
                    for k, v in rows[0].items()
                    if all(isinstance(r.get(k), int | float) for r in rows) and v is not None
                ]
                out.setdefault(method, {})[regime] = {k: statistics.fmean(r[k] for r in rows) for k in keys}
    return out


def _generator(found: Collected) -> dict[str, Any] | None:
    """Yield (means over seeds; of pns) and the mean curve of the gates over generator training."""
    trained = _anywhere(found, "generator")
    if not trained:
        return None
    stats = [read_json(folder / "stats.json") for folder in _anywhere(found, "negatives-pns").values()]
    keys = [k for k in stats[0] if all(isinstance(s.get(k), int | float) for s in stats)] if stats else []
    curves = [curve(folder) for folder in trained.values()]
    steps = min((len(c) for c in curves), default=0)
    mean = []
    for i in range(steps):
        rows = [c[i] for c in curves]
        shared = [k for k in rows[0] if all(k in r for r in rows)]
        mean.append({k: rows[0]["step"] if k == "step" else statistics.fmean(r[k] for r in rows) for k in shared})
    return {**{k: statistics.fmean(s[k] for s in stats) for k in keys}, "by_seed": stats, "curve": mean}


def _reward_model(found: Collected) -> list[dict[str, Any]]:
    return [
        {"seed": seed, **read_json(folder / "worth.json")} for seed, folder in _anywhere(found, "reward_model").items()
    ]


def not_applicable(recipe: Recipe) -> dict[str, str]:
    """What the study's own models cannot do, and why; nothing of it where another model does it in their place."""
    if recipe.model.kind != "scratch":
        return {}
    done = {
        "prompted": recipe.negatives.prompted.writer != "policy",
        "a model as judge": recipe.reward.judge not in ("steps", "none"),
    }
    return {name: why for name, why in NOT_FROM_SCRATCH.items() if not done[name]}


def _uses(found: Collected, study: Study) -> dict[str, Any]:
    """See `pns.study.uses`."""
    folders: dict[str, dict[int, Path]] = {"reward_model": _anywhere(found, "reward_model")}
    for seed, extras in found.work.extras.items():
        for stage, task in extras.items():
            if task in found.work.done:
                folders.setdefault(stage, {})[seed] = found.folder(task)
    return collect_uses(study.uses, study.methods, folders)


def _plausibility(found: Collected) -> dict[str, Any]:
    """See `pns.study.plausible`: of the methods, and of those that they are mixed from."""
    negatives = _selected(found)
    return plausibility(negatives, negatives, _scores_by_seed(found), _audits(found))


def _selected(found: Collected) -> dict[str, dict[int, Path]]:
    """method -> seed -> the folder with its selected negatives."""
    return {m: _anywhere(found, f"negatives-{m}") for m in found.work.recipes.base.negatives.sources()}


def selected(found: Collected) -> Iterator[tuple[str, int, Path]]:
    """Method, seed and folder of all selected negatives, of the seeds that have them."""
    for method, folders in _selected(found).items():
        yield from ((method, seed, folder) for seed, folder in folders.items())


def _audits(found: Collected) -> dict[int, dict[str, Any]]:
    """seed -> how well its audit model tells each method's negatives; of the seeds that have one."""
    done = {seed: extras["audit"] for seed, extras in found.work.extras.items() if "audit" in extras}
    return {s: read_json(found.folder(t) / "audit.json") for s, t in done.items() if t in found.work.done}


def _scores_by_seed(found: Collected) -> dict[int, dict[str, list[float]]]:
    """seed -> reward-model scores of the chosen responses and of each method's negatives."""
    done = {seed: extras["scores"] for seed, extras in found.work.extras.items()}
    return {s: read_json(found.folder(t) / "scores.json") for s, t in done.items() if t in found.work.done}


def _scores(found: Collected) -> dict[str, list[float]]:
    """All of them, seed after seed."""
    out: dict[str, list[float]] = {}
    for scores in _scores_by_seed(found).values():
        for kind, values in scores.items():
            out.setdefault(kind, []).extend(values)
    return out
