"""What of the generator's samples is of use, in the words of method.md. (Source: ours.)"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from pns.records import Response

PLAUSIBLE_RUBRIC = 9


def yield_of(rows: Callable[[], Iterable[Response]], *, floor: float, min_rubric: int) -> dict[str, Any]:
    """The generator's yield over all its samples; shares 0..1, KL in nats a response.

    Args:
        rows: gives all samples, those of a problem together; called twice, so that no more than a problem is in memory.
        floor: of M, at a quarter of the correct responses. `min_rubric` is only repeated, for who reads the figures.
    """
    counts: Counter[str] = Counter()
    for _, group in groupby(rows(), key=lambda r: r.problem_id):
        answers: set[str] = set()
        for r in group:
            gate = r.scores.gate if r.scores else "unscored"
            counts.update(("n", gate))
            counts["well_formed"] += bool(r.scores and r.scores.well_formed)
            counts["plausible"] += _plausible(r, floor)
            if r.scores and gate == "scored" and r.scores.rubric:
                counts["judged"] += 1
                counts["full"] += r.scores.rubric.total == 12
            if r.verdict and r.verdict.outcome == "wrong" and r.verdict.answer:
                answers.add(r.verdict.answer)
        counts["served"] += bool(answers)
        counts["answers"] += len(answers)
    n = max(1, counts["n"])
    judged, served = counts["judged"], counts["served"]
    return {
        "n": counts["n"],
        "well_formed": counts["well_formed"] / n,
        "wrong": counts["scored"] / n,
        **{gate: counts[gate] / n for gate in ("correct", "undecided", "unscored", "malformed")},
        "plausible": counts["plausible"] / n,
        "min_rubric": min_rubric,
        "fully_consistent": counts["full"] / judged if judged else None,
        "distinct_answers": counts["answers"] / served if served else 0.0,
        "kl_to_policy": _kl(rows()),
    }


def fully_consistent(rows: Iterable[Response]) -> float | None:
    """Share of the decidedly wrong that the judge gives all 12 points."""
    totals = [r.scores.rubric.total for r in rows if r.scores and r.scores.gate == "scored" and r.scores.rubric]
    return sum(t == 12 for t in totals) / len(totals) if totals else None


def _plausible(r: Response, floor: float) -> bool:
    return (
        r.scores is not None
        and r.scores.gate == "scored"
        and (r.scores.reward_model or 0.0) >= floor
        and (r.scores.rubric is None or r.scores.rubric.total >= PLAUSIBLE_RUBRIC)
    )


def _kl(rows: Iterable[Response]) -> float | None:
    gaps = (r.sampling["generator_logp"] - r.policy_logp for r in rows if r.policy_logp is not None)
    try:
        return statistics.fmean(gaps)
    except statistics.StatisticsError:  # none of them has a log-probability
        return None
