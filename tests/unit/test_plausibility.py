"""The plausibility audit: readers of preference data, detectors, figures, words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pns.errors import UserError
from pns.evaluation.detectors import cross_validated, fit_length, fit_ngrams
from pns.evaluation.first_errors import UNREAD
from pns.evaluation.negative_rows import Negative
from pns.evaluation.plausibility import Audit, audit_pairs, first_false_statement, parts
from pns.evaluation.preferences import Preference, PreferenceColumns, drawn, enough, read_preferences
from pns.evaluation.step_labels import label_negatives
from pns.evaluation.texts import any_answer, split_steps
from pns.records import Problem
from pns.report.audit import _examples, build_audit_page, figure_rows, verdicts
from pns.verify import Verifier

RNG = random.Random(3)
COLUMNS = PreferenceColumns(method="method")


def solution(a: int, b: int, answer: int, opening: str = "We add.") -> str:
    return f"{opening}\n{a} + {b} = {a + b}\nThe answer is \\boxed{{{answer}}}."


def pairs(n: int, rejected: Any, method: str = "m") -> list[Preference]:
    out = []
    for i in range(n):
        a, b = RNG.randint(2, 50), RNG.randint(2, 50)
        prompt = f"Problem {i}: Mia has {a} apples and finds {b}. How many?"
        out.append(Preference(i + 1, prompt, solution(a, b, a + b), rejected(a, b), method, str(a + b)))
    return out


def flipped(a: int, b: int) -> str:
    return solution(a, b, a + b + 1)


def misread(a: int, b: int) -> str:
    return solution(a, b + 3, a + b + 3)


def leaky(a: int, b: int) -> str:
    return solution(a, b, a + b + 1, "Certainly, this is deliberately wrong.")


def long(a: int, b: int) -> str:
    return solution(a, b, a + b + 1, "We add. " * 6)


# Reading


CHAT = [
    {"role": "user", "content": "p1"},
    {"role": "assistant", "content": "right"},
]


def test_texts_and_conversations_read_alike(tmp_path: Path) -> None:
    plain = [{"prompt": "p1", "chosen": "right", "rejected": "wrong"}]
    talk = [{"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "wrong"}]}]
    implicit = [{"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "wrong"}]}]
    want = [Preference(1, "p1", "right", "wrong", "pairs")]
    for rows in (plain, talk, implicit):
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
        for name in ("x.jsonl", "x.parquet"):
            assert read_preferences(tmp_path / name, PreferenceColumns()) == want


@pytest.mark.parametrize(
    ("row", "columns", "field", "words"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": ""}, PreferenceColumns(), "rejected", "missing"),
        ({"prompt": "p", "chosen": "a"}, PreferenceColumns(), "rejected", "no such column (--rejected)"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, PreferenceColumns(), "prompt", "the prompt is missing"),
        ({"chosen": "a", "rejected": "b"}, PreferenceColumns(), "chosen", "the prompt is missing"),
        ({"prompt": "p", "chosen": [{"role": "user"}], "rejected": "b"}, PreferenceColumns(), "chosen", "no role"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, PreferenceColumns("ask"), "ask", "--prompt"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, PreferenceColumns(gold="g"), "g", "--gold"),
        ({"prompt": "p", "chosen": CHAT[:1], "rejected": "b"}, PreferenceColumns(), "chosen", "missing"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, row: Any, columns: PreferenceColumns, field: str, words: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        read_preferences(tmp_path / "x.jsonl", columns)
    assert (caught.value.field, words in str(caught.value)) == (field, True), caught.value


def test_a_method_of_few_problems_is_refused(tmp_path: Path) -> None:
    enough(pairs(10, flipped), 10, tmp_path)
    with pytest.raises(UserError, match=r"'m' has pairs for 9 problems"):
        enough(pairs(9, flipped), 10, tmp_path)


def numbered(method: str, problems: Sequence[int], each: int = 1) -> list[Preference]:
    return [Preference(0, f"p{n}", "right", f"wrong {k}", method) for n in problems for k in range(each)]


def kept(rows: list[Preference], limit: int, seed: int) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for pair in drawn(rows, limit, seed):
        out.setdefault(pair.method, []).append(pair.prompt)
    return out


@pytest.mark.parametrize("seed", range(4))
def test_a_limit_leaves_methods_the_problems_that_they_share(seed: int) -> None:
    """Of pns and rejection 20 problems of 80 and 60 are the same; flip has all of them, and corruption few."""
    rows = [
        *numbered("pns", range(80)), *numbered("rejection", range(60, 120)), *numbered("flip", range(120)),
        *numbered("corruption", [*range(55, 65), *range(200, 215)]),
    ]  # fmt: skip
    few = kept(rows, 12, seed)
    assert set(few["pns"]) == set(few["rejection"]) == set(few["flip"])
    assert {f"p{n}" for n in range(60, 65)} < set(few["corruption"]), "the baseline's before those of pns and flip"
    assert {len(found) for found in few.values()} == {12}
    more = kept(rows, 30, seed)
    assert set(more["pns"]) & set(more["rejection"]) == {f"p{n}" for n in range(60, 80)}
    assert (len(more["pns"]), len(more["rejection"]), len(more["corruption"])) == (30, 30, 25)
    assert kept(rows, 12, seed) == few
    assert kept(rows, 12, seed + 1)["pns"] != few["pns"], "another seed draws others"
    assert drawn(rows, 1000, seed) == rows


def test_a_limit_gives_every_problem_its_first_pair_before_any_its_second() -> None:
    rows = [*numbered("pns", range(30), each=3), *numbered("rejection", range(30))]
    few = kept(rows, 20, 1)
    assert few["pns"] == few["rejection"]
    many = kept(rows, 40, 1)
    assert len(set(many["pns"])) == len(set(many["rejection"])) == 30
    assert len(many["pns"]) == 40
    assert len({pair.rejected for pair in drawn(rows, 30, 1)}) == 3, "which is the first is drawn, too"


# Detectors


def auc(rows: list[Preference], fit: Any) -> float:
    figures, _ = audit_pairs(rows, Audit({"d": fit}, samples=50))
    return float(figures["m"]["detectors"]["d"]["auc"])


def test_length_is_seen_by_length_alone() -> None:
    assert auc(pairs(60, long), fit_length) > 0.95
    assert auc(pairs(60, flipped), fit_length) < 0.6


def test_words_are_seen_by_ngrams_on_problems_that_they_have_not_learned_from() -> None:
    assert auc(pairs(60, leaky), fit_ngrams) == 1.0
    assert auc(pairs(60, flipped), fit_ngrams) < 0.7, "only the last number differs, and differently for each problem"


def test_no_problem_is_learned_from_and_asked_about() -> None:
    """A detector that remembers what it has seen has nothing to say about the other problems."""
    rows = [pair for pair in pairs(30, flipped) for _ in range(3)]
    folds: list[set[str]] = []

    def remember(prompts: Sequence[str], texts: Sequence[str], labels: Any, seed: int) -> Any:
        seen = set(prompts)
        known = dict(zip(texts, labels, strict=True))
        asked: set[str] = set()
        folds.append(asked)

        def score(given: Sequence[str], responses: Sequence[str]) -> Any:
            assert not seen & set(given)
            asked.update(given)
            return np.array([float(known.get(text, 0.5)) for text in responses])

        return score

    chosen, rejected = cross_validated(rows, remember, folds=5)
    assert len(folds) == 5
    assert set().union(*folds) == {pair.prompt for pair in rows}
    assert sum(map(len, folds)) == 30, "each problem is asked about once"
    assert np.mean(chosen > rejected) < 0.3


def test_seeds_repeat() -> None:
    rows = pairs(30, misread)
    one, two = (cross_validated(rows, fit_ngrams, seed=4) for _ in range(2))
    assert np.array_equal(one[0], two[0])


# Figures


def test_steps_and_answers_in_any_format() -> None:
    assert [any_answer(t) for t in ("\\boxed{3}", "so\n#### 4", "<answer>5</answer>", "6")] == ["3", "4", "5", None]
    assert split_steps("One. Two is 2.\n") == ["One.", "Two is 2."]
    assert split_steps("One. Two.\n\n Three.") == ["One. Two.", "Three."]
    text = "2 + 3 = 5\n5 + 1 = 7\n7 + 1 = 8\n\\boxed{8}"
    assert first_false_statement(text) == pytest.approx(1 / 3)
    assert first_false_statement("2 + 3 = 5\n\\boxed{5}") is None


def test_figures_of_each_method() -> None:
    rows = [*pairs(20, flipped, "flip"), *pairs(20, misread, "misread"), *pairs(20, lambda a, b: "No idea.", "idle")]
    with Verifier() as verifier:
        figures, each = audit_pairs(rows, Audit({"length": fit_length}, verifier=verifier, samples=50))
    assert list(figures) == ["flip", "misread", "idle"]
    flip, other, idle = figures.values()
    assert (flip["pairs"], flip["problems"], len(each)) == (20, 20, 60)
    assert (flip["consistent"]["rejected"]["share"], other["consistent"]["chosen"]["share"]) == (0, 1)
    assert idle["consistent"]["rejected"] == {"share": None, "nothing_to_check": 20}
    assert idle["answers"]["none"] == 1
    assert flip["truth"] == {"chosen": {"correct": 20}, "rejected": {"wrong": 20}}
    assert idle["truth"]["rejected"] == {"undecided": 20}
    assert flip["edit_distance"]["quartiles"][1] < other["edit_distance"]["quartiles"][1] < 1
    assert flip["divergence"]["quartiles"][1] > 0.8
    assert idle["duplicates"] == {"exact": 19, "near": 0}
    assert [row["method"] for row in each[::20]] == ["flip", "misread", "idle"]
    assert all(0 <= row["edit_distance"] <= 1 for row in each)


def unread(a: int, b: int) -> str:
    """What stands before the false statement has numbers that nobody could check."""
    return f"Of {a} things {b} are more.\n{a} + {b} = {a + b + 1}\nThe answer is \\boxed{{{a + b + 1}}}."


def test_the_first_wrong_step_is_that_of_the_rules_and_not_the_first_false_statement() -> None:
    rows = [*pairs(10, flipped, "flip"), *pairs(10, misread, "misread"), *pairs(10, unread, "unread")]
    with Verifier() as verifier:
        figures, each = audit_pairs(rows, Audit(verifier=verifier))
        negatives = [
            Negative(p.line, p.prompt, p.rejected, p.method, p.chosen, Problem(id="p", problem=p.prompt, answer=p.gold))
            for p in rows
        ]
        exported = label_negatives(negatives, verifier)
    flip, other, open_ = (f["first_error"] for f in figures.values())
    assert (flip["by"], flip["quartiles"]) == ({"consistency": 10}, (1, 1, 1))
    assert (other["by"], other["quartiles"]) == ({"only_step": 10}, (0.5, 0.5, 0.5))
    assert (open_["decided"], open_["undecided"], open_["share"], open_["quartiles"]) == (0, 10, 0, None)
    assert open_["why"] == {UNREAD: 10}
    assert figures["unread"]["first_wrong_step"] == {"found": 1, "quartiles": (0.5, 0.5, 0.5)}
    assert figures["flip"]["first_wrong_step"]["found"] == 0
    assert [row["decided_by"] for row in each] == [row.label.by for row in exported]
    assert dict(figure_rows(figures))["  decided, undecided"] == ["10, 0", "10, 0", "0, 10"]
    assert dict(figure_rows(figures))["  by statement / answer / chosen side"][:2] == ["0 / 10 / 0", "0 / 0 / 10"]
    assert "The first wrong step is decided in 10 of 10 pairs (100.0 %), at 1.00 in the median" in verdicts(figures)[0]


def test_without_gold_answers_false_statements_alone_decide_the_first_wrong_step() -> None:
    """And where some pairs have one, it is said how many have none."""
    wrong = pairs(10, lambda a, b: f"We add.\n{a} + {b} = {a + b + 1}\n\\boxed{{{a + b + 1}}}", "false")
    rows = [*pairs(10, flipped, "flip"), *wrong]
    figures, _ = audit_pairs(rows, Audit())
    assert [f["first_error"]["decided"] for f in figures.values()] == [0, 10]
    assert (
        figures["false"]["first_error"] | {"share": 1, "with_gold": 0, "by": {"arithmetic": 10}}
        == figures["false"]["first_error"]
    )
    assert "decided in 0 of 10 pairs (0.0 %); without gold answers by false statements alone." in verdicts(figures)[0]
    with Verifier() as verifier:
        half = [replace(pair, gold=None) if i % 2 else pair for i, pair in enumerate(rows)]
        figures, _ = audit_pairs(half, Audit(verifier=verifier))
    assert (
        "decided in 5 of 10 pairs (50.0 %), at 1.00 in the median (0 first, 1 last); in 5 without"
        in verdicts(figures)[0]
    )


def test_a_rejected_response_is_compared_with_correct_rollouts_too() -> None:
    """The rollout is one word away and the chosen side many; two texts with the same words are one."""
    [*rows] = pairs(10, flipped)
    far = [replace(pair, chosen=f"By counting on his fingers he gets \\boxed{{{pair.gold}}}") for pair in rows]
    near = {pair.prompt: [pair.chosen, f"{pair.chosen} \n"] for pair in rows}
    alone, each = audit_pairs(far, Audit())
    more, _ = audit_pairs(far, Audit(correct=near))
    assert (alone["m"]["nearest"], more["m"]["nearest"]) == ({"chosen": 1, "rollouts": 0}, {"chosen": 1, "rollouts": 1})
    assert each[0]["compared"] == {"chosen": 1, "rollouts": 0}
    assert more["m"]["edit_distance"]["quartiles"][2] < 0.2 < 0.5 < alone["m"]["edit_distance"]["quartiles"][0]
    assert more["m"]["divergence"]["quartiles"][0] > alone["m"]["divergence"]["quartiles"][2]
    many, _ = audit_pairs(far, Audit(correct={prompt: [f"{n}" for n in range(40)] for prompt in near}))
    assert many["m"]["nearest"] == {"chosen": 1, "rollouts": 15}, "sixteen at most, the chosen one first"


def test_table_and_page_say_what_a_rejected_response_was_compared_with(tmp_path: Path) -> None:
    rows = pairs(10, flipped)
    for more, row, count, words in (
        ([], "words to the nearest chosen response, 0..1", ("  chosen responses a problem", ["1.00"]),
         "the nearest chosen response (1.0 of them a problem)"),
        (["a", "b"], "words to the nearest correct response, 0..1",
         ("  correct ones a problem: chosen + rollouts", ["1.00 + 2.00"]),
         "the nearest correct response (3.0 of them a problem: chosen side and the run&#39;s correct rollouts)"),
    ):  # fmt: skip
        figures, each = audit_pairs(rows, Audit(correct={pair.prompt: more for pair in rows}))
        said = figure_rows(figures)
        assert said[[name for name, _ in said].index(row) + 1] == count
        assert build_audit_page(figures, each, rows, {}, tmp_path).read_text().count(words) == 3, (
            "caption, its label, words"
        )


def test_near_copies_and_leaks() -> None:
    base = [*pairs(12, flipped)]
    words = " ".join(f"w{i}" for i in range(40))
    near = [Preference(90 + i, "one prompt", "right \\boxed{1}", f"{words} {i} \\boxed{{2}}", "near") for i in range(3)]
    figures, _ = audit_pairs([*base, *near, *pairs(12, leaky, "leaky")], Audit())
    assert figures["near"]["duplicates"] == {"exact": 0, "near": 2}
    assert (figures["leaky"]["leaks"], figures["m"]["leaks"]) == (
        {"chosen": 0, "rejected": 12},
        {"chosen": 0, "rejected": 0},
    )


class Fixed:
    """A reward model: as many points as `\\boxed{` stands before an even number; None for `idle`."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        self.read += zip(problems, texts, strict=True)
        return [None if text == "idle" else float(len(text)) for text in texts]


