"""Where problems and the first model come from, and the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from pns.parts.base import Part

SHARED_AMONG_ROUNDS = ("reward", "generator", "pairs")
"""Splits of which each round of iterated PNS takes a fresh share."""

SPLITS = ("sft", "rlvr", "reward", "audit", "generator", "pairs", "dev")


class Splits(Part):
    """Problems in each split. The splits are disjoint by construction (see `pns.problems.splits`)."""

    sft: int = Field(ge=0, description="0 only where sft.steps is 0")
    rlvr: int = Field(ge=1)
    reward: int = Field(ge=4, description="problems for the reward model, its calibration and its held-out worth")
    audit: int = Field(ge=4, description="problems for the audit model")
    generator: int = Field(ge=1)
    pairs: int = Field(ge=1, description="fresh problems for preference pairs")
    dev: int = Field(
        ge=1, description="held-out problems on which every model is scored, for choices made while tuning"
    )


def data_root() -> str | None:
    """The data folder: what the environment variable PNS_DATA says, or ../shared/data where that exists, or None."""
    return os.environ.get("PNS_DATA") or ("../shared/data" if Path("../shared/data").is_dir() else None)


def expand(path: str) -> str:
    """A path with `$PNS_DATA` filled in (`data_root`). Raises ValueError where there is none."""
    if "$PNS_DATA" not in path and "${PNS_DATA}" not in path:
        return path
    root = data_root()
    if root is None:
        raise ValueError("the environment variable PNS_DATA is not set, and there is no ../shared/data")
    return path.replace("${PNS_DATA}", root).replace("$PNS_DATA", root)


class ProblemsPart(Part):
    """Where problems come from."""

    source: Literal["embedded", "jsonl"] = "embedded"
    splits: Splits
    benchmark_size: int = Field(300, ge=1, description="problems a benchmark; files with fewer rows give all of them")
    misread_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the SFT solutions that carry a self-consistent misreading (embedded only)",
    )
    more_events: int = Field(
        0, ge=0, le=1, description="events in every story beyond the usual ones, for larger models (embedded only)"
    )
    train_file: tuple[Path, ...] | None = Field(
        None,
        description="one or a list of: a set by its name (`pns problems list`), or a JSONL, CSV or Parquet file with id, "
        "problem, answer, solution (source: jsonl)",
    )
    benchmarks: dict[str, Path] = Field(
        default_factory=dict, description="name -> a set by its name, or a file (source: jsonl)"
    )

    @field_validator("train_file", mode="before")
    @classmethod
    def _train_path(cls, value: Any) -> Any:
        many = value if isinstance(value, list | tuple) else [value]
        return None if value is None else tuple(expand(v) if isinstance(v, str) else v for v in many)

    @field_serializer("train_file")
    def _one_file(self, value: tuple[Path, ...] | None) -> Any:
        """A single file as a plain string, as recipes write it and fingerprints know it."""
        names = [str(v) for v in value or ()]
        return names[0] if len(names) == 1 else names or None

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _benchmark_paths(cls, value: Any) -> Any:
        return (
            {k: expand(v) if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _files(self) -> ProblemsPart:
        if self.source == "jsonl" and (not self.train_file or not self.benchmarks):
            raise ValueError("source: jsonl needs train_file and benchmarks")
        if self.source == "embedded" and (self.train_file is not None or self.benchmarks):
            raise ValueError("train_file and benchmarks belong to source: jsonl")
        if self.source == "embedded" and not self.splits.sft:
            raise ValueError("splits.sft: 0 belongs to source: jsonl; the embedded policy learns all it knows from SFT")
        if self.train_file and len(set(self.train_file)) != len(self.train_file):
            raise ValueError("train_file must be a list without repeats")
        if self.source == "jsonl" and (self.misread_share or self.more_events):
            raise ValueError("misread_share and more_events belong to source: embedded")
        return self


class ModelPart(Part):
    """The policy's start: a tiny Llama from scratch, or a pretrained model on disk, in a package, or on the hub."""

    kind: Literal["scratch", "pretrained"] = "scratch"
    hidden: int = Field(96, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(256, ge=8)
    max_positions: int = Field(256, ge=16)
    path: str | None = Field(None, description="directory or hub id (pretrained)")
    revision: str | None = Field(None, description="hub revision to pin (pretrained)")
    gguf_package: str | None = Field(None, description="installed Python package that carries a GGUF file (pretrained)")
    gguf_file: str | None = Field(None, description="file name inside gguf_package, or inside path")
    system_prompt: str | None = Field(
        None,
        min_length=1,
        description="written into the chat template of every pretrained start, so that all stages, and servers of the "
        "published models, use it (pretrained)",
    )

    @model_validator(mode="after")
    def _start(self) -> ModelPart:
        if self.kind == "pretrained" and not (self.path or self.gguf_package):
            raise ValueError("kind: pretrained needs path or gguf_package")
        if self.kind == "scratch" and (self.path or self.gguf_package or self.gguf_file):
            raise ValueError("path and gguf_* belong to kind: pretrained")
        if self.kind == "scratch" and self.system_prompt is not None:
            raise ValueError("system_prompt belongs to kind: pretrained")
        if self.gguf_package and not self.gguf_file:
            raise ValueError("gguf_package needs gguf_file")
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class GrpoVllmPart(Part):
    """vLLM as the sampler inside GRPO trainings, through TRL."""

    mode: Literal["colocate", "server"] = "colocate"
    url: str | None = Field(None, description="of `trl vllm-serve` (mode: server)")
    generator_url: str | None = Field(
        None,
        description="of a second one, for a generator that starts from another model than the policy (mode: server)",
    )
    gpu_memory_utilization: float = Field(0.3, gt=0, lt=1, description="share of each GPU's memory (mode: colocate)")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share a model (mode: colocate)")
    max_model_len: int | None = Field(
        None,
        ge=1,
        description="prompt and completion, tokens, for which vLLM makes room (mode: colocate); default the longest prompt of "
        "the training and its max_new_tokens",
    )
    sleep: bool = Field(False, description="free vLLM's memory while the step is trained (mode: colocate)")

    @model_validator(mode="after")
    def _where(self) -> GrpoVllmPart:
        if (self.mode == "server") != (self.url is not None):
            raise ValueError("mode: server needs url, and url belongs to mode: server")
        if self.generator_url is not None and self.url in (None, self.generator_url):
            raise ValueError("generator_url is that of a second server, beside url (mode: server)")
        return self


class RuntimePart(Part):
    """The machine. `threads`, `device` and `processes`, and of trainings `train_dtype`, `sampler` and `vllm`, change results, so
    they alone enter fingerprints.
    """

    jobs: int = Field(2, ge=1, description="stages that may run side by side")
    threads: int = Field(1, ge=1, description="OpenMP threads a process; fixed, since it changes floating-point sums")
    device: Literal["cpu", "cuda"] = "cpu"
    processes: int = Field(
        1,
        ge=1,
        description="of each training, over all machines (`--launcher`); they divide the batches, and sample apart",
    )
    checkpoint_every: int = Field(50, ge=1, description="optimizer steps between checkpoints")
    train_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of weights while a GPU trains them (they are published in bfloat16); bfloat16 halves their memory, and "
        "rounds steps away that are small beside a weight. On a CPU a model keeps its own",
    )
    sampler: Literal["auto", "trl", "copy", "compiled"] = Field(
        "auto",
        description="how GRPO trainings without vllm sample: `trl`, with the weights that are trained; `copy`, with a copy in "
        "bfloat16; `compiled`, with a copy through torch.compile (device: cuda; costs a minute, then decodes faster). `auto`: "
        "copy on GPUs that hold a whole model, else trl",
    )
    gradient_checkpointing: bool = Field(
        False, description="activations are computed again in the backward pass: a third more work, far less memory"
    )
    vllm: GrpoVllmPart | None = Field(None, description="sample with vLLM in GRPO trainings (device: cuda)")
    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = ()

    def copies(self, divided: bool) -> bool:
        """Whether GRPO trainings sample from a copy of their weights; `divided`: each process has a part of them alone."""
        if self.vllm is not None or self.sampler == "trl":
            return False
        return self.sampler != "auto" or (self.device == "cuda" and not divided)

    @model_validator(mode="after")
    def _samplers(self) -> RuntimePart:
        if self.vllm is not None and self.device != "cuda":
            raise ValueError("vllm needs device: cuda")
        if self.vllm is not None and self.sampler != "auto":
            raise ValueError("sampler says how to sample without vllm: leave one of the two out")
        if self.sampler == "compiled" and self.device != "cuda":
            raise ValueError("sampler: compiled needs device: cuda")
        return self
