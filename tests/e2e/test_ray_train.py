"""Reverse RL under Ray Train: two processes, one of them killed in the middle of the training."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch

from e2e.conftest import SMOKE, Micro
from pns import pipeline
from pns.launch import Launcher, launch
from pns.recipe_files import load_recipe
from pns.sampling.engine import load_causal
from pns.training.common import MARKER, METRICS
from pns.worker import Job

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
ROOT = Path(__file__).parents[2]
STEPS = 10
SPENT = ("step_time", "time", "runtime", "per_second")


def job_of(smoke: Micro, folder: Path) -> Job:
    """The generator of the shared run, trained by two processes, with a checkpoint at every other step."""
    # Fewer prompts a step than the recipe has, for a single pass over them.
    settings = [
        "runtime.processes=2",
        "runtime.checkpoint_every=2",
        f"generator.steps={STEPS}",
        "generator.prompts_per_step=4",
    ]
    told, _ = load_recipe(SMOKE, settings)
    stage = pipeline.stages(told)["generator"]
    inputs = {name: smoke.run.published(smoke.label(name)) for name in stage.needs}
    (folder / "out").mkdir(parents=True)
    return Job(stage, told, folder / "out", inputs, folder / "generator.log", folder / "generator.lock", 1)


def metrics(out: Path) -> list[dict[str, float]]:
    """What was logged, step by step, without times."""
    rows = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if not any(word in k for word in SPENT)} for row in rows]


def test_a_generator_that_loses_a_process_goes_on_from_its_last_checkpoint(
    smoke: Micro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very metrics, and the very weights, of two processes that accelerate's launcher started and nobody killed."""
    pytest.importorskip("ray")
    for name, value in (("PYTHONPATH", str(ROOT / "src")), ("OMP_NUM_THREADS", "1"), ("RAY_worker_niceness", "0")):
        monkeypatch.setenv(name, value)
    job = job_of(smoke, tmp_path / "killed")
    before: list[int] = []
    after: list[int] = []
    interrupts = {signal.getsignal(signal.SIGINT)}

    def kill_one(done: int, total: int) -> None:
        assert total == STEPS
        interrupts.add(signal.getsignal(signal.SIGINT))
        (after if before and before[-1] >= 3 else before).append(done)
        if not after and done >= 3:
            assert list(job.out.glob(f"checkpoints/*/{MARKER}"))
            mine = [p for p in psutil.Process().children(recursive=True) if "RayTrain" in " ".join(p.cmdline())]
            os.kill(mine[0].pid, signal.SIGKILL)

    launch(job, Launcher("ray"), kill_one)
    interrupts.add(signal.getsignal(signal.SIGINT))
    assert len(interrupts) == 1, "Ctrl-C stays the driver's, during the training and behind it"
    assert min(after) >= 2, "from a checkpoint, not from the beginning"
    assert after[-1] == STEPS
    assert not list(job.out.glob(f"**/{MARKER}")), "checkpoints are removed at the end"

    whole = job_of(smoke, tmp_path / "whole")
    launch(whole, Launcher("accelerate"), lambda *_: None)
    assert len({row["loss"] for row in metrics(whole.out) if "loss" in row}) == STEPS
    assert metrics(job.out) == metrics(whole.out)
    one, other = (load_causal(j.out / "model").state_dict() for j in (job, whole))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
