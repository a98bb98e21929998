"""One thread with an event loop, so that plain code in any thread can use one set of asynchronous connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Starts its thread at the first `run` or `start`. `close` ends it; what still runs then is cancelled.

    Args:
        at_end: awaited on the loop before it ends.
    """

    def __init__(self, name: str, at_end: Callable[[], Awaitable[None]]) -> None:
        self._name, self._at_end = name, at_end
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work to its end and give its result. An interrupt of the waiting thread cancels the work."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin the work and do not wait for it. Cancelling the future cancels it. Raises RuntimeError after `close`."""
        # Handed over under the lock: after `close` the loop may take work and never look at it, and its caller would
        # wait for ever.
        with self._lock:
            try:
                loop = self._started()
            except RuntimeError:
                work.close()
                raise
            return asyncio.run_coroutine_threadsafe(work, loop)

    def close(self) -> None:
        """End the thread. Safe to call twice, and from any thread but its own."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is None or self._loop is None or self._stop is None:
                return
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        """The loop, its thread started; the lock is held."""
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        if self._thread is None:
            ready = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve(ready)), name=self._name, daemon=True
            )
            self._thread.start()
            ready.wait()
        assert self._loop is not None
        return self._loop

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        await self._stop.wait()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._at_end()
