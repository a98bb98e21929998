"""Problems from JSONL files, and reference solutions as training targets."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.records import Problem, parse_row

_KEYS = tuple(Problem.model_fields)
_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_GSM8K_ANSWER_LINE = re.compile(r"\n?####[^\n]*\s*$")


def load_problems(path: str | Path, *, limit: int | None = None) -> list[Problem]:
    """Read problems from a JSONL file (UTF-8, blank lines skipped), in file order.

    Keys of a row: `id`, `problem`, `answer` (required, none of them blank), `solution`, `subject`, `level`, `meta`.
    An `answer` that is a JSON number becomes its shortest text (72.0 -> "72").

    Args:
        path: the file.
        limit: read the first `limit` problems only, 1 or more; what follows them is not checked.

    Raises:
        UserError: missing or unreadable file, no rows, broken JSON, unknown key, blank or missing field, repeated id.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    path = Path(path)
    problems: list[Problem] = []
    line_of: dict[str, int] = {}
    for line, text in _lines(path):
        problem = _problem(text, path, line)
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # utf-8-sig: spreadsheets and editors put a byte-order mark before the first brace.
        with path.open(encoding="utf-8-sig") as stream:
            for number, text in enumerate(stream, 1):
                if text.strip():
                    yield number, text
    except FileNotFoundError:
        raise UserError("no such file", file=path, remedy="check the path") from None
    except IsADirectoryError:
        raise UserError("this is a directory", file=path, remedy="name a JSONL file inside it") from None
    except PermissionError:
        raise UserError("this file cannot be read", file=path, remedy="check its permissions") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error.reason})", file=path, remedy="save it as UTF-8") from None


def _problem(text: str, path: Path, line: int) -> Problem:
    try:
        row = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", file=path, line=line, remedy="mend or remove this line") from None
    if not isinstance(row, dict):
        raise UserError("not a JSON object", file=path, line=line, remedy="write {...} with id, problem and answer")
    _check_keys(row, path, line)
    row["answer"] = _answer_text(row["answer"])
    for field in ("id", "problem", "answer"):
        if isinstance(row[field], str) and not row[field].strip():
            raise UserError(
                "this field is empty", file=path, line=line, field=field, remedy="fill it, or remove the row"
            )
    return parse_row(Problem, json.dumps(row), file=path, line=line)


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
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return answer
    # Infinity is what the JSON reader makes of a number like 1e999; it stays a number here and is refused as no text.
    if isinstance(answer, float) and math.isfinite(answer) and answer.is_integer() and abs(answer) < 2**53:
        return str(int(answer))
    return str(answer) if math.isfinite(answer) else answer


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
