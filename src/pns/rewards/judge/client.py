"""Requests to an OpenAI-compatible server: bounded time and size, kept connections, retries, no key in any message.

Retried, with growing jittered waits: 429, 5xx, time-outs and connection errors. Nothing else is.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_base, wait_exponential, wait_random

from pns.errors import UserError
from pns.processes import world_size
from pns.recipe import ServerPart

MAX_BODY = 4 * 2**20
MAX_SHOWN = 300
FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.5, 30.0
MAX_RETRY_AFTER_SECONDS = 60.0
NOT_FOUND = "is this the model's name at the server, and does the URL end as the server's own, often /v1?"
_FIELD = "reward.judge_server.server"
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


class ServerFailed(Exception):
    """No answer worth reading. `str(error)` holds no key, is one line, and at most some hundred characters.

    Attributes:
        status: of the reply, or None where there was none.
        again: whether another try may help.
        wait: seconds that the server asks to wait before it.
        body: the reply's parsed JSON, if it was some.
        unknown_cost: the server may have done the work all the same.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        again: bool = False,
        wait: float | None = None,
        body: Any = None,
        unknown_cost: bool = False,
    ) -> None:
        self.status, self.again, self.wait, self.body = status, again, wait, body
        self.unknown_cost = unknown_cost
        super().__init__(detail)


class NotAsked(Exception):
    """There was no leave for a request (the budget); `str(error)` says why."""


