"""The stages as the pipeline names them, and what a worker says when something goes wrong."""

from __future__ import annotations

import errno
import importlib
import inspect
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

import pns.worker
from pns import pipeline
from pns.errors import StageStopped, UserError
from pns.pipeline import Stage
from pns.recipe_files import load_recipe
from pns.worker import Job, work

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"


def test_every_stage_is_a_function_that_takes_its_arguments() -> None:
    for stage in pipeline.stages(load_recipe(SMOKE)[0]).values():
        module, _, name = stage.call.partition(":")
        function = getattr(importlib.import_module(f"pns.stages.{module}"), name)
        inspect.signature(function).bind(None, *stage.args)
        assert function.__doc__, stage.call


def chained(cause: Exception) -> Exception:
    """An error that a library raised while it handled another one."""
    try:
        try:
            raise cause
        except Exception:
            raise RuntimeError("cannot save") from None
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),  # as safetensors says it
        (chained(OSError(errno.ENOSPC, "x")), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ValueError("x"), False),
    ],
)
def test_a_full_disk_is_recognised_behind_other_errors(error: Exception, full: bool) -> None:
    assert pns.worker._out_of_space(error) == full


def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: Callable[..., Any]) -> tuple[str, Any]:
    """What a worker tells its driver when its stage's function is `function`."""
    recipe, _ = load_recipe(SMOKE)
    stage = Stage("sft", "policy:sft", (), ())
    job = Job(stage, recipe, tmp_path, {}, tmp_path / "log", tmp_path / "lock", 1)
    monkeypatch.setattr(pns.worker, "call", function)
    # The worker owns its process: here the test's output and signals stay what they are.
    monkeypatch.setattr(pns.worker.os, "dup2", lambda *_: None)
    monkeypatch.setattr(pns.worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(pns.worker.sys, "stdout", pns.worker.sys.stdout)
    monkeypatch.setattr(pns.worker.sys, "stderr", pns.worker.sys.stderr)
    ours, theirs = Pipe(duplex=False)
    work(job, theirs)
    message: tuple[str, Any] = ours.recv()
    return message


def raises(error: Exception) -> Callable[..., None]:
    def function(*_: Any) -> None:
        raise error

    return function


def test_a_worker_says_how_its_stage_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind, value = said(monkeypatch, tmp_path, lambda *_: None)
    assert kind == "done"
    assert value["seconds"] >= 0
    assert value["peak_memory_bytes"] > 1e7
    assert said(monkeypatch, tmp_path, raises(UserError("bad", field="a.b"))) == ("user", "a.b: bad")
    assert said(monkeypatch, tmp_path, raises(StageStopped("judge down"))) == ("stopped", "judge down")
    kind, value = said(monkeypatch, tmp_path, raises(OSError(errno.ENOSPC, "No space left")))
    assert kind == "user"
    assert "the disk is full while sft was writing" in value
    kind, value = said(monkeypatch, tmp_path, raises(ZeroDivisionError("oops")))
    assert kind == "bug"
    assert "ZeroDivisionError: oops" in value
    assert (tmp_path / "log").read_text().count("--- sft") == 5
