"""What else negatives are good for, over the seeds of a study: figures of every stage in `uses`, and their differences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pns.evaluation.contrasts import contrast
from pns.run import read_json
from pns.study.graph import PLAIN

Figures = dict[str, float | None]
BEST = "the policy's own answers"
"""What a map from scores to probabilities is fitted on at best."""


def collect_uses(
    uses: Sequence[str], methods: Sequence[str], folders: Mapping[str, Mapping[int, Path]]
) -> dict[str, Any]:
    """use -> seeds, the figures of each model by seed, and contrasts of models with t intervals over seeds.

    Args:
        folders: stage name (`step_verifier-pns`, `reward_model`) -> seed -> its folder, of what is done.
    """
    out: dict[str, Any] = {}
    for use in uses:
        if use not in _READ:
            continue
        mine = {method: folders.get(f"{use}-{method}", {}) for method in methods}
        seeds = sorted(set.intersection(*(set(found) for found in mine.values())))
        if use == "reward_model":
            seeds = [s for s in seeds if s in folders.get("reward_model", {})]
            mine = {PLAIN: folders.get("reward_model", {}), **mine}
        if not seeds:
            continue
        figures = {name: [_READ[use](found[s]) for s in seeds] for name, found in mine.items()}
        if use == "calibration":
            figures = {BEST: [_best(mine[methods[0]][s]) for s in seeds], **figures}
        out[use] = {"seeds": seeds, "figures": _by_figure(figures), "contrasts": _contrasts(figures, methods)}
        if use == "reward_model":
            out[use]["hard"] = {m: [read_json(mine[m][s] / "hard.json") for s in seeds] for m in methods}
    return out


def _by_figure(figures: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, Any]]:
    """model -> figure -> mean and values by seed."""
    out: dict[str, dict[str, Any]] = {}
    for model, rows in figures.items():
        for name in rows[0]:
            values = [row[name] for row in rows]
            known = [v for v in values if v is not None]
            mean = statistics.fmean(known) if len(known) == len(values) else None
            out.setdefault(model, {})[name] = {"mean": mean, "by_seed": values}
    return out


def _contrasts(figures: Mapping[str, Sequence[Figures]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """pns against every other model, and every method against what is no method."""
    pairs = [("pns", other) for other in figures if "pns" in figures and other != "pns"]
    pairs += [(m, other) for m in methods if m != "pns" for other in figures if other not in methods]
    out = []
    for a, b in pairs:
        for name in figures[a][0]:
            left, right = ([row[name] for row in figures[model]] for model in (a, b))
            known = [(x, y) for x, y in zip(left, right, strict=True) if x is not None and y is not None]
            if len(known) == len(left):
                out.append({"a": a, "b": b, "figure": name, **by_seed_difference(*zip(*known, strict=True))})
    return out


def by_seed_difference(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """a - b of figures that each seed gives once: mean, t interval and test over seeds."""
    found = contrast([[[x]] for x in a], [[[x]] for x in b], samples=1)
    return {k: found[k] for k in ("difference", "ci95_t", "p_value", "by_seed")}


def _worth(folder: Path) -> Figures:
    found = read_json(folder / "worth.json")
    return {k: v for k, v in found.items() if k.startswith(("pair_accuracy", "best_of"))}


def _verified(folder: Path) -> Figures:
    found = read_json(folder / "verifier.json")["held_out"]
    f1 = found["f1"] or {}
    parts = {name: f1.get(name) for name in ("f1", "accuracy_erroneous", "accuracy_correct")}
    return {name: None if part is None else part["value"] for name, part in {**parts, "auc": found["auc"]}.items()}


def _calibrated(folder: Path, fitted_on: str = "fitted_on_pairs") -> Figures:
    found = read_json(folder / "probabilities.json")
    return {
        f"{scorer}: {name}": None if found[scorer][fitted_on] is None else found[scorer][fitted_on][name]
        for scorer in ("judge", "reward_model", "both")
        for name in ("brier", "log_loss", "ece", "accuracy", "auc")
    }


def _best(folder: Path) -> Figures:
    return _calibrated(folder, "fitted_on_policy")


_READ: dict[str, Callable[[Path], Figures]] = {
    "reward_model": _worth, "step_verifier": _verified, "calibration": _calibrated,
}  # fmt: skip
