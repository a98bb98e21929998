"""One of the processes of a launched training: `python -m pns.launched JOB` under a launcher. See `pns.launch`."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

from pns.errors import StageStopped, UserError
from pns.launch import STARTER
from pns.pipeline import Stage, call
from pns.processes import OtherProcess, is_main, world_size
from pns.recipe import Recipe
from pns.run import write_json
from pns.worker import held, launched_lock

PATIENCE = 1.0
"""Seconds between two looks at whether the driver's worker is still there."""


def run(path: Path, *, watch_parent: bool = True) -> None:
    """Run the stage of a job file. The first process writes how it ended; the others say so only where they failed. One that
    fails because it lost touch with another leaves the word to that one.

    Args:
        watch_parent: end this process when the driver's worker is gone, where that is on the same machine; on another one it
            ends with `pns join`, which watches the driver's. False: the launcher sees to it, and starts processes again
            that have failed.
    """
    job = json.loads(path.read_text(encoding="utf-8"))
    host, pid, created = job["parent"]
    outcome = Path(job["outcome"])
    starter = os.environ.get(STARTER)
    if starter is not None:
        threading.Thread(target=_leave_with, args=json.loads(starter), daemon=True).start()
    if watch_parent and host == socket.gethostname():
        threading.Thread(target=_leave_with, args=(pid, created), daemon=True).start()
    elif not watch_parent and _refused(outcome):
        raise SystemExit(1)  # what was refused is refused again
    try:
        if is_main():
            # So that a run which is gone on with at once never meets processes of the one before.
            with held(launched_lock(Path(job["lock"]))):
                _work(job)
            write_json(outcome, {"kind": "done"})
        else:
            _work(job)
    except UserError as error:
        write_json(outcome, {"kind": "user", "text": str(error)})
        raise SystemExit(1) from None
    except StageStopped as error:
        write_json(outcome, {"kind": "stopped", "text": str(error)})
        raise SystemExit(1) from None
    except Exception as error:
        if not _lost_touch(error):
            write_json(outcome, {"kind": "bug", "text": traceback.format_exc()})
        elif _said(outcome) is None:
            said = str(error).partition("] ")[2] or str(error)  # gloo begins with the place in its source
            write_json(outcome, {"kind": "lost", "text": said.strip().partition("\n")[0].partition(". ")[0][:200]})
        raise


def _said(outcome: Path) -> str | None:
    """How an attempt has ended so far, where a process has said so."""
    try:
        return str(json.loads(outcome.read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError):
        return None


def _refused(outcome: Path) -> bool:
    """Whether the stage itself ended an attempt before, and no process was lost."""
    return _said(outcome) in ("user", "stopped")


def _lost_touch(error: Exception) -> bool:
    """Whether a process failed because another one was gone, or its machine; gloo has no class of error for that."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _work(job: dict[str, Any]) -> None:
    import torch

    from pns.stages.context import Context

    torch.set_num_threads(job["threads"])
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["stage"].items()}
    stage = Stage(**given)
    recipe = Recipe.model_validate(job["recipe"])
    _check_count(recipe.runtime.processes)
    inputs = {name: Path(folder) for name, folder in job["inputs"].items()}
    last = [0.0]

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        if is_main() and (now - last[0] > 0.5 or done >= total):
            last[0] = now
            write_json(Path(job["progress"]), [done, total])

    try:
        call(stage, Context(recipe, stage.name, Path(job["out"]), inputs, progress))
    except OtherProcess:
        pass


def _check_count(processes: int) -> None:
    """Raises UserError where another number was started: its results would be kept as those of the recipe's."""
    found = world_size()
    if found != processes:
        raise UserError(
            f"{found} process{'es were' if found > 1 else ' was'} started, and the recipe asks for {processes}",
            field="runtime.processes", remedy="leave --launcher-config out, or look at its distributed_type",
        )  # fmt: skip


def _leave_with(pid: int, created: float) -> None:
    """By each process itself: torch's launcher gives them sessions of their own, which no process group reaches."""
    while not _gone(pid, created):
        time.sleep(PATIENCE)
    os._exit(1)


def _gone(pid: int, created: float) -> bool:
    """Whether a process has ended. One that nobody reaps is a zombie, as in a container whose first process reaps none."""
    try:
        found = psutil.Process(pid)
        return found.create_time() != created or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


if __name__ == "__main__":
    run(Path(sys.argv[1]))
