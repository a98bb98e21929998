"""Negatives of anybody's, read from a file: preference pairs, or responses alone. (Defaults for a run's files: ours.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pns.errors import UserError
from pns.records import Problem
from pns.rows import Row, column_names, message, missing_column, read_rows, text

ONE_METHOD = "negatives"


@dataclass(frozen=True, slots=True)
class Negative:
    """A rejected response. `chosen` and `gold` (the problem with its gold answer) are there where the file has them."""

    line: int
    prompt: str
    rejected: str
    method: str
    chosen: str | None = None
    gold: Problem | None = None


@dataclass(frozen=True)
class NegativeColumns:
    """Names of columns. None: the first of its usual names that is there, see `USUAL`."""

    rejected: str | None = None
    chosen: str | None = None
    prompt: str | None = None
    method: str | None = None
    gold: str | None = None
    problem_id: str | None = None


USUAL = {
    "rejected": ("rejected", "text"),  # `text`: in the responses of a run
    "chosen": ("chosen",),
    "prompt": ("prompt", "problem"),
    "method": ("method", "source"),
    "gold": ("chosen_answer",),  # in a run's pairs, verified correct
    "problem_id": ("problem_id",),
}


def read_negatives(
    path: str | Path, columns: NegativeColumns, problems: Mapping[str, Problem] | None = None
) -> list[Negative]:
    """All rows of a file, in its order. Sides are texts, or conversations as lists of {role, content}.

    Args:
        problems: by id; they give prompt and gold answer, by the column `problem_id`.

    Raises:
        UserError: as `read_rows`; a column that was named and is not there; a side that is missing or blank; a prompt
            that is nowhere; an id that no problem has.
    """
    path = Path(path)
    names = _names(path, columns, joined=problems is not None)
    wanted = list(dict.fromkeys(name for name in names.values() if name is not None))
    return [_negative(row, names, problems) for row in read_rows(path, wanted)]


def _names(path: Path, columns: NegativeColumns, *, joined: bool) -> dict[str, str | None]:
    there = column_names(path)
    names: dict[str, str | None] = {}
    for part, usual in USUAL.items():
        given = getattr(columns, part)
        if given is not None and given not in there:
            raise missing_column(given, there, path, option=f"--{part.replace('_', '-')}")
        names[part] = given or next((name for name in usual if name in there), None)
    if names["rejected"] is None:
        raise missing_column("rejected", there, path, option="--rejected")
    if joined and names["problem_id"] is None:
        raise missing_column("problem_id", there, path, option="--problem-id")
    if joined and columns.gold is not None:
        raise UserError("--problems has gold answers, too", field="--gold", remedy="leave out one of the two")
    if joined:  # the problems have both, with units and tolerances
        return {**names, "prompt": None, "gold": None}
    return {**names, "problem_id": None}


def _negative(row: Row, names: dict[str, str | None], problems: Mapping[str, Problem] | None) -> Negative:
    rejected, chosen = names["rejected"], names["chosen"]
    assert rejected is not None
    prompt, gold = _asked(row, names, problems)
    method = None if names["method"] is None else text(row, names["method"])
    return Negative(
        row.line, prompt, _side(row, rejected), method or ONE_METHOD,
        None if chosen is None else _side(row, chosen), gold,
    )  # fmt: skip


def _asked(
    row: Row, names: dict[str, str | None], problems: Mapping[str, Problem] | None
) -> tuple[str, Problem | None]:
    """The prompt, and the problem with its gold answer if there is one."""
    key = names["problem_id"]
    if problems is not None and key is not None:
        found = problems.get(text(row, key) or "")
        if found is None:
            raise row.error(
                f"no problem has the id {str(row.values[key])[:40]!r}", key, "are these the problems of this file?"
            )
        return found.problem, found
    asked = message(row, names["prompt"], "user") if names["prompt"] is not None else None
    for side in (names["chosen"], names["rejected"]):
        if asked is None and side is not None and isinstance(row.values[side], list):
            asked = message(row, side, "user")
    if asked is None or not asked.strip():
        raise row.error(
            "the prompt is missing",
            names["prompt"] or names["rejected"] or "",
            "name its column: --prompt; or --problems",
        )
    answer = None if names["gold"] is None else text(row, names["gold"], ", ")
    gold = Problem(id=str(row.line), problem=asked, answer=answer) if answer and answer.strip() else None
    return asked, gold


def _side(row: Row, column: str) -> str:
    found = message(row, column, "assistant")
    if found is None or not found.strip():
        raise row.error("missing", column, "fill it, or remove the row")
    return found
