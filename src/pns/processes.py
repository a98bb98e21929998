"""Which of several training processes this one is, by the variables that every launcher sets."""

from __future__ import annotations

import os


class OtherProcess(BaseException):
    """Raised behind a training in every process but the first: what follows is the first one's alone.

    No Exception, so that nothing takes it for a failure.
    """


def world_size() -> int:
    """How many processes train together, 1 or more."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def is_main() -> bool:
    """Whether this is the first of them, or the only one."""
    return int(os.environ.get("RANK") or 0) == 0


def own_device(device: str) -> str:
    """Where this process puts a model that it scores with: on a GPU (`cuda`) each launched process has one of its own.

    Said by name, for the device that is current before there is a trainer, and in every other thread, is the first one.
    """
    if device != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    # Ray Train says which one it is; accelerate's launcher counts the processes of a machine.
    return os.environ.get("ACCELERATE_TORCH_DEVICE") or f"cuda:{os.environ['LOCAL_RANK']}"


def loading_device(device: str) -> str:
    """Where a training loads its models: in a launched process in main memory, from where the trainer takes them to GPUs.

    Each process keeps a part of them where FSDP or DeepSpeed divides them; whole ones would not fit there.
    """
    return "cpu" if "LOCAL_RANK" in os.environ else device
