"""The composite over HTTP: `POST /score`, `/health`, `/metrics`. See `pns serve-reward`. (Source: ours.)

    POST /score   {"responses": [{"problem": "...", "answer": "14", "response": "... \\\\boxed{13}", "finish": "stop"}]}
    200           {"scores": [{"id": null, "score": 0.8, "gate": "scored", "rubric": {...}, ...}]}

One entry a response, in order, with the whole breakdown (`pns.records.Scores`). An unscored response has `score: null`
and says what failed; it is no HTTP error, for the others have their scores. Responses of all requests that are under way
are scored in common batches.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import pns
from pns.records import AnswerKind, Gate, Problem, Scores, UnscoredBy
from pns.rewards.adapters.batching import Batcher, Row
from pns.rewards.format import CHECKS

log = logging.getLogger("pns.serve")

MAX_ERRORS = 5


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        max_body: bytes of a request.
        max_responses: responses of a request.
        max_pending: responses of all requests under way; beyond it, 429 with Retry-After.
        body_seconds: for a request's body to arrive.
    """

    max_body: int = 16 << 20
    max_responses: int = 512
    max_pending: int = 4096
    body_seconds: float = 30.0


class Asked(BaseModel):
    """One response to score. Field by field as in `pns.records.Problem`; `answer` is the gold one."""

    model_config = ConfigDict(extra="forbid")

    problem: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    response: str
    finish: Literal["stop", "length"] = "stop"
    id: str | None = Field(None, max_length=200, description="comes back with the score")
    kind: AnswerKind | None = None
    tolerance: float | None = Field(None, ge=0, allow_inf_nan=False)
    unit: str | None = None

    def row(self) -> Row:
        """As the composite reads it."""
        problem = Problem(
            id=self.id or "-", problem=self.problem, answer=self.answer,
            kind=self.kind, tolerance=self.tolerance, unit=self.unit,
        )  # fmt: skip
        return Row(problem, self.response, self.finish)


class ScoreRequest(BaseModel):
    """The body of `POST /score`."""

    model_config = ConfigDict(extra="forbid")

    responses: list[Asked] = Field(min_length=1)


class Scored(Scores):
    """The score of one response with its breakdown, and the `id` that it was sent with."""

    id: str | None = None


class ScoreReply(BaseModel):
    """The reply of `POST /score`, in the order of the request."""

    scores: list[Scored]


