"""The audit of judges against human step labels: its figures by hand, and what undecided does to them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pns.errors import UserError
from pns.evaluation.processbench import (
    Chain,
    Labeller,
    Locator,
    Reading,
    RubricJudge,
    StepChecker,
    answer_of,
    evaluate,
    load_chains,
)
from pns.records import Rubric
from pns.rewards.judging import EachJudge

MIA = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 apples to Tom. How many apples does Mia have now?"


def chain(
    label: int, name: str = "a", steps: tuple[str, ...] = ("12 + 5 = 17", "17 - 3 = 14, so \\boxed{14}")
) -> Chain:
    return Chain(id=name, problem=f"{MIA} ({name})", steps=steps, label=label)


def figures(chains: Sequence[Chain], readings: Sequence[Reading], locates: bool = True) -> dict[str, Any]:
    return evaluate(chains, readings, locates=locates, samples=200, seed=0)


def test_f1_by_hand() -> None:
    """Of four erroneous chains two are located, of two correct ones one is left alone: F1 of 0.5 and 0.5."""
    chains = [chain(label, str(i)) for i, label in enumerate([0, 1, 1, 0, -1, -1])]
    readings = [Reading(0, 0), Reading(0, 1), Reading(0, 0), Reading(12, -1), Reading(12, -1), Reading(0, 1)]
    out = figures(chains, readings)
    assert out["f1"]["accuracy_erroneous"]["value"] == 0.5
    assert out["f1"]["accuracy_correct"]["value"] == 0.5
    assert out["f1"]["f1"]["value"] == 0.5
    low, high = out["f1"]["f1"]["ci95"]
    assert 0 <= low < 0.5 < high <= 1
    assert (out["n"], out["erroneous"], out["undecided"]) == (6, 4, 0)


def test_undecided_is_a_failure_in_one_and_left_out_of_the_other() -> None:
    chains = [chain(label, str(i)) for i, label in enumerate([0, 1, -1, -1])]
    readings = [Reading(0, 0), Reading(cause="server: down"), Reading(12, -1), Reading(cause="server: down")]
    out = figures(chains, readings)
    assert (out["f1"]["f1"]["value"], out["f1_decided"]["f1"]["value"]) == (0.5, 1.0)
    assert (out["undecided"], out["causes"], out["f1_decided"]["n"]) == (2, {"server: down": 2}, 2)
    assert out["auc"] == {"value": 1.0, "ci95": [1.0, 1.0], "n_correct": 1, "n_erroneous": 1}


def test_nothing_decided_gives_no_figure_and_nothing_located_is_no_zero() -> None:
    chains = [chain(0, "a"), chain(-1, "b")]
    out = figures(chains, [Reading(cause="x"), Reading(cause="x")])
    assert (out["auc"], out["f1_decided"]["f1"], out["detection"]["found"]) == (None, None, None)
    assert out["f1"]["f1"]["value"] == 0.0
    assert figures(chains, [Reading(3), Reading(12)], locates=False)["f1"] is None


def test_how_often_the_step_that_is_named_is_the_one() -> None:
    chains = [chain(label, str(i)) for i, label in enumerate([0, 1, 0, -1, 1, -1])]
    readings = [Reading(0, 0), Reading(0, 0), Reading(0, 1), Reading(0, 1), Reading(cause="x"), Reading(12, -1)]
    named = figures(chains, readings)["named"]
    assert (named["n"], named["late"], named["early"], named["no_error"]) == (4, 1, 1, 1)
    assert named["exact"]["value"] == 0.25
    assert figures(chains, [Reading(cause="x")] * 6)["named"]["exact"] is None
    assert figures(chains, readings, locates=False)["named"] is None


def test_the_labels_of_the_export_are_read_like_any_evaluator() -> None:
    wrong = chain(1, steps=("12 + 5 = 17", "17 - 3 = 15", "\\boxed{15}"))
    unread = chain(1, steps=("There are 13.", "17 - 3 = 15", "\\boxed{15}"))
    right = wrong.model_copy(update={"final_answer_correct": True})
    assert [r.first_error for r in Labeller().read([wrong, unread, right])] == [1, None, None]
    assert [r.first_error for r in Labeller(any_false=True).read([unread])] == [1]
    assert Labeller().read([right])[0].cause == "its answer is right"


def test_detection_counts_totals_below_nine() -> None:
    chains = [chain(label, str(i)) for i, label in enumerate([0, 0, -1, -1])]
    out = figures(chains, [Reading(8, 0), Reading(9, 0), Reading(12, -1), Reading(0, 1)])
    assert out["detection"]["found"]["value"] == 0.5
    assert out["detection"]["false_alarms"]["value"] == 0.5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=4, max_size=30))
def test_auc_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    chains = [chain(0 if bad else -1, str(i)) for i, (bad, _) in enumerate(rows)]
    out = figures(chains, [Reading(total) for _, total in rows], locates=False)
    if len({bad for bad, _ in rows}) < 2:
        assert out["auc"] is None
    else:
        expected = roc_auc_score([not bad for bad, _ in rows], [total for _, total in rows])
        assert out["auc"]["value"] == pytest.approx(expected)


def test_chains_of_one_problem_are_resampled_together() -> None:
    """Ten copies of two problems say no more than the two: the interval is as wide as theirs."""
    two = [chain(0, "a"), chain(0, "b"), chain(-1, "c"), chain(-1, "d")]
    readings = [Reading(0, 0), Reading(12, -1), Reading(12, -1), Reading(12, -1)]
    few, many = figures(two, readings), figures(two * 10, readings * 10)
    assert many["problems"] == few["problems"] == 4
    assert many["f1"]["accuracy_erroneous"] == few["f1"]["accuracy_erroneous"]


def test_the_step_checker_names_the_first_wrong_step() -> None:
    wrong = ("12 + 5 = 17", "17 - 3 = 15", "15 + 1 = 17, so \\boxed{17}")
    right, located, silent = StepChecker().read([chain(-1), chain(1, steps=wrong), chain(0, steps=("By symmetry.",))])
    assert (right.total, right.first_error) == (12, -1)
    assert (located.first_error, (located.total or 0) < 9) == (1, True)
    assert (silent.total, silent.first_error, silent.cause) == (None, None, "no arithmetic statement found")


def test_a_judge_gives_totals_and_its_failures_their_cause() -> None:
    def judge(problem: str, response: str, answer: str | None) -> Any:
        assert answer == "14"
        return Rubric(relevance=3, coherence=2, completeness=3, consistency=3) if "(a)" in problem else 1 / 0

    good, failed = RubricJudge(EachJudge(judge)).read([chain(-1, "a"), chain(-1, "b")])
    assert (good.total, good.first_error) == (11, None)
    assert failed.total is None
    assert failed.cause == "server: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("said", "expected", "cause"),
    [
        (1, 1, None),
        (-1, -1, None),
        (None, None, "it cannot say"),
        (7, None, "not the index of a step: 7"),
        (True, None, "not the index of a step: True"),
        ("1", None, "not the index of a step: '1'"),
    ],
)
def test_a_users_locator(said: Any, expected: int | None, cause: str | None) -> None:
    [reading] = Locator(lambda problem, steps: said).read([chain(1)])
    assert (reading.first_error, reading.cause) == (expected, cause)


def test_the_answer_of_a_chain() -> None:
    assert answer_of(chain(-1)) == "14"
    assert answer_of(chain(-1, steps=("12 + 5 = 17", "So Mia has 1,014 apples."))) == "1,014"
    assert answer_of(chain(-1, steps=("By symmetry.",))) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "a", "problem": "p", "steps": [], "label": -1}', "steps"),
        ('{"id": "a", "problem": "p", "steps": ["x"], "label": 1}', "label 1"),
        ('{"id": "a", "problem": "p", "steps": ["x"], "label": "none"}', "label"),
        ("{broken", "not valid JSON"),
        ("", "no rows"),
    ],
)
def test_bad_files_are_told_plainly(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=words) as error:
        load_chains(path)
    assert str(path) in str(error.value)


def test_the_step_checker_on_real_chains() -> None:
    """It is no judge of mathematics, but what it calls wrong is: few chains that humans call right are touched."""
    given_path = os.environ.get("PNS_DATA")
    root = Path(given_path) if given_path else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    for name, most in (("gsm8k", 0), ("math", 6), ("olympiadbench", 5)):
        chains = load_chains(root / "processbench" / f"{name}.jsonl")
        right = [c for c in chains if c.label < 0]
        alarms = [c.id for c, r in zip(right, StepChecker().read(right), strict=True) if (r.first_error or -1) >= 0]
        assert len(alarms) <= most, alarms


def test_on_real_chains_the_labels_of_the_export_are_mostly_exact() -> None:
    """Few are decided. The figures stand in docs/negatives.md."""
    given_path = os.environ.get("PNS_DATA")
    root = Path(given_path) if given_path else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    found = {}
    for name in ("gsm8k", "math"):
        chains = load_chains(root / "processbench" / f"{name}.jsonl")[:400]
        given = [(r.first_error, c.label) for c, r in zip(chains, Labeller().read(chains), strict=True)]
        found[name] = [sum(a is not None for a, _ in given), sum(a == b for a, b in given)]
    assert found == {"gsm8k": [9, 8], "math": [7, 6]}


def test_the_files_of_the_benchmark_are_read_whole() -> None:
    given_path = os.environ.get("PNS_DATA")
    root = Path(given_path) if given_path else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    rows = {p.stem: len(load_chains(p)) for p in sorted((root / "processbench").glob("*.jsonl"))}
    assert rows == {"gsm8k": 400, "math": 1000, "olympiadbench": 1000}
    first = json.loads((root / "processbench" / "gsm8k.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert load_chains(root / "processbench" / "gsm8k.jsonl")[0].steps == tuple(first["steps"])
