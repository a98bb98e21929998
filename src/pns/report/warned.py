"""What training warned of (likelihood displacement, length, cut), for many trainings together: kinds, seeds, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pns.report.diff import printable

Row = dict[str, Any]
Warned = Sequence[Mapping[str, Any]]
"""`seed` and `text` of each warning."""
MANY = 8
"""Rows from which a page folds them."""


def _kind(text: str) -> tuple[str, str]:
    """What stands before the colon, and what it says of it."""
    kind, _, said = text.partition(":")
    return printable(kind.strip()), printable(said.strip())


def warned_rows(named: Mapping[str, Warned], seeds: Mapping[str, int]) -> list[Row]:
    """A row for each name and kind: how many of its seeds were told so, and in what words, with the seeds of each.

    Args:
        named: a cell or a round -> its warnings.
        seeds: the number of its seeds.
    """
    out = []
    for name, warnings in named.items():
        kinds: dict[str, dict[str, list[int]]] = {}
        for one in warnings:
            kind, said = _kind(str(one["text"]))
            kinds.setdefault(kind, {}).setdefault(said, []).append(one["seed"])
        for kind, texts in kinds.items():
            told = sorted({seed for found in texts.values() for seed in found})
            said_by = [(", ".join(map(str, found)), said) for said, found in texts.items()]
            out.append(
                {"name": printable(name), "kind": kind, "seeds": f"{len(told)} of {seeds[name]}", "said": said_by}
            )
    return out


def warned_line(named: Mapping[str, Warned], what: str) -> str:
    """One line: in how many cells or rounds training warned of each kind; empty where it warned of nothing."""
    kinds: dict[str, set[str]] = {}
    for name, warnings in named.items():
        for one in warnings:
            kinds.setdefault(_kind(str(one["text"]))[0], set()).add(name)
    found = [f"{kind} in {len(names)} {what}{'s' * (len(names) != 1)}" for kind, names in kinds.items()]
    return f"Training warned of {'; '.join(found)}. The page says of which, and in what words." if found else ""
