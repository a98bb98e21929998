"""How plausible each method's negatives are: what judge and reward model make of them, and what the generator yields."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pns.evaluation.metrics import quartiles, rank_auc
from pns.negatives.yields import fully_consistent
from pns.run import read_json
from pns.streams import read_responses

CORRECT = "correct"
"""What the chosen responses are called among the kinds of scores."""
YIELD = ("n", "wrong", "plausible", "fully_consistent", "kl_to_policy")


def plausibility(
    methods: Iterable[str],
    negatives: Mapping[str, Mapping[int, Path]],
    scores: Mapping[int, Mapping[str, Sequence[float]]],
    audits: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Of the chosen responses and of each method; None is what could not be had.

    Args:
        negatives: method -> seed -> the folder with its selected negatives.
        scores: seed -> kind of response -> raw scores of that seed's reward model.
        audits: seed -> audit.json of the stage of that name, where the study asked for it.

    Returns:
        `yield` over all samples of a generator (means over seeds; shares 0..1, KL in nats a response; `fully_consistent` of the
        wrong ones that were judged); `fully_consistent`, the same share of the selected negatives; `reward_model`, the scores'
        number and quartiles over all seeds, and the AUC of each seed's model, correct responses above; `heldout_auc`, the AUC of
        each seed's audit model, which selected nothing.
    """
    out: dict[str, Any] = {CORRECT: {"reward_model": _scored(CORRECT, scores)}}
    for method in methods:
        folders = negatives.get(method, {})
        shares = [fully_consistent(read_responses(folder / "negatives.parquet")) for folder in folders.values()]
        out[method] = {
            "yield": _yield([read_json(folder / "stats.json") for folder in folders.values()]),
            "fully_consistent": _over_seeds(shares),
            "reward_model": _scored(method, scores),
            "heldout_auc": _over_seeds([audit["heldout_auc"].get(method) for audit in audits.values()]),
        }
    return out


def _yield(stats: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """None where a method's samples are not a generator's, or not all of them were kept."""
    if not stats or any("wrong" not in one for one in stats):
        return None
    return {key: found["mean"] if (found := _over_seeds([s.get(key) for s in stats])) else None for key in YIELD}


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean where every seed has the figure; None where there is none at all."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known) if len(known) == len(values) else None, "by_seed": list(values)}


def _scored(kind: str, scores: Mapping[int, Mapping[str, Sequence[float]]]) -> dict[str, Any] | None:
    """Models of two seeds have no common scale, so that the AUC is taken seed by seed."""
    by_seed = [[x for x in found.get(kind, ()) if math.isfinite(x)] for found in scores.values()]
    every = [x for values in by_seed for x in values]
    if not every:
        return None
    out: dict[str, Any] = {"n": len(every), "quartiles": quartiles(every)}
    if kind != CORRECT:
        right = [[x for x in found.get(CORRECT, ()) if math.isfinite(x)] for found in scores.values()]
        pairs = zip(right, by_seed, strict=True)
        out["auc"] = _over_seeds([rank_auc(good, bad) if good and bad else None for good, bad in pairs])
    return out
