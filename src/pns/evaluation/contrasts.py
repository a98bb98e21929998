"""Models compared over several training seeds: intervals, tests, correction for many tests, how many seeds it takes.

Axis suffixes: R seeds (the replicates), S bootstrap samples, U distinct values, F sign flips. Values are shares: an
accuracy is in 0..1, a difference in -1..1. Nothing here loads torch.

The seed is the unit of replication: a seed draws its own problems and trains its own models. Its difference (the
unweighted mean over benchmarks) is one observation, and it holds both kinds of luck: that of the training and that of
which problems were asked. So the t interval and the t-test over these few observations cover both, if the differences
of the seeds are near normal. That each is a mean over many problems helps; one seed whose training failed does not. If
all seeds answer the same problems, they say nothing about other problems.

**Two intervals.** `ci95` is the hierarchical bootstrap: seeds resampled, then problems within each benchmark of each
drawn seed. `ci95_t` is Student's t interval over seeds. For few seeds the bootstrap is wrong in two directions. It sees
(n - 1) / n of the variance between n seeds and knows no t quantile: too narrow. And the seeds differ by the luck of
their problems too, which it then adds once more: too wide. Which of the two wins depends on whose luck is larger. Share
of simulated studies whose nominal 95 % interval held the truth, for paired 0/1 answers to 800 problems a seed, whose
luck alone gives a seed's difference a standard deviation of 2.5 points (2000 studies for the bootstrap, a standard
error of 0.009 or less; 200,000 for t):

    true sd of the seeds' effects   seeds   bootstrap   t
    10 points                           3   0.78        0.95
                                        5   0.87        0.95
                                       10   0.90        0.95
    2.5 points                          3   0.92        0.95
                                        5   0.96        0.95
                                       10   0.96        0.95
    0 points                            3   0.98        0.95
                                        5   0.98        0.95
                                       10   0.99        0.95

So a claim rests on `ci95_t`; `ci95` is all there is for a single seed. The tests repeat this simulation with fewer
studies. The table is ours; the methods are standard.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]

Name = TypeVar("Name", bound=Hashable)
Table = Sequence[Sequence[ArrayLike]]
"""A model's results: [seed][benchmark] -> (N_b,) values, one a problem. All seeds have the same benchmarks in the same
order; the problems, and how many there are, may differ between seeds."""

EXACT_FLIPS = 16
"""Up to this many seeds all sign flips are counted, 2^16 at most."""

# Seed means that differ by less than this are equal: their sums are taken in different orders.
_TIE = 1e-12

# In standard deviations. Two seeds find it at any level allowed here; beyond it scipy's distributions give nan.
_LARGEST_EFFECT = 5e4


class Estimate(TypedDict):
    """Of a mean accuracy. Everything is in the unit of the values, 0..1; `ci95_t` may reach beyond that range."""

    mean: float
    ci95: tuple[float, float]
    ci95_t: tuple[float, float] | None
    by_seed: list[float]
    seed_sd: float | None


class Contrast(TypedDict):
    """Of two models. Differences are shares (-1..1), p-values in (0, 1]; `n_problems` are those of all seeds together."""

    difference: float
    ci95: tuple[float, float]
    ci95_t: tuple[float, float] | None
    p_value: float | None
    p_flip: float | None
    by_seed: list[float]
    seed_sd: float | None
    n_seeds: int
    n_problems: int


def estimate(a: Table, *, samples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over seeds of a model's unweighted mean over benchmarks, with both intervals of this module.

    Args:
        a: the model's results.
        samples: bootstrap samples, >= 1.
        seed: of the resampling.

    Returns:
        `by_seed` in the order given; `seed_sd` its standard deviation (n - 1), None for one seed. For one seed `ci95`
        covers the luck of the problems alone and `ci95_t` is None. It is None also where all seeds are equal: nothing
        shows how much they vary.

    Raises:
        ValueError: no seeds, no benchmarks or unequally many, an empty benchmark, or values that are not finite.
    """
    table = _checked(a)
    by_seed_R = _seed_means(table)
    return {
        "mean": float(by_seed_R.mean()),
        "ci95": _bootstrap_ci(table, samples, np.random.default_rng(seed)),
        "ci95_t": _t_test(by_seed_R)[1],
        "by_seed": by_seed_R.tolist(),
        "seed_sd": _sd(by_seed_R),
    }


