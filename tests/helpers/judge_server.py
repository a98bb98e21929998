"""A scripted OpenAI-compatible server on loopback: it answers what a test tells it to, and remembers what it was sent."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MARKS = {"relevance": 3, "coherence": 2, "completeness": 3, "consistency": 1}


def verdict(reason: str = "It reads well.", **changes: Any) -> str:
    """A valid verdict, or one with some values changed."""
    return json.dumps({"reason": reason, **MARKS, **changes})


@dataclass
class Answer:
    """What the server does with one request for a verdict."""

    content: Any = field(default_factory=verdict)
    status: int = 200
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120})
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None  # in place of a chat completion; bytes are sent as they are
    finish: str = "stop"
    drop: bool = False  # close the connection without a word
    wait: float = 0.0
    hold: threading.Event | None = None  # answer only when it is set

    def data(self) -> bytes:
        body = self.body
        if body is None:
            message = {"role": "assistant", "content": self.content}
            choice = {"index": 0, "message": message, "finish_reason": self.finish}
            body = {"object": "chat.completion", "choices": [choice], "usage": self.usage}
        return body if isinstance(body, bytes) else json.dumps(body).encode()


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes

    @property
    def probe(self) -> bool:
        return "single word" in self.prompt

    @property
    def prompt(self) -> str:
        if "prompt" in self.body:  # of /completions
            return str(self.body["prompt"])
        return str(self.body["messages"][0]["content"]) if self.body else ""

    @property
    def code(self) -> str:
        """The code of the quotation."""
        found = re.search(r"^<<<BEGIN RESPONSE ([0-9a-f]{16})>>>$", self.prompt, re.MULTILINE)
        assert found is not None
        return found[1]


Script = Callable[[int, Request], Answer]
"""(number of the request for a verdict, from 0; the request) -> what to do."""


class ScriptedServer:
    """Use it as a context manager. `verdicts` are the requests but for the probe's; `probe` answers that.

    Attributes:
        connections: how many were opened. peak: most requests at a time.
    """

    def __init__(self, script: Script | None = None, probe: Script | None = None, models: Any = ("scripted",)) -> None:
        self.script = script or (lambda n, request: Answer())
        self.probe = probe or (lambda n, request: Answer('{"code": 17}'))
        self.models = models
        self.requests: list[Request] = []
        self.connections = self.peak = 0
        self._active = 0
        self._lock = threading.Lock()

    @property
    def verdicts(self) -> list[Request]:
        return [r for r in self.requests if r.body and not r.probe]

    @property
    def probes(self) -> list[Request]:
        return [r for r in self.requests if r.body and r.probe]

    def __enter__(self) -> ScriptedServer:
        self._http = _Listener(("127.0.0.1", 0), _handler(self))
        self.root = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.url = f"{self.root}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def enter(self, request: Request) -> Answer:
        with self._lock:
            same = self.probes if request.body and request.probe else self.verdicts
            number = len(same)
            self.requests.append(request)
            self._active += 1
            self.peak = max(self.peak, self._active)
        return (self.probe if request.body and request.probe else self.script)(number, request)

    def leave(self) -> None:
        with self._lock:
            self._active -= 1

    def count_connection(self) -> None:
        with self._lock:
            self.connections += 1


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # of 5, a busy machine refuses connections that no script refused


def _handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes: without it each reply would wait 40 ms

        def setup(self) -> None:
            super().setup()
            server.count_connection()

        def do_GET(self) -> None:
            server.requests.append(Request(self.path, dict(self.headers), {}, b""))
            if isinstance(server.models, Answer):
                return self.answer(server.models)
            rows = [{"id": name, "object": "model"} for name in server.models]
            return self.answer(Answer(body={"object": "list", "data": rows}))

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            answer = server.enter(Request(self.path, dict(self.headers), json.loads(raw), raw))
            try:
                if answer.hold is not None:
                    answer.hold.wait(60)
                time.sleep(answer.wait)
                self.answer(answer)
            finally:
                server.leave()

        def answer(self, answer: Answer) -> None:
            if answer.drop:
                self.close_connection = True
                return
            data = answer.data()
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client has gone: a test of time-outs
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler
