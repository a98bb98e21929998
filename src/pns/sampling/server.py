"""Sampling by OpenAI-compatible servers: several replicas of one model, the least busy one is asked next.

The raw prompt goes to /completions, so that what the model reads is what every engine gives it, and a response can be
begun for it. Each completion is one request with a seed of its own. How far a server keeps to seeds is its own: the same
samples are not promised. (Source: ours.)
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from pns.errors import StageStopped, UserError
from pns.parts.base import ServerPart
from pns.parts.engine import EngineServerPart
from pns.rewards.judge.client import Client, ServerFailed, Wait
from pns.rewards.judge.loop import LoopThread
from pns.run import seed_of
from pns.sampling.jobs import Drawn, Job
from pns.sampling.prompts import Completion, load_tokenizer, prompt_texts, token_ids, user
from pns.sampling.servers import Servers

_FIELD = "engine.server"
_REST_SECONDS = 10.0
_MOST_JOBS = 32
Body = dict[str, Any]

# What turns off every restriction of the distribution that the interface has no field for, by server.
_DIALECTS: Mapping[str, Body] = {
    "openai": {},
    "vllm": {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False},
    "sglang": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False},
    "llama.cpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "cache_prompt": True},
    "transformers": {"generation_config": json.dumps({"do_sample": True, "top_k": 0})},
}
_TAKES_TOKENS = ("vllm", "sglang", "llama.cpp")
_CONTINUES = ("vllm", "sglang")


class ServerEngine:
    """Completions by the servers of `engine.server`, in the order of the problems. A Pool (see `jobs`) that keeps the order.

    Args:
        path: the model directory; its tokenizer makes the prompts.
        stage: that made it, for `served_model`.
    Raises UserError where a server does not serve this very model, or cannot be started.
    """

    deterministic = False

    def __init__(self, path: str | Path, part: EngineServerPart, stage: str = "") -> None:
        self.name, self._part, self._path = Path(path).name, part, Path(path)
        self.tokenizer = load_tokenizer(path)
        self._reading = threading.Lock()  # a tokenizer is one thread's at a time
        self._clients: list[Client] = []
        self._thread = LoopThread("pns-engine", self._end)
        self._servers = Servers(part, self._path) if part.start else None
        try:
            urls = self._servers.urls if self._servers is not None else part.urls
            self._clients = [Client(_settings(url, part), f"{_FIELD}.urls") for url in urls]
            self._replicas = _Replicas(self._clients, part)
            self._models = [str(path)] * len(urls) if part.start else self._thread.run(self._served(stage))
        except BaseException:
            self.close()
            raise

    def generate(self, job: Job) -> Drawn:
        """See `TransformersEngine.generate`.

        Raises StageStopped when the servers fail after all retries, UserError when one refuses a request.
        """
        return self._thread.run(self._draw(job, self._bodies(job)))

    def generate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Drawn]]:
        """(place of the job, its completions), in order, with several jobs under way: see `_enough`. Raises as `generate`."""
        waiting: deque[tuple[int, Future[Drawn]]] = deque()
        places = self._part.concurrency * len(self._clients)
        try:
            for place, job in enumerate(jobs):
                waiting.append((place, self._thread.start(self._draw(job, self._bodies(job)))))
                while _enough([jobs[i] for i, _ in waiting], places):
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            for _, one in waiting:
                one.cancel()

    def close(self) -> None:
        """End the connections, and the servers that were started. Safe to call twice."""
        self._thread.close()
        if self._servers is not None:
            self._servers.close()

    async def _end(self) -> None:
        for client in self._clients:
            await client.close()

    def _bodies(self, job: Job) -> list[Body]:
        how: Body = {"max_tokens": job.max_new_tokens, "temperature": job.temperature, "top_p": job.top_p}
        how |= self._own_fields(job.temperature)
        with self._reading:
            prompts = self._prompts(job.problems, job.prefixes)
        return [
            {**prompt, **how, "seed": seed_of(job.seed, f"problem/{i}/{k}")}
            for i, prompt in enumerate(prompts)
            for k in range(job.n)
        ]

    async def _draw(self, job: Job, bodies: Sequence[Body]) -> Drawn:
        found = await self._ask_all(bodies, job.max_new_tokens)
        return [found[i * job.n : (i + 1) * job.n] for i in range(len(job.problems))]

    def _own_fields(self, temperature: float) -> Body:
        fields = dict(_DIALECTS[self._part.dialect])
        if self._part.dialect == "transformers" and not temperature:
            fields = {}  # greedy follows from temperature 0, and do_sample would contradict it
        return fields | self._part.extra

    def _prompts(self, problems: Sequence[str], prefixes: Sequence[str] | None) -> list[Body]:
        if self._part.api == "chat":
            return self._messages(problems, prefixes)
        texts = prompt_texts(self.tokenizer, problems, prefixes)
        if self._part.dialect in _TAKES_TOKENS:
            return [{"prompt": ids} for ids in token_ids(self.tokenizer, texts)]
        return [{"prompt": text} for text in _as_servers_read(self.tokenizer, texts)]

    def _messages(self, problems: Sequence[str], prefixes: Sequence[str] | None) -> list[Body]:
        if prefixes is None:
            return [{"messages": [user(problem)]} for problem in problems]
        if self._part.dialect not in _CONTINUES:
            raise UserError(
                "a response cannot be begun for the model over /chat/completions of this server",
                field=f"{_FIELD}.api", remedy="api: completions, or a server with continue_final_message (vllm, sglang)",
            )  # fmt: skip
        begun = {"continue_final_message": True, "add_generation_prompt": False}
        return [
            {"messages": [user(problem), {"role": "assistant", "content": prefix}], **begun}
            for problem, prefix in zip(problems, prefixes, strict=True)
        ]

    async def _ask_all(self, bodies: Sequence[Body], limit: int) -> list[Completion]:
        """All replies, in order. The first failure cancels the rest: a shard is whole or it is not there."""
        path = "/completions" if self._part.api == "completions" else "/chat/completions"
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(path, body, limit)) for body in bodies]
        except* ServerFailed as group_of:
            raise self._told(group_of.exceptions[0]) from None
        return [task.result() for task in tasks]

    async def _ask(self, path: str, body: Body, limit: int) -> Completion:
        reply = await self._replicas.post(path, lambda i: {"model": self._models[i], **body})
        return self._completion(reply, limit)

    def _told(self, error: BaseException) -> Exception:
        if self._servers is not None:
            self._servers.alive()  # one that has died says more than a broken connection
        if (
            isinstance(error, ServerFailed)
            and error.status is not None
            and 400 <= error.status < 500
            and not error.again
        ):
            return UserError(
                f"the server refuses a request: {error}", field=_FIELD,
                remedy="is `dialect` the server's own, and its longest context at least prompt and max_new_tokens?",
            )  # fmt: skip
        return StageStopped(f"the servers of {_FIELD} failed: {error}")

    def _completion(self, reply: Any, limit: int) -> Completion:
        try:
            (choice,) = reply["choices"]
            finish = choice["finish_reason"]
            text = choice["text"] if self._part.api == "completions" else choice["message"]["content"] or ""
        except (KeyError, TypeError, ValueError):
            raise ServerFailed("the reply is no completion with one choice") from None
        if not isinstance(text, str) or finish not in ("stop", "length"):
            raise ServerFailed(f"a completion that ended with {str(finish)[:40]!r}")
        # JSON can hold half a surrogate pair, which no file of ours can.
        text = self._clients[0].hide(text).encode("utf-8", "replace").decode()
        return Completion(text, self._n_tokens(reply, text, finish, limit), finish)

    def _n_tokens(self, reply: Any, text: str, finish: str, limit: int) -> int:
        """As the server counts them, where that can be; else as our tokenizer does, end token included."""
        usage = reply.get("usage")
        count = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if type(count) is int and 0 < count <= limit:
            return count
        with self._reading:
            return len(token_ids(self.tokenizer, [text])[0]) + (finish == "stop")

    async def _served(self, stage: str) -> list[str]:
        """The model's name at each server. Raises UserError where one does not say that it serves this very model."""
        return [
            await self._name_at(url, client, stage) for url, client in zip(self._part.urls, self._clients, strict=True)
        ]

    async def _name_at(self, url: str, client: Client, stage: str) -> str:
        try:
            async for attempt in _tries(self._part.retries):
                with attempt:
                    listed = await client.get("/models")
        except ServerFailed as error:
            raise StageStopped(f"{url}: {error}") from None
        rows = listed.get("data") if isinstance(listed, dict) else None
        known = (
            [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
            if isinstance(rows, list)
            else []
        )
        here = self._path.resolve()
        for row in known:
            if any(isinstance(row.get(k), str) and _is_here(row[k], here) for k in ("id", "root")):
                return str(row["id"])
        name = self._part.served_model.get(stage)
        # A server that lists nothing (it loads what it is asked for) is taken at the user's word.
        if name is not None and (not known or name in [row["id"] for row in known]):
            return name
        some = ", ".join(client.hide(row["id"])[:80] for row in known[:3]) or "nothing"
        raise UserError(
            f"{url} does not serve the model of the stage {stage or 'that made it'} ({here}); it lists {some}",
            field=f"{_FIELD}.urls",
            remedy=f"start it with this directory, name it in served_model ({{{stage or 'stage'}: name}}), or use `start`",
        )


def _enough(jobs: Sequence[Job], places: int) -> bool:
    """Whether the jobs under way, in order, keep so many places busy while the longest completion of the first is waited
    for: all but the newest have twice as many completions as there are places. At most _MOST_JOBS, however small they are.
    """
    older = sum(len(job.problems) * job.n for job in jobs[:-1])
    return older >= 2 * places or len(jobs) >= _MOST_JOBS


def _first(waiting: deque[tuple[int, Future[Drawn]]]) -> tuple[int, Drawn]:
    place, drawn = waiting.popleft()
    return place, drawn.result()


def _tries(retries: int) -> AsyncRetrying:
    """A first try, and so many after failures that may pass."""
    return AsyncRetrying(
        stop=stop_after_attempt(retries + 1),
        wait=Wait(),
        retry=retry_if_exception(lambda error: isinstance(error, ServerFailed) and error.again),
        reraise=True,
    )


class _Replicas:
    """Posts to the least busy of several replicas; after a failure, to another one. Use it on one event loop.

    One that failed is asked last for a while. Where all have, the one with the fewest failures in a row is asked: a dead
    one is always the least busy, and a single hiccup of its neighbour would send everything there.
    """

    def __init__(self, clients: Sequence[Client], part: EngineServerPart) -> None:
        self._clients, self._retries = clients, part.retries
        self._busy, self._rests, self._failed = [0] * len(clients), [0.0] * len(clients), [0] * len(clients)
        # More requests than this wait here, so that a shard of any size holds few connections.
        self._places = asyncio.Semaphore(part.concurrency * len(clients))

    async def post(self, path: str, body: Any) -> Any:
        """The JSON of a reply. `body`: of a request to replica i. Raises ServerFailed after the last try."""
        async with self._places:
            async for attempt in _tries(self._retries):
                with attempt:
                    return await self._once(path, body)
        raise AssertionError("tenacity raises what the last try raised")

    async def _once(self, path: str, body: Any) -> Any:
        i = self._next()
        self._busy[i] += 1
        try:
            reply = await self._clients[i].send("POST", path, body(i))
        except ServerFailed as error:
            if error.again:
                self._rests[i] = asyncio.get_running_loop().time() + _REST_SECONDS
                self._failed[i] += 1
            raise
        finally:
            self._busy[i] -= 1
        self._failed[i] = 0
        return reply

    def _next(self) -> int:
        now = asyncio.get_running_loop().time()

        def rank(i: int) -> tuple[bool, int, int, int]:
            rests = self._rests[i] > now
            return rests, self._failed[i] if rests else 0, self._busy[i], i

        return min(range(len(self._clients)), key=rank)


def _settings(url: str, part: EngineServerPart) -> ServerPart:
    return ServerPart(
        url=url,
        api_key_env=part.api_key_env,
        concurrency=part.concurrency,
        timeout_seconds=part.timeout_seconds,
        retries=0,  # `_Replicas` tries again, elsewhere
    )


def _as_servers_read(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The texts without the begin token that a server's tokenizer will put before them.

    Raises UserError where its tokens would still not be ours.
    """
    begin = tokenizer.bos_token or ""
    sent = [text.removeprefix(begin) if _adds_begin(tokenizer) else text for text in texts]
    if sent and tokenizer(sent)["input_ids"] != token_ids(tokenizer, texts):
        raise UserError(
            "the server's tokenizer would add special tokens to a prompt that has its own",
            field=f"{_FIELD}.dialect", remedy=f"a server that takes token ids: dialect: {', '.join(_TAKES_TOKENS)}",
        )  # fmt: skip
    return sent


def _adds_begin(tokenizer: Any) -> bool:
    ids = tokenizer("")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _is_here(name: str, here: Path) -> bool:
    return Path(name).is_absolute() and Path(name).resolve() == here
