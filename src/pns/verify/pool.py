"""Worker processes that may be killed: every symbolic check runs under a CPU-time and a memory limit.

Workers are fresh interpreters that import this package alone. `multiprocessing`'s spawn would run the parent's main
script once more, and so fail in a script without a `__main__` guard; `subprocess` does not. (Source: ours.)
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pns.records import AnswerKind, Verdict


class Item(NamedTuple):
    """One check: see `pns.verify.check.check`."""

    gold: str
    answer: str
    tolerance: float | None = None
    unit: str | None = None
    kind: AnswerKind | None = None


_BACKSTOP = 60
_STARTUP_SECONDS = 120.0
_BOOT = (
    "import json, sys; fd, cpu, memory, path = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from pns.verify.worker import serve; serve(fd, cpu, memory)"
)


class CheckPool:
    """Symbolic checks in killable workers. Thread-safe; nothing starts before the first check.

    Args:
        workers: processes at most.
        cpu_seconds: CPU time (user and system) one check may take. Wall-clock time counts only as a far backstop, 60
            times that and at least 30 s, so that a verdict does not depend on the machine's load.
        memory_mb: address space of a worker, MiB.
    """

    def __init__(self, workers: int = 1, cpu_seconds: float = 5.0, memory_mb: int = 2048) -> None:
        if workers < 1 or cpu_seconds <= 0 or memory_mb < 256:
            raise ValueError("workers >= 1, cpu_seconds > 0 and memory_mb >= 256 are needed")
        self.workers = workers
        self._slots: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all = [_Worker(cpu_seconds, memory_mb) for _ in range(workers)]
        for worker in self._all:
            self._slots.put(worker)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._finalizer = weakref.finalize(self, _stop_all, self._all)

    def run(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in the order of `items`; equal items are checked once.

        A check that dies (time, memory, crash) is undecided: cause `response` when the CPU time ran out on the
        answer, else `system`. Its worker is replaced, and no other item is touched. Raises ValueError on a closed pool.
        """
        unique = list(dict.fromkeys(items))
        with self._lock:
            if self._closed:
                raise ValueError("the pool is closed")
            if self._threads is None and unique:
                self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="pns-verify")
            threads = self._threads
        if threads is None:
            return []
        done = dict(zip(unique, threads.map(self._one, unique), strict=True))
        return [done[item] for item in items]

    def _one(self, item: Item) -> Verdict:
        worker = self._slots.get()
        try:
            return worker.check(item)
        finally:
            self._slots.put(worker)

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [w.process.pid for w in self._all if w.process is not None and w.process.poll() is None]

    def close(self) -> None:
        """End the workers. Checks under way finish first. Calling it again does nothing."""
        with self._lock:
            self._closed, threads, self._threads = True, self._threads, None
        if threads is not None:
            threads.shutdown(wait=True)
        self._finalizer()

    def __enter__(self) -> CheckPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _stop_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()


class _Worker:
    """One process at a time, started when needed and replaced when it dies. Used by one thread at a time."""

    def __init__(self, cpu_seconds: float, memory_mb: int) -> None:
        self.cpu_seconds, self.memory_mb = cpu_seconds, memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection[Any, Any] | None = None

    def check(self, item: Item) -> Verdict:
        def undecided(cause: Any, reason: str) -> Verdict:
            return Verdict(outcome="undecided", reason=reason, answer=item.answer, cause=cause)

        try:
            pipe = self._ready()
            pipe.send_bytes(json.dumps(item).encode())
        except (OSError, EOFError) as error:
            self.stop()
            return undecided("system", f"no worker: {error}")
        phase = "start"
        while True:
            try:
                if not pipe.poll(max(30.0, _BACKSTOP * self.cpu_seconds)):
                    self.stop()
                    return undecided("system", "the check hung without using CPU time")
                reply = json.loads(pipe.recv_bytes())
            except (OSError, EOFError):
                return undecided(*self._post_mortem(phase))
            if "phase" in reply:
                phase = reply["phase"]
            elif "verdict" in reply:
                return Verdict.model_validate(reply["verdict"])
            else:
                cause = "gold" if phase == "gold" else "response"
                return undecided(
                    cause, f"the {'gold answer' if cause == 'gold' else 'answer'} raised {reply['raised']}"
                )

    def _post_mortem(self, phase: str) -> tuple[str, str]:
        """Why the process ended, as cause and reason; it is cleared away, so that the next check starts a new one."""
        code = self.process.wait() if self.process is not None else None
        self.stop()
        if code == -signal.SIGPROF and phase == "answer":
            return "response", f"the answer used up {self.cpu_seconds:g} s of CPU time"
        if code == -signal.SIGPROF:
            return "system", f"the gold answer used up {self.cpu_seconds:g} s of CPU time"
        return "system", f"the worker died (exit status {code})"

    def _ready(self) -> Connection[Any, Any]:
        if self.process is not None and self.process.poll() is None and self.pipe is not None:
            return self.pipe
        self.stop()
        ours, theirs = Pipe()
        arguments = json.dumps([theirs.fileno(), self.cpu_seconds, self.memory_mb, sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self.pipe = ours
        if not ours.poll(_STARTUP_SECONDS):
            raise OSError("it did not start in time")
        try:
            hello = json.loads(ours.recv_bytes())
        except EOFError:
            raise OSError(f"it ended at its start (exit status {self.process.wait()})") from None
        if "error" in hello:
            raise OSError(hello["error"])
        return ours

    def stop(self) -> None:
        """Kill the process, if any, and close its pipe."""
        if self.pipe is not None:
            self.pipe.close()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
        self.process = self.pipe = None
