"""Metrics against values worked out by hand, against scikit-learn, and by property."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from pns.evaluation.metrics import (
    auc_with_ci,
    avg_at_k,
    bootstrap_ci,
    grouped_auc,
    maj_at_k,
    mean_ci,
    paired_difference,
    pass_at_k,
    rank_auc,
)
from pns.stages.summary import at_k

TABLES = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 6)))
SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def test_avg_at_k_by_hand() -> None:
    assert avg_at_k([[True, False], [True, True]]) == pytest.approx(0.75)


def test_pass_at_k_by_hand() -> None:
    # Row one: 1 of 4 correct, so a draw of 2 holds it with chance 1/2. Row two: none. Row three: 3 of 4, always.
    table = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    assert pass_at_k(table, 2) == pytest.approx((0.5 + 0 + 1) / 3)
    assert pass_at_k(table) == pytest.approx(2 / 3)


@given(TABLES)
def test_pass_at_k_is_the_mean_over_all_subsets(table: np.ndarray) -> None:
    k_max = table.shape[1]
    for k in range(1, k_max + 1):
        subsets = itertools.combinations(range(k_max), k)
        assert pass_at_k(table, k) == pytest.approx(np.mean([table[:, list(s)].any(axis=1) for s in subsets]))


@given(TABLES)
def test_pass_at_k_rises_from_avg(table: np.ndarray) -> None:
    values = [pass_at_k(table, k) for k in range(1, table.shape[1] + 1)]
    assert values[0] == pytest.approx(avg_at_k(table))
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))


def test_benchmarks_with_more_samples_report_the_same_k() -> None:
    answers = [["1", "2", "2", "2", "2"]]
    right = np.array([[True, False, False, False, False]])
    few, all_of_them = at_k(answers, right, 2), at_k(answers, right, 5)
    assert few["maj_at_k"] == maj_at_k([["1", "2"]], right[:, :2]) == 0.5
    assert all_of_them["maj_at_k"] == 0.0
    assert few["avg"] == all_of_them["avg"] == pytest.approx(0.2)
    assert few["pass_at_k"] == pytest.approx(0.4)


def test_maj_at_k_by_hand() -> None:
    answers: list[list[str | None]] = [
        ["4", "4", "5"],  # majority correct
        ["7", "7", "4"],  # majority wrong
        ["4", "5", None],  # a tie of two, one of them correct
        ["1/2", "0.5", "3"],  # correct in two spellings: one vote of two
        [None, None, None],  # nobody votes
    ]
    correct = [[1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert maj_at_k(answers, correct) == pytest.approx((1 + 0 + 0.5 + 1 + 0) / 5)


@given(st.data(), TABLES)
def test_maj_at_k_ignores_the_order_of_samples(data: st.DataObject, table: np.ndarray) -> None:
    wrong: st.SearchStrategy[str | None] = st.sampled_from(["x", "y", None])
    answers: list[list[str | None]] = [["right" if c else data.draw(wrong) for c in row] for row in table]
    order = data.draw(st.permutations(range(table.shape[1])))
    shuffled = [[row[i] for i in order] for row in answers]
    assert maj_at_k(answers, table) == pytest.approx(maj_at_k(shuffled, table[:, order]))


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    values = np.array([1] * 300 + [0] * 100)
    low, high = bootstrap_ci(values, samples=20_000, seed=1)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.005)
    assert high == pytest.approx(0.75 + half, abs=0.005)


def test_bootstrap_agrees_with_plain_resampling() -> None:
    values = np.random.default_rng(3).normal(size=60)
    index = np.random.default_rng(4).integers(0, 60, size=(20_000, 60))
    plain = np.quantile(values[index].mean(axis=1), [0.025, 0.975])
    assert bootstrap_ci(values, samples=20_000, seed=5) == pytest.approx(tuple(plain), abs=0.02)


def test_mean_interval_weighs_benchmarks_alike() -> None:
    # A large sure benchmark and a small unsure one: the mean's interval has half the width of the small one's.
    sure, unsure = np.ones(10_000), np.array([0, 1] * 25)
    low, high = mean_ci([sure, unsure], samples=20_000, seed=0)
    half = 1.96 * np.sqrt(0.25 / 50) / 2
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.01)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0, 0.25, 0.5, 1])), st.integers(0, 99))
@settings(deadline=None)
def test_interval_lies_within_the_values_and_repeats(values: np.ndarray, seed: int) -> None:
    low, high = bootstrap_ci(values, samples=200, seed=seed)
    assert values.min() - 1e-12 <= low <= high <= values.max() + 1e-12
    assert bootstrap_ci(values, samples=200, seed=seed) == (low, high)


def test_paired_difference_by_hand() -> None:
    # Benchmark one: +1 on two of four problems; benchmark two: -1 on one of two. (0.5 - 0.5) / 2 = 0.
    got = paired_difference([[1, 1, 1, 0], [0, 1]], [[0, 0, 1, 0], [1, 1]], samples=500, seed=0)
    assert got["difference"] == 0
    assert got["p_value"] == 1
    assert got["ci95"][0] < 0 < got["ci95"][1]


def test_sign_flip_p_value_matches_the_exact_count() -> None:
    # Eight problems that all gained: only the two unanimous flips of 256 are as extreme.
    got = paired_difference([np.ones(8)], [np.zeros(8)], samples=200_000, seed=0)
    assert got["p_value"] == pytest.approx(2 / 256, rel=0.1)
    assert got["ci95"] == (1.0, 1.0)


def test_sign_flip_p_value_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    values = [
        paired_difference([rng.random(60) < 0.5], [rng.random(60) < 0.5], samples=400, seed=i)["p_value"]
        for i in range(400)
    ]
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.09


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
@settings(deadline=None)
def test_paired_difference_changes_sign_with_its_sides(rows: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(side, float) for side in zip(*rows, strict=True))
    forth = paired_difference([a], [b], samples=200, seed=1)
    back = paired_difference([b], [a], samples=200, seed=1)
    assert forth["difference"] == pytest.approx(-back["difference"])
    assert forth["p_value"] == pytest.approx(back["p_value"])
    assert 0 < forth["p_value"] <= 1


@given(SCORES, SCORES)
def test_rank_auc_agrees_with_scikit_learn(positive: list[int], negative: list[int]) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    assert rank_auc(positive, negative) == pytest.approx(roc_auc_score(labels, positive + negative))
    assert rank_auc(positive, negative) + rank_auc(negative, positive) == pytest.approx(1)


def test_auc_interval_agrees_with_plain_resampling() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.5, 1, 80).round(1), rng.normal(0, 1, 120).round(1)
    got = auc_with_ci(positive, negative, samples=4000, seed=1)
    draws = [rank_auc(rng.choice(positive, 80), rng.choice(negative, 120)) for _ in range(4000)]
    assert got["ci95"] == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.01)
    assert got["auc"] == rank_auc(positive, negative)
    assert (got["n_positive"], got["n_negative"]) == (80, 120)


def test_grouped_auc_resamples_whole_groups() -> None:
    rng = np.random.default_rng(5)
    groups = [str(g) for g in range(40) for _ in range(6)]
    shift = np.repeat(rng.normal(size=40), 6)  # what a problem's responses have in common
    side = rng.random(240) < 0.5
    scores = shift + 0.5 * side + rng.normal(size=240) * 0.3
    found = grouped_auc(scores, side, groups, samples=2000, seed=1)
    assert found is not None
    assert found["auc"] == pytest.approx(roc_auc_score(side, scores))
    assert (found["n_positive"], found["n_negative"]) == (side.sum(), (~side).sum())
    draws = []
    for _ in range(600):
        rows = np.concatenate([np.arange(g * 6, g * 6 + 6) for g in rng.integers(0, 40, 40)])
        draws.append(roc_auc_score(side[rows], scores[rows]))
    assert found["ci95"] == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.03)
    # One row a group: the interval over rows, which pretends that responses to one problem are independent, is another.
    alone = grouped_auc(scores, side, [str(i) for i in range(240)], samples=2000, seed=1)
    assert alone is not None
    assert alone["ci95"] != found["ci95"]


def test_grouped_auc_of_many_different_scores_and_of_one_side() -> None:
    rng = np.random.default_rng(0)
    side = rng.random(5000) < 0.5
    scores = rng.normal(size=5000) + side
    found = grouped_auc(scores, side, [str(i // 5) for i in range(5000)], samples=300)
    assert found is not None
    assert found["auc"] == pytest.approx(roc_auc_score(side, scores))
    assert found["ci95"][0] < found["auc"] < found["ci95"][1]
    assert grouped_auc([1.0, 2.0], [True, True], ["a", "b"]) is None
    assert grouped_auc([], [], []) is None


def test_auc_of_separated_sides() -> None:
    assert auc_with_ci([2, 3], [0, 1])["ci95"] == (1, 1)
    assert rank_auc([1, 1], [1]) == 0.5


def test_bad_input_is_refused() -> None:
    for call in (
        lambda: avg_at_k([]),
        lambda: avg_at_k([True, False]),
        lambda: pass_at_k([[1, 0]], 3),
        lambda: pass_at_k([[1, 0]], 0),
        lambda: maj_at_k([["1"]], [[1, 0]]),
        lambda: bootstrap_ci([]),
        lambda: bootstrap_ci([0.0, float("nan")]),
        lambda: mean_ci([]),
        lambda: mean_ci([[1], []]),
        lambda: paired_difference([[1, 0]], [[1]]),
        lambda: rank_auc([], [1]),
    ):
        with pytest.raises(ValueError, match=r"."):
            call()
