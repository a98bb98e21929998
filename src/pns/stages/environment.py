"""What results depend on besides the recipe: versions, the machine, the commit. No names of hosts and no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from importlib import metadata
from pathlib import Path

import pns

_CPUINFO = Path("/proc/cpuinfo")


def environment(device: str) -> dict[str, str]:
    """Of the process that asks. What cannot be found out is left out.

    Args:
        device: `runtime.device`; GPUs are named where it is `cuda`.
    """
    names = ("torch", "transformers", "trl", "datasets", "accelerate", "numpy")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": None if cores is None else str(cores),
        "gpu": _gpus() if device == "cuda" else None,
        "commit": commit_of(Path(pns.__file__).parent),
        **{name: metadata.version(name) for name in names},
    }
    return {key: value for key, value in found.items() if value}


def _processor() -> str | None:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system than Linux
        return platform.processor() or None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or None


def _gpus() -> str | None:
    """Those that torch sees, as `2 x NAME`."""
    import torch

    if not torch.cuda.is_available():
        return None
    counts = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def commit_of(folder: Path) -> str | None:
    """The git commit of a package's source, and whether that was changed since; None where it lies in no checkout of its own,
    such as a virtual environment inside another project's.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return None if commit is None else f"{commit}, with changes" if changed else commit


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
