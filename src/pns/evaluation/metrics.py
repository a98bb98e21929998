"""Numbers with intervals: avg@k, pass@k, maj@k, bootstrap intervals, paired tests, areas under the curve.

Axis suffixes: N problems, K samples a problem, S bootstrap samples, U distinct values. Accuracies are in 0..1. Every
interval is a 95 % percentile interval over *problems* (or over responses, where the docstring says so): it covers the
luck of which problems were asked, not the luck of the training seed. Nothing here loads torch.

Resampling n values with replacement is one multinomial draw over their distinct values, and flipping n signs is one
binomial draw for each distinct magnitude. Accuracies have few distinct values, so both are a small matrix, not a loop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]

LEVELS = 1024
"""Most different scores that an interval tells apart."""

# Two permutation statistics that differ by less than this are a tie: the sums are taken in different orders.
_TIE = 1e-12


class PairedDifference(TypedDict):
    """`difference` and `ci95` in points of accuracy as a share (-1..1); `p_value` in (0, 1]."""

    difference: float
    ci95: tuple[float, float]
    p_value: float


class Auc(TypedDict):
    """`auc` and `ci95` in 0..1; the counts say what they rest on."""

    auc: float
    ci95: tuple[float, float]
    n_positive: int
    n_negative: int


def avg_at_k(correct: ArrayLike) -> float:
    """Mean accuracy over all samples of all problems.

    Args:
        correct: (N, K) booleans; K = 1 for greedy decoding.

    Raises:
        ValueError: not a non-empty (N, K) table.
    """
    return float(_table(correct).mean())


def pass_at_k(correct: ArrayLike, k: int | None = None) -> float:
    """Mean over problems of the chance that at least one of k samples is correct.

    The unbiased estimator 1 - C(K - c, k) / C(K, k) of Chen et al. (arXiv 2107.03374), c being the correct ones of K.

    Args:
        correct: (N, K) booleans.
        k: samples drawn, 1..K; None means K, where it is "any of them is correct".

    Raises:
        ValueError: not a non-empty (N, K) table, or k outside 1..K.
    """
    correct_NK = _table(correct)
    n = correct_NK.shape[1]
    k = n if k is None else k
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; it must lie in 1..{n}, the samples a problem")
    by_count = np.array([1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)])
    return float(by_count[correct_NK.sum(axis=1)].mean())


def maj_at_k(answers: Sequence[Sequence[str | None]], correct: ArrayLike) -> float:
    """Mean over problems of whether the most frequent answer is correct.

    All correct answers are equivalent to the gold one, so they vote as one whatever their spelling; wrong ones vote by
    their text. None (no answer found) does not vote. A tie counts by the share of its winners that are correct, so that
    the order of the samples never matters. A problem without any vote counts 0. (These rules are ours.)

    Args:
        answers: N rows of K extracted answers, normalised by the caller, or None.
        correct: (N, K) booleans for the same samples.

    Raises:
        ValueError: the two do not have the same shape, or there are no problems.
    """
    correct_NK = _table(correct)
    if len(answers) != len(correct_NK) or any(len(row) != correct_NK.shape[1] for row in answers):
        raise ValueError(f"answers must have the shape of correct, {correct_NK.shape}")
    return float(np.mean([_majority(row, right) for row, right in zip(answers, correct_NK, strict=True)]))


def bootstrap_ci(values: ArrayLike, *, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling problems.

    Where all values are equal the interval has no width: resampling cannot see what the sample does not hold.

    Args:
        values: (N,) one number a problem: 0 or 1, or its mean over K samples.
        samples: bootstrap samples, >= 1.
        seed: of the resampling.

    Returns:
        (low, high), in the unit of `values`.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    return mean_ci([values], samples=samples, seed=seed)


def mean_ci(benchmarks: Sequence[ArrayLike], *, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the unweighted mean over benchmarks, resampling problems within each.

    The benchmarks themselves are fixed: the interval says nothing about others.

    Args:
        benchmarks: for each benchmark its (N_b,) values, one a problem.
        samples: bootstrap samples, >= 1.
        seed: of the resampling.

    Returns:
        (low, high), in the unit of the values.

    Raises:
        ValueError: no benchmarks, an empty one, or values that are not finite.
    """
    return _interval(_bootstrap_means(_columns(benchmarks), samples, np.random.default_rng(seed)))