def test_the_reward_model_reads_each_text_once_and_what_it_cannot_score_is_left_out() -> None:
    model = Fixed()
    rows = pairs(10, flipped)
    rows = [*rows, *rows[:4], Preference(99, "other", "right", "idle", "m")]
    figures, each = audit_pairs(rows, Audit(reward_model=model, samples=50))
    found = figures["m"]["detectors"]["reward_model"]
    assert (found["n"], found["missing"]) == (14, 1)
    assert len(model.read) == len(set(model.read)) == 22
    assert "reward_model" not in each[-1]["scores"]
    assert each[0]["scores"]["reward_model"] == [len(rows[0].chosen), len(rows[0].rejected)]


def test_progress_names_each_part_and_counts_it_from_nothing_to_all() -> None:
    rows = [*pairs(12, flipped, "flip"), *pairs(12, misread, "misread")]
    told: dict[str, list[tuple[int, int]]] = {}
    with Verifier() as verifier:
        how = Audit({"length": fit_length, "ngrams": fit_ngrams}, Fixed(), verifier, folds=3, samples=20)
        audit_pairs(rows, how, lambda what, done, total: told.setdefault(what, []).append((done, total)))
    last = ["first wrong steps", "figures"]
    asked = ["length, flip", "ngrams, flip", "length, misread", "ngrams, misread"]
    assert [*told] == parts(rows, how) == [*asked, "reward model", "reading steps", "verifying answers", *last]
    for what, counts in told.items():
        total = counts[0][1]
        assert (counts[0], counts[-1]) == ((0, total), (total, total)), what
        assert counts == sorted(counts)
    assert {told[what][0][1] for what in asked} == {3}, "folds"
    bare = Audit()
    assert parts(rows, bare) == ["reading steps", *last]


