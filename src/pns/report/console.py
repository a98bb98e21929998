"""The report on a terminal: the table at the end of a run, and pairs side by side.

Names and model text only ever reach rich as `Text` objects, so square brackets in them are never read as markup, and
control characters are replaced first, so they cannot steer the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pns.records import Pair
from pns.report import view
from pns.report.diff import mark_steps, mark_words, printable
from pns.report.words import anything, fixed, percent, points, reading, span

_READING_STYLE = {"gain": "green", "loss": "red", "unseen": "dim"}


def results_table(results: Mapping[str, Any]) -> Table:
    """The comparison of a run: accuracies and differences in points with 95 % intervals, pairs and their separation."""
    table = Table(
        title=Text(f"{plain(results.get('recipe') or 'results')}: mean accuracy, %"), title_justify="left",
        caption="In brackets: 95 % intervals over problems. Sep.: pairs whose chosen side the policy finds likelier, before training.",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("Method", no_wrap=True)
    for name in ("Greedy", "Sampled", "Greedy, to policy"):
        table.add_column(name, justify="right")
    regime, made = view.compared_pairs(results)
    table.add_column("Own pairs" if regime == "own" else "Pairs", justify="right")
    table.add_column("Sep. before, %", justify="right")
    for row in view.comparison(results):
        pairs = made.get(row["method"]) or {}
        table.add_row(
            Text(plain(row["method"]), style="bold" if row["method"] == "pns" else ""),
            Text(_with(row["greedy"], row["greedy_ci"])),
            Text(_with(row["sampled"], row["sampled_ci"])),
            Text(_with(row["change"], row["change_ci"]), style=_READING_STYLE.get(row["reading"], "")),
            Text(anything(pairs.get("n"))),
            Text(percent(pairs.get("separated_before"))),
        )
    return table


def study_table(results: Mapping[str, Any]) -> Table:
    """The contrasts of a study: differences in points with 95 % intervals over seeds and problems."""
    table = Table(
        title=Text(f"{plain(results['study'])}: differences, points"), title_justify="left",
        caption="In brackets: 95 % intervals over seeds and problems. KL: of each of the two models from the policy, a response. "
        "Needed: seeds, to see the study's difference of interest in four studies of five.",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("Contrast", no_wrap=True)
    for name in ("Greedy", "Sampled", "KL, nats", "Seeds", "Needed"):
        table.add_column(name, justify="right")
    for kind in ("primary", "secondary"):
        for c in results[kind]:
            cells = [Text(f"{c['a']} - {c['b']}", style="bold" if kind == "primary" else "")]
            for metric in ("greedy", "sampled"):
                found = c[metric]
                style = _READING_STYLE.get(reading(found["ci95_t"] or found["ci95"]), "")
                cells.append(Text(_with(points(found["difference"]), span(found["ci95"], signed=True)), style=style))
            cells.append(Text(" / ".join(fixed(x) for x in c["kl"])))
            table.add_row(*cells, str(len(c["seeds"])), anything(c["seeds_needed"]))
    return table


def inspect_pairs(pairs: Sequence[Pair], console: Console) -> None:
    """Print pairs: the problem, both responses side by side with differing steps marked, the score breakdown."""
    for number, pair in enumerate(pairs, 1):
        console.rule(Text(f"{number} of {len(pairs)} · {plain(pair.method)} · {plain(pair.problem_id)}"), align="left")
        console.print(Text(printable(pair.prompt)))
        console.print(_side_by_side(pair))
        terms = view.breakdown(pair) or [("rejected side", "not scored")]
        console.print(_terms([*terms, *view.log_probabilities(pair)]))
        console.print()


def plain(value: Any) -> str:
    """A value as one printable line."""
    return printable(str(value)).replace("\n", " ")


def _with(value: str, ci: str) -> str:
    return f"{value} ({ci})" if ci else value


def _side_by_side(pair: Pair) -> Table:
    table = Table(expand=True, show_lines=False)
    table.add_column(" ", width=1)
    source = "" if pair.chosen_source == "policy" else f" ({pair.chosen_source})"
    table.add_column(Text(f"chosen{source}, answer {plain(pair.chosen_answer or '–')}"), ratio=1, overflow="fold")
    table.add_column(Text(f"rejected, answer {plain(pair.rejected_answer or '–')}"), ratio=1, overflow="fold")
    first = True
    for left, right, differs in mark_steps(printable(pair.chosen).rstrip("\n"), printable(pair.rejected).rstrip("\n")):
        # The sign in the margin says what the colours say, for those who do not see them or pipe into a file.
        sign = "" if not differs else "»" if first else "·"
        first = first and not differs
        table.add_row(
            Text(sign, style="bold yellow"),
            _marked(mark_words(left, right), "bold green"),
            _marked(mark_words(right, left), "bold red"),
        )
    return table


def _marked(runs: Iterable[tuple[str, bool]], style: str) -> Text:
    return Text.assemble(*((text, style if differs else "") for text, differs in runs))


def _terms(terms: Iterable[tuple[str, str]]) -> Columns:
    return Columns([Text.assemble((f"{name} ", "dim"), value) for name, value in terms], padding=(0, 3))
