"""Workers of a Ray engine that tests put in the place of its own: actors import them from here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pns.cluster import Told
from pns.sampling.ray import _Worker

NOTES = "PNS_TEST_NOTES"
LONGEST_SECONDS = 300  # several actors that import torch, on a machine that others use


class Begun(NamedTuple):
    """What a worker notes of a job."""

    place: int
    node: str
    pid: int


def until(true: Callable[[], Any]) -> None:
    """Wait for it; AssertionError where it takes too long."""
    end = time.monotonic() + LONGEST_SECONDS
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def begun(notes: Path) -> list[Begun]:
    """The jobs that workers have begun so far, in order."""
    file = notes / "begun"
    return [Begun(*json.loads(line)) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


class Holding(_Worker):
    """Notes each job that it begins, and holds its third one until there is a file `lost`."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self._jobs = 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import ray

        notes = Path(os.environ[NOTES])
        self._jobs += 1
        note = Begun(int(batch["place"][0]), ray.get_runtime_context().get_node_id(), os.getpid())
        with (notes / "begun").open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")
        if self._jobs == 3:
            until((notes / "lost").exists)
        return super().__call__(batch)


class HoldingNothing(Holding):
    """The same without an engine: its jobs have no completions."""

    def _made(self) -> None:
        return None

    def _draw(self, text: str) -> Told:
        return None, []


class Ending(HoldingNothing):
    """Ends its process, whatever it is to draw."""

    def _draw(self, text: str) -> Told:
        os._exit(1)
