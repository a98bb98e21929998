"""What the machine has: cores, memory, disk, open files, the data folder, GPUs, and libraries that import or do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pns.doctor import probe
from pns.errors import UserError

RAY_OPEN_FILES = 4096
"""Ray raises the soft limit to 65,536 where the hard one allows it, and warns below this many (ray 2.60, `ray.init`)."""

_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes.

    Attributes:
        cores: that this process may use.
        memory, memory_free: of the machine, or the limit of the container where that is lower.
        open_files: the hard limit, up to which a process may raise its own; None for no limit.
        disk: the folder that was looked at: the run directory, or the nearest folder above it that is there.
        disk_free: free at `disk`.
        writable: whether a folder can be made there.
        data, data_problem: the data folder, or why there is none.
        driver: GPUs that the driver lists (`nvidia-smi`), each as `name, memory`; empty where it was not asked.
    """

    cores: int
    memory: int
    memory_free: int
    open_files: int | None
    disk: str
    disk_free: int
    writable: bool
    data: str | None
    data_problem: str | None
    driver: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def look(run_dir: Path, *, gpus: bool = True) -> Machine:
    """The machine, with the disk on which `run_dir` lies or would lie; `gpus` off: the driver is not asked for any."""
    import resource

    free, limit = _memory()[1], _container_memory()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    place = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.exists())
    data, problem = _data()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory_here(),
        memory_free=min(free, limit or free),
        open_files=None if hard == resource.RLIM_INFINITY else hard,
        disk=str(place),
        disk_free=shutil.disk_usage(place).free,
        writable=place.is_dir() and os.access(place, os.W_OK | os.X_OK),
        data=data,
        data_problem=problem,
        driver=_driver() if gpus else (),
    )


def memory_here() -> int:
    """Bytes of memory of the machine, or of its container where that may have less."""
    memory = _memory()[0]
    return min(memory, _container_memory() or memory)


def _memory() -> tuple[int, int]:
    """Bytes of memory, and how many of them can be had; without psutil the page cache does not count among those."""
    try:
        import psutil
    except ImportError:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    found = psutil.virtual_memory()
    return found.total, found.available


def _container_memory() -> int | None:
    """The memory limit of this container (cgroup v2), or None."""
    try:
        return int(_CGROUP_MEMORY.read_text(encoding="ascii"))
    except (OSError, ValueError):  # none, or `max`
        return None


def _data() -> tuple[str | None, str | None]:
    try:
        from pns.problems.registry import data_folder

        folder = data_folder()
    except ImportError as error:  # of the core, which is told on its own
        return None, f"not looked for: {error}"
    except UserError as error:
        return None, f"PNS_DATA: {error.message} ({error.file})"
    return (str(folder), None) if folder else (None, "PNS_DATA is not set, and there is no ../shared/data")


def _driver() -> tuple[str, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):  # installed, and no driver behind it
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


@dataclass
class Imports:
    """How the import of libraries went.

    Attributes:
        errors: module -> what was raised, for those that do not import.
        gpus: what torch sees, each with `name`, `memory` and `free` in bytes; None where torch was not asked.
        cuda: the CUDA release that torch was built for; None for a build for the CPU.
    """

    errors: dict[str, str]
    gpus: list[dict[str, Any]] | None = None
    cuda: str | None = None


def try_imports(modules: list[str], seconds: float = 180.0) -> Imports:
    """Import modules, in processes of their own; one that ends its process, or hangs, is told like one that raises.

    Args:
        seconds: for one process. Many libraries together may take longer; one that takes longer alone counts as one that
            does not import.
    """
    found = Imports({})
    left, alone = list(modules), False
    while left:
        asked = left[:1] if alone else left
        done, late, fate = _probe(asked, seconds)
        for row in done:
            if row["error"]:
                found.errors[row["pns_probe"]] = row["error"]
            if "gpus" in row:
                found.gpus, found.cuda = row["gpus"], row["cuda"]
        left = left[len(done) :]
        if len(done) == len(asked):
            alone = False
        elif late and len(asked) > 1:  # the time may have gone to those before it
            alone = True
        else:  # the process ended before it had tried them all: in the first of those
            found.errors[left[0]] = fate
            left, alone = left[1:], False
    return found


def _probe(modules: list[str], seconds: float) -> tuple[list[dict[str, Any]], bool, str]:
    """What the probe said, whether its time was up, and how its process ended."""
    command = [sys.executable, "-P", probe.__file__, *modules]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)
        output, late = done.stdout, False
        fate = f"importing it ended the process (exit status {done.returncode})"
    except subprocess.TimeoutExpired as ended:
        output, late, fate = ended.stdout or b"", True, f"it did not import within {seconds:.0f} s"
    rows = [row for line in output.decode("utf-8", "replace").splitlines() if (row := _row(line)) is not None]
    return rows, late, fate


def _row(line: str) -> dict[str, Any] | None:
    """A line of the probe's own; libraries may print what they like beside it."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "pns_probe" in row else None
