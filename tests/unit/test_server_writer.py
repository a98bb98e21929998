"""Prompted replies from a scripted server: order, failures, budgets, what is kept, and what is sent."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.judge_server import Answer, Request, ScriptedServer
from pns.errors import UserError
from pns.negatives.prompted import Unwritten
from pns.recipe import PromptedPart, ServerPart
from pns.rewards.judge import client
from pns.sampling.engine import Completion
from pns.sampling.server_writer import ServerWriter

Make = Callable[..., ServerWriter]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes writers with short waits, and ends them."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.002)
    made: list[ServerWriter] = []

    def writer(
        server: ScriptedServer, *, seed: int = 0, spent: tuple[int, int] = (0, 0), **options: Any
    ) -> ServerWriter:
        talk = {k: options.pop(k) for k in list(options) if k in ServerPart.model_fields}
        part = {"n": 2, "model": "m", "cache": None, **options}
        made.append(
            ServerWriter(PromptedPart(writer="server", server=ServerPart(url=server.url, **talk), **part), seed, spent)
        )
        return made[-1]

    yield writer
    for one in made:
        one.close()
    assert not [t for t in threading.enumerate() if t.name == "pns-writer"]


def echo(n: int, request: Request) -> Answer:
    """Says the prompt again, and which request it is."""
    return Answer(f"{request.prompt} #{n}")


def texts(replies: list[list[Completion | Unwritten]]) -> list[list[str]]:
    return [[one.text if isinstance(one, Completion) else one.failure for one in ones] for ones in replies]


def test_each_prompt_has_its_replies_in_order(make: Make) -> None:
    def script(n: int, request: Request) -> Answer:
        return Answer(request.prompt.upper(), wait=0.01 * (n % 3))

    with ScriptedServer(script) as server:
        writer = make(server, concurrency=3, n=3)
        assert texts(writer.write(["a", "b", "c"], 0)) == [["A"] * 3, ["B"] * 3, ["C"] * 3]
        assert writer.name == "m"
        assert 2 <= server.peak <= 3
        assert len(server.probes) == 1
    assert (writer.counts["calls"], writer.counts["probes"]) == (9, 1)
    assert (writer.counts["prompt_tokens"], writer.counts["completion_tokens"]) == (1000, 200)


def test_a_request_holds_what_every_server_knows(make: Make) -> None:
    with ScriptedServer(echo) as server:
        make(server, max_new_tokens=77, temperature=0.7).write(["p"], 0)
        make(server, top_p=0.9).write(["p"], 0)
        first, last = server.verdicts[0], server.verdicts[-1]
        assert first.path == "/v1/chat/completions"
        assert first.body == {
            "model": "m", "messages": [{"role": "user", "content": "p"}], "max_tokens": 77, "temperature": 0.7,
        }  # fmt: skip
        assert (last.body["temperature"], last.body["top_p"]) == (1.0, 0.9)


def test_one_failed_request_costs_one_reply(make: Make) -> None:
    answers = [
        Answer("one"),
        Answer(status=400, body={"error": {"message": "too long"}}),
        Answer(body={"choices": []}),
        Answer(None),
        Answer("cut", finish="length"),
        Answer(status=500),
        Answer("six"),
        Answer("half \ud800 a pair"),
    ]
    with ScriptedServer(lambda n, r: answers[n]) as server:
        writer = make(server, concurrency=1, n=1, retries=1)
        found = [one for (one,) in writer.write([str(i) for i in range(7)], 0)]
    assert found[0] == Completion("one", 0, "stop")
    assert isinstance(found[1], Unwritten)
    assert (found[1].failure, found[1].again) == ("server", False)
    assert "HTTP 400: too long" in found[1].detail
    assert isinstance(found[2], Unwritten)
    assert (found[2].failure, found[2].again) == ("server", True)
    assert found[3] == Unwritten("malformed", "a reply without text")
    assert found[4] == Completion("cut", 0, "length")
    assert found[5] == Completion("six", 0, "stop"), "a 500 is tried again"
    assert found[6] == Completion("half ? a pair", 0, "stop")
    assert (writer.counts["calls"], writer.counts["retries"]) == (8, 1)


def test_a_server_that_is_down_is_not_asked_to_the_end(make: Make) -> None:
    with ScriptedServer(lambda n, r: Answer(status=503)) as server:
        writer = make(server, concurrency=1, retries=0, n=30)
        (found,) = writer.write(["p"], 0)
        assert {(one.failure, one.again) for one in found if isinstance(one, Unwritten)} == {("server", True)}
        assert len(found) == 30
        assert len(server.verdicts) == 8


def test_no_server_and_no_model(make: Make) -> None:
    with ScriptedServer(models=["a", "b"]) as server:
        writer = make(server, model=None)
        (found,) = writer.write(["p"], 0)
        assert isinstance(found[0], Unwritten)
        assert "negatives.prompted.model" in found[0].detail
    gone = make(server, retries=0)
    assert [
        [(one.failure, one.again) for one in ones if isinstance(one, Unwritten)] for ones in gone.write(["p"], 0)
    ] == [[("server", True)] * 2]


@pytest.mark.parametrize(
    ("listed", "name"), [("org/large", "org/large"), ("half \ud800", "half ?"), ("/home/x/m.gguf", "m.gguf")]
)
def test_the_only_model_is_found_and_its_name_can_be_written(make: Make, listed: str, name: str) -> None:
    with ScriptedServer(echo, models=[listed]) as server:
        writer = make(server, model=None)
        writer.write(["p"], 0)
        assert writer.name == name
        assert {r.body["model"] for r in server.requests if r.body} == {listed}


def test_budgets_end_what_is_asked(make: Make) -> None:
    with ScriptedServer(echo) as server:
        writer = make(server, max_calls=5, spent=(2, 0), concurrency=1)
        assert texts(writer.write(["a", "b"], 0))[1] == ["b #2", "budget"]
        (later,) = writer.write(["c"], 1)
        assert [(one.failure, one.again) for one in later if isinstance(one, Unwritten)] == [("budget", False)] * 2
        assert len(server.verdicts) == 3
    with ScriptedServer(echo) as server:
        writer = make(server, max_total_tokens=300, concurrency=1)  # the probe takes 120, and each reply too
        assert texts(writer.write(["a", "b"], 0)) == [["a #0", "a #1"], ["budget", "budget"]]
    with ScriptedServer(echo) as server:
        assert texts(make(server, max_calls=5, spent=(5, 0)).write(["a"], 0)) == [["budget", "budget"]]
        assert not server.requests


def test_replies_are_kept_by_what_they_depend_on(make: Make, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "c.sqlite"
    with ScriptedServer(echo) as server:
        first = make(server, cache=cache, concurrency=1).write(["a", "b"], 0)
        again = make(server, cache=cache, max_calls=1)
        assert again.write(["b", "a"], 7) == first[::-1], "the shard does not matter"
        assert (again.counts["cache_hits"], again.counts["calls"], again.counts["tokens"]) == (4, 0, 0)
        for change in ({"seed": 1}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_new_tokens": 9}, {"model": "other"}):
            other = make(server, cache=cache, **change)
            other.write(["a"], 0)
            assert other.counts["cache_hits"] == 0
        more = make(server, cache=cache, n=3)
        assert texts(more.write(["a"], 0))[0][:2] == texts(first)[0]
        assert (more.counts["cache_hits"], more.counts["calls"]) == (2, 1)
        assert len(server.probes) == 7


@pytest.mark.parametrize("kept", ["no json", "[]", '{"text": 3, "finish": "stop"}', '{"text": "x", "finish": "gone"}'])
def test_a_kept_reply_that_somebody_changed_is_asked_for_again(make: Make, tmp_path: Path, kept: str) -> None:
    cache = tmp_path / "c.sqlite"
    with ScriptedServer(echo) as server:
        make(server, cache=cache).write(["a"], 0)
        with sqlite3.connect(cache) as connection:
            connection.execute("UPDATE verdicts SET reply = ?", (kept,))
        connection.close()
        writer = make(server, cache=cache)
        writer.write(["a"], 0)
        assert (writer.counts["cache_hits"], writer.counts["cache_errors"], writer.counts["calls"]) == (0, 2, 2)


def test_a_cache_that_is_something_else_is_refused(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are my notes, and not a data base.\n" * 40)
    with ScriptedServer(echo) as server:
        with pytest.raises(UserError, match=r"notes\.txt: negatives\.prompted\.cache"):
            make(server, cache=file)


def test_a_server_that_takes_no_temperature_writes_at_one_alone(make: Make) -> None:
    def probe(n: int, request: Request) -> Answer:
        refused = {"error": {"message": "no", "param": "temperature"}}
        return Answer(status=400, body=refused) if "temperature" in request.body else Answer("ready")

    with ScriptedServer(echo, probe) as server:
        assert texts(make(server, concurrency=1).write(["a"], 0)) == [["a #0", "a #1"]]
        assert "temperature" not in server.verdicts[0].body
        (found,) = make(server, temperature=0.5).write(["a"], 0)
        assert isinstance(found[0], Unwritten)
        assert "negatives.prompted.temperature=1" in found[0].detail


def test_the_key_is_sent_and_never_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, cache = "sk-test-5ecret", tmp_path / "c.sqlite"
    monkeypatch.setenv("TEST_WRITER_KEY", key)
    answers = [Answer(f"your key is {key}"), Answer(status=400, body={"error": {"message": f"bad key {key}"}})]
    with caplog.at_level(logging.DEBUG), ScriptedServer(lambda n, r: answers[n]) as server:
        (found,) = make(server, api_key_env="TEST_WRITER_KEY", concurrency=1, cache=cache).write(["a"], 0)
        assert server.verdicts[0].headers["Authorization"] == f"Bearer {key}"
    assert found[0] == Completion("your key is [key]", 0, "stop")
    assert key not in str(found)
    assert key not in caplog.text
    assert key.encode() not in cache.read_bytes()
