"""The composite reward, its judge and its reward model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pns.parts.base import Part, ServerPart

_CALLABLE = re.compile(r"\w+(\.\w+)*:\w+")

_AT_A_SERVER = ("path", "revision", "name", "server", "batch_size")

_READ_BY = {
    "transformers": ("path", "revision", "batch_size", "dtype", "device"),
    "vllm": (*_AT_A_SERVER, "endpoint"),
    "sglang": _AT_A_SERVER,
}


class RewardModelSource(Part):
    """The reward model of the composite, where it is not the one that the run itself trains."""

    kind: Literal["transformers", "vllm", "sglang"] | str = Field(
        "transformers", description="in process, a server's kind, or a Python callable as my.module:function"
    )
    path: str | None = Field(None, description="directory or hub id of the model; for a server: of its tokenizer")
    revision: str | None = Field(None, description="hub revision to pin")
    name: str | None = Field(None, description="the model's name at the server; default: the only one it serves")
    endpoint: Literal["auto", "classify", "pooling"] = Field(
        "auto", description="vLLM: /classify for sequence classifiers, /pooling for token classifiers"
    )
    server: ServerPart | None = None
    calibration: Path | None = Field(None, description="folder with calibration.json (`pns calibrate` makes one)")
    batch_size: int = Field(16, ge=1, description="sequences in one forward pass or request")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights in process; auto: as they were saved"
    )
    device: Literal["cpu", "cuda"] = "cpu"

    @model_validator(mode="after")
    def _whole(self) -> RewardModelSource:
        if self.kind in ("vllm", "sglang"):
            if self.server is None or self.path is None:
                raise ValueError(
                    f"kind: {self.kind} needs server.url, and path for the tokenizer with the chat template"
                )
        elif self.server is not None:
            raise ValueError("server belongs to kind: vllm or sglang")
        if self.kind == "transformers" and self.path is None:
            raise ValueError("kind: transformers needs path")
        if self.kind not in ("transformers", "vllm", "sglang") and not _CALLABLE.fullmatch(self.kind):
            raise ValueError("kind is transformers, vllm, sglang, or my.module:function")
        for key, field in type(self).model_fields.items():
            if key not in ("kind", "calibration", *_READ_BY.get(self.kind, ())) and getattr(self, key) != field.default:
                raise ValueError(f"{key} says nothing to kind: {self.kind}; leave it out")
        return self


class JudgeServerPart(Part):
    """A chain-of-thought judge behind an OpenAI-compatible server."""

    server: ServerPart
    model: str | None = Field(None, description="the model's name at the server; default: the only one it serves")
    prompt: str = Field(
        "rubric-v1", description="a prompt that comes with pns, or a file of your own (its text is hashed)"
    )
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=16, description="of a verdict")
    structured: Literal["auto", "json_schema", "none"] = Field(
        "auto", description="whether to send response_format with the verdict's JSON schema; auto: ask the server once"
    )
    cache: Path | None = Field(Path(".pns-cache/judge.sqlite"), description="verdicts kept on disk; null: none")
    max_calls: int | None = Field(
        None, ge=1, description="budget of a stage in requests for verdicts, retries too; past it, unscored"
    )
    max_total_tokens: int | None = Field(None, ge=1, description="budget of a stage in prompt and completion tokens")
    steps_gate: int = Field(
        0,
        ge=0,
        le=12,
        description="ask the server only where the step checker gives at least this; below, its rubric stands",
    )


class RewardPart(Part):
    """The composite reward (method.md). Gates first, then w_A + w_M M + w_C C."""

    answer_format: Literal["boxed", "gsm8k", "answer_tag", "think_boxed"] = "boxed"
    malformed: float = Field(-1.0, le=0, description="score of a malformed or response-undecidable completion")
    weight_inversion: float = Field(0.4, ge=0)
    weight_reward_model: float = Field(0.2, ge=0)
    weight_judge: float = Field(0.4, ge=0)
    format_gate: bool = Field(True, description="off: a malformed response goes on to the other gates (an ablation)")
    accuracy_gate: bool = Field(
        True,
        description="off: a correct response earns its plausibility terms, which teaches no mistakes (an ablation)",
    )
    calibrated: bool = Field(
        True, description="off: M is the sigmoid of the run's own reward model's raw score (an ablation)"
    )
    reward_model: RewardModelSource | None = Field(
        None, description="null: in a run the one that it trains; in `pns score` no M term"
    )
    judge: Literal["steps", "none", "server"] | str = Field(
        "steps", description="the step checker, none, a server (judge_server), or my.module:function"
    )
    judge_server: JudgeServerPart | None = None
    max_chars: int = Field(20_000, ge=1)
    cpu_seconds: float = Field(5.0, gt=0, description="CPU time for one verification outside the exact path")
    verify_workers: int = Field(1, ge=1, description="processes for symbolic checks; changes no verdict")
    max_unscored: float = Field(
        0.05, ge=0, le=1, description="share above which a stage stops: over 20 steps of a training, else over its rows"
    )

    @model_validator(mode="after")
    def _judges(self) -> RewardPart:
        if not self.calibrated and self.reward_model is not None:
            raise ValueError("calibrated: false is for the reward model that a run trains; this recipe names another")
        if (self.judge == "server") != (self.judge_server is not None):
            raise ValueError("judge: server and judge_server go together")
        if self.judge not in ("steps", "none", "server") and not _CALLABLE.fullmatch(self.judge):
            raise ValueError("judge is steps, none, server, or my.module:function")
        return self
