"""The worker process of `pns.verify.pool`: reads checks from a pipe, answers them one by one, exits when the pipe
closes.

Limits: CPU time a check by ITIMER_PROF, whose signal the kernel delivers to the default action, so that even a loop
in C dies on time (RLIMIT_CPU counts whole seconds over the process's life); memory by RLIMIT_AS.
"""

from __future__ import annotations

import json
import resource
import signal
from multiprocessing.connection import Connection
from typing import Any


def serve(fd: int, cpu_seconds: float, memory_mb: int) -> None:
    """Serve checks from the pipe `fd` until it closes. Messages are JSON objects, one a frame."""
    pipe: Connection[Any, Any] = Connection(fd)
    try:
        from pns.verify.symbolic import compare_texts

        compare_texts("(x+1)^2", "x^2+2x+1")  # what is loaded at the first use must not count against the first check
    except ImportError as error:
        _send(pipe, {"error": f"{type(error).__name__}: {error}"})
        return
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the pipe
    _send(pipe, {"ready": True})
    while True:
        try:
            job = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            gold, answer, tolerance, unit, kind = job
            verdict = compare_texts(
                gold, answer, tolerance, unit, kind, on_phase=lambda phase: _send(pipe, {"phase": phase})
            )
            reply: dict[str, Any] = {"verdict": verdict.model_dump()}
        except Exception as error:  # whatever SymPy or the parser raises is this check's own failure
            reply = {"raised": type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        try:
            _send(pipe, reply)
        except OSError:
            return


def _send(pipe: Connection[Any, Any], message: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(message).encode())
