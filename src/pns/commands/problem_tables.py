"""What `pns problems` prints. Text of files reaches the terminal as printable `Text` alone."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pns.commands.tables import printable, shares
from pns.problems.contamination import Overlap, Repeat, Rule
from pns.problems.registry import SETS, Loaded, ProblemSet, local_file, sha256_of
from pns.records import Problem

_MOST = 8
_ALL = 1 << 20


def where(entry: ProblemSet) -> str:
    """Where a set would be read from."""
    path = local_file(entry)
    if path is None:
        return "hub"
    return "local" if sha256_of(path) == entry.sha256 else "local, other content"


def sets_table() -> Table:
    """All sets of the registry."""
    table = Table(title="problem sets", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("name", "problems", "role", "from", "answers", "hub"):
        table.add_column(
            name,
            justify="right" if name == "problems" else "left",
            overflow="fold",
            no_wrap=name in ("name", "problems"),
        )
    for entry in SETS.values():
        source = where(entry)
        rows = entry.hub.rows if source == "hub" else entry.rows
        kinds = ", ".join(sorted(entry.kinds, key=("math", "text", "choice").index))
        pinned = f"{entry.hub.id}@{entry.hub.revision[:7]}"
        table.add_row(entry.name, str(rows), entry.role, source, kinds, pinned)
    return table


def about(entry: ProblemSet) -> Table:
    """A set's line of the registry in full, with what is known to be wrong with it."""
    table = Table.grid(padding=(0, 2))
    where_hub = entry.hub.id + (f", config {entry.hub.config}" if entry.hub.config else "")
    lines = [
        ("set", f"{entry.name}: {entry.title} ({entry.role})"),
        ("file", f"{entry.file} in the data folder, {entry.rows} problems"),
        ("sha256", entry.sha256),
        ("hub", f"{where_hub}, split {entry.hub.split}, {entry.hub.rows} problems"),
        ("commit", entry.hub.revision),
        *([("", entry.hub.note)] if entry.hub.note else []),
        ("licence", f"{entry.licence} (as stated)"),
        *(("note" if i == 0 else "", note) for i, note in enumerate(entry.notes)),
    ]
    for name, value in lines:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def summary(loaded: Loaded, repeats: Sequence[Repeat]) -> Iterator[RenderableType]:
    """How many problems there are, and of what sort."""
    problems = loaded.problems
    yield Text.assemble(f"{len(problems)} problems from ", printable(loaded.origin, 200))
    for note in loaded.notes:
        yield Text.assemble("note: ", printable(note, _ALL))
    table = Table.grid(padding=(0, 2))
    for name in ("kind", "tolerance", "unit", "subject", "level"):
        counts = Counter(getattr(p, name) for p in problems)
        table.add_row(Text(name, style="bold"), _counts(counts))
    table.add_row(Text("solution", style="bold"), Text(f"{sum(p.solution is not None for p in problems)} have one"))
    if repeats:
        more = sum(len(group.ids) - 1 for group in repeats)
        table.add_row(Text("repeats", style="bold"), Text(f"{more} problems repeat the text of an earlier one"))
    yield table
    for group in repeats:
        if group.conflict:
            pairs = zip(group.ids, group.answers, strict=True)
            said = ", ".join(f"{name} says {answer}" for name, answer in pairs)
            yield Text.assemble(("conflict: ", "bold red"), printable(said, 400))


def _counts(counts: Counter[Any]) -> Text:
    shown = [(value, count) for value, count in counts.most_common() if value is not None]
    parts = [Text.assemble(printable(value, 40), f" ({count})") for value, count in shown[:_MOST]]
    if len(shown) > _MOST:
        parts.append(Text(f"{len(shown) - _MOST} others ({sum(count for _, count in shown[_MOST:])})"))
    if counts[None]:
        parts.append(Text(f"none ({counts[None]})", style="dim"))
    return Text(", ").join(parts)


