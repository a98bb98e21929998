"""`pns problems`: the problem sets that go by a name, and problems of files; what they hold, and what they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pns.commands.common import STARTS_ANEW, check_output, console, errors, say
from pns.errors import UserError
from pns.run import replacing

if TYPE_CHECKING:
    from pns.problems.contamination import Item, Overlap
    from pns.problems.files import Columns
    from pns.problems.registry import Loaded

FOUND = 4
"""Exit code of `overlap --fail` where something overlaps."""
_BYTES_A_PROBLEM = 600

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Problem sets by name, or problems of your own files: list, show, export, and what two sets share.\n\n"
    "A set is read from the folder PNS_DATA (or ../shared/data) where its file is there, else from the Hugging Face hub "
    "at a pinned commit (tested on files in the hub's layout, not against the hub).\n\n"
    "Examples:\n\n"
    "  pns problems list\n\n"
    "  pns problems show olympiadbench --id olympiadbench-2592\n\n"
    "  pns problems export gsm8k-train train.parquet\n\n"
    "  pns problems overlap math-train olympiadbench math500",
)


class From(StrEnum):
    """Where a set is read from."""

    auto = "auto"
    local = "local"
    hub = "hub"


Source = Annotated[
    str, typer.Argument(help="A set (`pns problems list`), or a JSONL, CSV or Parquet file.", metavar="NAME | FILE",
                        show_default=False)
]  # fmt: skip
Origin = Annotated[
    From, typer.Option("--from", help="Read sets from the data folder, the hub, or where they are found first.")
]
Revision = Annotated[
    str | None, typer.Option(help="Commit or branch on the hub, in place of the pinned one.", show_default=False)
]


def _column(field: str) -> Any:
    return typer.Option(help=f"Column of a file that holds the {field}.", metavar="COLUMN", show_default=False)


IdColumn = Annotated[str | None, _column("id")]
ProblemColumn = Annotated[str | None, _column("problem text")]
AnswerColumn = Annotated[str | None, _column("gold answer")]
SolutionColumn = Annotated[str | None, _column("reference solution")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


@app.command("list")
def list_sets() -> None:
    """All sets: how many problems, benchmark or training, and where they would be read from. `show` states the licence.

    Example:

      pns problems list
    """
    with errors(STARTS_ANEW):
        from pns.commands.problem_tables import sets_table

        console().print(sets_table())


@app.command()
def show(
    source: Source,
    n: Annotated[int, typer.Option("--n", min=0, help="How many examples.")] = 3,
    id: Annotated[str | None, typer.Option("--id", help="Show this problem.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Which examples are drawn.")] = 0,
    id_column: IdColumn = None,
    problem_column: ProblemColumn = None,
    answer_column: AnswerColumn = None,
    solution_column: SolutionColumn = None,
    origin: Origin = From.auto,
    revision: Revision = None,
) -> None:
    """What a set holds: source, known faults, kinds of answers, tolerances, units, repeated problems, and examples.

    Examples:

      pns problems show mawps

      pns problems show olympiadbench --id olympiadbench-2045

      pns problems show mine.csv --problem-column question --answer-column gold
    """
    with errors(STARTS_ANEW):
        import random

        from pns.commands.problem_tables import about, example, summary
        from pns.problems.contamination import repeats
        from pns.problems.registry import find

        columns = _columns(id_column, problem_column, answer_column, solution_column)
        entry = find(source)
        loaded = _load(source, columns, origin, revision)
        if id is not None:
            chosen = [p for p in loaded.problems if p.id == id]
            if not chosen:
                raise UserError(f"no problem has the id {id!r}", file=source, remedy=_near(id, loaded))
        else:
            chosen = random.Random(seed).sample(loaded.problems, min(n, len(loaded.problems)))
        screen = console()
        if entry is not None:
            screen.print(about(entry))
        for part in (*summary(loaded, repeats(loaded.problems)), *map(example, chosen)):
            screen.print(part, highlight=False)


@app.command()
def export(
    source: Source,
    file: Annotated[Path, typer.Argument(help="Output, .jsonl or .parquet.", metavar="OUT", show_default=False)],
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Keep the first of problems with the same text.")
    ] = False,
    id_column: IdColumn = None,
    problem_column: ProblemColumn = None,
    answer_column: AnswerColumn = None,
    solution_column: SolutionColumn = None,
    origin: Origin = From.auto,
    revision: Revision = None,
    force: Force = False,
) -> None:
    """Write a set as problems in our own format, which every command and recipe reads. A kill leaves no half file.

    Examples:

      pns problems export mawps mawps.jsonl --distinct

      pns problems export mine.csv mine.parquet --answer-column gold
    """
    with errors(STARTS_ANEW):
        from pns.records import to_jsonl, write_parquet

        check_output(file, (".jsonl", ".parquet"), force)
        loaded = _load(source, _columns(id_column, problem_column, answer_column, solution_column), origin, revision)
        problems = loaded.problems
        if distinct:
            from pns.problems.contamination import distinct as first_of_each

            problems = first_of_each(problems)
        with replacing(file) as part:
            if file.suffix == ".parquet":
                write_parquet(part, problems)
            else:
                part.write_text(to_jsonl(problems), encoding="utf-8")
        for note in loaded.notes:
            say(f"note: {note}", err=True)
        say(f"{len(problems)} problems from {loaded.origin} -> {file}")


@app.command()
def overlap(
    train: Annotated[
        str, typer.Argument(help="Training problems: a set or a file.", metavar="TRAIN", show_default=False)
    ],
    benchmarks: Annotated[
        list[str] | None,
        typer.Argument(
            help="Benchmarks: sets or files. Default: the seven.", metavar="[BENCHMARK ...]", show_default=False
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Words in an n-gram.")] = 13,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Least share of a benchmark problem's words.")] = 0.5,
    mask_numbers: Annotated[
        bool, typer.Option("--mask-numbers", help="Take all numbers for the same: finds those only given others.")
    ] = False,
    pairs: Annotated[int, typer.Option(min=0, help="Closest pairs that are printed, of each benchmark.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write all pairs here, .jsonl.", show_default=False)] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 4 where something overlaps.")] = False,
    id_column: IdColumn = None,
    problem_column: ProblemColumn = None,
    answer_column: AnswerColumn = None,
    origin: Origin = From.auto,
    force: Force = False,
) -> None:
    """Which problems of benchmarks stand in a training set: the same text, or long runs of the same words.

    The same text: equal but for case, white space, punctuation and LaTeX that changes only the looks. N-grams: at least
    --share of a benchmark problem's words lie in runs of --n words that one training problem has, too; problems of fewer
    words are compared by their text alone. The smaller side is held in memory, the other is read once. Files need only a
    column with the problem; --...-column options hold for all files.

    Examples:

      pns problems overlap math-train olympiadbench

      pns problems overlap mine.jsonl --problem-column prompt --fail

      pns problems overlap gsm8k-train gsm8k --mask-numbers --n 10
    """
    with errors(STARTS_ANEW):
        from pns.commands.problem_tables import OverlapTally
        from pns.commands.tables import progress
        from pns.problems.contamination import Rule, overlaps
        from pns.problems.registry import BENCHMARKS

        if out is not None:
            check_output(out, (".jsonl",), force)
        columns = _columns(id_column, problem_column, answer_column, None)
        names = list(dict.fromkeys(benchmarks or BENCHMARKS))
        rule = Rule(n, share, mask_numbers)
        sizes = dict.fromkeys(names, 0)
        held: Any = "train" if _size(train) < sum(map(_size, names)) else "benchmarks"
        tally, screen = OverlapTally(sizes, pairs), console()
        about = _size(train) + sum(map(_size, names))
        with progress(screen, "comparing") as step:
            tick = _ticking(step, about)
            readers = {name: _counted(_ticked(_statements(name, columns, origin), tick), name, sizes) for name in names}
            found = overlaps(_ticked(_statements(train, columns, origin), tick), readers, rule, hold=held)
            if out is None:
                for pair in found:
                    tally.add(pair)
            else:
                with replacing(out) as unfinished:
                    _write_pairs(unfinished, found, tally)
        for part in tally.tables(train, rule):
            screen.print(part, highlight=False)
        if out is not None:
            say(f"{tally.pairs} pairs -> {out}")
    if fail and tally.pairs:
        raise typer.Exit(FOUND)


def _columns(id: str | None, problem: str | None, answer: str | None, solution: str | None) -> Columns:
    from pns.problems.files import Columns

    return Columns(id, problem, answer, solution)


def _load(source: str, columns: Columns, origin: From, revision: str | None) -> Loaded:
    from pns.problems.registry import find, load

    if find(source) is not None and columns.named():
        raise UserError("column options are for files", field=source, remedy="leave them out for a set")
    return load(source, columns=columns, origin=origin.value, revision=revision)


def _near(id: str, loaded: Loaded) -> str:
    import difflib

    near = difflib.get_close_matches(id, [p.id for p in loaded.problems], n=3, cutoff=0.6)
    return f"there: {', '.join(near or [p.id for p in loaded.problems[:3]])}"


def _statements(source: str, columns: Columns, origin: From) -> Iterator[Item]:
    """Problems of a set, or of a file one at a time. Nothing is read before the first is asked for."""
    from pns.problems.files import read_statements
    from pns.problems.registry import existing, find, load

    if find(source) is None:
        yield from read_statements(existing(source), columns)
    else:
        loaded = load(source, origin=origin.value)
        for note in loaded.notes:
            say(f"note: {note}", err=True)
        yield from loaded.problems


def _counted(items: Iterable[Item], name: str, sizes: dict[str, int]) -> Iterator[Item]:
    for item in items:
        sizes[name] += 1
        yield item


def _ticking(step: Any, about: int) -> Callable[[], None]:
    """Called once a problem; the bar moves every 64. `about`: how many there will be, more or less."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 64 == 0:
            step(done, max(done, about))

    return tick


def _ticked(items: Iterable[Item], tick: Callable[[], None]) -> Iterator[Item]:
    for item in items:
        tick()
        yield item


def _size(source: str) -> int:
    """About how many problems there are, without reading them."""
    from pns.problems.registry import existing, find

    entry = find(source)
    if entry is not None:
        return max(entry.rows, entry.hub.rows)
    path = existing(source)
    return path.stat().st_size // _BYTES_A_PROBLEM if path.is_file() else 0


def _write_pairs(part: Path, found: Iterable[Overlap], tally: Any) -> None:
    with part.open("w", encoding="utf-8") as stream:
        for pair in found:
            tally.add(pair)
            row = {
                "benchmark": pair.benchmark,
                "problem_id": pair.problem.id,
                "train_id": pair.train.id,
                "rule": pair.rule,
                "share": round(pair.share, 4),
                "same_answer": pair.same_answer,
                "problem": pair.problem.problem,
                "train_problem": pair.train.problem,
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
