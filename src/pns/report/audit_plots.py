"""Plots of `pns audit negatives`, in the style of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pns.report.plots import MUTED, colour, dot, draw_svg, histograms, named_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def all_drawings(figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """(caption, drawing) of what there is."""
    found = [
        ("Can it tell chosen from rejected? AUC with 95 % intervals over problems; 0.5: it cannot.", aucs(figures)),
        (f"Words that separate a rejected response from {nearest(figures)}, as a share.",
         spread(rows, "edit_distance", "normalised edit distance in words")),
        (f"Where the first wrong step stands, of the {_decided(figures)} for which rules decide it.",
         spread(rows, "first_error", "position of the first wrong step, 0 first to 1 last")),
        ("Raw scores of the reward model, chosen and rejected.", reward_scores(rows)),
    ]  # fmt: skip
    return [(caption, drawing) for caption, drawing in found if drawing is not None]


def nearest(figures: Mapping[str, Any]) -> str:
    """What a rejected response is compared with, in words, and how many of them a problem has."""
    found = [f["nearest"] for f in figures.values()]
    if not any(n["rollouts"] for n in found):
        return f"the nearest chosen response ({_range([n['chosen'] for n in found])} of them a problem)"
    n = _range([n["chosen"] + n["rollouts"] for n in found])
    return f"the nearest correct response ({n} of them a problem: chosen side and the run's correct rollouts)"


def _range(values: Sequence[float]) -> str:
    """One figure where methods have the same, otherwise from the least to the most."""
    ends = [f"{min(values):.1f}", f"{max(values):.1f}"]
    return " to ".join(dict.fromkeys(ends))


def _decided(figures: Mapping[str, Any]) -> str:
    found = [f["first_error"] for f in figures.values()]
    n = sum(f["decided"] for f in found)
    return f"{n:,} of {n + sum(f['undecided'] for f in found):,} pairs"


def aucs(figures: Mapping[str, Any]) -> Markup | None:
    """A row for each detector and method."""
    names = list(dict.fromkeys(name for f in figures.values() for name in f["detectors"]))
    lines = [(d, m) for d in names for m, f in figures.items() if d in f["detectors"]]
    if not lines:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        for row, (detector, method) in enumerate(lines):
            found = figures[method]["detectors"][detector]
            dot(axes, row, found["auc"], found["ci95"], colour(method), hollow=False, scale=1)
        named_rows(axes, [f"{detector}, {method}" for detector, method in lines])
        low, high = axes.get_xlim()
        axes.set_xlim(min(0.35, low), max(1.02, high))
        axes.set_xlabel("AUC (below 0.5: fooled)")

    return draw_svg(draw, "audit auc", 0.6 + 0.26 * len(lines))


def spread(rows: Sequence[Mapping[str, Any]], key: str, what: str) -> Markup | None:
    """Shares by method on one axis from 0 to 1, with the median."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            found.setdefault(row["method"], []).append(float(row[key]))
    return histograms(found, f"{what} (line: median)", f"audit {key}", np.linspace(0, 1, 21))


def reward_scores(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The reward model's scores of the chosen sides, and of each method's rejected ones."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if "reward_model" in row["scores"]:
            chosen, rejected = row["scores"]["reward_model"]
            found.setdefault("correct", []).append(chosen)
            found.setdefault(row["method"], []).append(rejected)
    return histograms(found, "raw score (line: median)", "audit rewards")
