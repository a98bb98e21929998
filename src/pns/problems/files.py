"""Problems from files (JSONL, CSV, Parquet), and reference solutions as training targets."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from pns.errors import UserError
from pns.faults import said
from pns.records import AnswerKind, Problem, parse_row
from pns.rows import KINDS, Row, column_names, filled, jsonl_rows, missing_column, number, one_of, read_rows, text

_KEYS = tuple(Problem.model_fields)
_REQUIRED = ("id", "problem", "answer")
_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_GSM8K_ANSWER_LINE = re.compile(r"\n?####[^\n]*\s*$")


@dataclass(frozen=True)
class Columns:
    """Which column of a user's file is what; None: the column of that name."""

    id: str | None = None
    problem: str | None = None
    answer: str | None = None
    solution: str | None = None

    def named(self) -> dict[str, str]:
        """Those that were given: field -> column."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Statement(NamedTuple):
    """A problem text that may have no answer: all that a search for overlaps needs."""

    id: str
    problem: str
    answer: str | None


def load_problems(path: str | Path, *, limit: int | None = None, columns: Columns | None = None) -> list[Problem]:
    """Read problems from a file, in file order: JSONL (UTF-8, blank lines skipped), or by suffix CSV, TSV, Parquet.

    Keys of a row, or columns: `id`, `problem`, `answer` (required, none of them blank), and the other fields of
    `Problem`. An `answer` that is a number becomes its shortest text (72.0 -> "72"). In CSV and Parquet `meta` is JSON
    text, and digits as `level` are a number.

    Args:
        path: the file.
        limit: read the first `limit` problems only, 1 or more; what follows them is not checked.
        columns: names of columns where they are other ones. With any of them, unknown columns are passed over, and a
            file without ids gets `row-1`, ... (the line, or the row in Parquet); without, they are errors.

    Raises:
        UserError: missing or unreadable file, no rows, broken JSON or CSV, unknown key or column, blank or missing
            field, repeated id.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    path = Path(path)
    columns = columns or Columns()
    table = columns.named() or KINDS.get(path.suffix.casefold(), "jsonl") != "jsonl"
    problems: list[Problem] = []
    line_of: dict[str, int] = {}
    for line, problem in _from_table(path, columns) if table else _from_jsonl(path):
        first = line_of.setdefault(problem.id, line)
        if first != line:
            raise UserError(
                f"{problem.id!r} is already the id of line {first}",
                file=path,
                line=line,
                field="id",
                remedy="give every problem an id of its own",
            )
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise UserError("no problems in this file", file=path, remedy="write one JSON object a line")
    return problems


def read_statements(path: str | Path, columns: Columns | None = None) -> Iterator[Statement]:
    """The problem texts of a file, one at a time, in file order; ids and answers where there are such columns.

    Rows without an id are `row-1`, ...; ids may repeat. Raises UserError as `read_rows`; a blank problem text.
    """
    path = Path(path)
    given = columns or Columns()
    there = column_names(path)
    names = {field: getattr(given, field) or field for field in _REQUIRED}
    for field, column in given.named().items():
        if column not in there:
            raise missing_column(column, there, path, option=f"--{field}-column")
    if names["problem"] not in there:
        raise missing_column(names["problem"], there, path, option="--problem-column names another")
    wanted = [column for column in names.values() if column in there]
    for row in read_rows(path, wanted):
        mark = text(row, names["id"]) if names["id"] in there else None
        answer = text(row, names["answer"]) if names["answer"] in there else None
        yield Statement(mark or f"row-{row.line}", filled(row, names["problem"]), answer)


