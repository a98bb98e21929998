"""A reward model behind a server: which way of asking is found, what is scored, what fails and how."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from jinja2 import TemplateError

from helpers.judge_server import Answer, Request
from helpers.reward_servers import (
    MODEL,
    THREAD,
    Make,
    ModelServer,
    SglangServer,
    VllmServer,
    Words,
    by_position,
    making,
    softmax,
)
from pns.errors import UserError
from pns.rewards.composite import every_score
from pns.rewards.identity import ModelMark
from pns.rewards.judge.chat import GIVE_UP_AFTER
from pns.rewards.judge.client import ServerFailed
from pns.rewards.reward_protocol import Dialect
from pns.rewards.reward_server import RewardServer

KEY = "sk-reward-5ecret/K3y+"
PROBLEM = "What is 2 + 3?"


def texts(n: int) -> list[str]:
    """Different responses of different lengths, in no order of length."""
    return [f"number {i} " + "word " * (i * 7 % 11) for i in range(n)]


def raw(answers: list[str]) -> list[float]:
    return [by_position(Words().conversation(PROBLEM, text))[-1][0] for text in answers]


def ask(scorer: RewardServer, answers: list[str]) -> list[float | Exception | None]:
    return scorer.score([PROBLEM] * len(answers), answers)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from making(monkeypatch)


# The way of asking


@pytest.mark.parametrize(
    ("version", "endpoint", "ids", "field", "asked"),
    [
        ({}, "classify", True, "use_activation", 2),
        ({"task": "token_classify"}, "pooling", True, "use_activation", 3),
        ({"task": "token_classify", "classify_route": True}, "pooling", True, "use_activation", 3),
        ({"ids": False}, "classify", False, "use_activation", 3),
        ({"ids": False, "task": "token_classify"}, "pooling", False, "use_activation", 4),
        ({"switch": "activation"}, "classify", True, "activation", 3),
        ({"switch": "softmax", "ids": False, "activation": softmax}, "classify", False, "softmax", 5),
        ({"switch": "softmax", "strict": True}, "classify", True, "softmax", 4),
        ({"activation": list}, "classify", True, "use_activation", 4),
        ({"activation": list, "strict": True}, "classify", True, "use_activation", 4),
        ({"activation": list, "strict": True, "switch": None}, "classify", True, None, 4),
        ({"active": False, "always": ("activation", "softmax")}, "classify", True, "use_activation", 4),
        ({"usage": False}, "classify", True, "use_activation", 2),
    ],
)
def test_the_way_that_a_vllm_gives_raw_scores_is_found(
    make: Make, version: dict[str, Any], endpoint: Any, ids: bool, field: str | None, asked: int
) -> None:
    with VllmServer(**version) as server:
        scorer = make(server, retries=0)
        assert scorer.dialect == Dialect("vllm", MODEL, endpoint, ids, field)
        assert len(server.posts) == asked
        assert ask(scorer, texts(5)) == pytest.approx(raw(texts(5)), abs=1e-12)


@pytest.mark.parametrize(("endpoint", "task"), [("pooling", "classify"), ("pooling", "token_classify")])
def test_an_endpoint_that_is_named_is_the_only_one_asked(make: Make, endpoint: str, task: str) -> None:
    with VllmServer(task=task) as server:
        scorer = make(server, endpoint=endpoint)
        assert {request.path for request in server.posts} == {f"/{endpoint}"}
        assert ask(scorer, texts(3)) == pytest.approx(raw(texts(3)))


def test_sglang_is_asked_at_its_own_path(make: Make) -> None:
    with SglangServer() as server:
        for url in (server.root, f"{server.root}/v1", f"{server.root}/v1/"):
            scorer = make(server, url=url)
            assert scorer.dialect == Dialect("sglang", MODEL)
            assert ask(scorer, texts(5)) == raw(texts(5))
        assert {request.path for request in server.posts} == {"/classify"}
        assert {request.path for request in server.requests} == {"/classify", "/v1/models"}


def test_a_sigmoid_that_stays_on_is_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with VllmServer(switch=None) as server:
        make(server)
    assert "is a sigmoid left on?" in caplog.text
    caplog.clear()
    with VllmServer() as server:
        make(server)
    assert not caplog.records


def test_the_mark_names_the_served_model(make: Make) -> None:
    with VllmServer() as server:
        mark = make(server, revision="abc").mark()
    assert mark == ModelMark(kind="vllm", name=MODEL, path="tok", revision="abc")


# What is refused at the start


def answering(status: int = 200, **more: Any) -> VllmServer:
    return VllmServer(script=lambda n, request: Answer(status=status, **more))


def listing(*cards: Any, kind: type[ModelServer] = VllmServer, **more: Any) -> ModelServer:
    server = kind()
    server.models = Answer(body={"data": list(cards)}, **more)
    return server


def fixed(*row: float) -> VllmServer:
    return VllmServer(score=lambda ids: [list(row)] * len(ids))


TWO = ({"id": "b"}, {"id": "a"})
STEPS = VllmServer(score=lambda ids: [[1.0], [2.0]], task="token_classify")


@pytest.mark.parametrize(
    ("server", "options", "field", "words"),
    [
        (VllmServer(switch=None, activation=softmax), {}, "server", ("1 for every text", "use_activation")),
        (fixed(1, 2), {}, "", ("2 numbers a text", "one label")),
        (SglangServer(score=lambda ids: [[1.0, 2.0]]), {}, "", ("2 numbers a text", "one label")),
        (STEPS, {}, "", ("2 numbers for the steps", "process reward models are not supported")),
        (VllmServer(), {"name": "other"}, "name", ("does not serve 'other'", f"it serves: {MODEL}")),
        (listing(*TWO), {}, "name", ("lists 2 models", "name one of them: a, b")),
        (listing(), {}, "name", ("lists 0 models", "start it with a model")),
        (listing(), {"name": "m"}, "name", ("does not serve 'm'", "lists no models")),
        (listing({"id": ""}, 3, {"id": 4}, "x"), {}, "name", ("lists 0 models",)),
        (listing({"id": "base"}, {"id": "lora", "parent": "base"}, kind=SglangServer), {"name": "lora"}, "name",
         ("'lora' is an adapter", "merge it")),
        (listing(status=401), {}, "server", ("HTTP 401", "start the server")),
        (VllmServer(task="embed"), {"endpoint": "classify"}, "server", ("/classify: HTTP 404", "without a path?")),
        (answering(400, body={"error": {"message": "no pooling here"}}), {}, "server",
         ("/classify: HTTP 400: no pooling here; /pooling: HTTP 400",)),
        (answering(body=b"{broken"), {}, "server", ("no JSON",)),
        (answering(body=b"[" * 100_000), {}, "server", ("no JSON",)),
        (answering(500, body=b"<h1>oops</h1>"), {"retries": 1}, "server", ("HTTP 500: <h1>oops</h1>",)),
        (VllmServer(reads=2), {}, "server", ("our tokenizer gives", "another tokenizer")),
        ("http://127.0.0.1:9", {"retries": 1}, "server", ("vllm at http://127.0.0.1:9", "cannot connect")),
        ("localhost:8000", {}, "server.url", ("not an http(s) URL",)),
        ("http://127.0.0.1:9", {"api_key_env": "TEST_NO_KEY"}, "server.api_key_env", ("TEST_NO_KEY is not set",)),
    ],
)  # fmt: skip
def test_servers_that_cannot_be_used(
    make: Make, server: ModelServer | str, options: dict[str, Any], field: str, words: tuple[str, ...]
) -> None:
    with contextlib.nullcontext() if isinstance(server, str) else server, pytest.raises(UserError) as caught:
        make(server, **options)
    assert caught.value.field == "reward.reward_model" + (field and f".{field}")
    assert caught.value.remedy
    for word in words:
        assert word in str(caught.value)
    assert not [t for t in threading.enumerate() if t.name == THREAD]


def test_one_of_two_models_can_be_named(make: Make) -> None:
    cards = ({"id": MODEL, "max_model_len": 99}, {"id": "lora", "parent": MODEL})
    with listing(*cards) as server:
        assert make(server, name=MODEL).max_length == 99
        server.card["id"] = "lora"
        scorer = make(server, name="lora")
        assert (scorer.dialect.model, scorer.max_length) == ("lora", None)


def test_a_chat_template_that_refuses_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TemplateError("a system message must come first")

    monkeypatch.setattr(Words, "apply_chat_template", refuse)
    with SglangServer() as server, pytest.raises(UserError, match="a system message must come first") as caught:
        make(server)
    assert (caught.value.field, caught.value.file) == ("chat_template", "tok")


# Scores


@pytest.mark.parametrize("kind", [VllmServer, SglangServer])
def test_order_is_kept_across_batches(make: Make, kind: type[ModelServer]) -> None:
    with kind() as server:
        scorer = make(server, batch_size=4, concurrency=3)
        assert ask(scorer, []) == []
        both = threading.Barrier(2)

        def late(n: int, request: Request) -> Answer | None:
            if n < 2:
                both.wait(10)  # two at the same time, or this breaks
            return Answer(wait=0.02 * (n % 3), body=server.respond(request).body)

        server.on(late)
        assert ask(scorer, texts(23)) == raw(texts(23))
        assert len(server.asked) == 6
        assert 2 <= server.peak <= 3
        sent = [len(r.body["input" if kind is VllmServer else "input_ids"]) for r in server.asked]
        assert sorted(sent) == [3, 4, 4, 4, 4, 4]
    with pytest.raises(ValueError, match="zip"):
        scorer.score([PROBLEM], ["a", "b"])


def at_length(n: int) -> str:
    return "x " * (n - len(Words().conversation(PROBLEM, "")))


@pytest.mark.parametrize(("kind", "fits"), [(VllmServer, 40), (SglangServer, 39)])
def test_what_is_too_long_is_not_sent_and_has_no_score(make: Make, kind: type[ModelServer], fits: int) -> None:
    answers = ["short", at_length(41), at_length(fits), at_length(fits + 1), "short, too"]
    with kind(max_model_len=40) as server:
        scorer = make(server)
        server.on(None)
        given, want = ask(scorer, answers), raw(answers)
        assert given == [pytest.approx(want[0]), None, pytest.approx(want[2]), None, pytest.approx(want[4])]
        assert len(server.asked) == 1
        assert ask(scorer, [at_length(41)]) == [None]
        assert len(server.asked) == 1


@pytest.mark.parametrize("kind", [VllmServer, SglangServer])
def test_a_limit_that_is_not_listed_is_learnt_by_refusal(make: Make, kind: type[ModelServer]) -> None:
    answers = ["short", at_length(50), "short, too", at_length(60)]
    with kind(max_model_len=40) as server:
        server.card["max_model_len"] = None
        scorer = make(server)
        assert scorer.max_length is None
        server.on(None)
        want = raw(answers)
        assert ask(scorer, answers) == [pytest.approx(want[0]), None, pytest.approx(want[2]), None]
        assert len(server.asked) == 1 + len(answers)


def test_a_server_that_cuts_is_found_out(make: Make) -> None:
    with SglangServer(max_model_len=40, cuts=True) as server:
        server.card["max_model_len"] = None
        scorer = make(server)
        with pytest.raises(ServerFailed, match="has read 40 tokens where our tokenizer gives 41"):
            ask(scorer, [at_length(41)])


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(make: Make, status: int) -> None:
    with VllmServer() as server:
        scorer = make(server)
        server.on(lambda n, request: Answer(status=status, body={}) if n < 2 else None)
        assert ask(scorer, texts(3)) == pytest.approx(raw(texts(3)))
        assert len(server.asked) == 3
        server.on(lambda n, request: Answer(status=status, body={"error": "busy"}))
        with pytest.raises(ServerFailed, match=f"HTTP {status}: busy"):
            ask(scorer, texts(3))
        assert len(server.asked) == 5


def test_a_request_that_fails_costs_its_own_texts_alone(make: Make) -> None:
    with VllmServer() as server:
        scorer = make(server, batch_size=2, retries=1)
        want = raw(texts(7))
        refused = Words().conversation(PROBLEM, texts(7)[3])
        server.on(lambda n, r: Answer(status=500, body={"error": "lost"}) if refused in r.body["input"] else None)
        given = ask(scorer, texts(7))
        failed = [i for i, one in enumerate(given) if isinstance(one, Exception)]
        assert 3 in failed
        assert len(failed) <= 2, "those of one request"
        assert {str(given[i]) for i in failed} == {"HTTP 500: lost"}
        assert [one for i, one in enumerate(given) if i not in failed] == pytest.approx(
            [one for i, one in enumerate(want) if i not in failed]
        )
        with pytest.raises(ServerFailed, match="HTTP 500: lost"):  # for those who can do without none of them
            every_score(scorer, [PROBLEM] * 7, texts(7))


def test_a_server_that_is_down_is_not_asked_for_all_of_a_batch(make: Make) -> None:
    with VllmServer() as server:
        scorer = make(server, batch_size=1, retries=1, concurrency=4)
        server.on(lambda n, request: Answer(status=503, body={}))
        with pytest.raises(ServerFailed, match="HTTP 503"):
            ask(scorer, texts(60))
        assert len(server.asked) <= 2 * (GIVE_UP_AFTER + 4)
        server.on(None)
        assert ask(scorer, texts(3)) == pytest.approx(raw(texts(3))), "the next batch asks again"


def test_time_outs_and_dropped_connections_are_tried_again(make: Make) -> None:
    go = threading.Event()
    with SglangServer() as server:
        scorer = make(server, timeout_seconds=0.5)
        server.on(lambda n, request: [Answer(hold=go, body={}), Answer(drop=True)][n] if n < 2 else None)
        assert ask(scorer, texts(3)) == raw(texts(3))
        assert len(server.asked) >= 3
        go.set()


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 422])
def test_other_statuses_are_not_tried_again(make: Make, status: int) -> None:
    with VllmServer() as server:
        scorer = make(server, batch_size=2)
        server.on(lambda n, request: Answer(status=status, body={"error": {"message": "not like that"}}))
        with pytest.raises(ServerFailed, match=f"HTTP {status}"):
            ask(scorer, texts(2))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b'{"data": [', "no JSON"),
        (b'{"data": [{"index": 0, "probs": [1]}]}', "1 scores for 2"),
        (b'{"data": [{"index": 0, "probs": [NaN]}, {"index": 1, "probs": [1]}]}', "is nan"),
        (b'{"data": [{"index": 0, "probs": [1, 2]}, {"index": 1, "probs": [1, 2]}]}', "2 numbers a text"),
    ],
)
def test_a_reply_without_sense_is_a_failure_and_the_next_is_read(make: Make, body: Any, words: str) -> None:
    with VllmServer() as server:
        scorer = make(server)
        server.on(lambda n, request: Answer(body=body) if n == 0 else None)
        with pytest.raises(ServerFailed, match=words):
            ask(scorer, texts(2))
        assert len(server.asked) == 1
        assert ask(scorer, texts(2)) == pytest.approx(raw(texts(2)))


# Keys, threads, ends


def test_the_key_is_sent_and_never_shown(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REWARD_KEY", KEY)
    with VllmServer() as server:
        scorer = make(server, api_key_env="TEST_REWARD_KEY")
        ask(scorer, texts(1))
        assert len(server.requests) == 4
        assert {request.headers.get("Authorization") for request in server.requests} == {f"Bearer {KEY}"}
        assert all(KEY.encode() not in request.raw for request in server.requests)
        server.on(lambda n, r: Answer(status=400, body={"error": {"message": f"bad: {r.headers['Authorization']}"}}))
        with pytest.raises(ServerFailed, match=r"bad: Bearer \[key\]") as failed:
            ask(scorer, texts(1))
        assert KEY not in str(failed.value)
        with pytest.raises(UserError, match=r"bad: Bearer \[key\]") as told:
            make(server, api_key_env="TEST_REWARD_KEY")
        assert KEY not in str(told.value)
        server.on(None)
        make(server)
        assert "Authorization" not in server.requests[-1].headers


def test_the_processes_of_a_training_share_the_places(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with SglangServer(script=lambda n, request: None) as server:
        scorer = make(server, batch_size=1, concurrency=8)
        server.on(lambda n, request: Answer(wait=0.02, body=server.respond(request).body))
        assert ask(scorer, texts(12)) == raw(texts(12))
        assert server.peak <= 2
        assert server.connections <= 2


def test_several_threads_share_the_places(make: Make) -> None:
    with SglangServer(script=lambda n, request: None) as server:
        scorer = make(server, batch_size=2, concurrency=3)
        server.on(lambda n, request: Answer(wait=0.003, body=server.respond(request).body))
        many = [[f"{text} of {k}" for text in texts(5)] for k in range(12)]
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda answers: ask(scorer, answers), many)) == [raw(answers) for answers in many]
        assert len(server.asked) == 36
        assert server.peak <= 3
        assert server.connections <= 3


def test_close_is_safe_twice_and_nothing_is_sent_afterwards(make: Make) -> None:
    with VllmServer() as server:
        scorer = make(server)
        with scorer as entered:
            assert entered is scorer
        scorer.close()
        sent = len(server.posts)
        with pytest.raises(RuntimeError, match="closed"):
            ask(scorer, texts(1))
        assert len(server.posts) == sent
        assert not [t for t in threading.enumerate() if t.name == THREAD]


def test_close_ends_what_is_under_way(make: Make) -> None:
    go, there = threading.Event(), threading.Event()

    def hold(n: int, request: Request) -> Answer:
        there.set()
        return Answer(hold=go, body={})

    with VllmServer() as server, ThreadPoolExecutor(1) as pool:
        scorer = make(server)
        server.on(hold)
        waiting = pool.submit(ask, scorer, texts(1))
        assert there.wait(10)
        scorer.close()
        assert waiting.exception(10) is not None
        go.set()