# Words and page


def block(auc: float, low: float, high: float) -> dict[str, Any]:
    return {"auc": auc, "ci95": [low, high], "separable": auc, "separable_ci95": [low, high], "n": 9, "missing": 0}


def test_the_verdict_says_what_tells_and_what_is_fooled() -> None:
    figures, _ = audit_pairs([*pairs(20, misread, "pns"), *pairs(20, flipped, "rejection")], Audit())
    figures["pns"]["detectors"] = {
        "length": block(0.5, 0.45, 0.55), "ngrams": block(0.9, 0.85, 0.95), "reward_model": block(0.4, 0.35, 0.45),
    }  # fmt: skip
    figures["rejection"]["detectors"] = {
        "length": block(0.7, 0.65, 0.75), "ngrams": block(0.8, 0.7, 0.84), "reward_model": block(0.9, 0.85, 0.95),
    }  # fmt: skip
    pns, rejection = verdicts(figures)
    assert "told from chosen by n-grams (0.90)" in pns
    assert "hardly or not by length alone (0.50)" in pns
    assert "reward model (0.40) fooled" in pns
    assert "Harder to tell than rejection samples by length alone, reward model; easier by n-grams." in pns
    said = "Not consistent: 0.0 % are fully so, of the chosen 100.0 %; a false statement is found in "
    assert f"{said}0.0 %: in the others a number, a link or the answer does not follow." in rejection
    assert dict(figure_rows(figures))["steps and answer hold, rejected"][-1] == "0.0 %"
    figures["rejection"]["first_wrong_step"]["found"] = 0.95
    assert f"{said}95.0 %. " in verdicts(figures)[1]
    del figures["rejection"]
    assert "No rejection samples stand beside" in verdicts(figures)[-1]


