"""Single responses from many callers, scored in batches: trainers and HTTP clients ask one by one. (Source: ours.)"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from pns.records import Problem, Scores
from pns.rewards.composite import Composite, Finish

LINGER_SECONDS = 0.005
"""How long the first response of a batch waits for others: nothing beside a judge, and callers come in bursts."""


class Row(NamedTuple):
    """One response to score."""

    problem: Problem
    text: str
    finish: Finish = "stop"


_Job = tuple[Row, "Future[Scores]"]


class Batcher:
    """Gathers rows of all callers into batches of one composite. Safe to use from any thread and any event loop.

    Args:
        max_batch: rows of one batch at most.
        threads: batches at a time; more than one, so that a slow judge of one batch does not hold up the next.
    """

    def __init__(self, composite: Composite, *, max_batch: int = 64, threads: int = 4) -> None:
        self.composite, self._max_batch = composite, max_batch
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._lock, self._closed = threading.Lock(), False
        self._threads = [
            threading.Thread(target=self._work, name=f"pns-reward-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, row: Row) -> Future[Scores]:
        """The scores of a row, when its batch is done. Raises RuntimeError after `close`."""
        future: Future[Scores] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the reward is closed")
            self._jobs.put((row, future))
        return future

    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """Scores in the order of the rows; waits for them."""
        return [future.result() for future in [self.submit(row) for row in rows]]

    def close(self) -> None:
        """Finish what was submitted, end the threads, and close the composite. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self.composite.close()

    def _work(self) -> None:
        while batch := self._next():
            try:
                scores = self.composite(*(list(part) for part in zip(*(row for row, _ in batch), strict=True)))
            except BaseException as error:  # a bug of ours: it belongs to whoever waits, and the thread lives on
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), score in zip(batch, scores, strict=True):
                    future.set_result(score)

    def _next(self) -> list[_Job]:
        """The next batch; empty when the end has come."""
        batch: list[_Job] = []
        end = 0.0
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get(timeout=max(0.0, end - time.monotonic()) if batch else None)
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # for the other threads
                break
            if job[1].set_running_or_notify_cancel():
                batch.append(job)
                end = end or time.monotonic() + LINGER_SECONDS
        return batch