def at_a_time(server: ServerPart) -> int:
    """How many requests this process may have under way, 1 or more: the processes of a training share `concurrency`."""
    return max(1, server.concurrency // world_size())


class Client:
    """Connections to one server. Make it and use it on one event loop.

    Args:
        field: where the settings stand in the recipe, for messages.
        max_body: bytes of the longest reply that is read.
        not_found: what may be wrong at status 404.
    Raises UserError for a URL or a key that cannot be used.
    """

    def __init__(
        self, server: ServerPart, field: str = _FIELD, *, max_body: int = MAX_BODY, not_found: str = NOT_FOUND
    ) -> None:
        self._server, self._base = server, check_url(server.url, field)
        self._key = read_key(server.api_key_env, field)
        self._max_body, self._not_found = max_body, not_found
        self._places = asyncio.Semaphore(at_a_time(server))
        self._http: httpx2.AsyncClient | None = None

    async def get(self, path: str) -> Any:
        """The JSON at a path, with retries. Raises ServerFailed."""
        return await self.send("GET", path, None)

    async def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        leave: Callable[[], str | None] = lambda: None,
        failed: Callable[[ServerFailed, bool], None] = lambda error, again: None,
    ) -> Any:
        """The JSON of a reply with status 200, after as many tries as the settings allow.

        Args:
            leave: asked before each try; a reason not to send it, or None.
            failed: told of each try that failed, and whether another one follows.
        Raises ServerFailed, or NotAsked where there was no leave for the first try.
        """
        last: ServerFailed | None = None
        tries = AsyncRetrying(
            stop=stop_after_attempt(self._server.retries + 1),
            wait=Wait(),
            retry=retry_if_exception(lambda error: isinstance(error, ServerFailed) and error.again),
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                refused = leave()
                if refused is not None and last is not None:
                    raise ServerFailed(f"{last}; not tried again ({refused})", status=last.status)
                if refused is not None:
                    raise NotAsked(refused)
                try:
                    return await self._once(method, path, body)
                except ServerFailed as error:
                    last = error
                    failed(error, error.again and attempt.retry_state.attempt_number <= self._server.retries)
                    raise
        raise AssertionError("tenacity raises what the last try raised")

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def hide(self, text: str) -> str:
        """The text without the API key, should it hold that."""
        return text.replace(self._key, "[key]") if self._key else text

    async def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        limit = self._server.timeout_seconds
        content = None if body is None else json.dumps(body).encode()
        try:
            # What waits for others of this process is not with the server yet, so that its time does not run.
            async with self._places, asyncio.timeout(limit):
                async with self._open().stream(method, self._base + path, content=content) as reply:
                    return self._read(reply, await _body(reply, self._max_body))
        except TimeoutError:
            raise ServerFailed(f"no answer within {limit:g} s", again=True, unknown_cost=True) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ServerFailed(self._named("cannot connect", error), again=True) from None
        except httpx2.TransportError as error:
            raise ServerFailed(self._named("the connection broke", error), again=True, unknown_cost=True) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise ServerFailed(self._named("the request failed", error)) from None

    def _open(self) -> httpx2.AsyncClient:
        if self._http is None:
            # A compressed reply can be a bomb, so none is asked for, and none is read.
            headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._http = httpx2.AsyncClient(
                headers=headers,
                timeout=self._server.timeout_seconds,
                limits=httpx2.Limits(keepalive_expiry=60.0),  # there are as many connections as places
                follow_redirects=False,
            )
        return self._http

    def _read(self, reply: httpx2.Response, data: bytes) -> Any:
        status = reply.status_code
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if status == 200:
            if body is None:
                raise ServerFailed("the reply is no JSON", status=status, unknown_cost=True)
            return body
        again, wait = status == 429 or 500 <= status <= 599, None
        said = "" if status in (401, 403) else self._shown(server_message(body) or data.decode("utf-8", "replace"))
        detail = f"HTTP {status}" + (f": {said}" if said else "")
        if status == 404:
            detail += f" ({self._not_found})"
        if again:
            wait = _retry_after(reply.headers.get("retry-after"))
            if wait is not None and wait > MAX_RETRY_AFTER_SECONDS:
                again, detail = False, f"{detail} (asks to wait {wait:.0f} s)"
        raise ServerFailed(detail, status=status, again=again, wait=wait, body=body)

    def _named(self, what: str, error: Exception) -> str:
        said = self._shown(str(error))
        return f"{what} ({type(error).__name__}{': ' if said else ''}{said})"

    def _shown(self, text: str) -> str:
        text = " ".join(_UNSHOWN.sub(" ", self.hide(text)).split())
        return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


class Wait(wait_base):
    """Doubling waits with up to as much again of jitter; what the server asks for, where it asks, is the least."""

    def __call__(self, retry_state: RetryCallState) -> float:
        backoff = wait_exponential(FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS)(retry_state)
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked = error.wait if isinstance(error, ServerFailed) and error.wait is not None else 0.0
        return max(asked, backoff / 2) + wait_random(0, backoff / 2)(retry_state)


async def _body(reply: httpx2.Response, most: int) -> bytes:
    if reply.headers.get("content-encoding", "identity") != "identity":
        raise ServerFailed("the reply is compressed, which was not asked for", status=reply.status_code)
    parts, size = [], 0
    async for part in reply.aiter_raw():
        size += len(part)
        if size > most:
            raise ServerFailed(f"the reply is longer than {most} bytes", status=reply.status_code, unknown_cost=True)
        parts.append(part)
    return b"".join(parts)


def server_message(body: Any) -> str:
    """What a server says of an error: OpenAI's `error.message`, FastAPI's `detail`, `message`; else nothing.

    Of FastAPI's list only place and message are taken: the rest repeats our own request.
    """
    if not isinstance(body, dict):
        return ""
    error = body.get("error", body)
    found = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    if isinstance(found, list):
        rows = [row for row in found[:5] if isinstance(row, dict)]
        return "; ".join(f"{_place(row.get('loc'))}: {row.get('msg')}" for row in rows)
    return found if isinstance(found, str) else ""


def _place(loc: Any) -> str:
    return ".".join(str(p) for p in loc) if isinstance(loc, Sequence) and not isinstance(loc, str) else str(loc)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (a number or a date), or None where it is missing, broken or past."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        try:
            seconds = email.utils.mktime_tz(date) - time.time() if date is not None else -1.0
        except (ValueError, OverflowError):
            return None
    return seconds if seconds > 0 else None


def check_url(url: str, field: str = _FIELD) -> str:
    """The base URL without a slash at its end. Raises UserError, which never shows the part with a password."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise UserError("not an http(s) URL", field=f"{field}.url", remedy="write e.g. http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "holds a user, a query or a fragment", field=f"{field}.url",
            remedy="write scheme, host, port and path; a key belongs into the variable that api_key_env names",
        )  # fmt: skip
    return url.rstrip("/")


def read_key(variable: str | None, field: str = _FIELD) -> str | None:
    """The API key from the environment. Raises UserError, which never shows it, where it is missing or cannot be sent."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    field = f"{field}.api_key_env"
    if not key:
        raise UserError(f"the environment variable {variable} is not set", field=field, remedy=f"export {variable}=...")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError(
            f"what {variable} holds cannot be sent in a header", field=field, remedy="give the key alone, plain ASCII"
        )
    return key
