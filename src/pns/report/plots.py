"""Figures as inline SVG, the same bytes for the same numbers.

Matplotlib draws with placeholder colours and plain text; `draw_svg` then puts CSS variables and the page's font in their
place, so one drawing follows the page's light and dark themes. Sizes are small (4 inches wide) and scale with the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pns.report.diff import printable
from pns.report.words import dig, in_order, interval, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colour -> CSS variable. Each must be a colour that no drawing would use by chance.
INK, MUTED, GRID, SURFACE = "#010203", "#010204", "#010205", "#010206"
_SERIES = {"pns": "#020301", "rejection": "#020302", "correct": "#020303", "corruption": "#020304", "flip": "#020305"}
_OTHER = "#020306"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    SURFACE: "--card",
    **{colour: f"--c-{name}" for name, colour in _SERIES.items()},
    _OTHER: "--c-other",
}
_WIDTH = 4.0
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 7.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.labelcolor": INK,
    "axes.unicode_minus": True,
}


def colour(name: str) -> str:
    """The placeholder colour of a method or kind of response."""
    return _SERIES.get(name, _OTHER)


def accuracy_by_method(results: Mapping[str, Any]) -> Markup | None:
    """Dot and interval for each method, greedy filled and sampled hollow; None without any mean."""
    greedy, sampled = dig(results, "mean") or {}, dig(results, "sampled", "mean") or {}
    methods = [
        m
        for m in in_order([*greedy, *sampled])
        if number(greedy.get(m)) is not None or number(sampled.get(m)) is not None
    ]
    if not methods:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        policy = number(greedy.get("policy"))
        if policy is not None:
            axes.axvline(100 * policy, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        for row, method in enumerate(methods):
            dot(axes, row - 0.15, greedy.get(method), dig(results, "mean_ci95", method), colour(method), hollow=False)
            dot(
                axes,
                row + 0.2,
                sampled.get(method),
                dig(results, "sampled", "mean_ci95", method),
                colour(method),
                hollow=True,
            )
        named_rows(axes, methods)
        axes.set_xlabel("mean accuracy, %")

    return draw_svg(draw, "accuracy", 0.55 + 0.33 * len(methods))


def auc_by_method(plausibility: Mapping[str, Any]) -> Markup | None:
    """Held-out AUC of the audit model by method with its interval; the length AUC as a tick. None where missing."""
    aucs = dig(plausibility, "heldout_auc") or {}
    lengths = dig(plausibility, "length_auc") or {}
    methods = [m for m in in_order(aucs) if number(aucs[m]) is not None]
    if not methods:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        for row, method in enumerate(methods):
            dot(
                axes,
                row,
                aucs[method],
                dig(plausibility, "heldout_auc_ci95", method),
                colour(method),
                hollow=False,
                scale=1,
            )
            length = number(lengths.get(method))
            if length is not None:
                axes.plot([length], [row], marker="|", markersize=9, color=MUTED, linestyle="none")
        named_rows(axes, methods)
        axes.set_xlim(min(0.35, *axes.get_xlim()), 1.02)
        note = ", tick: length alone" if any(number(v) is not None for v in lengths.values()) else ""
        axes.set_xlabel(f"AUC (0.5: cannot tell{note})")

    return draw_svg(draw, "auc", 0.6 + 0.32 * len(methods))


def score_distributions(
    scores: Mapping[str, Sequence[float]], what: str = "score of the audit model (line: median)"
) -> Markup | None:
    """Histograms of a model's scores, one row a kind on one axis, with the median; None without scores."""
    finite = {kind: [x for x in map(number, values or []) if x is not None] for kind, values in scores.items()}
    order = ("correct", "rejection", "pns")
    kinds = [k for k in [*order, *(k for k in in_order(finite) if k not in order)] if finite.get(k)]
    if not kinds:
        return None
    return histograms({kind: finite[kind] for kind in kinds}, what, what)


