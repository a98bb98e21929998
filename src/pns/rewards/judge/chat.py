"""Chat completions of one server: which model, what it can do, within a budget, and what they have cost. (Source: ours.)"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pns.recipe import ServerPart
from pns.rewards.judge.budget import Budget, most_tokens, tokens_of
from pns.rewards.judge.client import Client, NotAsked, ServerFailed, at_a_time
from pns.rewards.judge.probe import PROBE, PROBE_TOKENS, Dialect, Wanted, find_model, probe

GIVE_UP_AFTER = 8
_REFUSED = (400, 413, 422)
COSTS = ("calls", "retries", "probes", "prompt_tokens", "completion_tokens", "tokens")


class Unanswered(Exception):
    """A request without an answer; `str(error)` says why.

    Attributes:
        failure: `server` (unreachable, error status, time-out, no chat completion) or `budget` (not asked).
        again: whether it may be answered another time; false where the server refuses this request for what it holds.
    """

    def __init__(self, failure: Literal["server", "budget"], detail: str, *, again: bool = True) -> None:
        self.failure, self.again = failure, again
        super().__init__(detail)


class Said(NamedTuple):
    """What a chat completion says: its text, or None and whether the model refused, and if it was cut short."""

    text: str | None
    refused: bool = False
    cut: bool = False


@dataclass(slots=True)
class Batch:
    """Requests that belong together: how many on end the server has failed, to see that it is down."""

    failed_on_end: int = 0


class Chat:
    """Asks a server for chat completions. Use it on one event loop; nothing is sent by making one.

    Args:
        field: the part of the recipe that names server and model, for messages.
        model: its name at the server; None asks for the only one.
        wanted: what every request asks for.
        counts: where COSTS are added up: `calls` (requests, retries included: what the budget's calls are),
            `retries`, `probes` (requests of the probe, outside of `calls`), and tokens, the most that there can have
            been where the server does not say.
    Attributes:
        dialect: what the probe found, or None before it.
        places: held while one is asked and its answer is kept, so that a kill loses what is under way and no more.
    Raises UserError for a URL or a key that cannot be used.
    """

    def __init__(
        self, server: ServerPart, field: str, *, model: str | None, wanted: Wanted, budget: Budget, counts: dict[str, int],
        log: logging.Logger,
    ) -> None:  # fmt: skip
        self.dialect: Dialect | None = None
        self._client = Client(server, f"{field}.server")
        self._field, self._model, self._wanted, self._budget, self._log = field, model, wanted, budget, log
        self._counts, self._counting = counts, threading.Lock()
        self.places = asyncio.Semaphore(at_a_time(server))
        self._probing = asyncio.Lock()

    async def close(self) -> None:
        await self._client.close()

    def count(self, **more: int) -> None:
        """Add to the counts. Safe from any thread."""
        with self._counting:
            for name, n in more.items():
                self._counts[name] += n

    async def name(self) -> str:
        """The model's name at the server. Raises Unanswered."""
        async with self._probing:
            if self._model is None:
                try:
                    self._model = await find_model(self._client, f"{self._field}.model")
                except ServerFailed as error:
                    raise Unanswered("server", str(error)) from None
            return self._model

    async def ready(self) -> Dialect:
        """What the server can do; it is probed once for this object. Raises Unanswered; the next call tries again."""
        model = await self.name()
        async with self._probing:
            if self.dialect is not None:
                return self.dialect
            if self._budget.spent is not None:
                raise Unanswered("budget", self._budget.spent)
            try:
                self.dialect = await probe(self._post_probe, model, self._wanted)
            except ServerFailed as error:
                raise Unanswered("server", f"the first request: {error}") from None
            except NotAsked as error:
                raise Unanswered("budget", str(error)) from None
            self._log.info("%s: response_format %s", self._client.hide(model), self.dialect.structured)
            return self.dialect

    async def ask(self, body: dict[str, Any], text: str, batch: Batch) -> Any:
        """The reply to a request whose message is `text`, as the server sent it. Take one of the `places` before.

        Raises Unanswered.
        """
        if batch.failed_on_end >= GIVE_UP_AFTER:
            raise Unanswered("server", f"not asked: the server failed the last {batch.failed_on_end} on end")
        try:
            reply = await self._post(body, text, self._wanted.max_tokens, self._leave)
        except NotAsked as error:
            raise Unanswered("budget", str(error)) from None
        except ServerFailed as error:
            batch.failed_on_end += error.again
            raise Unanswered("server", str(error), again=error.status not in _REFUSED) from None
        batch.failed_on_end = 0
        return reply

    def said(self, reply: Any) -> Said:
        """The one choice of a chat completion. Raises Unanswered where the reply is none."""
        try:
            (choice,) = reply["choices"]
            message, finish = choice["message"], choice.get("finish_reason")
            content = message["content"]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unanswered("server", "the reply is no chat completion with one choice") from None
        if not isinstance(content, str):
            return Said(None, refused=isinstance(message, dict) and bool(message.get("refusal")))
        # JSON can hold half a surrogate pair, which no file of ours, and no cache, can
        return Said(self._client.hide(content).encode("utf-8", "replace").decode(), cut=finish == "length")

    async def _post_probe(self, body: dict[str, Any]) -> Any:
        self.count(probes=1)
        return await self._post(body, PROBE, PROBE_TOKENS, lambda: self._budget.spent)

    async def _post(self, body: dict[str, Any], text: str, limit: int, leave: Any) -> Any:
        def failed(error: ServerFailed, again: bool) -> None:
            self.count(retries=int(again))
            if error.unknown_cost:
                self._spend(*most_tokens(text, limit))

        reply = await self._client.send("POST", "/chat/completions", body, leave=leave, failed=failed)
        usage = tokens_of(reply.get("usage") if isinstance(reply, dict) else None)
        self._spend(*(usage or most_tokens(text, limit)))
        return reply

    def _leave(self) -> str | None:
        if not self._budget.take():
            return self._budget.spent
        self.count(calls=1)
        return None

    def _spend(self, prompt: int, completion: int) -> None:
        self._budget.add(prompt + completion)
        self.count(prompt_tokens=prompt, completion_tokens=completion, tokens=prompt + completion)
