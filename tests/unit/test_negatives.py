"""Negatives by rule, selection, the matched regime, and the figures of a set of pairs."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.selection import pick
from pns.negatives.rules import corruption, flip
from pns.negatives.select import accepted, build_pairs, draw, matched_ids
from pns.problems import families
from pns.problems.families import LIMIT, TRAINING_MIX
from pns.recipe import NegativesPart
from pns.records import Problem, Response, Rubric, Scores, Verdict
from pns.rewards.arithmetic import find_steps
from pns.rewards.steps import judge_steps
from pns.verify import Verifier, extract

FULL = Rubric(relevance=3, coherence=3, completeness=3, consistency=3)
WRONG = Verdict(outcome="wrong", answer="5")
HOW: dict[str, Any] = {"answer_format": "boxed", "top": LIMIT}
seeds = st.integers(0, 2**31 - 1)


def story_text(seed: int) -> tuple[str, str, str]:
    """Statement, right solution, answer."""
    rng = random.Random(seed)
    weights, shapes = zip(*TRAINING_MIX, strict=True)
    story = families.make_story(rng, rng.choices(shapes, weights)[0])
    steps = families.solve(story)
    return families.statement(story), families.render(steps), str(steps[-1][3])


def scores(gate: Any = "scored", m: float | None = 0.5, rubric: Rubric | None = FULL, score: float = 0.9) -> Scores:
    value = {"scored": score, "unscored": None}.get(gate, -1.0)
    return Scores(gate=gate, score=value, well_formed=True, reward_model=m, rubric=rubric)


def response(problem: str = "p", index: int = 0, text: str | None = None, **more: Any) -> Response:
    given: dict[str, Any] = {"scores": scores(), "verdict": WRONG, "policy_logp": -5.0, "n_tokens": 10, **more}
    return Response(problem_id=problem, text=text or f"answer {index}", index=index, source="pns", **given)


@given(seeds, seeds)
@settings(max_examples=200, deadline=None)
def test_a_flip_changes_the_final_answer_and_nothing_else(seed: int, luck: int) -> None:
    _, right, answer = story_text(seed)
    wrong = flip(right, random.Random(luck), **HOW)
    assert wrong is not None
    new = extract(wrong, "boxed").answer
    assert new is not None
    assert new != answer
    assert 0 <= int(new) <= LIMIT
    assert abs(int(new) - int(answer)) <= 10
    assert wrong.replace(f"\\boxed{{{new}}}", f"\\boxed{{{answer}}}") == right


@given(seeds, seeds)
@settings(max_examples=200, deadline=None)
def test_a_corruption_is_wrong_and_consistent_with_itself(seed: int, luck: int) -> None:
    problem, right, answer = story_text(seed)
    wrong = corruption(right, random.Random(luck), **HOW)
    if wrong is None:
        return
    new = extract(wrong, "boxed").answer
    assert new is not None
    assert new != answer
    steps, before = find_steps(wrong), find_steps(right)
    assert len(steps) == len(before)
    assert all(step.right for step in steps)
    assert all(0 <= step.result <= LIMIT for step in steps)
    assert sum(a != b for a, b in zip(steps, before, strict=True)) >= 1
    rubric = judge_steps(problem, wrong, new)
    assert rubric.consistency == 3
    assert str(steps[-1].result) == new
    with Verifier("boxed") as verifier:
        assert verifier.verify([answer], [wrong])[0].outcome == "wrong"


def test_the_corruption_rule_finds_something_nearly_always() -> None:
    found = [corruption(story_text(seed)[1], random.Random(seed), **HOW) for seed in range(300)]
    assert sum(text is not None for text in found) > 270


@pytest.mark.parametrize(
    "text", ["", "no box", "Step 1: 2 + 2 = 4\nThe answer is \\boxed{x}", "\\boxed{x/2}", "\\boxed{\\sqrt3}"]
)
def test_rules_that_find_nothing_to_change_say_so(text: str) -> None:
    assert flip(text, random.Random(0), **HOW) is None
    assert corruption(text, random.Random(0), **HOW) is None


def test_a_corruption_leaves_text_alone_whose_steps_are_not_right() -> None:
    assert corruption("Step 1: 2 + 2 = 5\nThe answer is \\boxed{5}", random.Random(0), **HOW) is None
    assert corruption("The answer is \\boxed{5}", random.Random(0), **HOW) is None


ANSWERS = st.one_of(
    st.decimals(-99, 99, places=2).map(lambda d: f"{d:f}".replace("-0.00", "0.00")),
    st.integers(-99, 99).map(str),
    st.builds(
        lambda form, a, b: form.format(a, b),
        st.sampled_from(["{}/{}", "-{}/{}", r"\frac{{{}}}{{{}}}", r"-\dfrac{{{}}}{{{}}}"]),
        st.integers(1, 40),
        st.integers(1, 40),
    ),
    st.builds(lambda a, b: rf"\frac{a}{b}", st.integers(1, 9), st.integers(1, 9)),
)


@given(ANSWERS, seeds)
@settings(max_examples=200, deadline=None)
def test_a_flip_of_any_number_is_decidably_wrong_and_written_alike(answer: str, luck: int) -> None:
    wrong = flip(f"So \\boxed{{{answer}}}", random.Random(luck), answer_format="boxed", top=None)
    assert wrong is not None
    new = extract(wrong, "boxed").answer or ""
    shapes = [re.sub("[0-9]+", "9", text.partition(".")[0]) for text in (new, answer)]
    assert shapes[0] == shapes[1] or (new, shapes[1]) == ("0", "9")
    assert len(new.partition(".")[2]) == len(answer.partition(".")[2])
    with Verifier("boxed") as verifier:
        assert verifier.verify([answer], [wrong])[0].outcome == "wrong"


def worked(draw: st.DrawFn) -> tuple[str, str]:
    """A solution with decimals, numbers below 0 and a step of another form in its middle, and its answer."""
    value = draw(st.decimals(-20, 20, places=draw(st.integers(0, 2))))
    lines = ["Start: 1 + 2 + 3 = 6."] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        operator, other = draw(st.sampled_from("+-*")), draw(st.decimals(-9, 9, places=draw(st.integers(0, 1))))
        result = {"+": value + other, "-": value - other, "*": value * other}[operator]
        shown, money = [f"{abs(n):f}" if not n else f"{n:f}" for n in (value, other, result)], ""
        if min(value, other, result) >= 0:
            money = draw(st.sampled_from(["", "$"]))
        second = f"({shown[1]})" if other < 0 else shown[1]
        lines.append(f"Then {money}{shown[0]} {operator} {second} = {money}{shown[2]}.")
        if draw(st.booleans()):
            aside = draw(st.integers(90_000, 99_999))
            lines.append(f"Aside: {aside} + 1 + 1 = {aside + 2}.")
        value = result
    return "\n".join([*lines, f"The answer is \\boxed{{{shown[2]}}}"]), shown[2]


@given(st.composite(worked)(), seeds)
@example(("Then 0 - 1 = -1.\nThen -1 + 0 = -1.\nThe answer is \\boxed{-1}", "-1"), 0)
@settings(max_examples=200, deadline=None)
def test_a_corruption_of_decimals_and_signs_is_wrong_and_consistent_with_itself(
    solution: tuple[str, str], luck: int
) -> None:
    right, answer = solution
    wrong = corruption(right, random.Random(luck), answer_format="boxed", top=None)
    if wrong is None:
        return
    assert all(step.right for step in find_steps(wrong))
    before, after = (re.findall(r"Then \$?(\S+) (.) (\S+) = \$?(\S+)\.", text) for text in (right, wrong))
    assert len(after) == len(before)
    value = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
    for left, operator, other, result in after:
        assert value[operator](Fraction(left), Fraction(other.strip("()$"))) == Fraction(result)
    assert all(two[0] == one[3] for one, two in pairwise(after)), "carried on"
    assert after[-1][3] == extract(wrong, "boxed").answer, "the last step's result is the answer"
    assert before != after
    longest = max(len(m) for m in re.findall(r"\.([0-9]+)", right) or [""])
    assert all(len(m) <= longest for m in re.findall(r"\.([0-9]+)", wrong))
    with Verifier("boxed") as verifier:
        assert verifier.verify([answer], [wrong])[0].outcome == "wrong"


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("2 + 3 + 4 = 9\n9 * 2 = 18\n\\boxed{18}", {9}),  # a step of another form before
        ("9 * 2 = 18\n1 + 1 + 1 = 3\n18 - 3 = 15\n\\boxed{15}", {3}),  # one after it, that mentions nothing changed
        ("$2.50 * 3 = $7.50\n7.50+2=9.50\n\\boxed{9.50}", set()),
        ("5 - 8 = -3\n-3 + 10 = 7\n\\boxed{7}", set()),
        ("5 - 8.0 = -3.0\n2 - (-3.0) = 5.0\n\\boxed{5.0}", set()),
    ],
)
def test_what_a_corruption_can_read(text: str, results: set[int]) -> None:
    found = [corruption(text, random.Random(i), answer_format="boxed", top=None) for i in range(30)]
    steps = [find_steps(wrong) for wrong in found if wrong is not None]
    assert len({wrong for wrong in found if wrong}) > 5
    assert all(step.right for some in steps for step in some)
    assert all(results <= {step.result for step in some} for some in steps)


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3 = 6\n6 + 1 + 1 = 8\n\\boxed{8}",  # the other form mentions what would change
        "2 * 3 = 6\n1 + 1 + 4 = 2 * 3 = 6\n\\boxed{8}",  # no step leads to the answer
        "9.5 * 2 = 19\nb = 19\n\\boxed{19}",  # an equation that is not read mentions it
        "2 - 5.0 = -3.0\nlost: 3 + 4.5 + 1 = 8.5\n\\boxed{8.5}",
        "48/2 = <<48/2=24>>24\n\\boxed{24}",  # a mark would be left beside another number
        "1.5 * 3 = 5\n\\boxed{5}",
        "10 / 3.0 = 3.33\n\\boxed{3.33}",
    ],
)
def test_a_corruption_in_doubt_is_refused(text: str) -> None:
    assert {corruption(text, random.Random(i), answer_format="boxed", top=None) for i in range(20)} == {None}


@pytest.mark.parametrize("gate", ["malformed", "undecided", "correct", "unscored"])
def test_nothing_but_a_scored_response_is_accepted(gate: str) -> None:
    for plausible in (True, False):
        assert not accepted(response(scores=scores(gate)), NegativesPart(), 0.0, plausible=plausible)
        assert not accepted(response(scores=None), NegativesPart(), 0.0, plausible=plausible)
    assert pick([response(scores=scores(gate))], NegativesPart(), None, plausible=False, how="best", seed=0) == {}


@pytest.mark.parametrize(
    ("m", "rubric", "plausible"),
    [
        (0.3, FULL, True),
        (0.29, FULL, False),
        (None, FULL, False),
        (0.9, FULL.model_copy(update={"coherence": 0}), True),
        (0.9, FULL.model_copy(update={"coherence": 0, "relevance": 2}), False),
        (0.9, None, True),
    ],
)
def test_the_gates_of_plausibility(m: float | None, rubric: Rubric | None, plausible: bool) -> None:
    one, part = response(scores=scores(m=m, rubric=rubric)), NegativesPart(min_rubric=9)
    assert accepted(one, part, 0.3, plausible=True) == plausible
    assert accepted(one, part, 0.3, plausible=False)


def test_picking_by_likelihood_a_token_by_score_or_by_chance() -> None:
    rows = [
        response(index=0, policy_logp=-9.0, n_tokens=30, scores=scores(score=0.5)),  # -0.3 a token
        response(index=1, policy_logp=-4.0, n_tokens=10, scores=scores(score=0.9)),  # -0.4 a token
        response(index=2, policy_logp=None, scores=scores(score=0.7)),
        response(index=3, policy_logp=-0.1, n_tokens=10, scores=scores("correct")),
    ]

    def index(how: str, seed: int = 0, given: list[Response] = rows) -> int:
        return pick(given, NegativesPart(), None, plausible=True, how=how, seed=seed)["p"][0].index

    assert (index("likely"), index("best")) == (0, 1)
    assert {index("random", seed) for seed in range(40)} == {0, 1, 2}
    assert index("random", 3) == index("random", 3, rows[::-1])


def test_picking_counts_repeats_once_and_does_not_depend_on_the_order_of_rows() -> None:
    rows = [response(index=i, text="same " if i < 9 else "rare") for i in range(10)]
    found = [pick(rows, NegativesPart(), None, plausible=True, how="random", seed=s)["p"][0].text for s in range(200)]
    assert 60 < found.count("rare") < 140
    for how in ("likely", "best"):
        assert pick(rows[::-1], NegativesPart(), None, plausible=True, how=how, seed=0)["p"][0].index == 0


def test_matched_ids_are_those_that_every_method_and_the_chosen_side_serve() -> None:
    def rows(*ids: str) -> dict[str, list[Response]]:
        return {i: [response(i)] for i in ids}

    chosen = {i: response(i) for i in "abcde"}
    negatives = {"pns": rows("a", "b", "c", "x"), "flip": rows("b", "c", "a", "e", "x")}
    assert matched_ids(chosen, negatives, 10, 0) == ["a", "b", "c"]
    some = matched_ids(chosen, negatives, 2, 0)
    assert some == sorted(some)
    assert len(some) == 2
    assert matched_ids(chosen, {**negatives, "rejection": {}}, 10, 0) == []
    assert len({tuple(draw(set("abcdefgh"), 3, seed)) for seed in range(20)}) > 5


def test_pairs_carry_both_sides_with_their_provenance() -> None:
    problem = Problem(id="p", problem="How many?", answer="4")
    right = Response(problem_id="p", text="4", index=0, source="reference", policy_logp=-2.0, n_tokens=3)
    wrong = response(text="five", policy_logp=-3.0, n_tokens=4)
    (pair,) = build_pairs("pns", [("p", 0)], {"p": problem}, {"p": right}, {"p": [wrong]})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("How many?", "4", "five")
    assert (pair.chosen_source, pair.chosen_answer, pair.rejected_answer) == ("reference", "4", "5")
    assert (pair.chosen_logp, pair.rejected_logp, pair.chosen_tokens, pair.rejected_tokens) == (-2.0, -3.0, 3, 4)
    assert pair.scores == wrong.scores
    with pytest.raises(KeyError):
        build_pairs("pns", [("q", 0)], {"p": problem}, {"p": right}, {"p": [wrong]})
