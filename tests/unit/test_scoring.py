"""Items, the journal that survives a kill, the work of `pns verify` and `pns score`, and what their tables count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pns.commands.reading import describe
from pns.errors import StageStopped, UserError
from pns.evaluation.metrics import quartiles
from pns.items import Columns, Defaults, Item, items, pair_problem, survey
from pns.journal import Journal, output_path
from pns.recipe import RewardPart
from pns.records import Problem, Rubric
from pns.rewards.composite import Composite
from pns.rewards.reward_model import Calibration
from pns.scoring import ColumnScorer, reward_marks, run_items, score_schema, scoring, verdict_schema, verifying
from pns.tally import LISTED, ScoreTally, VerdictTally
from pns.verify import Verifier

RIGHT = "We add 2 + 3 = 5, so the sum is 5.\nThe answer is \\boxed{5}"
WRONG = "We add 2 + 3 = 6, so the sum is 6.\nThe answer is \\boxed{6}"
COLUMNS = Columns(gold="answer", problem="problem", response="response", label="label", id="id")


def sample(number: int, response: str, label: bool | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "problem": "What is 2 plus 3?",
        "answer": "5",
        "response": response,
        "label": label,
    } | more


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(tmp_path: Path, rows: Sequence[dict[str, Any]], columns: Columns = COLUMNS, **more: Any) -> list[Item]:
    return list(items(write(tmp_path / "in.jsonl", rows), columns, **more))


MIXED = [sample(1, RIGHT, True), sample(2, WRONG, False), sample(3, "no box at all", False), sample(4, WRONG, True),
         sample(5, "", None), sample(6, "We see that it is \\boxed{", False), sample(7, RIGHT, False)]  # fmt: skip


# Items


def test_problems_of_another_file_are_joined_by_id(tmp_path: Path) -> None:
    known = {"p1": Problem(id="p1", problem="How many?", answer="7", tolerance=0.1, unit="cm")}
    columns = Columns(problem_id="of", answer="got", tolerance="eps")
    one, two = found(
        tmp_path,
        [{"of": "p1", "got": 7, "eps": None}, {"of": "p1", "got": None, "eps": 2}],
        columns,
        problems=known,
        defaults=Defaults(tolerance=0.5),
    )
    assert (one.problem.answer, one.problem.unit, one.problem.tolerance, one.answer) == ("7", "cm", 0.5, "7")
    assert (two.problem.tolerance, two.answer) == (2.0, None)
    with pytest.raises(UserError, match="no problem has the id 'p2'") as caught:
        found(tmp_path, [{"of": "p2", "got": 7, "eps": None}], columns, problems=known)
    assert (caught.value.line, caught.value.field) == (1, "of")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": None}, "answer"), ({"answer": "  "}, "answer"), ({"answer": {"a": 1}}, "answer"),
        ({"response": None}, "response"), ({"response": 7.5, "label": "maybe"}, "label"), ({"problem": ""}, "problem"),
        ({"eps": -1}, "eps"), ({"eps": "wide"}, "eps"), ({"kind": "poem"}, "kind"), ({"end": "eos"}, "end"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    more = {"eps": None, "kind": None, "end": None}
    columns = Columns("answer", "problem", None, "response", None, "id", "label", "end", "eps", None, "kind")
    rows = [sample(1, RIGHT, True, **more), sample(2, RIGHT, True, **more) | change]
    with pytest.raises(UserError) as caught:
        found(tmp_path, rows, columns)
    assert (caught.value.line, caught.value.field) == (2, field)
    assert caught.value.remedy


def test_a_survey_counts_labels_and_keeps_scores_of_correct_responses(tmp_path: Path) -> None:
    rows = [sample(1, RIGHT, True, rm=2), sample(2, RIGHT, True, rm=None), sample(3, WRONG, False, rm=9),
            sample(4, WRONG, None, rm=9)]  # fmt: skip
    columns = Columns("answer", "problem", None, "response", label="label", reward="rm")
    about = survey(iter(found(tmp_path, rows, columns)))
    assert (about.rows, about.labels, about.raw_correct) == (4, {True: 2, False: 1, None: 1}, [2.0])


def test_a_typed_gold_answer_is_a_problem() -> None:
    assert pair_problem("5", Defaults(0.1, "cm", "math")).unit == "cm"
    with pytest.raises(UserError):
        pair_problem("", Defaults())


# The journal


class Stop(BaseException):
    """As a kill: nothing catches it."""


def counting(calls: list[int], stop_after: int | None = None) -> Any:
    def work(batch: Sequence[Item]) -> list[dict[str, Any]]:
        if stop_after is not None and len(calls) >= stop_after:
            raise Stop
        calls.append(len(batch))
        return [
            {"outcome": "correct", "reason": f"line {item.line}", "cause": None, "answer": item.text} for item in batch
        ]

    return work


def go(source: Path, out: Path, work: Any, *, batch: int = 3, fresh: bool = False, **parts: Any) -> list[int]:
    """One command: the rows that were seen."""
    seen: list[int] = []
    with Journal(out, {"input": "x", **parts}, batch=batch, fresh=fresh) as journal:
        run_items(
            items(source, COLUMNS), work, journal, total=10, schema=verdict_schema,
            see=lambda row: seen.append(row["row"]), progress=lambda done, total: None,
        )  # fmt: skip
    return seen


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    return write(tmp_path / "ten.jsonl", [sample(i, f"text {i} é", i % 2 == 0) for i in range(10)])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, ten: Path, suffix: str) -> None:
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    assert go(ten, whole, counting([])) == list(range(1, 11))
    calls: list[int] = []
    with pytest.raises(Stop):
        go(ten, out, counting(calls, stop_after=2))
    assert not out.exists()
    assert go(ten, out, counting(calls)) == list(range(1, 11))
    assert calls == [3, 3, 3, 1], "a batch was done twice, or not at all"
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["ten.jsonl", whole.name, out.name])
    # Once finished it is not done again; its rows are still counted.
    assert go(ten, out, counting(calls)) == list(range(1, 11))
    assert len(calls) == 4


def test_whatever_a_kill_leaves_of_the_partial_file_is_mended(tmp_path: Path, ten: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    go(ten, whole, counting([]))
    full = whole.read_bytes()
    marks = [0, 1, full.index(b"\n"), full.index(b"\n") + 1, *range(150, len(full), 211), len(full) - 1, len(full)]
    for size in marks:
        with pytest.raises(Stop):
            go(ten, out, counting([], stop_after=1), fresh=True)
        out.with_name("out.jsonl.partial").write_bytes(full[:size])
        calls: list[int] = []
        go(ten, out, counting(calls))
        assert sum(calls) == 10 - 3 * (full[:size].count(b"\n") // 3)
        assert out.read_bytes() == full
        out.unlink()


def test_another_fingerprint_is_refused_until_fresh(tmp_path: Path, ten: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(Stop):
        go(ten, out, counting([], stop_after=1))
    with pytest.raises(UserError, match="reward changed") as caught:
        go(ten, out, counting([]), reward={"judge": "none"})
    assert "--fresh" in (caught.value.remedy or "")
    calls: list[int] = []
    go(ten, out, counting(calls), reward={"judge": "none"}, fresh=True)
    assert sum(calls) == 10
    with pytest.raises(UserError, match="is there already"):
        go(ten, out, counting([]))
    before = out.read_bytes()
    # The old file stays until the new one is complete; the same command without --fresh goes on.
    with pytest.raises(Stop):
        go(ten, out, counting([], stop_after=2), fresh=True)
    assert out.read_bytes() == before
    calls = []
    go(ten, out, counting(calls))
    assert sum(calls) == 4
    assert out.read_bytes() != before


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_file_that_is_not_ours_is_never_replaced(tmp_path: Path, ten: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something of the user's\n")
    with pytest.raises(UserError, match="is there already"):
        go(ten, tmp_path / name, counting([]))
    assert (tmp_path / name).read_bytes() == b"something of the user's\n"


def test_two_processes_do_not_write_one_file(tmp_path: Path, ten: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, {"input": "x"}, batch=3) as first:
        first.begin()
        first.append([{"row": 1}])
        with pytest.raises(UserError, match="another process is writing"):
            go(ten, out, counting([]))
        assert first.partial.read_bytes().count(b"\n") == 1
    go(ten, out, counting([]))


def test_a_row_that_utf8_cannot_hold_does_not_end_the_run(tmp_path: Path) -> None:
    with Journal(tmp_path / "o.jsonl", {}, batch=1) as journal:
        journal.begin()
        journal.append([{"row": 1, "judge_text": "half \ud83d pair"}])
        assert [row["judge_text"] for row in journal.rows()] == ["half ? pair"]


def test_two_processes_are_told_before_settings_are_compared(tmp_path: Path, ten: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, {"input": "x"}, batch=3) as first:
        first.begin()
        for fresh in (False, True):
            with pytest.raises(UserError, match="another process is writing"):
                go(ten, out, counting([]), reward="another", fresh=fresh)


def test_a_file_that_another_process_finishes_meanwhile_is_not_written_again(tmp_path: Path, ten: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(out, {"input": "x"}, batch=3) as late:
        go(ten, out, counting([]))
        before = out.read_bytes()
        late.begin()
        assert late.finished
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "ten.jsonl"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_finished_file_of_other_parts_says_which_changed(tmp_path: Path, ten: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    go(ten, out, counting([]), reward={"judge": "steps"}, columns={"gold": "answer"})
    with pytest.raises(UserError, match=r"made of something else \(reward changed\)"):
        go(ten, out, counting([]), reward={"judge": "none"}, columns={"gold": "answer"})


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("harm", ["cut", "key", "other row", "half a line"])
def test_a_finished_file_that_was_changed_is_not_taken(tmp_path: Path, ten: Path, suffix: str, harm: str) -> None:
    out = tmp_path / f"out{suffix}"
    go(ten, out, counting([]))
    if suffix == ".parquet":
        table = pq.read_table(out)
        damaged = {
            "cut": table.slice(0, 9),
            "key": table.drop_columns(["row"]),
            "other row": table.set_column(table.schema.get_field_index("run"), "run", pa.array(["x"] * 10)),
        }
        if harm == "half a line":
            out.write_bytes(out.read_bytes()[:-9])
        else:
            pq.write_table(damaged[harm], out)
    else:
        lines = out.read_text().splitlines(keepends=True)
        first = json.loads(lines[0])
        if harm == "cut":
            lines = lines[:9]
        elif harm == "key":
            del first["row"]
            lines[0] = json.dumps(first) + "\n"
        elif harm == "other row":
            lines[4] = '["no row"]\n'
        else:
            lines[9] = lines[9][:20]
        out.write_text("".join(lines))
    with pytest.raises(UserError, match=r"this finished file was changed|is there already"):
        go(ten, out, counting([]))
    assert go(ten, out, counting([]), fresh=True) == list(range(1, 11))


def test_an_input_that_shrinks_is_not_published(tmp_path: Path, ten: Path) -> None:
    out = tmp_path / "o.jsonl"
    lines = ten.read_text().splitlines(keepends=True)
    ten.write_text("".join(lines[:9]))
    with pytest.raises(UserError, match="changed while it was read"):
        go(ten, out, counting([]))
    assert not out.exists()


def test_where_the_output_goes(tmp_path: Path) -> None:
    source = tmp_path / "a.b.jsonl"
    source.touch()
    assert output_path(source, None, "scores") == tmp_path / "a.b.scores.jsonl"
    assert output_path(source, tmp_path, "scores") == tmp_path / "a.b.scores.jsonl"
    assert output_path(source, tmp_path / "x.parquet", "scores") == tmp_path / "x.parquet"
    for bad, words in (
        (tmp_path / "x.txt", "ends in"),
        (source, "the input"),
        (tmp_path / "no" / "x.jsonl", "no such folder"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            output_path(source, bad, "scores")
        assert caught.value.field == "--out"


# The work


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as one:
        yield one


def tallied(composite: Composite, batch: Sequence[Item], **more: Any) -> tuple[ScoreTally, list[dict[str, Any]]]:
    tally = ScoreTally()
    rows = scoring(composite, **more)(batch)
    for number, (item, row) in enumerate(zip(batch, rows, strict=True), 1):
        head = {"row": number, "line": item.line, "id": item.id, "problem_id": item.problem.id, "label": item.label}
        tally.see({**head, "gold": "5"} | row)
    return tally, rows


def test_verdicts_and_labels(tmp_path: Path, verifier: Verifier) -> None:
    batch = found(tmp_path, MIXED)
    tally = VerdictTally()
    for item, row in zip(batch, verifying(verifier, extracted=False)(batch), strict=True):
        tally.see({"label": item.label, "line": item.line} | row)
    assert {outcome: tally.total(outcome) for outcome in ("correct", "wrong", "undecided")} == {
        "correct": 2, "wrong": 2, "undecided": 3,
    }  # fmt: skip
    assert tally.total() == 7
    # Labelled correct and wrong (line 4), labelled wrong and correct (line 7); the undecided are listed apart.
    assert [row["line"] for row in tally.disagree.rows] == [4, 7]
    assert [row["line"] for row in tally.open.rows] == [3, 6]
    assert ("response", "no \\boxed{}") in tally.undecided


def test_extracted_answers_are_taken_as_they_are(tmp_path: Path, verifier: Verifier) -> None:
    rows = [{"answer": "5", "got": got} for got in ("5.0", 5, None, "\\boxed{6}")]
    batch = found(tmp_path, rows, Columns(gold="answer", answer="got"))
    outcomes = [row["outcome"] for row in verifying(verifier, extracted=True)(batch)]
    assert outcomes == ["correct", "correct", "undecided", "wrong"]


def test_what_the_reward_pays_by_label(tmp_path: Path, verifier: Verifier) -> None:
    composite = Composite(RewardPart(), verifier)
    tally, rows = tallied(composite, found(tmp_path, MIXED))
    # Every response is in one of the gates, and the score is the one that method.md states for it.
    assert [row["gate"] for row in rows] == [
        "correct",
        "scored",
        "malformed",
        "scored",
        "malformed",
        "malformed",
        "correct",
    ]
    assert [row["score"] == {"correct": 0, "malformed": -1}.get(row["gate"], row["score"]) for row in rows] == [
        True
    ] * 7
    right, wrong = tally.groups["label correct"], tally.groups["label wrong"]
    assert (right.rows, len(right.paid), wrong.rows, len(wrong.paid), tally.groups["no label"].rows) == (2, 1, 4, 1, 1)
    assert [row["line"] for row in tally.paid_correct.rows] == [4]
    assert [row["line"] for row in tally.best] == [2]
    assert tally.asked == 2
    assert tally.everything.rubric_total.total() == 2
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert tally.everything.mean == pytest.approx(sum(scores) / 7)


def test_all_terms_changes_no_score(tmp_path: Path, verifier: Verifier) -> None:
    part = RewardPart(max_chars=2000)
    batch = found(tmp_path, [*MIXED, sample(8, RIGHT + " again" * 2000, True)])
    calibration = Calibration.fit([1.0, 2.0, 3.0])
    length = type("Length", (), {"score": lambda self, problems, texts: [float(len(t)) for t in texts]})()
    composite = Composite(part, verifier, length, calibration)
    _, plain = tallied(composite, batch)
    tally, every = tallied(composite, batch, all_terms=True)
    same = ("gate", "score", "verdict", "inversion", "format_failures")
    assert [{k: row[k] for k in same} for row in every] == [{k: row[k] for k in same} for row in plain]
    assert [row["rubric"] is None for row in plain] == [row["gate"] != "scored" for row in plain]
    assert [row["reward_raw"] for row in every] == [float(len(i.text)) for i in batch[:7]] + [None], (
        "over-long: not asked"
    )
    assert all(row["rubric"] is not None for row in every[:7])
    assert tally.asked == 2, "what the gates save does not depend on --all-terms"


def failing(problem: str, response: str, answer: str | None) -> Rubric:
    raise RuntimeError("the judge is down")


def test_a_judge_that_is_down_stops_the_run_and_writes_nothing(tmp_path: Path, verifier: Verifier) -> None:
    batch = found(tmp_path, [sample(i, WRONG) for i in range(4)])
    with pytest.raises(StageStopped, match=r"4 of 4 responses are unscored.*the judge is down"):
        scoring(Composite(RewardPart(), verifier, judge=failing))(batch)
    # Switched off: they stay unscored, with the cause.
    tally, rows = tallied(Composite(RewardPart(max_unscored=1), verifier, judge=failing), batch)
    assert {row["score"] for row in rows} == {None}
    assert tally.everything.unscored == {"judge_server": 4}
    assert tally.unscored.count == 4
    # A judge that never gives a verdict is as useless as one that is down.
    never: Any = lambda *_: "no rubric"  # noqa: E731
    with pytest.raises(StageStopped, match=r"4 of 4 responses are unscored.*a str, not a Rubric"):
        scoring(Composite(RewardPart(), verifier, judge=never))(batch)
    _, rows = tallied(Composite(RewardPart(max_unscored=1), verifier, judge=never), batch)
    assert {row["unscored_by"] for row in rows} == {"judge_malformed"}


def test_reward_model_scores_of_a_column(tmp_path: Path, verifier: Verifier) -> None:
    columns = Columns("answer", "problem", None, "response", reward="rm")
    rows = [
        sample(1, WRONG, rm=2.0),
        sample(2, WRONG + " ", rm=None),
        sample(3, RIGHT, rm=1.0),
        sample(4, WRONG, rm=2.5),
    ]
    batch = found(tmp_path, rows, columns)
    column, calibration = ColumnScorer(), Calibration.fit([1.0, 2.0, 3.0])
    _, scored = tallied(
        Composite(RewardPart(judge="none"), verifier, column, calibration, "none"), batch, column=column
    )
    assert scored[0]["score"] == pytest.approx(0.4 + 0.2 * 0.5)
    assert (scored[1]["score"], scored[1]["unscored_by"]) == (None, "reward_model")
    assert (scored[2]["score"], scored[2]["reward_raw"]) == (0, None)
    assert scored[3]["reward_raw"] == 2.5, "the same text, and a score of its own row"


def test_the_fingerprint_of_a_reward_part(tmp_path: Path) -> None:
    def judge(**more: Any) -> dict[str, Any]:
        return {"judge": "server", "judge_server": {"server": {"url": "http://a"}, **more}}

    base = reward_marks(RewardPart.model_validate(judge()))
    assert base == reward_marks(RewardPart.model_validate({**judge(max_calls=3, cache="x"), "verify_workers": 2}))
    elsewhere = {"server": {"url": "http://b"}}
    named = reward_marks(RewardPart.model_validate(judge(model="m")))
    assert named == reward_marks(RewardPart.model_validate(judge(model="m", **elsewhere)))
    assert "server" not in named["judge_server"]
    assert base != reward_marks(RewardPart.model_validate(judge(**elsewhere))), "who knows which model answers there?"
    for change in (judge(temperature=1.0), {**judge(), "weight_judge": 0.1}, judge(model="m"), judge(prompt="other")):
        assert reward_marks(RewardPart.model_validate(change)) != base
    model = {"kind": "vllm", "path": "model", "server": {"url": "http://a"}}
    here, there = ({"reward_model": {**model, "server": {"url": url}}} for url in ("http://a", "http://b"))
    assert reward_marks(RewardPart.model_validate(here)) != reward_marks(RewardPart.model_validate(there))
    for part in (here, there):
        part["reward_model"]["name"] = "m"
    assert reward_marks(RewardPart.model_validate(here)) == reward_marks(RewardPart.model_validate(there))
    own = tmp_path / "prompt.md"
    own.write_text("one")
    one = reward_marks(RewardPart.model_validate(judge(prompt=str(own))))
    own.write_text("two")
    assert reward_marks(RewardPart.model_validate(judge(prompt=str(own)))) != one
    Calibration.fit([1.0, 2.0]).save(tmp_path)
    source = {"reward_model": {"path": "model", "calibration": str(tmp_path)}}
    one = reward_marks(RewardPart.model_validate(source))
    Calibration.fit([1.0, 5.0]).save(tmp_path)
    assert reward_marks(RewardPart.model_validate(source)) != one


def test_schemas_hold_every_field() -> None:
    from pns.records import Scores, Verdict

    assert set(Scores.model_fields) < set(score_schema().names)
    assert set(Verdict.model_fields) < set(verdict_schema().names)


# The tables


def test_lists_are_bounded_and_counted() -> None:
    tally = VerdictTally()
    for line in range(3 * LISTED):
        tally.see({"label": True, "outcome": "wrong", "line": line, "cause": None, "reason": ""})
    assert (tally.disagree.count, len(tally.disagree.rows)) == (3 * LISTED, LISTED)
    for line in range(1000):
        tally.see(
            {"label": None, "outcome": "undecided", "line": line, "cause": "response", "reason": f"reason {line}"}
        )
    assert len(tally.undecided) <= 201
    assert tally.undecided.total() == 1000


def test_quartiles() -> None:
    assert quartiles([]) is None
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("-5.0", "decimal -5.0 = -5"), ("\\frac{1}{2}", "fraction 1/2"), ("0.05", "decimal 0.05 = 1/20"),
        ("50\\%", "integer 50 per cent"), ("(1,2]", "interval (from integer 1 to integer 2]"),
        ("1,2", "list of 2, in any order: integer 1; integer 2"), ("x=5", "`x` set to integer 5"),
        ("x^2+1", "expression for algebra: x^2+1"), ("52_8", "digits 52 in base 8"), ("(B)", "choice B"),
        ("", "not read: empty answer"), ("x" * 2000, "not read: longer than"),
    ],
)  # fmt: skip
def test_how_an_answer_is_read(answer: str, words: str) -> None:
    assert describe(answer).startswith(words)


def test_a_reading_is_bounded() -> None:
    for hostile in ("9^{9^{9^9}}", "{" * 1000, ",".join(["1"] * 300), "\\frac{1}{2}" * 80, "(" * 500 + ")" * 500):
        assert len(describe(hostile)) < 300