def contrast(a: Table, b: Table, *, samples: int = 2000, seed: int = 0) -> Contrast:
    """How much better `a` is than `b`: mean over seeds of the paired difference of their unweighted benchmark means.

    Both p-values are two-sided and have the seed as their unit. `p_value` is the paired t-test over seeds; it assumes
    differences of near normal distribution. `p_flip` assumes only that without a true difference a seed's difference
    is as likely with the other sign; the count over all 2^n sign flips is exact. Its least value is 2 / 2^n: 0.25 for 3
    seeds, 0.0625 for 5, 0.031 for 6. With five seeds or fewer it can never be below 0.05. Above EXACT_FLIPS seeds it is
    (1 + flips at least as extreme) / (1 + samples).

    **One seed is no replication**: `p_value`, `p_flip`, `ci95_t` and `seed_sd` are None, and `ci95` covers the luck of
    the problems alone. The t-test is None also where all seeds have the same difference other than 0: its spread
    cannot be estimated, and p = 0 would be false. Where all differences are 0, both p-values are 1.

    Args:
        a, b: results of the two models, for the same problems in the same order.
        samples: bootstrap samples, and sign flips above EXACT_FLIPS seeds, >= 1.
        seed: of both.

    Raises:
        ValueError: unequal shapes, no seeds, no benchmarks or unequally many, an empty benchmark, or values that are
            not finite.
    """
    left, right = _checked(a), _checked(b)
    if [[x.shape for x in row] for row in left] != [[x.shape for x in row] for row in right]:
        raise ValueError("a and b must hold the same problems: equally many seeds and benchmarks of equal sizes")
    differences = [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]
    by_seed_R = _seed_means(differences)
    boot, flip = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    p_value, ci95_t = _t_test(by_seed_R)
    return {
        "difference": float(by_seed_R.mean()),
        "ci95": _bootstrap_ci(differences, samples, boot),
        "ci95_t": ci95_t,
        "p_value": p_value,
        "p_flip": _flip_test(by_seed_R, samples, flip),
        "by_seed": by_seed_R.tolist(),
        "seed_sd": _sd(by_seed_R),
        "n_seeds": len(by_seed_R),
        "n_problems": sum(len(values) for row in differences for values in row),
    }


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusted p-values: rejecting those <= alpha keeps the chance of any false rejection at alpha or below.

    Holm, Scand. J. Statist. 6 (1979) 65. Valid whatever the dependence between the tests. The mapping must hold the
    whole family that was planned: a test that could not be made counts with p = 1, it is not left out.

    Args:
        p_values: by name, each in 0..1.

    Returns:
        By name in the order given, each in 0..1 and at least its raw value.

    Raises:
        ValueError: a value outside 0..1, or nan.
    """
    if bad := [name for name, p in p_values.items() if not 0 <= p <= 1]:
        raise ValueError(f"p-values must lie in 0..1: {', '.join(map(str, bad))}")
    adjusted, least = dict[Name, float](), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def seeds_needed(
    by_seed: Sequence[float], difference: float = 0.02, *, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Least number of seeds with which a paired t-test would find a true difference with the given chance.

    Exact (noncentral t), two-sided, for the observed standard deviation of `by_seed` taken as the true one. That is a
    rough guess: from 3 seeds the 95 % interval of a standard deviation reaches from half of it to six times, from 10
    from 0.7 to 1.8 times, and the number of seeds goes with its square.

    Args:
        by_seed: one paired difference a seed, in the unit of `difference`.
        difference: the true difference to find, > 0.
        power: the chance to find it, in (0, 1).
        alpha: level of the test, in 0.0001..1.

    Returns:
        2 or more; 2 also where all seeds are equal. None for fewer than 2 seeds: their spread is unknown.

    Raises:
        ValueError: an argument outside its range, or a seed's value that is not finite.
    """
    if not (np.isfinite(difference) and difference > 0):
        raise ValueError(f"difference is {difference}; it must be above 0")
    sd = _planning_sd(by_seed, power, alpha)
    if sd is None or sd <= _TIE:
        return None if sd is None else 2
    effect = min(difference / sd, _LARGEST_EFFECT)
    low, high = 1, 2
    while _power(high, effect, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:  # `low` seeds are too few, `high` are enough
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, effect, alpha) >= power else (middle, high)
    return high


