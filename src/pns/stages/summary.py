"""results.json and the page: everything measured, joined."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pns
from pns.evaluation.metrics import avg_at_k, bootstrap_ci, maj_at_k, mean_ci, paired_difference, pass_at_k
from pns.recipe import REFERENCES
from pns.records import Pair, Verdict, read_parquet, write_parquet
from pns.run import seed_of, write_json
from pns.stages.context import Context
from pns.stages.environment import environment
from pns.streams import read_responses

Table = dict[str, dict[str, dict[str, Any]]]

CURVE_KEYS = {
    "reward": "reward",
    "kl": "kl",
    "completions/mean_length": "length",
    "composite/malformed": "share_malformed",
    "composite/correct": "share_correct",
    "composite/scored": "share_scored",
    "composite/undecided": "share_undecided",
    "composite/unscored": "share_unscored",
    "composite/mean_M": "mean_reward_model",
    "composite/mean_C": "mean_judge",
    "solving/correct": "share_solved",
    "rlvr/correct": "share_correct",
    "rlvr/well_formed": "share_well_formed",
}


def summarise(context: Context) -> None:
    """Write results.json and examples.parquet; times are added by the pipeline, which alone knows them."""
    recipe = context.recipe
    names: list[str] = context.json("problems", "summary.json")["benchmarks"]
    table = _evaluations(context, names)
    own = [m for m in table if m.endswith("-own")]
    main = [m for m in table if m not in own]
    samples, seed = recipe.evaluate.bootstrap, seed_of(recipe.seed, "bootstrap")
    results: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "version": pns.__version__,
        "mean": {m: _mean(table[m], "greedy") for m in main},
        "mean_ci95": {m: mean_ci(_columns(table[m], "greedy"), samples=samples, seed=seed) for m in main},
        "sampled": {
            "k": recipe.evaluate.k,
            "mean": {m: _mean(table[m], "sampled") for m in main},
            "mean_ci95": {m: mean_ci(_columns(table[m], "sampled"), samples=samples, seed=seed) for m in main},
            "pass_at_k": {m: float(np.mean([b["pass_at_k"] for b in table[m].values()])) for m in main},
            "maj_at_k": {m: float(np.mean([b["maj_at_k"] for b in table[m].values()])) for m in main},
        },
        "benchmarks": {n: {m: _cell(table[m][n], samples, seed) for m in main} for n in names},
        "paired": {m: _paired(table, m, samples, seed) for m in main if m not in ("policy", "sft")},
        "own_coverage": {
            "mean": {m.removesuffix("-own"): _mean(table[m], "greedy") for m in own},
            "sampled": {m.removesuffix("-own"): _mean(table[m], "sampled") for m in own},
            "paired": {m.removesuffix("-own"): _paired(table, m, samples, seed) for m in own},
        },
        "policy": {
            "misread_share": context.json("problems", "summary.json")["misread_share"],
            "sft": {"greedy": _mean(table["sft"], "greedy"), "sampled": _mean(table["sft"], "sampled")},
            "rlvr": {"greedy": _mean(table["policy"], "greedy"), "sampled": _mean(table["policy"], "sampled")},
            "rlvr_curve": _curve(context, "rlvr"),
        },
        "dev": {
            m: {kind: float(cells["dev"][kind].mean()) for kind in ("greedy", "sampled")}
            for m, cells in _evaluations(context, ["dev"]).items()
        },
        "reward_model": context.json("reward_model", "worth.json"),
        "audit_model": context.json("audit_model", "worth.json"),
        "pairs": {},
        "pairs_own": {},
    }
    _add_pns(context, results, table)
    _add_pairs(context, results)
    results["environment"] = environment(recipe.runtime.device)
    results["notes"] = _notes(context, results)
    write_json(context.out / "results.json", results)


def _add_pns(context: Context, results: dict[str, Any], table: Table) -> None:
    negatives = context.recipe.negatives
    if context.recipe.trains_generator:
        stats = context.json("negatives-pns", "stats.json") if "pns" in negatives.sources() else {}
        results["generator"] = {**stats, "curve": _curve(context, "generator")}
    if {"pns", "rejection"} <= set(results["paired"]):
        samples, seed = context.recipe.evaluate.bootstrap, seed_of(context.recipe.seed, "bootstrap")
        results["paired"]["pns"]["difference_to_rejection"] = _difference(
            table, "pns", "rejection", "greedy", samples, seed
        )
        results["paired"]["pns"]["sampled_difference_to_rejection"] = _difference(
            table, "pns", "rejection", "sampled", samples, seed
        )
    audit = context.json("audit", "audit.json")
    results["plausibility"] = audit


def _add_pairs(context: Context, results: dict[str, Any]) -> None:
    stats = context.json("pairs", "stats.json")
    shown: dict[str, list[Pair]] = {}
    for regime, method in itertools.product(context.recipe.pairs.regimes, context.recipe.negatives.methods):
        block = results["pairs" if regime == "matched" else "pairs_own"]
        block[method] = stats[f"{regime}-{method}"] | context.json(f"align-{method}-{regime}", "stats.json")
        shown.setdefault(method, read_parquet(context.inputs["pairs"] / f"{regime}-{method}.parquet", Pair))
    write_parquet(context.out / "examples.parquet", _examples(shown, context.recipe.report.examples))


def _examples(shown: Mapping[str, Sequence[Pair]], most: int) -> list[Pair]:
    """Half of the page's examples from PNS, the others in turn from the other methods, each problem once."""
    half = (most + 1) // 2 if "pns" in shown else 0
    out = list(shown.get("pns", ()))[:half]
    others = [m for m in ("rejection", "corruption", "flip") if m in shown]
    seen = {p.problem_id for p in out}
    for row in zip(*(reversed(shown[m]) for m in others), strict=False):
        free = [p for p in row if p.problem_id not in seen]
        if len(out) < most and free:
            pair = free[(len(out) - half) % len(free)]
            out.append(pair)
            seen.add(pair.problem_id)
    return out