def make_app(
    batcher: Batcher, *, name: str = "reward", token: str | None = None, limits: Limits | None = None
) -> FastAPI:
    """The service. It closes the batcher when it shuts down.

    Args:
        name: of the recipe, for /health.
        token: asked for as `Authorization: Bearer ...` on /score and /metrics. None: nobody is asked.
    """
    limits, meters = limits or Limits(), Meters(batcher)
    pending = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    async def allowed(request: Request) -> None:
        if token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
        if scheme.lower() != "bearer" or not same:
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    # No pages that load scripts from elsewhere; /openapi.json has the schema.
    app = FastAPI(title="pns reward", version=pns.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.middleware("http")
    async def count(request: Request, call_next: Any) -> Response:
        begun = time.monotonic()
        status = 500
        try:
            reply: Response = await call_next(request)
            status = reply.status_code
        finally:
            if request.url.path == "/score":
                meters.requests.labels(str(status)).inc()
                meters.seconds.observe(time.monotonic() - begun)
        return reply

    schema = {"content": {"application/json": {"schema": ScoreRequest.model_json_schema()}}, "required": True}

    @app.post("/score", dependencies=[Depends(allowed)], openapi_extra={"requestBody": schema})
    async def score(request: Request) -> ScoreReply:
        nonlocal pending
        # Read here, not by the framework: it would parse a body of any size before it asks for the token.
        asked = _parse(await _body(request, limits), limits)
        if pending + len(asked) > limits.max_pending:
            raise HTTPException(429, "too many responses under way; try again", {"Retry-After": "1"})
        pending += len(asked)
        meters.pending.inc(len(asked))
        try:
            futures = [asyncio.wrap_future(batcher.submit(one.row())) for one in asked]
            found = await asyncio.gather(*futures)
        finally:
            pending -= len(asked)
            meters.pending.dec(len(asked))
        meters.see(found)
        return ScoreReply(scores=[Scored(**s.model_dump(), id=one.id) for one, s in zip(asked, found, strict=True)])

    @app.get("/health")
    async def health() -> dict[str, Any]:
        part = batcher.composite.part
        return {
            "status": "ok",
            "version": pns.__version__,
            "recipe": name,
            "answer_format": part.answer_format,
            "reward_model": batcher.composite.reward_model is not None,
            "judge": part.judge,
        }

    @app.get("/metrics", dependencies=[Depends(allowed)])
    async def metrics() -> Response:
        return Response(generate_latest(meters.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _body(request: Request, limits: Limits) -> bytes:
    too_large = HTTPException(413, f"a request of more than {limits.max_body} bytes; send fewer responses at a time")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > limits.max_body:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_body:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, "the request did not arrive in time") from None
    return b"".join(parts)


def _parse(body: bytes, limits: Limits) -> list[Asked]:
    try:
        asked = ScoreRequest.model_validate_json(body).responses
    except ValidationError as error:
        # Place and message only: the input may be long, and is the client's own.
        found = [{"loc": ["body", *e["loc"]], "msg": e["msg"]} for e in error.errors(include_input=False)[:MAX_ERRORS]]
        raise HTTPException(422, found) from None
    if len(asked) > limits.max_responses:
        raise HTTPException(413, f"{len(asked)} responses, and {limits.max_responses} are allowed in one request")
    return asked


class Meters:
    """What /metrics shows, in Prometheus' text format: requests, gates, failures, calls made and saved."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.registry = CollectorRegistry()
        self.requests = Counter("pns_requests", "Requests to /score.", ["status"], registry=self.registry)
        self.seconds = Histogram("pns_request_seconds", "Duration of a request to /score.", registry=self.registry)
        self.pending = Gauge("pns_pending_responses", "Responses under way.", registry=self.registry)
        self._gates = Counter("pns_responses", "Responses by the gate that decided.", ["gate"], registry=self.registry)
        self._unscored = Counter("pns_unscored", "Unscored responses by cause.", ["by"], registry=self.registry)
        self._failures = Counter("pns_format_failures", "Format checks failed.", ["check"], registry=self.registry)
        for counter, labels in (
            (self._gates, get_args(Gate)), (self._unscored, get_args(UnscoredBy)), (self._failures, tuple(CHECKS)),
        ):  # fmt: skip
            for label in labels:
                counter.labels(label)  # at 0 from the start, so that rates can be told
        self.registry.register(self)

    def see(self, scores: Iterable[Scores]) -> None:
        """Count what was scored."""
        for score in scores:
            self._gates.labels(score.gate).inc()
            if score.unscored_by is not None:
                self._unscored.labels(score.unscored_by).inc()
            for failure in score.format_failures:
                self._failures.labels(failure).inc()

    def collect(self) -> Iterable[Metric]:
        """The composite's own counts, and those of a judge behind a server."""
        counts = self._batcher.composite.counts
        for what, ending, text in (
            ("calls", "_calls", "Responses that a part was asked about."),
            ("calls_saved", "_saved", "Responses that a part was not asked about, since a gate had decided."),
        ):
            family = CounterMetricFamily(f"pns_{what}", text, labels=["part"])
            for name in ("verifier", "reward_model", "judge"):
                family.add_metric([name], counts[name + ending])
            yield family
        judged = getattr(self._batcher.composite.judge, "counts", None)
        if isinstance(judged, dict):
            family = CounterMetricFamily("pns_judge", "Counts of the judge behind a server.", labels=["what"])
            for name, value in judged.items():
                family.add_metric([name], value)
            yield family
