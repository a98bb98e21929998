"""Whether length alone tells the rejected sides of pairs from the chosen ones. (Figures and bounds: ours.)"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from pns.evaluation.metrics import rank_auc
from pns.records import Pair

TOLD = 0.75
"""A figure of length at or above this, or at or below 1 minus this, tells the sides apart."""
_ERRORS = 3
"""Standard errors that a figure must also be away from 0.5."""


def lengths(rows: Sequence[Pair]) -> dict[str, Any]:
    """Three ways in which length may tell the sides apart; each is 0.5 where it does not. Lengths are in tokens.

    Args:
        rows: one pair or more.

    Returns:
        `auc` (0..1): the chance that some rejected side is longer than some chosen one, of whatever pair.
        `rejected_longer` (0..1): the share of pairs whose rejected side is the longer one. This is what a paired loss sees.
        `off_median_auc` (0..1): the chance that some rejected side is farther from `chosen_median`, to either side, than
        some chosen one. Ties count one half in all of them. `problems`: how many the pairs are of.

    Raises:
        ValueError: there are no pairs.
    """
    chosen, rejected = [p.chosen_tokens for p in rows], [p.rejected_tokens for p in rows]
    middle = statistics.median(chosen)
    return {
        "auc": rank_auc(rejected, chosen),
        "rejected_longer": statistics.fmean((r > c) + (r == c) / 2 for c, r in zip(chosen, rejected, strict=True)),
        "off_median_auc": rank_auc([abs(r - middle) for r in rejected], [abs(c - middle) for c in chosen]),
        "chosen_median": middle,
        "problems": len({p.problem_id for p in rows}),
    }


def told_by_length(found: dict[str, Any]) -> list[str]:
    """The figures of `lengths` that tell the sides apart, in words; none where chance may have made them.

    The standard error of a share of n pairs is at most 0.5 / sqrt(n). That of an AUC with n responses a side is smaller,
    0.41 / sqrt(n), where the sides of a pair are independent or alike. Pairs of one problem are no independent ones, so
    n counts problems.
    """
    least = max(TOLD - 0.5, _ERRORS * 0.5 / math.sqrt(found["problems"]))

    def tells(figure: str) -> bool:
        return bool(abs(found[figure] - 0.5) >= least)

    out = []
    if tells("auc"):
        auc, longer = _either(found["auc"], "longer", "shorter")
        out.append(f"the AUC of length alone is {auc:.2f}, rejected responses are {longer}")
    if tells("rejected_longer"):
        share, longer = _either(found["rejected_longer"], "longer", "shorter")
        out.append(f"within a pair the rejected side is the {longer} one in {100 * share:.0f} %")
    if tells("off_median_auc"):
        auc, farther = _either(found["off_median_auc"], "farther from", "nearer to")
        out.append(
            f"the AUC of the distance from the median chosen length ({found['chosen_median']:.0f} tokens) is {auc:.2f}, "
            f"rejected responses are {farther} it"
        )
    return out


def _either(value: float, above: str, below: str) -> tuple[float, str]:
    """The value seen from its larger side, and the word for that side."""
    return max(value, 1 - value), above if value > 0.5 else below