def to_boxed(problem: Problem) -> str | None:
    r"""The reference solution as a training target that ends in a final `\boxed{...}`.

    A solution that has a filled `\boxed{...}` (as in MATH) stays as it is. Any other (as in GSM8K) loses its
    calculator marks `<<48/2=24>>` and a closing `#### 24` line, its whitespace is tidied, and
    `The answer is \boxed{N}` is appended.

    Returns:
        the text; None when there is no solution, or when its last box is empty or has no braces, which would teach
        another format.
    """
    solution = (problem.solution or "").strip()
    if not solution:
        return None
    if "\\boxed" in solution:
        box = solution.rpartition("\\boxed")[2].lstrip()
        return problem.solution if re.match(r"\{\s*[^\s}]", box) else None
    text = _GSM8K_ANSWER_LINE.sub("", _CALCULATOR_MARK.sub("", solution))
    lines = (" ".join(line.split()) for line in text.splitlines())
    body = "\n".join(line for line in lines if line)
    return f"{body}\nThe answer is \\boxed{{{problem.answer.strip()}}}".lstrip("\n")


def _from_jsonl(path: Path) -> Iterator[tuple[int, Problem]]:
    for row in jsonl_rows(path):
        yield row.line, _problem(row)


def _from_table(path: Path, columns: Columns) -> Iterator[tuple[int, Problem]]:
    there = column_names(path)
    named = columns.named()
    for field, column in named.items():
        if column not in there:
            raise missing_column(column, there, path, option=f"--{field}-column")
    names = {field: named.get(field, field) for field in _KEYS if named.get(field, field) in there}
    for field in _REQUIRED:
        if field not in names and not (field == "id" and named):
            raise missing_column(field, there, path, option=f"--{field}-column names another")
    if not named:
        _check_keys(dict.fromkeys(there), path, 1)
    for row in read_rows(path, list(names.values())):
        yield row.line, _from_row(row, names)


def _from_row(row: Row, names: dict[str, str]) -> Problem:
    values: dict[str, Any] = {"id": f"row-{row.line}"}
    for field, column in names.items():
        if field in _REQUIRED:
            values[field] = filled(row, column)
        elif field == "meta":
            values[field] = _meta(row, column)
        elif field == "tolerance":
            found = number(row, column)
            values[field] = None if found is None or math.isnan(found) else found
        elif field == "kind":
            values[field] = one_of(row, column, get_args(AnswerKind))
        else:
            cell = text(row, column)
            values[field] = int(cell) if field == "level" and cell and cell.isdecimal() else cell
    try:
        return Problem.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise row.error(f"not a Problem: {said(first)}", names.get(field, field), "mend this row") from None


def _meta(row: Row, column: str) -> dict[str, Any]:
    """An object, as JSONL has it, or its JSON text."""
    found = row.values[column]
    if not isinstance(found, dict):
        cell = text(row, column)
        try:
            found = json.loads(cell, parse_constant=_refuse) if cell else {}
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise row.error("not a JSON object", column, "write {...}, or leave it empty")
    _check_json(row, found, column)
    return found


def _check_json(row: Row, value: Any, field: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise row.error("NaN, Infinity, or nested too deep: no JSON", field, "mend this row") from None


def _problem(row: Row) -> Problem:
    _check_keys(row.values, row.file, row.line)
    values = {**row.values, "answer": _answer_text(row.values["answer"])}
    for field in _REQUIRED:
        if isinstance(values[field], str) and not values[field].strip():
            raise row.error("this field is empty", field, "fill it, or remove the row")
    problem = parse_row(Problem, row, values)
    _check_json(row, problem.model_dump(), "meta")
    return problem


def _check_keys(row: dict[str, Any], path: Path, line: int) -> None:
    for key in row:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else "put it under `meta`, or remove it"
            raise UserError(
                "unknown key", file=path, line=line, field=key, remedy=f"{remedy} (known: {', '.join(_KEYS)})"
            )
    for key in ("id", "problem", "answer"):
        if key not in row:
            raise UserError("this key is required", file=path, line=line, field=key, remedy=f'add "{key}": ...')


def _answer_text(answer: Any) -> Any:
    if isinstance(answer, int) and not isinstance(answer, bool):  # it may be too large for a float
        return str(answer)
    # Infinity is what the JSON reader makes of a number like 1e999; it stays a number here and is refused as no text.
    if not isinstance(answer, float) or not math.isfinite(answer):
        return answer
    return str(int(answer)) if answer.is_integer() and abs(answer) < 2**53 else str(answer)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
