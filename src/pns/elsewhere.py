"""The part of a further machine in a run's trainings: it waits for each of them and starts its processes. (Interface: ours.)

This machine and the driver's share the run directory and nothing else. While a training goes on, the driver's worker writes a
beat beside the job (`pns.launch`). What beats is taken part in; where the beat stops, the processes here are ended.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pns.accelerated import machines
from pns.errors import UserError
from pns.launch import STARTER, Files, command

LOOK = 1.0
"""Seconds between two looks at the run directory."""

SILENCE = 30.0
"""Seconds without a beat after which the driver's worker is taken for gone; a shared disk may show a beat late."""

_END = 60.0  # seconds in which the launcher ends its processes; it gives them 30


def check_rank(config: Path, rank: int) -> None:
    """Raises UserError where a configuration of accelerate has no further machine of that number."""
    found = machines(config)
    if not 1 <= rank < found:
        raise UserError(
            f"this file has {found} machine{'s' * (found != 1)}, and no further one of number {rank}", file=config,
            field="--machine-rank", remedy="the driver's machine is 0; the others count from 1 to num_machines - 1",
        )  # fmt: skip


def join(folder: Path, config: Path, rank: int, say: Callable[[str], None]) -> None:
    """Take part in every training of a run, until its driver leaves it: done, refused or stopped by Ctrl-C.

    Where the driver is killed this waits for the next one. Before the first one it waits, too.

    Args:
        folder: the run, at the path that it has on the driver's machine.
        config: accelerate's, the one that the driver has.
        rank: this machine's number, 1 or more.
    """
    beats: dict[Path, Beat] = {}
    taken: list[Any] = []
    begun, idle = False, 0
    while not begun or idle < 2:  # for a moment the lock of a run that is gone on with holds nothing
        idle = 0 if _held(folder / "lock") else idle + 1
        begun = begun or not idle
        for path in sorted((folder / "logs").glob("*.beat.json")):
            beat = beats.setdefault(path, Beat(path))
            which = beat.training()
            if which is not None and which not in taken:
                taken.append(which)
                say(f"{_stage(path)}: {_take_part(path, beat, which, config, rank)}")
        time.sleep(LOOK)


class Beat:
    """A file that the driver's worker writes again and again. Clocks of two machines are not compared, so what is there at
    the first look counts only when it changes.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._last, self._at = path, _read(path), -math.inf

    def training(self) -> Any:
        """What identifies the training that goes on, or None."""
        now = _read(self._path)
        if now is not None and now != self._last:
            self._last, self._at = now, time.monotonic()
        return self._last["parent"] if time.monotonic() - self._at <= SILENCE else None


def _take_part(path: Path, beat: Beat, which: Any, config: Path, rank: int) -> str:
    """Returns how it ended. What the processes print goes beside the log of the stage."""
    job = Files.of(path.with_name(f"{_stage(path)}.log")).job
    runtime = json.loads(job.read_text(encoding="utf-8"))["recipe"]["runtime"]
    words = command(job.resolve(), config, runtime["processes"], runtime["device"], rank)
    me = psutil.Process()
    log = path.with_name(f"{_stage(path)}.machine-{rank}.log")
    with log.open("a", encoding="utf-8") as output:
        child = subprocess.Popen(
            words, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, STARTER: json.dumps([me.pid, me.create_time()])},
        )  # fmt: skip
    try:
        while (code := child.poll()) is None:
            if beat.training() != which:
                return "ended, for its driver is gone"
            time.sleep(LOOK)
        return "done" if code == 0 else f"the launcher ended with exit code {code}; its log is {log}"
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """By the launcher's own hand: its processes have sessions of their own, which no process group reaches."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_END)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _stage(path: Path) -> str:
    return path.name.removesuffix(".beat.json")


def _held(lock: Path) -> bool:
    """Whether a driver has the run, by what it wrote: locks do not reach over every shared disk."""
    try:
        return bool(lock.read_text(encoding="utf-8").strip())
    except OSError as error:
        return not isinstance(error, FileNotFoundError)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
