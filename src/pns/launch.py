"""Training stages as several processes, started by accelerate's launcher or by Ray Train. (Interface: ours.)

Only trainings are launched: every process runs the stage's function (`pns.launched`), the trainer divides the batch among
them, and the first one alone goes on behind the training. All other stages stay in the driver's worker.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from pns.accelerated import (
    check_starts,
    configuration,
    divides,
    machines,
    meeting,
    no_copy,
    own_configuration,
    parallelism,
    training_variables,
)
from pns.cluster import connect
from pns.errors import StageStopped, UserError
from pns.extras import install, missing
from pns.run import write_json
from pns.training.batches import check_batches

if TYPE_CHECKING:
    from pns.recipe import Recipe
    from pns.worker import Job

TRAININGS = frozenset(
    {
        "policy:sft", "policy:rlvr", "policy:rlvr_more", "policy:reinforce", "models:reward_model",
        "models:hardened_reward_model", "models:generator", "align:align", "align:sft_chosen", "uses:rl",
    }
)  # fmt: skip
"""Calls of the stages that train, but for the small step verifiers of a study."""

RESTARTS = 3
"""How often Ray Train starts the processes again when one of them is lost; each time from the last checkpoint."""

BEAT = 2.0
"""Seconds between two beats, by which other machines see that the driver's worker is there (`pns.elsewhere`)."""

