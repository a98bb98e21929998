"""Servers differ: what the first request finds out, and what is sent after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from helpers.judge_server import Answer, Request, ScriptedServer, verdict
from pns.recipe import JudgeServerPart, ServerPart
from pns.rewards.judge import ServerJudge, client
from pns.rewards.judge.parse import VERDICT_SCHEMA

Probe = Callable[[int, Request], Answer]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.002)


def judged(server: ScriptedServer, **options: Any) -> ServerJudge:
    """A judge that has judged two responses, one after the other, and is closed."""
    settings = {"model": "m", "cache": None, **options}
    with ServerJudge(JudgeServerPart(server=ServerPart(url=server.url, retries=1), **settings)) as judge:
        for text in ("a", "b"):
            judge.judge(["p"], [text], [None])
    return judge


def refusing(field: str, message: str, status: int = 400, **error: Any) -> Probe:
    def probe(n: int, request: Request) -> Answer:
        if field not in request.body:
            return Answer('{"code": 17}' if "response_format" in request.body else "ready")
        return Answer(status=status, body={"error": {"message": message, **error}})

    return probe


@pytest.mark.parametrize(
    ("content", "found", "sends"),
    [
        ('{"code": 17}', "enforced", True),
        ('<think>hm</think>\n{"code": 17}', "enforced", True),
        ("ready", "ignored", False),
        ("Ready! {", "ignored", False),
        ('{"word": "ready"}', "ignored", False),
        ("", "accepted", True),
        (None, "accepted", True),
        ('{"code"', "accepted", True),
        ("<think>The user wants", "accepted", True),
    ],
)
def test_one_probe_decides_whether_response_format_is_sent(content: str | None, found: str, sends: bool) -> None:
    with ScriptedServer(probe=lambda n, r: Answer(content)) as server:
        judge = judged(server)
        assert judge.dialect is not None
        assert judge.dialect.structured == found
        assert len(server.probes) == judge.counts["probes"] == 1
        assert server.probes[0].body["response_format"]["type"] == "json_schema"
        assert ["response_format" in r.body for r in server.verdicts] == [sends] * 2
        assert judge.counts["valid"] == 2


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unknown parameter: 'response_format'."}},
        {"error": {"message": "no", "param": "response_format.type"}},
        {"detail": "Unexpected fields in the request: {'response_format'}"},
        {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted", "input": {}}]},
        {"message": "json_schema is not supported by this model", "object": "error"},
        {"error": "guided decoding is off"},
    ],
)
def test_a_server_that_refuses_the_field_by_name_is_asked_without_it(status: int, body: Any) -> None:
    def probe(n: int, request: Request) -> Answer:
        return Answer(status=status, body=body) if "response_format" in request.body else Answer("ready")

    with ScriptedServer(probe=probe) as server:
        judge = judged(server)
        assert judge.dialect is not None
        assert judge.dialect.structured == "refused"
        assert len(server.probes) == 2
        assert all("response_format" not in r.body for r in server.verdicts)
        assert judge.counts["valid"] == 2


def test_the_newer_field_for_the_longest_reply_and_no_temperature() -> None:
    old = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    warm = "Unsupported value: 'temperature' does not support 0 with this model."

    def probe(n: int, request: Request) -> Answer:
        if "max_tokens" in request.body:
            return Answer(status=400, body={"error": {"message": old, "param": "max_tokens"}})
        if "temperature" in request.body:
            return Answer(status=400, body={"error": {"message": warm, "param": "temperature"}})
        return Answer('{"code": 17}')

    with ScriptedServer(probe=probe) as server:
        judge = judged(server, max_tokens=300)
        body = server.verdicts[0].body
        assert set(body) == {"model", "messages", "max_completion_tokens", "response_format"}
        assert body["max_completion_tokens"] == 300
        assert len(server.probes) == 3
        assert judge.counts["valid"] == 2


@pytest.mark.parametrize(
    ("probe", "status"),
    [
        (refusing("model", "The model `m` does not exist", 404), 404),
        (refusing("model", "This model's maximum context length is 16 tokens", 400), 400),
        (refusing("model", "schema", 403), 403),
        (refusing("messages", "response_format is not known here", 400), 400),
    ],
)
def test_any_other_refusal_is_the_servers_failure_and_is_asked_again_later(probe: Probe, status: int) -> None:
    with ScriptedServer(probe=probe) as server:
        judge = judged(server)
        assert judge.dialect is None
        assert not server.verdicts
        assert judge.counts["failed_server"] == 2
        assert 2 <= len(server.probes) <= 4


def test_a_server_that_comes_up_later_is_found() -> None:
    with ScriptedServer(probe=lambda n, r: Answer(status=503) if n < 2 else Answer("ready")) as server:
        judge = judged(server)
        assert (judge.counts["failed_server"], judge.counts["valid"]) == (1, 1)


def test_json_schema_is_always_sent_and_none_never() -> None:
    with ScriptedServer(probe=lambda n, r: Answer("ready")) as server:
        judge = judged(server, structured="json_schema")
        assert judge.dialect is not None
        assert judge.dialect.structured == "ignored"
        assert [r.body["response_format"]["json_schema"]["schema"] for r in server.verdicts] == [VERDICT_SCHEMA] * 2
    with ScriptedServer(probe=refusing("response_format", "response_format?")) as server:
        assert judged(server, structured="json_schema").counts["failed_server"] == 2
    with ScriptedServer() as server:
        judge = judged(server, structured="none")
        assert judge.dialect is not None
        assert judge.dialect.structured == "off"
        assert all("response_format" not in r.body for r in server.requests)


@pytest.mark.parametrize(
    ("models", "works"),
    [
        (["only"], True),
        ([], False),
        (["a", "b"], False),
        (Answer(status=404), False),
        (Answer(body={"data": [{"id": 3}, "x", {}]}), False),
        (Answer(body=b"?"), False),
    ],
)
def test_the_models_name_is_asked_for_where_none_is_given(models: Any, works: bool) -> None:
    with ScriptedServer(models=models) as server:
        judge = judged(server, model=None)
        if works:
            assert {r.body["model"] for r in server.requests if r.body} == {"only"}
            assert [r.path for r in server.requests].count("/v1/models") == 1
            assert judge.counts["valid"] == 2
        else:
            assert judge.counts["failed_server"] == 2
            assert not [r for r in server.requests if r.body]


def test_two_models_are_named_in_the_message() -> None:
    with ScriptedServer(models=["large", "small"]) as server:
        with ServerJudge(JudgeServerPart(server=ServerPart(url=server.url), cache=None)) as judge:
            (found,) = judge.judge(["p"], ["a"], [None])
        assert "large, small" in found.detail
        assert "judge_server.model" in found.detail


def test_the_probe_is_small_and_holds_nothing_of_the_problem() -> None:
    with ScriptedServer(lambda n, r: Answer(verdict())) as server:
        judged(server, max_tokens=1000)
        (probe,) = server.probes
        assert probe.body["max_tokens"] == 32
        assert len(probe.prompt) < 100
