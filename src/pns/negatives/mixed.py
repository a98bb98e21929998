"""Negatives taken from those of other methods: a weighted mixture, and filling the gaps of rejection with PNS."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from pns.negatives.select import spread
from pns.recipe import NegativesPart
from pns.records import Response

Selected = Mapping[str, Mapping[str, list[Response]]]
"""method -> problem id -> its selected negatives, best first."""


def mixture(found: Selected, weights: Mapping[str, float], part: NegativesPart, seed: int) -> dict[str, list[Response]]:
    """For each negative of a problem one method is drawn by weight, among those that have another one for it."""
    rng = random.Random(seed)

    def drawn(identity: str) -> Iterator[Response]:
        left = {m: list(found[m][identity]) for m in sorted(weights) if identity in found[m]}
        while left:
            method = rng.choices(list(left), [weights[m] for m in left])[0]
            yield left[method].pop(0)
            left = {m: rows for m, rows in left.items() if rows}

    return {identity: spread(drawn(identity), part) for identity in sorted({i for m in weights for i in found[m]})}


def fill(found: Selected, part: NegativesPart) -> dict[str, list[Response]]:
    """Rejection where the policy errs, then `pns`, up to `part.per_problem` negatives of a problem."""
    first, then = found["rejection"], found["pns"]
    return {i: spread([*first.get(i, ()), *then.get(i, ())], part) for i in sorted({*first, *then})}
