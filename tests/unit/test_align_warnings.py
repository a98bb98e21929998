"""What preference training warns of."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from pns.records import Pair
from pns.report.words import pair_notes
from pns.stages.align import warnings

LEVEL = {"chosen_logp_shift": 0.2, "rejected_logp_shift": -1.0}


def pairs(rejected: int) -> list[Pair]:
    return [
        Pair(
            problem_id=str(i), method="m", prompt="p", chosen="c", rejected="r", chosen_tokens=20 + i % 3,
            rejected_tokens=rejected + i % 3,
        )
        for i in range(12)
    ]  # fmt: skip


def test_nothing_to_warn_of() -> None:
    assert warnings(pairs(20), LEVEL) == []


def test_likelihood_displacement_needs_a_chosen_side_that_fell_beside_a_growing_margin() -> None:
    (said,) = warnings(pairs(20), {"chosen_logp_shift": -0.4, "rejected_logp_shift": -3.0})
    assert "the margin grew by 2.60 nats while chosen responses became less likely by 0.40" in said
    # Both fell, and the margin with them: that is harm, but not this one.
    assert warnings(pairs(20), {"chosen_logp_shift": -3.0, "rejected_logp_shift": -0.4}) == []


@pytest.mark.parametrize(("rejected", "word"), [(40, "longer"), (5, "shorter")])
def test_pairs_that_length_alone_separates(rejected: int, word: str) -> None:
    (said,) = warnings(pairs(rejected), LEVEL)
    assert f"AUC of length alone is 1.00, rejected responses are {word}" in said


def test_cut_sides_are_counted_and_the_page_says_so() -> None:
    stats = {**LEVEL, "cut": {"chosen": 2, "rejected": 5}}
    said = warnings(pairs(20), stats)
    assert said == [
        "cut at align.max_length: 2 chosen and 5 rejected sides of 12 pairs lose their end, the answer with it"
    ]
    assert warnings(pairs(20), {**LEVEL, "cut": {"chosen": 0, "rejected": 0}}) == []
    shift = {"chosen_logp_shift": -0.4, "rejected_logp_shift": -3.0}
    ((warns, method, text),) = pair_notes({"pns": {**shift, "warnings": [*warnings(pairs(20), shift), *said]}})
    assert (warns, method) == (True, "pns")
    assert "Cut at align.max_length: 2 chosen" in text
    assert text.count("less likely") == 1, "displacement is said once"
