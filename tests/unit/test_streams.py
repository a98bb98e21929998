"""Responses read, written and sorted a batch at a time: the same rows as in memory; sketches that say when they are full."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.selection import pick
from pns import sketch, streams
from pns.errors import UserError
from pns.negatives.select import accepted
from pns.negatives.selection import select_to
from pns.negatives.yields import yield_of
from pns.recipe import NegativesPart
from pns.records import Response, Rubric, Scores, Verdict, read_parquet, write_parquet
from pns.streams import by_problem, publish, read_responses, write_responses
from pns.study.results import outcomes, undecided


def response(i: int, rng: random.Random) -> Response:
    wrong = rng.random() < 0.7
    scores = Scores(
        gate="scored" if wrong else "correct", score=rng.random(), well_formed=True, reward_raw=rng.gauss(0, 1), reward_model=0.5,
        rubric=Rubric(relevance=3, coherence=3, completeness=3, consistency=rng.randrange(4)) if wrong else None,
        verdict=Verdict(outcome="wrong" if wrong else "correct", answer=str(i % 3)),
    )  # fmt: skip
    return Response(
        problem_id=f"p{rng.randrange(9)}", text=rng.choice(["é", "z", "\U0001f600", "\uffff", f"text {i}"]), index=i % 5,
        source="pns", n_tokens=9, policy_logp=-rng.random(), sampling={"generator_logp": -0.5}, verdict=scores.verdict,
        scores=scores if i % 11 else None,
    )  # fmt: skip


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Response]:
    monkeypatch.setattr(streams, "BATCH", 7)
    rng = random.Random(0)
    return [response(i, rng) for i in range(60)]


def test_rows_come_back_as_they_were_written(rows: list[Response], tmp_path: Path) -> None:
    assert write_responses(tmp_path / "a.parquet", iter(rows)) == 60
    assert list(read_responses(tmp_path / "a.parquet")) == rows == read_parquet(tmp_path / "a.parquet", Response)
    assert write_responses(tmp_path / "none.parquet", []) == 0
    assert list(read_responses(tmp_path / "none.parquet")) == []
    with pytest.raises(UserError, match="no such file"):
        next(read_responses(tmp_path / "b.parquet"))


def test_a_damaged_file_is_named_with_what_mends_it(rows: list[Response], tmp_path: Path) -> None:
    """Cut, as by a full disk, or with bytes that are others than were written."""
    path = tmp_path / "greedy-a.parquet"
    write_responses(path, iter(rows))
    whole = path.read_bytes()
    readers: list[Callable[[], object]] = [
        lambda: list(read_responses(path)), lambda: read_parquet(path, Response), lambda: outcomes(path),
        lambda: undecided(tmp_path, ["a"]),
    ]  # fmt: skip
    for bad in (b"", whole[:9], whole[:-1], whole[: len(whole) // 2], b"PAR1" + bytes(len(whole) // 2) + whole[-2000:]):
        path.write_bytes(bad)
        for read in readers:
            with pytest.raises(UserError, match="this file is damaged") as caught:
                read()
            assert (caught.value.file, caught.value.remedy) == (path, "delete the stage's folder and run again")


def test_what_is_published_from_a_stream_is_what_is_from_a_list(
    rows: list[Response], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Columns that are empty at first, throughout, or where a list is always empty: a batch alone cannot tell their types.
    bare = [r.model_copy(update={"scores": None, "verdict": None, "policy_logp": None}) for r in rows]
    for number, given in enumerate(([*bare, *rows], [*rows, *bare], bare, [])):
        write_parquet(tmp_path / f"list-{number}.parquet", given)
        publish(tmp_path / f"stream-{number}.parquet", lambda given=given: iter(given))  # type: ignore[misc]
        ours, theirs = (pq.ParquetFile(tmp_path / f"{kind}-{number}.parquet") for kind in ("stream", "list"))
        assert ours.schema_arrow == theirs.schema_arrow
        assert ours.read() == theirs.read()
        assert read_parquet(tmp_path / f"stream-{number}.parquet", Response) == given
    monkeypatch.setattr(streams, "BATCH", 120)
    publish(tmp_path / "whole.parquet", lambda: iter([*bare, *rows]))
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "list-0.parquet").read_bytes()


def test_they_are_sorted_as_in_memory(rows: list[Response], tmp_path: Path) -> None:
    assert list(by_problem(iter(rows), tmp_path)) == sorted(rows, key=lambda r: (r.problem_id, r.index, r.text))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["likely", "best", "proportional", "importance", "random", "reward"])
def test_selection_from_a_file_is_that_in_memory(rows: list[Response], tmp_path: Path, how: str) -> None:
    part = NegativesPart(per_problem=2)
    found = select_to(tmp_path / "n.parquet", iter(rows), part, 0.4, plausible=True, how=how, seed=3)
    expected = pick(rows, part, 0.4, plausible=True, how=how, seed=3)
    assert list(read_responses(tmp_path / "n.parquet")) == [r for _, some in sorted(expected.items()) for r in some]
    assert found == {"candidates": 60, "problems_served": len(expected)}
    assert any(not accepted(r, part, 0.4, plausible=True) for r in rows)


def test_the_yield_of_samples(rows: list[Response]) -> None:
    rows.sort(key=lambda r: r.problem_id)

    def again() -> Iterator[Response]:
        return iter(rows)

    found = yield_of(again, floor=0.5, min_rubric=9)
    assert found["n"] == 60
    gates = [r.scores.gate if r.scores else "unscored" for r in rows]
    shares = [found[name] for name in ("wrong", "correct", "undecided", "unscored", "malformed")]
    assert shares == [gates.count(g) / 60 for g in ("scored", "correct", "undecided", "unscored", "malformed")]
    totals = [r.scores.rubric.total for r in rows if r.scores and r.scores.rubric]
    assert found["fully_consistent"] == totals.count(12) / len(totals)
    assert found["plausible"] == sum(t >= 9 for t in totals) / 60
    answers: dict[str, set[str | None]] = {}
    for r in rows:
        if r.verdict and r.verdict.outcome == "wrong":
            answers.setdefault(r.problem_id, set()).add(r.verdict.answer)
    assert found["distinct_answers"] == sum(map(len, answers.values())) / len(answers)
    assert found["kl_to_policy"] == pytest.approx(sum(-0.5 - (r.policy_logp or 0) for r in rows) / 60)
    nothing = yield_of(lambda: iter(()), floor=0.5, min_rubric=9)
    assert (nothing["n"], nothing["kl_to_policy"], nothing["fully_consistent"], nothing["distinct_answers"]) == (
        0,
        None,
        None,
        0,
    )


def test_a_sample_of_values_is_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "VALUES", 400)
    kept = sketch.Sample()
    for value in range(400):
        kept.append(value)
    assert list(kept.kept) == list(range(400))
    for value in range(400, 8000):
        kept.append(value)
    assert (len(kept), len(kept.kept), len(set(kept.kept))) == (8000, 400, 400)
    assert sorted(kept.kept)[200] == pytest.approx(4000, abs=800)


def test_names_beyond_the_bound_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "NAMES", 2)
    names = sketch.Names()
    for name in ("a", "b", "a"):
        names.add(name)
    assert (str(names), names.most, names.full) == ("2", 2, False)
    names.add("c")
    assert (str(names), len(names), names.full) == ("2 or more", 2, True)
