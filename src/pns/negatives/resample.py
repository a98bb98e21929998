"""Negatives whose log-probabilities under the policy are spread as those of other negatives. (Ours.)

How hard a preference step pushes depends on the log-probability of what it pushes down. Two methods whose negatives differ
in that are compared at different step sizes, whatever else sets them apart; this takes that difference away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

BINS = 10
"""Bins, with as many of the wanted negatives in each. What lies below or above all of these is drawn where a problem has nothing else."""

_ROUNDS = 200
_LEAST = 1e-9
"""A weight. Bins of which nothing is asked sink to it, and those of which more is asked than there is do not rise for ever."""


class Likeness:
    """Weights by log-probability, for a draw of one candidate a problem by weight.

    In expectation those drawn have the log-probabilities of the wanted ones, bin by bin, as far as the problems have
    candidates for that. No problem is left out for it.
    """

    def __init__(self, wanted: Sequence[float], problems: Iterable[Sequence[float]]) -> None:
        """
        Args:
            wanted: log-probabilities (nats) of the negatives to be like, at least one.
            problems: for each problem those of its candidates, at least one.
        """
        edges = np.unique(np.quantile(np.asarray(wanted, dtype=float), np.linspace(0, 1, BINS + 1)))
        self._edges = np.append(edges, np.nextafter(edges[-1], np.inf)) if edges.size == 1 else edges
        self._edges[-1] = np.nextafter(edges[-1], np.inf)  # the greatest of the wanted is one of them
        alike = Counter(tuple(self._counts(logps)) for logps in problems)
        self._weights = _raked(alike, self._counts(wanted) / len(wanted))

    def weight(self, logp: float) -> float:
        """Of one candidate against the others of its problem, above 0 and at most 1."""
        return float(self._weights[np.searchsorted(self._edges, logp, side="right")])

    def _counts(self, logps: Sequence[float]) -> npt.NDArray[np.intp]:
        bins = np.searchsorted(self._edges, np.asarray(logps, dtype=float), side="right")
        return np.bincount(bins, minlength=self._edges.size + 1)


def _raked(alike: Counter[tuple[int, ...]], asked: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights of the bins by which the draws of all problems have the asked shares (iterative proportional fitting).

    Args:
        alike: how many candidates a problem has in each bin -> how many problems have just that.
    """
    weights = np.ones(asked.size)
    counts, problems = np.array(list(alike), dtype=float), np.array(list(alike.values()), dtype=float)
    there = asked * (counts.sum(axis=0) > 0) if alike else np.zeros_like(asked)
    if not there.any():
        return weights  # nothing can be like the wanted ones
    asked = there / there.sum()
    for _ in range(_ROUNDS):
        drawn = counts * weights
        drawn *= (problems / problems.sum() / drawn.sum(axis=1))[:, None]
        share = drawn.sum(axis=0)
        weights = np.maximum(weights * np.divide(asked, share, out=np.ones_like(asked), where=share > 0), _LEAST)
        weights /= weights.max()
    return weights
