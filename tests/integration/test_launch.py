"""Trainings in two processes: the loss curves of one, errors that reach the driver, and processes that are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from helpers.small import save_small_model
from helpers.trainings import NAMES, train_all
from pns import launch as launching
from pns import launched
from pns.errors import StageStopped, UserError
from pns.launch import Files, Launcher, _raise, check_launcher, launch, launcher_of
from pns.parts.training import SftPart
from pns.pipeline import Stage
from pns.problems import embedded
from pns.recipe import Recipe
from pns.recipe_files import load_recipe
from pns.records import write_parquet
from pns.run import write_json
from pns.sampling.engine import load_causal
from pns.training.common import METRICS
from pns.worker import Job

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("launch")]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_small_model(tmp_path_factory.mktemp("start"))


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    return [float(row["loss"]) for row in rows if "loss" in row]


def test_two_processes_have_the_loss_curves_of_one(start: Path, tmp_path: Path) -> None:
    train_all(start, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "-m", "helpers.trainings", str(start), str(tmp_path / "two")]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in (n for n in NAMES if not n.startswith("grpo_")):
        one, two = losses(tmp_path / "one" / name), losses(tmp_path / "two" / name)
        assert len(one) == len(two) == 4, name
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5), name
        assert one[0] != one[-1], f"{name} has learned something"
    for processes in ("one", "two"):  # on a CPU a copy has the dtype of what is trained, and draws the same completions
        own, copied = (losses(tmp_path / processes / f"grpo_{how}") for how in ("trl", "copy"))
        assert copied == own
        assert len(set(own)) > 2
    assert losses(tmp_path / "one" / "grpo_trl") != losses(tmp_path / "two" / "grpo_trl"), "seeds differ by process"
    first, second = (load_causal(tmp_path / n / "sft" / "model").state_dict() for n in ("one", "two"))
    for key, value in first.items():
        assert torch.allclose(value, second[key], atol=1e-3), key


def test_processes_part_without_waiting_for_each_other_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "-m", "helpers.parting", str(tmp_path), "20"]  # fmt: skip
    # Where DDP's reducer was the last to hold the group, this stood still at the first or second time.
    with subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, start_new_session=True) as process:
        try:
            assert process.wait(timeout=120) == 0
        finally:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                child.kill()
            process.kill()


def recipe(**part_of: Any) -> Recipe:
    """The smoke recipe with two processes and a short SFT."""
    found = load_recipe(ROOT / "recipes" / "smoke.yaml", ["runtime.processes=2", "runtime.checkpoint_every=2"])[0]
    part = SftPart.model_validate({**found.sft.model_dump(), "steps": 6, "batch_size": 4, **part_of})
    return found.model_copy(update={"sft": part})


def job_of(start: Path, folder: Path, told: Recipe) -> Job:
    """The SFT stage on a tiny model."""
    (folder / "start").mkdir(parents=True)
    (folder / "start" / "model").symlink_to(start)
    (folder / "problems").mkdir()
    write_parquet(folder / "problems" / "sft.parquet", embedded.training_problems("sft", 64, 1))
    (folder / "out").mkdir()
    return Job(
        Stage("sft", "policy:sft", ("problems", "start"), ()), told, folder / "out",
        {name: folder / name for name in ("problems", "start")}, folder / "sft.log", folder / "sft.lock", 1,
    )  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return


@pytest.mark.usefixtures("environment")
def test_what_a_stage_refuses_reaches_the_driver(start: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"runtime\.processes: a batch of 3 rows cannot be divided among 2 processes \(sft\)"
    ):
        launch(job_of(start, tmp_path, recipe(batch_size=3)), Launcher("accelerate"), lambda *_: None)


@pytest.mark.usefixtures("environment")
def test_a_single_process_is_launched_too(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once waited for ever at port 0."""
    told = recipe(steps=2)
    job = job_of(start, tmp_path, told.model_copy(update={"runtime": told.runtime.model_copy(update={"processes": 1})}))
    limit = [
        sys.executable,
        "-c",
        "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:], timeout=120).returncode)",
    ]
    whole = launching.command
    monkeypatch.setattr(launching, "command", lambda *given: [*limit, *whole(*given)])
    launch(job, Launcher("accelerate"), lambda *_: None)
    assert len(losses(job.out)) > 0


