"""Which mistakes negatives show, and which ones models make, in an embedded study: why a method teaches, or does not.

    python studies/mistakes.py studies/embedded.yaml runs/embedded [--seeds 1,2,3] [--more rejection@foreign ...] [--json FILE]

For every seed that is there, by kind of mistake (see pns.problems.mistakes):

- the policy's wrong rollouts on the problems of the pairs, and the negatives that each method put into matched pairs;
- how near a negative is to the policy: whether its answer is among those of the policy's own rollouts to the same problem, and
  how often the policy gives that answer;
- answers to the benchmarks, greedy and sampled, of the policy and of every aligned model;
- with --more, the same for further cells (ablations, objectives), and the kinds in the pairs that made them; the seeds that are left
  are those that have all cells.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pns.errors import UserError
from pns.problems import embedded
from pns.problems.families import BENCHMARKS, Story
from pns.problems.mistakes import RIGHT, mistake
from pns.recipe import ProblemsPart
from pns.recipe_files import load_recipe
from pns.records import Pair, Response, read_parquet
from pns.run import Run
from pns.study.cells import Recipes, cells
from pns.study.collect import Collected
from pns.study.results import KINDS
from pns.study.run import finished
from pns.study.spec import Study, load_study, with_settings

GROUPS = ("policy's rollouts", "rejection", "pns")
CELLS = ("policy", "sft_chosen", "sft_chosen/own", "rejection", "rejection/own", "pns", "pns/own")


def stories_of(study: Study, seed: int) -> tuple[dict[str, Story], dict[str, Story]]:
    """The stories of the pairs' problems and of the benchmarks, by the problems' ids."""
    part = with_settings(load_recipe(study.recipe)[0], study.set).problems
    pairs = {p.id: s for s, p in embedded.training_stories("pairs", part.splits.pairs, seed, more=part.more_events)}
    return pairs, tested_stories(part, seed)


def tested_stories(part: ProblemsPart, seed: int) -> dict[str, Story]:
    """The stories of the benchmarks, by the problems' ids."""
    return {
        p.id: s
        for name in BENCHMARKS
        for s, p in embedded.benchmark_stories(name, part.benchmark_size, seed, part.more_events)
    }


def shares(kinds: Iterable[str]) -> dict[str, float]:
    """Share of each kind of mistake among all mistakes, right answers left out."""
    counts = Counter(kind for kind in kinds if kind != RIGHT)
    return {kind: n / counts.total() for kind, n in counts.most_common()}


def of_negatives(study: Collected, seed: int, stories: Mapping[str, Story]) -> dict[str, Any]:
    """Kinds of mistake of rollouts and negatives, and how near the negatives' answers are to the policy's."""
    rollouts, pairs = (study.upstream(GROUPS[-1], seed, stage) for stage in ("rollouts-pairs", "pairs"))
    assert rollouts is not None, "an aligned cell rests on both"
    assert pairs is not None
    rows = read_parquet(rollouts / "responses.parquet", Response)
    own: dict[str, Counter[str]] = {}
    for r in rows:
        if r.verdict and r.verdict.answer is not None:
            own.setdefault(r.problem_id, Counter())[r.verdict.answer] += 1
    wrong = [r for r in rows if r.verdict and r.verdict.outcome == "wrong"]
    out: dict[str, Any] = {
        "policy's rollouts": {"kinds": shares(mistake(stories[r.problem_id], r.text) for r in wrong)}
    }
    for method in GROUPS[1:]:
        made = read_parquet(pairs / f"matched-{method}.parquet", Pair)
        same = [own.get(p.problem_id, Counter())[p.rejected_answer or ""] for p in made]
        out[method] = {
            "kinds": shares(mistake(stories[p.problem_id], p.rejected) for p in made),
            "answer_among_rollouts": sum(n > 0 for n in same) / len(same),
            "rollouts_with_that_answer": statistics.fmean(same),
        }
    return out


def of_pairs(study: Collected, cell: str, seed: int, stories: Mapping[str, Story]) -> dict[str, float]:
    """Kinds of mistake in the pairs that a cell was trained on."""
    folder, what = study.upstream(cell, seed, "pairs"), study.cells[cell]
    assert folder is not None, "checked at the start"
    made = read_parquet(folder / f"{what.regime}-{what.model}.parquet", Pair)
    return shares(mistake(stories[p.problem_id], p.rejected) for p in made)


