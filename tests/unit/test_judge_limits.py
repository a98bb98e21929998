"""The judge's budget, its gate, its secrets, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers.judge_server import MARKS, Answer, Request, ScriptedServer, verdict
from helpers.judging import GOOD, Make, making, part, texts
from pns.errors import UserError
from pns.recipe import RewardPart
from pns.records import Rubric
from pns.rewards.build import build_composite, build_judge
from pns.rewards.judge import ServerJudge
from pns.rewards.judge.budget import Budget
from pns.rewards.judge.quote import unquote
from pns.rewards.steps import judge_steps

RUBRIC = Rubric(**MARKS)
KEY = "sk-test-5ecret/K3y+"


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(monkeypatch)


# The budget.


def test_the_budget_in_calls_is_exact(make: Make) -> None:
    with ScriptedServer() as server:
        judge = make(server, max_calls=5, concurrency=3)
        found = judge.judge(*texts(12))
        assert sum(j.rubric is not None for j in found) == 5
        assert [j.failure for j in found if j.rubric is None] == ["budget"] * 7
        assert "max_calls: 5" in next(j.detail for j in found if j.failure)
        assert len(server.verdicts) == 5
        assert judge.judge(["p"], ["later"], [None])[0].failure == "budget"
        assert judge.counts["failed_budget"] == 8


def test_cached_verdicts_answer_past_the_budget(make: Make, tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    with ScriptedServer() as server:
        assert make(server, cache=cache).judge(*texts(3))[2].rubric == RUBRIC
        judge = make(server, cache=cache, max_calls=1)
        found = judge.judge(*texts(6))
        assert [j.rubric is not None for j in found[:3]] == [True] * 3
        assert sorted(str(j.failure) for j in found[3:]) == ["None", "budget", "budget"]
        assert [j.rubric for j in judge.judge(*texts(3))] == [RUBRIC] * 3


def test_retries_count_and_the_budget_ends_them(make: Make) -> None:
    with ScriptedServer(lambda n, r: Answer(status=500)) as server:
        (found,) = make(server, max_calls=2, retries=9).judge(*texts(1))
        assert found.failure == "server"
        assert "not tried again (max_calls: 2" in found.detail
        assert len(server.verdicts) == 2


def test_the_budget_in_tokens_stops_what_is_not_yet_under_way(make: Make) -> None:
    together = threading.Barrier(3)

    def script(n: int, request: Request) -> Answer:
        together.wait(5)
        return Answer()

    with ScriptedServer(script) as server:
        judge = make(server, max_total_tokens=240, concurrency=3)  # the probe takes 120, each verdict too
        found = judge.judge(*texts(9))
        assert sum(j.rubric is not None for j in found) == len(server.verdicts) == 3
        assert sum(j.failure == "budget" for j in found) == 6
        assert judge.counts["tokens"] == 480


def test_what_is_spent_counts_when_a_stage_is_gone_on_with(make: Make, tmp_path: Path) -> None:
    spent = tmp_path / "judge-spent.json"
    with ScriptedServer() as server:
        settings = RewardPart(judge="server", judge_server=part(server, max_calls=5))
        for asked, failures in ((3, 0), (4, 2), (4, 4)):
            with build_composite(settings, spent=spent) as composite:
                found = composite.judge.judge(*texts(asked))  # type: ignore[union-attr]
            assert sum(j.failure == "budget" for j in found) == failures
        assert len(server.verdicts) == 5
        assert json.loads(spent.read_text())["calls"] == 5
        raised = RewardPart(judge="server", judge_server=part(server, max_calls=7))
        with build_composite(raised, spent=spent) as composite:
            composite.judge.judge(*texts(9))  # type: ignore[union-attr]
        assert len(server.verdicts) == 7, "what a larger budget has left"
        with build_composite(settings, spent=tmp_path / "another stage") as composite:
            composite.judge.judge(*texts(9))  # type: ignore[union-attr]
        assert len(server.verdicts) == 12


def test_processes_that_share_a_file_share_the_budget(tmp_path: Path) -> None:
    kept = tmp_path / "spent"
    one, other = Budget(5, 100, kept), Budget(5, 100, kept)
    assert [b.take() for b in (one, other, one, other, one, other)] == [True] * 5 + [False]
    one.add(60)
    other.add(60)
    assert Budget(None, 100, kept).spent == "max_total_tokens: 100 is reached"
    assert Budget(9, None, kept).take()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: Budget(100, None, kept).take(), range(200)))
    assert sum(taken) == 100 - 6
    kept.write_text("{half")
    with pytest.raises(UserError, match="delete it"):
        Budget(5, None, kept)


def usages() -> list[Any]:
    return [
        None,
        {},
        "many",
        {"prompt_tokens": "9", "completion_tokens": 1},
        {"prompt_tokens": -5, "completion_tokens": 1},
    ]


@pytest.mark.parametrize("usage", usages())
def test_tokens_are_estimated_where_the_server_reports_none(make: Make, usage: Any) -> None:
    with ScriptedServer(lambda n, r: Answer(usage=usage)) as server:
        judge = make(server, max_total_tokens=2_000, max_tokens=64)
        found = [judge.judge(["p"], [str(i)], [None])[0].failure for i in range(2)]
        assert found == [None, "budget"], "a prompt of more than 2000 bytes counts as that many tokens"
        assert judge.counts["tokens"] >= 120 + len(server.verdicts[0].prompt.encode()) + 64


def test_hidden_reasoning_counts(make: Make) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 1000}
    with ScriptedServer(lambda n, r: Answer(usage=usage)) as server:
        judge = make(server)
        judge.judge(*texts(1))
        assert judge.counts["tokens"] == 120 + 1000


# The step checker as a gate.


def test_below_steps_gate_no_call_is_made(make: Make) -> None:
    bad = "Step 1: 2 + 3 = 6\nThe answer is \\boxed{7}"
    with ScriptedServer() as server:
        judge = make(server, steps_gate=9)
        found = judge.judge(["What is 2 + 3?"] * 3, [GOOD, bad, bad], ["5", "7", "7"])
        assert found[0].rubric == RUBRIC
        assert found[1].rubric is not None
        assert found[1].rubric.total < 9
        assert found[1].text == "step checker: below steps_gate"
        assert len(server.verdicts) == 1
        assert judge.counts["gated"] == 2
    with ScriptedServer() as server:
        make(server, steps_gate=0).judge(["What is 2 + 3?"], [bad], ["7"])
        assert len(server.verdicts) == 1


def test_steps_gate_is_the_least_total_that_is_asked_about(make: Make) -> None:
    problem, text = "What is 2 + 3?", "Step 1: 2 + 3 = 6\nThe answer is \\boxed{6}"
    total = judge_steps(problem, text, "6").total
    assert 0 < total < 12
    with ScriptedServer() as server:
        make(server, steps_gate=total + 1).judge([problem], [text], ["6"])
        assert not server.requests
        make(server, steps_gate=total).judge([problem], [text], ["6"])
        assert len(server.verdicts) == 1


# Secrets.


def test_the_key_goes_into_the_header_and_nowhere_else(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def script(n: int, request: Request) -> Answer:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        return [
            Answer(status=401, body={"error": {"message": f"bad key {key}"}}),
            Answer(status=400, body={"error": {"message": " " * 1190 + f"bad {key}"}}),
            Answer(status=400, body=f"bad {key}".encode()),
            Answer(f"your key is {key}"),
            Answer(verdict(reason=f"your key is {key}")),
        ][n]

    with ScriptedServer(script) as server:
        judge = make(server, api_key_env="TEST_JUDGE_KEY", cache=tmp_path / "c.sqlite")
        for i in range(5):
            said.append(repr(judge.judge(["p"], [str(i)], [None])))
        assert all(r.headers["Authorization"] == f"Bearer {KEY}" for r in server.requests)
        assert all(KEY.encode() not in r.raw for r in server.requests)
    assert "[key]" in said[1]
    assert "[key]" in said[4]
    everything = "".join(said) + caplog.text + repr(vars(judge)) + repr(judge.part)
    assert KEY not in everything
    judge.close()
    assert KEY.encode() not in (tmp_path / "c.sqlite").read_bytes()


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "sk-\u00fc", "sk-a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    if value is not None and "\x00" not in value:
        monkeypatch.setenv("TEST_JUDGE_KEY", value)
    with pytest.raises(UserError) as caught:
        ServerJudge(part("http://localhost:1/v1", api_key_env="TEST_JUDGE_KEY"))
    assert "TEST_JUDGE_KEY" in str(caught.value)
    assert not value or not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://h/v1",
        "http://",
        "http://user:s3cret@h/v1",
        "http://h/v1?key=s3cret",
        "http://h:x/v1",
        "//h",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_a_password_in_the_message(url: str) -> None:
    with pytest.raises(UserError) as caught:
        ServerJudge(part(url))
    assert "judge_server.server.url" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# Life and death.


def test_close_leaves_no_thread_and_refuses_more(make: Make) -> None:
    before = set(threading.enumerate())
    with ScriptedServer() as server:
        judge = make(server, cache=None)
        assert set(threading.enumerate()) - before == {server._thread}, "no thread before the first request"
        judge.judge(*texts(2))
        judge.close()
        judge.close()
        with pytest.raises(RuntimeError, match="closed"):
            judge.judge(*texts(1))
    # Threads of earlier tests' event loops may still be there.
    left = set(threading.enumerate()) - before
    assert not [t for t in left if t.name.startswith(("pns-judge", "asyncio"))]


def test_close_ends_what_is_under_way(make: Make) -> None:
    go, there = threading.Event(), threading.Event()

    def script(n: int, request: Request) -> Answer:
        there.set()
        return Answer(hold=go)

    with ScriptedServer(script) as server:
        judge = make(server)
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(judge.judge, *texts(3))
            assert there.wait(60)
            judge.close()
            assert isinstance(work.exception(5), BaseException)
        go.set()


def test_a_forked_process_is_told_to_make_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server:
        judge = make(server)
        judge.judge(*texts(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="another process"):
                judge.judge(*texts(1))


def test_an_interrupt_cancels_what_is_under_way(make: Make) -> None:
    go, there = threading.Event(), threading.Event()

    def script(n: int, request: Request) -> Answer:
        there.set()
        return Answer(hold=None if n else go)

    def interrupt() -> None:
        there.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    with ScriptedServer(script) as server:
        judge = make(server, concurrency=1)
        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            judge.judge(*texts(3))
        other.join()
        assert judge.judge(["p"], ["later"], [None])[0].rubric == RUBRIC, "its place is free again"
        assert len(server.verdicts) == 2, "the ones that waited are not asked"
        go.set()


def test_a_server_that_is_down_is_given_up_for_the_batch(make: Make) -> None:
    with ScriptedServer(lambda n, r: Answer(status=500)) as server:
        judge = make(server, retries=1, concurrency=2)
        found = judge.judge(*texts(60))
        assert {j.failure for j in found} == {"server"}
        assert len(server.verdicts) < 30
        assert any("not asked" in j.detail for j in found)


def test_some_failures_do_not_take_the_others_with_them(make: Make) -> None:
    kinds = [Answer(), Answer("?"), Answer(status=400), Answer(drop=True)]
    chosen: dict[str, Answer] = {}

    def script(n: int, request: Request) -> Answer:
        return chosen.setdefault(
            unquote(request.prompt, "RESPONSE", request.code).split()[-1], kinds[len(chosen) % len(kinds)]
        )

    with ScriptedServer(script) as server:
        judge = make(server, concurrency=1, retries=0)
        found = judge.judge(*texts(12))
        assert [j.failure for j in found] == [None, "malformed", "server", "server"] * 3
        assert judge.counts["valid"] == 3


def test_through_the_recipe(make: Make) -> None:
    with ScriptedServer() as server:
        judge = build_judge(RewardPart(judge="server", judge_server=part(server)))
        assert isinstance(judge, ServerJudge)
        judge.close()


def test_without_its_libraries_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith("pns.rewards.judge.") or m == "pns.rewards.judge"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(UserError, match=r"plausible-negatives\[server\]"):
        build_judge(RewardPart(judge="server", judge_server=part("http://localhost:1/v1")))


def test_the_rewards_load_no_http_library() -> None:
    code = "import sys, pns.rewards, pns.rewards.build\nprint({'httpx2', 'httpx', 'tenacity', 'sqlite3'} & set(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
