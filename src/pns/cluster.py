"""The Ray cluster that engines and launchers work on: the one that RAY_ADDRESS names, or one on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pns.errors import StageStopped, UserError

_TRIES = 3
_RAISED: dict[str, type[Exception]] = {"user": UserError, "stopped": StageStopped}
Told = tuple[str | None, Any]
"""What an actor tells: (None, what its work gave), or how it failed and the message."""


def told(work: Callable[[], Any]) -> Told:
    """What goes wrong for a reason that the user can mend is told, not raised: Ray would wrap it, or try it again."""
    try:
        return None, work()
    except UserError as error:
        return "user", str(error)
    except StageStopped as error:
        return "stopped", str(error)


def given(found: Told) -> Any:
    """What the work gave. Raises what an actor told of instead."""
    failed, value = found
    if failed is not None:
        raise _RAISED[failed](value)
    return value


def connect(cpus: int, field: str, *, log: bool = False) -> bool:
    """Connect to the cluster, or start one here; whether it is ours to end (`ray.shutdown`).

    Args:
        cpus: that a cluster of this machine must offer, however few cores it has.
        log: what workers print comes here.
    Raises UserError where Ray cannot be reached or started.
    """
    import ray

    if ray.is_initialized():
        return False
    settings: dict[str, Any] = {"log_to_driver": log}
    if not os.environ.get("RAY_ADDRESS"):
        settings |= {"address": "local", "num_cpus": max(cpus, os.cpu_count() or 1), "include_dashboard": False}
    for left in reversed(range(_TRIES)):
        try:
            ray.init(**settings)
            return True
        except Exception as error:  # Ray has no class for it; it gives itself 30 s, little on a busy machine
            ray.shutdown()
            if not left:
                raise UserError(
                    f"Ray does not start, or is not to be reached ({error})", field=field,
                    remedy="is RAY_ADDRESS right? Without it a cluster is started on this machine",
                ) from None  # fmt: skip
    raise AssertionError("the last try returns or raises")


def has_place(needed: Mapping[str, float]) -> bool:
    """Whether a node that is alive is large enough, however busy it is."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0.0) >= amount for name, amount in needed.items()) for node in alive)
