"""Which mistakes models make before and after rounds of `pns iterate` on embedded problems, by kind (see pns.problems.mistakes).

    python studies/mistakes_rounds.py recipes/harder.yaml runs/sizes-0.4m [KEY=VALUE ...] [--round 1] [--how sampled] [--json FILE]

The recipe and overrides are those of the run, as far as they say which benchmarks there are. Shares of all answers, means over
seeds; then each method's less the policy's, and pns's less rejection's with 95 % t intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistakes import changes, mean, show, tested_stories
from rich.console import Console
from scipy.stats import ttest_1samp

from pns.errors import UserError
from pns.problems.families import BENCHMARKS, Story
from pns.problems.mistakes import RIGHT, mistake
from pns.recipe_files import load_recipe
from pns.records import Response, read_parquet

METHODS = {
    "pns": "align-pns-own", "rejection": "align-rejection-own", "sft_chosen": "align-sft_chosen-own",
    "sft_pns": "align-sft_chosen-own-pns",
}  # fmt: skip


def seeds_of(stages: Path) -> list[int]:
    """Of the policies that were tested. Raises UserError where there are none."""
    found = sorted(int(path.name.split("-")[0][1:]) for path in stages.glob("s*-test-rlvr-*") if path.suffix != ".work")
    if not found:
        raise UserError("no policy has answered the benchmarks there", file=stages, remedy="`pns iterate` makes it")
    return found


def answers(stages: Path, seed: int, label: str, stories: Mapping[str, Story], how: str) -> dict[str, float] | None:
    """Answers of a model to all benchmarks by kind, as shares of all; None where it was not tested."""
    folders = [path for path in stages.glob(f"s{seed}-{label}-*") if path.suffix != ".work"]
    if not folders:
        return None
    rows = [r for name in BENCHMARKS for r in read_parquet(folders[0] / f"{how}-{name}.parquet", Response)]
    counts = Counter(mistake(stories[r.problem_id], r.text) for r in rows)
    return {kind: n / counts.total() for kind, n in counts.items()}


def between(a: list[dict[str, float]], b: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean over seeds of the difference of each kind's share, with its 95 % t interval where there are several."""
    out = {}
    for kind in sorted({kind for row in [*a, *b] for kind in row}):
        by_seed = [x.get(kind, 0.0) - y.get(kind, 0.0) for x, y in zip(a, b, strict=True)]
        t = [float(x) for x in ttest_1samp(by_seed, 0.0).confidence_interval()] if len(by_seed) > 1 else None
        out[kind] = {"difference": statistics.fmean(by_seed), "ci95_t": t}
    return out


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--how", choices=("greedy", "sampled"), default="sampled")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    recipe, stages = load_recipe(given.recipe, given.overrides)[0], given.run / "stages"
    seeds = seeds_of(stages)
    labels = {"policy": "test-rlvr"} | {m: f"r{given.round}-test-{stage}" for m, stage in METHODS.items()}
    stories = {seed: tested_stories(recipe.problems, seed) for seed in seeds}
    found: dict[str, list[dict[str, float]]] = {}
    for name, label in labels.items():
        rows = [answers(stages, seed, label, stories[seed], given.how) for seed in seeds]
        if all(row is not None for row in rows):
            found[name] = [row for row in rows if row is not None]
    means = {name: mean(rows) for name, rows in found.items()}
    show(f"{given.how} answers, % of all, {len(seeds)} seeds", means)
    show("change against the policy, points", changes(means), signed=True)
    result: dict[str, Any] = {"seeds": seeds, "round": given.round, "how": given.how, "shares": means}
    if {"pns", "rejection"} <= found.keys():
        result["pns_minus_rejection"] = between(found["pns"], found["rejection"])
        for kind, one in sorted(result["pns_minus_rejection"].items(), key=lambda item: item[0] != RIGHT):
            low, high = one["ci95_t"] or (float("nan"), float("nan"))
            Console().print(
                f"pns - rejection, {kind}: {100 * one['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            )
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
