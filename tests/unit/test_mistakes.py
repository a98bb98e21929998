"""Kinds of mistake on embedded problems: every misreading is found by its name, and nothing else is called one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pns.problems import embedded
from pns.problems.families import BENCHMARKS, Event, Story, misreadings, render, solve
from pns.problems.mistakes import mistake
from pns.recipe_files import load_recipe
from pns.records import Response, write_parquet
from pns.run import Run

ROOT = Path(__file__).parents[2]
STORY = Story(
    shape="chain", start=20, events=(Event("gain", "+", 5, ""), Event("give", "-", 3, "")), distractors=((0, 7, ""),),
    owner="Mia", object="pens", opening="", question="", order=(0, 1),
)  # fmt: skip


def text(*steps: str, answer: int) -> str:
    lines = [f"Step {i}: {step}" for i, step in enumerate(steps, 1)]
    return "\n".join([*lines, f"The answer is \\boxed{{{answer}}}"])


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        ("right", text("20 + 5 = 25", "25 - 3 = 22", answer=22)),
        ("right", text("20 + 2 = 22", answer=22)),
        ("giving_reversed", text("20 + 5 = 25", "25 + 3 = 28", answer=28)),
        ("event_skipped", text("20 + 5 = 25", answer=25)),
        ("distractor_used", text("20 + 7 = 27", "27 + 5 = 32", "32 - 3 = 29", answer=29)),
        ("slip", text("20 + 5 = 26", "26 - 3 = 23", answer=23)),
        ("slip", text("20 + 5 = 25", "25 / 2 = 12", answer=12)),
        ("other_reading", text("20 - 5 = 15", "15 - 3 = 12", answer=12)),
        ("other_reading", text("7 + 5 = 12", "12 - 3 = 9", answer=9)),
        ("stray_number", text("20 + 6 = 26", "26 - 3 = 23", answer=23)),
        ("broken", text("20 + 5 = 25", "25 - 3 = 22", answer=21)),
        ("broken", text("20 + 5 = 25", "24 - 3 = 21", answer=21)),
        ("broken", "20 + 5 = 25\nThe answer is \\boxed{25}"),
        ("broken", "The answer is \\boxed{25}"),
        ("broken", ""),
    ],
)
def test_a_mistake_by_hand(kind: str, response: str) -> None:
    assert mistake(STORY, response) == kind


def test_every_misreading_of_real_stories_is_named() -> None:
    named = 0
    for story, problem in embedded.training_stories("pairs", 200, 3):
        assert mistake(story, problem.solution or "") == "right"
        seen: list[object] = []
        for kind, steps in misreadings(story):
            if steps not in seen:  # two misreadings may be one derivation; the first one names it
                assert mistake(story, render(steps)) == kind
                named += 1
            seen.append(steps)
        assert solve(story)[-1][3] == int(problem.answer)
    assert named > 200


def test_stories_come_with_the_problems_that_are_published() -> None:
    rows = list(embedded.benchmark_stories("longer", 5, 1))
    assert [p for _, p in rows] == embedded.benchmark_problems("longer", 5, 1)
    rows = list(embedded.training_stories("sft", 20, 1, 0.34))
    assert [p for _, p in rows] == embedded.training_problems("sft", 20, 1, 0.34)


def test_the_program_says_what_it_needs(tmp_path: Path) -> None:
    Run.create(tmp_path, "resume")
    file = ROOT / "studies" / "embedded.yaml"
    found = subprocess.run(
        [sys.executable, ROOT / "studies" / "mistakes.py", file, tmp_path, "--seeds", "1"],
        capture_output=True, text=True, cwd=ROOT, check=False, env={"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert found.returncode == 2
    assert "tuning is not over, so there is nothing to report" in found.stderr


def mistakes_rounds(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "studies" / "mistakes_rounds.py", ROOT / "recipes" / "smoke.yaml", *map(str, words)],
        capture_output=True, text=True, cwd=ROOT, check=False, env={"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip


def test_models_of_rounds_are_compared_by_kind(tmp_path: Path) -> None:
    """pns answers all rightly with both seeds; rejection reads nothing rightly with the second."""
    size = load_recipe(ROOT / "recipes" / "smoke.yaml")[0].problems.benchmark_size
    labels = {"policy": "test-rlvr", "pns": "r1-test-align-pns-own", "rejection": "r1-test-align-rejection-own"}
    for seed in (1, 2):
        for name, label in labels.items():
            folder = tmp_path / "stages" / f"s{seed}-{label}-0123456789"
            folder.mkdir(parents=True)
            for benchmark in BENCHMARKS:
                problems = embedded.benchmark_problems(benchmark, size, seed)
                wrong = name == "rejection" and seed == 2
                rows = [
                    Response(
                        problem_id=p.id,
                        text="no answer" if wrong else p.solution or "",
                        index=0,
                        source="s",
                        model=name,
                    )
                    for p in problems
                ]
                write_parquet(folder / f"sampled-{benchmark}.parquet", rows)
    out = tmp_path / "out.json"
    found = mistakes_rounds(tmp_path, "--json", out)
    assert found.returncode == 0, found.stderr
    told = json.loads(out.read_text())
    assert told["seeds"] == [1, 2]
    assert told["shares"]["pns"] == told["shares"]["policy"] == {"right": 1.0}
    assert told["shares"]["rejection"]["right"] == 0.5
    right = told["pns_minus_rejection"]["right"]
    assert right["difference"] == 0.5
    assert right["ci95_t"] == [pytest.approx(0.5 - 12.706 * 0.5, abs=1e-2), pytest.approx(0.5 + 12.706 * 0.5, abs=1e-2)]
    assert "sft_chosen" not in told["shares"], "it was not tested"


def test_rounds_that_answered_nothing_are_told(tmp_path: Path) -> None:
    found = mistakes_rounds(tmp_path)
    assert found.returncode == 2
    assert "no policy has answered the benchmarks there" in found.stderr
