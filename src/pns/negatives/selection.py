"""Selection from candidates of any number: a problem in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pns.negatives.select import accepted, picked
from pns.recipe import NegativesPart
from pns.records import Response
from pns.streams import by_problem, write_responses


def select_to(
    out: Path, candidates: Iterable[Response], part: NegativesPart, m_floor: float | None, *, plausible: bool, how: str,
    seed: int, lengths: Mapping[str, int] | None = None,
) -> dict[str, int]:  # fmt: skip
    """Write the selected negatives as Parquet, by problem, best first. The arguments are those of `picked`, in any order.

    Returns how many `candidates` there were, and `problems_served`.
    """
    counts = {"candidates": 0, "problems_served": 0}

    def usable() -> Iterator[Response]:
        for response in candidates:
            counts["candidates"] += 1
            if accepted(response, part, m_floor, plausible=plausible):  # what is not need not be sorted
                yield response

    def best() -> Iterator[Response]:
        ordered = by_problem(usable(), out.parent)
        for _, rows in picked(ordered, part, m_floor, plausible=plausible, how=how, seed=seed, lengths=lengths):
            counts["problems_served"] += 1
            yield from rows

    write_responses(out, best())
    return counts
