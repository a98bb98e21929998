"""Scripted reward-model servers on loopback: they answer as vLLM and SGLang do, and remember what they were sent."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pytest

from helpers.judge_server import Answer, Request, ScriptedServer
from pns.recipe import RewardModelSource, ServerPart
from pns.rewards import reward_server
from pns.rewards.judge import client

Score = Callable[[list[int]], list[list[float]]]
"""Token ids -> raw numbers after each token, one a label; the last row is the sequence's."""
Step = Callable[[int, Request], Answer | None]
"""(number of the request since the script began, the request) -> what to do; None: answer as the server would."""
MODEL = "org/reward"
THREAD = "the reward model's connection"


def by_position(ids: list[int]) -> list[list[float]]:
    """A number from -5 to 5 that depends on every token so far and on its place."""
    out, seen = [], 0
    for token in ids:
        seen = (seen * 31 + token) % 1009
        out.append([seen / 100 - 5])
    return out


def sigmoid(row: list[float]) -> list[float]:
    return [1 / (1 + math.exp(-x)) for x in row]


def softmax(row: list[float]) -> list[float]:
    parts = [math.exp(x - max(row)) for x in row]
    return [part / sum(parts) for part in parts]


def by_labels(row: list[float]) -> list[float]:
    """The activation of newer versions."""
    return sigmoid(row) if len(row) == 1 else softmax(row)


class Words:
    """A tokenizer with a chat template, for tests that need no real one: a token a word."""

    def ids(self, text: str) -> list[int]:
        return [zlib.crc32(word.encode()) % 5000 for word in text.split()]

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool = True, return_dict: bool = False
    ) -> Any:
        text = "".join(f"<{m['role']}> {m['content']} <end> " for m in messages)
        return {"input_ids": self.ids(text)} if tokenize else text

    def conversation(self, problem: str, text: str) -> list[int]:
        """What a server is to read of a problem and a response."""
        return self.ids(f"<user> {problem} <end> <assistant> {text} <end>")


def words(text: str, special: bool) -> list[int]:
    """Token ids of a text, with a token at the start where special ones are to be added."""
    return [1] * special + Words().ids(text)


class ModelServer(ScriptedServer):
    """What the two servers share. `posts`: requests for scores, and of those `asked`: since the script began.

    Args:
        score: the model.
        card: of the one model that is listed, what is to differ.
        script: may answer in place of the server; `on` sets another one.
    """

    owner = ""

    def __init__(self, score: Score = by_position, script: Step | None = None, **card: Any) -> None:
        super().__init__()
        self.score = score
        self.card = {"id": MODEL, "object": "model", "owned_by": self.owner, "max_model_len": 2048, **card}
        self.models = Answer(body={"object": "list", "data": [self.card]})
        self.posts: list[Request] = []
        self.on(script)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def on(self, script: Step | None) -> None:
        """Another script, from now on."""
        with self._lock:
            self.step: Step = script or (lambda n, request: None)
            self._begun = len(self.posts)

    @property
    def asked(self) -> list[Request]:
        return self.posts[self._begun :]

    def enter(self, request: Request) -> Answer:
        with self._lock:
            number = len(self.asked)
            self.requests.append(request)
            self.posts.append(request)
            self._active += 1
            self.peak = max(self.peak, self._active)
        return self.step(number, request) or self.respond(request)

    def respond(self, request: Request) -> Answer:
        raise NotImplementedError