@pytest.mark.usefixtures("environment")
def test_another_number_of_processes_than_the_recipes_is_refused(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results would be kept as those of two; accelerate starts one process by many a configuration."""
    monkeypatch.setattr(launching, "command", lambda job, *_: [sys.executable, "-m", "pns.launched", str(job)])
    job = job_of(start, tmp_path, recipe())
    with pytest.raises(UserError, match=r"runtime\.processes: 1 process was started, and the recipe asks for 2"):
        launch(job, Launcher("accelerate"), lambda *_: None)
    assert not list(job.out.iterdir()), "nothing was trained"


@pytest.mark.parametrize("kind", ["user", "stopped", "bug", None])
def test_an_attempt_that_was_refused_is_not_made_again(tmp_path: Path, kind: str | None) -> None:
    """Ray Train starts the processes again whatever ended them; only a lost process, or a bug, is worth it."""
    outcome = tmp_path / "outcome.json"
    if kind is not None:
        write_json(outcome, {"kind": kind, "text": "x"})
    assert launched._refused(outcome) == (kind in ("user", "stopped"))


def test_configurations_and_processes_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    two = recipe()
    with pytest.raises(UserError, match="2 processes need somebody to start them"):
        check_launcher(two, None)
    one = tmp_path / "x.yaml"
    one.write_text("num_machines: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="nothing reads a configuration of one machine on a CPU"):
        check_launcher(two, Launcher("accelerate", one))
    machines = ROOT / "recipes" / "accelerate" / "two_cpus.yaml"
    with pytest.raises(UserError, match="Ray reads no configuration of accelerate"):
        check_launcher(two, Launcher("ray", machines))
    check_launcher(two, Launcher("accelerate", machines))
    check_launcher(two, Launcher("accelerate"))


def test_where_all_trainings_meet_at_one_port(tmp_path: Path) -> None:
    def one_port(*settings: str, kind: Any = "accelerate", config: Path | None = None) -> bool:
        return Launcher(kind, config).one_port(load_recipe(ROOT / "recipes" / "smoke.yaml", settings)[0])

    free = tmp_path / "x.yaml"
    free.write_text("main_process_port: 0\n", encoding="utf-8")
    two, gpus = "runtime.processes=2", ("runtime.processes=2", "runtime.device=cuda")
    assert one_port(*gpus)
    assert one_port(two, config=ROOT / "recipes" / "accelerate" / "two_cpus.yaml")
    assert not one_port(two)
    assert not one_port("runtime.device=cuda")
    assert not one_port(*gpus, config=free)
    assert not one_port(*gpus, kind="ray")


def test_how_a_training_ended(tmp_path: Path) -> None:
    outcome, log = tmp_path / "outcome.json", tmp_path / "sft.log"
    lost = "was lost, perhaps for memory, or its machine"
    with pytest.raises(StageStopped, match=rf"{lost} \(the launcher ended with exit code 1\); its log is {log}"):
        _raise(outcome, "the launcher ended with exit code 1", log)
    write_json(outcome, {"kind": "lost", "text": "gone"})
    with pytest.raises(StageStopped, match=rf"{lost} \(gone\)"):
        _raise(outcome, "x", log)
    write_json(outcome, {"kind": "bug", "text": "ours"})
    with pytest.raises(RuntimeError, match="ours"):
        _raise(outcome, "x", log)
    write_json(outcome, {"kind": "done"})
    _raise(outcome, None, log)
    with pytest.raises(RuntimeError, match="x"):
        _raise(outcome, "x", log)


@pytest.mark.parametrize(
    ("first", "then", "kind", "said"),
    [
        (RuntimeError("[a/gloo/b.cc:5] Connection closed by peer [h]:1. Typically"), None, "lost", "Connection closed by peer [h]:1"),
        (torch.distributed.DistNetworkError("no\nwhere"), None, "lost", "no"),
        (ValueError("ours"), RuntimeError("[a/gloo/b.cc:5] Connection closed"), "bug", "ours"),
        (RuntimeError("[a/gloo/b.cc:5] Connection closed"), ValueError("ours"), "bug", "ours"),
    ],
)  # fmt: skip
def test_who_lost_touch_leaves_the_word_to_the_cause(
    first: Exception, then: Exception | None, kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, outcome = tmp_path / "job.json", tmp_path / "outcome.json"
    write_json(path, {"parent": ["elsewhere", 1, 1.0], "outcome": str(outcome), "lock": str(tmp_path / "l")})

    def fail(error: Exception) -> None:
        raise error

    for rank, error in enumerate(filter(None, (first, then))):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr(launched, "_work", lambda _, error=error: fail(error))
        with pytest.raises(type(error)):
            launched.run(path)
    found = json.loads(outcome.read_text(encoding="utf-8"))
    assert found["kind"] == kind
    assert said in found["text"]
    assert kind == "bug" or found["text"] == said


@pytest.mark.usefixtures("environment")
def test_processes_leave_with_the_worker_that_started_them(start: Path, tmp_path: Path) -> None:
    job = job_of(start, tmp_path, recipe(steps=5000, batch_size=2))
    parent = os.fork()
    if parent == 0:
        try:
            launch(job, Launcher("accelerate"), lambda *_: None)
        finally:
            os._exit(0)
    files = Files.of(job.log)
    until(lambda: files.progress.is_file(), 120)
    mine = [p for p in psutil.Process(parent).children(recursive=True) if p.is_running()]
    assert len(mine) >= 3, "the launcher and two processes"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in mine), 60)


def until(true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.2)


def test_launchers_are_checked_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher_of("none", None) is None
    with pytest.raises(UserError, match=r"without --launcher nothing reads a configuration\n  -> add --launcher"):
        launcher_of("none", tmp_path)
    with pytest.raises(UserError, match="no such file"):
        launcher_of("accelerate", tmp_path / "x.yaml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="Ray is not installed"):
        launcher_of("ray", None)
