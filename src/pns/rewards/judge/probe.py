"""What a server can do, found out by asking it once: servers that call themselves compatible differ. (Source: ours.)

One small request with everything that a real one would hold. Where it is refused with 400 or 422 and the message names
a field, that field is left out (or `max_tokens` renamed) and the request is sent again, at most three times. The reply
tells whether `response_format` is enforced: the request asks for a word, and its schema for an object.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from pns.rewards.judge.client import Client, ServerFailed, server_message
from pns.rewards.judge.parse import VERDICT_SCHEMA, MalformedVerdict, bare, parse_object

Structured = Literal["enforced", "accepted", "ignored", "refused", "off"]
Post = Callable[[dict[str, Any]], Awaitable[Any]]

PROBE_TOKENS = 32
_CODE = 17
PROBE = "Reply with the single word: ready"
_PROBE_SCHEMA = {
    "type": "object",
    "properties": {"code": {"type": "integer", "enum": [_CODE]}},
    "required": ["code"],
    "additionalProperties": False,
}
_NAMED = (
    ("response_format", re.compile(r"response_?format|json_?schema|structured[ _]?output|guided|grammar|schema", re.I)),
    ("max_tokens", re.compile(r"max_completion_tokens", re.I)),
    ("temperature", re.compile(r"temperature", re.I)),
)


class Wanted(Protocol):
    """What every request asks for."""

    @property
    def temperature(self) -> float: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def structured(self) -> Literal["auto", "json_schema", "none"]: ...


@dataclass(frozen=True)
class Dialect:
    """How to talk to a server.

    Attributes:
        structured: `enforced` (the probe's schema was followed), `accepted` (not refused, and the reply does not tell),
            `ignored`, `refused`, or `off` (the recipe says `none`). response_format is sent with the first two, and
            whenever the recipe says `json_schema`.
        sends_format, sends_temperature: whether requests hold these fields.
        limit_field: the name of the field for the longest reply.
    """

    model: str
    structured: Structured
    sends_format: bool
    sends_temperature: bool = True
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def request(self, text: str, wanted: Wanted, schema: Any = VERDICT_SCHEMA) -> dict[str, Any]:
        """The body of a request; where `sends_format` says so, for a reply of this schema."""
        return self._request(text, wanted.temperature, wanted.max_tokens, schema, "verdict")

    def probe(self, wanted: Wanted) -> dict[str, Any]:
        """The body of the probe."""
        limit = min(PROBE_TOKENS, wanted.max_tokens)
        return self._request(PROBE, wanted.temperature, limit, _PROBE_SCHEMA, "probe")

    def _request(self, text: str, temperature: float, limit: int, schema: Any, name: str) -> dict[str, Any]:
        # Unknown fields are refused by some servers, so none is sent that is not needed.
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        body[self.limit_field] = limit
        if self.sends_temperature:
            body["temperature"] = temperature
        if self.sends_format:
            wanted = {"name": name, "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return body


async def find_model(client: Client, key: str) -> str:
    """The only model that the server lists. Raises ServerFailed where there is none, or more than one.

    `key` is the recipe's, for that message.
    """
    listed = await client.get("/models")
    rows = listed.get("data") if isinstance(listed, dict) else None
    ids = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    names = sorted({name for name in ids if isinstance(name, str) and name})
    if len(names) == 1:
        return names[0]
    some = ", ".join(name[:80] for name in names[:5])
    raise ServerFailed(f"the server lists {len(names)} models{f' ({some}, ...)' if some else ''}; name one in {key}")


async def probe(post: Post, model: str, part: Wanted) -> Dialect:
    """Ask the server once. Raises ServerFailed, and whatever `post` raises."""
    wants = part.structured != "none"
    dialect = Dialect(model, "off" if not wants else "accepted", sends_format=wants)
    for _ in range(3):
        try:
            reply = await post(dialect.probe(part))
            break
        except ServerFailed as error:
            dialect = _without(dialect, error, part)
    else:
        reply = await post(dialect.probe(part))
    if not dialect.sends_format:
        return dialect
    structured = _followed(reply)
    return replace(dialect, structured=structured, sends_format=structured != "ignored" or part.structured != "auto")


def _without(dialect: Dialect, error: ServerFailed, part: Wanted) -> Dialect:
    """The dialect without the field that the server refuses by name. Raises the error where that is no way out."""
    field = _refused(error)
    if field == "response_format" and dialect.sends_format and part.structured == "auto":
        return replace(dialect, structured="refused", sends_format=False)
    if field == "max_tokens" and dialect.limit_field == "max_tokens":
        return replace(dialect, limit_field="max_completion_tokens")
    if field == "temperature" and dialect.sends_temperature:
        return replace(dialect, sends_temperature=False)
    raise error


def _refused(error: ServerFailed) -> str | None:
    if error.status not in (400, 422):
        return None
    inner = error.body.get("error") if isinstance(error.body, dict) else None
    param = inner.get("param") if isinstance(inner, dict) else None
    if isinstance(param, str) and param.split(".")[0] in dict(_NAMED):
        return param.split(".")[0]
    said = server_message(error.body) or str(error)
    return next((field for field, pattern in _NAMED if pattern.search(said)), None)


def _followed(reply: Any) -> Structured:
    """Whether a reply to the probe follows its schema. Cut short before it starts, it does not tell."""
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return "accepted"
    if not isinstance(content, str) or not content.strip():
        return "accepted"
    try:
        text = bare(content)
        if not text:
            return "accepted"
        return "enforced" if parse_object(content) == {"code": _CODE} else "ignored"
    except MalformedVerdict:
        unfinished = content.strip().startswith(("<think>", "{"))
        return "accepted" if unfinished else "ignored"
