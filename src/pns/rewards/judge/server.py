"""The judge behind a server: cache, budget, quotation, requests and parsing joined to one object. (Source: ours.)"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from pns.recipe import JudgeServerPart
from pns.rewards.judge.budget import Budget
from pns.rewards.judge.cache import Kept, key_of
from pns.rewards.judge.chat import COSTS, Batch, Chat, Unanswered
from pns.rewards.judge.loop import LoopThread
from pns.rewards.judge.parse import VERDICT_SCHEMA, MalformedVerdict, parse_verdict
from pns.rewards.judge.probe import Dialect
from pns.rewards.judge.prompts import Prompt, load_prompt
from pns.rewards.judging import JudgeFailure, Judgement
from pns.rewards.steps import judge_steps

log = logging.getLogger("pns.judge")

FIELD = "reward.judge_server"
KEY_VERSION = 1  # raise it when the same prompt and parameters would be sent in another form
MAX_TEXT = 2_000
COUNTS = (
    *COSTS, "cache_hits", "shared", "gated", "valid", "failed_server", "failed_malformed", "failed_budget", "cache_errors",
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


class ServerJudge:
    """Asks a server for the rubric of each response. A `Judge` (see `judging`), safe to use from any thread.

    The server sees problem, response and the response's own final answer. It is asked at the first response that the
    step checker and the cache leave over; before it, `probe` finds out what the server can do.

    Args:
        part: see `JudgeServerPart`.
        question: asked of each row in place of the rubric (see `locating`); `ask` is then the method to call.
        spent: a file for what is spent of the budgets (see `Budget`).
    Attributes:
        counts: how often, by name: `calls` (requests for a verdict, retries included: what `max_calls` counts),
            `retries`, `probes` (requests of the probe, outside `max_calls`), `cache_hits`, `shared` (responses equal to
            another one of the batch), `gated` (left to the step checker), `valid` (replies believed), `failed_server`,
            `failed_malformed`, `failed_budget` (responses), `prompt_tokens`, `completion_tokens`, `tokens`, and
            `cache_errors` (verdicts that could not be read from or written to the cache; they count all the same).
    Raises UserError for a URL, key, prompt or cache that cannot be used. Nothing is sent by making one.
    """

    def __init__(self, part: JudgeServerPart, question: Question | None = None, spent: Path | None = None) -> None:
        self.part = part
        self.question = question or rubric_question(load_prompt(part.prompt))
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        budget = Budget(part.max_calls, part.max_total_tokens, spent)
        self._chat = Chat(
            part.server, FIELD, model=part.model, wanted=part, budget=budget, counts=self.counts, log=log
        )  # fmt: skip
        self._cache = Kept(part.cache, f"{FIELD}.cache", log, lambda: self._chat.count(cache_errors=1))
        self._process = os.getpid()
        self._thread = LoopThread("pns-judge", self._chat.close)

    @property
    def dialect(self) -> Dialect | None:
        """What the probe found, or None before it."""
        return self._chat.dialect

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
        self._chat.count(shared=len(rows) - len(done))
        self._chat.count(gated=sum(row in done and done[row].text == GATED for row in rows))
        for row in rows:
            if done[row].failure is not None:
                self._chat.count(**{f"failed_{done[row].failure}": 1})
        return [done[row] for row in rows]

    def close(self) -> None:
        """End the connections, the thread and the cache. What is under way is cancelled. Safe to call twice."""
        self._thread.close()
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
            model = await self._chat.name()
        except Unanswered as error:
            return [_failed(error.failure, str(error))] * len(rows)
        keys = [self._key(model, row) for row in rows]
        known = await self._look_up(dict(zip(keys, rows, strict=True)))
        if len(known) == len(rows):
            return [known[key] for key in keys]
        try:
            dialect = await self._chat.ready()
        except Unanswered as error:
            return [known.get(key, _failed(error.failure, str(error))) for key in keys]
        batch = Batch()
        waiting = {
            key: self._ask(row, key, dialect, batch) for row, key in zip(rows, keys, strict=True) if key not in known
        }
        # One that breaks in a way that nobody thought of must not take the others along.
        asked = await asyncio.gather(*waiting.values(), return_exceptions=True)
        for key, one in zip(waiting, asked, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, Exception):
                raise one
            known[key] = one if isinstance(one, Judgement) else _failed("server", f"{type(one).__name__}: {one}")
        return [known[key] for key in keys]

    async def _ask(self, row: Row, key: str, dialect: Dialect, batch: Batch) -> Judgement:
        async with self._chat.places:
            try:
                text = self.question.render(row)
                body = dialect.request(text, self.part, self.question.schema)
                judgement = self._read(await self._chat.ask(body, text, batch), row)
            except TemplateError as error:
                return _failed("server", f"the prompt does not render: {error}")
            except Unanswered as error:
                return _failed(error.failure, str(error))
            if judgement.failure is None and judgement.text is not None:
                self._chat.count(valid=1)
                await self._cache.put(key, judgement.text, dialect.model)
            return judgement

    def _read(self, reply: Any, row: Row) -> Judgement:
        """The judgement in a chat completion. Raises Unanswered where it is none."""
        said = self._chat.said(reply)
        if said.text is None:
            return _failed("malformed", "the model refused" if said.refused else "a reply without text")
        try:
            return self.question.believe(said.text, row)
        except MalformedVerdict as error:
            cut = f", cut off after {self.part.max_tokens} tokens (max_tokens)" if said.cut else ""
            return _failed("malformed", f"{error}{cut}", said.text[:MAX_TEXT])

    def _key(self, model: str, row: Row) -> str:
        """What a verdict depends on. The code of the quotation is drawn anew each time, so it is not in here."""
        part, prompt = self.part, self.question.prompt
        parameters = {"temperature": part.temperature, "max_tokens": part.max_tokens, "structured": part.structured}
        return key_of([KEY_VERSION, model, prompt.version, prompt.text, parameters, list(row)])

    async def _look_up(self, rows: Mapping[str, Row]) -> dict[str, Judgement]:
        known = {}
        for key, reply in (await self._cache.get(list(rows))).items():
            try:
                known[key] = self.question.believe(reply, rows[key])
            except MalformedVerdict:  # somebody changed the file: as if it were not there
                self._chat.count(cache_errors=1)
        self._chat.count(cache_hits=len(known))
        return known


GATED = "step checker: below steps_gate"


def _failed(cause: JudgeFailure, detail: str, text: str | None = None) -> Judgement:
    return Judgement(failure=cause, detail=detail, text=text)
