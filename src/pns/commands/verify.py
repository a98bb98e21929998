"""`pns verify`: one answer against its gold answer, or every row of a file."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pns.commands.common import column_option, console, errors, say
from pns.errors import UserError

WRONG, UNDECIDED = 4, 5
"""Exit codes of --exit-code, apart from those of the house (1 bug, 2 bad input, 3 stopped, 130 interrupted)."""
SETTINGS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""An answer may begin with `-`: what is no option of ours is an answer."""
ENDING = "verdicts"


class Format(StrEnum):
    """Where the final answer of a text stands."""

    boxed = "boxed"
    gsm8k = "gsm8k"
    answer_tag = "answer_tag"
    think_boxed = "think_boxed"


class Kind(StrEnum):
    """What an answer is, where its text does not tell."""

    math = "math"
    text = "text"
    choice = "choice"


def verify(
    ctx: typer.Context,
    what: Annotated[
        list[str], typer.Argument(metavar="GOLD ANSWER | FILE", help="Two answers, or one file.", show_default=False)
    ],
    format: Annotated[
        Format | None, typer.Option(help="Find the final answer in the text. Default: ANSWER is one; boxed for a file.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Absolute difference up to which numbers are equal.", show_default=False)
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Unit that the gold answer leaves out.", show_default=False)] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="What the gold answer is. Default: its text tells.", show_default=False)
    ] = None,
    gold: Annotated[str | None, column_option("Gold answers. Default: answer.")] = None,
    response: Annotated[str | None, column_option("Whole texts, read by --format. Default: response.")] = None,
    answer: Annotated[str | None, column_option("Answers that are extracted already, in place of --response.")] = None,
    label: Annotated[str | None, column_option("True or false: prints where verdict and label disagree.")] = None,
    problems: Annotated[
        str | None,
        typer.Option(
            help="Gold answers stand in these problems: a file, or a set (`pns problems list`).",
            metavar="FILE|NAME",
            show_default=False,
        ),
    ] = None,
    problem_id: Annotated[str | None, column_option("Points into --problems. Default: problem_id.")] = None,
    id: Annotated[str | None, column_option("Names a row in the output. Default: id, if there is one.")] = None,
    tolerance_column: Annotated[str | None, column_option("A tolerance for each row.")] = None,
    unit_column: Annotated[str | None, column_option("A unit for each row.")] = None,
    kind_column: Annotated[str | None, column_option("math, text or choice for each row.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output, .jsonl or .parquet, or a folder. Default: FILE.verdicts.jsonl.", show_default=False),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard an unfinished output, replace a finished one.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes for algebra; changes no verdict.")] = 1,
    cpu_seconds: Annotated[float, typer.Option(min=0.1, help="CPU time for one answer's algebra.")] = 5.0,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are kept together; a stop loses fewer.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="End with 0 for correct, 4 for wrong, 5 for undecided. For a file: 4 if any row is wrong (with --label: "
            "disagrees), 5 if any is undecided. Without: 0 whenever there is a verdict.",
        ),
    ] = False,
) -> None:
    """Is ANSWER the same as GOLD? Three outcomes: correct, wrong, or undecided, with the reason.

    With a FILE (.jsonl, .csv, .tsv, .parquet): every row of it. Ctrl-C stops, the same command goes on.

    Examples:

      pns verify 1/2 0.5

      pns verify -5 "x = -5"

      pns verify "3.7" "3.75" --tolerance 0.1

      pns verify 42 "So we get \\boxed{42}." --format boxed --json

      pns verify samples.jsonl --label final_answer_correct

      pns verify answers.jsonl --answer final_answer --problems gsm8k
    """
    if what == ["-h"]:
        typer.echo(ctx.get_help())
        return
    columns = {
        "gold": gold, "response": response, "answer": answer, "label": label, "problem_id": problem_id, "id": id,
        "tolerance": tolerance_column, "unit": unit_column, "kind": kind_column,
    }  # fmt: skip
    with errors():
        from pns.items import Defaults

        _no_stray_options(ctx, what)
        if tolerance is not None and not math.isfinite(tolerance):
            raise UserError(f"{tolerance} is no tolerance", field="--tolerance", remedy="write a number of 0 or more")
        defaults = Defaults(tolerance, unit, cast("Any", kind and kind.value))
        path = _file(what)
        if path is None:
            _no_file_options(ctx)
            code = _pair(what[0], what[1], format and format.value, defaults, cpu_seconds, as_json)
        else:
            code = _rows(
                path, columns, problems, defaults, format=(format or Format.boxed).value, out=out, fresh=fresh,
                workers=workers, cpu_seconds=cpu_seconds, batch=batch, as_json=as_json,
            )  # fmt: skip
    if exit_code and code:
        raise typer.Exit(code)


_OF_PAIRS = ("what", "format", "tolerance", "unit", "kind", "cpu_seconds", "as_json", "exit_code")


