"""The page and the table of `pns iterate`: what each round was worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from pns.report import words
from pns.report.build import environment
from pns.report.diff import printable
from pns.report.plots import training_curve
from pns.report.warned import MANY, warned_line, warned_rows
from pns.run import write_atomic
from pns.study.rounds import IteratedMethod, negatives_of

COLUMNS: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("KL from the start, nats", ("kl",), words.fixed),
    ("pairs", ("pairs", "{own}", "n"), lambda v: words.fixed(v, 0)),
    ("coverage, %", ("pairs", "{own}", "coverage"), words.percent),
    ("wrong, %", ("negatives", "wrong"), words.percent),
    ("plausible, %", ("negatives", "plausible"), words.percent),
    ("of the wrong fully consistent, %", ("negatives", "fully_consistent"), words.percent),
    ("generator's KL to its policy, nats", ("negatives", "kl_to_policy"), words.fixed),
    ("reward model, pairs told, %", ("reward_model", "pair_accuracy"), words.percent),
    ("AUC on the last round's negatives, before", ("hard", "before", "auc"), words.fixed),
    ("and after", ("hard", "after", "auc"), words.fixed),
)
"""(heading, where in a round's results, how it is shown); columns without any value are left out."""


CONTRASTS = ("contrast", "round", "greedy, points", "t over seeds", "sampled, points", "t over seeds")


WHAT: dict[str, str] = {
    "pns": "pns trains a generator against the policy as it stands, aligns the policy on its negatives, and refreshes the reward "
    "model with the last round's.",
    "rejection": "rejection aligns the policy on its own mistakes, and refreshes the reward model with the last round's.",
    "sft_chosen": "sft_chosen learns from the chosen side of rejection's pairs alone.",
    "sft_pns": "sft_pns learns from the chosen side of pns's pairs alone.",
}
"""What a round of a method does."""


def table_of(method: IteratedMethod, rounds: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one a round."""
    own = f"own-{negatives_of(method)}"
    shown = []
    for heading, path, show in COLUMNS:
        values = [words.dig(row, *(part.replace("{own}", own) for part in path)) for row in rounds]
        if any(v is not None for v in values):
            shown.append((heading, ["" if v is None else show(v) for v in values]))
    several = any(len(words.dig(row, "greedy_minus_start", "by_seed") or []) > 1 for row in rounds)
    change = ["to the start, points", "t over seeds"] if several else ["to the start, points"]
    head = ["round", "greedy, %", *change, "sampled, %", *change, *(h for h, _ in shown)]
    rows = []
    for i, row in enumerate(rounds):
        accuracy = []
        for kind in ("greedy", "sampled"):
            accuracy.append(f"{words.percent(row[kind]['mean'])} ({words.span(row[kind]['ci95'])})")
            accuracy += _difference(row.get(f"{kind}_minus_start"))[: len(change)]
        rows.append([str(row["round"]), *accuracy, *(values[i] for _, values in shown)])
    return head, rows


def contrasts_of(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each two methods and round, as `CONTRASTS` says."""
    return [
        [f"{c['a']} - {c['b']}", str(c["round"]), *_difference(c["greedy"]), *_difference(c["sampled"])]
        for c in results["contrasts"]
    ]


def _difference(c: Mapping[str, Any] | None) -> list[str]:
    """In points with the bootstrap's interval; the t interval."""
    if c is None:
        return ["", ""]
    alike = len(c["by_seed"]) > 1 and c["seed_sd"] == 0  # then there is no interval, and a blank would not say why
    t = words.span(c["ci95_t"], signed=True) if c["ci95_t"] else "all seeds alike" if alike else ""
    return [f"{words.points(c['difference'])} ({words.span(c['ci95'], signed=True)})", t]


def turned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Figures down, rounds across: there are more figures than a line holds, and seldom many rounds."""
    columns = zip(*rows, strict=True)
    return ["", *(f"round {row[0]}" for row in rows)], [
        [name, *values] for name, values in list(zip(head, columns, strict=True))[1:]
    ]


def _filled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns that are empty in every row: those of t intervals, where there is one seed."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def rounds_tables(results: Mapping[str, Any]) -> list[Table]:
    """One for each method, for the terminal."""
    out = []
    for method, rounds in results["rounds"].items():
        head, rows = turned(*table_of(method, rounds))
        table = Table(title=Text(f"{printable(results['recipe'])}: rounds of {method}"), title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left")
        for row in rows:
            table.add_row(*row)
        out.append(table)
    return out


def contrasts_table(results: Mapping[str, Any]) -> list[Table]:
    """The first method against the others, for the terminal; none where there is one method."""
    head, rows = _filled(CONTRASTS, contrasts_of(results))
    if not rows:
        return []
    table = Table(title=Text("by round, against each other"), title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return [table]


def build_rounds_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write `index.html` into `out`: one self-contained page."""
    methods = [
        (name, *turned(*table_of(name, rounds)), _drawings(rounds)) for name, rounds in results["rounds"].items()
    ]
    contrast_head, contrasts = _filled(CONTRASTS, contrasts_of(results))
    page = environment().get_template("rounds.html.j2").render(
        title=printable(str(results["recipe"])),
        methods=methods,
        seeds=", ".join(map(str, results["seeds"])),
        many=len(results["seeds"]) > 1,
        what=[WHAT[name] for name in results["rounds"] if name in WHAT],
        contrast_head=contrast_head,
        contrasts=contrasts,
        compared=_compared(results),
        warned_line=warned(results),
        warned_rows=(told := warned_rows(by_round := _by_round(results), dict.fromkeys(by_round, len(results["seeds"])))),
        warned_fold=len(told) > MANY,
        environment=[(words.label(k), words.anything(v)) for k, v in results["environment"].items()],
    )  # fmt: skip
    path = out / "index.html"
    write_atomic(path, page)
    return path


def warned(results: Mapping[str, Any]) -> str:
    """What training warned of, in one line; empty where it did not."""
    return warned_line(_by_round(results), "round")


def _by_round(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{method}, round {row['round']}": row["warnings"]
        for method, rounds in results["rounds"].items()
        for row in rounds
        if "warnings" in row
    }


def _compared(results: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Accuracy of all methods by round, where there are several."""
    every = results["rounds"]
    if len(every) < 2:
        return []
    out = []
    for kind in ("greedy", "sampled"):
        numbers = range(len(next(iter(every.values()))))
        rows = [{"round": i, **{m: 100 * rounds[i][kind]["mean"] for m, rounds in every.items()}} for i in numbers]
        out.append(
            (f"Accuracy by round, {kind}.", training_curve(rows, {m: m for m in every}, "accuracy, %", along="round"))
        )
    return [(caption, drawing) for caption, drawing in out if drawing is not None]


def _drawings(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    rows = [
        {
            "round": row["round"],
            **{kind: 100 * row[kind]["mean"] for kind in ("greedy", "sampled")},
            **{name: _percent(words.dig(row, "negatives", name)) for name in ("wrong", "plausible")},
            **{name: words.dig(row, "hard", name, "auc") for name in ("before", "after")},
        }
        for row in rounds
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
