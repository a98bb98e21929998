"""Scores as probabilities: the map is the one that was fitted, the prior is respected, and errors are those by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pns.evaluation.probabilities import calibration_error, fit_and_judge


def test_calibration_error_by_hand() -> None:
    said = np.array([0.2] * 5 + [0.9] * 5)
    right = np.array([True] + [False] * 4 + [True] * 4 + [False])
    assert calibration_error(said, right) == pytest.approx(0.5 * 0.0 + 0.5 * 0.1)
    assert calibration_error(np.array([1.0, 1.0]), np.array([False, True])) == pytest.approx(0.5)
    spread = np.linspace(0.005, 0.995, 100)
    assert calibration_error(spread, spread > 0.5) == pytest.approx(0.25), "sure answers, unsure words"


def drawn(n: int, shift: float, seed: int, share: float = 0.5) -> tuple[list[list[float]], list[bool]]:
    """Scores of which the correct ones are higher by `shift` standard deviations."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < share
    return [[float(x)] for x in rng.normal(size=n) + shift * right], [bool(x) for x in right]


def test_a_map_that_was_fitted_on_the_same_kind_is_calibrated_and_another_one_is_not() -> None:
    held = drawn(4000, 1.0, 0)
    good = fit_and_judge(*drawn(4000, 1.0, 1), *held, prior=0.5)
    easy = fit_and_judge(*drawn(4000, 4.0, 2), *held, prior=0.5)
    assert good is not None
    assert easy is not None
    assert good["ece"] < 0.03
    assert easy["ece"] > 0.1
    assert easy["brier"] > good["brier"]
    assert easy["auc"] == pytest.approx(good["auc"]), "one score, one order"
    assert good["auc"] == pytest.approx(0.76, abs=0.02)  # Phi(1 / sqrt 2)


def test_the_prior_is_that_of_whoever_answers() -> None:
    held = drawn(4000, 1.0, 0, share=0.2)
    assert sum(held[1]) / 4000 == pytest.approx(0.2, abs=0.02)
    found = fit_and_judge(*drawn(4000, 1.0, 1), *held, prior=0.2)
    assert found is not None
    assert found["said"] == pytest.approx(found["correct"], abs=0.02)
    assert found["ece"] < 0.03


def test_too_few_of_an_outcome_are_no_figure() -> None:
    held = drawn(100, 1.0, 0)
    assert fit_and_judge([[0.0]] * 20, [True] * 20, *held, prior=0.5) is None
    assert fit_and_judge(*held, [[1.0]] * 15, [True] * 6 + [False] * 9, prior=0.5) is None
    assert fit_and_judge([], [], *held, prior=0.5) is None
    assert fit_and_judge(*held, *held, prior=1.0) is None