def _evaluations(context: Context, names: list[str]) -> Table:
    order = ["policy", "sft", "sft_chosen", *REFERENCES]
    found = [n.removeprefix("evaluate-") for n in context.inputs if n.startswith("evaluate-")]
    return {
        m: _load(context, m, names) for m in sorted(found, key=lambda m: order.index(m) if m in order else len(order))
    }


def _load(context: Context, model: str, names: list[str]) -> dict[str, dict[str, Any]]:
    folder = context.inputs[f"evaluate-{model}"]
    out = {}
    for name in names:
        # Of each response its outcome and answer alone: the texts of all benchmarks need not be in memory.
        greedy, sampled = (
            [r.verdict for r in read_responses(folder / f"{kind}-{name}.parquet")] for kind in ("greedy", "sampled")
        )
        k = max(1, len(sampled) // max(1, len(greedy)))
        right_NK = np.array([_right(v) for v in sampled], dtype=bool).reshape(len(greedy), k)
        answers = [[v.answer if v else None for v in sampled[i * k : (i + 1) * k]] for i in range(len(greedy))]
        out[name] = {
            "greedy": np.array([_right(v) for v in greedy], dtype=float),
            **at_k(answers, right_NK, min(k, context.recipe.evaluate.k)),
            "undecided": sum(bool(v and v.outcome == "undecided") for v in greedy) / len(greedy),
        }
    return out


def at_k(answers: Sequence[Sequence[str | None]], right_NK: NDArray[np.bool_], k: int) -> dict[str, Any]:
    """What N problems with K >= k samples each say: avg over all of them, pass@k, and maj@k of the first k, so that benchmarks
    with more samples than the recipe's k stand beside the others.
    """
    return {
        "sampled": right_NK.mean(1),
        "avg": avg_at_k(right_NK),
        "pass_at_k": pass_at_k(right_NK, k),
        "maj_at_k": maj_at_k([row[:k] for row in answers], right_NK[:, :k]),
    }


def _right(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.outcome == "correct"


def _columns(block: dict[str, dict[str, Any]], kind: str) -> list[Any]:
    return [cells[kind] for cells in block.values()]


def _mean(block: dict[str, dict[str, Any]], kind: str) -> float:
    return float(np.mean([cells[kind].mean() for cells in block.values()]))


def _cell(cells: dict[str, Any], samples: int, seed: int) -> dict[str, Any]:
    return {
        "accuracy": float(cells["greedy"].mean()),
        "n": len(cells["greedy"]),
        "ci95": bootstrap_ci(cells["greedy"], samples=samples, seed=seed),
        "sampled": cells["avg"],
        "pass_at_k": cells["pass_at_k"],
        "maj_at_k": cells["maj_at_k"],
        "undecided": cells["undecided"],
    }


def _difference(table: Table, a: str, b: str, kind: str, samples: int, seed: int) -> dict[str, Any]:
    found = paired_difference(_columns(table[a], kind), _columns(table[b], kind), samples=samples, seed=seed)
    return {"difference": found["difference"], "ci95": list(found["ci95"]), "p_value": found["p_value"]}


def _paired(table: Table, method: str, samples: int, seed: int) -> dict[str, Any]:
    greedy = _difference(table, method, "policy", "greedy", samples, seed)
    sampled = _difference(table, method, "policy", "sampled", samples, seed)
    return {
        "difference_to_policy": greedy["difference"],
        "ci95": greedy["ci95"],
        "p_value": greedy["p_value"],
        "sampled_difference_to_policy": sampled["difference"],
        "sampled_ci95": sampled["ci95"],
    }


def _curve(context: Context, stage: str) -> list[dict[str, Any]]:
    return curve(context.inputs[stage])


def curve(folder: Path) -> list[dict[str, Any]]:
    """A GRPO training's figures by step, under the names of the report."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if "reward" in (row := json.loads(line))]
    return [{"step": row["step"], **{new: row[old] for old, new in CURVE_KEYS.items() if old in row}} for row in rows]


def _notes(context: Context, results: dict[str, Any]) -> list[str]:
    notes = list(context.json("problems", "summary.json")["notes"])
    for name, cells in results["benchmarks"].items():
        accuracy = cells["policy"]["accuracy"]
        if not 0.15 <= accuracy <= 0.85:
            notes.append(
                f"the policy's accuracy on {name} is {100 * accuracy:.0f} %: outside 15 to 85 % little can be seen there"
            )
    for name in (r for r in REFERENCES if r in results["mean"]):
        budget = context.json(name, "budget.json")
        if budget["steps"] < budget["steps_of_pns"]:
            notes.append(
                f"{name} made {budget['steps']} of the {budget['steps_of_pns']} steps that PNS cost: its problems ran out"
            )
    if "sft_chosen" in results["mean"] and context.recipe.align.cut:
        notes += [f"sft_chosen: {warning}" for warning in context.json("align-sft_chosen", "stats.json")["warnings"]]
    return notes