def example(problem: Problem) -> RenderableType:
    """One problem with its answer, and its solution where it has one."""
    form = [problem.kind or "", f"± {problem.tolerance:g}" if problem.tolerance is not None else "", problem.unit or ""]
    tail = ", ".join(part for part in form if part)
    parts: list[RenderableType] = [Text.assemble(printable(problem.id, 200), style="bold cyan")]
    parts += _lines(problem.problem)
    parts.append(Text.assemble(("answer: ", "bold"), printable(problem.answer, 2000), f"  ({tail})" if tail else ""))
    if problem.solution:
        parts += [Text("solution:", style="bold"), *_lines(problem.solution)]
    if problem.meta:
        parts.append(Text.assemble(("meta: ", "bold"), printable(problem.meta, 2000)))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _lines(text: str) -> list[RenderableType]:
    return [Padding(printable(line, _ALL), (0, 0, 0, 2)) for line in text.splitlines() if line.strip()]


@dataclass
class _Benchmark:
    rules: Counter[str] = field(default_factory=Counter)
    problems: set[str] = field(default_factory=set)
    train: set[str] = field(default_factory=set)
    same: set[str] = field(default_factory=set)


class OverlapTally:
    """Counts overlaps while they are found, and keeps the closest pairs of each benchmark.

    Args:
        sizes: problems of each benchmark, filled in while they are read.
        keep: pairs to keep of each benchmark.
    """

    def __init__(self, sizes: dict[str, int], keep: int) -> None:
        self.sizes, self.keep = sizes, keep
        self.counts = {name: _Benchmark() for name in sizes}
        self.closest: dict[str, list[tuple[float, bool, int, Overlap]]] = {name: [] for name in sizes}
        self.pairs = 0

    def add(self, pair: Overlap) -> None:
        """One more pair."""
        count = self.counts[pair.benchmark]
        count.rules[pair.rule] += 1
        count.problems.add(pair.problem.id)
        count.train.add(pair.train.id)
        if pair.same_answer:
            count.same.add(pair.problem.id)
        self.pairs += 1
        # The earlier of two alike wins: the running number is larger for it.
        place = (pair.share, pair.rule == "text", -self.pairs, pair)
        heap = self.closest[pair.benchmark]
        if len(heap) < self.keep:
            heapq.heappush(heap, place)
        elif heap and place[:3] > heap[0][:3]:
            heapq.heapreplace(heap, place)

    def tables(self, train: str, rule: Rule) -> Iterator[RenderableType]:
        """Counts by benchmark, and the closest pairs."""
        columns = ("benchmark", "problems", "overlap", "share", "same answer", "in train", "texts", "n-grams")
        table = shares(f"overlap with {printable(train)}", columns)
        for name, count in self.counts.items():
            hit, size = len(count.problems), self.sizes[name]
            share = f"{100 * hit / size:.1f} %" if size else "–"
            table.add_row(printable(name), str(size), str(hit), share, str(len(count.same)), str(len(count.train)),
                          str(count.rules["text"]), str(count.rules["ngram"]))  # fmt: skip
        yield table
        numbers = ", numbers masked" if rule.mask_numbers else ""
        yield Text(
            f"texts, n-grams: pairs by rule. n-grams: at least {100 * rule.share:g} % of a benchmark problem's words lie "
            f"in runs of {rule.n} words that one training problem has, too{numbers}; shorter problems by the same text "
            "alone.",
            style="dim",
        )
        for heap in self.closest.values():
            for _, _, _, pair in sorted(heap, key=lambda place: place[:3], reverse=True):
                yield _pair(pair)


def _pair(pair: Overlap) -> RenderableType:
    said = "the same text" if pair.rule == "text" else f"{100 * pair.share:.0f} % of its words"
    answers = {True: "same answer", False: "other answer", None: "answers not compared"}[pair.same_answer]
    head = Text.assemble(
        printable(f"{pair.benchmark}: {pair.problem.id} ~ {pair.train.id}", 160), f"  {said}, {answers}", style="bold"
    )
    texts: Iterable[str] = (pair.problem.problem, pair.train.problem)
    return Padding(Group(head, *(Padding(printable(text, 220), (0, 0, 0, 2)) for text in texts)), (1, 0, 0, 0))
