"""Selection from candidates of any number: a problem in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pns.negatives.resample import Likeness
from pns.negatives.select import accepted, picked, usable
from pns.recipe import NegativesPart
from pns.records import Response
from pns.streams import by_problem, write_responses


def select_to(
    out: Path, candidates: Iterable[Response], part: NegativesPart, m_floor: float | None, *, plausible: bool, how: str,
    seed: int, lengths: Mapping[str, int] | None = None, like: Likeness | None = None,
) -> dict[str, int]:  # fmt: skip
    """Write the selected negatives as Parquet, by problem, best first. The arguments are those of `picked`, in any order.

    Returns how many `candidates` there were, and `problems_served`.
    """
    counts = {"candidates": 0, "problems_served": 0}

    def counted() -> Iterator[Response]:
        for response in candidates:
            counts["candidates"] += 1
            if accepted(response, part, m_floor, plausible=plausible):  # what is not need not be sorted
                yield response

    def best() -> Iterator[Response]:
        ordered = by_problem(counted(), out.parent)
        for _, rows in picked(
            ordered, part, m_floor, plausible=plausible, how=how, seed=seed, lengths=lengths, like=like
        ):
            counts["problems_served"] += 1
            yield from rows

    write_responses(out, best())
    return counts


def likeness_of(
    wanted: Iterable[Response], candidates: Iterable[Response], folder: Path, part: NegativesPart,
    m_floor: float | None, lengths: Mapping[str, int] | None,
) -> Likeness:  # fmt: skip
    """By what candidates that pass the gates of plausibility are drawn to be spread as the wanted negatives, at least one.

    Args:
        candidates: in any order.
        folder: for files of a while.
    """
    ordered = by_problem((r for r in candidates if accepted(r, part, m_floor, plausible=True)), folder)
    problems = usable(ordered, part, m_floor, plausible=True, lengths=lengths)
    known = ([r.policy_logp for r in rows if r.policy_logp is not None] for _, rows in problems)
    return Likeness([r.policy_logp for r in wanted if r.policy_logp is not None], filter(None, known))
