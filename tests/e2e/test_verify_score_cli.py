"""`pns verify` and `pns score` as a person runs them: verdicts, tables, bad input, interrupts, files of every kind."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.e2e

RECIPE = Path(__file__).parents[2] / "recipes" / "reward.yaml"
DATA = Path(os.environ.get("PNS_DATA", Path(__file__).parents[3] / "shared" / "data"))
RIGHT = "We add 2 + 3 = 5, so the sum is 5.\nThe answer is \\boxed{5}"
WRONG = "We add 2 + 3 = 6, so the sum is 6.\nThe answer is \\boxed{6}"
# A judge of the user's own. The file `stop` says at which call it is interrupted, as by Ctrl-C; every call is logged.
JUDGE = """
import pathlib, time
from pns.records import Rubric

def judge(problem, response, answer):
    log = pathlib.Path("calls")
    done = log.read_text().count("x") if log.exists() else 0
    stop = pathlib.Path("stop")
    if stop.exists() and done == int(stop.read_text()):
        pathlib.Path("reached").touch()
        time.sleep(60)
    with log.open("a") as stream:
        stream.write("x")
    return Rubric(relevance=3, coherence=len(response) % 4, completeness=2, consistency=1)

def down(problem, response, answer):
    raise OSError("no route to the judge")
