"""Kill -9 at a random point, run the same command again: the same bytes as without the kill."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e]
TRIES = 4
# Keys of results.json that say when and how fast, and nothing else.
TIMES = ("created", "seconds", "total_seconds", "wall_seconds")

# One of each kind: a trainer's checkpoints, shards with scores. That every trainer resumes exactly is tested without a
# process of its own (integration/test_training.py).
STAGES = [
    ("generator", "runtime.checkpoint_every=2"),
    ("samples-pns", "runtime.checkpoint_every=1"),
]


def durable(work: Path) -> list[Path]:
    """What an unfinished stage has put down so far: complete checkpoints, or shards."""
    return [*work.glob("checkpoints/*/COMPLETE"), *work.glob("shards/**/*.jsonl")]


def wait_until(true: Callable[[], bool], process: Popen[str]) -> bool:
    """Whether it became true while the process ran."""
    limit = time.monotonic() + 120
    while process.poll() is None:
        if true():
            return True
        assert time.monotonic() < limit, "nothing happened for two minutes"
        time.sleep(0.005)
    return False


def midway(pns: Any, own: Any, stage: str, command: tuple[str | Path, ...]) -> Popen[str]:
    """A command that does a stage anew, as soon as something of it is on disk."""
    work = own.run.work(own.label(stage))
    shutil.rmtree(own.run.published(own.label(stage)))
    process: Popen[str] = pns.start(*command)
    assert wait_until(lambda: bool(durable(work)), process)
    return process


def kill(process: Popen[str]) -> None:
    """SIGKILL for the driver alone; its workers have to notice."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, "workers outlived their driver"


@pytest.mark.parametrize(("stage", "often"), STAGES, ids=[name for name, _ in STAGES])
@pytest.mark.xdist_group("e2e")
def test_a_killed_stage_goes_on_to_the_same_bytes(
    pns: Any, here: Any, smoke: Any, own: Any, smoke_recipe: Path, stage: str, often: str
) -> None:
    rng = random.Random(f"kill/{stage}")
    published, work = own.run.published(own.label(stage)), own.run.work(own.label(stage))
    command = ("stage", stage, smoke_recipe, "--run-dir", own.folder, often)
    for _ in range(TRIES):
        shutil.rmtree(published)
        process = pns.start(*command)
        pieces = rng.randint(1, 2)
        begun = wait_until(lambda: len(durable(work)) >= pieces, process)  # noqa: B023
        time.sleep(rng.uniform(0, 0.1))
        if begun and not published.exists():
            kill(process)
            break
        process.communicate()
    else:
        pytest.fail("the stage always ended before it could be killed")
    assert not published.exists()
    kept = {path: path.stat().st_mtime_ns for path in durable(work)}
    assert kept
    shown = next(line for line in here("show", own.folder).splitlines() if f" {stage} " in line)
    assert shown.count("interrupted") == 1

    here(*command)
    assert not work.exists()
    assert own.state(stage)["digest"] == smoke.state(stage)["digest"]
    for path, moment in kept.items():
        shard = published / path.relative_to(work)
        assert not shard.name.endswith(".jsonl") or shard.stat().st_mtime_ns == moment, "a durable shard was done again"


@pytest.mark.xdist_group("e2e-whole")
def test_a_killed_run_goes_on_to_the_same_results(pns: Any, smoke: Any, own: Any, smoke_recipe: Path) -> None:
    rng = random.Random("kill/whole")
    folder, command = own.folder, ("run", smoke_recipe, "--run-dir", own.folder)
    # What is dear is kept: a stage of each kind that is killed is the test above.
    left = [
        name
        for name in smoke.states()
        if name.startswith(("negatives", "pairs", "audit", "align", "evaluate", "report"))
    ]
    assert len(left) > 15
    for name in left:
        shutil.rmtree(own.run.published(own.label(name)))
    shutil.rmtree(folder / "report")
    kept = len([*folder.glob("stages/*/stage.json")])
    process = pns.start(*command)
    stages = kept + rng.randint(1, len(left) - 4)
    assert wait_until(lambda: len([*folder.glob("stages/*/stage.json")]) >= stages, process)
    time.sleep(rng.uniform(0, 2))
    kill(process)
    assert not (folder / "report" / "results.json").exists()

    output = pns(*command)
    assert "stages are done already" in output
    assert {n: s["digest"] for n, s in own.states().items()} == {n: s["digest"] for n, s in smoke.states().items()}
    assert measured(folder) == measured(smoke.folder)
    assert (folder / "report" / "index.html").is_file()


def measured(folder: Path) -> dict[str, Any]:
    """results.json without times, and without the commit, which may be another one by now."""
    results: dict[str, Any] = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))
    assert all(key in results for key in TIMES)
    results["environment"].pop("commit", None)
    return {key: value for key, value in results.items() if key not in TIMES}


@pytest.mark.xdist_group("e2e-whole")
def test_a_killed_worker_is_reported_and_gone_on_with(
    pns: Any, here: Any, smoke: Any, own: Any, smoke_recipe: Path
) -> None:
    stage = "rollouts-audit"
    command = ("stage", stage, smoke_recipe, "--run-dir", own.folder)
    process = midway(pns, own, stage, command)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.num_threads() > 1]
    max(workers, key=lambda p: p.create_time()).kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "killed, perhaps for memory" in output
    assert str(own.folder / "logs" / f"{stage}.log") in output
    here(*command)
    assert own.state(stage)["digest"] == smoke.state(stage)["digest"]


@pytest.mark.xdist_group("e2e-whole")
def test_an_interrupt_ends_cleanly_and_the_same_command_goes_on(
    pns: Any, here: Any, smoke: Any, own: Any, smoke_recipe: Path
) -> None:
    stage = "rollouts-reward"
    command = ("stage", stage, smoke_recipe, "--run-dir", own.folder)
    process = midway(pns, own, stage, command)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in output
    assert "Traceback" not in output
    assert "Warning" not in output
    here(*command)
    assert own.state(stage)["digest"] == smoke.state(stage)["digest"]
