"""What of a training's state `pns plan` divides, by the configuration of its launcher, and what that costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pns.accelerated import division
from pns.cli import app
from pns.errors import UserError
from pns.launch import Launcher, check_launcher
from pns.pipeline import stages
from pns.plan import cost
from pns.plan.cost import Spread
from pns.plan.estimate import Setting, _awake, _shared
from pns.plan.machine import H100
from pns.plan.models import shapes_of
from pns.plan.shapes import KNOWN
from pns.plan.sharing import spread_of
from pns.plan.work import assumptions, work_of
from pns.recipe_files import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER, CONFIGS = RECIPES / "paper" / "qwen2.5-7b.yaml", RECIPES / "accelerate"
QWEN = KNOWN["Qwen/Qwen2.5-7B-Instruct"]
N = QWEN.parameters()


@pytest.mark.parametrize(
    ("name", "processes", "expected"),
    [
        (None, 8, ("nothing", 1)),
        ("one_gpu", 8, ("nothing", 1)),
        ("zero2", 8, ("state", 8)),
        ("zero3", 8, ("everything", 8)),
        ("fsdp2", 8, ("everything", 8)),
        ("fsdp2", 1, ("nothing", 1)),
        ("two_nodes", 16, ("everything", 8)),
    ],
)
def test_what_our_configurations_divide(name: str | None, processes: int, expected: tuple[str, int]) -> None:
    assert division(None if name is None else CONFIGS / f"{name}.yaml", processes) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"distributed_type": "MULTI_GPU"}, ("nothing", 1)),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "NO_SHARD"}}, ("nothing", 1)),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": 2}}, ("state", 16)),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_reshard_after_forward": False}}, ("state", 16)),
        (
            {"distributed_type": "FSDP", "num_machines": 2, "fsdp_config": {"fsdp_sharding_strategy": "HYBRID_SHARD"}},
            ("everything", 8),
        ),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1}}, ("optimizer", 16)),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 0}}, ("nothing", 1)),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "x"}}, ("nothing", 1)),
        (
            {"distributed_type": "FSDP", "parallelism_config": {"parallelism_config_dp_replicate_size": 1}},
            ("everything", 16),
        ),
    ],
)
def test_what_other_configurations_divide(told: Any, expected: tuple[str, int], tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(told))
    assert division(file, 16) == expected


@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize(
    ("told", "whole"),
    [
        ({"distributed_type": "MULTI_GPU"}, True),
        ({"distributed_type": "FSDP"}, False),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_reshard_after_forward": False}}, False),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, True),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}}, False),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": "3"}}, False),
    ],
)
def test_a_copy_is_counted_where_a_training_samples_from_one(
    told: Any, whole: bool, processes: int, tmp_path: Path
) -> None:
    """As `pns.training.sampler` has it, by what accelerate has made of the file."""
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(told))
    recipe = load_recipe(PAPER, ["runtime.vllm=null"])[0]
    spread, _ = spread_of(recipe, Launcher("accelerate", file), processes, None)
    assert spread.whole is whole
    setting = Setting(shapes_of(recipe)[0], H100, spread, assumptions(recipe))
    (rlvr,) = (work_of(node, recipe, setting.given) for node in stages(recipe).values() if node.name == "rlvr")
    assert _awake(rlvr, recipe, setting) == (2 * N if whole else 0)
    assert _shared(rlvr.samples[0], rlvr, recipe, setting) is not whole


@pytest.mark.parametrize("kind", ["accelerate", "ray"])
def test_sizes_that_do_not_give_the_processes_are_refused_before_anything_starts(kind: Any, tmp_path: Path) -> None:
    file = CONFIGS / "two_nodes.yaml"
    recipe = load_recipe(PAPER, ["runtime.processes=8"])[0]
    with pytest.raises(UserError, match="dp_replicate_size 2 x dp_shard_size 8 is 16, and there are 8 processes"):
        check_launcher(recipe, Launcher(kind, file))
    check_launcher(load_recipe(PAPER, ["runtime.processes=16"])[0], Launcher(kind, file))
    other = tmp_path / "x.yaml"
    other.write_text(json.dumps({"parallelism_config": {"parallelism_config_dp_shard_size": "8"}}))
    with pytest.raises(UserError, match="no whole number"):
        check_launcher(recipe, Launcher(kind, other))


@pytest.mark.parametrize(
    ("told", "field", "said"),
    [
        ({"num_machines": 3}, "num_machines", "8 processes cannot be divided among 3 machines"),
        ({"distributed_type": "NO"}, "distributed_type", "NO starts one process, and there are to be 8"),
    ],
)  # fmt: skip
def test_a_configuration_of_another_number_of_processes_is_refused_before_anything_starts(
    told: Any, field: str, said: str, tmp_path: Path
) -> None:
    recipe = load_recipe(PAPER, ["runtime.processes=8"])[0]
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps({"distributed_type": "FSDP", **told}))
    with pytest.raises(UserError, match=said) as caught:
        check_launcher(recipe, Launcher("accelerate", file))
    assert (caught.value.file, caught.value.field, bool(caught.value.remedy)) == (file, field, True)
    check_launcher(recipe, Launcher("ray", file))  # it reads no number, and places processes by itself
    for other in (16, 8, -1, None):  # the command line overrules it
        file.write_text(json.dumps({"distributed_type": "FSDP", "num_processes": other}))
        check_launcher(recipe, Launcher("accelerate", file))


def test_of_sixteen_bytes_zero_2_divides_fourteen_and_ddp_none() -> None:
    def state(divided: Any) -> float:
        return cost.state_bytes(QWEN, Spread(8, divided=divided), width=4)

    assert state("everything") == 16 * N / 8
    assert state("state") == 2 * N + 14 * N / 8
    assert state("optimizer") == 4 * N + 12 * N / 8
    assert state("nothing") == 16 * N
    few = cost.state_bytes(QWEN, Spread(8, divided="state"), width=4, trained=80)
    assert few == 2 * N + 14 * 80 / 8, "the base of adapters is whole"

    def reference(divided: Any) -> float:
        return cost.reference_bytes(QWEN, H100, Spread(8, divided=divided))

    assert [reference(d) for d in ("everything", "state", "nothing")] == [4 * N / 8, 2 * N, 4 * N]


def test_what_is_not_divided_is_added_up_and_what_is_on_two_nodes_goes_over_the_network() -> None:
    def step(spread: Spread) -> float:
        return cost.step_seconds(QWEN, H100, spread, rows=64, accumulation=1, length=1)

    assert step(Spread(8, divided="nothing")) - step(Spread(1)) > 4 * N / (H100.link_gbs * 1e9), "gradients of DDP"
    one, two = (step(Spread(16, 16, node=node)) for node in (16, 8))
    assert two > 3 * 2 * N * 15 / 16 / (H100.network_gbs * 1e9) > one


def test_no_machine_is_asked_for_a_launcher_and_what_is_assumed_is_said() -> None:
    recipe = load_recipe(PAPER, [])[0]
    spread, said = spread_of(recipe, None, 8, None)
    assert (spread.sharing, "assumed" in said, "fsdp2.yaml" in said) == (8, True, True)
    spread, said = spread_of(recipe, None, 64, 16)
    assert (spread.sharing, spread.nodes, "two_nodes.yaml" in said) == (16, 4, True)
    assert spread_of(recipe, None, None, None) == (Spread(1), "each device holds everything")
    spread, _ = spread_of(load_recipe(RECIPES / "smoke.yaml", [])[0], None, 8, None)
    assert spread.sharing == 1, "on a CPU"
    spread, said = spread_of(recipe, Launcher("accelerate", CONFIGS / "two_nodes.yaml"), 16, None)
    assert (spread.sharing, spread.nodes, "8 of 16 devices: so says two_nodes.yaml" in said) == (8, 2, True)
    with pytest.raises(UserError, match="its configuration says what is divided"):
        spread_of(recipe, Launcher("accelerate"), 8, 8)


def planned(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, ["plan", *arguments, "--offline", "--json"]).output)
    return found | {"checks": {c["name"]: c for c in found["checks"]}}


def test_memory_follows_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = (str(PAPER), "runtime.processes=8", "engine.ray_workers=8", "--launcher", "accelerate")
    whole = planned(*given)
    memory = whole["checks"]["memory"]
    assert (memory["state"], memory["remedy"].startswith("a configuration that divides it")) == ("failed", True)
    assert whole["state_of_trainings"]["divided"] == "nothing"
    assert whole["total"]["memory_bytes"] > 122e9
    for name, state in (("zero2", "failed"), ("zero3", "ok"), ("fsdp2", "ok")):
        found = planned(*given, "--launcher-config", str(CONFIGS / f"{name}.yaml"))
        assert found["checks"]["memory"]["state"] == state, name
        assert "launcher" not in found["checks"]
    for name, said in (
        ("two_nodes", "dp_replicate_size 2"),
        ("one_gpu", "distributed_type: NO starts one process, and there are to be 8"),
    ):
        refused = planned(*given, "--launcher-config", str(CONFIGS / f"{name}.yaml"))["checks"]["launcher"]
        assert (refused["state"], said in refused["detail"], bool(refused["remedy"])) == ("failed", True, True), name


def test_processes_that_nobody_starts_are_told_unless_a_machine_is_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    told = planned(str(PAPER), "runtime.processes=8")["checks"]["launcher"]
    assert (told["state"], "somebody to start them" in told["detail"]) == ("failed", True)
    for other in (("--gpus", "8"), ("runtime.processes=8", "--gpus", "8"), ()):
        assert "launcher" not in planned(str(PAPER), *other)["checks"]
    config = ("--launcher", "accelerate", "--launcher-config", str(CONFIGS / "two_nodes.yaml"))
    assert "launcher" not in planned(str(PAPER), "--gpus", "16", *config)["checks"], "it is asked about 16 processes"
