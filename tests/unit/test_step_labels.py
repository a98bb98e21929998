"""Negatives from files, their labels, rows of ProcessBench and pairs of Step-DPO."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pns.errors import UserError
from pns.evaluation.first_errors import NOTHING_FOUND, RIGHT_ANSWER, UNREAD
from pns.evaluation.negative_rows import Negative, NegativeColumns, read_negatives
from pns.evaluation.processbench import Chain, Labeller, Reading, load_chains
from pns.evaluation.step_labels import (
    NONE_SEEN,
    PASSED_OVER,
    TOO_LONG,
    Labelled,
    chosen_chains,
    details,
    label_negatives,
    rejected_chains,
    step_pairs,
    summary,
)
from pns.records import Pair, Problem, Response, to_jsonl, write_parquet
from pns.verify import Verifier

MIA = "Mia has 12 apples and finds 5. She gives 3 to Tom. How many?"
RIGHT = "12 + 5 = 17\n17 - 3 = 14\nThe answer is \\boxed{14}."
FALSE = "12 + 5 = 17\n17 - 3 = 15\nThe answer is \\boxed{15}."
FLIP = "12 + 5 = 17\n17 - 3 = 14\nThe answer is \\boxed{20}."
CARRIED = "12 + 5 = 17\n17 + 3 = 20\nThe answer is \\boxed{20}."
OTHER = "12 + 5 = 17\nTwice 3 are given.\n17 - 6 = 11\nThe answer is \\boxed{11}."
VAGUE = "By symmetry.\nThe answer is \\boxed{11}."


def negative(
    rejected: str, line: int = 1, chosen: str | None = RIGHT, gold: str | None = "14", **more: Any
) -> Negative:
    problem = Problem(id="p", problem=MIA, answer=gold) if gold else None
    return Negative(line, MIA, rejected, more.get("method", "m"), chosen, problem)


def labelled(*rows: Negative, **more: Any) -> list[Labelled]:
    with Verifier() as verifier:
        return label_negatives(rows, verifier, **more)


# Reading


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_conversations_and_half_a_surrogate_pair(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "p"}
    said = [{"role": "assistant", "content": "half \ud800"}]
    plain = write(tmp_path / "a.jsonl", {"prompt": "p", "rejected": "half \ud800", "chosen": "x"})
    talk = write(tmp_path / "b.jsonl", {"prompt": [ask], "rejected": said, "chosen": "x"})
    whole = write(tmp_path / "c.jsonl", {"rejected": [ask, *said], "chosen": "x"})
    for path in (plain, talk, whole):
        assert read_negatives(path, NegativeColumns()) == [Negative(1, "p", "half \ufffd", "negatives", "x")]


def test_the_files_of_a_run_need_no_options(tmp_path: Path) -> None:
    pair = Pair(problem_id="p", method="pns", prompt=MIA, chosen=RIGHT, rejected=FALSE, chosen_answer="14")
    write_parquet(tmp_path / "pairs.parquet", [pair])
    [found] = read_negatives(tmp_path / "pairs.parquet", NegativeColumns())
    assert (found.method, found.chosen, found.gold and found.gold.answer) == ("pns", RIGHT, "14")
    response = Response(problem_id="p", text=FALSE, index=0, source="rejection", sampling={"t": 1})
    write_parquet(tmp_path / "negatives.parquet", [response])
    problem = Problem(id="p", problem=MIA, answer="14", tolerance=0.5)
    [found] = read_negatives(tmp_path / "negatives.parquet", NegativeColumns(), {"p": problem})
    assert found == Negative(1, MIA, FALSE, "rejection", None, problem)


@pytest.mark.parametrize(
    ("row", "columns", "field", "words"),
    [
        ({"prompt": "p", "rejected": " "}, NegativeColumns(), "rejected", "missing"),
        ({"rejected": "r"}, NegativeColumns(), "rejected", "prompt is missing"),
        ({"prompt": "p", "response": "r"}, NegativeColumns(), "rejected", "no such column"),
        ({"prompt": "p", "rejected": "r"}, NegativeColumns(gold="gold"), "gold", "no such column"),
        ({"prompt": "p", "rejected": 1.5, "chosen": {}}, NegativeColumns(), "chosen", "an object"),
    ],
)
def test_bad_rows_are_told_plainly(tmp_path: Path, row: Any, columns: NegativeColumns, field: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_negatives(write(tmp_path / "x.jsonl", row), columns)
    assert caught.value.field == field


def test_problems_are_found_by_id(tmp_path: Path) -> None:
    known = {"p": Problem(id="p", problem=MIA, answer="14")}
    path = write(tmp_path / "x.jsonl", {"problem_id": "q", "rejected": "r"})
    with pytest.raises(UserError, match="no problem has the id 'q'"):
        read_negatives(path, NegativeColumns(), known)
    with pytest.raises(UserError, match="has gold answers, too"):
        read_negatives(path, NegativeColumns(gold="rejected"), known)
    with pytest.raises(UserError, match="no such column"):
        read_negatives(write(tmp_path / "y.jsonl", {"rejected": "r"}), NegativeColumns(), known)


# Labels


def test_labels_of_every_kind() -> None:
    found = labelled(*(negative(text, i) for i, text in enumerate([FALSE, FLIP, CARRIED, OTHER, VAGUE, RIGHT])))
    assert [row.label.by for row in found] == ["arithmetic", "consistency", "only_step", None, None, None]
    assert [row.label.step for row in found] == [1, 2, 1, None, None, None]
    assert [row.label.why for row in found[3:]] == [NOTHING_FOUND, NOTHING_FOUND, RIGHT_ANSWER]
    assert [row.diverges_at for row in found] == [1, 2, 1, 1, 0, None]
    assert found[0].rejected.outcome == "wrong"


def test_without_gold_and_without_chosen() -> None:
    found = labelled(*(negative(text, gold=None, chosen=None) for text in (FALSE, FLIP, CARRIED)))
    assert [row.label.step for row in found] == [1, None, None]
    assert [row.rejected.outcome for row in found] == [None] * 3


def test_a_repeated_response_counts_once_and_the_first_stays() -> None:
    found = labelled(negative(FALSE, 1), negative(FLIP, 2), negative(FALSE, 3, method="n"))
    assert [(row.negative.line, row.negative.method) for row in found] == [(1, "m"), (2, "m")]
    assert summary(found, 3)["copies"] == 1


ELSEWHERE = "5 + 12 = 17\n17 - 3 = 14\nThe answer is \\boxed{14}."


@pytest.mark.parametrize("sides", [(RIGHT, ELSEWHERE), (ELSEWHERE, RIGHT), (None, ELSEWHERE, RIGHT, RIGHT)])
def test_a_response_beside_several_chosen_ones_loses_none_of_them(sides: tuple[str | None, ...]) -> None:
    rows = labelled(*(negative(CARRIED, i, chosen=side) for i, side in enumerate(sides)))
    assert {row.label.by for row in rows} == {"only_step"}, "decided beside one of them, and so beside all"
    [pair], out = step_pairs(rows)
    assert pair["full_chosen"] == "17 - 3 = 14\nThe answer is \\boxed{14}."
    assert out["it leaves the chosen response before its first wrong step"] == 1
    assert {c.steps[0] for c in chosen_chains(rows, "f")[0]} == {"12 + 5 = 17", "5 + 12 = 17"}
    [chain] = rejected_chains(rows, "f")
    assert (chain.id, chain.label) == ("f-0", 1)
    assert len(list(details(rows, "f"))) == 1
    found = summary(rows, len(sides))
    assert (found["responses"], found["labelled"], found["copies"]) == (1, 1, len(sides) - 1)


def test_a_judge_is_asked_once_about_a_response_and_a_twin_with_a_gold_answer_helps() -> None:
    rows = [negative(OTHER, 1, chosen=ELSEWHERE), negative(OTHER, 2), negative(CARRIED, 3, ELSEWHERE)]
    found = labelled(*rows, negative(CARRIED, 4), read=reading(1))
    assert [(row.label.step, row.label.by) for row in found] == [(1, "judge")] * 2 + [(1, "only_step")] * 2
    for golds in ((None, "14"), ("14", None)):
        rows = [negative(FLIP, i, gold=gold) for i, gold in enumerate(golds)]
        assert [row.label.by for row in labelled(*rows)] == ["consistency"]


def test_long_texts_are_left_alone() -> None:
    long = "1 + 1 = 3\n" * 3000
    [row] = labelled(negative(long), read=lambda chains: pytest.fail("the judge was asked"))
    assert (row.label.why, row.rejected.steps) == (TOO_LONG, ())
    [row] = labelled(negative(FALSE, chosen=long))
    assert (row.label.step, row.diverges_at) == (1, None)
    assert step_pairs([row])[1] == Counter({TOO_LONG: 1})


def reading(*steps: int | None) -> Any:
    def read(chains: Sequence[Chain]) -> list[Reading]:
        assert len(chains) == len(steps)
        return [Reading(first_error=step, cause=None if step is not None else "down", failed=True) for step in steps]

    return read


def test_a_judge_is_asked_about_what_rules_leave_open() -> None:
    rows = [negative(text, i) for i, text in enumerate([FALSE, VAGUE, OTHER, OTHER + "\n", RIGHT])]
    found = labelled(*rows, read=reading(0, -1, None))
    assert [(row.label.step, row.label.by) for row in found] == [
        (1, "arithmetic"), (0, "judge"), (None, None), (None, None), (None, None),
    ]  # fmt: skip
    assert [row.label.why for row in found[2:]] == [NONE_SEEN, "the judge failed: down", RIGHT_ANSWER]
    assert summary(found, 5)["undecided"] == {NONE_SEEN: 1, "the judge failed": 1, RIGHT_ANSWER: 1}


def test_a_judge_is_not_believed_behind_a_false_statement() -> None:
    text = "There were 13.\n13 + 5 = 19\nThe answer is \\boxed{19}."
    for said, step, why in ((0, 0, ""), (1, 1, ""), (2, None, PASSED_OVER), (-1, None, PASSED_OVER)):
        [row] = labelled(negative(text), read=reading(said))
        assert (row.label.step, row.label.why) == (step, why)
    [row] = labelled(negative(text))
    assert (row.label.why, row.label.at_latest) == (UNREAD, 1)


# ProcessBench


def test_rows_of_processbench_come_back_as_they_were(tmp_path: Path) -> None:
    hostile = '\u2028 {"id": "a"}\n1 + 1 = 3\x1b[m\n\\boxed{9} \U0001f600'
    found = labelled(negative(FALSE, 1), negative(VAGUE, 2), negative(hostile, 7, method="[red]", gold=None))
    chains = rejected_chains(found, "pairs")
    path = tmp_path / "out.jsonl"
    path.write_text(to_jsonl(chains))
    assert load_chains(path) == chains
    rows = [json.loads(line) for line in path.read_text().strip().split("\n")]
    assert all(set(row) == {"id", "generator", "problem", "steps", "final_answer_correct", "label"} for row in rows)
    assert rows[0] == {
        "id": "pairs-1", "generator": "m", "problem": MIA, "steps": FALSE.split("\n"), "final_answer_correct": False,
        "label": 1,
    }  # fmt: skip
    assert (rows[1]["id"], rows[1]["generator"], rows[1]["final_answer_correct"]) == ("pairs-7", "[red]", None)
    assert [r.first_error for r in Labeller().read(load_chains(path))] == [row["label"] for row in rows]


def test_chosen_responses_are_without_error_only_where_nothing_speaks_against_it() -> None:
    odd = "12 + 5 = 18\nso \\boxed{14}"
    rows = labelled(
        negative(FALSE, 1), negative(FLIP, 2), negative(VAGUE, 3, chosen=odd), negative(OTHER, 4, chosen=CARRIED),
        negative("x", 5, chosen=None), negative("y", 6, chosen="1\n" * 20_000),
    )  # fmt: skip
    kept, out = chosen_chains(rows, "f")
    assert [(c.id, c.generator, c.label, c.final_answer_correct) for c in kept] == [("f-1-chosen", "chosen", -1, True)]
    assert out == {"a false statement": 1, "its answer is not verified correct": 1, TOO_LONG: 1}
    assert chosen_chains(rows, "f", reading(0)) == ([], out + Counter(["the judge does not find all steps right"]))
    assert chosen_chains(rows, "f", reading(-1))[0] == kept


def test_details_have_the_undecided_too() -> None:
    shown = list(details(labelled(negative(FALSE, 1), negative(VAGUE, 2)), "f"))
    assert [(d["id"], d["label"], d["decided_by"], d["why"]) for d in shown] == [
        ("f-1", 1, "arithmetic", None), ("f-2", None, None, NOTHING_FOUND),
    ]  # fmt: skip
    assert [d["diverges_at"] for d in shown] == [1, 0]


def test_figures_of_each_method() -> None:
    rows = labelled(negative(FALSE, 1), negative(FLIP, 2, method="flip"), negative(VAGUE, 3))
    found = summary(rows, 3)
    assert (found["rows"], found["responses"], found["labelled"]) == (3, 3, 2)
    assert found["by"] == {"arithmetic": 1, "consistency": 1}
    assert found["position"] == {"quartiles": (0.625, 0.75, 0.875), "fifths": [0, 0, 1, 0, 1]}
    assert found["methods"]["flip"] == {
        "responses": 1, "labelled": 1, "by": {"consistency": 1}, "undecided": {},
        "position": {"quartiles": (1, 1, 1), "fifths": [0, 0, 0, 0, 1]},
    }  # fmt: skip


# Step-DPO


def test_a_pair_of_steps_stands_behind_what_both_share() -> None:
    [pair], out = step_pairs(labelled(negative(FALSE)))
    assert not out
    assert pair == {
        "dataset": "m", "prompt": MIA, "initial_reason_steps": "12 + 5 = 17\n", "chosen": "17 - 3 = 14",
        "rejected": "17 - 3 = 15", "full_chosen": "17 - 3 = 14\nThe answer is \\boxed{14}.",
        "full_rejected": "17 - 3 = 15\nThe answer is \\boxed{15}.", "answer": "14", "decided_by": "arithmetic",
    }  # fmt: skip
    assert pair["initial_reason_steps"] + pair["full_chosen"] == RIGHT


def test_what_decides_a_pair() -> None:
    rows = labelled(*(negative(text, i) for i, text in enumerate([FALSE, FLIP, CARRIED, OTHER])))
    assert [p["decided_by"] for p in step_pairs(rows)[0]] == ["arithmetic", "consistency", "only_step", "divergence"]
    assert step_pairs(rows)[0][3]["rejected"] == "Twice 3 are given."
    judged = labelled(negative(OTHER), read=reading(1))
    assert [p["decided_by"] for p in step_pairs(judged)[0]] == ["judge"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (negative(VAGUE), NOTHING_FOUND),  # nothing is shared: any way to begin may be right
        (negative(OTHER, gold=None), NOTHING_FOUND),
        (negative("12 + 5 = 17\nOf 17 she gives 3: 17 - 3 = 14\nThat is all."), NOTHING_FOUND),  # the same numbers
        (negative(FALSE, chosen=None), "no chosen response"),
        (negative(FALSE, chosen="12 + 5 = 17"), "one response is the beginning of the other"),
        (negative(FALSE, chosen=CARRIED), "the chosen answer is wrong"),
        (negative("5 + 12 = 17\n17 - 3 = 15\n\\boxed{15}"), "it leaves the chosen response before its first wrong step"),
        (negative("12 + 5 = 17\n17 - 3 = 15\n\\boxed{15}", chosen="12 + 5 = 17\n17 - 3 = 16\n\\boxed{14}"),
         "a false statement in the chosen step, or before it"),
        (negative(RIGHT + " ", chosen="12 + 2 = 14\nso \\boxed{14}"), RIGHT_ANSWER),
    ],
)  # fmt: skip
def test_what_gives_no_pair(row: Negative, why: str) -> None:
    assert step_pairs(labelled(row)) == ([], Counter({why: 1}))


def test_a_judge_that_finds_nothing_wrong_makes_no_candidate_and_the_same_pair_stands_once() -> None:
    assert step_pairs(labelled(negative(OTHER), read=reading(-1))) == ([], Counter({NONE_SEEN: 1}))
    rows = labelled(negative(FALSE, 1), negative(FALSE.replace("The", "So the"), 2))
    pairs, out = step_pairs(rows)
    assert (len(pairs), out) == (1, Counter({"the same pair as another row": 1}))
