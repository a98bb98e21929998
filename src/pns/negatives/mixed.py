"""Negatives taken from those of other methods: a weighted mixture, and filling the gaps of rejection with PNS."""

from __future__ import annotations

import random
from collections.abc import Mapping

from pns.records import Response

Selected = Mapping[str, Mapping[str, list[Response]]]
"""method -> problem id -> its selected negatives."""


def mixture(found: Selected, weights: Mapping[str, float], seed: int) -> dict[str, list[Response]]:
    """For each problem one method is drawn by weight, among those that have a negative for it."""
    rng = random.Random(seed)
    out = {}
    for identity in sorted({i for method in weights for i in found[method]}):
        serving = [method for method in sorted(weights) if identity in found[method]]
        out[identity] = found[rng.choices(serving, [weights[m] for m in serving])[0]][identity]
    return out


def fill(found: Selected) -> dict[str, list[Response]]:
    """Rejection where the policy errs, `pns` where it does not."""
    return {**found["pns"], **found["rejection"]}
