"""The embedded problems: right solutions, wrong but self-consistent misreadings, disjoint splits, benchmarks."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pns.problems import embedded, families
from pns.problems.families import BENCHMARKS, LIMIT, TRAINING_MIX, Shape
from pns.problems.splits import normalise
from pns.recipe import SPLITS
from pns.records import Problem
from pns.rewards.arithmetic import find_steps
from pns.rewards.steps import judge_steps

SHAPES = [shape for _, shape in TRAINING_MIX] + list(BENCHMARKS.values())
shapes = st.sampled_from(SHAPES)
seeds = st.integers(0, 2**31 - 1)
BOX = re.compile(r"\\boxed\{(\d+)\}")


def boxed(text: str) -> str:
    (answer,) = BOX.findall(text)
    return str(answer)


def faceless(problem: Problem) -> str:
    """A statement with its people and things numbered in the order in which they appear."""
    text = problem.problem
    for kind in (families.NAMES, families.OBJECTS):
        found = dict.fromkeys(re.findall(rf"\b(?:{'|'.join(kind)})\b", text))
        for i, word in enumerate(found):
            text = re.sub(rf"\b{word}\b", f"{kind is families.NAMES}{i}", text)
    return text


@given(seeds, shapes)
@settings(max_examples=300, deadline=None)
def test_a_story_stays_in_range_and_its_solution_is_right(seed: int, shape: Shape) -> None:
    story = families.make_story(random.Random(seed), shape)
    steps = families.solve(story)
    text = families.statement(story)
    value = story.start
    for left, operator, right, result in steps:
        assert left == value
        assert eval(f"{left} {operator} {right}") == result
        assert 0 <= result <= LIMIT
        value = result
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    assert all(0 <= n <= LIMIT for n in numbers)
    solution = families.render(steps)
    assert boxed(solution) == str(value)
    assert all(step.right for step in find_steps(solution))
    rubric = judge_steps(text, solution, str(value))
    # A story may undo and repeat a step, or hold more numbers to ignore than to use: the judge then takes off a point.
    assert rubric.relevance == rubric.coherence == rubric.consistency == 3
    assert text.endswith("?")
    assert "{" not in text


def test_the_judge_gives_right_solutions_full_marks_nearly_always() -> None:
    rng = random.Random(0)
    totals = []
    for _ in range(500):
        story = families.make_story(rng, rng.choice(SHAPES))
        text = families.render(families.solve(story))
        totals.append(judge_steps(families.statement(story), text, boxed(text)).total)
    assert sum(total == 12 for total in totals) >= 490


@given(seeds, shapes)
@settings(max_examples=300, deadline=None)
def test_misreadings_are_wrong_and_consistent_with_themselves(seed: int, shape: Shape) -> None:
    story = families.make_story(random.Random(seed), shape)
    right = families.solve(story)[-1][3]
    for kind, steps in families.misreadings(story):
        text = families.render(steps)
        rubric = judge_steps(families.statement(story), text, boxed(text))
        assert boxed(text) != str(right), kind
        assert all(0 <= result <= LIMIT for *_, result in steps)
        assert (rubric.coherence, rubric.consistency) == (3, 3), (kind, text)


def test_every_kind_of_misreading_occurs() -> None:
    rng = random.Random(0)
    seen = {kind for _ in range(500) for kind, _ in families.misreadings(families.make_story(rng, rng.choice(SHAPES)))}
    assert {"distractor_used", "giving_reversed", "halves_as_minus_two", "doubles_as_plus_two", "event_skipped"} <= seen


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Problem]]:
    return {name: embedded.training_problems(name, 400, 0, 0.34 if name == "sft" else 0.0) for name in SPLITS}


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, list[Problem]]:
    return {name: embedded.benchmark_problems(name, 300, 0) for name in BENCHMARKS}


def test_splits_and_benchmarks_share_no_story(
    splits: dict[str, list[Problem]], benchmarks: dict[str, list[Problem]]
) -> None:
    groups = {**splits, "benchmarks": [p for rows in benchmarks.values() for p in rows]}
    for make in (faceless, lambda p: normalise(p.problem)):
        owner: dict[object, str] = {}
        for name, rows in groups.items():
            for problem in rows:
                assert owner.setdefault(make(problem), name) == name


def test_problems_of_a_split_are_distinct_and_do_not_depend_on_its_size(splits: dict[str, list[Problem]]) -> None:
    for name, rows in splits.items():
        assert len({p.problem for p in rows}) == len({p.id for p in rows}) == len(rows)
        assert embedded.training_problems(name, 50, 0, 0.34 if name == "sft" else 0.0) == rows[:50]
        assert embedded.training_problems(name, 50, 1)[0] != rows[0]


def test_the_seven_benchmarks_have_distinct_problems_of_their_own_shape(benchmarks: dict[str, list[Problem]]) -> None:
    assert len(benchmarks) == 7
    for rows in benchmarks.values():
        assert len({p.problem for p in rows}) == len(rows) == 300
        assert not any(p.meta for p in rows)
    steps = {name: sum(int(p.level or 0) for p in rows) / len(rows) for name, rows in benchmarks.items()}
    assert steps["longer"] >= steps["in_distribution"] + 1
    largest = {name: sum(int(p.answer) for p in rows) / len(rows) for name, rows in benchmarks.items()}
    assert largest["larger"] > largest["in_distribution"] + 10
    assert all(re.search(r"\b(more|fewer)\b.*\bthan\b", p.problem) for p in benchmarks["compared"])
    first, last = families.MARKERS[0], families.MARKERS[1]
    ordered = [p.problem.find(f"{first} ") < p.problem.find(f"{last} ") for p in benchmarks["reordered"]]
    assert sum(ordered) < len(ordered) * 0.7


def test_pairings_of_the_pairings_benchmark_never_occur_in_training(
    splits: dict[str, list[Problem]], benchmarks: dict[str, list[Problem]]
) -> None:
    def owned(problem: Problem) -> tuple[str, str]:
        found = re.search(r"How many (\w+) (?:does|do) (\w+) ", problem.problem)
        assert found is not None
        return found[2], found[1]

    trained = {owned(p) for rows in splits.values() for p in rows}
    assert not trained & {owned(p) for p in benchmarks["pairings"]}


def test_every_token_of_a_benchmark_occurs_in_training(benchmarks: dict[str, list[Problem]]) -> None:
    trained = embedded.words(p.problem for p in embedded.training_problems("sft", 4000, 0))
    for name, rows in benchmarks.items():
        assert embedded.words(p.problem for p in rows) <= trained, name


def test_the_share_of_misreadings_is_close_to_the_one_asked_for() -> None:
    rows = embedded.training_problems("sft", 3000, 0, 0.34)
    wrong = [p for p in rows if "misreading" in p.meta]
    assert 0.30 < len(wrong) / len(rows) < 0.37
    assert len({p.meta["misreading"] for p in wrong}) >= 4
    for problem in rows:
        assert problem.solution is not None
        if "misreading" in problem.meta:
            assert boxed(problem.solution) == problem.meta["target_answer"] != problem.answer
        else:
            assert boxed(problem.solution) == problem.answer
    assert not any("misreading" in p.meta for p in embedded.training_problems("sft", 300, 0))


def test_harder_stories_have_one_event_more_and_stay_in_range() -> None:
    plain = list(embedded.training_stories("pairs", 60, 1))
    harder = list(embedded.training_stories("pairs", 60, 1, more=1))
    assert min(len(s.events) for s, _ in harder) == 1 + min(len(s.events) for s, _ in plain)
    assert max(len(s.events) for s, _ in harder) == 4
    for name in embedded.BENCHMARKS:
        for story, problem in embedded.benchmark_stories(name, 10, 1, 1):
            assert all(0 <= c <= families.LIMIT for _, _, _, c in families.solve(story))
            assert problem.solution is not None
            assert len(problem.problem.split()) < 120
