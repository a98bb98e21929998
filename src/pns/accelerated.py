"""accelerate's configuration, and how it would have processes train that another launcher starts. (Interface: accelerate's.)"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml

from pns.errors import UserError

MAIN_PORT = 29500
"""Where the first of several processes listens, unless a configuration says another (accelerate 1.15, torch 2.13)."""

_SEVERAL = ("MULTI_", "FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA")
"""Beginnings of each `distributed_type` by which accelerate's launcher starts several processes, but for MULTI_CPU."""

_HOW_TO_TRAIN = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
"""Beginnings of accelerate's variables, without those of rendezvous, devices and threads, which are the launcher's own."""


_OWN = Path(__file__).with_name("launcher_configs")


def own_configuration(processes: int) -> Path:
    """What accelerate's launcher is given where the user names no configuration: DDP, or one process.

    Without one it reads the user's default (`accelerate config` writes it), under which a training may be FSDP's.
    """
    return _OWN / ("one.yaml" if processes == 1 else "several.yaml")


def configuration(path: Path | None) -> dict[str, Any]:
    """A configuration file of accelerate, YAML or JSON; empty where there is none. Raises UserError where it cannot be read."""
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"no configuration of accelerate ({type(error).__name__})", file=path, remedy="see recipes/accelerate"
        ) from None
    return found if isinstance(found, dict) else {}


