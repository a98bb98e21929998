"""`pns problems`: list, show, export, overlap. What needs no process of its own runs in this one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pns.cli import app
from pns.problems.files import load_problems
from pns.problems.registry import SETS
from pns.records import Problem, to_jsonl

pytestmark = pytest.mark.e2e
LONG = "A farmer plants twelve rows of corn and nine rows of beans, then sells half of the corn at the market on Monday"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The data folder; the test runs in a folder of its own."""
    given = os.environ.get("PNS_DATA")
    folder = (Path(given) if given else Path(__file__).parents[3] / "shared" / "data").resolve()
    if not (folder / "math").is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    monkeypatch.setenv("PNS_DATA", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return folder


def problems(*words: str | Path, code: int = 0) -> Result:
    """`pns problems ...` in this process."""
    found = CliRunner().invoke(app, ["problems", *map(str, words)])
    assert found.exit_code == code, found.output
    return found


def test_the_commands_in_a_process_of_their_own(pns: Any, data: Path) -> None:
    listed = pns("problems", "list")
    for entry in SETS.values():
        assert any(entry.name in line and "local" in line for line in listed.splitlines()), entry.name
    found = pns(
        "problems", "overlap", "math-train", "olympiadbench", "--pairs", "6", "--out", "pairs.jsonl", "--fail", code=4
    )
    assert "6 pairs -> pairs.jsonl" in found
    rows = [json.loads(line) for line in (pns.folder / "pairs.jsonl").read_text().splitlines()]
    assert {"olympiadbench-2791", "olympiadbench-2890"} < {row["problem_id"] for row in rows if row["rule"] == "text"}
    assert all(row["share"] >= 0.5 and row["problem"] and row["train_problem"] for row in rows)
    for row in rows:
        if row["rule"] == "text":
            assert f"{row['problem_id']} ~ {row['train_id']}" in found


def test_list_tells_where_a_set_would_come_from(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PNS_DATA", str(tmp_path))
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "mawps.jsonl").write_text("x")
    lines = problems("list").stdout.splitlines()
    assert any("mawps" in line and "local, other content" in line for line in lines)
    assert any("mawps" not in line and "minerva-math" in line and "hub" in line for line in lines)


def test_show_tells_faults_forms_and_examples(data: Path) -> None:
    shown = problems("show", "olympiadbench", "--id", "olympiadbench-2592").stdout
    for text in ("t(0,4]", "tolerance  0.1 (1), none (673)", "4.2  (math, ± 0.1, %)", SETS["olympiadbench"].sha256):
        assert text in shown
    assert "conflict: mawps-244 says 65057, mawps-1215 says 64013" in problems("show", "mawps", "--n", "0").stdout
    drawn = [problems("show", "aime25", "--n", "2", "--seed", seed).stdout for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert "7115.json and 7117.json" in problems("show", "math-train", "--n", "0").stdout
    assert "did you mean" not in problems("show", "aime25", "--id", "aime25-I-99", code=2).stderr
    assert "aime25-I-9" in problems("show", "aime25", "--id", "aime25-I-99", code=2).stderr


def test_what_a_file_says_cannot_steer_the_terminal(data: Path, tmp_path: Path) -> None:
    bad = "[bold]not markup[/bold] \x1b[2J \u202e gone"
    path = tmp_path / "p.jsonl"
    path.write_text(
        to_jsonl([Problem(id=bad, problem=f"{bad} {LONG}", answer=bad, solution=bad, subject=bad, meta={"k": bad})])
    )
    for shown in (problems("show", path).stdout, problems("overlap", path, "./p.jsonl").stdout):
        assert "[bold]not markup[/bold]" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_export_gives_the_same_problems_back(data: Path, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"o{suffix}"
    said = problems("export", "olympiadbench", out).stdout
    assert "674 problems" in said
    rows = load_problems(out)
    assert len(rows) == 674
    assert {p.id: p.tolerance for p in rows if p.tolerance} == {"olympiadbench-2592": 0.1}
    assert rows[0].meta["answer_type"] == "Numerical"
    before = out.read_bytes()
    assert "--force" in problems("export", "aime25", out, code=2).stderr
    assert out.read_bytes() == before
    problems("export", "mawps", out, "--distinct", "--force")
    again = load_problems(out)
    assert len(again) == 2065 - 214
    assert not {"mawps-1215", "mawps-1005"} & {p.id for p in again}
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_files_of_your_own_with_named_columns(data: Path, tmp_path: Path) -> None:
    Path("mine.csv").write_text(f'prompt,gold\n"{LONG}?",7\n"What is 2 + 2?",4\n')
    named = ("--problem-column", "prompt", "--answer-column", "gold")
    assert "row-2" in problems("show", "mine.csv", *named).stdout
    problems("export", "mine.csv", "mine.parquet", *named)
    assert [p.answer for p in load_problems("mine.parquet")] == ["7", "4"]
    Path("train.jsonl").write_text(json.dumps({"prompt": f"Solve this. {LONG}!"}) + "\n")
    found = problems("overlap", "train.jsonl", "mine.csv", "--problem-column", "prompt", "--fail", code=4)
    assert "mine.csv: row-2 ~ row-1  100 % of its words, answers not compared" in found.stdout
    assert "column options are for files" in problems("show", "aime25", *named, code=2).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "olympiabench"), "did you mean `olympiadbench`"),
        (("show", "none.csv"), "none.csv: no such file"),
        (("export", "aime25", "out.txt"), "ends in .jsonl or .parquet"),
        (("export", "aime25", "no/out.jsonl"), "no such folder"),
        (("export", "aime25", "folder.jsonl"), "this is a directory"),
        (("overlap", "aime25", "aime24", "--out", "pairs.parquet"), "ends in .jsonl"),
        (("overlap", "aime25", "none"), "neither a problem set nor a file"),
        (("overlap", "bad.jsonl", "aime24"), "bad.jsonl:2: problem: missing"),
    ],
)
def test_bad_input_is_one_message(data: Path, words: tuple[str, ...], said: str) -> None:
    Path("folder.jsonl").mkdir()
    Path("bad.jsonl").write_text('{"problem": "x"}\n{"problem": " "}\n')
    found = problems(*words, code=2)
    assert said in found.stderr
    assert "->" in found.stderr
    assert "Traceback" not in found.output
    assert not list(Path().glob(".unfinished*"))


def test_without_options_the_seven_benchmarks_are_looked_at(data: Path) -> None:
    shown = problems("overlap", "aime25", "--pairs", "0")
    for name in ("gsm8k", "math500", "aime24", "amc23", "minerva-math", "olympiadbench"):
        assert name in shown.stdout
    assert "aime25 " in shown.stdout