class VllmServer(ModelServer):
    """vLLM with a sequence classifier (`/classify` and `/pooling`), or a token classifier (`/pooling` alone).

    Args:
        task: of its pooler. ids: takes token ids; tokenize: (text, add special tokens) -> ids.
        classify_route: `/classify` is there though the model has it not.
        switch: the field that switches the activation off; other fields are ignored. always: fields that switch it on,
            whatever their value. active: what no field means. strict: refuses fields that it does not know.
        usage: says how many tokens it has read; `reads` changes the count.
    """

    owner = "vllm"

    def __init__(
        self,
        score: Score = by_position,
        script: Step | None = None,
        *,
        task: str = "classify",
        ids: bool = True,
        tokenize: Callable[[str, bool], list[int]] = words,
        classify_route: bool = False,
        switch: str | None = "use_activation",
        always: Sequence[str] = (),
        active: bool = True,
        activation: Callable[[list[float]], list[float]] = by_labels,
        strict: bool = False,
        usage: bool = True,
        reads: int = 0,
        **card: Any,
    ) -> None:
        super().__init__(score, script, **card)
        self.task, self.ids, self.tokenize, self.classify_route = task, ids, tokenize, classify_route
        self.switch, self.always, self.active, self.activation = switch, always, active, activation
        self.strict, self.usage, self.reads = strict, usage, reads
        self.limit = self.card["max_model_len"]

    def respond(self, request: Request) -> Answer:
        body, refused = request.body, self._refused(request)
        if refused is not None:
            return refused
        special = body.get("add_special_tokens", True)
        rows = [row if isinstance(row, list) else self.tokenize(row, special) for row in body["input"]]
        if self.limit is not None and any(len(row) > self.limit for row in rows):
            return _error(400, f"the maximum context length is {self.limit} tokens, and the prompt has more", "input")
        active = self.active
        if self.switch in body:
            active = body[self.switch]
        if any(name in body for name in self.always):
            active = True
        raw = [self.score(row) for row in rows]
        given = [[self.activation(token) if active else token for token in row] for row in raw]
        if request.path == "/classify":
            data = [{"index": i, "label": "LABEL_0", "probs": r[-1], "num_classes": 1} for i, r in enumerate(given)]
        else:
            whole = self.task == "token_classify"
            data = [{"index": i, "object": "pooling", "data": r if whole else r[-1]} for i, r in enumerate(given)]
        reply: dict[str, Any] = {"id": "x", "object": "list", "model": MODEL, "data": data}
        if self.usage:
            read = sum(len(row) for row in rows) + self.reads
            reply["usage"] = {"prompt_tokens": read, "total_tokens": read, "completion_tokens": 0}
        return Answer(body=reply)

    def _refused(self, request: Request) -> Answer | None:
        body = request.body
        if request.path == "/classify" and self.task != "classify":
            return _error(501, "no classification API") if self.classify_route else _error(404, "Not Found")
        if request.path not in ("/classify", "/pooling"):
            return _error(404, "Not Found")
        if body.get("model") != self.card["id"]:
            return _error(404, f"no model {body.get('model')!r}", "model")
        if body.get("task", self.task) != self.task:
            return _error(400, f"the task is {self.task}", "task")
        unknown = set(body) - {"model", "input", "add_special_tokens", self.switch}
        if self.strict and unknown:
            return _error(400, f"1 validation error: {sorted(unknown)}: extra fields are not permitted")
        if not self.ids and any(isinstance(row, list) for row in body["input"]):
            return _error(400, "2 validation errors: a valid string is needed", "body.input")
        return None


class SglangServer(ModelServer):
    """SGLang with a reward model. `cuts`: it cuts what is too long, in place of refusing it."""

    owner = "sglang"

    def __init__(
        self, score: Score = by_position, script: Step | None = None, *, cuts: bool = False, **card: Any
    ) -> None:
        super().__init__(score, script, **card)
        self.cuts, self.limit = cuts, self.card["max_model_len"]

    def respond(self, request: Request) -> Answer:
        if request.path != "/classify":  # /v1/classify would answer 1 for every text
            return Answer(status=404, body={"detail": "Not Found"})
        rows = request.body["input_ids"]
        if self.limit is not None and self.cuts:
            rows = [row[: self.limit] for row in rows]
        elif self.limit is not None and any(len(row) >= self.limit for row in rows):
            said = f"an input of {max(map(len, rows))} tokens is longer than the model's context length"
            return Answer(status=400, body={"error": {"message": said}})
        about = [{"id": "x", "finish_reason": {"type": "length"}, "prompt_tokens": len(row)} for row in rows]
        return Answer(body=[{"embedding": self.score(r)[-1], "meta_info": m} for r, m in zip(rows, about, strict=True)])


def _error(status: int, message: str, param: str | None = None) -> Answer:
    return Answer(status=status, body={"error": {"message": message, "type": "x", "param": param, "code": status}})


def source(server: ModelServer | str, **options: Any) -> RewardModelSource:
    """A reward model's settings; options of either part may be mixed."""
    talk = {k: options.pop(k) for k in list(options) if k in ServerPart.model_fields}
    talk = {"url": server if isinstance(server, str) else server.root, **talk}
    kind = "sglang" if isinstance(server, SglangServer) else "vllm"
    return RewardModelSource(**{"kind": kind, "path": "tok", "server": ServerPart(**talk), **options})


Make = Callable[..., reward_server.RewardServer]


def making(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """For a fixture: makes scorers with short waits and the tokenizer `Words`, ends them, and looks for threads."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(reward_server, "chat_tokenizer", lambda path, revision=None: Words())
    made: list[reward_server.RewardServer] = []

    def scorer(server: ModelServer | str, **options: Any) -> reward_server.RewardServer:
        made.append(reward_server.RewardServer(source(server, **options)))
        return made[-1]

    yield scorer
    for one in made:
        one.close()
    assert not [t for t in threading.enumerate() if t.name == THREAD]
