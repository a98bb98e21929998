"""A budget in requests and in tokens that stops cleanly: what is past it is not asked, what is under way finishes."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pns.errors import UserError


class Budget:
    """Counts requests and tokens against limits; None is no limit. Safe to use from several threads.

    The limit in requests is exact. The one in tokens is looked at before each request, when nobody knows yet what it
    will cost, so the requests that are under way at that time (at most `concurrency`) may go over it.

    Args:
        kept: a file for what is spent, written as it is spent: a killed stage that is gone on with has what is left of its
            budget, and so have the processes of one training together. None: counted in this object alone.
    Raises UserError where the file is none of ours.
    """

    def __init__(self, max_calls: int | None, max_tokens: int | None, kept: Path | None = None) -> None:
        self.max_calls, self.max_tokens = max_calls, max_tokens
        self.calls = self.tokens = 0
        self._lock, self._kept = threading.Lock(), kept
        if kept is not None and kept.is_file():
            with self._latest():
                pass

    @property
    def spent(self) -> str | None:
        """Which limit is reached, in words, or None."""
        if self.max_calls is not None and self.calls >= self.max_calls:
            return f"max_calls: {self.max_calls} is reached"
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            return f"max_total_tokens: {self.max_tokens} is reached"
        return None

    def take(self) -> bool:
        """One more request, if there is any left."""
        with self._latest():
            if self.spent is not None:
                return False
            self.calls += 1
            return True

    def add(self, tokens: int) -> None:
        """What a request has cost."""
        with self._latest():
            self.tokens += tokens

    @contextmanager
    def _latest(self) -> Iterator[None]:
        """The counts as they stand, also by other processes; what the block makes of them is written down."""
        with self._lock:
            if self._kept is None:
                yield
                return
            with os.fdopen(os.open(self._kept, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                self._read(stream.read())
                yield
                # In place, for the lock is the file's; it never gets shorter, and one write is whole whenever a kill comes.
                stream.seek(0)
                stream.write(json.dumps({"calls": self.calls, "tokens": self.tokens}) + "\n")

    def _read(self, text: str) -> None:
        if not text:  # it has just been made
            return
        try:
            found = json.loads(text)
            self.calls, self.tokens = int(found["calls"]), int(found["tokens"])
        except (ValueError, KeyError, TypeError):
            raise UserError("not a file of what a judge has cost", file=self._kept, remedy="delete it") from None


def tokens_of(usage: Any) -> tuple[int, int] | None:
    """(prompt, completion) tokens as the server reports them, or None where it reports nothing that can be believed."""
    if not isinstance(usage, dict):
        return None
    prompt, completion, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    if prompt is None or completion is None:
        return None
    # Some servers count hidden reasoning in the total alone.
    return prompt, max(completion, (total or 0) - prompt)


def most_tokens(prompt: str, max_tokens: int) -> tuple[int, int]:
    """What a request can have cost at most, where the server does not say: a token is at least one byte."""
    return len(prompt.encode("utf-8", "replace")), max_tokens


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= 10**9 else None