def histograms(found: Mapping[str, Sequence[float]], what: str, name: str, bins: Any = None) -> Markup | None:
    """One histogram above another on one axis, as shares of their own values, with the median; None without any.

    The name of each stands above it: bars may be anywhere below.

    Args:
        what: the axis of the values in words.
        name: of the figure.
        bins: edges of the bars; None: thirty of them, as far as the values go.
    """
    if not found:
        return None
    if bins is None:
        every = np.concatenate([np.asarray(values) for values in found.values()])
        low, high = float(every.min()), float(every.max())
        bins = np.linspace(low, high if high > low else low + 1, 31)

    def draw(figure: Figure) -> None:
        stack = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (kind, values) in zip(stack, found.items(), strict=True):
            share = 100 * np.histogram(values, bins=bins)[0] / len(values)
            axes.stairs(share, bins, fill=True, color=colour(kind), alpha=0.35)
            axes.stairs(share, bins, color=colour(kind), linewidth=1.2)
            axes.axvline(float(np.median(values)), color=INK, linewidth=1)
            title = f"{short(kind)} (n = {len(values)})"
            axes.set_title(title, loc="left", fontsize=_STYLE["font.size"], weight="bold", pad=3)
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="y", nbins=2)
            axes.tick_params(axis="y", labelcolor=MUTED)
        figure.supylabel("share, %", color=MUTED, fontsize=_STYLE["font.size"])
        stack[-1].set_xlabel(what)

    return draw_svg(draw, name, 0.45 + 0.85 * len(found))


def training_curve(
    curve: Sequence[Mapping[str, Any]], lines: Mapping[str, str], what: str, *, share: bool = False, along: str = "step"
) -> Markup | None:
    """Lines over training steps, raw values faint under their running mean.

    Args:
        curve: rows with `along` and numbers.
        lines: key of a row -> name of the line.
        what: the y axis in words; also names the figure.
        share: the values are shares in 0..1 and drawn as percent.

    Returns:
        the figure, or None where no row holds any of the keys.
    """
    found = {name: _series(curve, key, 100 if share else 1, along) for key, name in lines.items()}
    found = {name: xy for name, xy in found.items() if len(xy[0])}
    if not found:
        return None
    looks = [(colour("pns"), "-"), (colour("rejection"), "--"), (colour("correct"), "-."), (MUTED, ":")]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (name, (x, y)), (ink, dash) in zip(found.items(), looks, strict=False):
            if len(x) == 1:  # a point is no line, in the legend either
                axes.plot(x, y, "o", color=ink, markersize=3, label=name)
                continue
            axes.plot(x, y, color=ink, linewidth=0.8, alpha=0.3)
            axes.plot(x, _running_mean(y), color=ink, linewidth=1.6, linestyle=dash, label=name)
        if share:
            axes.set_ylim(-3, 103)
        axes.set_xlabel(along)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.set_ylabel(what)
        axes.tick_params(axis="y", labelcolor=MUTED)
        if len(found) > 1:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(-0.02, 1.0),
                ncols=len(found),
                borderpad=0,
                handlelength=2.2,
                columnspacing=1.2,
            )

    return draw_svg(draw, f"curve {what} {' '.join(lines)}", 2.3)


def _series(curve: Sequence[Mapping[str, Any]], key: str, scale: float, along: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [(number(row.get(along, i)), number(row.get(key))) for i, row in enumerate(curve)]
    kept = [(x, scale * y) for x, y in rows if x is not None and y is not None]
    return np.array([x for x, _ in kept]), np.array([y for _, y in kept])


def _running_mean(y: np.ndarray) -> np.ndarray:
    """Centred mean over a tenth of the curve, the window cut off at both ends."""
    half = len(y) // 20
    return np.array([y[max(0, i - half) : i + half + 1].mean() for i in range(len(y))])


def dot(axes: Axes, row: float, value: Any, ci: Any, ink: str, *, hollow: bool, scale: float = 100) -> None:
    x, pair = number(value), interval(ci)
    if x is None:
        return
    if pair is not None:
        axes.plot(
            [scale * pair[0], scale * pair[1]], [row, row], color=ink, linewidth=1.5, solid_capstyle="butt", zorder=2
        )
    axes.plot([scale * x], [row], "o", markersize=4.5, color=ink, markerfacecolor=SURFACE if hollow else ink, zorder=3)


def short(name: str, most: int = 24) -> str:
    return printable(name)[:most]


def named_rows(axes: Axes, names: Sequence[str], most: int = 24) -> None:
    """One row a name, of at most so many characters, the first on top."""
    axes.set_yticks(range(len(names)), [short(name, most) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def draw_svg(draw: Any, name: str, height: float) -> Markup:
    """Run `draw` on a fresh figure and return it as SVG for the page.

    Identifiers get the figure's name, since many figures share one page; width and height go, so that it scales.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        out = StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # The style element would apply to the whole page; the page has the rule, for figures alone.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    prefix = "f-" + re.sub(r"\W+", "-", name)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    return Markup(text)  # drawn here; matplotlib escapes the labels
