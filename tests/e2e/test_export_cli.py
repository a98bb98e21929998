"""`pns export` through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers.judge_server import Answer, ScriptedServer
from pns.cli import app

pytestmark = pytest.mark.e2e

MIA = "Mia has 12 apples and finds 5. She gives 3 to Tom. How many?"
RIGHT = "12 + 5 = 17\n17 - 3 = 14\nThe answer is \\boxed{14}."
FALSE = {"prompt": MIA, "chosen": RIGHT, "rejected": RIGHT.replace("14", "15"), "answer": 14, "method": "[/red]"}
VAGUE = {**FALSE, "rejected": "By symmetry.\nThe answer is \\boxed{11}.", "method": "m"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, words)])
    return done.exit_code, done.output


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().strip().split("\n")]


def test_steps_are_read_by_the_audit(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", FALSE, VAGUE, VAGUE)
    out, more = tmp_path / "out.jsonl", tmp_path / "details.jsonl"
    code, said = run("export", "steps", file, "-o", out, "--gold", "answer", "--with-chosen", "--details", more)
    assert code == 0, said
    assert "1 (50.0 %)" in said
    assert "no rule finds a wrong step" in said
    assert "1 rows repeat" in said
    assert [(r["id"], r["label"]) for r in lines(out)] == [("pairs-1", 1), ("pairs-1-chosen", -1)]
    assert [r["label"] for r in lines(more)] == [1, None]
    code, said = run("audit", "judge", "--data", out, "--out", tmp_path / "figures.json")
    assert code == 0, said
    found = json.loads((tmp_path / "figures.json").read_text())["subsets"]["out"]
    assert (found["f1"]["f1"]["value"], found["named"]["n"]) == (1.0, 1)
    code, said = run("export", "steps", file, "-o", out)
    assert (code, "is there already" in said) == (2, True)
    code, said = run("export", "steps", file, "-o", out, "--force", "--json")
    assert (code, json.loads(said)["by"], json.loads(said)["output"]) == (0, {"arithmetic": 1}, str(out))
    assert len(lines(out)) == 1
    code, said = run("export", "steps", file, "-o", out, "--force", "--gold", "answer", "--to", "stepwise")
    assert code == 0, said
    assert lines(out) == [{"prompt": MIA, "completions": ["12 + 5 = 17", "17 - 3 = 15"], "labels": [True, False]}]


def test_pairs_of_steps(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", FALSE, VAGUE)
    code, said = run("export", "step-dpo", file, "-o", tmp_path / "out.jsonl", "--gold", "answer")
    assert code == 0, said
    assert "by arithmetic" in said
    assert "none: no rule finds a wrong step" in said
    [pair] = lines(tmp_path / "out.jsonl")
    assert (pair["initial_reason_steps"], pair["rejected"]) == ("12 + 5 = 17\n", "17 - 3 = 15")


def test_a_judge_of_ones_own_and_one_behind_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write(tmp_path / "pairs.jsonl", FALSE, VAGUE), tmp_path / "out.jsonl"
    (tmp_path / "mine_for_export.py").write_text(
        "def locate(problem, steps):\n    return len(steps) - 1\ndef fails(problem, steps):\n    raise OSError('gone')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, said = run("export", "steps", file, "-o", out, "--judge", "mine_for_export:locate")
    assert (code, "by judge" in said) == (0, True), said
    assert [r["label"] for r in lines(out)] == [1, 1]
    code, said = run("export", "steps", file, "-o", tmp_path / "no.jsonl", "--judge", "mine_for_export:fails")
    assert (code, "failed on all of 1 chains" in said, (tmp_path / "no.jsonl").exists()) == (3, True, False), said
    reply = json.dumps({"reason": "", "decided": True, "first_wrong_step": 0})
    with ScriptedServer(lambda n, request: Answer(reply)) as server:
        recipe = tmp_path / "r.yaml"
        recipe.write_text(f"reward: {{judge: server, judge_server: {{server: {{url: '{server.url}'}}, model: m}}}}\n")
        code, said = run(
            "export", "steps", file, "reward.judge_server.cache=null", "-o", out, "--force", "--judge", recipe
        )
        assert code == 0, said
        assert [r["label"] for r in lines(out)] == [1, 0]
        words = ("audit", "judge", "reward.judge_server.cache=null", "--recipe", recipe, "--locate", "--data", out)
        code, said = run(*words)
        assert (code, "50.0 %" in said) == (0, True), said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-o", "out.json"), "ends in .jsonl"),
        (("-o", "no/out.jsonl"), "no such folder"),
        (("-o", "o.jsonl", "--details", "o.jsonl"), "is the output, too"),
        (("-o", "o.jsonl", "--rejected", "rejectd"), "did you mean `rejected`?"),
        (("-o", "o.jsonl", "--judge", "nowhere.at_all:f"), "cannot load"),
        (("-o", "o.jsonl", "--judge", "nowhere.yaml"), "no such recipe"),
        (("-o", "o.jsonl", "a.b=1"), "overrides a recipe"),
        (("-o", "o.jsonl", "--problem-id", "prompt"), "points into no file"),
        (("-o", "o.jsonl", "--with-chosen", "--rejected", "chosen", "--chosen", "missing"), "no such column"),
        (("-o", "o.jsonl", "--rejected", "chosen"), "nothing was written"),
    ],
)
def test_bad_input_is_told_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", VAGUE)
    code, said = run("export", "steps", "p.jsonl", *words)
    assert (code, expected in said, "Traceback" in said) == (2, True, False), said
    assert not (tmp_path / "o.jsonl").exists()


def test_folders_above_a_data_set_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the examples of the help, in a fresh checkout."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", FALSE)
    write(tmp_path / "q.jsonl", {"id": "a", "problem": MIA, "answer": "14"})
    for words in (("pairs", "p.jsonl", "--to", "trl"), ("prompts", "q.jsonl", "--to", "verl")):
        out = Path("data") / words[0] / "mine"
        code, said = run("export", *words, "-o", out)
        assert (code, (out / "README.md").is_file()) == (0, True), said
        code, said = run("export", *words, "-o", "p.jsonl/mine")
        assert (code, "p.jsonl: --out: this is a file, and no folder" in said) == (2, True), said
    code, said = run("export", "pairs", "p.jsonl", "--to", "trl", "-o", "other/x", "--prompt", "missing")
    assert (code, Path("other").exists()) == (2, False), said


def test_no_pair_of_steps_and_no_chosen_response(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", {k: FALSE[k] for k in ("prompt", "rejected")})
    code, said = run("export", "step-dpo", file, "-o", tmp_path / "o.jsonl")
    assert (code, "no chosen response" in said, "nothing was written" in said) == (2, True, True), said
    code, said = run("export", "steps", file, "-o", tmp_path / "o.jsonl", "--with-chosen")
    assert (code, "has no chosen responses" in said) == (2, True), said
    assert not (tmp_path / "o.jsonl").exists()
