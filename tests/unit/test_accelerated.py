"""Configurations of accelerate: its launcher understands our command line, and under Ray each worker gets what it would say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import DistributedType

from pns import launch, launched
from pns.accelerated import MAIN_PORT, Meeting, check_starts, meeting, training_variables
from pns.errors import UserError

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "ACCELERATE_MIXED_PRECISION": "bf16",
}  # fmt: skip
TWO: dict[str, Any] = {"num_machines": 2, "distributed_type": "MULTI_CPU", "main_process_ip": "a"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_GRADIENT_CLIPPING": "1.0", "ACCELERATE_MIXED_PRECISION": "bf16"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's own, with something of rendezvous in it; what a test sets is taken back."""
    monkeypatch.setattr(os, "environ", {**os.environ, "MASTER_ADDR": "here", "WORLD_SIZE": "2", "RANK": "1"})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("one_gpu", {"ACCELERATE_MIXED_PRECISION": "bf16"}),
        ("fsdp2", FSDP2),
        ("zero2", {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
        ("zero3", {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}),
    ],
)
def test_what_accelerate_says_of_a_training(name: str, wanted: dict[str, str]) -> None:
    found = training_variables(CONFIGS / f"{name}.yaml", 16)
    assert {key: found.get(key) for key in wanted} == wanted
    assert all(key.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")) for key in found), "no rendezvous"
    if name.startswith("zero"):
        assert "zero_stage" in found["ACCELERATE_CONFIG_DS_FIELDS"]
        assert found["ACCELERATE_CONFIG_DS_FIELDS"].endswith("mixed_precision")


def test_it_is_what_accelerates_launcher_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed.run
    from accelerate.commands import launch as theirs

    seen: dict[str, str] = {}
    monkeypatch.setattr(torch.distributed.run, "run", lambda args: seen.update(os.environ))
    words = ["--config_file", str(CONFIGS / "fsdp2.yaml"), "--num_processes", "4", "--main_process_port", "0", "x.py"]
    theirs.launch_command(theirs.launch_command_parser().parse_args(words))
    found = training_variables(CONFIGS / "fsdp2.yaml", 4)
    assert found == {key: value for key, value in seen.items() if key in found}
    assert not [key for key in set(seen) - set(found) if key.startswith(("ACCELERATE", "FSDP", "PARALLELISM"))]


def test_each_worker_of_ray_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train's trainer is a stand-in that runs the workers' function here."""
    torch_trainer = pytest.importorskip("ray.train.torch")
    seen: list[dict[str, str]] = []

    class Trainer:
        def __init__(self, loop: Any, *, train_loop_config: Any, scaling_config: Any, **_: Any) -> None:
            self.loop, self.config, self.workers = loop, train_loop_config, scaling_config.num_workers

        def fit(self) -> None:
            for _ in range(self.workers):
                self.loop(self.config)

    monkeypatch.setattr(torch_trainer, "TorchTrainer", Trainer)
    monkeypatch.setattr(launch, "connect", lambda *_, **__: False)
    monkeypatch.setattr(launched, "run", lambda *_, **__: seen.append(dict(os.environ)))
    starter = launch.launcher_of("ray", CONFIGS / "fsdp2.yaml")
    assert starter is not None
    assert launch._under_ray(tmp_path / "sft.job.json", starter, 2, "cuda") is None
    assert len(seen) == 2
    for found in seen:
        assert {key: found.get(key) for key in FSDP2} == FSDP2
        assert (found["MASTER_ADDR"], found["WORLD_SIZE"], found["RANK"]) == ("here", "2", "1"), "Ray Train's own"


@pytest.mark.parametrize(
    ("name", "processes", "sharding"),
    [
        ("one_gpu", 1, {}),
        ("fsdp2", 8, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}),
        ("zero2", 4, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
        ("zero3", 8, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}),
        ("two_nodes", 16, {"FSDP_VERSION": "2", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}),
    ],
)
@pytest.mark.parametrize("rank", [None, 1])
def test_accelerate_understands_our_command_line(
    name: str, processes: int, sharding: dict[str, str], rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own parser and launchers; only what they would start is left out."""
    from accelerate.commands import launch as theirs

    assert len([path for path in CONFIGS.glob("*.yaml") if path.stem != "two_cpus"]) == 5
    starts: list[tuple[Any, dict[str, str]]] = []
    monkeypatch.setattr("accelerate.utils.launch.is_port_in_use", lambda port: False)
    monkeypatch.setattr("torch.distributed.run.run", lambda args: starts.append((args, dict(os.environ))))
    # These two start a process of their own; DeepSpeed need not be installed.
    single, deepspeed = theirs.prepare_simple_launcher_cmd_env, theirs.prepare_deepspeed_cmd_env
    monkeypatch.setattr(theirs, "simple_launcher", lambda args: starts.append((args, single(args)[1])))
    monkeypatch.setattr(theirs, "deepspeed_launcher", lambda args: starts.append((args, deepspeed(args)[1])))
    words = launch.command(Path("/x/logs/sft.job.json"), CONFIGS / f"{name}.yaml", processes, "cuda", rank)
    assert words[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    theirs.launch_command(theirs.launch_command_parser().parse_args(words[3:]))
    ((args, found),) = starts
    assert (args.module, args.training_script) == (True, "pns.launched")
    assert args.training_script_args == ["/x/logs/sft.job.json"]
    assert found["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert {key: found.get(key) for key in sharding} == sharding
    if name == "two_nodes":
        assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", rank or 0)
        assert args.rdzv_endpoint == "10.0.0.1:29500"
        assert found["PARALLELISM_CONFIG_DP_SHARD_SIZE"] == "8"
    else:
        assert int(args.num_processes if name == "one_gpu" else args.nproc_per_node) == processes


OURS = """
import json, os, sys
from pathlib import Path
import torch.distributed.run
from accelerate.commands import launch as theirs
from pns import launch

for processes in (1, 2, 8):
    starts = []
    torch.distributed.run.run = lambda args: starts.append((args.nproc_per_node, dict(os.environ)))
    theirs.simple_launcher = lambda args: starts.append(("one", theirs.prepare_simple_launcher_cmd_env(args)[1]))
    words = launch.command(Path("sft.job.json"), None, processes, "cuda")
    theirs.launch_command(theirs.launch_command_parser().parse_args(words[3:]))
    ((started, found),) = starts
    sharding = sorted(key for key in found if key.startswith(("ACCELERATE_USE_F", "ACCELERATE_USE_D", "FSDP")))
    print(json.dumps([started, found["ACCELERATE_MIXED_PRECISION"], sharding]))
"""


@pytest.mark.parametrize(
    "default", ["", "distributed_type: FSDP\nmixed_precision: fp16\nnum_processes: 4\nuse_cpu: true\n"]
)
def test_without_a_configuration_there_is_ddp_whatever_the_users_default_says(default: str, tmp_path: Path) -> None:
    """On a machine without GPUs, where accelerate left to itself starts one process."""
    if default:
        (tmp_path / "accelerate").mkdir()
        (tmp_path / "accelerate" / "default_config.yaml").write_text(default, encoding="utf-8")
    known = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "FSDP", "WORLD", "RANK", "MASTER"))}
    environment = {**known, "HF_HOME": str(tmp_path), "PYTHONPATH": str(CONFIGS.parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", OURS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [["one", "no", []], ["2", "no", []], ["8", "no", []]]


@pytest.mark.parametrize("kind", [*(str(kind.value) for kind in DistributedType), False, None])
def test_what_accelerate_starts_one_process_by_is_refused_for_several(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False: YAML reads NO so, without quotes."""
    from accelerate.commands import launch as theirs

    started: list[str] = []
    for name in ("simple", "multi_gpu", "deepspeed", "tpu"):
        monkeypatch.setattr(theirs, f"{name}_launcher", lambda args, name=name: started.append(name))
    config = tmp_path / "x.yaml"
    config.write_text(json.dumps({"distributed_type": kind, "num_processes": 4}), encoding="utf-8")
    words = launch.command(Path("sft.job.json"), config, 4, "cuda")
    theirs.launch_command(theirs.launch_command_parser().parse_args(words[3:]))
    (how,) = started
    with pytest.raises(UserError, match="starts one process") if how == "simple" else nullcontext():
        check_starts(config, 4, on_gpus=True)
    config.write_text(json.dumps({"distributed_type": kind}), encoding="utf-8")
    check_starts(config, 1, on_gpus=True)


@pytest.mark.parametrize("processes", [1, 3])
def test_torch_understands_our_command_line_for_one_machine_without_gpus(processes: int) -> None:
    from torch.distributed import run

    words = launch.command(Path("/x/logs/sft.job.json"), None, processes, "cpu")
    config, _, script = run.config_from_args(run.parse_args(words[3:]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (1, 1, processes)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "localhost:0"), "a free port, found by the processes"
    assert script[-2:] == ["pns.launched", "/x/logs/sft.job.json"]


@pytest.mark.parametrize("rank", [None, 1])
def test_torch_understands_our_command_line_for_two_machines_without_gpus(rank: int | None) -> None:
    from torch.distributed import run

    words = launch.command(Path("/x/logs/sft.job.json"), CONFIGS / "two_cpus.yaml", 4, "cpu", rank)
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    config, _, script = run.config_from_args(run.parse_args(words[3:]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 2)
    assert (config.rdzv_endpoint, config.rdzv_configs["rank"]) == ("10.0.0.1:29500", rank or 0)
    assert script[-2:] == ["pns.launched", "/x/logs/sft.job.json"]


@pytest.mark.parametrize(
    ("told", "processes", "said"),
    [
        ({}, 2, "nothing reads a configuration of one machine on a CPU"),
        ({"num_machines": 2, "distributed_type": "FSDP"}, 2, "with distributed_type FSDP on a CPU"),
        ({"num_machines": 2, "distributed_type": "MULTI_CPU"}, 2, "main_process_ip: names no first machine"),
        ({**TWO, "main_process_port": 0}, 2, "main_process_port: is no port"),
        ({**TWO, "main_process_port": "x"}, 2, "main_process_port: is no port"),
        (TWO, 3, "num_machines: 3 processes cannot be divided among 2 machines"),
    ],
)
def test_machines_without_gpus_that_cannot_meet(
    told: dict[str, Any], processes: int, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        meeting(path, processes)
    path.write_text(json.dumps(TWO), encoding="utf-8")
    assert meeting(path, 4) == Meeting(2, "a", MAIN_PORT)


def test_two_machines_repeat_what_each_of_them_divides() -> None:
    from accelerate.parallelism_config import ParallelismConfig

    os.environ.update(training_variables(CONFIGS / "two_nodes.yaml", 16))
    found = ParallelismConfig()
    assert found.total_size == 16
    assert found.fsdp_dim_names == ["dp_replicate", "dp_shard_cp"]


@pytest.mark.parametrize(
    "text", ["distributed_type: SOMETHING", "no_such_key: 1\ndistributed_type: 'NO'", "a: [", "[]"]
)
def test_a_file_that_accelerate_cannot_use(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml.*accelerate cannot use it"):
        training_variables(path, 2)
