"""Preference data of anybody's: pairs of a chosen and a rejected response, read from a file."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pns.errors import UserError
from pns.rows import Row, column_names, message, missing_column, read_rows, text

ONE_METHOD = "pairs"
BASELINE = "rejection"
"""The method that the others are compared with."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair. `method` says how the rejected side was made; `gold` is the problem's answer, where the file has it."""

    line: int
    prompt: str
    chosen: str
    rejected: str
    method: str
    gold: str | None = None


@dataclass(frozen=True)
class PreferenceColumns:
    """Names of columns. `prompt` may be missing where chosen and rejected are whole conversations."""

    prompt: str | None = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    method: str | None = None
    gold: str | None = None


def read_preferences(path: str | Path, columns: PreferenceColumns, method: str = ONE_METHOD) -> list[Preference]:
    """All pairs of a file, in its order: texts, or conversations as lists of {role, content}.

    Args:
        method: of every row, where `columns.method` is None.

    Raises:
        UserError: as `read_rows`; a side that is missing or blank; a prompt that is nowhere.
    """
    path = Path(path)
    there = column_names(path)
    prompt = columns.prompt if columns.prompt in there else None
    if prompt is None and columns.prompt not in (None, "prompt"):
        raise missing_column(columns.prompt or "", there, path, option="--prompt")
    for option, name in (("--chosen", columns.chosen), ("--rejected", columns.rejected), ("--method", columns.method),
                         ("--gold", columns.gold)):  # fmt: skip
        if name is not None and name not in there:
            raise missing_column(name, there, path, option=option)
    named = [name for name in (prompt, columns.chosen, columns.rejected, columns.method, columns.gold) if name]
    return list(_pairs(path, named, prompt, columns, method))


def _pairs(
    path: Path, named: list[str], prompt: str | None, columns: PreferenceColumns, method: str
) -> Iterator[Preference]:
    for row in read_rows(path, list(dict.fromkeys(named))):
        asked = message(row, prompt, "user") if prompt is not None else None
        if asked is None and isinstance(row.values[columns.chosen], list):
            asked = message(row, columns.chosen, "user")
        if asked is None or not asked.strip():
            raise row.error("the prompt is missing", prompt or columns.chosen, "name its column: --prompt")
        yield Preference(
            row.line,
            asked,
            _side(row, columns.chosen),
            _side(row, columns.rejected),
            method if columns.method is None else text(row, columns.method) or "none",
            None if columns.gold is None else text(row, columns.gold, ", "),
        )


def _side(row: Row, column: str) -> str:
    found = message(row, column, "assistant")
    if found is None or not found.strip():
        raise row.error("missing", column, "fill it, or remove the row")
    return found


def enough(pairs: list[Preference], least: int, path: Path) -> None:
    """Raises UserError for a method with pairs of fewer than `least` problems: nothing can be cross-validated there."""
    problems: dict[str, set[str]] = {}
    for pair in pairs:
        problems.setdefault(pair.method, set()).add(pair.prompt)
    for name, found in problems.items():
        if len(found) < least:
            raise UserError(
                f"{name!r} has pairs for {len(found)} problems, and {least} are needed", file=path,
                remedy="give more pairs, or leave this method out",
            )  # fmt: skip


def drawn(pairs: list[Preference], limit: int, seed: int) -> list[Preference]:
    """At most `limit` pairs of each method, on the same problems as far as methods share them; in the order of `pairs`.

    All methods go through the problems in one order, which the seed draws: first those that the baseline has, of these and
    of the rest those first that more methods have. The second pair of a problem comes after the first of every one.
    """
    rng = random.Random(seed)
    methods: dict[str, set[str]] = {}
    places: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        methods.setdefault(pair.prompt, set()).add(pair.method)
        places.setdefault(pair.method, []).append(i)
    problems = sorted(methods)
    rng.shuffle(problems)
    problems.sort(key=lambda problem: (BASELINE not in methods[problem], -len(methods[problem])))
    rank = {problem: n for n, problem in enumerate(problems)}
    kept: set[int] = set()
    for at in places.values():
        rng.shuffle(at)  # which pair of a problem is its first
        seen: Counter[str] = Counter()
        turns = []
        for i in at:
            turns.append((seen[pairs[i].prompt], rank[pairs[i].prompt], i))
            seen[pairs[i].prompt] += 1
        kept.update(i for _, _, i in sorted(turns)[:limit])
    return [pair for i, pair in enumerate(pairs) if i in kept]
