"""Stages side by side on a machine with several GPUs each get one of their own."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from pns import gpus, pipeline, scheduler, worker
from pns.launch import Launcher
from pns.recipe import Recipe
from pns.recipe_files import load_recipe
from pns.run import Run
from pns.scheduler import Task, run_tasks

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
CUDA = "runtime.device=cuda"


def recipe(*settings: str) -> Recipe:
    return load_recipe(SMOKE, settings)[0]


def test_the_gpus_that_the_user_lets_it_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "3, GPU-5,")
    assert gpus.visible() == ["3", "GPU-5"]
    monkeypatch.setenv(gpus.VISIBLE, "")
    assert gpus.visible() == []
    monkeypatch.delenv(gpus.VISIBLE)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert gpus.visible() == ["0", "1", "2"]


def test_the_one_that_the_fewest_have() -> None:
    assert gpus.least_used(["0", "1"], []) == "0"
    assert gpus.least_used(["0", "1"], ["0", None]) == "1"
    assert gpus.least_used(["0", "1"], ["1", "0"]) == "0"
    assert gpus.least_used(["0"], ["0"]) is None
    assert gpus.least_used([], []) is None


@pytest.mark.parametrize(
    ("settings", "launched", "one"),
    [
        ((), False, True),
        ((), True, False),
        (("runtime.device=cpu",), False, False),
        (("engine.ray_workers=2",), False, False),
        (("engine.ray_readers=2",), False, False),
        (("engine={kind: vllm, vllm: {tensor_parallel: 2}}",), False, False),
        (("engine={kind: vllm}",), False, True),
        (("engine={kind: server, server: {start: [x, '{model}', '{port}']}}",), False, False),
        (("engine={kind: server, server: {urls: ['http://a/v1']}}",), False, True),
        (("reward.reward_model={kind: transformers, path: x, device: cuda, calibration: y}",), False, True),
    ],
)
def test_who_computes_on_one(settings: tuple[str, ...], launched: bool, one: bool) -> None:
    assert gpus.takes_one(recipe(CUDA, *settings), launched=launched) == one


def active(gpu: str | None) -> Any:
    return scheduler._Active(None, None, 0.0, {}, gpu)


def test_a_launched_training_sees_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    two = recipe(CUDA, "runtime.processes=2")
    stages = pipeline.stages(two)
    training, sampling = (Task(stages[name], two, "", name, {}) for name in ("rlvr", "rollouts-pairs"))
    assert scheduler._own_gpu(training, Launcher("accelerate"), []) is None
    assert scheduler._own_gpu(sampling, Launcher("accelerate"), [active("0")]) == "1"
    assert scheduler._own_gpu(training, None, [active("0"), active(None)]) == "1"


def _see(job: worker.Job, pipe: Any) -> None:
    """In place of a stage."""
    return {"seconds": 0.0, "peak_memory_bytes": 0, "saw": os.environ.get(gpus.VISIBLE)}  # type: ignore[return-value]


@pytest.mark.parametrize(("jobs", "seen"), [(2, {"0", "1"}), (1, {"0,1"})])
def test_stages_side_by_side_see_one_each(
    jobs: int, seen: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    monkeypatch.setattr(worker, "_run", _see)
    monkeypatch.setattr(scheduler, "server", lambda: multiprocessing.get_context("fork"))
    found: list[str] = []

    def publish(run: Run, task: Task, one: Any, value: dict[str, Any]) -> dict[str, Any]:
        found.append(value["saw"])
        return {**value, "digest": "d"}

    monkeypatch.setattr(scheduler, "_publish", publish)
    run = Run.create(tmp_path / "run", "fail")
    told = recipe(CUDA)
    stage = pipeline.stages(told)["start"]
    tasks = {name: Task(stage, told, name, name, {}) for name in ("a", "b")}

    class Quiet:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    with run.lock():
        run_tasks(tasks, tasks, {}, run, Quiet(), jobs=jobs)  # type: ignore[arg-type]
    assert set(found) == seen
    assert len(found) == 2
