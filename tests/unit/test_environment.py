"""What results say of the machine and the commit that they come from."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from pathlib import Path

import pytest

from pns.stages import environment as module
from pns.stages.environment import commit_of, environment


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", str(folder), *name, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_machine_is_told_and_not_whose_it_is() -> None:
    found = environment("cpu")
    assert {"python", "machine", "cores", "torch", "numpy"} <= set(found)
    assert int(found["cores"]) >= 1
    assert "gpu" not in found
    told = " ".join(found.values())
    assert socket.gethostname() not in told.split()
    assert str(Path.home()) not in told
    assert "/" not in found.get("commit", "")
    assert environment("cpu") == found, "the same twice"


def test_the_processor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "_CPUINFO", file)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert "processor" not in environment("cpu")
    file.write_text("processor\t: 0\nmodel name\t: Xeon 9 @ 2 GHz\nprocessor\t: 1\nmodel name\t: Xeon 9 @ 2 GHz\n")
    assert environment("cpu")["processor"] == "Xeon 9 @ 2 GHz"
    file.write_text("processor\t: 0\nBogoMIPS\t: 243.75\n")
    assert "processor" not in environment("cpu"), "an ARM machine does not say it there"


def test_gpus_are_named_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "A" if i else "B")
    assert environment("cuda")["gpu"] == "B, 2 x A"
    assert "gpu" not in environment("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu" not in environment("cuda")


def test_the_commit_is_that_of_the_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    package, inside = tmp_path / "src" / "pns", tmp_path / ".venv" / "pns"
    for folder in (package, inside):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    assert commit_of(package) is None, "no checkout"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "src")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "notes").touch()
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(package) == commit
    assert commit_of(inside) is None, "installed inside another project's checkout"
    (package / "__init__.py").write_text("x = 1\n")
    assert commit_of(package) == f"{commit}, with changes"
    monkeypatch.setenv("PATH", "")
    assert commit_of(package) is None, "no git"
