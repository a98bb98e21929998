"""From rows of a file to what is verified or scored: which column is what, and problems that stand in another file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from pns.errors import UserError
from pns.faults import said
from pns.records import AnswerKind, Problem
from pns.rows import Row, column_names, filled, flag, missing_column, number, one_of, read_rows, text
from pns.run import fingerprint

Finish = Literal["stop", "length"]
NO_TEXT = "(no problem text)"
"""Stands for the problem where only its gold answer is needed."""


@dataclass(frozen=True)
class Columns:
    """Names of columns; None: the file has none of that kind. `problem_id` points into problems of another file.

    `answer` is an answer that was extracted already, `response` a whole text; one of the two is needed.
    """

    gold: str | None = None
    problem: str | None = None
    problem_id: str | None = None
    response: str | None = None
    answer: str | None = None
    id: str | None = None
    label: str | None = None
    finish: str | None = None
    tolerance: str | None = None
    unit: str | None = None
    kind: str | None = None
    reward: str | None = None

    def named(self) -> dict[str, str]:
        """Those that are there: what each is -> its column."""
        return {part.name: name for part in fields(self) if (name := getattr(self, part.name)) is not None}


@dataclass(frozen=True)
class Defaults:
    """How answers compare where neither a column nor the problem says it."""

    tolerance: float | None = None
    unit: str | None = None
    kind: AnswerKind | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One response with its problem (whose id is a fingerprint of its text, or the line, where the file says none).

    `label`: whether the source calls it correct; `raw`: a reward model's score of it."""

    line: int
    id: str | None
    problem: Problem
    text: str
    answer: str | None
    finish: Finish
    label: bool | None
    raw: float | None


@dataclass
class Survey:
    """What a whole file holds: rows, rows by label, and the raw scores of those labelled correct."""

    rows: int = 0
    labels: dict[bool | None, int] = field(default_factory=dict)
    raw_correct: list[float] = field(default_factory=list)


def check_columns(path: Path, columns: Columns, options: Mapping[str, str]) -> None:
    """Whether the file has them. Raises UserError naming the option (`options`: what it is -> option)."""
    there = column_names(path)
    for what, name in columns.named().items():
        if name not in there:
            raise missing_column(name, there, path, option=options.get(what))


def items(
    path: Path, columns: Columns, problems: Mapping[str, Problem] | None = None, defaults: Defaults | None = None
) -> Iterator[Item]:
    """The rows of a file as items, in order, in bounded memory.

    Args:
        problems: by id, for `columns.problem_id`; else problem and gold answer are columns of the file.
        defaults: fill what columns and problems leave open.
    Raises UserError with file, line and column: as `read_rows`; a missing gold answer, an id without a problem, a cell
    of the wrong type, a null response.
    """
    defaults = defaults or Defaults()
    for row in read_rows(path, list(dict.fromkeys(columns.named().values()))):
        yield _item(row, columns, problems, defaults)


def survey(found: Iterator[Item]) -> Survey:
    """Go through all items once, which also finds whatever is wrong with any of them."""
    about = Survey()
    for item in found:
        about.rows += 1
        about.labels[item.label] = about.labels.get(item.label, 0) + 1
        if item.label and item.raw is not None and item.raw == item.raw:
            about.raw_correct.append(item.raw)
    return about


def _item(row: Row, columns: Columns, problems: Mapping[str, Problem] | None, defaults: Defaults) -> Item:
    whole = "" if columns.response is None else text(row, columns.response)
    if whole is None:
        raise row.error("missing", columns.response or "", 'remove the row, or write "" for an empty response')
    return Item(
        line=row.line,
        id=None if columns.id is None else text(row, columns.id),
        problem=_problem(row, columns, problems, defaults),
        text=whole,
        answer=None if columns.answer is None else text(row, columns.answer, ", "),
        finish=_finish(row, columns.finish),
        label=None if columns.label is None else flag(row, columns.label),
        raw=None if columns.reward is None else number(row, columns.reward),
    )


def _problem(row: Row, columns: Columns, problems: Mapping[str, Problem] | None, defaults: Defaults) -> Problem:
    if columns.problem_id is not None and problems is not None:
        key = filled(row, columns.problem_id)
        if key not in problems:
            raise row.error(f"no problem has the id {key[:80]!r}", columns.problem_id, "is it the right --problems?")
        base = problems[key]
        tolerance, unit, kind = base.tolerance, base.unit, base.kind
    else:
        words = NO_TEXT if columns.problem is None else filled(row, columns.problem)
        base = Problem(
            id=str(row.line) if columns.problem is None else fingerprint(problem=words)[:12],
            problem=words,
            answer=filled(row, columns.gold or "", ", "),
        )
        tolerance = unit = kind = None
    if columns.tolerance is not None:
        tolerance = _tolerance(row, columns.tolerance)
    if columns.unit is not None:
        unit = text(row, columns.unit) or None
    if columns.kind is not None:
        kind = one_of(row, columns.kind, get_args(AnswerKind))  # type: ignore[assignment]
    update = {
        "tolerance": defaults.tolerance if tolerance is None else tolerance,
        "unit": unit or defaults.unit,
        "kind": kind or defaults.kind,
    }
    same = all(getattr(base, name) == value for name, value in update.items())
    return base if same else base.model_copy(update=update)


def _tolerance(row: Row, column: str) -> float | None:
    found = number(row, column)
    if found is not None and not 0 <= found < float("inf"):
        raise row.error(f"{found} is no tolerance", column, "write a number of 0 or more, or null")
    return found


def _finish(row: Row, column: str | None) -> Finish:
    found = None if column is None else one_of(row, column, get_args(Finish))
    return "length" if found == "length" else "stop"


def pair_problem(gold: str, defaults: Defaults) -> Problem:
    """A gold answer typed by a person as a problem. Raises UserError where it is blank or the tolerance is no number."""
    try:
        return Problem(
            id="gold",
            problem=NO_TEXT,
            answer=gold,
            tolerance=defaults.tolerance,
            unit=defaults.unit,
            kind=defaults.kind,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name == "answer":
            raise UserError(
                "it is empty", field="GOLD", remedy="pns verify GOLD ANSWER: the gold answer first"
            ) from None
        raise UserError(said(first), field=f"--{name}", remedy="see `pns verify --help`") from None
