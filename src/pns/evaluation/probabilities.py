"""How far scores can be taken for probabilities that a response is correct. (Source: ours.)

A map from scores to probabilities is fitted on responses of one kind and judged on others: a judge that is calibrated on
easy negatives is sure of itself where it should not be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BINS = 10
FEWEST = 10
"""Of each outcome, to fit on."""


def fit_and_judge(
    scores_NF: Sequence[Sequence[float]],
    right_N: Sequence[bool],
    held_MF: Sequence[Sequence[float]],
    held_right_M: Sequence[bool],
    *,
    prior: float,
) -> dict[str, float | int] | None:
    """A logistic map fitted on some responses, judged on held-out ones; None where there are too few of an outcome.

    Args:
        scores_NF: features of each response to fit on (a reward model's score, a judge's total, or both).
        right_N: whether it is correct.
        prior: share of correct responses (0..1) for which the fitted ones are weighted: pairs have one half of each,
            whoever answers has not.

    Returns:
        `brier` (0 is best), `log_loss` (nats), `ece` (the mean distance of what is said from what is, over `BINS` bins of
        equally many responses), `accuracy` of calling a response correct above one half, `auc`, `said` (the mean
        probability) and `correct` (the share), `n_fitted` and `n`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = np.asarray(scores_NF, dtype=float), np.asarray(right_N, dtype=bool)
    held_x, held_y = np.asarray(held_MF, dtype=float), np.asarray(held_right_M, dtype=bool)
    if min(y.sum(), (~y).sum(), held_y.sum(), (~held_y).sum()) < FEWEST or not 0 < prior < 1:
        return None
    weights = np.where(y, prior / y.sum(), (1 - prior) / (~y).sum()) * len(y)
    # Hardly any shrinkage: one or two features, hundreds of rows.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000))
    model.fit(x, y, logisticregression__sample_weight=weights)
    said_M: NDArray[np.float64] = model.predict_proba(held_x)[:, 1]
    return {
        "brier": float(brier_score_loss(held_y, said_M)),
        "log_loss": float(log_loss(held_y, said_M)),
        "ece": calibration_error(said_M, held_y),
        "accuracy": float(((said_M > 0.5) == held_y).mean()),
        "auc": float(roc_auc_score(held_y, said_M)),
        "said": float(said_M.mean()), "correct": float(held_y.mean()), "n_fitted": len(y), "n": len(held_y),
    }  # fmt: skip


def calibration_error(said_M: NDArray[np.float64], right_M: NDArray[np.bool_]) -> float:
    """Expected calibration error over bins of equally many responses, 0..1. Equal probabilities share a bin."""
    _, group = np.unique(said_M, return_inverse=True)
    sizes = np.bincount(group)
    # Bins of the distinct values, cut where the running count passes a tenth of all.
    bins = np.minimum((np.cumsum(sizes) - sizes / 2) * BINS // len(said_M), BINS - 1).astype(int)[group]
    total = 0.0
    for b in np.unique(bins):
        mine = bins == b
        total += mine.sum() * abs(float(said_M[mine].mean()) - float(right_M[mine].mean()))
    return total / len(said_M)
