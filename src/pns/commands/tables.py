"""What `pns verify` and `pns score` print. Text of files and models reaches the terminal as printable `Text` alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from pns.display import QUIET_SECONDS, clock, pace
from pns.recipe import RewardPart
from pns.tally import Group, Listing, Row, ScoreTally, VerdictTally, mean_of, quartiles

STYLES = {"correct": "bold green", "wrong": "bold red", "undecided": "bold yellow"}
_WIDE = 60


class Step(Protocol):
    """Told (done, total); total 0 is unknown."""

    def __call__(self, done: int, total: int) -> None: ...


class _Pace(ProgressColumn):
    """Rows a second, and the time left."""

    def render(self, task: Task) -> Text:
        return Text(pace(task.completed - task.fields["begun"], _left(task), task.elapsed or 0.0), style="cyan")


def _left(task: Task) -> float:
    return max(0.0, (task.total or 0) - task.fields["begun"])


@contextmanager
def progress(screen: Console, what: str) -> Iterator[Step]:
    """A bar on a terminal; elsewhere a line every 15 seconds."""
    if not screen.is_terminal:
        yield _Lines(screen, what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), _Pace())
    with Progress(*columns, console=screen, transient=True, refresh_per_second=4) as bars:
        task = bars.add_task(what, total=None, begun=0)
        first = True

        def step(done: int, total: int) -> None:
            nonlocal first
            if first and done < total:
                # What an earlier run has done says nothing about the pace of this one.
                bars.update(task, begun=done)
            first = False
            bars.update(task, completed=done, total=total or None)

        yield step


class _Lines:
    """Plain lines now and then, for a pipe or a file."""

    def __init__(self, screen: Console, what: str) -> None:
        import time

        self.screen, self.what, self.now = screen, what, time.monotonic
        self.begun = self.said = self.now()
        self.first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        self.first = done if self.first is None else self.first
        moment = self.now()
        if moment - self.said >= QUIET_SECONDS and total:
            self.said = moment
            speed = pace(done - self.first, total - self.first, moment - self.begun)
            self.screen.print(
                Text(f"{self.what}: {done}/{total}, {speed} ({clock(moment - self.begun)})"), highlight=False
            )


def printable(value: Any, width: int = _WIDE) -> Text:
    """A value as one line that cannot steer the terminal: control and direction signs replaced, cut at `width`."""
    line = "".join(c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Text(line if len(line) <= width else f"{line[: width - 1]}…")


def verdict_tables(tally: VerdictTally) -> list[Table | Text]:
    """Outcomes (by label where there is one), reasons of the undecided, and where verdict and label disagree."""
    labels = [label for label in (True, False, None) if label in tally.outcomes]
    labelled = labels != [None]
    table = Table(title="verdicts" if not labelled else "verdicts by label", title_justify="left")
    table.add_column("outcome")
    table.add_column("all", justify="right")
    for label in labels if labelled else []:
        table.add_column({True: "labelled correct", False: "labelled wrong", None: "no label"}[label], justify="right")
    for outcome in ("correct", "wrong", "undecided"):
        cells = [_share(tally.outcomes[label][outcome], tally.outcomes[label].total()) for label in labels]
        table.add_row(
            Text(outcome, style=STYLES[outcome]),
            _share(tally.total(outcome), tally.total()),
            *(cells if labelled else []),
        )
    out: list[Table | Text] = [table]
    if tally.undecided:
        out.append(_counts("why undecided", {f"{r} (by the {c})": n for (c, r), n in tally.undecided.most_common(12)}))
    if labelled:
        agree = tally.total() - tally.disagree.count - tally.open.count - _unlabelled(tally)
        judged = tally.total() - _unlabelled(tally)
        out.append(Text(f"{agree} of {judged} verdicts agree with the label, {tally.disagree.count} disagree, "
                        f"{tally.open.count} are undecided"))  # fmt: skip
        out += _listed("verdict and label disagree", tally.disagree) + _listed("labelled, but undecided", tally.open)
    return out


def _unlabelled(tally: VerdictTally) -> int:
    return tally.outcomes[None].total() if None in tally.outcomes else 0


def score_tables(tally: ScoreTally, part: RewardPart, *, all_terms: bool, reward_model: bool) -> list[Table | Text]:
    """Gates and pay, the terms, causes, calls saved, and the rows worth a look."""
    groups = {"all": tally.everything, **(tally.groups if tally.labelled else {})}
    out: list[Table | Text] = [_gates(groups, part, reward_model)]
    if any(group.rubric_total or group.m for group in groups.values()):
        out.append(_terms(groups, all_terms))
    if tally.everything.failures:
        out.append(_causes("why malformed (a response may fail several)", groups, "failures"))
    if tally.everything.undecided:
        out.append(_causes("why undecided", groups, "undecided"))
    out.append(Text(_saved(tally, part, reward_model)))
    out += _scores_listed("labelled correct, and paid", tally.paid_correct.rows, tally.paid_correct.count)
    out += _scores_listed("labelled correct, and charged", tally.charged_correct.rows, tally.charged_correct.count)
    out += _scores_listed("unscored", tally.unscored.rows, tally.unscored.count)
    best = tally.best
    out += _scores_listed("paid most" + (", among those not labelled correct" if tally.labelled else ""), best, 0)
    return out


def _gates(groups: dict[str, Group], part: RewardPart, reward_model: bool) -> Table:
    table = Table(title="what the reward pays", title_justify="left")
    table.add_column("gate")
    table.add_column("score", justify="right")
    for name in groups:
        table.add_column(name, justify="right")
    best = part.weight_inversion + (part.weight_judge if part.judge != "none" else 0)
    best += part.weight_reward_model if reward_model else 0
    rows = [
        ("malformed", f"{part.malformed:g}", "yellow"), ("undecided", f"{part.malformed:g}", "yellow"),
        ("correct", "0", "green"), ("scored", f"{part.weight_inversion:g} .. {best:g}", "red"),
    ]  # fmt: skip
    for gate, pay, style in rows:
        name = "wrong: scored" if gate == "scored" else gate
        table.add_row(Text(name, style=style), pay, *(_share(g.gates[gate], g.rows) for g in groups.values()))
    for cause in sorted({cause for group in groups.values() for cause in group.unscored}):
        cells = (_share(g.unscored[cause], g.rows) for g in groups.values())
        table.add_row(Text(f"unscored: {cause}", style="magenta"), "none", *cells)
    table.add_section()
    table.add_row("responses", "", *(str(g.rows) for g in groups.values()))
    table.add_row("paid (score above 0)", "", *(_share(g.paid, g.rows) for g in groups.values()))
    table.add_row("mean score", "", *(_real(g.mean) for g in groups.values()))
    return table


def _terms(groups: dict[str, Group], all_terms: bool) -> Table:
    what = "of every response" if all_terms else "of what the gates left (--all-terms: of every response)"
    table = Table(title=f"the terms {what}: mean, or lower quartile | median | upper quartile", title_justify="left")
    table.add_column("term")
    for name in groups:
        table.add_column(name, justify="right")
    table.add_row("responses with C", *(str(g.rubric_total.total()) for g in groups.values()))
    table.add_row("C, 0..1", *(_over_12(mean_of(g.rubric_total)) for g in groups.values()))
    table.add_row("C at or above 9/12", *(_nines(g.rubric_total) for g in groups.values()))
    for name in next(iter(groups.values())).rubric:
        table.add_row(f"  {name}, 0..3", *(_real(mean_of(g.rubric[name]), 2) for g in groups.values()))
    if any(g.m for g in groups.values()):
        table.add_row("M, 0..1", *(_spread(g.m) for g in groups.values()))
        table.add_row("raw reward-model score", *(_spread(g.raw) for g in groups.values()))
    return table


def _nines(counts: Counter[int]) -> str:
    return _share(sum(n for total, n in counts.items() if total >= 9), counts.total())


def _over_12(mean: float | None) -> str:
    return _real(None if mean is None else mean / 12)


def _causes(title: str, groups: dict[str, Group], what: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("cause")
    for name in groups:
        table.add_column(name, justify="right")
    for cause, _ in getattr(groups["all"], what).most_common(12):
        table.add_row(printable(cause, 80), *(str(getattr(g, what)[cause]) for g in groups.values()))
    return table


def _saved(tally: ScoreTally, part: RewardPart, reward_model: bool) -> str:
    rows, malformed = tally.everything.rows, tally.everything.gates["malformed"]
    said = [f"verifier {malformed} of {rows}"]
    if part.judge != "none":
        said.append(f"judge {rows - tally.asked} of {rows}")
    if reward_model:
        said.append(f"reward model {rows - tally.asked} of {rows}")
    return f"calls saved by the gates: {', '.join(said)}"


def _listed(title: str, listing: Listing) -> list[Table | Text]:
    if not listing.count:
        return []
    table = Table(title=_titled(title, len(listing.rows), listing.count), title_justify="left")
    for column in ("line", "id", "label", "outcome", "gold", "answer", "reason"):
        table.add_column(column, justify="right" if column == "line" else "left")
    for row in listing.rows:
        outcome = Text(row["outcome"], style=STYLES[row["outcome"]])
        cells = [printable("–" if row[name] is None else row[name], 32) for name in ("id", "label")]
        more = [printable("–" if row[name] is None else row[name], 40) for name in ("gold", "answer", "reason")]
        table.add_row(str(row["line"]), *cells, outcome, *more)
    return [table]


def _scores_listed(title: str, rows: Sequence[Row], count: int) -> list[Table | Text]:
    if not rows:
        return []
    shown = rows[:10]
    table = Table(title=_titled(title, len(shown), count) if count else title, title_justify="left")
    for column in ("line", "id", "score", "gate", "C", "M", "gold", "answer", "why"):
        table.add_column(column, justify="right" if column in ("line", "score", "C", "M") else "left")
    for row in shown:
        verdict = row["verdict"] or {}
        why = row["unscored_cause"] or ", ".join(row["format_failures"] or ()) or verdict.get("reason") or ""
        total = "" if row["rubric"] is None else f"{sum(row['rubric'].values())}/12"
        table.add_row(
            str(row["line"]), printable(row["id"] or "", 32), _real(row["score"]), row["gate"], total,
            _real(row["reward_model"]), printable(row["gold"], 24), printable(verdict.get("answer") or "", 24),
            printable(why, 48),
        )  # fmt: skip
    return [table]


def _titled(title: str, shown: int, count: int) -> str:
    return f"{title}: {count}" + (f" (the first {shown})" if shown < count else "")


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("reason")
    table.add_column("rows", justify="right")
    for reason, n in counts.items():
        table.add_row(printable(reason, 100), str(n))
    return table


def _share(count: int, of: int) -> str:
    return f"{count} ({100 * count / of:.1f} %)" if of else str(count)


def _real(value: float | None, places: int = 3) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _spread(values: Sequence[float]) -> str:
    found = quartiles(values)
    return "" if found is None else " | ".join(f"{value:.2f}" for value in found)