def of_models(
    study: Collected, seed: int, stories: Mapping[str, Story], how: str, names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Greedy or sampled answers of each cell to all benchmarks by kind, as shares of all."""
    out: dict[str, dict[str, float]] = {}
    for cell in names:
        folder = study.folder(study.scored[cell, seed])
        rows = [r for name in study.names for r in read_parquet(folder / f"{how}-{name}.parquet", Response)]
        counts = Counter(mistake(stories[r.problem_id], r.text) for r in rows)
        out[cell] = {kind: n / counts.total() for kind, n in counts.items()}
    return out


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over seeds; a kind that a seed does not have counts as 0 there."""
    kinds = dict.fromkeys(kind for row in rows for kind in row)
    return {kind: statistics.fmean(row.get(kind, 0.0) for row in rows) for kind in kinds}


def changes(made: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of every model but the policy: its shares less the policy's."""
    policy = made["policy"]
    return {
        name: {kind: found.get(kind, 0) - policy.get(kind, 0) for kind in policy | found}
        for name, found in made.items()
        if name != "policy"
    }


def distance(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Total variation between two distributions over kinds, 0..1."""
    return sum(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in {*a, *b}) / 2


def show(title: str, rows: Mapping[str, Mapping[str, float]], *, signed: bool = False) -> None:
    """A table of shares in per cent; kinds are columns, the frequent ones first."""
    kinds = sorted({k for r in rows.values() for k in r}, key=lambda k: -max(abs(r.get(k, 0)) for r in rows.values()))
    table = Table(title=title, title_justify="left", padding=(0, 0))
    table.add_column("", min_width=max(map(len, rows)))
    for kind in kinds:
        table.add_column(kind.replace("_", "\n"), justify="right", min_width=5)
    for name, row in rows.items():
        table.add_row(name, *(f"{100 * row.get(kind, 0):{'+' if signed else ''}.1f}" for kind in kinds))
    Console().print(table)


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("file", type=Path, help="the study's file")
    told.add_argument("study", type=Path, help="its folder")
    told.add_argument("--seeds", help="such as 1,2,3; default: all test seeds that are complete")
    told.add_argument("--more", nargs="+", default=[], metavar="CELL", help="further cells, trained on pairs")
    told.add_argument("--json", type=Path, help="also write the figures")
    asked = told.parse_args()
    study = load_study(asked.file)
    try:
        run = Run.open(asked.study)
        work, _, scored = finished(Recipes(study, asked.file), run)
    except UserError as error:
        told.error(str(error))
    every = [int(s) for s in asked.seeds.split(",")] if asked.seeds else list(study.seeds)
    known = cells(study)
    for cell in asked.more:
        if cell not in known or known[cell].regime is None or known[cell].model not in study.methods:
            told.error(f"--more {cell}: no such cell, or not one that was trained on the pairs of a method")
    names = dict.fromkeys((*CELLS, *asked.more))
    used = [seed for seed in every if all((cell, seed) in scored for cell in names)]
    if not used:
        told.error(f"{asked.study}: no seed has all its cells yet")
    found, negatives, models, more = Collected(work, run, scored), [], [], []
    for seed in used:
        pairs, tests = stories_of(study, seed)
        negatives.append(of_negatives(found, seed, pairs))
        models.append({how: of_models(found, seed, tests, how, names) for how in KINDS})
        more.append({cell: of_pairs(found, cell, seed, pairs) for cell in ("rejection/own", "pns/own", *asked.more)})
    kinds = {name: mean([one[name]["kinds"] for one in negatives]) for name in GROUPS}
    near = {
        name: mean([{k: v for k, v in one[name].items() if k != "kinds"} for one in negatives]) for name in GROUPS[1:]
    }
    made = {how: {n: mean([one[how][n] for one in models]) for n in models[0][how]} for how in KINDS}
    change = {how: changes(found) for how, found in made.items()}
    apart = {name: distance(kinds[name], kinds["policy's rollouts"]) for name in GROUPS[1:]}
    show(f"Mistakes by kind, per cent of all mistakes; {len(used)} seeds", kinds)
    own = {cell: mean([one[cell] for one in more]) for cell in more[0]}
    show("Mistakes by kind in the pairs that made a cell, per cent", own)
    Console().print({"total variation from the policy's rollouts": apart, "near": near})
    for how in KINDS:
        show(f"Answers of the policy to the benchmarks by kind, {how}, per cent", {"policy": made[how]["policy"]})
        show(f"Change against the policy, {how}, points", change[how], signed=True)
    if asked.json:
        by_seed = [{"seed": seed, **one} for seed, one in zip(used, models, strict=True)]
        told_all = {
            "by_seed": by_seed,
            "seeds": used,
            "kinds": kinds,
            "distance": apart,
            "near": near,
            "answers": made,
            "change": change,
            "own": own,
        }
        asked.json.write_text(json.dumps(told_all, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
