"""What draws the samples: the engine, where it runs, and what of that changes the samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from pns.parts.base import Part

_PLACE = re.compile(r"\{(\w+)\}")
_PLACES = ("model", "port", "replica")


VLLM_ARGS = frozenset({
    "model", "tokenizer", "tensor_parallel_size", "gpu_memory_utilization", "max_model_len", "enable_prefix_caching", "seed",
    "enable_lora", "max_lora_rank", "data_parallel_size",
})  # fmt: skip
"""Arguments of vllm.LLM that other keys say."""


class VllmPart(Part):
    """vLLM in the stage's own process. Data parallelism is `engine.ray_workers`: vLLM's own needs many processes."""

    tensor_parallel: int = Field(1, ge=1, description="GPUs that one model is split over")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of a GPU's memory that vLLM takes; leave room for log-probabilities"
    )
    max_model_len: int | None = Field(None, ge=1, description="prompt and completion, tokens; default the model's")
    prefix_caching: bool = Field(True, description="keep what prompts have in common between requests")
    batch_invariant: bool = Field(
        False, description="kernels whose sums do not depend on the batch: slower, and some GPUs cannot"
    )
    lora: bool = Field(
        False, description="sample a model of align.lora as its base with the adapter, instead of the merged weights"
    )
    args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="further arguments of vllm.LLM, e.g. {max_num_seqs: 512, kv_cache_dtype: fp8, enforce_eager: true}",
    )

    @field_validator("args")
    @classmethod
    def _not_ours(cls, args: dict[str, JsonValue]) -> dict[str, JsonValue]:
        taken = sorted(set(args) & VLLM_ARGS)
        if taken:
            raise ValueError(f"{taken[0]} is said by another key: see those of engine.vllm, and engine.ray_workers")
        return args


class EngineServerPart(Part):
    """OpenAI-compatible servers: those at `urls`, or `replicas` of them that `start` starts."""

    urls: tuple[str, ...] = Field((), description="base URLs of replicas of one model, e.g. http://node1:8000/v1")
    start: tuple[str, ...] = Field(
        (),
        description="command that starts a server for the model of a stage: {model}, {port}, {replica} are filled in",
    )
    replicas: int = Field(1, ge=1, description="servers to start (start)")
    ready_seconds: float = Field(900.0, gt=0, description="longest wait until a started server answers (start)")
    served_model: dict[str, str] = Field(
        default_factory=dict,
        description="stage: name at the server, for models that it does not list by their directory (urls)",
    )
    dialect: Literal["openai", "vllm", "sglang", "llama.cpp", "transformers"] = Field(
        "openai", description="what the server takes beside the interface: how top-k is turned off, token ids"
    )
    api: Literal["completions", "chat"] = Field(
        "completions", description="chat: for servers without /completions; prefixes then need dialect: vllm or sglang"
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="fields of every request, after the dialect's own")
    api_key_env: str | None = Field(None, description="environment variable that holds the API key")
    concurrency: int = Field(64, ge=1, description="requests at a time for each replica")
    timeout_seconds: float = Field(600.0, gt=0, description="for one request, once it is sent")
    retries: int = Field(4, ge=0, description="further tries after 429, 5xx or a time-out, at another replica")

    @model_validator(mode="after")
    def _one_way(self) -> EngineServerPart:
        if bool(self.urls) == bool(self.start):
            raise ValueError("name urls of running servers, or start: a command that starts them; not both")
        if len(set(self.urls)) != len(self.urls):
            raise ValueError("urls must be without repeats")
        unread = ("replicas", "ready_seconds") if self.urls else ("served_model",)
        for key in unread:
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                raise ValueError(f"{key} says nothing to {'urls' if self.urls else 'start'}; leave it out")
        named = {name for word in self.start for name in _PLACE.findall(word)}
        if named - set(_PLACES):
            raise ValueError(
                f"start: {{{min(named - set(_PLACES))}}} is unknown; there are {{model}}, {{port}}, {{replica}}"
            )
        if self.start and not {"model", "port"} <= named:
            raise ValueError("start must hold {model} and {port}")
        return self


class EnginePart(Part):
    """The engine of every stage that samples: rollouts, samples of the generator, prefix and prompted negatives, evaluation."""

    kind: Literal["transformers", "vllm", "server"] = Field(
        "transformers", description="in process by transformers or vLLM, or OpenAI-compatible servers"
    )
    ray_workers: int = Field(
        0, ge=0, description="Ray Data actors, each with an engine of its own; 0: none, the engine is in the stage"
    )
    ray_readers: int = Field(
        0,
        ge=0,
        description="Ray actors that compute log-probabilities and the reward model's scores, each beside one of ray_workers where "
        "there are any; 0: none, the stage computes them on one device",
    )
    continuous_batching: bool = Field(
        False, description="transformers: a new sequence takes the place of one that has ended (paged attention)"
    )
    compiled: bool = Field(
        False,
        description="transformers on a GPU: decode through torch.compile; costs a minute a stage, and again for a last shard of "
        "fewer rows, then is several times faster for small models",
    )
    vllm: VllmPart | None = None
    server: EngineServerPart | None = None

    @model_validator(mode="after")
    def _kinds(self) -> EnginePart:
        if (self.kind == "server") != (self.server is not None):
            raise ValueError("kind: server and engine.server go together")
        if self.vllm is not None and self.kind != "vllm":
            raise ValueError(f"engine.vllm says nothing to kind: {self.kind}; leave it out")
        if self.continuous_batching and self.kind != "transformers":
            raise ValueError(f"continuous_batching says nothing to kind: {self.kind}, which does it anyway")
        if self.compiled and (self.kind != "transformers" or self.continuous_batching):
            raise ValueError("compiled is for kind: transformers without continuous_batching; leave it out")
        if self.ray_workers and self.server is not None and self.server.start:
            raise ValueError("server.start and ray_workers: use server.replicas, whose requests need no actors")
        if self.ray_workers and self.ray_readers and self.vllm is not None and self.vllm.tensor_parallel > 1:
            raise ValueError(
                "ray_readers share GPUs with ray_workers, and vllm.tensor_parallel takes whole ones; set ray_readers: 0"
            )
        return self


# What changes how fast samples come, and none of them.
_FREE = frozenset({
    "gpu_memory_utilization", "urls", "replicas", "ready_seconds", "served_model", "api_key_env",
    "concurrency", "timeout_seconds", "retries",
})  # fmt: skip

# Keys that came later than results which are still good: they count where they say something else than this.
_LATER: dict[str, Any] = {"lora": False, "args": {}}


def engine_marks(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """What of the engine part (as JSON-able values) changes the samples, for fingerprints; None for the default."""
    kind = data["kind"]
    if kind == "transformers":
        return {key: True for key in ("continuous_batching", "compiled") if data.get(key)} or None
    part = data[kind] if data[kind] is not None else VllmPart().model_dump(mode="json")
    return {"kind": kind} | {k: v for k, v in part.items() if k not in _FREE and not (k in _LATER and v == _LATER[k])}
