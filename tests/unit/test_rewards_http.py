"""The reward over HTTP: what is answered, what is refused and with which status, limits, token, metrics."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest

from pns.recipe import RewardPart
from pns.records import Rubric, Scores
from pns.rewards import Composite
from pns.rewards.adapters.batching import Batcher
from pns.rewards.adapters.http import Limits, make_app
from pns.verify import Verifier

PROBLEM = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 to Tom. How many now?"
WRONG = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"
ROW = {"problem": PROBLEM, "answer": "14", "response": WRONG}
Serve = Callable[..., "Served"]


class Served:
    """The service without a socket. Each call is an event loop of its own."""

    def __init__(self, batcher: Batcher, **options: Any) -> None:
        self.app = make_app(batcher, **options)

    def __call__(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return asyncio.run(self.ask(method, path, **more))

    async def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://reward") as client:
            return await client.request(method, path, **more)

    def score(self, *rows: Any, **more: Any) -> httpx2.Response:
        return self("POST", "/score", json={"responses": list(rows)}, **more)


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Batcher] = []

    def start(judge: Any = "steps", **options: Any) -> Served:
        made.append(Batcher(Composite(RewardPart(), Verifier(), judge=judge)))
        return Served(made[-1], **options)

    yield start
    for batcher in made:
        batcher.close()


def down(problem: str, response: str, answer: str | None) -> Rubric:
    raise ConnectionError("judge is down")


def test_scores_in_order_with_their_breakdown(serve: Serve) -> None:
    reply = serve().score(
        {**ROW, "id": "w"}, {**ROW, "answer": "20"}, {**ROW, "response": "nothing"}, {**ROW, "finish": "length"},
        {**ROW, "answer": "20.4", "tolerance": 0.5},
    )  # fmt: skip
    assert reply.status_code == 200
    rows = reply.json()["scores"]
    assert [row["id"] for row in rows] == ["w", None, None, None, None]
    assert [row["gate"] for row in rows] == ["scored", "correct", "malformed", "malformed", "correct"]
    assert [row["score"] for row in rows] == [pytest.approx(0.8), 0.0, -1.0, -1.0, 0.0]
    assert rows[0]["rubric"] == {"relevance": 3, "coherence": 3, "completeness": 3, "consistency": 3}
    assert rows[0]["verdict"]["answer"] == "20"
    assert rows[3]["format_failures"] == ["truncated"]
    assert set(rows[0]) == {*Scores.model_fields, "id"}


def test_unscored_is_null_and_no_error(serve: Serve) -> None:
    reply = serve(judge=down).score(ROW, {**ROW, "answer": "20"})
    assert reply.status_code == 200
    failed, fine = reply.json()["scores"]
    assert (failed["score"], failed["gate"], failed["unscored_by"]) == (None, "unscored", "judge_server")
    assert "judge is down" in failed["unscored_cause"]
    assert fine["score"] == 0.0


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"{", ["body"]),
        (b"[]", ["body"]),
        (b'{"responses": []}', ["body", "responses"]),
        (b'{"response": []}', ["body", "responses"]),
        (b'{"responses": [{"problem": "a", "answer": "1"}]}', ["body", "responses", 0, "response"]),
        (b'{"responses": [{"problem": "a", "answer": "", "response": "r"}]}', ["body", "responses", 0, "answer"]),
        (
            b'{"responses": [{"problem": "a", "answer": "1", "response": "r", "finish": "eos"}]}',
            ["body", "responses", 0, "finish"],
        ),
        (
            b'{"responses": [{"problem": "a", "answer": "1", "response": "r", "tolerance": -1}]}',
            ["body", "responses", 0, "tolerance"],
        ),
        (
            b'{"responses": [{"problem": "a", "answer": "1", "response": "r", "reponse": ""}]}',
            ["body", "responses", 0, "reponse"],
        ),
        (b'{"responses": [{"problem": "a", "answer": "1", "response": "\xff"}]}', ["body"]),
        (b"[" * 100_000, ["body"]),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place_and_not_repeated(
    serve: Serve, body: bytes, place: list[Any]
) -> None:
    reply = serve()("POST", "/score", content=body)
    assert reply.status_code == 422
    detail = reply.json()["detail"]
    assert place in [row["loc"] for row in detail]
    assert all(set(row) == {"loc", "msg"} for row in detail)


def test_many_faults_are_a_short_answer(serve: Serve) -> None:
    reply = serve().score(*[{"problem": "x" * 1000}] * 200)
    assert reply.status_code == 422
    assert len(reply.json()["detail"]) == 5
    assert len(reply.content) < 2000


def test_limits(serve: Serve) -> None:
    service = serve(limits=Limits(max_body=2000, max_responses=2))
    assert service.score(ROW, ROW).status_code == 200
    reply = service.score(ROW, ROW, ROW)
    assert (reply.status_code, reply.json()["detail"]) == (413, "3 responses, and 2 are allowed in one request")
    assert service.score({**ROW, "response": "x" * 2000}).status_code == 413

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 100

    assert service("POST", "/score", content=unannounced()).status_code == 413


def test_a_body_that_never_ends_is_given_up(serve: Serve) -> None:
    service = serve(limits=Limits(body_seconds=0.05))

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    assert service("POST", "/score", content=slow()).status_code == 408


def test_too_much_at_a_time_is_refused_until_there_is_room(serve: Serve) -> None:
    held = threading.Event()

    def waits(problem: str, response: str, answer: str | None) -> Rubric:
        assert held.wait(30)
        return Rubric(relevance=3, coherence=3, completeness=3, consistency=3)

    service = serve(judge=waits, limits=Limits(max_pending=3))

    async def crowd() -> None:
        body = {"responses": [ROW, ROW]}
        first = asyncio.create_task(service.ask("POST", "/score", json=body))
        while b"pns_pending_responses 2.0" not in (await service.ask("GET", "/metrics")).content:
            await asyncio.sleep(0.01)
        refused = await service.ask("POST", "/score", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        held.set()
        assert (await first).status_code == 200
        assert (await service.ask("POST", "/score", json=body)).status_code == 200

    asyncio.run(crowd())


def test_the_token(serve: Serve) -> None:
    service = serve(token="sécret".encode("ascii", "ignore").decode())
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic scret"},
        {"Authorization": "scret"},
    ):
        reply = service("POST", "/score", content=b"{" * 10, headers=headers)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert service("GET", "/metrics", headers=headers).status_code == 401
    fine = {"Authorization": "bearer scret"}
    assert service.score(ROW, headers=fine).status_code == 200
    assert service("GET", "/metrics", headers=fine).status_code == 200
    assert service("GET", "/health").status_code == 200


def test_health_says_what_is_served(serve: Serve) -> None:
    reply = serve(name="mine")("GET", "/health")
    assert reply.status_code == 200
    found = reply.json()
    assert (found["status"], found["recipe"], found["answer_format"], found["judge"]) == (
        "ok",
        "mine",
        "boxed",
        "steps",
    )


def test_metrics_count_gates_failures_and_calls(serve: Serve) -> None:
    service = serve(judge=down)
    service.score(ROW, {**ROW, "answer": "20"}, {**ROW, "response": "nothing"})
    service("POST", "/score", content=b"{")
    lines = set(service("GET", "/metrics").text.splitlines())
    assert {
        'pns_requests_total{status="200"} 1.0', 'pns_requests_total{status="422"} 1.0',
        'pns_responses_total{gate="correct"} 1.0', 'pns_responses_total{gate="malformed"} 1.0',
        'pns_responses_total{gate="unscored"} 1.0', 'pns_responses_total{gate="scored"} 0.0',
        'pns_unscored_total{by="judge_server"} 1.0', 'pns_format_failures_total{check="no_answer"} 1.0',
        'pns_calls_total{part="verifier"} 2.0', 'pns_calls_saved_total{part="verifier"} 1.0',
        'pns_calls_total{part="judge"} 1.0', 'pns_calls_saved_total{part="judge"} 2.0', "pns_pending_responses 0.0",
    } <= lines  # fmt: skip


def test_the_schema_tells_a_client_what_to_send(serve: Serve) -> None:
    schema = serve()("GET", "/openapi.json").json()
    body = json.dumps(schema["paths"]["/score"]["post"]["requestBody"])
    assert all(f'"{name}"' in body for name in ("problem", "answer", "response", "finish", "tolerance"))


def test_concurrent_requests_share_batches_and_keep_their_scores(serve: Serve) -> None:
    service = serve()

    async def many() -> list[httpx2.Response]:
        rows = [{**ROW, "id": str(n), "response": WRONG.replace("{20}", f"{{{n}}}")} for n in range(40)]
        return await asyncio.gather(*(service.ask("POST", "/score", json={"responses": [row]}) for row in rows))

    replies = [reply.json()["scores"][0] for reply in asyncio.run(many())]
    assert [(row["id"], row["verdict"]["answer"]) for row in replies] == [(str(n), str(n)) for n in range(40)]
    assert replies[14]["gate"] == "correct"


def test_a_bug_is_a_500_and_the_next_request_is_served(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serve()

    def explode(*_: Any) -> Any:
        raise RuntimeError("secret details")

    with monkeypatch.context() as patch:
        patch.setattr(Composite, "__call__", explode)
        transport = httpx2.ASGITransport(app=service.app, raise_app_exceptions=False)

        async def ask() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=transport, base_url="http://reward") as client:
                return await client.post("/score", json={"responses": [ROW]})

        reply = asyncio.run(ask())
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert service.score(ROW).status_code == 200
