"""`pns join`: another machine takes part in each training of a run once, and leaves with the driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pns import elsewhere, launch
from pns.cli import app
from pns.errors import UserError
from pns.launch import STARTER, Files
from pns.run import Run

CONFIG = Path(__file__).parents[2] / "recipes" / "accelerate" / "two_nodes.yaml"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for module, name, seconds in ((elsewhere, "LOOK", 0.02), (elsewhere, "SILENCE", 0.5), (launch, "BEAT", 0.05)):
        monkeypatch.setattr(module, name, seconds)
    return Run.create(tmp_path / "run", "fail")


@pytest.fixture
def parts(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be started; a stand-in writes down who started it, and stays for the seconds that its job names."""
    asked: list[tuple[Any, ...]] = []

    def words(job: Path, *rest: Any) -> list[str]:
        asked.append((job, *rest))
        told = json.loads(job.read_text(encoding="utf-8"))
        script = f"import os, time; open({str(job) + '.by'!r}, 'w').write(os.environ['{STARTER}']); time.sleep({told['stay']})"
        return [sys.executable, "-S", "-c", script]

    monkeypatch.setattr(elsewhere, "command", words)
    return asked


@pytest.fixture
def joined(run: Run, parts: list[Any]) -> Iterator[tuple[threading.Thread, list[str]]]:
    said: list[str] = []
    thread = threading.Thread(target=elsewhere.join, args=(run.folder, CONFIG, 1, said.append), daemon=True)
    thread.start()
    yield thread, said
    thread.join(20)
    assert not thread.is_alive(), "it leaves with the driver"


def job(run: Run, name: str, stay: float) -> Files:
    files = Files.of(run.folder / "logs" / f"{name}.log")
    told = {"recipe": {"runtime": {"processes": 16, "device": "cuda"}}, "stay": stay}
    files.job.write_text(json.dumps(told), encoding="utf-8")
    return files


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def test_each_training_is_taken_part_in_once(run: Run, parts: list[Any], joined: tuple[Any, list[str]]) -> None:
    with run.lock():
        for name in ("sft", "generator"):
            files = job(run, name, stay=0)
            with launch._beating(files.beat, ["there", 1, 2.0] if name == "sft" else ["there", 2, 3.0]):
                until(partial(joined[1].__contains__, f"{name}: done"))
                time.sleep(0.3)  # the first process publishes, and the beat goes on
            assert not files.beat.exists()
    assert [(p[0].name, *p[1:]) for p in parts] == [
        ("sft.job.json", CONFIG, 16, "cuda", 1), ("generator.job.json", CONFIG, 16, "cuda", 1),
    ]  # fmt: skip
    pid, _ = json.loads((run.folder / "logs" / "sft.job.json.by").read_text(encoding="utf-8"))
    assert pid == os.getpid(), "processes end with the one that started them"


def test_processes_end_with_a_driver_that_is_killed(run: Run, parts: list[Any], joined: tuple[Any, list[str]]) -> None:
    files = job(run, "sft", stay=600)
    with run.lock():
        with launch._beating(files.beat, ["there", 1, 2.0]):
            until(lambda: parts)
            left = files.beat.read_text(encoding="utf-8")
        files.beat.write_text(left, encoding="utf-8")  # as a kill leaves it
        until(lambda: joined[1] == ["sft: ended, for its driver is gone"])
        job(run, "sft", stay=0)  # the run is gone on with
        with launch._beating(files.beat, ["there", 3, 4.0]):
            until(lambda: joined[1][1:] == ["sft: done"])
    assert len(parts) == 2


def test_what_a_killed_driver_has_left_is_no_training(run: Run) -> None:
    path = run.folder / "logs" / "sft.beat.json"
    path.write_text('{"parent": ["there", 1, 2.0], "beat": 7}', encoding="utf-8")
    beat = elsewhere.Beat(path)
    assert beat.training() is None
    path.write_text('{"parent": ["there", 1, 2.0], "beat": 8}', encoding="utf-8")
    assert beat.training() == ["there", 1, 2.0]
    path.write_text("{", encoding="utf-8")
    assert beat.training() == ["there", 1, 2.0], "half a file is no sign of anything"
    time.sleep(0.6)
    assert beat.training() is None


def test_a_run_says_when_its_driver_has_left_it(run: Run) -> None:
    lock = run.folder / "lock"
    assert not elsewhere._held(lock)
    with run.lock():
        assert elsewhere._held(lock)
    assert not elsewhere._held(lock)


def test_a_further_machine_is_told_its_rank() -> None:
    words = launch.command(Path("x.job.json"), CONFIG, 16, "cuda", 1)
    assert words[words.index("--machine_rank") + 1] == "1"
    assert "--machine_rank" not in launch.command(Path("x.job.json"), CONFIG, 16, "cuda")


def test_launched_processes_leave_with_their_starter(tmp_path: Path) -> None:
    """Also where the driver is on another machine."""
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    path = tmp_path / "job.json"
    path.write_text(
        json.dumps({"parent": ["elsewhere", 1, 1.0], "outcome": "o", "lock": str(tmp_path / "l")}), encoding="utf-8"
    )
    code = "import sys, time; from pathlib import Path; from pns import launched\n"
    code += "launched._work = lambda job: time.sleep(600); launched.run(Path(sys.argv[1]))"
    environment = {**os.environ, STARTER: json.dumps([gone.pid, 1.0])}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False, timeout=300)
    assert done.returncode == 1


@pytest.mark.parametrize("rank", [2, 7])
def test_a_machine_that_the_configuration_does_not_have_is_refused(rank: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 machines"):
        elsewhere.check_rank(CONFIG, rank)
    done = CliRunner().invoke(app, ["join", str(tmp_path / "none"), "--launcher-config", str(CONFIG)])
    assert done.exit_code == 2
    assert "no such run" in done.output