def paired_difference(
    a: Sequence[ArrayLike], b: Sequence[ArrayLike], *, samples: int = 2000, seed: int = 0
) -> PairedDifference:
    """How much better `a` is than `b` on the same problems, as the unweighted mean over benchmarks.

    The interval resamples problems within each benchmark. The p-value is two-sided, from a sign-flip permutation test:
    were there no difference, each problem's difference would be as likely with the other sign. It is
    (1 + flips at least as extreme) / (1 + samples), so it is never 0.

    Args:
        a, b: for each benchmark its (N_b,) values, problem by problem in the same order.
        samples: bootstrap samples and sign flips, >= 1.
        seed: of both.

    Raises:
        ValueError: unequal shapes, no benchmarks, an empty one, or values that are not finite.
    """
    left, right = _columns(a), _columns(b)
    if [x.shape for x in left] != [x.shape for x in right]:
        raise ValueError("a and b must hold the same problems: equally many benchmarks of equal sizes")
    differences = [x - y for x, y in zip(left, right, strict=True)]
    boot, flip = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    observed = float(np.mean([d.mean() for d in differences]))
    flipped_S = _flipped_means(differences, samples, flip)
    extreme = int((np.abs(flipped_S) >= abs(observed) - _TIE).sum())
    return {
        "difference": observed,
        "ci95": _interval(_bootstrap_means(differences, samples, boot)),
        "p_value": (1 + extreme) / (1 + samples),
    }


