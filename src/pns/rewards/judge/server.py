"""The judge behind a server: cache, budget, quotation, requests and parsing joined to one object. (Source: ours.)"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from pns.recipe import JudgeServerPart
from pns.rewards.judge.budget import Budget, most_tokens, tokens_of
from pns.rewards.judge.cache import VerdictCache, key_of
from pns.rewards.judge.client import Client, NotAsked, ServerFailed
from pns.rewards.judge.loop import LoopThread
from pns.rewards.judge.parse import VERDICT_SCHEMA, MalformedVerdict, parse_verdict
from pns.rewards.judge.probe import PROBE, PROBE_TOKENS, Dialect, find_model, probe
from pns.rewards.judge.prompts import Prompt, load_prompt
from pns.rewards.judging import JudgeFailure, Judgement
from pns.rewards.steps import judge_steps

log = logging.getLogger("pns.judge")

KEY_VERSION = 1  # raise it when the same prompt and parameters would be sent in another form
GIVE_UP_AFTER = 8
MAX_TEXT = 2_000
COUNTS = (
    "calls", "retries", "probes", "cache_hits", "shared", "gated", "prompt_tokens", "completion_tokens", "tokens",
    "valid", "failed_server", "failed_malformed", "failed_budget", "cache_errors",
)  # fmt: skip

Row = tuple[Any, ...]
"""What one question is about; for a rubric: problem, response, the response's own final answer or None."""


@dataclass(frozen=True)
class Question:
    """What a server is asked, and what of its reply is believed.

    Attributes:
        prompt: with its text a part of the cache's key.
        render: the message for a row; may raise jinja2.TemplateError.
        schema: of the reply, for response_format.
        believe: the judgement in a reply; raises MalformedVerdict.
    """

    prompt: Prompt
    render: Callable[[Row], str]
    schema: dict[str, Any]
    believe: Callable[[str, Row], Judgement]


def rubric_question(prompt: Prompt) -> Question:
    """Asks for the rubric of a response."""
    return Question(
        prompt, lambda row: prompt.render(*row), VERDICT_SCHEMA,
        lambda reply, row: Judgement(rubric=parse_verdict(reply).rubric, text=reply),
    )  # fmt: skip


@dataclass(slots=True)
class _Batch:
    """One call of `judge`: how many rows on end the server has failed, to see that it is down."""

    failed_on_end: int = 0


