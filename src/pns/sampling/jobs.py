"""Calls of an engine as data, so that they can be spread over workers, and drawn ahead of what is done with them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from pns.sampling.prompts import Completion

S = TypeVar("S")
T = TypeVar("T")
Drawn = list[list[Completion]]
_END = object()


@dataclass(frozen=True)
class Job:
    """`n` completions for each problem.

    Attributes:
        temperature: 0 is greedy, and asks for n = 1.
        seed: of all of them; engines split it.
        prefixes: how each response begins; not given back.
    """

    problems: Sequence[str]
    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    prefixes: Sequence[str] | None = None

    def to_json(self) -> str:
        """Itself as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that `to_json` wrote."""
        return cls(**json.loads(text))


@runtime_checkable
class Pool(Protocol):
    """An engine that has several jobs under way at once: it gives (place of the job, completions) as they come, in any order."""

    def generate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Drawn]]: ...


def ahead(rows: Iterable[T], most: int = 1) -> Iterator[T]:
    """The same rows in the same order, of which a thread of their own makes `most` before they are asked for.

    What making one raises is raised where that row would have come. When the caller stops early, the row that is being
    made is made to its end, and no other one.
    """
    found = iter(rows)
    with ThreadPoolExecutor(1, thread_name_prefix="pns-ahead") as pool:
        waiting = deque(pool.submit(next, found, _END) for _ in range(most))
        try:
            while (row := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, found, _END))
                yield row  # type: ignore[misc]
        finally:
            for one in waiting:
                one.cancel()


def each(work: Callable[[S], T], rows: Iterable[S], most: int) -> Iterator[T]:
    """`work` of each row, in order; of up to `most` rows at a time, each in a thread of its own. With 1: in the caller's.

    One is given as soon as it and those before it are done, whether or not there is another row yet. What making a row or
    its work raises is raised where that one would have come; what is under way then is not waited for, and goes nowhere.
    """
    if most == 1:
        yield from map(work, rows)
        return
    found = iter(rows)
    taker = ThreadPoolExecutor(1, thread_name_prefix="pns-take")  # one thread, so rows are taken in order
    pool = ThreadPoolExecutor(most, thread_name_prefix="pns-each")

    def one(taken: Future[S | object]) -> T | object:
        row = taken.result()
        return row if row is _END else work(row)  # type: ignore[arg-type]

    try:
        waiting = deque(pool.submit(one, taker.submit(next, found, _END)) for _ in range(most))
        while (done := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(one, taker.submit(next, found, _END)))
            yield done  # type: ignore[misc]
    finally:
        for executor in (taker, pool):
            executor.shutdown(wait=False, cancel_futures=True)


def completions(rows: Any) -> Drawn:
    """Completions from what JSON made of them: lists of [text, tokens, finish]."""
    return [[Completion(*one) for one in ones] for ones in rows]
