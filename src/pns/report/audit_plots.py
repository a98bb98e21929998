"""Plots of `pns audit negatives`, in the style of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pns.report.plots import INK, MUTED, colour, dot, draw_svg, named_rows, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def all_drawings(figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """(caption, drawing) of what there is."""
    found = [
        ("Can it tell chosen from rejected? AUC with 95 % intervals over problems; 0.5: it cannot.", aucs(figures)),
        ("Words that separate a rejected response from the nearest chosen one, as a share.",
         histograms(rows, "edit_distance", "normalised edit distance in words")),
        ("Where the first false arithmetic step stands.",
         histograms(rows, "first_wrong_step", "position of the first false step (0: first, 1: last)")),
        ("Raw scores of the reward model, chosen and rejected.", reward_scores(rows)),
    ]  # fmt: skip
    return [(caption, drawing) for caption, drawing in found if drawing is not None]


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


def histograms(rows: Sequence[Mapping[str, Any]], key: str, what: str) -> Markup | None:
    """Shares by method on one axis from 0 to 1, with the median."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            found.setdefault(row["method"], []).append(float(row[key]))
    return _stack(found, np.linspace(0, 1, 21), what, key)


def reward_scores(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The reward model's scores of the chosen sides, and of each method's rejected ones."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if "reward_model" in row["scores"]:
            chosen, rejected = row["scores"]["reward_model"]
            found.setdefault("correct", []).append(chosen)
            found.setdefault(row["method"], []).append(rejected)
    if not found:
        return None
    every = np.concatenate([np.asarray(values) for values in found.values()])
    low, high = float(every.min()), float(every.max())
    return _stack(found, np.linspace(low, high if high > low else low + 1, 31), "raw score (line: median)", "rewards")


def _stack(found: Mapping[str, Sequence[float]], bins: Any, what: str, name: str) -> Markup | None:
    if not found:
        return None

    def draw(figure: Figure) -> None:
        stack = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (method, values) in zip(stack, found.items(), strict=True):
            share, _ = np.histogram(values, bins=bins)
            axes.stairs(share / len(values), bins, fill=True, color=colour(method), alpha=0.35)
            axes.stairs(share / len(values), bins, color=colour(method), linewidth=1.2)
            axes.axvline(float(np.median(values)), color=INK, linewidth=1)
            label = f"{short(method)} (n = {len(values)})"
            axes.text(0.01, 0.93, label, transform=axes.transAxes, va="top", weight="bold")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        stack[-1].set_xlabel(what)

    return draw_svg(draw, f"audit {name}", 0.45 + 0.62 * len(found))
