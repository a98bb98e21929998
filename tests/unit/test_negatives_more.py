"""Negatives from prefixes (Step-Controlled DPO), the reward model's favourites, mixtures and filled gaps."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.selection import pick
from pns.negatives.mixed import fill, mixture
from pns.negatives.prefix import cut_at, cuts, wrong_continuations
from pns.negatives.select import places
from pns.problems import families
from pns.problems.families import TRAINING_MIX
from pns.recipe import NegativesPart, PrefixPart
from pns.records import Problem, Response, Scores, Verdict
from pns.rewards.arithmetic import find_steps
from pns.sampling.engine import Completion
from pns.verify import extract

SOLUTION = "Step 1: 2 + 3 = 5\nStep 2: 5 * 2 = 10\nStep 3: 10 - 1 = 9\nThe answer is \\boxed{9}"
ONE_STEP = "2 + 3 = 5\nThe answer is \\boxed{5}"


def test_cuts_lie_between_steps() -> None:
    prefixes = [cut_at(SOLUTION, place) for place in cuts(SOLUTION)]
    assert prefixes == [
        "Step 1: 2 + 3 = 5",
        "Step 1: 2 + 3 = 5\n",
        "Step 1: 2 + 3 = 5\nStep 2: 5 * 2 = 10",
        "Step 1: 2 + 3 = 5\nStep 2: 5 * 2 = 10\n",
    ]
    assert cuts(ONE_STEP) == []
    assert cuts("") == []
    prose = "First we note that the sum of all angles is straight. Then the third one is what is left of it. \\boxed{9}"
    assert [cut_at(prose, place) for place in cuts(prose)] == ["First we note that the sum of all angles is straight."]


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=100, deadline=None)
def test_a_prefix_is_a_beginning_with_a_step_and_without_the_answer(seed: int) -> None:
    rng = random.Random(seed)
    weights, shapes = zip(*TRAINING_MIX, strict=True)
    steps = families.solve(families.make_story(rng, rng.choices(shapes, weights)[0]))
    text = families.render(steps)
    places = cuts(text)
    assert bool(places) == (len(steps) > 1)
    for place in places:
        prefix = cut_at(text, place)
        assert text.startswith(prefix)
        assert extract(prefix).answer is None
        assert 1 <= len(find_steps(prefix)) < len(steps)


def problem(i: int) -> Problem:
    return Problem(id=str(i), problem=f"problem {i}", answer="9")


class Policy:
    """Goes on with what it is told for (problem, round); notes what it was asked."""

    def __init__(self, answers: dict[tuple[str, int], list[str]]) -> None:
        self.answers = answers
        self.asked: list[tuple[list[str], list[str], float]] = []

    def __call__(
        self, problems: Sequence[Problem], prefixes: Sequence[str], temperature: float, turn: int
    ) -> list[list[Completion]]:
        self.asked.append(([p.id for p in problems], list(prefixes), temperature))
        return [
            [Completion(f" so \\boxed{{{a}}}", 5, "stop") for a in self.answers.get((p.id, turn), ["9", "9"])]
            for p in problems
        ]


def verify(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    out = []
    for text in texts:
        answer = extract(text).answer
        outcome: Any = "correct" if answer == "9" else "undecided" if answer == "?" else "wrong"
        out.append(Verdict(outcome=outcome, answer=answer, cause="response" if outcome == "undecided" else None))
    return out


def test_rounds_rise_in_temperature_until_the_answer_is_decidably_wrong() -> None:
    problems = [problem(i) for i in range(4)]
    texts = [SOLUTION, SOLUTION, ONE_STEP, SOLUTION]
    chosen = [Response(problem_id=str(i), text=text, index=0, source="policy") for i, text in enumerate(texts)]
    policy = Policy({("0", 0): ["7", "9"], ("1", 0): ["?", "9"], ("1", 1): ["8", "6"]})
    part = PrefixPart(rounds=3, n=2, temperature=0.9, rise=0.2)
    rows = wrong_continuations(problems, chosen, part, policy, verify, seed=1)
    assert [ids for ids, _, _ in policy.asked] == [["0", "1", "3"], ["1", "3"], ["3"]], "one step: nowhere to cut"
    assert [t for _, _, t in policy.asked] == pytest.approx([0.9, 1.1, 1.3])
    assert [(r.problem_id, r.index, extract(r.text).answer) for r in rows] == [
        ("0", 0, "7"),
        ("1", 0, "8"),
        ("1", 1, "6"),
    ]
    for row in rows:
        assert row.verdict is not None
        assert row.verdict.outcome == "wrong", "undecided is never wrong"
        assert SOLUTION.startswith(row.text[: row.sampling["cut"]])
        assert row.source == "prefix"
    assert [r.sampling["round"] for r in rows] == [0, 1, 1]
    again = wrong_continuations(problems, chosen, part, Policy(policy.answers), verify, seed=1)
    assert again == rows
    named = wrong_continuations(problems, chosen, part, Policy(policy.answers), verify, seed=1, source="pns_prefix")
    assert [r.model_copy(update={"source": "prefix"}) for r in named] == rows
    assert {r.source for r in named} == {"pns_prefix"}


def scored(identity: str, index: int, raw: float | None, source: str = "rejection_hard") -> Response:
    scores = Scores(gate="scored", score=0.5, well_formed=True, reward_raw=raw)
    return Response(problem_id=identity, text=f"t{index}", index=index, source=source, scores=scores)


def test_the_reward_models_favourite_among_wrong_answers() -> None:
    rows = [scored("a", 0, -1.0), scored("a", 1, 2.5), scored("a", 2, None), scored("b", 0, None)]
    found = pick(rows, NegativesPart(), None, plausible=False, how="reward", seed=0)
    assert [[r.index for r in rows] for rows in found.values()] == [[1], [0]]


def written(
    index: int, text: str, *, logp: float = -5.0, wrote: float = -5.0, score: float = 0.5, tokens: int = 10
) -> Response:
    scores = Scores(gate="scored", score=score, well_formed=True)
    return Response(
        problem_id="p", text=text, index=index, source="pns", scores=scores, policy_logp=logp, n_tokens=tokens,
        sampling={"generator_logp": wrote},
    )  # fmt: skip


def chosen_of(rows: list[Response], how: str, seed: int = 0, lengths: Any = None, **part: Any) -> list[int]:
    found = pick(rows, NegativesPart(**part), None, plausible=False, how=how, seed=seed, lengths=lengths)
    return [r.index for r in found.get("p", [])]


def test_a_few_a_problem_without_near_duplicates() -> None:
    base = " ".join(f"w{i}" for i in range(20))
    texts = (f"{base} a", f"{base} b", "quite another")
    rows = [written(i, text, score=0.9 - 0.1 * i) for i, text in enumerate(texts)]
    assert chosen_of(rows, "best") == [0]
    assert chosen_of(rows, "best", per_problem=3) == [0, 1, 2]
    assert chosen_of(rows, "best", per_problem=3, near_duplicate=0.1) == [0, 2]
    repeated = [*rows, written(3, texts[0], score=0.95)]
    assert chosen_of(repeated, "best", per_problem=9) == [0, 1, 2], "equal texts count once"


def test_lengths_are_matched_to_the_chosen_response() -> None:
    rows = [written(i, f"t{i}", tokens=n) for i, n in enumerate((4, 8, 10, 13, 30))]
    assert chosen_of(rows, "best", per_problem=9, length_ratio=1.5, lengths={"p": 10}) == [1, 2, 3]
    assert chosen_of(rows, "best", per_problem=9, lengths={"p": 10}) == [0, 1, 2, 3, 4]
    assert chosen_of(rows, "best", per_problem=9, length_ratio=1.5, lengths={"q": 10}) == [0, 1, 2, 3, 4], "unknown"


def share(how: str, rows: list[Response]) -> float:
    return sum(chosen_of(rows, how, seed)[0] == 0 for seed in range(1500)) / 1500


def test_drawing_by_score_and_by_policy_over_generator() -> None:
    rows = [written(0, "a", score=0.75), written(1, "b", score=0.25)]
    assert share("proportional", rows) == pytest.approx(0.75, abs=0.04)
    assert share("random", rows) == pytest.approx(0.5, abs=0.04)
    # p / q is 4 for the first and 1 for the second.
    rows = [written(0, "a", logp=-5.0, wrote=-5.0 - math.log(4)), written(1, "b", logp=-7.0, wrote=-7.0)]
    assert share("importance", rows) == pytest.approx(0.8, abs=0.04)
    assert chosen_of(rows, "importance", 3, per_problem=2) in ([0, 1], [1, 0])


def test_the_first_negative_of_every_problem_comes_before_anybodys_second() -> None:
    counts = {"a": 3, "b": 1, "c": 2}
    assert places(["a", "b", "c"], counts, 9) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)]
    assert places(["a", "b", "c"], counts, 4) == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    assert places(["a", "b", "c"], counts, 2) == [("a", 0), ("b", 0)]


FOUND = {
    "rejection": {str(i): [scored(str(i), 0, 0.0, "rejection")] for i in range(400)},
    "pns": {str(i): [scored(str(i), 0, 0.0, "pns")] for i in range(200, 600)},
}


def saying(text: str) -> Response:
    return scored("a", 0, 0.0, "pns").model_copy(update={"text": text})


def test_fill_takes_rejection_where_there_is_one() -> None:
    found = fill(FOUND, NegativesPart())
    assert len(found) == 600
    assert Counter(rows[0].source for rows in found.values()) == {"rejection": 400, "pns": 200}


def test_a_mixture_draws_by_weight_among_those_that_serve_a_problem() -> None:
    found = mixture(FOUND, {"rejection": 1, "pns": 3}, NegativesPart(), seed=0)
    again = mixture(FOUND, {"pns": 3, "rejection": 1}, NegativesPart(), seed=0)
    assert found == again, "the order of the weights does not matter"
    assert len(found) == 600
    both = Counter(found[str(i)][0].source for i in range(200, 400))
    assert 120 <= both["pns"] <= 175
    assert {found[str(i)][0].source for i in range(200)} == {"rejection"}
    assert mixture(FOUND, {"pns": 1}, NegativesPart(), seed=0) == FOUND["pns"]


def test_several_negatives_of_a_problem_come_from_several_methods() -> None:
    found = {
        "rejection": {"a": [saying("x"), saying("y")], "b": [saying("x")]},
        "pns": {"a": [saying("z")], "b": [saying(" x "), saying("v"), saying("w")], "c": [saying("u")]},
    }

    def texts(rows: Sequence[Response]) -> list[str]:
        return [r.text for r in rows]

    two = NegativesPart(per_problem=2)
    assert {i: texts(rows) for i, rows in fill(found, two).items()} == {"a": ["x", "y"], "b": ["x", "v"], "c": ["u"]}
    mixed = [mixture(found, {"rejection": 1, "pns": 1}, two, seed) for seed in range(200)]
    pairs = Counter(tuple(texts(m["a"])) for m in mixed)
    assert set(pairs) == {("x", "y"), ("x", "z"), ("z", "x")}, "each method's own order is kept"
    assert 70 <= pairs["z", "x"] <= 130
    assert all(len({text.strip() for text in texts(m["b"])}) == 2 for m in mixed), "the same words count once"
    near = NegativesPart(per_problem=3, near_duplicate=0.5)
    long = {"rejection": {"a": [saying("1 2 3 4")]}, "pns": {"a": [saying("1 2 3 5"), saying("6 7 8 9")]}}
    assert texts(fill(long, near)["a"]) == ["1 2 3 4", "6 7 8 9"]
