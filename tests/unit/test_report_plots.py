"""That drawings can be read: names beside the points that they name, none upon another."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from pns.report.plots import score_distributions, training_curve
from pns.report.study_plots import against_kl

SIZE = 7.5


def places(drawing: object) -> dict[str, tuple[float, float]]:
    """Text of the drawing -> where it is written (x, y); the last one where a text stands twice."""
    texts = re.findall(r"<text[^>]*?(?:translate\(|rotate\(\S+ )([\d.]+) ([\d.]+)\)[^>]*>([^<]*)</text>", str(drawing))
    return {text: (float(x), float(y)) for x, y, text in texts}


def _cell(model: str, seeds: list[int], gained: list[float], kl: list[float]) -> dict[str, Any]:
    return {"model": model, "switch": None, "seeds": seeds, "greedy": {"by_seed": gained}, "kl": {"by_seed": kl}}


@pytest.mark.parametrize("n", [1, 5, 30])
def test_no_cell_of_the_kl_plot_is_named_upon_another(n: int) -> None:
    cells = {f"cell{i}": _cell("pns", [1, 2], [0.5, 0.6], [0.01, 0.01 + i / 1000]) for i in range(n)}
    results = {"metric": "greedy", "cells": {"policy": _cell("policy", [1, 2], [0.5, 0.5], [0.0, 0.0]), **cells}}
    found = places(against_kl(results))
    rows = [found[f"cell{i}"][1] for i in reversed(range(n))]
    assert all(low - high > SIZE for high, low in pairwise(rows)), "the most KL on top"


def test_the_kl_plot_has_the_seeds_that_a_cell_shares_with_the_policy() -> None:
    cells = {
        "policy": _cell("policy", [2], [0.5], [0.0]),
        "sft": _cell("sft", [2], [0.4], [1.0]),
        "pns": _cell("pns", [1, 2], [0.9, 0.6], [0.5, 0.01]),
        "late": _cell("pns", [3], [0.6], [0.01]),
    }
    found = places(against_kl({"metric": "greedy", "cells": cells}))
    assert {"pns"} == set(found) & set(cells)
    assert "0.5" not in found, "the KL of a seed without a policy"


def test_the_names_of_histograms_stand_above_them_and_the_shares_have_an_axis() -> None:
    drawing = str(score_distributions({"correct": [0.0] * 9 + [10.0], "pns": [0.0] * 10}))
    found = places(drawing)
    assert {"0", "100", "share, %", "score of the audit model (line: median)"} <= set(found)
    for axes, name in zip(
        re.findall(r'id="[^"]*axes_\d+".*?<path d="(.*?)"', drawing, re.DOTALL), ("correct", "pns"), strict=True
    ):
        top = min(float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", axes))
        assert found[f"{name} (n = 10)"][1] < top, "above all that is drawn"


def test_a_curve_of_one_point_has_no_line_in_its_legend() -> None:
    lines = {"a": "wrong", "b": "plausible"}
    one, two = (str(training_curve([{"step": i, "a": 1, "b": 2} for i in range(n)], lines, "share")) for n in (1, 2))
    assert {"wrong", "plausible"} <= set(places(one))
    assert "stroke-dasharray" in two
    assert "stroke-dasharray" not in one
