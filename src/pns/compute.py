"""Two models on one CPU take turns. (Ours.)"""

from __future__ import annotations

import threading
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