def bare(rejected: str) -> str:
    """The verdict on 20 pairs, of which the chosen sides have a step and `rejected` says what the others have."""
    sides = {"none": lambda a, b: "No idea.", "some": lambda a, b: flipped(a, b) if a % 2 else "No idea."}
    figures, _ = audit_pairs(pairs(20, sides[rejected], "x"), Audit())
    figures["x"]["detectors"] = {"length": block(0.5, 0.45, 0.55)}
    return verdicts(figures)[0]


def test_every_verdict_stands_beside_the_share_of_consistent_steps() -> None:
    figures, _ = audit_pairs(pairs(20, misread, "x"), Audit())
    figures["x"]["detectors"] = {"length": block(0.5, 0.45, 0.55)}
    held = figures["x"]["consistent"]
    held["rejected"]["share"] = 0.6
    assert "Fully consistent: 60.0 % of the rejected, 100.0 % of the chosen." in verdicts(figures)[0]
    assert "Without a step" not in verdicts(figures)[0]
    assert "Fully consistent: an unknown share of the rejected, 100.0 % of the chosen." in bare("none")
    assert "Without a step to check: 20 rejected of 20 pairs." in bare("none")
    assert "Not consistent: 0.0 %" in bare("some")
    assert "rejected of 20 pairs" in bare("some")
    held["rejected"]["share"] = held["chosen"]["share"] = None
    assert "No step could be checked on either side, so whether they hold is unknown." in verdicts(figures)[0]


