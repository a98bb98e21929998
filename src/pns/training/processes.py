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
