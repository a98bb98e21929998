"""Calibration of the reward model: squash, quantiles, storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.errors import UserError
from pns.rewards import Calibration

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(SCORES, st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_squash_is_monotone_and_centred(scores: list[float], a: float, b: float) -> None:
    calibration = Calibration.fit(scores)
    low, high = sorted((a, b))
    assert 0 <= calibration.squash(low) <= calibration.squash(high) <= 1
    assert calibration.squash(calibration.median) == 0.5
    assert list(calibration.quantiles.values()) == sorted(calibration.quantiles.values())


def test_the_scale_is_a_standard_deviation_for_normal_scores() -> None:
    from statistics import NormalDist

    normal = NormalDist(3, 2)
    calibration = Calibration.fit([normal.inv_cdf((i + 0.5) / 2001) for i in range(2001)])
    assert calibration.median == pytest.approx(3)
    assert calibration.scale == pytest.approx(2, rel=1e-2)
    assert calibration.quantile(0.5) == pytest.approx(0.5)
    assert calibration.quantile(0.25) == pytest.approx(calibration.squash(normal.inv_cdf(0.25)), abs=1e-3)
    assert calibration.quantile(0.275) == pytest.approx((calibration.quantile(0.25) + calibration.quantile(0.3)) / 2)
    assert calibration.quantile(0) == calibration.quantiles["0.05"]
    assert calibration.quantile(1) == calibration.quantiles["0.95"]


def test_scale_falls_back_and_has_a_floor() -> None:
    assert Calibration.fit([0.0] * 9 + [10.0]).scale == pytest.approx(3.0)
    assert Calibration.fit([2.0, 2.0]).scale == 1e-6


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")]])
def test_bad_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(UserError, match="calibrated"):
        Calibration.fit(scores)


def test_saved_and_loaded(tmp_path: Path) -> None:
    calibration = Calibration.fit([0.1, 0.7, 2.0, -3.0])
    path = calibration.save(tmp_path / "new")
    assert Calibration.load(tmp_path / "new") == calibration
    with pytest.raises(UserError, match="no such file"):
        Calibration.load(tmp_path)
    row = json.loads(path.read_text())
    for change, words in (({"version": 2}, "version 2"), ({"scale": -1}, "scale")):
        path.write_text(json.dumps({**row, **change}))
        with pytest.raises(UserError, match=words):
            Calibration.load(tmp_path / "new")
    path.write_text("{")
    with pytest.raises(UserError, match="JSON"):
        Calibration.load(tmp_path / "new")
