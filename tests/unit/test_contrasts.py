"""Comparisons over seeds against closed forms, scipy, brute force, published tables, and simulated studies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pns.evaluation.contrasts import contrast, estimate, holm, seeds_needed, smallest_difference

P_VALUES = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), max_size=6)
SEEDS = st.lists(st.integers(-20, 20).map(lambda i: i / 100), min_size=2, max_size=6)


def answers(shape: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(float)


def table(values: np.ndarray) -> list[list[np.ndarray]]:
    return [list(row) for row in values]


def one_problem_a_seed(values: list[float]) -> list[list[list[float]]]:
    return [[[value]] for value in values]


def test_difference_by_hand() -> None:
    # Seed one: +1 on two of four, -1 on one of two: 0. Seed two, with other problems: +1 on one of two, 0: 0.25.
    a = [[[1, 1, 1, 0], [0, 1]], [[1, 1], [1, 1, 1]]]
    b = [[[0, 0, 1, 0], [1, 1]], [[0, 1], [1, 1, 1]]]
    got = contrast(a, b, samples=200)
    assert got["by_seed"] == [0, 0.25]
    assert got["difference"] == pytest.approx(0.125)
    assert got["seed_sd"] == pytest.approx(0.25 / np.sqrt(2))
    assert (got["n_seeds"], got["n_problems"]) == (2, 11)


def test_contrast_is_the_difference_of_the_estimates() -> None:
    a, b = answers((3, 2, 40), 0.6, 1), answers((3, 2, 40), 0.5, 2)
    means = estimate(table(a))["mean"] - estimate(table(b))["mean"]
    assert contrast(table(a), table(b))["difference"] == pytest.approx(means)
    assert estimate(table(a))["by_seed"] == pytest.approx(a.mean(axis=(1, 2)))


def test_t_test_and_interval_agree_with_scipy() -> None:
    a, b = answers((5, 2, 40), 0.6, 3), answers((5, 2, 40), 0.5, 4)
    got = contrast(table(a), table(b), samples=10)
    left, right = a.mean(axis=(1, 2)), b.mean(axis=(1, 2))
    assert got["p_value"] == pytest.approx(stats.ttest_rel(left, right).pvalue)
    half = stats.t.isf(0.025, 4) * np.std(left - right, ddof=1) / np.sqrt(5)
    assert got["ci95_t"] == pytest.approx((got["difference"] - half, got["difference"] + half))
    of_one = stats.t.interval(0.95, 4, loc=left.mean(), scale=stats.sem(left))
    assert estimate(table(a), samples=10)["ci95_t"] == pytest.approx(of_one)


@given(SEEDS)
@settings(deadline=None)
def test_flip_test_is_the_count_over_all_signs(by_seed: list[float]) -> None:
    got = contrast(one_problem_a_seed(by_seed), one_problem_a_seed([0.0] * len(by_seed)), samples=1)
    whole = [round(100 * value) for value in by_seed]  # integers: no doubt about ties
    flips = [abs(np.dot(signs, whole)) for signs in itertools.product((-1, 1), repeat=len(whole))]
    assert got["p_flip"] == np.mean([flip >= abs(sum(whole)) for flip in flips])


def test_flip_test_of_many_seeds_is_drawn() -> None:
    by_seed = np.random.default_rng(5).normal(0.02, 0.05, 20).tolist()
    got = contrast(one_problem_a_seed(by_seed), one_problem_a_seed([0.0] * 20), samples=20_000)
    of_scipy = stats.permutation_test((by_seed,), np.mean, permutation_type="samples", n_resamples=20_000)
    assert got["p_flip"] == pytest.approx(of_scipy.pvalue, abs=0.015)
    sure = contrast(one_problem_a_seed([1.0] * 20), one_problem_a_seed([0.0] * 20), samples=99)
    assert sure["p_flip"] == 0.01  # never 0


@pytest.mark.parametrize("n", [2, 5, 10])
def test_unanimous_seeds_have_the_least_p(n: int) -> None:
    by_seed = [0.01 * (i + 1) for i in range(n)]
    assert contrast(one_problem_a_seed(by_seed), one_problem_a_seed([0.0] * n))["p_flip"] == 2 / 2**n


def test_bootstrap_agrees_with_plain_resampling() -> None:
    a, b = answers((4, 2, 15), 0.6, 6), answers((4, 2, 15), 0.4, 7)
    a[0] = 1  # a seed that stands out, so that the resampling of seeds matters
    rng = np.random.default_rng(8)
    means = []
    for _ in range(8000):
        drawn = (a - b)[rng.integers(0, 4, 4)]
        at = rng.integers(0, 15, drawn.shape)
        means.append(np.take_along_axis(drawn, at, axis=2).mean())
    got = contrast(table(a), table(b), samples=20_000)
    assert got["ci95"] == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.012)


def test_bootstrap_of_constant_seeds_resamples_seeds_alone() -> None:
    # Two seeds, 0 and 1: the mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
    assert estimate([[np.zeros(9)], [np.ones(5)]])["ci95"] == (0, 1)
    assert estimate([[np.ones(9)], [np.ones(5)]])["ci95"] == (1, 1)


def test_one_seed_has_an_interval_over_problems_and_no_test() -> None:
    a, b = [[[1] * 60 + [0] * 40]], [[[0] * 100]]
    got = contrast(a, b, samples=20_000)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert got["ci95"] == pytest.approx((0.6 - half, 0.6 + half), abs=0.011)
    assert (got["p_value"], got["p_flip"], got["ci95_t"], got["seed_sd"]) == (None, None, None, None)
    alone = estimate(a)
    assert (alone["ci95_t"], alone["seed_sd"]) == (None, None)


def test_equal_seeds_give_no_t_test() -> None:
    third = [1 / 3, 1 / 3, 1 / 3]
    same = contrast(one_problem_a_seed(third), one_problem_a_seed([0.0] * 3))
    assert (same["p_value"], same["ci95_t"], same["p_flip"]) == (None, None, 0.25)
    none = contrast(one_problem_a_seed(third), one_problem_a_seed(third))
    assert (none["p_value"], none["ci95_t"], none["p_flip"]) == (1, None, 1)


def test_contrast_repeats_and_turns_around() -> None:
    a, b = table(answers((3, 2, 30), 0.6, 9)), table(answers((3, 2, 30), 0.5, 10))
    there, back = contrast(a, b, seed=1), contrast(b, a, seed=1)
    assert contrast(a, b, seed=1) == there
    assert contrast(a, b, seed=2)["ci95"] != there["ci95"]
    assert back["difference"] == -there["difference"]
    assert back["p_value"] == pytest.approx(there["p_value"])
    assert back["p_flip"] == there["p_flip"]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([], [], "no seeds"),
        ([[]], [[]], "at least one"),
        ([[[1], [1]], [[1]]], [[[1], [1]], [[1]]], "same benchmarks"),
        ([[[]]], [[[]]], "non-empty"),
        ([[[[1]]]], [[[[1]]]], "shape"),
        ([[[float("nan")]]], [[[1]]], "finite"),
        ([[[1, 0]]], [[[1]]], "same problems"),
        ([[[1]], [[1]]], [[[1]]], "same problems"),
        ([[[1]]], [[[1], [1]]], "same problems"),
    ],
)
def test_bad_tables_are_refused(a: list, b: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contrast(a, b)


def test_samples_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="samples is 0"):
        estimate([[[1]]], samples=0)


# Share of simulated studies whose bootstrap interval held the truth, by seeds and the true sd of their effects: the
# table in the docstring of the module. That of the t interval is 0.95 everywhere.
COVERAGE = {(3, 0.10): 0.78, (5, 0.10): 0.87, (10, 0.10): 0.90, (3, 0.0): 0.98, (10, 0.0): 0.99}


def coverage(n_seeds: int, seed_sd: float, studies: int, truth: float = 0.05) -> tuple[float, float]:
    """For the bootstrap and the t interval. Each of 800 problems is gained or lost with a chance of about 1/4."""
    rng = np.random.default_rng(100 + n_seeds)
    held = np.zeros(2)
    for _ in range(studies):
        effect = rng.normal(truth, seed_sd, size=(n_seeds, 1, 1))
        luck = rng.random((n_seeds, 1, 800))
        gained, lost = luck < 0.25 + effect / 2, luck > 0.75 + effect / 2
        got = contrast(table(gained), table(lost), samples=200)
        # No interval (all seeds equal) claims nothing, so it is not wrong.
        held += [ci is None or ci[0] <= truth <= ci[1] for ci in (got["ci95"], got["ci95_t"])]
    boot, t = held / studies
    return float(boot), float(t)


@pytest.mark.parametrize("n_seeds, seed_sd", COVERAGE)
def test_coverage_is_what_the_docstring_says(n_seeds: int, seed_sd: float) -> None:
    assert coverage(n_seeds, seed_sd, 250) == pytest.approx((COVERAGE[n_seeds, seed_sd], 0.95), abs=0.05)


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 which must not fall below 0.06.
    got = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert got == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(got) == ["a", "b", "c", "d"]
    assert holm({"x": 0.5, "y": 0.6}) == {"x": 1, "y": 1}
    assert holm({}) == {}


@given(P_VALUES)
@settings(deadline=None)
def test_holm_keeps_the_order_of_p_values_not_of_names(raw: dict[str, float]) -> None:
    adjusted = holm(raw)
    assert all(raw[name] <= adjusted[name] <= 1 for name in raw)
    for one, other in itertools.combinations(raw, 2):
        assert (raw[one] - raw[other]) * (adjusted[one] - adjusted[other]) >= 0
        assert raw[one] != raw[other] or adjusted[one] == adjusted[other]
    assert holm(dict(sorted(raw.items(), reverse=True))) == adjusted
    # Never stricter than Bonferroni, and equal to it for the least.
    assert all(adjusted[name] <= min(1, len(raw) * raw[name]) for name in raw)
    if raw:
        assert min(adjusted.values()) == min(1, len(raw) * min(raw.values()))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1: bad"):
        holm({"good": 0.5, "bad": p})


# Seeds with a standard deviation of 1.
UNIT = [-1 / np.sqrt(2), 1 / np.sqrt(2)]


@pytest.mark.parametrize(
    ("effect", "power", "n"),
    # Cohen's d of a paired t-test, two-sided 0.05: the sample sizes of G*Power 3 and of R's power.t.test.
    [(0.2, 0.8, 199), (0.5, 0.8, 34), (0.8, 0.8, 15), (1.0, 0.8, 10), (0.5, 0.9, 44), (0.5, 0.95, 54)],
)
def test_seeds_needed_agree_with_published_tables(effect: float, power: float, n: int) -> None:
    assert seeds_needed(UNIT, effect, power=power) == n


def test_power_agrees_with_simulated_tests() -> None:
    by_seed = np.random.default_rng(11).normal(0, 1, 5)
    difference = smallest_difference(by_seed.tolist())
    assert difference is not None
    drawn = np.random.default_rng(12).normal(difference, by_seed.std(ddof=1), size=(40_000, 5))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.01)


@given(SEEDS.filter(lambda seeds: len(set(seeds)) > 1), st.sampled_from([0.8, 0.9]), st.sampled_from([0.05, 0.01]))
@settings(deadline=None, max_examples=30)
def test_seeds_needed_and_smallest_difference_are_inverse(by_seed: list[float], power: float, alpha: float) -> None:
    least = smallest_difference(by_seed, power=power, alpha=alpha)
    assert least is not None
    n = len(by_seed)
    more = seeds_needed(by_seed, 0.999 * least, power=power, alpha=alpha)
    enough = seeds_needed(by_seed, 1.001 * least, power=power, alpha=alpha)
    assert more is not None
    assert enough is not None
    assert enough <= n < more


def test_more_seeds_for_less_and_for_surer() -> None:
    by_seed = [0.0, 0.03, 0.06]
    needed = [seeds_needed(by_seed, d) for d in (0.08, 0.04, 0.02, 0.01)]
    assert needed == sorted(set(needed), key=lambda n: n or 0)
    assert (seeds_needed(by_seed, power=0.9) or 0) > (seeds_needed(by_seed) or 0)
    assert (seeds_needed(by_seed, alpha=0.01) or 0) > (seeds_needed(by_seed) or 0)
    found = [smallest_difference(by_seed * k) or 0 for k in (1, 2, 4)]
    assert found == sorted(set(found), reverse=True)


def test_spread_that_is_unknown_or_none() -> None:
    assert seeds_needed([0.1]) is None
    assert smallest_difference([]) is None
    assert seeds_needed([0.1, 0.1, 0.1]) == 2
    assert smallest_difference([0.1, 0.1, 0.1]) is None
    # Far out, where scipy's distributions give nan.
    assert seeds_needed([0.0, 1e-11], alpha=1e-4, power=0.999) == 2
    assert (smallest_difference([0.0, 1e-3], alpha=1e-4, power=0.999) or 0) > 1


@pytest.mark.parametrize("options", [{"power": 1.0}, {"alpha": 0.0}, {"difference": 0.0}, {"difference": np.nan}])
def test_bad_plans_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        seeds_needed([0.0, 0.1], **options)


def test_bad_seeds_and_powers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        seeds_needed([0.0, np.inf])
    with pytest.raises(ValueError, match="above"):
        smallest_difference([0.0, 0.1], power=0.05)
