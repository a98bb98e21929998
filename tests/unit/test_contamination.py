"""Overlap of a training set with benchmarks: the rules, both directions, and the shipped data."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.errors import UserError
from pns.problems import contamination
from pns.problems.contamination import (
    Overlap,
    Rule,
    covered,
    distinct,
    drop_overlap,
    grams,
    overlaps,
    repeats,
    text_key,
    words_of,
)
from pns.problems.files import Statement
from pns.problems.registry import load
from pns.problems.splits import normalise
from pns.recipe_files import load_recipe
from pns.records import Problem, read_parquet, to_jsonl
from pns.run import read_json
from pns.stages import data
from pns.stages.context import Context
from pns.stages.data import make_problems

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
LONG = "A farmer plants twelve rows of corn and nine rows of beans, then sells half of the corn at the market on Monday"


def problem(identity: str, text: str, answer: str = "1") -> Problem:
    return Problem(id=identity, problem=text, answer=answer)


def seen(found: Sequence[Overlap]) -> set[tuple[str, str, str, str, float]]:
    return {(p.benchmark, p.problem.id, p.train.id, p.rule, round(p.share, 6)) for p in found}


def both(
    train: Sequence[Problem], benchmarks: Mapping[str, Sequence[Problem]], rule: Rule | None = None
) -> list[Overlap]:
    """The pairs, after making sure that the side in memory changes nothing."""
    one = list(overlaps(iter(train), benchmarks, rule, hold="benchmarks"))
    other = list(overlaps(train, {name: iter(rows) for name, rows in benchmarks.items()}, rule, hold="train"))
    assert seen(one) == seen(other)
    assert len(one) == len(other) == len(seen(one))
    return one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x^{2}+3 x$.", "find  $x^2 + 3x$"),
        (r"Is $\dfrac{1}{2} < \left( x \right)$?", r"Is \[\frac{1}{2}<(x)\]"),
        (r"It has $10{,}000$ rows", r"it has $10,\!000$ rows."),
        (r"$1 + 2 + \cdots + 9 \text{ and } 3$", "$1+2+...+9$ and $3$"),
        (r"\quad Let $a=0.$", "Let $a = 0$"),
    ],
)
def test_the_looks_of_a_text_do_not_matter(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)
    assert words_of(one) == words_of(other) or "3 x" in one  # `3x` is two words, too


@pytest.mark.parametrize(
    ("one", "other"),
    [("3.5 kg", "35 kg"), ("x + 1", "x - 1"), ("1/2", "12"), ("1 2", "12"), ("(1,2)", "(12)"), (r"\sin x", r"\cos x")],
)
def test_what_changes_a_problem_changes_its_key(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)


@given(st.text(st.sampled_from("aB1 0.,-'?!$\"\nÉß:{}\\"), max_size=30) | st.text(max_size=30))
def test_the_key_sees_through_whatever_normalise_sees_through(text: str) -> None:
    assert text_key(text) == text_key(f" {text}\n")
    if "\\" not in text and "{" not in text and "~" not in text and ".." not in text:
        assert text_key(text) == text_key(normalise(text))


def test_share_is_the_part_of_the_benchmark_problem_that_one_training_problem_has() -> None:
    tail = "how much money does the farmer take home in the end if each row brings nine dollars"
    bench = problem("b", f"{LONG}; {tail}?")
    words = len(words_of(bench.problem))
    whole = problem("t", f"Read this. {bench.problem} Explain!", "2")
    half = problem("h", f"{LONG}, and goes home.")
    [found] = both([half], {"x": [bench]}, Rule(share=0.1))
    assert (found.rule, found.share) == ("ngram", len(words_of(LONG)) / words)
    assert found.same_answer
    assert [p.share for p in both([whole], {"x": [bench]})] == [1.0]
    assert both([half], {"x": [bench]}, Rule(share=0.99)) == []
    # Two halves in two training problems are no whole in one.
    other_half = problem("o", f"Tell me {tail}.")
    assert both([half, other_half], {"x": [bench]}, Rule(share=0.7)) == []


def test_short_problems_are_compared_by_their_text_alone() -> None:
    bench = problem("b", "What is $2 + 2$?")
    inside = problem("t", f"{LONG}. What is 2 + 2? Think.")
    same = problem("s", "what is 2+2")
    assert seen(both([inside, same], {"x": [bench]})) == {("x", "b", "s", "text", 1.0)}


def test_numbers_can_be_masked() -> None:
    bench, twin = problem("b", LONG.replace("twelve", "12")), problem("t", LONG.replace("twelve", "15"), "7")
    rule = Rule(n=5)
    plain, masked = both([twin], {"x": [bench]}, rule), both([twin], {"x": [bench]}, Rule(n=5, mask_numbers=True))
    assert [p.share < 1 for p in plain] == [True]
    assert [(p.share, p.rule, p.same_answer) for p in masked] == [(1.0, "ngram", False)]
    assert words_of("3.5 of x2", mask_numbers=True) == ["#", "of", "x", "#"]


def test_same_answer_is_unknown_without_an_answer() -> None:
    found = list(overlaps([Statement("row-1", LONG, None)], {"x": [problem("b", LONG)]}))
    assert [p.same_answer for p in found] == [None]


@pytest.mark.parametrize("bad", [{"n": 1}, {"share": 0.0}, {"share": 1.5}])
def test_a_rule_has_bounds(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Rule(**bad)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12), st.integers(2, 4))
def test_covered_is_what_counting_each_word_gives(words: list[int], others: list[int], n: int) -> None:
    theirs = grams(others, n)
    inside = [
        any(tuple(words[start : start + n]) in theirs and start <= i < start + n for start in range(len(words) - n + 1))
        for i in range(len(words))
    ]
    assert covered(words, theirs, n) == (sum(inside) / len(words) if words else 0.0)


@given(st.integers(0, 10_000))
def test_pairs_are_those_of_comparing_all_with_all(seed: int) -> None:
    rng = random.Random(seed)
    rule = Rule(n=3, share=0.4)
    rows = [problem(str(i), " ".join(rng.choices("abcde", k=rng.randint(1, 12)))) for i in range(12)]
    train, bench = rows[:6], rows[6:]
    expected = set()
    for t in train:
        for b in bench:
            if text_key(t.problem) == text_key(b.problem):
                expected.add(("x", b.id, t.id, "text", 1.0))
                continue
            ids = {word: i for i, word in enumerate("abcde")}
            mine, theirs = ([ids[w] for w in words_of(p.problem)] for p in (b, t))
            share = covered(mine, grams(theirs, rule.n), rule.n)
            if share >= rule.share:
                expected.add(("x", b.id, t.id, "ngram", round(share, 6)))
    assert seen(both(train, {"x": bench}, rule)) == expected


def test_a_phrase_of_every_problem_brings_nothing_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "MAX_POSTING", 3)
    rows = [problem(f"b{i}", f"{LONG} number{'abcdef'[i]}") for i in range(6)]
    train = problem("t", f"{LONG} and more")
    assert len(both([train], {"x": rows[:3]})) == 3
    assert list(overlaps([train], {"x": rows})) == []
    # The same text is found however often it is there.
    assert [p.rule for p in overlaps([rows[0]], {"x": rows})] == ["text"]


def test_pairs_come_one_at_a_time() -> None:
    def endless() -> object:
        number = 0
        while True:
            number += 1
            yield problem(str(number), LONG)

    found = overlaps(endless(), {"x": [problem("b", LONG)]})  # type: ignore[arg-type]
    assert [next(found).train.id for _ in range(3)] == ["1", "2", "3"]


def test_dropping_keeps_order_and_tells_all_pairs() -> None:
    pool = [
        problem("a", "One?"),
        problem("b", f"Please: {LONG}"),
        problem("c", "what is 2 plus 2"),
        problem("d", "Two?"),
    ]
    benchmarks = {"x": [problem("x1", "What is 2 plus 2?")], "y": [problem("y1", LONG), problem("y2", f"{LONG}!")]}
    kept, found = drop_overlap(pool, benchmarks)
    assert [p.id for p in kept] == ["a", "d"]
    assert {(p.benchmark, p.problem.id, p.train.id) for p in found} == {
        ("y", "y1", "b"),
        ("y", "y2", "b"),
        ("x", "x1", "c"),
    }


def test_repeats_and_their_conflicts() -> None:
    rows = [
        problem("a", "How many?", "1"),
        problem("b", "Who?"),
        problem("c", "how many ?", "$1$"),
        problem("d", "HOW MANY", "2"),
    ]
    assert [(r.ids, r.conflict) for r in repeats(rows)] == [(("a", "c", "d"), True)]
    assert not repeats(rows[:3])[0].conflict
    assert [p.id for p in distinct(rows)] == ["a", "b"]


def test_the_problems_stage_leaves_out_what_overlaps_and_says_so(tmp_path: Path) -> None:
    names = ["apples", "pears", "plums", "nuts", "figs", "dates", "limes", "kiwis"]
    pool = [
        Problem(id=f"p{i}", problem=f"How many {name} are {i} {name}?", answer=str(i), solution=f"{i} of them.")
        for i, name in enumerate(names)
    ]
    bad = [problem("near", f"Please: {LONG}, right?", "7"), problem("same", "what is 2+2")]
    (tmp_path / "train.jsonl").write_text(to_jsonl([bad[0], *pool, bad[1]]))
    (tmp_path / "bench.jsonl").write_text(to_jsonl([problem("b1", LONG), problem("b2", "What is 2 + 2?")]))
    splits = "{sft: 1, rlvr: 1, reward: 4, audit: 4, generator: 1, pairs: 1, dev: 1}"
    overrides = [
        "problems.source=jsonl", "problems.misread_share=0", f"problems.train_file={tmp_path / 'train.jsonl'}",
        f"problems.benchmarks={{b: {tmp_path / 'bench.jsonl'}}}", f"problems.splits={splits}",
        "rlvr.steps=1", "rlvr.prompts_per_step=1", "generator.steps=1", "generator.prompts_per_step=1",
    ]  # fmt: skip
    recipe = load_recipe(SMOKE, overrides)[0]
    # 8 problems are left for 13: the two that overlap are gone before the splits are made.
    context = Context(recipe, "problems", tmp_path, {}, lambda done, total: None)
    with pytest.raises(UserError, match=r"need 13 problems .* there are 8 different ones"):
        make_problems(context)
    more = [problem(f"q{i}", f"What is {i} and {i + 1} and {i + 2}?", str(i)) for i in range(9)]
    (tmp_path / "train.jsonl").write_text(
        to_jsonl([bad[0], *(p.model_copy(update={"solution": "So."}) for p in more), *pool, bad[1]])
    )
    make_problems(context)
    summary = read_json(tmp_path / "summary.json")
    [note] = summary["notes"]
    assert "2 training problems overlap with b and were left out (1 have the same text" in note
    assert "['near', 'same']" in note
    used = {
        p.id
        for name in recipe.problems.splits.model_dump()
        for p in read_parquet(tmp_path / f"{name}.parquet", Problem)
    }
    assert not used & {"near", "same"}
    assert summary["sizes"]["benchmark-b"] == 2


@pytest.mark.parametrize("form", ["So \\boxed{%s}.", "So.\n#### %s"])
def test_solutions_that_contradict_the_gold_answer_are_counted(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def made(answers: Mapping[int, str]) -> Any:
        rows = [problem(f"q{i}", f"What is {i} and {i + 1} and {i + 2}?", str(i)) for i in range(20)]
        rows = [p.model_copy(update={"solution": form % answers.get(i, p.answer)}) for i, p in enumerate(rows)]
        (tmp_path / "train.jsonl").write_text(to_jsonl(rows))
        (tmp_path / "bench.jsonl").write_text(to_jsonl([problem("b", "What is 2 + 2?")]))
        overrides = [
            "problems.source=jsonl", "problems.misread_share=0", f"problems.train_file={tmp_path / 'train.jsonl'}",
            f"problems.benchmarks={{b: {tmp_path / 'bench.jsonl'}}}",
            "problems.splits={sft: 8, rlvr: 1, reward: 4, audit: 4, generator: 1, pairs: 1, dev: 1}",
            "rlvr.steps=1", "rlvr.prompts_per_step=1", "generator.steps=1", "generator.prompts_per_step=1",
        ]  # fmt: skip
        recipe = load_recipe(SMOKE, overrides)[0]
        make_problems(Context(recipe, "problems", tmp_path, {}, lambda done, total: None, note=told.append))
        return read_json(tmp_path / "summary.json")

    clean = made({})
    assert (clean["notes"], "solutions" in clean) == ([], False), "the digest of good data is what it was"
    found = made(dict.fromkeys(range(20), "999"))
    assert found["solutions"] == {"looked_at": 8, "correct": 0, "wrong": 8, "undecided": 0}
    assert "sft: 8 of the 8 solutions that were looked at end in another answer than the gold one" in found["notes"][0]
    assert told == found["notes"], "it is said while the run goes on, too"
    assert len(read_parquet(tmp_path / "sft.parquet", Problem)) == 8, "they are counted, not left out"
    monkeypatch.setattr(data, "LOOKED_AT", 3)
    assert made(dict.fromkeys(range(20), "999"))["solutions"]["looked_at"] == 3


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Problem]]:
    """The shipped sets that the tests below need."""
    given_path = os.environ.get("PNS_DATA")
    folder = Path(given_path) if given_path else Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "math").is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNS_DATA", str(folder))
        names = ("math-train", "olympiadbench", "math500", "gsm8k-train", "gsm8k", "asdiv", "mawps",
                 "minerva-math", "aime24", "aime25", "amc23")  # fmt: skip
        return {name: load(name).problems for name in names}


# MATH training problem -> row of OlympiadBench. 2791 and 2890 are those that the data folder's README names.
SAME = {
    "train/intermediate_algebra/753.json": "olympiadbench-2791",
    "train/intermediate_algebra/1087.json": "olympiadbench-2890",
    "train/intermediate_algebra/815.json": "olympiadbench-2895",
    "train/precalculus/1184.json": "olympiadbench-2644",
}
NEAR = {
    "train/intermediate_algebra/1984.json": "olympiadbench-2607",
    "train/precalculus/685.json": "olympiadbench-2794",
}


@pytest.mark.parametrize("turned", [False, True])
def test_math_problems_that_stand_in_olympiadbench(sets: dict[str, list[Problem]], turned: bool) -> None:
    train, bench = ("olympiadbench", "math-train") if turned else ("math-train", "olympiadbench")
    found = both(sets[train], {bench: sets[bench]})
    pairs = {rule: {(p.train.id, p.problem.id) for p in found if p.rule == rule} for rule in ("text", "ngram")}
    expected = [{(o, m) if turned else (m, o) for m, o in known.items()} for known in (SAME, NEAR)]
    assert [pairs["text"], pairs["ngram"]] == expected
    assert all(p.same_answer for p in found)


@pytest.mark.parametrize(
    ("train", "bench", "problems", "train_problems", "same_text"),
    [
        ("gsm8k-train", "gsm8k", 1, 2, 0),
        ("math-train", "math500", 38, 74, 0),
        ("asdiv", "mawps", 388, 299, 276),
        ("math-train", "minerva-math", 0, 0, 0),
        ("math-train", "aime24", 0, 0, 0),
        ("math-train", "aime25", 0, 0, 0),
        ("math-train", "amc23", 0, 0, 0),
    ],
)
def test_what_the_shipped_sets_share(
    sets: dict[str, list[Problem]], train: str, bench: str, problems: int, train_problems: int, same_text: int
) -> None:
    found = list(overlaps(sets[train], {bench: sets[bench]}))
    assert len({p.problem.id for p in found}) == problems
    assert len({p.train.id for p in found}) == train_problems
    assert sum(p.rule == "text" for p in found) == same_text


def test_asdiv_and_mawps_share_243_texts(sets: dict[str, list[Problem]]) -> None:
    assert len({text_key(p.problem) for p in sets["asdiv"]} & {text_key(p.problem) for p in sets["mawps"]}) == 243