STARTER = "PNS_STARTER"
"""Variable of launched processes on other machines: process id and creation time of what they end with."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Launcher:
    """How trainings are started.

    Attributes:
        config: accelerate's own configuration file (machines, FSDP, DeepSpeed). Ray reads what it says of the training alone.
    """

    kind: Literal["accelerate", "ray"]
    config: Path | None = None

    def one_port(self, recipe: Recipe) -> bool:
        """Whether the processes of all trainings meet at the same port, so that there can be one training at a time."""
        runtime = recipe.runtime
        if self.kind == "ray" or runtime.processes == 1:
            return False
        if machines(self.config) > 1:
            return True
        return runtime.device != "cpu" and configuration(self.config).get("main_process_port") != 0  # 0: a free one


@dataclass(frozen=True)
class Files:
    """Where the driver's worker and the launched processes meet: beside the stage's log."""

    job: Path
    progress: Path
    outcome: Path
    beat: Path

    @classmethod
    def of(cls, log: Path) -> Files:
        """Those of a stage by its log."""
        return cls(*(log.with_suffix(f".{name}.json") for name in ("job", "progress", "outcome", "beat")))


def launch(job: Job, launcher: Launcher, progress: Progress) -> None:
    """Run a training stage in `runtime.processes` processes, to its end.

    Raises what the stage raised: UserError, StageStopped, RuntimeError with a traceback; StageStopped where a process died.
    """
    files, processes = Files.of(job.log), job.recipe.runtime.processes
    for path in (files.progress, files.outcome):
        path.unlink(missing_ok=True)
    me = psutil.Process()
    parent = [socket.gethostname(), me.pid, me.create_time()]
    told = {
        "stage": asdict(job.stage), "recipe": job.recipe.model_dump(mode="json"), "out": str(job.out.resolve()),
        "inputs": {name: str(path.resolve()) for name, path in job.inputs.items()}, "threads": job.threads,
        "progress": str(files.progress.resolve()), "outcome": str(files.outcome.resolve()),
        "lock": str(job.lock.resolve()), "parent": parent,
    }  # fmt: skip
    write_json(files.job, told)
    start = _under_ray if launcher.kind == "ray" else _under_accelerate
    beat = files.beat if launcher.kind == "accelerate" and launcher.config is not None else None
    with _followed(files.progress, progress), _beating(beat, parent):
        code = start(files.job.resolve(), launcher, processes, job.recipe.runtime.device)
    _raise(files.outcome, code, job.log)


def command(job: Path, config: Path | None, processes: int, device: str, rank: int | None = None) -> list[str]:
    """What starts a job's processes on one machine.

    Args:
        config: None: our own, for one machine.
        processes: of all machines.
        rank: the machine's number; None: as the configuration says.
    """
    # accelerate's launcher has no several processes on a CPU without MPI; torch's own sets the same variables.
    if device == "cpu" and config is not None:
        meet = meeting(config, processes)
        words = ["torch.distributed.run", "--nproc-per-node", str(processes // meet.machines)]
        words += ["--nnodes", str(meet.machines), "--node-rank", str(rank or 0)]
        words += ["--master-addr", meet.address, "--master-port", str(meet.port)]
    elif device == "cpu":
        # Without a rendezvous of its own a launcher hands port 0 on as it is, and a process that is alone waits there for ever.
        words = ["torch.distributed.run", "--nproc-per-node", str(processes)]
        words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    else:
        words = ["accelerate.commands.launch", "--config_file", str(config or own_configuration(processes))]
        words += ["--num_processes", str(processes), *([] if rank is None else ["--machine_rank", str(rank)])]
    return [sys.executable, "-m", *words, "-m", "pns.launched", str(job)]


def _under_accelerate(job: Path, launcher: Launcher, processes: int, device: str) -> str | None:
    """None, or why it ended badly."""
    child = subprocess.Popen(command(job, launcher.config, processes, device), start_new_session=True)
    try:
        code = child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    return None if code == 0 else f"the launcher ended with exit code {code}"


def _under_ray(job: Path, launcher: Launcher, processes: int, device: str) -> str | None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    variables = {} if launcher.config is None else training_variables(launcher.config, processes)
    ours = connect(processes + 1, "--launcher", log=True)  # Ray Train has a process of its own
    trainer = TorchTrainer(
        _in_ray,
        train_loop_config={"job": str(job), "variables": variables},
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else "nccl"),
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=device != "cpu"),
        run_config=RunConfig(
            name=job.stem, storage_path=str(job.parent / "ray"), failure_config=FailureConfig(max_failures=RESTARTS)
        ),
    )
    # In the main thread Ray Train takes Ctrl-C over and never gives it back; it is the driver's to handle.
    thread = ThreadPoolExecutor(1)
    try:
        thread.submit(trainer.fit).result()
    except Exception as error:  # Ray wraps what a worker raised; what the stage had to say stands in its outcome
        return f"{type(error).__name__}: {error}"
    finally:
        thread.shutdown(wait=False)
        if ours:
            ray.shutdown()
    return None


def _in_ray(config: dict[str, Any]) -> None:
    os.environ.update(config["variables"])  # Ray Train has set those of rendezvous
    from pns.launched import run

    run(Path(config["job"]), watch_parent=False)


@contextmanager
def _beating(path: Path | None, parent: list[Any]) -> Iterator[None]:
    """Show other machines that this training goes on. None: there are none."""
    if path is None:
        yield
        return

    def beat(over: threading.Event) -> None:
        count = 0
        while not over.is_set():
            count += 1
            with suppress(OSError):  # a full disk, a shared one that is away
                write_json(path, {"parent": parent, "beat": count})
            over.wait(BEAT)

    try:
        with _meanwhile(beat):
            yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _followed(path: Path, progress: Progress) -> Iterator[None]:
    """Hand on what the first process writes of its progress."""

    def follow(over: threading.Event) -> None:
        last: list[int] = []
        while not over.wait(0.5):
            try:
                now = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # not there yet, or a disk without atomic renames
                continue
            if now != last:
                last = now
                progress(*now)

    with _meanwhile(follow):
        yield


@contextmanager
def _meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do this in a thread of its own, which is told by the event when to end."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _raise(outcome: Path, ended_badly: str | None, log: Path) -> None:
    try:
        found = json.loads(outcome.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {"kind": "lost", "text": ended_badly or "no process said how the training ended"}
    if found["kind"] == "done" and ended_badly is None:
        return
    if found["kind"] == "user":
        raise UserError(found["text"])
    if found["kind"] == "stopped":
        raise StageStopped(found["text"])
    if found["kind"] == "lost":
        raise StageStopped(
            f"a process of the training was lost, perhaps for memory, or its machine ({found['text']}); its log is {log}"
        )
    raise RuntimeError(found["text"] if found["kind"] == "bug" else ended_badly)


def check_launcher(recipe: Recipe, launcher: Launcher | None) -> None:
    """Raises UserError: several processes that nobody starts, or that cannot divide a training's batch among them; a
    configuration that nothing reads on a CPU, or by which processes cannot meet there; one whose sizes do not give
    them, or by which accelerate would start another number.
    """
    runtime = recipe.runtime
    if launcher is None and runtime.processes > 1:
        raise UserError(
            f"{runtime.processes} processes need somebody to start them",
            field="runtime.processes", remedy="add --launcher accelerate or --launcher ray, or set it to 1",
        )  # fmt: skip
    check_batches(recipe, runtime.processes)
    if launcher is not None and launcher.config is not None:
        _check_configuration(launcher.config, launcher.kind, recipe)


def _check_configuration(config: Path, kind: Literal["accelerate", "ray"], recipe: Recipe) -> None:
    """`check_launcher` of the file that a launcher is given."""
    runtime, on_gpus = recipe.runtime, recipe.runtime.device != "cpu"
    if not on_gpus and kind == "ray":
        raise UserError(
            "on a CPU Ray reads no configuration of accelerate: each process holds a whole model",
            field="--launcher-config", remedy="leave it out, or set runtime.device=cuda",
        )  # fmt: skip
    if not on_gpus:
        meeting(config, runtime.processes)
    parallelism(config, runtime.processes)
    if kind == "accelerate":  # Ray counts and places processes by itself
        check_starts(config, runtime.processes, on_gpus=on_gpus)
    if divides(config) and runtime.copies(divided=True):
        raise no_copy(runtime.sampler)


def launcher_of(kind: str, config: Path | None, *, installed: bool = True) -> Launcher | None:
    """From the command line.

    Args:
        installed: whether it has to be.
    Raises UserError: a configuration that nothing reads or that is no file; Ray is missing.
    """
    if config is not None and kind == "none":
        raise UserError(
            "without --launcher nothing reads a configuration", field="--launcher-config",
            remedy="add --launcher accelerate or --launcher ray, or leave it out",
        )  # fmt: skip
    if config is not None and not config.is_file():
        raise UserError("no such file", file=config, remedy="see recipes/accelerate, or `accelerate config`")
    if kind == "ray" and installed and missing(["ray"]):
        raise UserError("Ray is not installed", field="--launcher", remedy=f"install it: {install('ray-train')}")
    if kind == "none":
        return None
    return Launcher("ray" if kind == "ray" else "accelerate", None if config is None else config.resolve())
