"""OpenAI-compatible servers that a stage starts for the model it samples, and that end with it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import httpx2

from pns.errors import UserError
from pns.parts.engine import EngineServerPart
from pns.sampling.guard import GRACE_SECONDS

_FIELD = "engine.server.start"
_LOOK_SECONDS = 0.25
_TOLD = 1500


class Servers:
    """`part.replicas` servers of one model. Their output goes to temporary files, whose end is shown when one fails.

    Attributes:
        urls: base URL of each, answering when this object is made.
    Raises UserError when one ends, or does not answer within `part.ready_seconds`; the others are ended then.
    """

    def __init__(self, part: EngineServerPart, model: Path) -> None:
        self._part, self._field = part, _FIELD
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        self.urls: list[str] = []
        try:
            for replica in range(part.replicas):
                self._start(model, replica)
            self._wait()
        except BaseException:
            self.close()
            raise

    def alive(self) -> None:
        """Raises UserError with the end of its output where one has ended."""
        for process, log in self._running:
            if process.poll() is not None:
                raise self._failed(f"a server ended with exit code {process.returncode}", log)

    def close(self) -> None:
        """End them all, each with its whole process group. Safe to call twice."""
        running, self._running = self._running, []
        for process, _ in running:
            process.terminate()
        for process, log in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3 * GRACE_SECONDS)
            log.close()

    def _start(self, model: Path, replica: int) -> None:
        port = _free_port()
        filled = {"model": str(model), "port": str(port), "replica": str(replica)}
        command = [_fill(word, filled) for word in self._part.start]
        log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        guard = [sys.executable, "-m", "pns.sampling.guard", str(os.getpid()), *command]
        process = subprocess.Popen(guard, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self._running.append((process, log))
        self.urls.append(f"http://127.0.0.1:{port}/v1")

    def _wait(self) -> None:
        end = time.monotonic() + self._part.ready_seconds
        with httpx2.Client(timeout=5.0, trust_env=False) as http:
            for url, (_, log) in zip(self.urls, self._running, strict=True):
                while not _ready(http, url):
                    self.alive()
                    if time.monotonic() > end:
                        raise self._failed(f"no answer within {self._part.ready_seconds:g} s", log)
                    time.sleep(_LOOK_SECONDS)

    def _failed(self, what: str, log: IO[bytes]) -> UserError:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _TOLD))
        said = log.read().decode("utf-8", "replace").strip()
        return UserError(f"{what}; its output ends:\n{said}", field=self._field, remedy="try the command by hand")


def _fill(word: str, values: dict[str, str]) -> str:
    """A word of the command with its places filled in. Other braces (JSON, for instance) stay."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _ready(http: httpx2.Client, url: str) -> bool:
    """Whether the server is through with loading: /health says so, or there is no such page."""
    try:
        return http.get(url.removesuffix("/v1") + "/health").status_code in (200, 404)
    except httpx2.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