def rank_auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    Args:
        positive, negative: (P,) and (Q,) scores. For the held-out AUC of method.md the positives are correct responses.

    Returns:
        0..1; 0.5 means that the score cannot tell them apart.

    Raises:
        ValueError: a side is empty or holds values that are not finite.
    """
    positive_U, negative_U = _on_one_grid(_column(positive), _column(negative))
    return float(_auc_of_counts(positive_U[None], negative_U[None])[0])


def auc_with_ci(positive: ArrayLike, negative: ArrayLike, *, samples: int = 2000, seed: int = 0) -> Auc:
    """`rank_auc` with a 95 % percentile interval, resampling the responses of both sides.

    Responses to one problem are resembling, and this resamples them one by one: with many responses a problem the
    interval is somewhat too narrow. Give it one response a problem where that matters.

    Args:
        positive, negative: (P,) and (Q,) scores.
        samples: bootstrap samples, >= 1.
        seed: of the resampling.

    Raises:
        ValueError: a side is empty or holds values that are not finite.
    """
    left, right = _column(positive), _column(negative)
    positive_U, negative_U = _on_one_grid(left, right)
    rng = np.random.default_rng(seed)
    positive_SU = rng.multinomial(len(left), positive_U / len(left), size=samples)
    negative_SU = rng.multinomial(len(right), negative_U / len(right), size=samples)
    return {
        "auc": float(_auc_of_counts(positive_U[None], negative_U[None])[0]),
        "ci95": _interval(_auc_of_counts(positive_SU, negative_SU)),
        "n_positive": len(left),
        "n_negative": len(right),
    }


def grouped_auc(
    scores: ArrayLike, positive: ArrayLike, groups: Sequence[str], *, samples: int = 2000, seed: int = 0
) -> Auc | None:
    """`rank_auc` with a 95 % percentile interval that resamples whole groups: problems with all their responses.

    Args:
        scores: (N,) finite numbers. More than LEVELS different ones are put on that many quantiles for the interval.
        positive: (N,) booleans.
        groups: (N,) the problem of each.
        samples: bootstrap samples, >= 1.
        seed: of the resampling.

    Returns:
        None where a side is empty.
    """
    side = np.asarray(positive, dtype=bool)
    if not side.any() or side.all():
        return None
    values = _column(scores)
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    of_row = np.array([names[group] for group in groups])
    levels = np.unique(values)
    if len(levels) > LEVELS:
        levels = np.unique(np.quantile(values, np.linspace(0, 1, LEVELS)))
    at = np.searchsorted(levels, values)
    weights_SP = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    drawn = []
    # A few resamples at a time: all of them by all levels may not fit.
    for start in range(0, samples, 256):
        weights_SN = weights_SP[start : start + 256][:, of_row]
        drawn.append(_auc_of_counts(*(_weighted_counts(weights_SN[:, s], at[s], len(levels)) for s in (side, ~side))))
    draws = np.concatenate(drawn)
    draws = draws[np.isfinite(draws)]
    return {
        "auc": rank_auc(values[side], values[~side]),
        "ci95": _interval(draws) if len(draws) else (math.nan, math.nan),
        "n_positive": int(side.sum()),
        "n_negative": int((~side).sum()),
    }


def grouped_mean(
    values: ArrayLike, groups: Sequence[str], *, samples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Mean over all rows, with a 95 % percentile interval that resamples whole groups.

    Args:
        values: (N,) finite numbers, N >= 1.
        groups: (N,) the problem of each.
    """
    column = _column(values)
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    of_row = np.array([names[group] for group in groups])
    sums_P, counts_P = np.bincount(of_row, weights=column), np.bincount(of_row)
    weights_SP = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    return float(column.mean()), _interval((weights_SP @ sums_P) / (weights_SP @ counts_P))


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Lower quartile, median, upper quartile with linear interpolation; None without values."""
    if not len(values):
        return None
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def _weighted_counts(weights_SN: NDArray[np.int64], at_N: NDArray[np.int64], levels: int) -> NDArray[np.int64]:
    """(S, U) weight of the rows at each level."""
    table = csr_array((np.ones(len(at_N), dtype=np.int64), (np.arange(len(at_N)), at_N)), shape=(len(at_N), levels))
    return np.asarray(weights_SN @ table)


def _table(correct: ArrayLike) -> NDArray[np.bool_]:
    table = np.asarray(correct, dtype=bool)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected a non-empty (problems, samples) table, got shape {table.shape}")
    return table


def _column(values: ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise ValueError(f"expected a non-empty list of numbers, got shape {column.shape}")
    if not np.isfinite(column).all():
        raise ValueError("some values are not finite numbers")
    return column


def _columns(benchmarks: Sequence[ArrayLike]) -> list[Floats]:
    if len(benchmarks) == 0:
        raise ValueError("no benchmarks")
    return [_column(values) for values in benchmarks]


def _majority(answers: Sequence[str | None], correct_K: NDArray[np.bool_]) -> float:
    # The key of a correct answer is True, that of a wrong one its text: they can never be the same vote.
    votes = Counter(
        True if right else answer for answer, right in zip(answers, correct_K, strict=True) if answer is not None
    )
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return float(True in winners) / len(winners)


def _bootstrap_means(columns: Sequence[Floats], samples: int, rng: np.random.Generator) -> Floats:
    """(S,) bootstrap samples of the unweighted mean over the columns."""
    total_S = np.zeros(samples)
    for values in columns:
        distinct_U, count_U = np.unique(values, return_counts=True)
        drawn_SU = rng.multinomial(len(values), count_U / len(values), size=samples)
        total_S += drawn_SU @ distinct_U / len(values)
    return total_S / len(columns)


def _flipped_means(columns: Sequence[Floats], samples: int, rng: np.random.Generator) -> Floats:
    """(S,) means over the columns after each value got a random sign."""
    total_S = np.zeros(samples)
    for values in columns:
        magnitude_U, count_U = np.unique(np.abs(values), return_counts=True)
        plus_SU = rng.binomial(count_U, 0.5, size=(samples, len(count_U)))
        total_S += (2 * plus_SU - count_U) @ magnitude_U / len(values)
    return total_S / len(columns)


def _interval(draws_S: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws_S, [0.025, 0.975])
    return float(low), float(high)


def _on_one_grid(positive: Floats, negative: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each distinct score of either side occurs on each, in rising order of the score."""
    grid_U, where = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    n = len(positive)
    return np.bincount(where[:n], minlength=len(grid_U)), np.bincount(where[n:], minlength=len(grid_U))


def _auc_of_counts(positive_SU: NDArray[np.int64], negative_SU: NDArray[np.int64]) -> Floats:
    below_SU = np.cumsum(negative_SU, axis=1) - negative_SU / 2
    wins_S = (positive_SU * below_SU).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of groups may leave a side empty: nan
        return np.asarray(wins_S / (positive_SU.sum(axis=1) * negative_SU.sum(axis=1)), dtype=np.float64)
