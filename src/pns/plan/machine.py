"""What one device of a machine does: documented defaults, or what `pns plan --calibrate` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pns.accelerated import machines
from pns.doctor.machine import memory_here
from pns.errors import UserError
from pns.faults import said
from pns.rows import not_json
from pns.run import write_json

if TYPE_CHECKING:
    from pns.launch import Launcher
    from pns.recipe import Recipe


class Machine(BaseModel):
    """Constants of one device: a GPU, or one process with one thread on a CPU.

    `matmul_tflops` is a rate that large matrix products reach, not the data sheet's peak; shares are of that rate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    source: str = Field(description="where the numbers come from, for the reader")
    width: int = Field(2, description="bytes of a number in weights, activations and cache", ge=1, le=8)
    memory_gb: float = Field(gt=0, description="of one device, 1e9 bytes")
    process_gb: float = Field(ge=0, description="of it, taken by libraries before any model, 1e9 bytes")
    matmul_tflops: float = Field(gt=0, description="1e12 operations a second in large matrix products")
    bandwidth_gbs: float = Field(gt=0, description="1e9 bytes a second from its memory")
    train_share: float = Field(gt=0, le=2, description="of matmul_tflops, in training")
    forward_share: float = Field(gt=0, le=2, description="of matmul_tflops, where texts are read (prefill, scoring)")
    decode_share: float = Field(gt=0, le=2, description="of matmul_tflops, in batches of single tokens")
    decode_bandwidth_share: float = Field(gt=0, le=2, description="of bandwidth_gbs, in decoding")
    pass_seconds: float = Field(ge=0, description="a layer, forward and backward, whatever its size: launches, Python")
    token_seconds: float = Field(ge=0, description="a layer and decoded token of a batch, whatever its size, eager")
    compiled_seconds: float = Field(
        0.00023, ge=0, description="the same through torch.compile, with what generate does for each token"
    )
    graph_seconds: float = Field(ge=0, description="the same under vLLM, with CUDA graphs")
    step_seconds: float = Field(ge=0, description="an optimizer step, whatever its size: data, logging")
    stage_seconds: float = Field(ge=0, description="a stage, whatever its size: a process, a model to load")
    verify_seconds: float = Field(ge=0, description="CPU seconds to verify one response")
    link_gbs: float = Field(gt=0, description="1e9 bytes a second to a device of the same node, one way")
    network_gbs: float = Field(gt=0, description="1e9 bytes a second and device to another node, one way")
    disk_gbs: float = Field(gt=0, description="1e9 bytes a second to and from disk")


H100 = Machine(
    name="H100 SXM, 80 GB",
    source="defaults: matrix products, copies and times of a layer, token and step measured on one H100 (docs/scale.md); the "
    "shares, vLLM's decoding, start-up, verification, disk and links are assumptions or from the data sheet",
    width=2, memory_gb=80.0, process_gb=1.0, matmul_tflops=770.0, bandwidth_gbs=2950.0,
    train_share=0.6, forward_share=0.6, decode_share=0.5, decode_bandwidth_share=0.7,
    pass_seconds=0.0025, token_seconds=0.001, graph_seconds=0.00005, step_seconds=0.05, stage_seconds=90.0,
    verify_seconds=0.02, link_gbs=300.0, network_gbs=40.0, disk_gbs=2.0,
)  # fmt: skip

CPU = Machine(
    name="one core of a cloud CPU",
    source="defaults: measured (--calibrate) on a two-core x86-64 cloud machine that was busy; link, network, disk and fixed "
    "times are assumptions",
    width=4, memory_gb=8.0, process_gb=0.45, matmul_tflops=0.07, bandwidth_gbs=13.0,
    train_share=0.45, forward_share=0.42, decode_share=0.17, decode_bandwidth_share=0.8,
    pass_seconds=0.003, token_seconds=0.001, graph_seconds=0.001, step_seconds=0.02, stage_seconds=2.0,
    verify_seconds=0.008, link_gbs=8.0, network_gbs=1.0, disk_gbs=0.5,
)  # fmt: skip

DEFAULTS = {"cuda": H100, "cpu": CPU}


def usual_machine(recipe: Recipe, launcher: Launcher | None, gpus: int | None) -> Machine:
    """The documented constants; of a CPU with the memory of the machine at hand, which the processes on it share.

    Args:
        gpus: devices that are planned for in place of `runtime.processes`, perhaps of another machine: its memory is
            not known, nor is that of machines on which Ray places processes.
    Raises UserError as `machines`.
    """
    if recipe.runtime.device != "cpu" or gpus is not None or (launcher is not None and launcher.kind == "ray"):
        return DEFAULTS[recipe.runtime.device]
    count = -(-recipe.runtime.processes // machines(None if launcher is None else launcher.config))
    shared = f" shared by {count} processes" if count > 1 else ""
    memory, source = round(memory_here() / count / 1e9, 2), f"{CPU.source}; memory is that of this machine{shared}"
    return CPU.model_copy(update={"memory_gb": memory, "source": source})


def load_machine(path: Path) -> Machine:
    """Read what `--calibrate` wrote. Raises UserError: missing, broken, a value out of range."""
    try:
        return Machine.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError("no such file", file=path, remedy="`pns plan --calibrate --machine FILE` writes it") from None
    except IsADirectoryError:
        raise UserError("this is a directory", file=path, remedy="name a file inside it") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            said(first),
            file=path,
            field=".".join(map(str, first["loc"])) or None,
            remedy="measure again (--calibrate)",
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(not_json(error), file=path, remedy="measure again (--calibrate)") from None


def save_machine(machine: Machine, path: Path) -> None:
    """Write it as JSON, whole or not at all."""
    write_json(path, machine.model_dump())
