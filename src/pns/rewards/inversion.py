"""The term A: credit for a wrong final answer, and only for a *decidedly* wrong one. (Term from the paper.)"""

from __future__ import annotations

from pns.records import Verdict


def inversion(verdict: Verdict) -> float | None:
    """1.0 for wrong, 0.0 for correct, None for undecided, which is neither."""
    return {"wrong": 1.0, "correct": 0.0, "undecided": None}[verdict.outcome]
