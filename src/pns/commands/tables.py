"""What commands print: bars, lists, the tables of `pns verify`. Text of files and models reaches the terminal as printable `Text` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from pns.display import QUIET_SECONDS, clock, pace
from pns.tally import Listing, Row, VerdictTally

STYLES = {"correct": "bold green", "wrong": "bold red", "undecided": "bold yellow"}
_WIDE = 60


class Step(Protocol):
    """Told (done, total), and of which part where work has several; total 0 is unknown. Each part has a pace of its own."""

    def __call__(self, done: int, total: int, part: str | None = None) -> None: ...


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
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(), _Pace())
    with Progress(*columns, console=screen, transient=True, refresh_per_second=4) as bars:
        task = bars.add_task(what, total=None, begun=0)
        first, label = True, what

        def step(done: int, total: int, part: str | None = None) -> None:
            nonlocal first, label
            if part is not None and part != label:
                first, label = True, part
                bars.reset(task, description=_named(part), begun=0)
            if first and done < total:
                # What an earlier run has done says nothing about the pace of this one.
                bars.update(task, begun=done)
            first = False
            bars.update(task, completed=done, total=total or None)

        yield step


def _named(part: str) -> str:
    """A part in a line of 80 columns with its bar: the names of methods in it may be anybody's."""
    return str(printable(part, 44))


class _Lines:
    """Plain lines now and then, for a pipe or a file."""

    def __init__(self, screen: Console, what: str) -> None:
        import time

        self.screen, self.what, self.now = screen, what, time.monotonic
        self.begun = self.said = self.now()
        self.first: int | None = None

    def __call__(self, done: int, total: int, part: str | None = None) -> None:
        moment = self.now()
        if part is not None and _named(part) != self.what:
            self.what, self.first, self.begun = _named(part), None, moment
        self.first = done if self.first is None else self.first
        if moment - self.said >= QUIET_SECONDS and total:
            self.said = moment
            speed = pace(done - self.first, total - self.first, moment - self.begun)
            said = ", ".join(filter(None, (f"{done}/{total}", speed)))
            self.screen.print(Text(f"{self.what}: {said} ({clock(moment - self.begun)})"), highlight=False)


def printable(value: Any, width: int = _WIDE) -> Text:
    """A value as one line that cannot steer the terminal: control and direction signs replaced, cut at `width`."""
    line = "".join(c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Text(line if len(line) <= width else f"{line[: width - 1]}…")


def verdict_tables(tally: VerdictTally) -> list[Table | Text]:
    """Outcomes (by label where there is one), reasons of the undecided, and where verdict and label disagree."""
    labels = [label for label in (True, False, None) if label in tally.outcomes]
    labelled = labels != [None]
    names = {True: "label correct", False: "label wrong", None: "no label"}
    by_label = [names[label] for label in labels if labelled]
    table = shares("verdicts by label" if labelled else "verdicts", ["outcome", "all", *by_label])
    for outcome in ("correct", "wrong", "undecided"):
        cells = [share(tally.outcomes[label][outcome], tally.outcomes[label].total()) for label in labels]
        table.add_row(
            Text(outcome, style=STYLES[outcome]),
            share(tally.total(outcome), tally.total()),
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


def _listed(title: str, listing: Listing) -> list[Table | Text]:
    if not listing.count:
        return []
    out: list[Table | Text] = [Text(titled(title, len(listing.rows), listing.count), style="italic")]
    for row in listing.rows:
        label = {True: "correct", False: "wrong", None: "none"}[row["label"]]
        out.append(entry(row, [(row["outcome"], STYLES[row["outcome"]]), f"label {label}"]))
        out.append(compared(row["gold"], row["answer"], row["reason"]))
    return out


def entry(row: Row, said: Sequence[str | tuple[str, str]]) -> Text:
    """The head line of one row in a list: where it stands in the file, and what there is to say."""
    name = "" if row["id"] is None else f"  {printable(row['id'], 40)}"
    line = Text(f"line {row['line']}{name}")
    for part in said:
        line.append("  ").append(*([part] if isinstance(part, str) else part))
    return line


def compared(gold: Any, answer: Any, why: str) -> Text:
    """Its second line: the gold answer, the answer if there is one, and the reason."""
    shown = "" if answer is None else f", answer {printable(answer, 40)}"
    return Text(f"    gold {printable(gold, 40)}{shown}: {printable(why, 160)}")


def shares(title: str, columns: Sequence[str]) -> Table:
    """A table that fits a terminal of 80 columns: words on the left, figures on the right. Title and heads are no markup."""
    table = Table(title=Text(title, "table.title"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if i else "left")
    return table


def titled(title: str, shown: int, count: int) -> str:
    """The head of a list."""
    return f"{title}: {count}" + (f" (the first {shown})" if shown < count else "")


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = shares(title, ["reason", "rows"])
    for reason, n in counts.items():
        table.add_row(printable(reason, 100), str(n))
    return table


def share(count: int, of: int) -> str:
    """A count with its share."""
    return f"{count} ({100 * count / of:.1f} %)" if of else str(count)


def real(value: float | None, places: int = 3) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{places}f}"