"""


def one_message(output: str, *words: str) -> None:
    """A single error with its remedy, and no traceback."""
    assert output.count("error: ") == 1, output
    assert "\n  -> " in output, output
    assert "Traceback" not in output
    for word in words:
        assert word in output, output


def rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {"id": f"r{i}", "problem": f"What is 2 plus 3? ({i})", "answer": "5", "ok": i % 3 == 0,
         "response": RIGHT if i % 3 == 0 else f"{WRONG[:-1]}{i}}}"}
        for i in range(count)
    ]  # fmt: skip


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def samples(here: Any) -> Path:
    (here.folder / "own_judge.py").write_text(JUDGE)
    return write(here.folder / "samples.jsonl", rows())


# Two answers


@pytest.mark.parametrize(
    ("args", "outcome", "code"),
    [
        (("1/2", "0.5"), "correct", 0),
        (("-5", "-5.0"), "correct", 0),
        (("--", "-5", "5"), "wrong", 4),
        (("-\\sqrt{h}", "-h^{1/2}"), "correct", 0),
        (("1/3", "0.333"), "undecided", 5),
        (("1/3", "0.333", "--tolerance", "0.01"), "correct", 0),
        (("5", "5 cm", "--unit", "cm"), "correct", 0),
        (("42", "Then \\boxed{42}, no: \\boxed{41}.", "--format", "boxed"), "wrong", 4),
        (("42", "no box", "--format", "boxed"), "undecided", 5),
    ],
)
def test_two_answers(pns: Any, args: tuple[str, ...], outcome: str, code: int) -> None:
    output = pns("verify", "--exit-code", "--json", *args, code=code)
    assert json.loads(output)["outcome"] == outcome


def test_what_a_person_sees_of_two_answers(here: Any) -> None:
    output = here("verify", "1/2", "So it is [bold]\\boxed{0.6}\x1b[31m", "--format", "boxed")
    assert output.splitlines()[0] == "wrong: different numbers"
    assert "fraction 1/2" in output
    assert "decimal 0.6 = 3/5" in output
    assert "\x1b" not in here("verify", "5", "\x1b[31m6")
    assert "[bold]x" in here("verify", "5", "[bold]x")
    write(here.folder / "hostile.jsonl", [{"\x1b[2J": 1}])
    assert "\x1b" not in here("verify", "hostile.jsonl", code=2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("5",), "is missing"),
        (("sample.jsonl",), "did you mean `samples.jsonl`?"),
        (("1", "2", "3"), "quotation marks"),
        (("1", "2", "--tolerence=3"), "did you mean `--tolerance`?"),
        (("1", "2", "--tolerance", "inf"), "--tolerance: "),
        (("samples.jsonl", "samples.jsonl"), "one file at a time"),
        (("", "5"), "GOLD: it is empty"),
        (("1", "2", "--out", "x.jsonl"), "--out: is for a file"),
        (("1", "2", "--label", "ok"), "--label: is for a file"),
    ],
)
def test_bad_answers(here: Any, samples: Path, args: tuple[str, ...], words: str) -> None:
    one_message(here("verify", *args, code=2), words)


@pytest.mark.parametrize("command", ["verify", "score"])
def test_help_has_examples(here: Any, command: str) -> None:
    output = here(command, "--help")
    assert f"pns {command} " in output.partition("Examples:")[2]
    assert here(command, "-h") == output


# Files


def test_verify_a_file_of_every_kind(here: Any, samples: Path) -> None:
    output = here("verify", "samples.jsonl", "--label", "ok")
    assert "12 of 12 verdicts agree with the label" in output
    want = [{k: row[k] for k in ("id", "outcome", "answer")} for row in read(here.folder / "samples.verdicts.jsonl")]
    assert [row["outcome"] for row in want] == ["correct", "wrong", "wrong"] * 4
    with (here.folder / "s.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows()[0]))
        writer.writeheader()
        writer.writerows(rows())
    pq.write_table(pa.Table.from_pylist(rows()), here.folder / "s.parquet")
    for source in ("s.csv", "s.parquet"):
        summary = json.loads(here("verify", source, "--label", "ok", "--out", "out.parquet", "--fresh", "--json"))
        assert (summary["correct"], summary["wrong"], summary["disagree"]) == (4, 8, 0)
        got = pq.read_table(here.folder / "out.parquet").to_pylist()
        assert [{k: row[k] for k in ("id", "outcome", "answer")} for row in got] == want


def test_exit_codes_of_a_file(here: Any, samples: Path) -> None:
    here("verify", "samples.jsonl", "--exit-code", code=4)
    assert "done already" in here("verify", "samples.jsonl", "--exit-code", code=4)
    here("verify", "samples.jsonl", "--exit-code", "--label", "ok", "--fresh", code=0)


def test_gold_answers_of_another_file(here: Any) -> None:
    write(here.folder / "problems.jsonl", [{"id": "p1", "problem": "How far?", "answer": "1/3", "tolerance": 0.01}])
    write(here.folder / "got.jsonl", [{"problem_id": "p1", "got": "0.333"}, {"problem_id": "p1", "got": None}])
    summary = json.loads(here("verify", "got.jsonl", "--problems", "problems.jsonl", "--answer", "got", "--json"))
    assert (summary["correct"], summary["undecided"]) == (1, 1)
    write(here.folder / "bad.jsonl", [{"problem_id": "p1", "got": "1"}, {"problem_id": "p2", "got": "1"}])
    output = here("verify", "bad.jsonl", "--problems", "problems.jsonl", "--answer", "got", code=2)
    one_message(output, "bad.jsonl:2: problem_id: no problem has the id 'p2'")


BAD = [
    (rows(2), ("--gold", "anwser"), ("anwser: no such column (--gold)", "did you mean `answer`?")),
    ([rows(1)[0], rows(1)[0] | {"answer": None}], (), ("in.jsonl:2: answer: missing",)),
    ([*rows(2), "{broken"], (), ("in.jsonl:3: not valid JSON",)),
    ([rows(1)[0], rows(1)[0] | {"response": None}], (), ("in.jsonl:2: response: missing",)),
    ([rows(1)[0], rows(1)[0] | {"ok": "perhaps"}], ("--label", "ok"), ("in.jsonl:2: ok: 'perhaps'",)),
    (rows(2), ("--out", "in.jsonl"), ("this is the input",)),
    (rows(2), ("--out", "x.txt"), (".jsonl or .parquet",)),
    (rows(2), ("--problem-id", "id"), ("--problem-id: points into no file",)),
    (rows(2), ("--problems", "gsm8q"), ("gsm8q",)),
]


@pytest.mark.parametrize(("data", "args", "words"), BAD)
def test_bad_files_are_named_before_anything_is_written(
    here: Any, data: list[Any], args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    path = here.folder / "in.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in data))
    for command in (("verify",), ("score", "--recipe", RECIPE)):
        one_message(here(*command, "in.jsonl", *args, code=2), *words)
        assert [p.name for p in here.folder.iterdir()] == ["in.jsonl"]


def test_bad_recipes_of_score(here: Any, samples: Path) -> None:
    (here.folder / "not.yaml").write_text("rewards: {}\n")
    for args, words in (
        (("not.yaml",), ("rewards: unknown key", "did you mean `reward`?")),
        (("none.yaml",), ("none.yaml: no such recipe",)),
        ((RECIPE, "reward.juge=none"), ("override: reward.juge", "did you mean `reward.judge`?")),
        ((RECIPE, "reward.judge=own_judge:juge"), ("cannot load 'own_judge:juge'",)),
        ((RECIPE, "--reward-column", "ok"), ("raw scores need a calibration",)),
        ((RECIPE, "--calibration", "."), ("is for --reward-column",)),
    ):
        one_message(here("score", "samples.jsonl", "--recipe", *args, code=2), *words)
    assert sorted(p.name for p in here.folder.glob("samples*")) == ["samples.jsonl"]


# Scores


def test_scores_tables_and_output(here: Any, samples: Path) -> None:
    output = here("score", "samples.jsonl", "--recipe", RECIPE, "--label", "ok")
    found = {words[0]: words[1:] for row in output.splitlines() if (words := re.split(r"\s{2,}", row.strip()))}
    assert found["gate"] == ["score", "all", "label correct", "label wrong"]
    assert found["correct"][1:4] == ["4 (33.3 %)", "4 (100.0 %)", "0 (0.0 %)"]
    assert found["wrong: scored"][1:4] == ["8 (66.7 %)", "0 (0.0 %)", "8 (100.0 %)"]
    assert "calls saved by the gates: verifier 0 of 12, judge 4 of 12" in output
    got = read(here.folder / "samples.scores.jsonl")
    assert [(row["row"], row["id"], row["gate"]) for row in got[:2]] == [(1, "r0", "correct"), (2, "r1", "scored")]
    for row in got:
        assert row["score"] == (
            0 if row["rubric"] is None else pytest.approx(0.4 + 0.4 * sum(row["rubric"].values()) / 12)
        )
    assert {p.name for p in here.folder.iterdir()} == {"own_judge.py", "samples.jsonl", "samples.scores.jsonl"}
    # The same command again only counts; another reward is refused, and --fresh replaces.
    again = here("score", "samples.jsonl", "--recipe", RECIPE, "--label", "ok")
    assert "done already" in again
    title = "what the reward pays"
    assert again.partition(title)[2] == output.partition(title)[2] != ""
    told = json.loads(here("score", "samples.jsonl", "--recipe", RECIPE, "--label", "ok", "--json").splitlines()[-1])
    assert told["groups"]["label_wrong"]["gates"] == {
        "malformed": 0, "undecided": 0, "correct": 0, "scored": 8, "unscored": 0,
    }  # fmt: skip
    assert (told["groups"]["all"]["paid"], told["labelled_correct_and_paid"]) == (8, 0)
    refused = here("score", "samples.jsonl", "--recipe", RECIPE, "--label", "ok", "reward.judge=none", code=2)
    one_message(refused, "is there already", "(reward changed)", "--fresh replaces it")
    here("score", "samples.jsonl", "--recipe", RECIPE, "--label", "ok", "reward.judge=none", "--fresh")
    assert {row["score"] for row in read(here.folder / "samples.scores.jsonl")} == {0, 0.4}


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_an_interrupted_score_goes_on_to_the_same_result(pns: Any, samples: Path, out: str) -> None:
    command = ("score", "samples.jsonl", "--recipe", RECIPE, "reward.judge=own_judge:judge", "--batch", "3")
    calls, stop, partial = pns.folder / "calls", pns.folder / "stop", pns.folder / f"{out}.partial"
    pns(*command, "--out", f"whole-{out}")
    assert calls.read_text() == "x" * 8
    calls.unlink()

    stop.write_text("5")  # the eight wrong ones are two to a batch: in the middle of the third batch
    process = pns.start(*command, "--out", out)
    limit = time.monotonic() + 60
    while not (pns.folder / "reached").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"6 of 12 rows are kept in {partial.name}" in output
    assert "Interrupted" in output
    assert "Traceback" not in output
    assert not (pns.folder / out).exists()
    assert len(read(partial)) == 6

    # Other settings do not go on from there, and the file stays.
    one_message(
        pns(*command, "reward.weight_judge=0.1", "--out", out, code=2),
        "reward.weight_judge changed",
        "--fresh discards",
    )
    assert len(read(partial)) == 6

    stop.unlink()
    pns(*command, "--out", out)
    assert calls.read_text() == "x" * (5 + 4), "what was kept was not judged again"
    assert (pns.folder / out).read_bytes() == (pns.folder / f"whole-{out}").read_bytes()
    assert not list(pns.folder.glob("*.partial*"))


def test_a_judge_that_is_down_stops_with_its_cause(pns: Any, samples: Path) -> None:
    command = ("score", "samples.jsonl", "--recipe", RECIPE, "--batch", "6")
    output = pns(*command, "reward.judge=own_judge:down", code=3)
    assert "stopped: 4 of 6 responses are unscored" in output
    assert "no route to the judge" in output
    assert not (pns.folder / "samples.scores.jsonl").exists()
    output = pns(*command, "reward.judge=own_judge:down", "reward.max_unscored=1")
    assert "unscored: judge_server" in output
    assert {row["score"] for row in read(pns.folder / "samples.scores.jsonl")} == {0, None}


# Real data


@pytest.fixture
def labels() -> Path:
    folder = DATA / "cot_labels"
    if not folder.is_dir():
        pytest.skip("needs the data folder (PNS_DATA)")
    return folder


def test_gsm8k_solutions_through_the_join(pns: Any, labels: Path) -> None:
    command = ("verify", labels / "gsm8k_model_solutions.jsonl", "--answer", "final_answer", "--label",
               "final_answer_correct", "--out", ".", "--json")  # fmt: skip
    joined = json.loads(pns(*command, "--problems", "gsm8k", env={"PNS_DATA": str(DATA.resolve())}))
    assert (joined["rows"], joined["disagree"]) == (5276, 0)
    assert joined["by_label"]["correct"] == {"correct": joined["correct"]}
    assert joined == json.loads(pns(*command, "--gold", "answer", "--fresh"))


def test_math_solutions_scored_by_label(here: Any, labels: Path) -> None:
    source = labels / "math_cot_100x8.jsonl"
    output = here(
        "score", source, "--recipe", RECIPE, "--label", "final_answer_correct", "--reward-column", "rm_score",
        "--all-terms", "--out", "scores.parquet",
    )  # fmt: skip
    assert "calibration: median 3.391" in output
    got = pq.read_table(here.folder / "scores.parquet").to_pylist()
    assert len(got) == 800
    # The reward pays no response that the source calls correct.
    assert not [row["id"] for row in got if row["label"] and row["score"] > 0]
    assert sum(row["score"] > 0 for row in got) >= 20
    assert all(row["rubric"] is not None for row in got)
    given = {row["id"]: row["rm_score"] for row in read(source)}
    # Identical responses to a problem share a score: the source's differ by rounding in 16 bits.
    assert max(abs(row["reward_raw"] - given[row["id"]]) for row in got) < 0.05


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("def judge(\n", "SyntaxError"),
        ("raise RuntimeError('no')\n", "RuntimeError: no"),
        ("judge = 5\n", "is not callable"),
    ],
)
def test_a_judge_of_ones_own_that_does_not_load(pns: Any, samples: Path, text: str, said: str) -> None:
    (pns.folder / "broken_judge.py").write_text(text)
    command = ("score", "samples.jsonl", "--recipe", RECIPE, "reward.judge=broken_judge:judge")
    one_message(pns(*command, code=2), "reward.judge: ", said)
    assert not list(pns.folder.glob("*.scores.jsonl"))


def test_an_edited_judge_of_ones_own_is_another_judge(pns: Any, samples: Path) -> None:
    command = ("score", "samples.jsonl", "--recipe", RECIPE, "reward.judge=edited_judge:judge")
    head = "def judge(problem, response, answer):\n    return "
    rubric = {"relevance": 1, "coherence": 1, "completeness": 1, "consistency": 1}
    (pns.folder / "edited_judge.py").write_text(f"{head}{rubric}\n")
    pns(*command)
    assert "done already" in pns(*command)
    (pns.folder / "edited_judge.py").write_text(f"{head}{ {**rubric, 'relevance': 3} }\n")
    one_message(pns(*command, code=2), "is there already", "(reward changed)")
    pns(*command, "--fresh")
    assert {sum(row["rubric"].values()) for row in read(pns.folder / "samples.scores.jsonl") if row["rubric"]} == {6}


def test_outputs_that_cannot_be_written_are_told_first(here: Any, samples: Path) -> None:
    (here.folder / "samples.scores.jsonl.partial").mkdir()
    one_message(here("score", "samples.jsonl", "--recipe", RECIPE, code=2), "a folder stands where")
    one_message(here("score", ".", "--recipe", RECIPE, code=2), "this is a directory")
    (here.folder / "folder.jsonl").mkdir()
    assert "folder.jsonl/samples.scores.jsonl" in here(
        "score", "samples.jsonl", "--recipe", RECIPE, "--out", "folder.jsonl"
    )
