"""Which stages need a GPU of this machine; and side by side on one with several, each gets its own."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from helpers.study import SMALL
from pns import gpus, pipeline, scheduler, worker
from pns.cli import app
from pns.errors import UserError
from pns.launch import Launcher
from pns.recipe import Recipe
from pns.recipe_files import load_recipe
from pns.run import Run
from pns.scheduler import Task, run_tasks
from pns.study.graph import nodes_of

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


EVERYWHERE = ("engine.ray_workers=2", "engine.ray_readers=2")
"""Of Ray's cluster: whatever samples, and whatever reads."""
OWN = "reward.reward_model={kind: transformers, path: x, device: cuda, calibration: y}"
METHODS = "negatives.methods=[rejection, prefix, pns]"


@pytest.mark.parametrize(
    ("settings", "launcher", "stage", "key"),
    [
        ((CUDA,), None, "sft", "runtime.device"),
        ((CUDA,), "accelerate", "sft", "runtime.device"),
        ((CUDA,), "ray", "sft", None),
        ((CUDA,), None, "problems", None),
        ((CUDA,), None, "pairs", None),
        ((CUDA,), None, "report", None),
        ((CUDA,), None, "start", None),  # from scratch it is built on the CPU
        ((CUDA, "model={kind: pretrained, path: x}"), "ray", "start", "runtime.device"),
        ((CUDA, "generator.base={path: x}"), "ray", "start-generator", "runtime.device"),
        ((CUDA,), "ray", "rollouts-pairs", "runtime.device"),
        ((CUDA, EVERYWHERE[0]), "ray", "rollouts-pairs", "runtime.device"),  # it reads
        ((CUDA, EVERYWHERE[0]), "ray", "rollouts-reward", None),  # it reads nothing
        ((CUDA, EVERYWHERE[0]), "ray", "evaluate-policy", None),
        ((CUDA, EVERYWHERE[1]), "ray", "evaluate-policy", "runtime.device"),  # it draws
        ((CUDA, "engine={kind: server, server: {urls: ['http://a/v1']}}"), "ray", "evaluate-policy", None),
        ((CUDA, "engine={kind: server, server: {urls: ['http://a/v1']}}"), "ray", "samples-pns", "runtime.device"),
        ((CUDA, *EVERYWHERE), "ray", "samples-pns", None),
        ((CUDA, *EVERYWHERE), "ray", "audit", None),
        ((CUDA, *EVERYWHERE), None, "samples-pns", None),
        ((CUDA, *EVERYWHERE), None, "generator", "runtime.device"),
        ((CUDA, METHODS, *EVERYWHERE), "ray", "negatives-prefix", "runtime.device"),  # one engine draws them
        ((CUDA, OWN.replace("cuda", "cpu")), "ray", "negatives-rejection", None),
        ((OWN,), None, "negatives-rejection", "reward.reward_model.device"),
        ((OWN,), None, "generator", "reward.reward_model.device"),
        ((OWN,), None, "sft", None),
        ((OWN, "engine.ray_readers=2"), None, "negatives-rejection", "reward.reward_model.device"),  # these have none
        ((CUDA, OWN, *EVERYWHERE), "ray", "negatives-rejection", None),
        ((), None, "sft", None),
    ],
)  # fmt: skip
def test_which_stages_compute_on_a_gpu_of_this_machine(
    settings: tuple[str, ...], launcher: Any, stage: str, key: str | None
) -> None:
    told = recipe(*settings)
    by = None if launcher is None else Launcher(launcher)
    assert gpus.key_here(pipeline.stages(told)[stage], told, by) == key


def test_stages_of_a_study_that_a_run_has_not_are_known() -> None:
    told, ray = recipe(CUDA, *EVERYWHERE), Launcher("ray")
    found = {name for name, stage in nodes_of(told).items() if gpus.key_here(stage, told, ray)}
    assert found == {f"step_verifier-{method}" for method in told.negatives.methods}, "a launcher starts none of them"


def test_what_ray_places_everywhere_needs_no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "seen", lambda: 0)
    told = recipe(CUDA, *EVERYWHERE)
    gpus.check_here(((stage, told) for stage in pipeline.stages(told).values()), Launcher("ray"))
    with pytest.raises(UserError, match="sft and 14 more stages compute on a GPU of this machine, and torch sees none"):
        gpus.check_here(((stage, told) for stage in pipeline.stages(told).values()), None)


def _told(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_without_a_gpu_nothing_that_computes_on_one_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "seen", lambda: 0)
    study = {**SMALL, "set": {"runtime.device": "cuda"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    for words in (
        ("run", str(SMOKE), CUDA, "--until", "sft"),
        ("run", str(SMOKE), CUDA, "--launcher", "accelerate"),
        ("iterate", str(SMOKE), CUDA),
        ("study", "study.yaml"),
    ):
        code, said = _told(*words)
        assert code == 2, said
        assert "error: runtime.device: sft" in said
        assert "torch sees none\n  -> set runtime.device=cpu, or run it on a machine with a GPU" in said
        assert not (tmp_path / "runs").exists()


def test_what_is_done_needs_no_gpu_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "seen", lambda: 0)
    told = recipe(CUDA)
    nodes = pipeline.stages(told)
    tasks = {name: Task(nodes[name], told, name, name, {}) for name in ("sft", "rlvr")}
    run, done = Run.create(tmp_path / "run", "fail"), {name: dict[str, Any]() for name in tasks}
    display = SimpleNamespace(begin=lambda **_: None)
    run_tasks(tasks, tasks, done, run, display, jobs=1)  # type: ignore[arg-type]
    del done["rlvr"]
    with pytest.raises(UserError, match="rlvr computes on a GPU of this machine"):
        run_tasks(tasks, tasks, done, run, display, jobs=1)  # type: ignore[arg-type]


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
