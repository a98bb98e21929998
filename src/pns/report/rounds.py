"""The page and the table of `pns iterate`: what each round was worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from pns.report import words
from pns.report.build import environment
from pns.report.diff import printable
from pns.report.plots import MUTED, colour, draw_svg
from pns.run import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("KL from the start, nats", ("kl",), words.fixed),
    ("pairs", ("pairs", "{own}", "n"), lambda v: words.fixed(v, 0)),
    ("coverage, %", ("pairs", "{own}", "coverage"), words.percent),
    ("wrong, %", ("negatives", "wrong"), words.percent),
    ("plausible, %", ("negatives", "plausible"), words.percent),
    ("generator's KL to its policy, nats", ("negatives", "kl_to_policy"), words.fixed),
    ("reward model, pairs told, %", ("reward_model", "pair_accuracy"), words.percent),
    ("AUC on the last round's negatives, before", ("hard", "before", "auc"), words.fixed),
    ("and after", ("hard", "after", "auc"), words.fixed),
)
"""(heading, where in a round's results, how it is shown); columns without any value are left out."""


def table_of(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one a round."""
    own = f"own-{results['method']}"
    rounds = results["rounds"]
    shown = []
    for heading, path, show in COLUMNS:
        values = [words.dig(row, *(part.replace("{own}", own) for part in path)) for row in rounds]
        if any(v is not None for v in values):
            shown.append((heading, ["" if v is None else show(v) for v in values]))
    head = ["round", "greedy, %", "to the start", "sampled, %", "to the start", *(h for h, _ in shown)]
    rows = []
    for i, row in enumerate(rounds):
        accuracy = []
        for kind in ("greedy", "sampled"):
            accuracy.append(f"{words.percent(row[kind]['mean'])} ({words.span(row[kind]['ci95'])})")
            c = row.get(f"{kind}_minus_start")
            accuracy.append(f"{words.points(c['difference'])} ({words.span(c['ci95'], signed=True)})" if c else "")
        rows.append([str(row["round"]), *accuracy, *(values[i] for _, values in shown)])
    return head, rows


def rounds_table(results: Mapping[str, Any]) -> Table:
    """A row a round, for the terminal: figures down, rounds across, so that it fits."""
    head, rows = table_of(results)
    table = Table(title=Text(f"{printable(results['recipe'])}: rounds of {results['method']}"), title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(f"round {row[0]}", justify="right")
    for i, name in enumerate(head[1:], 1):
        table.add_row(name, *(row[i] for row in rows))
    return table


def build_rounds_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write `index.html` into `out`: one self-contained page."""
    head, rows = table_of(results)
    page = environment().get_template("rounds.html.j2").render(
        title=printable(str(results["recipe"])),
        method=results["method"],
        seeds=", ".join(map(str, results["seeds"])),
        many=len(results["seeds"]) > 1,
        head=head,
        rows=rows,
        drawings=_drawings(results),
        environment=[(words.label(k), words.anything(v)) for k, v in results["environment"].items()],
    )  # fmt: skip
    path = out / "index.html"
    write_atomic(path, page)
    return path


def _drawings(results: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    rounds = results["rounds"]
    lines = {
        "Accuracy by round, %.": {k: [100 * r[k]["mean"] for r in rounds] for k in ("greedy", "sampled")},
        "The generator's samples on fresh problems, %.": {
            name: [100 * v if (v := words.dig(r, "negatives", name)) is not None else None for r in rounds]
            for name in ("wrong", "plausible")
        },
        "AUC of the reward model on the last round's negatives against correct responses.": {
            name: [words.dig(r, "hard", name, "auc") for r in rounds] for name in ("before", "after")
        },
    }
    found = [(caption, _lines(caption, series)) for caption, series in lines.items()]
    return [(caption, drawing) for caption, drawing in found if drawing is not None]


def _lines(name: str, series: Mapping[str, Sequence[float | None]]) -> Markup | None:
    shown = {k: [(i, v) for i, v in enumerate(values) if v is not None] for k, values in series.items()}
    shown = {k: xy for k, xy in shown.items() if xy}
    if not shown:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (key, xy), (ink, dash) in zip(shown.items(), ((colour("pns"), "-"), (MUTED, "--")), strict=False):
            axes.plot([x for x, _ in xy], [y for _, y in xy], dash, color=ink, marker="o", markersize=4, label=key)
        axes.set_xticks(range(max(len(v) for v in series.values())))
        axes.set_xlabel("round")
        axes.legend()

    return draw_svg(draw, name, 2.4)
