"""The page and the table of `pns iterate`: what each round was worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from pns.report import words
from pns.report.build import environment
from pns.report.diff import printable
from pns.report.plots import training_curve
from pns.run import write_atomic

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
    rows = [
        {
            "round": row["round"],
            **{kind: 100 * row[kind]["mean"] for kind in ("greedy", "sampled")},
            **{name: _percent(words.dig(row, "negatives", name)) for name in ("wrong", "plausible")},
            **{name: words.dig(row, "hard", name, "auc") for name in ("before", "after")},
        }
        for row in results["rounds"]
    ]
    plots = (
        ("Accuracy by round.", ("greedy", "sampled"), "accuracy, %"),
        ("The generator's samples on fresh problems.", ("wrong", "plausible"), "share, %"),
        ("The reward model on the last round's negatives against correct responses.", ("before", "after"), "AUC"),
    )
    found = [
        (caption, training_curve(rows, {n: n for n in names}, what, along="round")) for caption, names, what in plots
    ]
    return [(caption, drawing) for caption, drawing in found if drawing is not None]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
