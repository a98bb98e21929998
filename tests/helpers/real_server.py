"""A real server in a process of its own, on loopback, ended with its whole group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.error import URLError


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, log: Path, seconds: float = 120.0, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Runs the command until the block ends; yields its root URL once GET /health answers 200."""
    quiet = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    root = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(command), env={**os.environ, **quiet, **(env or {})}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        end = time.monotonic() + seconds
        while not _healthy(root):
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{command[0]} did not come up:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        yield root
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _healthy(root: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{root}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError):
        return False