def test_of_answers_with_a_verdict_the_wrong_ones_are_counted() -> None:
    """Four answers to each problem: a right one in another spelling, two wrong ones, one that cannot be decided."""
    answers = ("7.0", "8", "9", "who knows")
    rows = [
        Preference(4 * i + j + 1, f"Problem {i}", solution(3, 4, 7), f"So \\boxed{{{text}}}.", "m", "7")
        for i in range(3)
        for j, text in enumerate(answers)
    ]
    with Verifier() as verifier:
        told, _ = audit_pairs(rows, Audit(verifier=verifier))
    assert told["m"]["truth"]["rejected"] == {"correct": 3, "wrong": 6, "undecided": 3}
    assert told["m"]["answers"]["distinct_a_problem"] == 2
    assert dict(figure_rows(told))["different wrong answers a problem"] == ["2.00"]
    plain, _ = audit_pairs(rows, Audit())
    assert plain["m"]["answers"]["distinct_a_problem"] == 4
    assert dict(figure_rows(plain))["different answers a problem"] == ["4.00"]


def test_the_page_shows_the_figures_and_escapes_all_text(tmp_path: Path) -> None:
    evil = "<script>alert(window)</script>"  # a digit in it would leave the first wrong step undecided
    rows = pairs(12, lambda a, b: f"{evil}\n{a} + {b} = {a + b + 1}\n\\boxed{{{evil}}}", method=f"m{evil}")
    figures, each = audit_pairs(rows, Audit({"length": fit_length, "ngrams": fit_ngrams}, samples=50))
    page = build_audit_page(figures, each, rows, {"file": evil, "seed": 0}, tmp_path)
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("<svg") == 3
    for name, _ in figure_rows(figures):
        assert name.strip() in text
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text
    assert page.read_bytes() == build_audit_page(figures, each, rows, {"file": evil, "seed": 0}, tmp_path).read_bytes()


@pytest.mark.parametrize("unit", [0.001, 1.0, 1000.0])
def test_examples_are_ranked_by_all_detectors_whatever_the_unit_of_the_reward_model(unit: float) -> None:
    """Raw scores in a large unit would rank the pairs alone, those in a small one not at all. `length` says nothing."""
    rows = pairs(12, flipped)
    _, each = audit_pairs(rows, Audit())
    gaps = {3: (-3, 0), 5: (0, -2), 7: (-1, 0), 9: (3, 3)}
    for i, row in enumerate(each):
        ngrams, reward = gaps.get(i, (2, 2))
        row["scores"] = {"ngrams": [ngrams, 0.0], "reward_model": [unit * reward, 0.0], "length": [0.5, 0.5]}
    shown = [(caption, example["id"]) for caption, example in _examples(each, rows)]
    fools, told = "m: fools the detectors most", "m: told most surely"
    assert shown == [(fools, "line 4"), (fools, "line 6"), (fools, "line 8"), (told, "line 10")]
