"""How models share a device: two on one CPU take turns, and a forward pass has a bound. (Ours.)"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

_TURN = threading.RLock()


def turn(device: str) -> AbstractContextManager[object]:
    """What a forward pass holds while it computes.

    A stage draws the next shard while a reward model scores the last one. On a CPU where each of them computes with
    several threads there would be twice as many threads as cores, and those of one model wait for each other at every
    layer. With one thread each, or on an accelerator, nothing waits.
    """
    import torch

    return _TURN if device == "cpu" and torch.get_num_threads() > 1 else nullcontext()


def batches(order: Sequence[int], lengths: Sequence[int], most: int, tokens: int) -> Iterator[list[int]]:
    """Rows in order of their lengths, at most so many at once and, padded, so many tokens; a longer one goes alone."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[i] > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
