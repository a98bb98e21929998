"""Completions of prompts by a model behind an OpenAI-compatible server. (Source: ours.)

Replies are kept on disk by what they depend on, the stage's seed included: what was paid for once is not asked again
when only the scoring has changed, and another seed gives other replies. The server itself is sent no seed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pns.negatives.prompted import FIELD, Unwritten
from pns.recipe import PromptedPart
from pns.rewards.judge.budget import Budget
from pns.rewards.judge.cache import Kept, key_of
from pns.rewards.judge.chat import COSTS, Batch, Chat, Unanswered
from pns.rewards.judge.loop import LoopThread
from pns.rewards.judge.probe import Dialect
from pns.sampling.engine import Completion

log = logging.getLogger("pns.writer")

KEY_VERSION = 1  # raise it when the same prompt and parameters would be sent in another form
MAX_NAME = 200
COUNTS = (*COSTS, "cache_hits", "cache_errors")


class _Wanted(NamedTuple):
    temperature: float
    max_tokens: int
    structured: Literal["none"] = "none"


class ServerWriter:
    """`n` replies to each prompt, one request each, at most `server.concurrency` at a time.

    Args:
        part: with `writer: server`.
        seed: of the stage, for the cache.
        spent: requests and tokens that count against the budgets already.
    Attributes:
        name: the model's at the server (of a path its end), known after the first `write`.
        counts: what it has cost, by name (see `Chat`), and `cache_hits` and `cache_errors`.
    Raises UserError for a URL, key or cache that cannot be used. Nothing is sent by making one.
    """

    def __init__(self, part: PromptedPart, seed: int, spent: tuple[int, int] = (0, 0)) -> None:
        assert part.server is not None  # the recipe has seen to it
        self.part, self.name, self._seed = part, "", seed
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        budget = Budget(part.max_calls, part.max_total_tokens)
        budget.calls, budget.tokens = spent
        wanted = _Wanted(part.temperature, part.max_new_tokens)
        self._chat = Chat(
            part.server, FIELD, model=part.model, wanted=wanted, budget=budget, counts=self.counts, log=log
        )  # fmt: skip
        self._wanted = wanted
        self._kept = Kept(part.cache, f"{FIELD}.cache", log, lambda: self._chat.count(cache_errors=1))
        self._thread = LoopThread("pns-writer", self._chat.close)

    def write(self, prompts: Sequence[str], shard: int) -> list[list[Completion | Unwritten]]:
        """`part.n` replies to each prompt, in order; a failure of the server is among them, never raised.

        `n_tokens` of a completion is 0: what a server says of it is its own count.
        """
        n = self.part.n
        rows = [(text, k) for text in prompts for k in range(n)]
        found = self._thread.run(self._write_all(rows))
        return [found[i * n : (i + 1) * n] for i in range(len(prompts))]

    def close(self) -> None:
        """End the connections, the thread and the cache. What is under way is cancelled. Safe to call twice."""
        self._thread.close()
        self._kept.close()

    async def _write_all(self, rows: list[tuple[str, int]]) -> list[Completion | Unwritten]:
        try:
            model = await self._chat.name()
        except Unanswered as error:
            return [_unwritten(error)] * len(rows)
        self.name = _shown(model)
        keys = [self._key(model, *row) for row in rows]
        known = await self._look_up(keys)
        waiting = {key: text for key, (text, _) in zip(keys, rows, strict=True) if key not in known}
        if waiting:
            try:
                dialect = await self._ready()
            except Unanswered as error:
                return [known.get(key, _unwritten(error)) for key in keys]
            batch = Batch()
            # One that breaks in a way that nobody thought of must not take the others along.
            asked = await asyncio.gather(
                *(self._ask(text, key, dialect, batch) for key, text in waiting.items()), return_exceptions=True
            )
            for key, one in zip(waiting, asked, strict=True):
                if isinstance(one, BaseException) and not isinstance(one, Exception):
                    raise one
                if isinstance(one, BaseException):
                    one = Unwritten("server", f"{type(one).__name__}: {one}", again=True)
                known[key] = one
        return [known[key] for key in keys]

    async def _ready(self) -> Dialect:
        dialect = await self._chat.ready()
        if (
            not dialect.sends_temperature and self.part.temperature != 1
        ):  # 1 is what the interface does without the field
            raise Unanswered("server", f"the server takes no temperature; set {FIELD}.temperature=1")
        return dialect

    async def _ask(self, text: str, key: str, dialect: Dialect, batch: Batch) -> Completion | Unwritten:
        body = dialect.request(text, self._wanted)
        if self.part.top_p < 1:
            body["top_p"] = self.part.top_p
        async with self._chat.places:
            try:
                said = self._chat.said(await self._chat.ask(body, text, batch))
            except Unanswered as error:
                return _unwritten(error)
            if said.text is None:
                return Unwritten("malformed", "the model refused" if said.refused else "a reply without text")
            finish: Literal["stop", "length"] = "length" if said.cut else "stop"
            await self._kept.put(key, json.dumps({"text": said.text, "finish": finish}), self.name)
            return Completion(said.text, 0, finish)

    def _key(self, model: str, text: str, k: int) -> str:
        part = self.part
        return key_of([KEY_VERSION, model, text, part.temperature, part.top_p, part.max_new_tokens, self._seed, k])

    async def _look_up(self, keys: list[str]) -> dict[str, Completion | Unwritten]:
        known: dict[str, Completion | Unwritten] = {}
        for key, kept in (await self._kept.get(keys)).items():
            reply = _reply_of(kept)
            if reply is None:  # somebody changed the file: as if it were not there
                self._chat.count(cache_errors=1)
            else:
                known[key] = reply
        self._chat.count(cache_hits=sum(key in known for key in keys))
        return known


def _shown(model: str) -> str:
    """A model's name as it stands in records: some servers call it by the path of its file, which is nobody's business."""
    name = model.rpartition("/")[2] if model.startswith("/") else model
    return name.encode("utf-8", "replace").decode()[:MAX_NAME]


def _reply_of(kept: str) -> Completion | None:
    try:
        row: Any = json.loads(kept)
        text, finish = row["text"], row["finish"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    if not isinstance(text, str) or finish not in ("stop", "length"):
        return None
    return Completion(text.encode("utf-8", "replace").decode(), 0, finish)


def _unwritten(error: Unanswered) -> Unwritten:
    return Unwritten(error.failure, str(error), again=error.failure == "server" and error.again)
