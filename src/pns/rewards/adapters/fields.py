"""Problems from the loose fields that trainers and clients carry: data set columns, verl's extra_info, labels. (Ours.)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pns.errors import UserError
from pns.faults import said
from pns.records import Problem
from pns.rewards.composite import Finish

NO_TEXT = "(the text of this problem was not given)"
OPTIONAL = ("kind", "tolerance", "unit")


def problem_of(fields: Mapping[str, Any], *, needs_text: bool, where: str) -> Problem:
    """A problem from `answer` (the gold one), `problem`, and perhaps `id`, `kind`, `tolerance`, `unit`; others are ignored.

    Args:
        needs_text: refuse fields without `problem`. Only a reward that reads no statement can do without it.
        where: what the fields are, for messages: `extra_info`, `the dataset's columns`.
    Raises UserError naming the field.
    """
    answer, statement = as_text(fields.get("answer")), as_text(fields.get("problem"))
    if not answer:
        raise UserError("no gold answer", field=f"{where}.answer", remedy="give the problem's answer as text")
    if not statement and needs_text:
        raise UserError(
            "no problem text, and this reward reads it (repetition of the statement, judge, reward model)",
            field=f"{where}.problem", remedy="give the statement, without the chat template",
        )  # fmt: skip
    rest = {name: fields[name] for name in OPTIONAL if given(fields.get(name))}
    identity = as_text(fields.get("id")) or "-"
    try:
        return Problem(id=identity, problem=statement or NO_TEXT, answer=answer, **rest)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            said(first), field=f"{where}.{'.'.join(map(str, first['loc']))}", remedy="mend or leave it out"
        ) from None


def given(value: Any) -> bool:
    """Whether an optional field says something: a table has None, NaN or an empty text where it does not."""
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def as_text(value: Any) -> str:
    """A field as text without outer white space: 72.0 is `72`, what is missing is empty."""
    if not given(value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value).strip()


def finish_in(fields: Mapping[str, Any]) -> Finish:
    """`length` where the fields say that the response was cut off, else `stop`."""
    return "length" if fields.get("finish") == "length" else "stop"
