"""Where steps begin and end, and which first wrong step the rules decide; what they must leave undecided."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import rows
from pns.evaluation.first_errors import (
    NOTHING_FOUND,
    RIGHT_ANSWER,
    SHARED,
    UNREAD,
    Chosen,
    common_steps,
    first_error,
    numbers_differ,
)
from pns.evaluation.texts import split_steps, step_spans
from pns.negatives.rules import corruption, flip

MIA = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 apples to Tom. How many apples does Mia have now?"
RIGHT = ["12 + 5 = 17", "17 - 3 = 14", "The answer is \\boxed{14}."]

# Steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("One.\n\nTwo,\nstill two.\n \nThree.", ["One.", "Two,\nstill two.", "Three."]),
        ("One,\ntwo.\n\nThree.", ["One,", "two.", "Three."]),
        ("One.\r\nTwo.", ["One.", "Two."]),
        ("One. Two is 2.5. $3$ is three. \\(4\\) too.", ["One.", "Two is 2.5.", "$3$ is three.", "\\(4\\) too."]),
        ("So\n\\[\nx = 3\n\\]\nThat is all.", ["So", "\\[\nx = 3\n\\]", "That is all."]),
        ("$$\n1\n$$\nA.\n\\begin{align*}\na\n\\end{align*}", ["$$\n1\n$$", "A.", "\\begin{align*}\na\n\\end{align*}"]),
        ("Not closed \\[\none\n$$ two", ["Not closed \\[", "one", "$$ two"]),
        ("3 + 4\n= 7\nSo 7.", ["3 + 4\n= 7", "So 7."]),
        ("  \n One.\n", ["One."]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_steps(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


PIECES = ["\n", "\n\n", " ", "\\[", "\\]", "$$", "```", "\\begin{a}", "\\end{a}", "2 + 3", "= 5", "A. ", "B", "\r"]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join))
def test_the_steps_together_are_the_text_and_none_is_blank(text: str) -> None:
    spans = step_spans(text)
    assert "".join(text[begin:end] for begin, end in spans) == (text if text.strip() else "")
    assert all(text[begin:end].strip() for begin, end in spans)


@pytest.mark.parametrize(
    "piece", ["\\[", "$$", "\\begin{a}", "\n", "\n ", "```\n", "A. ", "1+1=3\n", "2 + 3\n= ", "\\boxed{"]
)
def test_hostile_texts_end_soon(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    begun = time.process_time()
    steps = split_steps(text) or ["-"]
    first_error(MIA, steps, "wrong", Chosen(steps, "correct"))
    assert time.process_time() - begun < 5


# Rules


def test_a_false_statement_behind_steps_that_were_read() -> None:
    for steps in (
        ["12 + 5 = 17", "17 - 3 = 15", "15 + 1 = 17", "\\boxed{17}"],
        ["Let us see.", "12 + 5 = 18", "\\boxed{18}"],  # nothing to be read
    ):
        for outcome in ("wrong", "undecided", None):
            label = first_error(MIA, steps, outcome)
            assert (label.step, label.by) == (1, "arithmetic")


def test_a_false_statement_behind_others_decides_nothing() -> None:
    steps = ["Mia has 13 apples at first.", "13 + 5 = 19", "\\boxed{19}"]
    label = first_error(MIA, steps, "wrong")
    assert (label.step, label.by, label.why, label.at_latest) == (None, None, UNREAD, 1)
    label = first_error(MIA, steps, "wrong", any_false=True)
    assert (label.step, label.by) == (1, "arithmetic")
    beside = Chosen(["Mia has 13 apples at first.", "13 + 5 = 18"], "correct")
    assert first_error(MIA, steps, "wrong", beside).step == 1, "the chosen response vouches for the step before"
    assert first_error(MIA, steps, "wrong", Chosen(beside.steps, "wrong")).step is None, "a wrong one does not"


def test_a_false_statement_that_the_chosen_response_has_too() -> None:
    steps = ["12 + 5 = 18", "18 - 3 = 15", "\\boxed{15}"]
    assert first_error(MIA, steps, "wrong", Chosen([*steps[:1], "\\boxed{14}"], "correct")).why == SHARED


def test_a_right_answer_is_no_negative() -> None:
    assert first_error(MIA, ["12 + 5 = 18", "\\boxed{14}"], "correct").why == RIGHT_ANSWER


def test_the_answer_is_the_wrong_step_where_all_before_it_leads_elsewhere() -> None:
    label = first_error(MIA, [*RIGHT[:2], "The answer is \\boxed{20}."], "wrong")
    assert (label.step, label.by) == (2, "consistency")
    assert first_error(MIA, ["12 + 5 = 17\n17 - 3 = 14, so \\boxed{20}"], "wrong").step == 0


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([*RIGHT[:2], "The answer is \\boxed{20}."], "undecided"),
        ([*RIGHT[:2], "The answer is \\boxed{20}."], None),
        (RIGHT, "wrong"),  # the steps lead to it
        ([*RIGHT[:2], "The answer is \\boxed{17}."], "wrong"),  # an earlier result may be what is asked for
        ([*RIGHT[:2], "Half of it is \\boxed{7}."], "wrong"),  # a step in words
        ([*RIGHT[:2], "With 6 more, \\boxed{20}."], "wrong"),
        ([*RIGHT[:2], "Mia had 20 at first.", "\\boxed{20}"], "wrong"),  # a step that was not read
        ([*RIGHT[:2], "\\boxed{20}", "20 - 6 = 14"], "wrong"),  # it goes on
        (["12 + 5 = 17", "17 / 2 = 8.5", "\\boxed{8}"], "wrong"),  # rounded
        (["3 - 12 = -9", "\\boxed{9}"], "wrong"),  # another sign
        (["88 - 70 = 18", "\\boxed{20}"], "wrong"),  # numbers from nowhere: there may be other mistakes
        ([*RIGHT[:2], "The answer is \\boxed{\\text{twenty}}."], "wrong"),
        (["By symmetry.", "\\boxed{20}"], "wrong"),
    ],
)
def test_what_is_no_contradiction(steps: list[str], outcome: str | None) -> None:
    label = first_error(MIA, steps, outcome)  # type: ignore[arg-type]
    assert (label.step, label.why) == (None, NOTHING_FOUND)


def test_the_only_step_that_differs() -> None:
    carried = ["12 + 5 = 17", "17 + 3 = 20", "The answer is \\boxed{20}."]
    label = first_error(MIA, carried, "wrong", Chosen(RIGHT, "correct"))
    assert (label.step, label.by) == (1, "only_step")
    first = ["12 - 5 = 7", "7 - 3 = 4", "The answer is \\boxed{4}."]
    assert first_error(MIA, first, "wrong", Chosen(RIGHT, "correct")).step == 0
    words = ["By symmetry.", "So it is \\boxed{14}."]
    assert first_error(MIA, ["By symmetry.", "So it is \\boxed{9}."], "wrong", Chosen(words, "correct")).step == 1


@pytest.mark.parametrize(
    ("steps", "outcome", "chosen_outcome"),
    [
        (["12 + 5 = 17", "17 + 3 = 20", "\\boxed{20}."], None, "correct"),
        (["12 + 5 = 17", "17 + 3 = 20", "The answer is \\boxed{20}."], "wrong", "undecided"),
        (["12 - 5 = 7", "7 + 3 = 10", "The answer is \\boxed{10}."], "wrong", "correct"),  # two steps differ
        (["12 - 5 = 7", "17 + 3 = 20", "The answer is \\boxed{20}."], "wrong", "correct"),
        (["12 + 5 = 17", "17 + 3 = 20", "So we get \\boxed{20}."], "wrong", "correct"),  # other words
        (["12 + 5 = 17", "17 + 3 = 20", "20 + 1 = 21", "The answer is \\boxed{21}."], "wrong", "correct"),
    ],
)
def test_what_is_not_the_only_step(steps: list[str], outcome: str | None, chosen_outcome: str) -> None:
    label = first_error(MIA, steps, outcome, Chosen(RIGHT, chosen_outcome))  # type: ignore[arg-type]
    assert (label.step, label.why) == (None, NOTHING_FOUND)


def test_common_steps_and_other_numbers() -> None:
    assert common_steps(["a  b", "c"], ["a b", "d"]) == 1
    assert common_steps(["a"], ["a", "b"]) == 1
    assert common_steps([], ["a"]) == 0
    assert not numbers_differ("12 + 5 = 17", "5 and 12 make 17")
    assert numbers_differ("1,000 apples", "1 apple")
    assert not numbers_differ("9" * 50_000, "9" * 50_000)


def test_on_negatives_by_rule_every_label_is_the_step_that_was_changed() -> None:
    """GSM8K's solutions, flipped and corrupted: the wrong step is known. docs/negatives.md has all rows."""
    shares = {}
    for name, rule in (("flip", flip), ("corruption", corruption)):
        rng, made, decided = random.Random(0), 0, 0
        for row in rows("math/gsm8k.test.jsonl")[:100]:
            solution = re.sub("<<[^<>]*>>", "", row["solution"])
            text = f"{solution}\nThe answer is \\boxed{{{row['answer']}}}."
            changed = rule(text, rng, answer_format="boxed", top=None)
            if changed is None:
                continue
            chosen, steps = split_steps(text), split_steps(changed)
            label = first_error(row["problem"], steps, "wrong", Chosen(chosen, "correct"))
            made, decided = made + 1, decided + (label.step is not None)
            if label.step is not None:
                assert label.step == next(i for i, (a, b) in enumerate(zip(chosen, steps, strict=False)) if a != b)
        shares[name] = (made, decided)
    assert shares == {"flip": (100, 100), "corruption": (73, 54)}
