"""What reward-model servers are sent and what they answer: vLLM's `/classify` and `/pooling`, SGLang's `/classify`.

vLLM applies a sigmoid to the score of a one-label classifier unless told not to, and the field that tells it has had
three names; newer versions ignore the older two, and one version takes any value of those as "yes". Only one is ever
sent. `/pooling` gets no `task`: a server has one, and refuses any other. SGLang's own `/classify` gives the raw score as
an embedding; its `/v1/classify` applies a softmax, which makes 1 of every score.
Schemas: documentation and source of vLLM up to 0.33 and SGLang up to 0.5.23; the checks: ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pns.rewards.judge.client import ServerFailed, server_message

Endpoint = Literal["classify", "pooling"]
RAW_FIELDS = ("use_activation", "activation", "softmax")
NOT_THERE = (404, 405, 501)
"""Statuses of a path that the server has not, whatever it is sent; 501: a model that has it not."""
REFUSED = (*NOT_THERE, 400, 415, 422)
SAME = 1e-2
"""Scores of one text that differ by less than this (of 1, or of the larger one) are one score."""
_TOO_LONG = re.compile(
    r"context.?(length|window)|max_model_len|maximum (model|input) length|(input|prompt|sequence) (is )?too long"
    r"|longer than|exceeds? (the )?(model|max|limit)",
    re.I,
)


class ManyLabels(ServerFailed):
    """The model gives several numbers where a reward is one; `str(error)` says which."""


@dataclass(frozen=True)
class Conversation:
    """One conversation, ready to send: its token ids, and the text that they came from."""

    ids: list[int]
    text: str


@dataclass(frozen=True)
class Dialect:
    """How a server is asked.

    Attributes:
        ids: send token ids; else text, with `add_special_tokens: false`, for the chat template has written them.
        raw_field: the field that switches the activation off; None: none is sent (SGLang, or to ask for the default).
    """

    kind: Literal["vllm", "sglang"]
    model: str
    endpoint: Endpoint = "classify"
    ids: bool = True
    raw_field: str | None = None

    @property
    def path(self) -> str:
        return f"/{self.endpoint}"

    def request(self, rows: Sequence[Conversation]) -> dict[str, Any]:
        """The body of a request for the scores of some sequences."""
        if self.kind == "sglang":
            return {"input_ids": [row.ids for row in rows]}
        body: dict[str, Any] = {"model": self.model, "input": [row.ids if self.ids else row.text for row in rows]}
        if not self.ids:
            body["add_special_tokens"] = False
        if self.raw_field is not None:
            body[self.raw_field] = False
        return body

    def scores(self, reply: Any, rows: Sequence[Conversation]) -> list[float]:
        """The scores in a reply, in the order of the request. Raises ServerFailed, or ManyLabels."""
        counts = [len(row.ids) for row in rows]
        return _sglang(reply, counts) if self.kind == "sglang" else _vllm(reply, counts, self.endpoint)

    def but(self, **changes: Any) -> Dialect:
        """The same with some attributes changed."""
        return replace(self, **changes)


def too_long(error: ServerFailed) -> bool:
    """Whether a server refused a request because a sequence is longer than its model reads."""
    return error.status in (400, 413, 422) and bool(_TOO_LONG.search(server_message(error.body) or str(error)))


def switched_off(field: str, default: Sequence[float], scores: Sequence[float]) -> bool:
    """Whether the scores with `field: false` are the raw ones, and those by default are not.

    For the newest name any difference says so. An older one may have switched an activation on, so there the default
    must be what a sigmoid makes of the scores, or a softmax over one label: 1.
    """
    if not any(_apart(raw, given) for raw, given in zip(scores, default, strict=True)):
        return False
    if field == RAW_FIELDS[0] or all(given == 1.0 for given in default):
        return True
    return not any(_apart(_sigmoid(raw), given) for raw, given in zip(scores, default, strict=True))


def _apart(a: float, b: float) -> bool:
    return abs(a - b) > SAME * max(1.0, abs(a))


def _sigmoid(raw: float) -> float:
    return 1 / (1 + math.exp(-max(raw, -700.0)))


def _vllm(reply: Any, counts: list[int], endpoint: Endpoint) -> list[float]:
    rows = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ServerFailed("the reply has no list `data`")
    placed = {row.get("index"): row for row in rows if isinstance(row.get("index"), int)}
    if len(rows) != len(counts) or sorted(placed) != list(range(len(counts))):
        raise ServerFailed(f"the reply has {len(rows)} scores for {len(counts)} sequences, or they are not numbered")
    usage = reply.get("usage")
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    _same_tokens(read, sum(counts))
    if endpoint == "classify":
        return [_only(placed[i].get("probs"), "probs") for i in range(len(counts))]
    return [_last(placed[i].get("data"), count) for i, count in enumerate(counts)]


def _last(data: Any, count: int) -> float:
    """A token classifier's score is the last token's: the one that has read the whole response."""
    if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        widths = {len(row) for row in data}
        if widths != {1}:
            raise ManyLabels(f"{max(widths)} numbers a token")
        if len(data) != count:
            raise ManyLabels(f"{len(data)} numbers for the steps of a text of {count} tokens (a process reward model)")
        return _number(data[-1][0])
    return _only(data, "data")


def _sglang(reply: Any, counts: list[int]) -> list[float]:
    rows = [reply] if isinstance(reply, dict) and len(counts) == 1 else reply
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ServerFailed("the reply is no list of objects")
    if len(rows) != len(counts):
        raise ServerFailed(f"the reply has {len(rows)} scores for {len(counts)} sequences")
    for row, count in zip(rows, counts, strict=True):
        about = row.get("meta_info")
        _same_tokens(about.get("prompt_tokens") if isinstance(about, dict) else None, count)
    return [_only(row.get("embedding"), "embedding") for row in rows]


def _same_tokens(read: Any, sent: int) -> None:
    if isinstance(read, int) and read != sent:
        raise ServerFailed(
            f"the server has read {read} tokens where our tokenizer gives {sent}: it cuts the text, adds special tokens, "
            "or has another tokenizer than reward.reward_model.path"
        )


def _only(values: Any, name: str) -> float:
    if not isinstance(values, list) or not values:
        raise ServerFailed(f"`{name}` is no list of numbers")
    if len(values) > 1:
        raise ManyLabels(f"{len(values)} numbers a text")
    return _number(values[0])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ServerFailed("a score is no number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ServerFailed(f"a score is {found}")
    return found
