"""Completions of a pool of engines, on disk until they are scored: what is drawn need not be drawn again. (Source: ours.)

A pool draws whether or not its caller is ready: Ray Data hands out what it has room for, and a judge may be slower than all
GPUs. In memory those completions would grow with the run, and a killed driver would lose them all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from pns.run import write_atomic
from pns.sampling.jobs import Drawn, completions

Row = tuple[int, Drawn]
"""Place of a job, and its completions."""


@contextmanager
def spooled(rows: Generator[Row], path_of: Callable[[int], Path], ready: Iterable[int] = ()) -> Iterator[Iterator[Row]]:
    """The same rows in the same order, behind those that are `ready`. A thread takes each as soon as it is there, and keeps it in
    the file of its place; the caller removes that when the row is done with.

    What making a row raises is raised where that row would have come. At the end of the block the row that is being made is made
    to its end and kept, and no other one; then there are no more rows.

    Args:
        ready: places whose files are there already (see `kept`).
    """
    done, stopped = SimpleQueue[int | BaseException | None](), threading.Event()
    for place in ready:
        done.put(place)

    def take() -> None:
        try:
            for place, drawn in rows:
                write_atomic(path_of(place), json.dumps(drawn))
                done.put(place)
                if stopped.is_set():
                    return
        except BaseException as error:  # it belongs to the caller's thread
            done.put(error)
        finally:
            rows.close()  # what it has under way ends here, not when somebody forgets it
            done.put(None)

    def given() -> Iterator[Row]:
        while (place := done.get()) is not None and not stopped.is_set():
            if isinstance(place, BaseException):
                raise place
            yield place, completions(json.loads(path_of(place).read_text(encoding="utf-8")))

    taker = threading.Thread(target=take, name="pns-spool")
    taker.start()
    try:
        yield given()
    finally:
        stopped.set()
        taker.join()


def kept(path: Path, problems: int, n: int) -> bool:
    """Whether a file is there that `spooled` left, with n completions for each problem."""
    with suppress(OSError, ValueError, TypeError):
        drawn = completions(json.loads(path.read_text(encoding="utf-8")))
        return [len(ones) for ones in drawn] == [n] * problems and all(
            isinstance(one.text, str) and isinstance(one.n_tokens, int) and one.finish in ("stop", "length")
            for ones in drawn
            for one in ones
        )
    return False