def _no_file_options(ctx: typer.Context) -> None:
    """Options that say something about a file alone are errors beside two answers: they would do nothing."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in _OF_PAIRS and source is not None and source.name == "COMMANDLINE":
            raise UserError("is for a file", field=parameter.opts[0], remedy="pns verify FILE, or leave it out")


def _no_stray_options(ctx: typer.Context, what: list[str]) -> None:
    """`--tolerence 1` is a misspelt option, `-5` and `--5` are answers."""
    import difflib

    known = [name for parameter in ctx.command.params for name in parameter.opts if name.startswith("--")]
    for text in what:
        if text.startswith("--") and text[2:3].isalpha() and " " not in text:
            near = difflib.get_close_matches(text.partition("=")[0], known, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else "`pns verify --help` lists them"
            raise UserError("no such option", field=text, remedy=remedy)


def _file(what: list[str]) -> Path | None:
    """The file that is meant, or None for a gold answer and an answer."""
    from pns.rows import KINDS

    first = Path(what[0])
    is_table = first.suffix.casefold() in KINDS
    if len(what) == 1:
        if not is_table and not first.is_file():
            raise UserError(
                "an answer to compare it with is missing, or this is no file", field=what[0][:80],
                remedy="pns verify GOLD ANSWER, or pns verify FILE",
            )  # fmt: skip
        return first
    if is_table and first.is_file():
        raise UserError("one file at a time", field=what[1][:80], remedy="pns verify FILE")
    if len(what) > 2:
        raise UserError(
            f"{len(what)} answers, and two can be compared", field=what[2][:80],
            remedy='put answers with spaces into quotation marks: pns verify "1 1/2" 1.5',
        )  # fmt: skip
    return None


def _pair(gold: str, answer: str, format: str | None, defaults: Any, cpu_seconds: float, as_json: bool) -> int:
    from pns.commands.reading import describe
    from pns.items import pair_problem
    from pns.verify import Verifier, extract

    problem = pair_problem(gold, defaults)
    found = extract(answer, format) if format is not None else None
    extracted = answer if found is None else found.answer
    with Verifier(format or "boxed", cpu_seconds) as verifier:
        if found is None:
            verdict = verifier.check_problems([problem], [answer])[0]
        else:
            verdict = verifier.verify_problems([problem], [answer])[0]
    reading = {
        "gold_read": describe(gold, defaults.kind, defaults.unit),
        "answer_read": None if extracted is None else describe(extracted, defaults.kind),
    }
    if as_json:
        typer.echo(json.dumps({**verdict.model_dump(mode="json"), "gold": gold, **reading}, ensure_ascii=True))
    else:
        _show_pair(verdict, gold, extracted, reading)
    return {"correct": 0, "wrong": WRONG, "undecided": UNDECIDED}[verdict.outcome]


def _show_pair(verdict: Any, gold: str, extracted: str | None, reading: dict[str, str | None]) -> None:
    from rich.table import Table
    from rich.text import Text

    from pns.commands.tables import STYLES, printable

    by = "" if verdict.cause is None else f" (by the {verdict.cause})"
    screen = console()
    screen.print(Text.assemble((verdict.outcome, STYLES[verdict.outcome]), f": {verdict.reason}{by}"), highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
    table.add_row("gold", printable(gold), printable(reading["gold_read"], 200))
    table.add_row(
        "answer",
        printable("none found" if extracted is None else extracted),
        printable(reading["answer_read"] or "", 200),
    )
    screen.print(table, highlight=False)


def _rows(
    path: Path, columns: dict[str, str | None], source: str | None, defaults: Any, *, format: str, out: Path | None,
    fresh: bool, workers: int, cpu_seconds: float, batch: int, as_json: bool,
) -> int:  # fmt: skip
    from pns import __version__
    from pns.commands.files import Table, id_column, joined, problems_by_id, run
    from pns.commands.tables import verdict_tables
    from pns.items import Columns
    from pns.journal import Journal, output_path
    from pns.scoring import VERSION, verdict_schema, verifying
    from pns.tally import VerdictTally
    from pns.verify import Verifier
    from pns.verify.version import VERIFIER

    if columns["answer"] and columns["response"]:
        raise UserError("--answer and --response exclude each other", field="--answer", remedy="name one of them")
    target = output_path(path, out, ENDING) if path.exists() else Path()
    pointer = joined(source, columns["problem_id"])
    if pointer and columns["gold"]:
        raise UserError("the gold answers are those of --problems", field="--gold", remedy="leave one of them out")
    meant = columns | {
        "problem_id": pointer,
        "gold": None if pointer else columns["gold"] or "answer",
        "response": None if columns["answer"] else columns["response"] or "response",
        "id": id_column(path, columns["id"]),
    }
    table = Table(path, Columns(**meant), problems_by_id(source), defaults)
    marks = {
        "pns": f"{__version__}, rows {VERSION}, verifier {VERIFIER}",
        **table.marks(),
        "format": format,
        "cpu_seconds": cpu_seconds,
    }
    tally = VerdictTally()

    @contextlib.contextmanager
    def work() -> Iterator[Any]:
        with Verifier(format, cpu_seconds, workers) as verifier:
            yield verifying(verifier, extracted=columns["answer"] is not None)

    with Journal(target, marks, batch=batch, fresh=fresh) as journal:
        run(table, journal, work, schema=verdict_schema, see=tally.see, what="verifying")
    if as_json:
        typer.echo(json.dumps(_summary(tally, target), ensure_ascii=True))
    else:
        screen = console()
        for part in verdict_tables(tally):
            screen.print(part, highlight=False)
        say(f"output: {target}")
    wrong = tally.disagree.count if columns["label"] else tally.total("wrong")
    return WRONG if wrong else UNDECIDED if tally.total("undecided") else 0


def _summary(tally: Any, target: Path) -> dict[str, Any]:
    names = {True: "correct", False: "wrong", None: "none"}
    return {
        "rows": tally.total(),
        **{outcome: tally.total(outcome) for outcome in ("correct", "wrong", "undecided")},
        "by_label": {names[label]: dict(counts) for label, counts in tally.outcomes.items()},
        "disagree": tally.disagree.count,
        "labelled_undecided": tally.open.count,
        "output": str(target),
    }
