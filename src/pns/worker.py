"""A stage in a process of its own: what goes wrong in it, or a kill, cannot take the driver with it.

Workers are forked from a server that has imported the heavy libraries once (multiprocessing's forkserver), so a stage
starts in a fraction of a second. A worker ends itself when its driver is gone, and holds a lock of its own, so that a
resume never finds an old worker still writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pns.errors import StageStopped, UserError
from pns.gpus import VISIBLE
from pns.launch import TRAININGS, Launcher, launch
from pns.pipeline import Stage, call
from pns.readers import opened
from pns.recipe import Recipe

NO_SPACE = "the disk is full"


@dataclass(frozen=True)
class Job:
    """All that a worker is told.

    Attributes:
        gpu: the only one that it sees; None: all that the driver sees.
    """

    stage: Stage
    recipe: Recipe
    out: Path
    inputs: Mapping[str, Path]
    log: Path
    lock: Path
    threads: int
    launcher: Launcher | None = None
    gpu: str | None = None


# glibc hands every tensor of more than 128 KiB back to the system when it is freed, and the next one is cleared page by page:
# up to a fifth of a stage's CPU time. Kept in the process, it costs no more memory at the peak. Elsewhere nobody reads these.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def server() -> Any:
    """The context that forks workers. Its server reads thread counts and the allocator's limits when it starts."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.update(
        TOKENIZERS_PARALLELISM="false", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TRL_EXPERIMENTAL_SILENCE="1"
    )
    for name, value in {"HF_HUB_DISABLE_TELEMETRY": "1", **_KEEP_MEMORY}.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pns.preload"])
    return context


def work(job: Job, pipe: Connection) -> None:
    """Entry point of a worker: run one stage, tell the driver of progress and of the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if job.gpu is not None:  # before anything looks for GPUs
        os.environ[VISIBLE] = job.gpu
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with job.log.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            print(f"--- {job.stage.name} {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)  # noqa: T201
            with held(job.lock):
                pipe.send(("done", _run(job, pipe)))
        except UserError as error:
            pipe.send(("user", str(error)))
        except StageStopped as error:
            pipe.send(("stopped", str(error)))
        except Exception as error:
            with contextlib.suppress(OSError):  # a full disk may be the log's
                traceback.print_exc()
            pipe.send(("user", _disk_full(job)) if _out_of_space(error) else ("bug", traceback.format_exc()))


def _run(job: Job, pipe: Connection) -> dict[str, Any]:
    import resource

    import torch

    from pns.stages.context import Context

    torch.set_num_threads(job.threads)
    last = [0.0]

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] > 0.2 or done >= total:
            last[0] = now
            with contextlib.suppress(BrokenPipeError):
                pipe.send(("progress", (done, total)))

    def note(text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(("note", text))

    begun = time.monotonic()
    launched = job.launcher is not None and job.stage.call in TRAININGS
    if job.launcher is not None and launched:
        launch(job, job.launcher, progress)
    else:
        recipe = job.recipe
        with opened(recipe.engine, device=recipe.runtime.device, threads=job.threads) as readers:
            call(job.stage, Context(recipe, job.stage.name, job.out, job.inputs, progress, readers, note))
    # Linux gives the peak in KiB, macOS in bytes; of several processes it is the largest one's.
    whose = resource.RUSAGE_CHILDREN if launched else resource.RUSAGE_SELF
    peak = resource.getrusage(whose).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": time.monotonic() - begun, "peak_memory_bytes": peak}


@contextlib.contextmanager
def held(path: Path) -> Any:
    """Hold a lock file; waits for it. The system frees it however a process dies."""
    with path.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def launched_lock(lock: Path) -> Path:
    """Held by the first of a stage's launched processes, which its worker does not outlive by more than a second."""
    return Path(f"{lock}.launched")


def wait_for_left_over(lock: Path) -> None:
    """Wait until what a killed run has left of a stage, by its lock, has ended: it may still write to the stage's folder."""
    for path in (lock, launched_lock(lock)):
        if path.exists():
            with held(path):
                pass


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _out_of_space(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _disk_full(job: Job) -> str:
    return str(
        UserError(
            f"{NO_SPACE} while {job.stage.name} was writing",
            file=job.out,
            remedy="free some space and run the same command again: it goes on from the last checkpoint or shard",
        )
    )