def smallest_difference(by_seed: Sequence[float], *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Least true difference that a paired t-test with this number of seeds would find with the given chance.

    The inverse of `seeds_needed`, with the same assumptions. A contrast that was not found says little about true
    differences below this.

    Args:
        by_seed: one paired difference a seed.
        power: the chance to find it, in (alpha, 1).
        alpha: level of the test, in 0.0001..1.

    Returns:
        In the unit of `by_seed`, >= 0. None for fewer than 2 seeds, and where all are equal: their spread is unknown.

    Raises:
        ValueError: an argument outside its range, or a seed's value that is not finite.
    """
    sd = _planning_sd(by_seed, power, alpha)
    if power <= alpha:
        raise ValueError(f"power is {power}; it must be above alpha, {alpha}, the power for no difference at all")
    if sd is None or sd <= _TIE:
        return None
    n = len(by_seed)
    high = 1.0
    while _power(n, high, alpha) < power:
        high *= 2
    return sd * float(optimize.brentq(lambda effect: _power(n, effect, alpha) - power, 1e-6, high))


def _checked(table: Table) -> list[list[Floats]]:
    if len(table) == 0:
        raise ValueError("no seeds")
    rows = [[np.asarray(values, dtype=np.float64) for values in row] for row in table]
    if not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError("every seed must have the same benchmarks, at least one")
    for values in (values for row in rows for values in row):
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"expected a non-empty list of numbers, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("some values are not finite numbers")
    return rows


def _seed_means(table: Sequence[Sequence[Floats]]) -> Floats:
    return np.array([np.mean([values.mean() for values in row]) for row in table])


def _sd(by_seed_R: Floats) -> float | None:
    return float(by_seed_R.std(ddof=1)) if len(by_seed_R) > 1 else None


def _bootstrap_ci(table: Sequence[Sequence[Floats]], samples: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds.

    A seed that is drawn c times brings c resamples of its N problems. Their sum is one multinomial draw of c N over the
    distinct values.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; it must be 1 or more")
    n = len(table)
    times_SR = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    total_S = np.zeros(samples)
    for row, times_S in zip(table, times_SR.T, strict=True):
        for values in row:
            distinct_U, count_U = np.unique(values, return_counts=True)
            drawn_SU = rng.multinomial(times_S * len(values), count_U / len(values))
            total_S += drawn_SU @ distinct_U / len(values)
    low, high = np.quantile(total_S / (n * len(table[0])), [0.025, 0.975])
    return float(low), float(high)


def _t_test(by_seed_R: Floats) -> tuple[float | None, tuple[float, float] | None]:
    """Two-sided p-value against a mean of 0, and the 95 % interval of the mean."""
    sd = _sd(by_seed_R)
    if sd is None or sd <= _TIE:
        all_zero = sd is not None and np.abs(by_seed_R).max() <= _TIE
        return (1.0 if all_zero else None), None
    test = stats.ttest_1samp(by_seed_R, 0)
    low, high = test.confidence_interval(0.95)
    return float(test.pvalue), (float(low), float(high))


def _flip_test(by_seed_R: Floats, samples: int, rng: np.random.Generator) -> float | None:
    n = len(by_seed_R)
    if n < 2:
        return None
    exact = n <= EXACT_FLIPS
    flipped_FR = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 if exact else rng.integers(0, 2, size=(samples, n))
    flipped_F = (1 - 2 * flipped_FR) @ by_seed_R / n
    extreme = int((np.abs(flipped_F) >= abs(by_seed_R.mean()) - _TIE).sum())
    return extreme / 2**n if exact else (1 + extreme) / (1 + samples)


def _planning_sd(by_seed: Sequence[float], power: float, alpha: float) -> float | None:
    if not (0 < power < 1 and 1e-4 <= alpha < 1):
        raise ValueError(f"power is {power} and alpha {alpha}; they must lie between 0 and 1, alpha not below 0.0001")
    by_seed_R = np.asarray(by_seed, dtype=np.float64)
    if by_seed_R.ndim != 1 or not np.isfinite(by_seed_R).all():
        raise ValueError("expected a list of finite numbers, one a seed")
    return _sd(by_seed_R)


def _power(n: int, effect: float, alpha: float) -> float:
    """Of a two-sided one-sample t-test, for a true mean of `effect` standard deviations, > 0."""
    # The square of a noncentral t variable is a noncentral F one; scipy's noncentral t is nan far out in its tails.
    return float(stats.ncf.sf(stats.t.isf(alpha / 2, n - 1) ** 2, 1, n - 1, n * effect**2))
