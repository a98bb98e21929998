"""Which of several training processes this one is, by the variables that every launcher sets."""

from __future__ import annotations

import os

from pns.errors import UserError


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


def share(batch: int, what: str) -> int:
    """A process's share of a batch of all. Raises UserError where it does not divide."""
    count = world_size()
    if batch % count:
        raise UserError(
            f"{what} of {batch} rows cannot be divided among {count} processes",
            field="runtime.processes",
            remedy="choose a batch that the number of processes divides",
        )
    return batch // count
