"""`pns audit judge` through the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pns.cli import app

pytestmark = pytest.mark.e2e

RIGHT = {
    "id": "r", "problem": "Mia has 12 apples and finds 5. How many?", "steps": ["12 + 5 = 17, so \\boxed{17}"], "label": -1,
    "final_answer_correct": True, "generator": "g",
}  # fmt: skip
WRONG = {
    **RIGHT,
    "id": "w",
    "problem": "Tom has 12 apples and finds 5.",
    "steps": ["Easy.", "12 + 5 = [red]18"],
    "label": 1,
}
SILENT = {**RIGHT, "id": "s", "problem": "Prove it.", "steps": ["By symmetry."], "label": 0}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", "judge", *map(str, words)])
    return done.exit_code, done.output


def test_the_step_checker_by_default(tmp_path: Path) -> None:
    write(tmp_path / "some.jsonl", RIGHT, {**WRONG, "steps": ["Easy.", "12 + 5 = 18"]}, SILENT)
    out = tmp_path / "figures.json"
    code, said = run("--data", tmp_path, "--out", out)
    assert code == 0, said
    assert "some" in said
    assert "no arithmetic statement found" in said
    kept = json.loads(out.read_text())
    assert kept["subsets"]["some"]["f1_decided"]["f1"]["value"] == 1.0
    assert [r["first_error"] for r in kept["readings"]["some"]] == [-1, 1, None]
    assert kept["settings"]["evaluator"] == "steps"


def test_a_judge_and_a_locator_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_audit.py").write_text(
        "from pns.records import Rubric\n"
        "def judge(problem, response, answer):\n"
        "    full = 3 if 'Mia' in problem else 0\n"
        "    return Rubric(relevance=full, coherence=full, completeness=full, consistency=full)\n"
        "def locate(problem, steps):\n"
        "    return len(steps) - 1 if 'Tom' in problem else -1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = write(tmp_path / "some.jsonl", RIGHT, WRONG)
    code, said = run("--data", file, "--function", "mine_for_audit:judge")
    assert (code, "locates no" in said, "1.000" in said) == (0, True, True), said
    code, said = run("--data", file, "--first-error", "mine_for_audit:locate")
    assert (code, "100.0 %" in said) == (0, True), said
    recipe = tmp_path / "r.yaml"
    recipe.write_text("reward: {judge: 'mine_for_audit:judge'}\n")
    assert run("--data", file, "--recipe", recipe)[0] == 0
    assert run("--data", file, "--recipe", recipe, "reward.judge=none")[0] == 2


@pytest.mark.parametrize(
    ("rows", "words", "expected"),
    [
        ([{**RIGHT, "label": 5}], [], "label"),
        ([{**RIGHT, "surprise": 1}], [], "surprise"),
        ([RIGHT], ["--function", "nowhere.at_all:judge"], "cannot load"),
        ([RIGHT], ["--function", "json:dumps", "--first-error", "json:dumps"], "exclude"),
        ([RIGHT], ["reward.judge=none"], "--recipe"),
        ([RIGHT], ["--out", "missing/folder/x.json"], "no such folder"),
        ([RIGHT], ["--locate"], "no server to ask"),
        ([RIGHT], ["--any-false"], "--labels"),
        ([RIGHT], ["--labels", "--function", "json:dumps"], "exclude"),
    ],
)
def test_bad_input_is_told_plainly(tmp_path: Path, rows: list[object], words: list[str], expected: str) -> None:
    file = write(tmp_path / "some.jsonl", *rows)
    code, said = run("--data", file, *words)
    assert code == 2, said
    assert expected in said
    assert "Traceback" not in said


def test_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PNS_DATA", raising=False)
    code, said = run()
    assert (code, "PNS_DATA" in said) == (2, True)
    code, said = run("--data", tmp_path)
    assert (code, "no .jsonl file" in said) == (2, True)


def test_an_output_is_checked_before_any_work(tmp_path: Path) -> None:
    data = write(tmp_path / "some.jsonl", RIGHT, SILENT)
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    for out, words in (
        (mine, "is there already"),
        (tmp_path / "x.txt", "ends in .json"),
        (tmp_path / "no" / "x.json", "no such folder"),
        (tmp_path, "ends in .json"),
    ):
        code, said = run("--data", data, "--out", out)
        assert (code, words in said) == (2, True), said
    fifo = tmp_path / "pipe.json"
    os.mkfifo(fifo)
    assert "no plain file" in run("--data", data, "--out", fifo, "--force")[1]
    assert mine.read_text() == "{}"
    assert run("--data", data, "--out", mine, "--force")[0] == 0
    assert "subsets" in json.loads(mine.read_text())


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--function", "def f(problem, response, answer):\n    raise OSError('gone')\n"),
        ("--function", "def f(problem, response, answer):\n    return 'fine'\n"),
        ("--first-error", "import sys\ndef f(problem, steps):\n    sys.exit(0)\n"),
    ],
)
def test_an_evaluator_that_fails_on_every_chain_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, text: str
) -> None:
    name = f"failing_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "figures.json"
    code, said = run("--data", write(tmp_path / "some.jsonl", RIGHT, WRONG), option, f"{name}:f", "--out", out)
    assert (code, "failed on all of 2 chains" in said) == (3, True), said
    assert not out.exists()


def test_a_label_beyond_the_steps_is_named_with_its_line(tmp_path: Path) -> None:
    code, said = run("--data", write(tmp_path / "some.jsonl", RIGHT, {**RIGHT, "label": 5}))
    assert (code, "some.jsonl:2: label: label 5" in said) == (2, True), said
