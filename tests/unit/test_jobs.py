"""Drawing ahead: order, bound, exceptions; shards while the next one is drawn; pools that give them in any order."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from pns.errors import StageStopped, UserError
from pns.fingerprints import of_protocol
from pns.parts.base import SamplePart
from pns.parts.engine import EnginePart, VllmPart, engine_marks
from pns.records import Problem, Response
from pns.run import seed_of
from pns.sampling.jobs import Drawn, Job, ahead, completions, each
from pns.sampling.make import make_engine
from pns.sampling.prompts import Completion
from pns.sampling.shards import Draw, sample

PROBLEMS = [Problem(id=f"p{i}", problem=f"problem {i}", answer="1") for i in range(10)]
PART = SamplePart(n=2, batch_size=6)


class Broken(Exception):
    pass


class Engine:
    """Says what it was asked; `before` is called first, with the number of the call."""

    name, deterministic = "fake", True

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        self.before, self.calls = before, 0

    def generate(self, job: Job) -> Drawn:
        self.calls += 1
        self.before(self.calls)
        return [[Completion(f"{p} {k} {job.seed}", 3, "stop") for k in range(job.n)] for p in job.problems]

    def close(self) -> None:
        pass


class Backwards(Engine):
    """A pool whose last job is done first, and which says when it was ended."""

    ended = 0

    def generate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Drawn]]:
        try:
            for i, job in reversed(list(enumerate(jobs))):
                yield i, self.generate(job)
        finally:
            self.ended += 1


def same(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
    return rows


def files(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.glob("*.jsonl")}


def test_rows_come_in_order_one_ahead() -> None:
    made: list[int] = []

    def rows() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    found = ahead(rows())
    assert made == []
    for i, row in enumerate(found):
        assert row == i
        assert len(made) <= i + 2
    assert list(ahead([])) == []
    assert list(ahead(range(7), most=3)) == list(range(7))


def test_what_making_a_row_raises_comes_in_its_place() -> None:
    def rows() -> Iterator[int]:
        yield 0
        yield 1
        raise Broken

    found = ahead(rows())
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(Broken):
        next(found)


def test_a_caller_that_stops_leaves_no_thread() -> None:
    made: list[int] = []

    def rows() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    found = ahead(rows())
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert len(made) <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("pns-ahead")]


def test_the_work_of_several_rows_in_order_and_bounded() -> None:
    """The first is done only when the third is under way; the fourth waits for it."""
    third, begun = threading.Event(), list[int]()

    def work(row: int) -> int:
        begun.append(row)
        if row == 2:
            third.set()
        if row == 0:
            assert third.wait(20), "one after another"
        return row * 10

    found = each(work, iter(range(9)), 3)
    assert next(found) == 0
    assert set(begun) <= {0, 1, 2, 3}
    assert list(found) == [10 * i for i in range(1, 9)]
    assert list(each(work, iter([]), 3)) == []
    assert list(each(lambda row: threading.get_ident(), iter([1, 2]), 1)) == [threading.get_ident()] * 2


def test_what_is_done_does_not_wait_for_another_row() -> None:
    """So a shard is durable when it is scored, however long the next one takes to be drawn."""
    more = threading.Event()

    def rows() -> Iterator[int]:
        yield 0
        assert more.wait(20), "the first row waits for the second"
        yield 1

    found = each(lambda row: row, rows(), 3)
    assert next(found) == 0
    more.set()
    assert list(found) == [1]


@pytest.mark.parametrize("where", ["row", "work"])
def test_what_several_at_a_time_raise_comes_in_its_place(where: str) -> None:
    def rows() -> Iterator[int]:
        yield from range(3)
        if where == "row":
            raise Broken
        yield from range(3, 9)

    def work(row: int) -> int:
        if row == 3:
            raise Broken
        return row

    found = each(work, rows(), 3)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Broken):
        next(found)


def test_the_next_shard_is_drawn_while_one_is_scored(tmp_path: Path) -> None:
    """Each waits for the other, so it ends only if both are under way at the same time."""
    second = threading.Event()
    engine = Engine(lambda call: second.set() if call == 2 else None)
    threads: set[int] = set()

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        threads.add(threading.get_ident())
        assert second.wait(20), "the next shard waits for this one"
        return rows

    told: list[tuple[int, int]] = []
    sample(nullcontext(engine), [Draw(PROBLEMS, PART, tmp_path, 5, "t")], finish, lambda *done: told.append(done))
    assert told == [(6, 20), (12, 20), (18, 20), (20, 20)]
    assert threads == {threading.get_ident()}  # files and messages are this thread's alone


def test_workers_may_be_done_in_any_order(tmp_path: Path) -> None:
    for name, engine in (("one", Engine()), ("pool", Backwards())):
        draws = [Draw(PROBLEMS, PART, tmp_path / name / str(i), i, "t") for i in range(2)]
        sample(nullcontext(engine), draws, same, lambda *_: None)
        assert [(r.problem_id, r.index) for r in draws[1].rows()] == [(p.id, k) for p in PROBLEMS for k in range(2)]
    for i in range(2):
        assert files(tmp_path / "one" / str(i)) == files(tmp_path / "pool" / str(i))
    first = next(draws[1].rows())
    assert first.text == f"problem 0 0 {seed_of(1, 'shard/0')}"


def test_shards_that_are_scored_at_once_are_checked_and_written_in_order(tmp_path: Path) -> None:
    together, seen, here = threading.Barrier(3), list[str](), threading.get_ident()

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        if rows[0].problem_id != "p9":  # the last of four shards
            together.wait(20)
        return same(problems, rows)

    def check(rows: list[Response]) -> None:
        assert threading.get_ident() == here
        assert len(files(many.folder)) == len(seen), "before it is written, and after those before it"
        seen.append(rows[0].problem_id)

    one, many = (Draw(PROBLEMS, PART, tmp_path / name, 5, "t") for name in ("one", "many"))
    sample(nullcontext(Engine()), [one], same, lambda *_: None)
    sample(nullcontext(Engine()), [many], finish, lambda *_: None, at_once=3, check=check)
    assert seen == ["p0", "p3", "p6", "p9"]
    assert files(one.folder) == files(many.folder)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("where", ["engine", "finish", "check"])
def test_an_error_leaves_whole_shards_and_a_resume_gives_the_same(tmp_path: Path, where: str, at_once: int) -> None:
    whole = Draw(PROBLEMS, PART, tmp_path / "whole", 5, "t")
    sample(nullcontext(Engine()), [whole], same, lambda *_: None)

    def breaks(call: int) -> None:
        if where == "engine" and call == 3:
            raise Broken

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        if where == "finish" and rows[0].problem_id == "p6":
            raise Broken
        return rows

    def check(rows: list[Response]) -> None:
        if where == "check" and rows[0].problem_id == "p6":
            raise Broken

    draw = Draw(PROBLEMS, PART, tmp_path / "part", 5, "t")
    with pytest.raises(Broken):
        sample(nullcontext(Engine(breaks)), [draw], finish, lambda *_: None, at_once=at_once, check=check)
    assert sorted(p.name for p in draw.folder.iterdir()) == ["00000.jsonl", "00001.jsonl"]
    engine, told = Engine(), list[tuple[int, int]]()
    sample(nullcontext(engine), [draw], same, lambda *done: told.append(done))
    assert (engine.calls, told) == (2, [(12, 20), (18, 20), (20, 20)])
    assert files(draw.folder) == files(whole.folder)
    sample(nullcontext(engine), [draw], same, lambda *done: told.append(done))
    assert (engine.calls, told[-1]) == (2, (20, 20))


def drawn_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*.drawn.json"))


def test_what_a_pool_draws_ahead_waits_on_disk(tmp_path: Path) -> None:
    """All is drawn while the first shard is scored, and none of it is left behind."""
    everything = threading.Event()
    engine = Backwards(lambda call: everything.set() if call == 4 else None)
    draw = Draw(PROBLEMS, PART, tmp_path, 5, "t")

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        assert everything.wait(20), "drawing waits for the scores"
        return rows

    sample(nullcontext(engine), [draw], finish, lambda *_: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0000{i}.jsonl" for i in range(4)]
    assert engine.ended == 1
    assert not [t for t in threading.enumerate() if t.name == "pns-spool"]


@pytest.mark.parametrize("at_once", [1, 3])
def test_what_a_pool_has_drawn_is_not_drawn_again(tmp_path: Path, at_once: int) -> None:
    whole, part = (Draw(PROBLEMS, PART, tmp_path / name, 5, "t") for name in ("whole", "part"))
    sample(nullcontext(Engine()), [whole], same, lambda *_: None)
    everything = threading.Event()
    engine = Backwards(lambda call: everything.set() if call == 4 else None)

    def broken(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        assert everything.wait(20)
        raise Broken

    with pytest.raises(Broken):
        sample(nullcontext(engine), [part], broken, lambda *_: None, at_once=at_once)
    assert not files(part.folder)
    assert engine.ended == 1
    left = drawn_files(part.folder)
    assert set(left) >= {f"0000{i}.drawn.json" for i in (1, 2, 3)}, "the one under way is made to its end, at the least"
    (part.folder / "00001.drawn.json").write_text('[[["a", 1, "stop"]]]', encoding="utf-8")
    (part.folder / "00002.drawn.json").write_text("no JSON", encoding="utf-8")
    (part.folder / "00003.drawn.json").rename(part.folder / "kept")
    (part.folder / "00003.jsonl").write_text(
        (whole.folder / "00003.jsonl").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (part.folder / "kept").rename(part.folder / "00003.drawn.json")  # as if it had ended between writing and removing
    again = Backwards()
    sample(nullcontext(again), [part], same, lambda *_: None, at_once=at_once)
    assert again.calls == len({"00000.drawn.json"} - set(left)) + 2, (
        "what has another form is drawn again, and what is missing"
    )
    assert files(part.folder) == files(whole.folder)
    assert drawn_files(part.folder) == []


def test_what_a_pool_raises_comes_behind_what_it_had_drawn(tmp_path: Path) -> None:
    def breaks(call: int) -> None:
        if call == 3:
            raise Broken

    draw = Draw(PROBLEMS, PART, tmp_path, 5, "t")
    with pytest.raises(Broken):
        sample(nullcontext(Backwards(breaks)), [draw], same, lambda *_: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00002.jsonl", "00003.jsonl"]


def test_an_engine_is_made_only_where_there_is_something_to_draw(tmp_path: Path) -> None:
    made: list[int] = []

    @contextmanager
    def engine() -> Iterator[Engine]:
        made.append(1)
        yield Engine()

    draw = Draw(PROBLEMS, PART, tmp_path, 5, "t")
    for _ in range(2):
        sample(engine(), [draw], same, lambda *_: None)
    assert made == [1]


def test_a_job_survives_json() -> None:
    job = Job(["é", "b"], 2, 0.5, 1.0, 8, 2**31 - 1, ["x", ""])
    assert Job.from_json(job.to_json()) == job
    drawn = Engine().generate(job)
    assert completions([[list(one) for one in ones] for ones in drawn]) == drawn


SERVER: dict[str, Any] = {"kind": "server", "server": {"urls": ["http://a/v1"]}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "server"}, "kind: server and engine.server go together"),
        ({"server": {"urls": ["http://a/v1"]}}, "go together"),
        ({"vllm": {}}, "engine.vllm says nothing to kind: transformers"),
        ({"kind": "vllm", "continuous_batching": True}, "continuous_batching says nothing to kind: vllm"),
        ({"kind": "server", "ray_workers": 2, "server": {"start": ["x", "{model}", "{port}"]}}, "use server.replicas"),
        (
            {"kind": "vllm", "vllm": {"tensor_parallel": 2}, "ray_workers": 2, "ray_readers": 2},
            "tensor_parallel takes whole ones",
        ),
    ],
)
def test_parts_that_mean_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EnginePart.model_validate(given)


def test_what_changes_samples_is_in_the_marks_and_nothing_else() -> None:
    def marks(**given: Any) -> Any:
        return engine_marks(EnginePart.model_validate(given).model_dump(mode="json"))

    def server(**more: Any) -> Any:
        return marks(kind="server", server={"urls": ["http://a/v1"], **more})

    assert marks() is marks(ray_workers=4, ray_readers=4) is None
    assert marks(continuous_batching=True) == {"continuous_batching": True}
    plain = marks(kind="vllm")
    assert plain == marks(kind="vllm", vllm={"gpu_memory_utilization": 0.5}, ray_workers=8)
    assert plain != marks(kind="vllm", vllm={"max_model_len": 99}), "it cuts what is longer"
    assert plain != marks(kind="vllm", vllm={"tensor_parallel": 2})
    assert plain != marks(kind="vllm", vllm={"batch_invariant": True})
    assert plain == {  # of runs that were made before there was `lora`
        "kind": "vllm", "tensor_parallel": 1, "max_model_len": None, "prefix_caching": True, "batch_invariant": False
    }  # fmt: skip
    assert plain != marks(kind="vllm", vllm={"lora": True}), "merged weights round otherwise"
    assert plain == marks(kind="vllm", vllm={"args": {}}), "results of before there was this key are still good"
    assert plain != marks(kind="vllm", vllm={"args": {"kv_cache_dtype": "fp8"}})
    dumped = EnginePart(kind="vllm", vllm=VllmPart()).model_dump(mode="json")
    assert not {"lora", "args"} & set(of_protocol({"engine": dumped})["engine"]["vllm"]), "protocols of before hold"
    assert "ray_readers" not in of_protocol({"engine": dumped})["engine"]
    asked = server()
    assert asked == server(urls=["http://b/v1", "http://c/v1"], concurrency=3, retries=0, served_model={"rlvr": "m"})
    for more in ({"dialect": "vllm"}, {"api": "chat"}, {"extra": {"top_k": 5}}):
        assert asked != server(**more)
    started = {"start": ["vllm", "serve", "{model}", "--port", "{port}"]}
    assert marks(kind="server", server=started) == marks(kind="server", server={**started, "replicas": 4})
    assert marks(kind="server", server=started) != marks(
        kind="server", server={"start": [*started["start"], "--dtype", "half"]}
    )


@pytest.mark.parametrize(
    ("module", "given", "field"),
    [
        ("ray", {"ray_workers": 2}, "engine.ray_workers"),
        ("ray", {"ray_readers": 2}, "engine.ray_readers"),
        ("httpx2", SERVER, "engine.kind"),
        ("vllm", {"kind": "vllm"}, "engine.kind"),
    ],
)
def test_what_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, given: dict[str, Any], field: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=module) as caught:
        make_engine(tmp_path, EnginePart.model_validate(given), device="cpu")
    assert caught.value.field == field
    assert "pip install" in str(caught.value.remedy)


def test_a_server_that_is_not_there_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pns.sampling.server.load_tokenizer", lambda path: None)
    part = EnginePart.model_validate({"kind": "server", "server": {"urls": ["http://127.0.0.1:9/v1"]}})
    with pytest.raises(StageStopped, match="cannot connect"):
        make_engine(tmp_path, part, device="cpu")
