"""Selection from rows in any order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pns.negatives.select import picked
from pns.parts.negatives import NegativesPart
from pns.records import Response


def pick(
    candidates: Iterable[Response], part: NegativesPart, m_floor: float | None, **how: Any
) -> dict[str, list[Response]]:
    """`picked` of the rows, sorted as it wants them."""
    ordered = sorted(candidates, key=lambda r: (r.problem_id, r.index, r.text))
    return dict(picked(ordered, part, m_floor, **how))
