"""Plots of a study, in the style of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pns.report.plots import MUTED, colour, dot, draw_svg, named_rows, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASH = (0, (3, 3))


def accuracy(results: Mapping[str, Any]) -> Markup | None:
    """A row a cell with its interval, greedy filled and sampled hollow; the policy's greedy mean as a line."""
    cells = {n: c for n, c in results["cells"].items() if c["switch"] is None}
    if not cells:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        if "policy" in cells:
            axes.axvline(100 * cells["policy"]["greedy"]["mean"], color=MUTED, linewidth=0.8, linestyle=_DASH, zorder=1)
        for row, cell in enumerate(cells.values()):
            ink = colour(cell["model"])
            dot(axes, row - 0.15, cell["greedy"]["mean"], cell["greedy"]["ci95"], ink, hollow=False)
            dot(axes, row + 0.2, cell["sampled"]["mean"], cell["sampled"]["ci95"], ink, hollow=True)
        named_rows(axes, list(cells))
        axes.set_xlabel("mean accuracy over benchmarks and seeds, %")

    return draw_svg(draw, "study accuracy", 0.55 + 0.33 * len(cells))


def forest(results: Mapping[str, Any]) -> Markup | None:
    """Every contrast with its interval in points, each seed a faint mark."""
    metric = results["metric"]
    rows = [*results["primary"], *results["secondary"]]
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=_DASH, zorder=1)
        for row, c in enumerate(rows):
            ink = colour(results["cells"][c["a"]]["model"])
            found = c[metric]
            seeds = [100 * x for x in found["by_seed"]]
            axes.plot(seeds, [row + 0.28] * len(seeds), "|", color=ink, alpha=0.6, markersize=4)
            dot(
                axes,
                row - 0.1,
                found["difference"],
                found["ci95_t"] or found["ci95"],
                ink,
                hollow=row >= len(results["primary"]),
            )
        named_rows(axes, [f"{c['a']} − {c['b']}" for c in rows], 48)
        axes.set_xlabel(f"difference in {metric} accuracy, points (ticks: seeds)", loc="right")

    return draw_svg(draw, "study contrasts", 0.55 + 0.3 * len(rows))


def against_kl(results: Mapping[str, Any]) -> Markup | None:
    """What each cell gained over the policy beside the KL that it spent, a row a cell, the most KL first.

    Rows, since most cells of a study lie close together: in a plane their names would cover each other and the points.
    """
    rows = _gains(results)
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        right.axvline(0, color=MUTED, linewidth=0.8, linestyle=_DASH, zorder=1)
        for row, (_, model, spent, gained) in enumerate(rows):
            for axes, values in ((left, spent), (right, gained)):
                axes.plot(values, [row + 0.28] * len(values), "|", color=colour(model), alpha=0.6, markersize=4)
                dot(axes, row - 0.1, _mean(values), None, colour(model), hollow=False, scale=1)
        named_rows(right, [name for name, *_ in rows])
        named_rows(left, [name for name, *_ in rows])
        left.set_xlabel("KL from the policy,\nnats a response")
        right.set_xlabel(f"gained over the policy,\n{results['metric']}, points")
        for axes in (left, right):
            axes.locator_params(axis="x", nbins=4)

    return draw_svg(draw, "study kl", 0.75 + 0.26 * len(rows))


def _gains(results: Mapping[str, Any]) -> list[tuple[str, str, list[float], list[float]]]:
    """(cell, model, KL by seed, points over the policy by seed) of the seeds that a cell shares with the policy."""
    cells, metric = results["cells"], results["metric"]
    base = cells.get("policy")
    if base is None:
        return []
    start = dict(zip(base["seeds"], base[metric]["by_seed"], strict=True))
    rows = []
    for name, cell in cells.items():
        seeds = [i for i, seed in enumerate(cell["seeds"]) if seed in start]
        if name in ("policy", "sft") or cell["switch"] is not None or not seeds:
            continue
        gained = [100 * (cell[metric]["by_seed"][i] - start[cell["seeds"][i]]) for i in seeds]
        rows.append((name, cell["model"], [cell["kl"]["by_seed"][i] for i in seeds], gained))
    return sorted(rows, key=lambda row: -_mean(row[2]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def pairs_lines(results: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """method -> (pairs, accuracy in %), from the ablations that limit pairs.n and the full cells, the fewest pairs first.

    Both are means over the seeds that an ablation shares with its full cell.
    """
    cells, metric = results["cells"], results["metric"]
    lines: dict[str, set[tuple[float, float]]] = {}
    for name, contrast in results["ablations"].items():
        cell, base = cells[name], cells[contrast["b"]]
        if "pairs.n" not in results["switches"][cell["switch"]]["set"] or not cell.get("pairs"):
            continue
        for one in (cell, base):
            at = [one["seeds"].index(seed) for seed in contrast["seeds"]]
            pairs, accuracy = (
                sum(values[i] for i in at) / len(at) for values in (one["pairs"]["n_by_seed"], one[metric]["by_seed"])
            )
            lines.setdefault(cell["model"], set()).add((pairs, 100 * accuracy))
    return {method: sorted(points) for method, points in lines.items()}


def against_pairs(results: Mapping[str, Any]) -> Markup | None:
    """Accuracy against the number of pairs, a line a method; see `pairs_lines`."""
    metric, lines = results["metric"], pairs_lines(results)
    if not lines:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for method, points in lines.items():
            axes.plot(*zip(*points, strict=True), "o-", color=colour(method), markersize=4, label=short(method))
        axes.set_xlabel("pairs")
        axes.set_ylabel(f"{metric} accuracy, %")
        axes.legend()

    return draw_svg(draw, "study pairs", 2.5)
