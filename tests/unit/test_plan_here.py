"""What `pns plan` looks at on the machine that it is called on: ports, programs, GPUs."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from pns.cli import app
from pns.errors import UserError
from pns.launch import Launcher
from pns.plan import here
from pns.plan.check import Check
from pns.plan.cost import Spread
from pns.plan.estimate import Setting, estimates
from pns.plan.machine import H100
from pns.plan.models import shapes_of
from pns.plan.work import assumptions
from pns.recipe_files import load_recipe

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
OWN = "reward.reward_model={kind: transformers, path: x, device: cuda, calibration: y}"
CUDA = ("runtime.device=cuda", "runtime.processes=4")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield int(held.getsockname()[1])


@pytest.fixture(autouse=True)
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


def found(*overrides: str, config: Path | None = None, kind: str | None = "accelerate") -> dict[str, Check]:
    launcher = None if kind is None else Launcher(kind, config)  # type: ignore[arg-type]
    return {c.name: c for c in here.here_checks(load_recipe(SMOKE, overrides)[0], launcher)}


def config(folder: Path, **data: object) -> Path:
    file = folder / "accelerate.yaml"
    file.write_text(json.dumps(data))
    return file


def test_the_port_of_accelerate_must_be_free(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = found(*CUDA, config=config(tmp_path, main_process_port=taken))["port: accelerate"]
    assert (told.state, str(taken) in told.detail, bool(told.remedy)) == ("failed", True, True)
    monkeypatch.setattr(here, "MAIN_PORT", taken)
    assert found(*CUDA)["port: accelerate"].state == "failed", "the default, where the configuration says none"
    assert found(*CUDA, config=config(tmp_path, main_process_port=0))["port: accelerate"].state == "ok"
    assert found(*CUDA, config=config(tmp_path, main_process_port="x"))["port: accelerate"].state == "failed"
    for other in (
        found(*CUDA, config=config(tmp_path, machine_rank=1)),
        found(*CUDA, kind="ray"),
        found(*CUDA, kind=None),
        found("runtime.device=cuda"),
        found("runtime.processes=2"),
    ):
        assert "port: accelerate" not in other


def test_a_port_that_nobody_has_is_free(tmp_path: Path, taken: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert found(*CUDA, config=config(tmp_path, main_process_port=port))["port: accelerate"].state == "ok"


def test_the_port_on_which_a_training_waits_for_its_server(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    served = ("runtime.device=cuda", "runtime.jobs=1", "runtime.vllm={mode: server, url: 'http://a'}")
    monkeypatch.setattr(here, "GROUP_PORT", taken)
    assert found(*served, kind=None)["port: GRPO's vLLM"].state == "failed"
    assert "port: GRPO's vLLM" not in found("runtime.device=cuda", "runtime.vllm={mode: colocate}", kind=None)


@pytest.mark.parametrize(
    ("start", "state"),
    [
        (f"[{sys.executable}, '{{model}}', '{{port}}']", "ok"),
        ("[no-such-program, '{model}', '{port}']", "failed"),
        ("[env, 'A={replica}', no-such-program, '{model}', '{port}']", "failed"),
    ],
)
def test_the_program_of_servers_must_be_there(start: str, state: str) -> None:
    told = found(f"engine={{kind: server, server: {{start: {start}}}}}", kind=None)["program: engine.server.start"]
    assert told.state == state


def test_each_process_of_a_machine_has_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(*CUDA)["GPUs"].state == "failed"
    assert found(*CUDA, config=config(tmp_path, num_machines=2))["GPUs"].state == "ok"
    for one in (("runtime.device=cuda",), (OWN,)):
        assert found(*one, kind=None)["GPUs"].detail == "a process wants one, and torch sees 2"
    assert "GPUs" not in found(kind=None)
    assert found(*CUDA, kind="ray")["GPUs"].state == "ok", "Ray places the trainings, and a process here samples"
    everywhere = found(*CUDA, "engine.ray_workers=4", "engine.ray_readers=4", kind="ray")["GPUs"]
    assert (everywhere.state, everywhere.detail.startswith("Ray places all")) == ("unchecked", True)
    nothing = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", nothing)
    assert found(*CUDA)["GPUs"].state == "unchecked"
    none = found("runtime.device=cuda", kind=None)["GPUs"]
    assert (none.state, "a process wants one, and torch sees none" in none.detail) == ("unchecked", True)
    monkeypatch.setitem(sys.modules, "torch", None)
    missing = found("runtime.device=cuda", kind=None)["GPUs"]
    assert (missing.state, missing.detail) == ("unchecked", "torch is not installed here")


def memory(kind: str | None = "accelerate", config: Path | None = None) -> Check | None:
    recipe = load_recipe(SMOKE.with_name("paper") / "qwen2.5-7b.yaml", [])[0]
    given = Setting(shapes_of(recipe)[0], H100, Spread(8), assumptions(recipe))
    launcher = None if kind is None else Launcher(kind, config)  # type: ignore[arg-type]
    told = list(here.main_memory(recipe, estimates(recipe, given), given, launcher))
    return told[0] if told else None


def test_each_process_loads_whole_models_into_main_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "memory_here", lambda: 300e9)
    two = config(tmp_path, num_machines=2)
    found, halved, placed = memory(), memory(config=two), memory("ray")
    assert found is not None
    # What DPO trains and its reference, in float32: 2 x 4 x 7.6e9 bytes.
    assert (found.state, "61 GB for each process, 490 GB for 8, and there are 300 GB" in found.detail) == (
        "failed",
        True,
    )
    assert halved is not None
    assert (halved.state, "240 GB for 4" in halved.detail) == ("ok", True)
    assert placed is not None
    assert (placed.state, "61 GB" in placed.detail) == ("unchecked", True)
    nothing = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", nothing)
    elsewhere = memory()
    assert elsewhere is not None
    assert elsewhere.state == "unchecked", "it is another machine that has the GPUs"
    assert memory(None) is None


def test_what_the_launcher_cannot_do_is_said(tmp_path: Path) -> None:
    assert found(config=config(tmp_path))["launcher"].state == "failed", "nothing reads it on a CPU"
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(UserError, match="no configuration of accelerate"):
        found(*CUDA, config=bad)


def test_the_command_takes_a_launcher(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = config(tmp_path, main_process_port=taken)
    told = [
        "plan",
        str(SMOKE),
        *CUDA,
        "--offline",
        "--json",
        "--launcher",
        "accelerate",
        "--launcher-config",
        str(file),
    ]
    result = CliRunner().invoke(app, told)
    states = {c["name"]: c["state"] for c in json.loads(result.output)["checks"]}
    assert (result.exit_code, states["port: accelerate"], states["GPUs"]) == (2, "failed", "failed")
    lost = CliRunner().invoke(app, [*told[:2], "--launcher", "accelerate", "--launcher-config", "none.yaml"])
    assert (lost.exit_code, "no such file" in lost.output) == (2, True)