def machines(path: Path | None) -> int:
    """How many machines a configuration is for, 1 or more. Raises UserError as `configuration`, and for no such number."""
    found = configuration(path).get("num_machines") or 1
    if type(found) is not int or found < 1:
        raise UserError(
            "is no whole number above 0", file=path, field="num_machines", remedy="see recipes/accelerate"
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Meeting:
    """Where the processes of several machines meet: at the first machine's address."""

    machines: int
    address: str
    port: int


def meeting(path: Path, processes: int) -> Meeting:
    """How the CPU processes of several machines meet, by a configuration of accelerate.

    Accelerate's own launcher starts several CPU processes by MPI alone, so that this is read for torch's.

    Args:
        processes: of all machines.
    Raises UserError: it is for one machine or for GPUs, names no address or no port, or the processes cannot be divided.
    """
    found, count, kind = configuration(path), machines(path), _kind(path)
    if count == 1 or kind != "MULTI_CPU":
        what = "of one machine" if count == 1 else f"with distributed_type {kind}"
        raise UserError(
            f"nothing reads a configuration {what} on a CPU: each process holds a whole model", file=path,
            field="--launcher-config", remedy="leave it out, set runtime.device=cuda, or see recipes/accelerate/two_cpus.yaml",
        )  # fmt: skip
    address, port = found.get("main_process_ip"), found.get("main_process_port", MAIN_PORT)
    if not isinstance(address, str) or not address:
        raise UserError("names no first machine", file=path, field="main_process_ip", remedy="set its address")
    if type(port) is not int or not 0 < port < 2**16:
        raise UserError("is no port", file=path, field="main_process_port", remedy=f"set one, such as {MAIN_PORT}")
    _check_machines(path, processes)
    return Meeting(count, address, port)


def check_starts(path: Path, processes: int, *, on_gpus: bool) -> None:
    """Raises UserError for a configuration by which accelerate's launcher starts another number of processes. Its own
    `num_processes` is no matter: the command line says it.
    """
    kind = _kind(path)
    _check_machines(path, processes)
    if on_gpus and processes > 1 and (kind == "MULTI_CPU" or not kind.startswith(_SEVERAL)):
        raise UserError(
            f"{kind} starts one process, and there are to be {processes}", file=path, field="distributed_type",
            remedy="set runtime.processes=1, leave the configuration out (DDP), or see recipes/accelerate",
        )  # fmt: skip


def _check_machines(path: Path, processes: int) -> None:
    """Each machine starts as many processes as the others."""
    count = machines(path)
    if processes % count:
        raise UserError(
            f"{processes} processes cannot be divided among {count} machines", file=path,
            field="num_machines", remedy="set runtime.processes to a multiple of it",
        )  # fmt: skip


def _kind(path: Path | None) -> str:
    """The `distributed_type` of a configuration, in capitals. NO without quotes is false to YAML."""
    found = configuration(path).get("distributed_type")
    return "NO" if found is False else str(found).upper()


def divides(path: Path | None) -> bool:
    """Whether a configuration gives each process a part of the weights alone, as far as the file says (FSDP, ZeRO-3); under
    ZeRO-1 and -2 each has a whole model.
    """
    kind, deepspeed = _kind(path), configuration(path).get("deepspeed_config")
    zero = deepspeed.get("zero_stage") if isinstance(deepspeed, dict) else None
    return kind == "FSDP" or (kind == "DEEPSPEED" and str(zero) == "3")


Divided = Literal["everything", "state", "optimizer", "nothing"]
"""Of a training among processes: weights, gradients and optimizer states; without the weights; these states alone; none."""

_ZERO: dict[str, Divided] = {"3": "everything", "2": "state", "1": "optimizer"}
_SIZES = ("dp_replicate", "dp_shard", "tp", "cp", "sp")


def parallelism(path: Path | None, processes: int) -> dict[str, int]:
    """The sizes of a configuration's `parallelism_config` by name, each 1 where it says none; empty where there is none.

    Raises UserError where they are no whole numbers, or their product is not `processes`: accelerate refuses that in each
    process, behind the loading of all models.
    """
    told = configuration(path).get("parallelism_config")
    if not isinstance(told, dict) or not told:
        return {}
    sizes = {name: told.get(f"parallelism_config_{name}_size", 1) for name in _SIZES}
    if any(type(size) is not int or size < 1 for size in sizes.values()):
        raise UserError("a size is no whole number above 0", file=path, field="parallelism_config")
    # DeepSpeed divides sequences by itself; sizes of 1 alone say nothing.
    by_deepspeed = sizes["sp"] > 1 and told.get("parallelism_config_sp_backend") == "deepspeed"
    if prod(sizes.values()) not in (1, processes) and not by_deepspeed:
        said = " x ".join(f"{name}_size {size}" for name, size in sizes.items() if size > 1)
        raise UserError(
            f"{said} is {prod(sizes.values())}, and there are {processes} processes", file=path, field="parallelism_config",
            remedy="set runtime.processes to the product, or change the sizes",
        )  # fmt: skip
    return sizes


def division(path: Path | None, processes: int) -> tuple[Divided, int]:
    """What of a training's state is divided, and among how many processes; ("nothing", 1) without a configuration (DDP).

    Of DeepSpeed its `zero_stage` is read, not a `deepspeed_config_file`, for which all counts as undivided.
    Raises UserError as `parallelism` and `machines`.
    """
    found, sizes = configuration(path), parallelism(path, processes)
    kind, among = _kind(path), sizes.get("dp_shard", 1)
    what: Divided = "nothing"
    if kind == "FSDP":
        what, whole_machine = _fsdp(found.get("fsdp_config"))
        if max(sizes.values(), default=1) == 1:
            among = -(-processes // machines(path)) if whole_machine else processes
    elif kind == "DEEPSPEED":
        told = found.get("deepspeed_config")
        if isinstance(told, dict) and "deepspeed_config_file" not in told:
            what = _ZERO.get(str(told.get("zero_stage", 2)), "nothing")
        among = processes
    return ("nothing", 1) if among == 1 or what == "nothing" else (what, among)


def _fsdp(told: Any) -> tuple[Divided, bool]:
    """What FSDP divides, and whether among the processes of a machine alone; all among all, unless it says otherwise."""
    options = told if isinstance(told, dict) else {}
    # Version 1 has words, or their numbers, under two names; version 2 a truth value.
    said = (options.get("fsdp_sharding_strategy"), options.get("fsdp_reshard_after_forward"))
    words = {word for word in said if isinstance(word, str | int)}
    if words & {"NO_SHARD", 3}:
        return "nothing", False
    return (
        "state" if False in words or words & {"SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2", 2, 5} else "everything",
        bool(words & {"HYBRID_SHARD", "HYBRID_SHARD_ZERO2", 4, 5}),
    )


def no_copy(sampler: str) -> UserError:
    """The refusal of a `runtime.sampler` that copies weights which no process has whole."""
    return UserError(
        f"{sampler} needs a whole model in each process, and FSDP or ZeRO-3 divides it", field="runtime.sampler",
        remedy="leave it out, or sample with runtime.vllm",
    )  # fmt: skip


def training_variables(config: Path, processes: int) -> dict[str, str]:
    """The variables by which accelerate's launcher tells processes of FSDP, DeepSpeed, sharding and precision.

    They are made by accelerate's own parser and functions. Its machines, ports and devices are left out.

    Args:
        config: a configuration file of accelerate.
        processes: of the training, in place of the file's.
    Raises UserError where accelerate cannot use the file.
    """
    from accelerate.commands import launch

    # One machine and a free port: accelerate asks whether the port is free, though here nothing listens at it.
    words = ["--config_file", str(config), "--num_processes", str(processes), "--num_machines", "1"]
    words += ["--main_process_port", "0", "-m", "pns.launched"]
    try:
        args, told, precision_is_told = launch._validate_launch_command(
            launch.launch_command_parser().parse_args(words)
        )
        if args.use_deepspeed:
            fields = [*told.deepspeed_config, *(["mixed_precision"] if precision_is_told else [])]
            args.deepspeed_fields_from_accelerate_config = ",".join(fields)
            found = launch.prepare_deepspeed_cmd_env(args)[1]
        elif args.use_fsdp or args.multi_gpu:
            found = launch.prepare_multi_gpu_env(args)
        else:
            found = launch.prepare_simple_launcher_cmd_env(args)[1]
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(
            f"accelerate cannot use it ({error})", file=config, field="--launcher-config",
            remedy="see recipes/accelerate, or `accelerate config`",
        ) from None  # fmt: skip
    return {name: value for name, value in found.items() if name.startswith(_HOW_TO_TRAIN)}
