"""The switches of ablations: each opens one gate of the composite, and none makes a negative of what is none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.negatives.select import accepted
from pns.recipe import NegativesPart, RewardModelSource, RewardPart
from pns.records import Problem, Response, Scores
from pns.rewards import Calibration, Composite
from pns.verify import Verifier

P = Problem(id="a", problem="Mia has 12 apples. Mia finds 5 apples. How many apples does Mia have now?", answer="17")
WRONG = "Step 1: 12 - 5 = 7\nThe answer is \\boxed{7}"
CORRECT = "Step 1: 12 + 5 = 17\nThe answer is \\boxed{17}"
TWO_BOXES = "Step 1: 12 - 5 = 7\nIt is \\boxed{8}.\nThe answer is \\boxed{7}"


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as v:
        yield v


def scored(verifier: Verifier, text: str, **switches: Any) -> Scores:
    (found,) = Composite(RewardPart(**switches), verifier)([P], [text], ["stop"])
    return found


def negative(scores: Scores) -> bool:
    response = Response(problem_id="a", text="", index=0, source="pns", scores=scores)
    return accepted(response, NegativesPart(), None, plausible=False)


def test_without_the_accuracy_gate_a_correct_response_is_paid_and_is_no_negative(verifier: Verifier) -> None:
    plain, paid = (scored(verifier, CORRECT, accuracy_gate=gate) for gate in (True, False))
    assert (plain.gate, plain.score) == ("correct", 0.0)
    assert paid.gate == "correct"
    assert paid.rubric is not None
    assert paid.score == pytest.approx(0.4 * paid.rubric.value), "its plausibility, and nothing for inversion"
    assert paid.inversion == 0.0
    assert not negative(paid)
    assert scored(verifier, WRONG, accuracy_gate=False) == scored(verifier, WRONG)


def test_without_the_format_gate_a_malformed_response_goes_on_and_is_no_negative(verifier: Verifier) -> None:
    plain, paid = (scored(verifier, TWO_BOXES, format_gate=gate) for gate in (True, False))
    assert (plain.gate, plain.score) == ("malformed", -1.0)
    assert paid.gate == "scored"
    assert paid.score is not None
    assert paid.score > 0.4
    assert (paid.well_formed, paid.format_failures) == (False, plain.format_failures), "it is called what it is"
    assert not negative(paid)
    nothing = scored(verifier, "I do not know.", format_gate=False)
    assert (nothing.gate, nothing.score) == ("undecided", -1.0), "the other gates stand"
    assert negative(scored(verifier, WRONG, format_gate=False))


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=30), st.floats(-8, 8))
def test_without_calibration_m_is_the_sigmoid_and_its_quantiles_move_along(raw: list[float], one: float) -> None:
    found = Calibration.fit(raw)
    bare = found.undone()
    assert bare.squash(one) == pytest.approx(1 / (1 + math.exp(-one)))
    for q in (0.05, 0.25, 0.5, 0.95):
        m = found.quantile(q)
        if 0 < m < 1:
            there = found.median + found.scale * math.log(m / (1 - m))
            assert bare.quantile(q) == pytest.approx(bare.squash(there), abs=1e-9)


def test_calibration_is_undone_for_the_runs_own_model_alone() -> None:
    with pytest.raises(ValueError, match="calibrated: false is for the reward model that a run trains"):
        RewardPart(calibrated=False, reward_model=RewardModelSource(kind="my.module:function"))
