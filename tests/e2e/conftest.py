"""The real command, in a process of its own or in this one, and one finished run that all end-to-end tests share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pns import pipeline
from pns.cli import app
from pns.recipe_files import load_recipe
from pns.run import Run

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
SRC = Path(__file__).parents[2] / "src"
SETTINGS = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}


@dataclass
class Command:
    """Runs `python -m pns` in `folder`, without network and without colours."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, *args: str | Path, env: Mapping[str, str] | None = None, on: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """A running command, behind the words of `on`; its standard error goes with its output."""
        paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = {"PYTHONPATH": os.pathsep.join(paths), **SETTINGS, **(env or {})}
        process = subprocess.Popen(
            [*on, sys.executable, "-m", "pns", *map(str, args)],
            cwd=self.folder,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *args: str | Path, code: int = 0, timeout: float = 400, **more: Any) -> str:
        """The output of a command that ends with `code`."""
        process = self.start(*args, **more)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, output
        return output


@dataclass(frozen=True)
class Here:
    """Runs a command in this process and `folder`: the same code, but the libraries of workers are imported once for all."""

    folder: Path

    def __call__(self, *args: str | Path, code: int = 0, env: Mapping[str, str] | None = None) -> str:
        """The output of a command that ends with `code`."""
        done = CliRunner().invoke(app, [*map(str, args)], env=env)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output


@dataclass(frozen=True)
class Micro:
    """A finished run of smoke.yaml, or a copy of one."""

    folder: Path
    output: str = ""

    @property
    def run(self) -> Run:
        """As the library sees it."""
        return Run.open(self.folder)

    def label(self, stage: str) -> str:
        """The stage's folder name."""
        return pipeline.labels(pipeline.stages(load_recipe(SMOKE)[0]))[stage]

    def state(self, stage: str) -> dict[str, Any]:
        """stage.json of a published stage."""
        found = self.run.state(self.label(stage))
        assert found is not None, f"{stage} is not published"
        return found

    def states(self) -> dict[str, dict[str, Any]]:
        """stage.json of every stage of smoke.yaml."""
        return {name: self.state(name) for name in pipeline.stages(load_recipe(SMOKE)[0])}

    def copy(self, folder: Path) -> Micro:
        """A run of its own with the same results."""
        shutil.copytree(self.folder, folder)
        return Micro(folder, self.output)


@pytest.fixture
def pns(tmp_path: Path) -> Iterator[Command]:
    """The command, run in a folder of its own; what is still running at the end of the test is ended."""
    command = Command(tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command in this process, for what needs no process of its own."""
    monkeypatch.chdir(tmp_path)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    return Here(tmp_path)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Micro:
    """The finished run of smoke.yaml, made once, by whichever test process comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, said = shared / "smoke" / "run", shared / "smoke" / "output"
    folder.parent.mkdir(exist_ok=True)
    with (shared / "smoke" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.is_file():
            output = Command(shared)("run", SMOKE, "--run-dir", folder)
            said.write_text(output, encoding="utf-8")
    return Micro(folder, said.read_text(encoding="utf-8"))


@pytest.fixture
def own(smoke: Micro, tmp_path: Path) -> Micro:
    """A copy of the finished run that a test may change."""
    return smoke.copy(tmp_path / "run")


@pytest.fixture
def smoke_recipe() -> Path:
    """The recipe of the shared run."""
    return SMOKE