class ServerJudge:
    """Asks a server for the rubric of each response. A `Judge` (see `judging`), safe to use from any thread.

    The server sees problem, response and the response's own final answer. It is asked at the first response that the
    step checker and the cache leave over; before it, `probe` finds out what the server can do.

    Args:
        part: see `JudgeServerPart`.
        question: asked of each row in place of the rubric (see `locating`); `ask` is then the method to call.
    Attributes:
        counts: how often, by name: `calls` (requests for a verdict, retries included: what `max_calls` counts),
            `retries`, `probes` (requests of the probe, outside `max_calls`), `cache_hits`, `shared` (responses equal to
            another one of the batch), `gated` (left to the step checker), `valid` (replies believed), `failed_server`,
            `failed_malformed`, `failed_budget` (responses), `prompt_tokens`, `completion_tokens`, `tokens`, and
            `cache_errors` (verdicts that could not be read from or written to the cache; they count all the same).
        dialect: what the probe found, or None before it.
    Raises UserError for a URL, key, prompt or cache that cannot be used. Nothing is sent by making one.
    """

    def __init__(self, part: JudgeServerPart, question: Question | None = None) -> None:
        self.part = part
        self.question = question or rubric_question(load_prompt(part.prompt))
        self._client = Client(part.server)
        self._cache = VerdictCache(part.cache) if part.cache is not None else None
        self._budget = Budget(part.max_calls, part.max_total_tokens)
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self.dialect: Dialect | None = None
        self._model = part.model
        self._process = os.getpid()
        self._counting = threading.Lock()
        self._places = asyncio.Semaphore(part.server.concurrency)
        self._probing = asyncio.Lock()
        self._thread = LoopThread("pns-judge", self._client.close)

    def judge(
        self, problems: Sequence[str], responses: Sequence[str], answers: Sequence[str | None]
    ) -> list[Judgement]:
        """One Judgement a response, in order. A failure of the server is in it, never raised.

        Raises ValueError when the lengths differ, RuntimeError after `close` and in a forked process, which has neither
        the thread nor a right to the cache's connection.
        """
        rows = list(zip(problems, responses, answers, strict=True))
        return self.ask(rows, {row: gated for row in dict.fromkeys(rows) if (gated := self._gate(*row)) is not None})

    def ask(self, rows: Sequence[Row], known: Mapping[Row, Judgement] | None = None) -> list[Judgement]:
        """As `judge`, for rows of any question; `known` are those that need not be asked about."""
        if os.getpid() != self._process:
            raise RuntimeError("this judge belongs to another process: make one here")
        done = dict(known or {})
        left = [row for row in dict.fromkeys(rows) if row not in done]
        if left:
            done.update(zip(left, self._thread.run(self._judge_all(left)), strict=True))
        self._count(shared=len(rows) - len(done))
        self._count(gated=sum(row in done and done[row].text == GATED for row in rows))
        for row in rows:
            if done[row].failure is not None:
                self._count(**{f"failed_{done[row].failure}": 1})
        return [done[row] for row in rows]

    def close(self) -> None:
        """End the connections, the thread and the cache. What is under way is cancelled. Safe to call twice."""
        self._thread.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> ServerJudge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _gate(self, problem: str, response: str, answer: str | None) -> Judgement | None:
        if not self.part.steps_gate:
            return None
        rubric = judge_steps(problem, response, answer)
        return Judgement(rubric=rubric, text=GATED) if rubric.total < self.part.steps_gate else None

    async def _judge_all(self, rows: list[Row]) -> list[Judgement]:
        try:
            model = await self._name()
        except ServerFailed as error:
            return [_failed("server", str(error))] * len(rows)
        keys = [self._key(model, row) for row in rows]
        known = await self._look_up(dict(zip(keys, rows, strict=True)))
        if len(known) < len(rows):
            refused = await self._ready(model)
            if refused is not None:
                return [known.get(key, refused) for key in keys]
        batch = _Batch()
        waiting = {key: self._ask(row, key, batch) for row, key in zip(rows, keys, strict=True) if key not in known}
        # One that breaks in a way that nobody thought of must not take the others along.
        asked = await asyncio.gather(*waiting.values(), return_exceptions=True)
        for key, one in zip(waiting, asked, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, Exception):
                raise one
            known[key] = one if isinstance(one, Judgement) else _failed("server", f"{type(one).__name__}: {one}")
        return [known[key] for key in keys]

    async def _name(self) -> str:
        async with self._probing:
            if self._model is None:
                self._model = await find_model(self._client)
            return self._model

    async def _ready(self, model: str) -> Judgement | None:
        """Probe the server, once for this object. A failure where that was not to be had; the next batch tries again."""
        async with self._probing:
            if self.dialect is not None:
                return None
            if self._budget.spent is not None:
                return _failed("budget", self._budget.spent)
            try:
                self.dialect = await probe(self._post_probe, model, self.part)
            except ServerFailed as error:
                return _failed("server", f"the first request: {error}")
            except NotAsked as error:
                return _failed("budget", str(error))
            log.info("judge %s: response_format %s", self._client.hide(model), self.dialect.structured)
            return None

    async def _post_probe(self, body: dict[str, Any]) -> Any:
        self._count(probes=1)
        return await self._post(body, PROBE, PROBE_TOKENS, leave=lambda: self._budget.spent)

    async def _ask(self, row: Row, key: str, batch: _Batch) -> Judgement:
        async with self._places:
            if batch.failed_on_end >= GIVE_UP_AFTER:
                return _failed("server", f"not asked: the server failed the last {batch.failed_on_end} on end")
            try:
                text = self.question.render(row)
            except TemplateError as error:
                return _failed("server", f"the prompt does not render: {error}")
            assert self.dialect is not None
            body = self.dialect.request(text, self.part, self.question.schema)
            try:
                reply = await self._post(body, text, self.part.max_tokens, leave=self._leave)
            except NotAsked as error:
                return _failed("budget", str(error))
            except ServerFailed as error:
                batch.failed_on_end += error.again
                return _failed("server", str(error))
            batch.failed_on_end = 0
            judgement = self._read(reply, row)
            if judgement.failure is None and judgement.text is not None:
                self._count(valid=1)
                await self._keep(key, judgement.text)
            return judgement

    async def _post(self, body: dict[str, Any], text: str, limit: int, leave: Any) -> Any:
        def failed(error: ServerFailed, again: bool) -> None:
            self._count(retries=int(again))
            if error.unknown_cost:
                self._spend(*most_tokens(text, limit))

        reply = await self._client.send("POST", "/chat/completions", body, leave=leave, failed=failed)
        usage = tokens_of(reply.get("usage") if isinstance(reply, dict) else None)
        self._spend(*(usage or most_tokens(text, limit)))
        return reply

    def _leave(self) -> str | None:
        if not self._budget.take():
            return self._budget.spent
        self._count(calls=1)
        return None

    def _read(self, reply: Any, row: Row) -> Judgement:
        """The judgement in a chat completion."""
        try:
            (choice,) = reply["choices"]
            message, finish = choice["message"], choice.get("finish_reason")
            content = message["content"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return _failed("server", "the reply is no chat completion with one choice")
        if not isinstance(content, str):
            refusal = message.get("refusal") if isinstance(message, dict) else None
            return _failed("malformed", "the model refused" if refusal else "a reply without text")
        # JSON can hold half a surrogate pair, which no file of ours, and no cache, can
        content = self._client.hide(content).encode("utf-8", "replace").decode()
        try:
            return self.question.believe(content, row)
        except MalformedVerdict as error:
            cut = f", cut off after {self.part.max_tokens} tokens (max_tokens)" if finish == "length" else ""
            return _failed("malformed", f"{error}{cut}", content[:MAX_TEXT])

    def _key(self, model: str, row: Row) -> str:
        """What a verdict depends on. The code of the quotation is drawn anew each time, so it is not in here."""
        part, prompt = self.part, self.question.prompt
        parameters = {"temperature": part.temperature, "max_tokens": part.max_tokens, "structured": part.structured}
        return key_of([KEY_VERSION, model, prompt.version, prompt.text, parameters, list(row)])

    async def _look_up(self, rows: dict[str, Row]) -> dict[str, Judgement]:
        if self._cache is None:
            return {}
        try:
            replies = await asyncio.to_thread(self._cache.get, list(rows))
        except sqlite3.Error as error:
            self._cache_failed("read", error)
            return {}
        known = {}
        for key, reply in replies.items():
            try:
                known[key] = self.question.believe(reply, rows[key])
            except MalformedVerdict:  # somebody changed the file: as if it were not there
                self._count(cache_errors=1)
        self._count(cache_hits=len(known))
        return known

    async def _keep(self, key: str, reply: str) -> None:
        if self._cache is None:
            return
        try:
            await asyncio.to_thread(self._cache.put, key, reply, self._model or "")
        except sqlite3.Error as error:
            self._cache_failed("written", error)

    def _cache_failed(self, what: str, error: sqlite3.Error) -> None:
        if not self.counts["cache_errors"]:
            log.warning("the verdict cache %s cannot be %s: %s", self.part.cache, what, error)
        self._count(cache_errors=1)

    def _spend(self, prompt: int, completion: int) -> None:
        self._budget.add(prompt + completion)
        self._count(prompt_tokens=prompt, completion_tokens=completion, tokens=prompt + completion)

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, n in more.items():
                self.counts[name] += n


GATED = "step checker: below steps_gate"


def _failed(cause: JudgeFailure, detail: str, text: str | None = None) -> Judgement:
    return Judgement(failure=cause, detail=detail, text=text)
