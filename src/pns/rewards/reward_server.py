"""The reward model behind a vLLM or SGLang server, as a scorer. (Source: ours; see `reward_protocol` for the schemas.)

The conversation is rendered here, with the tokenizer at the recipe's `path`, and sent as token ids where the server
takes them: no server then adds special tokens of its own to those of the chat template.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from jinja2 import TemplateError

from pns.errors import UserError
from pns.recipe import RewardModelSource
from pns.rewards.identity import ModelMark
from pns.rewards.judge.chat import GIVE_UP_AFTER, Batch
from pns.rewards.judge.client import Client, ServerFailed, at_a_time
from pns.rewards.judge.loop import LoopThread
from pns.rewards.reward_model import chat_tokenizer, encode, messages
from pns.rewards.reward_protocol import (
    NOT_THERE,
    RAW_FIELDS,
    REFUSED,
    Conversation,
    Dialect,
    ManyLabels,
    switched_off,
    too_long,
)

log = logging.getLogger("pns.reward_model")

Raw = float | Exception | None
"""What a text gets: its score, None where it has none, or what went wrong."""

MAX_BODY = 64 << 20  # a token classifier answers with a number for each token
_FIELD = "reward.reward_model"
_NOT_FOUND = "is this a reward model, and the server's address without a path?"
_PROBES = (
    ("What is 2 + 3?", "2 + 3 = 5. The answer is \\boxed{5}."),
    ("What is 7 times 6?", "I do not know."),
    ("A train goes 60 miles an hour. How far does it go in 2 hours?", "60 * 2 = 120, so \\boxed{120} miles."),
)


class RewardServer:
    """Scores by a server. Safe to use from any thread; at most `server.concurrency` requests at a time, shared by the
    processes of a training.

    Making one asks the server once: is it there, which model does it serve, does it give one raw number a text.

    Args:
        source: of kind `vllm` or `sglang`.
    Attributes:
        dialect: how the server is asked.
        max_length: tokens of the longest text that the server says it reads, or None.
    Raises UserError where the server, its model or the tokenizer cannot be used.
    """

    def __init__(self, source: RewardModelSource) -> None:
        assert source.server is not None  # the recipe has seen to it
        assert source.path is not None
        self.source = source
        self.max_length: int | None = None
        self._tokenizer = chat_tokenizer(source.path, source.revision)
        self._encoding = threading.Lock()
        # Their own paths start at the root; /v1/classify of SGLang is another thing (see `reward_protocol`).
        server = source.server.model_copy(update={"url": source.server.url.rstrip("/").removesuffix("/v1")})
        self._places = asyncio.Semaphore(at_a_time(server))
        self._client = Client(server, f"{_FIELD}.server", max_body=MAX_BODY, not_found=_NOT_FOUND)
        self._thread = LoopThread("the reward model's connection", self._client.close)
        try:
            self.dialect: Dialect = self._thread.run(self._probe())
        except BaseException as error:
            self._thread.close()
            told = _told(error, source, server.url)
            if told is None:
                raise
            raise told from None

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[Raw]:
        """Raw scores in the order given; None for a text that is longer than the server's model reads.

        A request that fails after all its retries, or whose reply makes no sense, gives its own texts its ServerFailed.
        After GIVE_UP_AFTER of them on end for causes that may pass, the server is taken for down, and not asked for the rest.

        Raises ServerFailed where all requests fail; RuntimeError after `close`; ValueError when the lengths differ.
        """
        rows = self._render(problems, texts)
        fitting = [i for i in range(len(rows)) if self.max_length is None or len(rows[i].ids) <= self.max_length]
        fitting.sort(key=lambda i: len(rows[i].ids))
        size = self.source.batch_size
        chunks = [fitting[start : start + size] for start in range(0, len(fitting), size)]
        out: list[Raw] = [None] * len(rows)
        if chunks:
            given = self._thread.run(self._ask_all([[rows[i] for i in chunk] for chunk in chunks], Batch()))
            for chunk, scores in zip(chunks, given, strict=True):
                for i, score in zip(chunk, scores, strict=True):
                    out[i] = score
        return out

    def mark(self) -> ModelMark:
        """What identifies the model: its name at the server."""
        return ModelMark(
            kind=self.source.kind, name=self.dialect.model, path=self.source.path, revision=self.source.revision
        )

    def close(self) -> None:
        """End the connections. What is under way is cancelled. Safe to call twice."""
        self._thread.close()

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _render(self, problems: Sequence[str], texts: Sequence[str]) -> list[Conversation]:
        rows = []
        with self._encoding:
            for problem, text in zip(problems, texts, strict=True):
                said = self._tokenizer.apply_chat_template(messages(problem, text), tokenize=False)
                rows.append(Conversation(encode(self._tokenizer, problem, text), said))
        return rows

    async def _ask_all(self, chunks: list[list[Conversation]], batch: Batch) -> list[list[Raw]]:
        """The scores of each request, or its failure for each of its texts. Raises the first failure where all fail."""
        given = await asyncio.gather(*(self._ask(chunk, batch) for chunk in chunks), return_exceptions=True)
        out = list[list[Raw]]()
        for chunk, one in zip(chunks, given, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, Exception):
                raise one
            out.append([one] * len(chunk) if isinstance(one, BaseException) else one)
        failed = [one for one in given if isinstance(one, BaseException)]
        if len(failed) == len(given):
            raise failed[0]
        return out

    async def _ask(self, rows: list[Conversation], batch: Batch) -> list[Raw]:
        """The scores of one request. Where one text is too long, each is asked for by itself."""
        try:
            async with self._places:
                return list(await self._tried(rows, batch))
        except ServerFailed as error:
            if not too_long(error):
                raise
        if len(rows) == 1:
            return [None]
        alone = await self._ask_all([[row] for row in rows], batch)
        return [score for scores in alone for score in scores]

    async def _tried(self, rows: list[Conversation], batch: Batch) -> list[float]:
        if batch.failed_on_end >= GIVE_UP_AFTER:
            raise ServerFailed(f"not asked: the server failed the last {batch.failed_on_end} on end")
        try:
            scores = await self._post(self.dialect, rows)
        except ServerFailed as error:
            batch.failed_on_end += error.again
            raise
        batch.failed_on_end = 0
        return scores

    async def _post(self, dialect: Dialect, rows: list[Conversation]) -> list[float]:
        reply = await self._client.send("POST", dialect.path, dialect.request(rows))
        return dialect.scores(reply, rows)

    async def _probe(self) -> Dialect:
        model = await self._model()
        rows = self._render(*zip(*_PROBES, strict=True))
        if self.source.kind == "sglang":
            dialect = Dialect("sglang", model)
            await self._post(dialect, rows)
            return dialect
        dialect, default = await self._accepted(model, rows)
        return await self._raw(dialect, default, rows)

    async def _model(self) -> str:
        """The served model's name; `max_length` is set on the way."""
        listed = await self._client.get("/v1/models")
        cards = listed.get("data") if isinstance(listed, dict) else None
        cards = [c for c in cards if isinstance(c, dict)] if isinstance(cards, list) else []
        names = {card["id"]: card for card in cards if isinstance(card.get("id"), str) and card["id"]}
        shown = ", ".join(name[:80] for name in sorted(names)[:5])
        if self.source.name is not None and self.source.name not in names:
            raise UserError(
                f"the server does not serve {self.source.name!r}", field=f"{_FIELD}.name",
                remedy=f"it serves: {shown}" if names else "it lists no models: is this the server's address?",
            )  # fmt: skip
        if self.source.name is None and len(names) != 1:
            raise UserError(
                f"the server lists {len(names)} models", field=f"{_FIELD}.name",
                remedy=f"name one of them: {shown}" if names else "start it with a model",
            )  # fmt: skip
        name = self.source.name or next(iter(names))
        if self.source.kind == "sglang" and names[name].get("parent") is not None:
            raise UserError(
                f"{name!r} is an adapter, and SGLang's /classify scores with its base model", field=f"{_FIELD}.name",
                remedy="merge it into that model, or serve it with vLLM",
            )  # fmt: skip
        longest = names[name].get("max_model_len")
        if isinstance(longest, int) and longest > 1:
            self.max_length = longest - (self.source.kind == "sglang")  # which leaves a place for a token to come
        return name

    async def _accepted(self, model: str, rows: list[Conversation]) -> tuple[Dialect, list[float]]:
        """The first way of asking that the server does not refuse, and its scores with whatever activation it applies.

        Token ids before text: see the module's head.
        """
        wanted = self.source.endpoint
        refused: dict[str, ServerFailed] = {}
        for endpoint in ("classify", "pooling") if wanted == "auto" else (wanted,):
            for ids in (True, False):
                dialect = Dialect("vllm", model, endpoint, ids)
                try:
                    return dialect, await self._post(dialect, rows)
                except ServerFailed as error:
                    if error.status not in REFUSED:
                        raise
                    refused.setdefault(endpoint, error)
                    if error.status in NOT_THERE:
                        break
        raise ServerFailed("; ".join(f"/{endpoint}: {error}" for endpoint, error in refused.items()))

    async def _raw(self, dialect: Dialect, default: list[float], rows: list[Conversation]) -> Dialect:
        """With the field that gives raw scores. Raises UserError where the server gives 1 for every text."""
        kept = dialect
        for field in RAW_FIELDS:
            named = dialect.but(raw_field=field)
            try:
                scores = await self._post(named, rows)
            except ServerFailed as error:
                if error.status not in REFUSED:
                    raise
                continue  # a server that refuses fields unknown to it
            if switched_off(field, default, scores):
                return named
            if field == RAW_FIELDS[0]:
                kept = named
        if all(score == 1.0 for score in default):
            raise UserError(
                "the server gives 1 for every text: a softmax over one label", field=f"{_FIELD}.server",
                remedy="a newer vLLM, which knows `use_activation`, or start it without an activation",
            )  # fmt: skip
        if all(0 <= score <= 1 for score in default):
            log.warning(
                "%r gives numbers from 0 to 1 whether or not raw scores are asked for: is a sigmoid left on?",
                dialect.model,
            )
        return kept


def _told(error: BaseException, source: RewardModelSource, url: str) -> UserError | None:
    """What the user can mend of what went wrong at the start; None: nothing."""
    if isinstance(error, ManyLabels):
        return UserError(
            f"the model gives {error}, and a reward is one number", field=_FIELD,
            remedy="serve a reward model with one label; process reward models are not supported",
        )  # fmt: skip
    if isinstance(error, ServerFailed):
        return UserError(
            f"{source.kind} at {url}: {error}", field=f"{_FIELD}.server",
            remedy="start the server, or mend its address and settings",
        )  # fmt: skip
    if isinstance(error, TemplateError):
        return UserError(
            f"the chat template does not take a user and an assistant message ({error})", file=source.path,
            field="chat_template", remedy="give the tokenizer the template that the reward model was trained with",
        )  # fmt: skip
    return None
