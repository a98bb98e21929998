"""Every completion that a training was paid for, with its breakdown: one JSON line each. (Source: ours.)"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO


class RewardLog:
    """Appends rows to a JSONL file. A training that goes on from a checkpoint takes back what came after it.

    Args:
        path: the file; in a training of several processes each writes its own, `NAME.rank3.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        rank = os.environ.get("RANK", "0")
        alone = os.environ.get("WORLD_SIZE", "1") in ("", "0", "1")
        self.path = path if alone else path.with_suffix(f".rank{rank}{path.suffix}")
        self._begun = False

    def append(self, step: int | None, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of an optimizer step (None: unknown). They are with the system when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not self._begun:
                stream.truncate(0 if step == 0 else _kept(stream, step))
                self._begun = True
            lines = (json.dumps({"step": step, **row}, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            stream.write("".join(lines).encode("utf-8", "replace"))


def _kept(stream: BinaryIO, step: int | None) -> int:
    """How many bytes of the file stay: whole lines of steps before this one; all whole lines where it is unknown."""
    stream.seek(0)
    size = 0
    for line in stream:
        try:
            found = json.loads(line)
        except ValueError:  # a kill has cut it
            break
        before = found.get("step") if isinstance(found, dict) else None
        if not line.endswith(b"\n") or (step is not None and (before is None or before >= step)):
            break
        size += len(line)
    return size
