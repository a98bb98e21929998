"""The whole configuration as typed models: YAML file + dotted overrides; unknown keys are errors.

Each room takes its own part (`recipe.generator`, ...), never the whole. Units: steps are optimizer steps, lengths tokens,
shares 0..1, log-probabilities nats. Nothing here loads torch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Method = Literal["rejection", "rejection_hard", "prefix", "prompted", "flip", "corruption", "pns", "mixture", "fill"]
Regime = Literal["matched", "own"]
METHODS: tuple[Method, ...] = ("rejection", "flip", "corruption", "pns")
"""Those that a recipe compares unless it says otherwise."""
ALL_METHODS: tuple[Method, ...] = get_args(Method)
REGIMES: tuple[Regime, ...] = ("matched", "own")
_CALLABLE = re.compile(r"\w+(\.\w+)*:\w+")
SHARED_AMONG_ROUNDS = ("reward", "generator", "pairs")
"""Splits of which each round of iterated PNS takes a fresh share."""
SPLITS = ("sft", "rlvr", "reward", "audit", "generator", "pairs", "dev")


class Part(BaseModel):
    """Base of all parts: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Splits(Part):
    """Problems in each split. The splits are disjoint by construction (see `pns.problems.splits`)."""

    sft: int = Field(ge=1)
    rlvr: int = Field(ge=1)
    reward: int = Field(ge=4, description="problems for the reward model, its calibration and its held-out worth")
    audit: int = Field(ge=4, description="problems for the audit model")
    generator: int = Field(ge=1)
    pairs: int = Field(ge=1, description="fresh problems for preference pairs")
    dev: int = Field(
        ge=1, description="held-out problems on which every model is scored, for choices made while tuning"
    )


def expand(path: str) -> str:
    """A path with `$PNS_DATA` filled in: the environment variable, or ../shared/data where that exists."""
    if "$PNS_DATA" not in path and "${PNS_DATA}" not in path:
        return path
    root = os.environ.get("PNS_DATA") or ("../shared/data" if Path("../shared/data").is_dir() else None)
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
    train_file: Path | None = Field(
        None,
        description="a set by its name (`pns problems list`), or a JSONL, CSV or Parquet file with id, problem, answer, "
        "solution (source: jsonl)",
    )
    benchmarks: dict[str, Path] = Field(
        default_factory=dict, description="name -> a set by its name, or a file (source: jsonl)"
    )

    @field_validator("train_file", mode="before")
    @classmethod
    def _train_path(cls, value: Any) -> Any:
        return expand(value) if isinstance(value, str) else value

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _benchmark_paths(cls, value: Any) -> Any:
        return (
            {k: expand(v) if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _files(self) -> ProblemsPart:
        if self.source == "jsonl" and (self.train_file is None or not self.benchmarks):
            raise ValueError("source: jsonl needs train_file and benchmarks")
        if self.source == "embedded" and (self.train_file is not None or self.benchmarks):
            raise ValueError("train_file and benchmarks belong to source: jsonl")
        if self.source == "jsonl" and self.misread_share:
            raise ValueError("misread_share belongs to source: embedded")
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

    @model_validator(mode="after")
    def _start(self) -> ModelPart:
        if self.kind == "pretrained" and not (self.path or self.gguf_package):
            raise ValueError("kind: pretrained needs path or gguf_package")
        if self.kind == "scratch" and (self.path or self.gguf_package or self.gguf_file):
            raise ValueError("path and gguf_* belong to kind: pretrained")
        if self.gguf_package and not self.gguf_file:
            raise ValueError("gguf_package needs gguf_file")
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class RuntimePart(Part):
    """The machine. Only `threads` and `device` change results, so only they enter fingerprints."""

    jobs: int = Field(2, ge=1, description="stages that may run side by side")
    threads: int = Field(1, ge=1, description="OpenMP threads a process; fixed, since it changes floating-point sums")
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_every: int = Field(50, ge=1, description="optimizer steps between checkpoints")
    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = ()


class SftPart(Part):
    """Supervised fine-tuning."""

    steps: int = Field(ge=1)
    batch_size: int = Field(24, ge=1)
    learning_rate: float = Field(4e-3, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)
    max_length: int = Field(192, ge=8, description="prompt and completion, tokens; longer rows are an error")


class SamplePart(Part):
    """How completions are drawn."""

    n: int = Field(8, ge=1, description="completions a problem")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(72, ge=1)
    batch_size: int = Field(256, ge=1, description="sequences in one generate call; also the size of a shard")


class GrpoPart(Part):
    """One GRPO training: a single pass over its problems, one update a generation (the resumable setting)."""

    steps: int = Field(ge=1)
    prompts_per_step: int = Field(ge=1)
    num_generations: int = Field(8, ge=2)
    micro_batch: int | None = Field(None, ge=1, description="completions a forward pass; None: all of a step")
    learning_rate: float = Field(gt=0)
    beta: float = Field(0.0, ge=0, description="KL coefficient to the start model: the dial of method.md")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(72, ge=1)

    @model_validator(mode="after")
    def _batches(self) -> GrpoPart:
        rows = self.prompts_per_step * self.num_generations
        if self.micro_batch is not None and rows % self.micro_batch:
            raise ValueError(f"micro_batch must divide prompts_per_step x num_generations = {rows}")
        return self


class RlvrPart(GrpoPart):
    """RLVR: accuracy + format reward."""

    format_weight: float = Field(0.1, ge=0, description="credit for a well-formed response; a correct one earns 1 more")


class GeneratorPart(GrpoPart):
    """Reverse RL of the generator."""

    start: Literal["policy", "sft"] = Field(
        "policy", description="the model that it starts from, which is also the reference of its KL term"
    )


class RewardModelPart(Part):
    """Centre-regularised Bradley-Terry reward model, trained on pairs within one problem."""

    steps: int = Field(ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    center: float = Field(0.01, ge=0, description="lambda of the centre term (method.md: 0.01, ours)")
    pairs_per_problem: int = Field(4, ge=1)
    correct: Literal["policy", "policy_or_reference"] = Field(
        "policy", description="use the reference solution where no sampled response to a problem is correct"
    )
    max_length: int = Field(192, ge=8, description="tokens; a pair that is longer is an error, never dropped")
    holdout: float = Field(0.25, gt=0, lt=1, description="share of its problems kept for calibration and worth")


class ServerPart(Part):
    """How to talk to a server. None of it changes what the server answers, so none of it enters fingerprints."""

    url: str = Field(description="base URL, e.g. http://localhost:8000/v1 for a judge, http://localhost:8000 else")
    api_key_env: str | None = Field(None, description="environment variable that holds the API key")
    concurrency: int = Field(16, ge=1, description="requests at a time")
    timeout_seconds: float = Field(120.0, gt=0, description="for one request")
    retries: int = Field(4, ge=0, description="further tries after 429, 5xx or a time-out, with jittered waits")


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
        None, ge=1, description="budget in requests for verdicts, retries too; past it, unscored"
    )
    max_total_tokens: int | None = Field(None, ge=1, description="budget in prompt and completion tokens")
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
    max_unscored: float = Field(0.05, ge=0, le=1, description="share over 20 steps above which a stage stops")

    @model_validator(mode="after")
    def _judges(self) -> RewardPart:
        if not self.calibrated and self.reward_model is not None:
            raise ValueError("calibrated: false is for the reward model that a run trains; this recipe names another")
        if (self.judge == "server") != (self.judge_server is not None):
            raise ValueError("judge: server and judge_server go together")
        if self.judge not in ("steps", "none", "server") and not _CALLABLE.fullmatch(self.judge):
            raise ValueError("judge is steps, none, server, or my.module:function")
        return self


class PrefixPart(SamplePart):
    """Step-Controlled DPO: from a prefix of a correct solution, go on at rising temperature until the answer is wrong."""

    n: int = Field(4, ge=1, description="continuations a problem and round")
    rounds: int = Field(4, ge=1, description="each from a prefix of its own; a problem with a wrong answer is done")
    rise: float = Field(0.1, ge=0, description="added to the temperature with each round")


class PromptedPart(SamplePart):
    """Wrong solutions that a model writes when it is asked to, or edits from correct ones (RISE, arXiv 2410.06638)."""

    n: int = Field(4, ge=1, description="replies a problem and style; from a server one request each")
    max_new_tokens: int = Field(512, ge=1)
    batch_size: int = Field(32, ge=1, description="replies in one generate call; also the size of a shard")
    style: Literal["ask", "edit", "both"] = Field(
        "ask",
        description="ask for a plausible wrong solution to a problem, have a correct one edited into one, or both",
    )
    prompt: str = Field(
        "wrong-v1", description="a prompt that comes with pns, or a file of your own (its text is hashed)"
    )
    writer: Literal["policy", "model", "server"] = Field(
        "policy", description="the run's own policy, another model on disk or from the hub, or one behind a server"
    )
    model: str | None = Field(
        None, description="directory or hub id (writer: model); its name at the server, default the only one it serves"
    )
    revision: str | None = Field(None, description="hub revision to pin (writer: model)")
    server: ServerPart | None = Field(None, description="an OpenAI-compatible server (writer: server)")
    cache: Path | None = Field(
        Path(".pns-cache/prompted.sqlite"), description="a server's replies kept on disk; null: none"
    )
    max_calls: int | None = Field(None, ge=1, description="budget in requests, retries too; past it nothing is asked")
    max_total_tokens: int | None = Field(None, ge=1, description="budget in prompt and completion tokens")

    @model_validator(mode="after")
    def _writers(self) -> PromptedPart:
        if (self.writer == "server") != (self.server is not None):
            raise ValueError("writer: server and negatives.prompted.server go together")
        if self.writer == "model" and self.model is None:
            raise ValueError("writer: model needs model, a directory or hub id")
        for key in ("model", "revision", "cache", "max_calls", "max_total_tokens"):
            read = {"model": ("model", "server"), "revision": ("model",)}.get(key, ("server",))
            if self.writer not in read and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} says nothing to writer: {self.writer}; leave it out")
        return self


class NegativesPart(Part):
    """How negatives are made and selected."""

    methods: tuple[Method, ...] = Field(
        METHODS,
        description="rejection, rejection_hard (of those the reward model's favourite), prefix (Step-Controlled DPO), "
        "prompted (a model is asked for them), flip, corruption, pns, mixture, fill (rejection where the policy errs, pns "
        "elsewhere)",
    )
    sample: SamplePart = SamplePart()
    prefix: PrefixPart = PrefixPart()
    prompted: PromptedPart = PromptedPart()
    mixture: dict[Method, float] = Field(
        default_factory=dict, description="method: weight. For each problem one of those that serve it is drawn"
    )
    reward_model_quantile: float = Field(0.25, ge=0, le=1, description="M gate: quantile of correct responses")
    min_rubric: int = Field(9, ge=0, le=12, description="C gate: least sum of the four dimensions")
    select: Literal["likely", "best", "proportional", "importance", "random"] = Field(
        "likely",
        description="among the accepted: highest policy log-probability a token, highest score, drawn by score, drawn by "
        "policy over generator, or any",
    )
    per_problem: int = Field(1, ge=1, description="most negatives of a problem")
    near_duplicate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of words up to which two negatives of a problem are one; 0: equal texts alone",
    )
    length_ratio: float | None = Field(
        None,
        gt=1,
        description="negatives that are longer or shorter than the chosen response by this factor are left out",
    )
    gate_all: bool = Field(
        False, description="put rejection samples and prompted negatives through the plausibility gates too"
    )

    @model_validator(mode="after")
    def _some(self) -> NegativesPart:
        if len(set(self.methods)) != len(self.methods) or not self.methods:
            raise ValueError("methods must be a non-empty list without repeats")
        if ("mixture" in self.methods) != bool(self.mixture):
            raise ValueError("methods: mixture and negatives.mixture go together")
        if {"mixture", "fill"} & set(self.mixture) or any(not 0 < w < float("inf") for w in self.mixture.values()):
            raise ValueError("mixture takes methods of their own with weights above 0, no mixture and no fill")
        return self

    def sources(self) -> tuple[Method, ...]:
        """The methods whose negatives are to be made: those compared, and those that `mixture` and `fill` draw from."""
        drawn = {*self.mixture, *(("rejection", "pns") if "fill" in self.methods else ())}
        return tuple(m for m in ALL_METHODS if m in {*self.methods, *drawn})


class PairsPart(Part):
    """How pairs are put together."""

    n: int = Field(ge=1, description="most pairs a method and regime")
    regimes: tuple[Regime, ...] = REGIMES
    chosen: Literal["policy", "policy_or_reference"] = Field(
        "policy", description="fall back to the reference solution where no sampled response is correct"
    )
    min_pairs: int = Field(4, ge=1, description="fewer pairs than this for a method stop the run with a message")


Objective = Literal["dpo", "ipo", "robust", "cdpo", "apo_zero", "kto", "simpo", "orpo"]
_WITH_REFERENCE = ("dpo", "ipo", "robust", "cdpo", "apo_zero")
# Which objective reads which key; for the others a value but the default is an error, since it would do nothing.
_OBJECTIVE_KEYS: dict[str, tuple[str, ...]] = {
    "nll_weight": (*_WITH_REFERENCE, "simpo"),
    "label_smoothing": ("robust", "cdpo"),
    "length_alpha": _WITH_REFERENCE,
    "simpo_gamma": ("simpo",),
    "precompute_reference": (*_WITH_REFERENCE, "kto"),
    "chosen_weight": ("kto",),
    "rejected_weight": ("kto",),
}


class LoraPart(Part):
    """Train low-rank adapters (through peft) in place of all weights; they are merged into the published model."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class AlignPart(Part):
    """Preference training of the RL-trained policy."""

    objective: Objective = Field(
        "dpo",
        description="dpo, ipo, robust (DPO), cdpo (conservative DPO), apo_zero, kto; without a reference: simpo, orpo",
    )
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1, description="pairs")
    learning_rate: float = Field(gt=0)
    beta: float = Field(0.1, gt=0, description="of the loss; for ipo its tau, for orpo its lambda")
    nll_weight: float = Field(0.0, ge=0, description="weight of the NLL of chosen beside the loss")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="assumed share of pairs that are the wrong way round; robust and cdpo read it"
    )
    length_alpha: float | None = Field(
        None, ge=0, le=1, description="length-desensitised DPO: weight of the tokens beyond the shorter side's length"
    )
    simpo_gamma: float = Field(0.5, ge=0, description="target margin of simpo")
    chosen_weight: float = Field(1.0, gt=0, description="of chosen responses in kto")
    rejected_weight: float = Field(1.0, gt=0, description="of rejected responses in kto")
    precompute_reference: bool = Field(
        False, description="the reference's log-probabilities once, before training: less memory, the same loss"
    )
    lora: LoraPart | None = None
    sft_learning_rate: float | None = Field(
        None, gt=0, description="step size of the sft_chosen control; default the same"
    )
    max_length: int = Field(192, ge=8, description="tokens; a pair that is longer is an error, unless `cut` says so")
    cut: bool = Field(False, description="cut pairs at max_length; how many is counted in stats.json")

    @model_validator(mode="after")
    def _read(self) -> AlignPart:
        for key, objectives in _OBJECTIVE_KEYS.items():
            if self.objective not in objectives and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} says nothing to objective: {self.objective}; leave it out")
        if self.objective in ("robust", "cdpo") and not self.label_smoothing:
            raise ValueError(f"objective: {self.objective} needs label_smoothing above 0; without it, it is dpo")
        return self


Reference = Literal["rlvr_more", "nsr", "w_reinforce"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)
# Which reference reads which key of `reinforce`; as with `_OBJECTIVE_KEYS`.
_REINFORCE_KEYS: dict[str, tuple[Reference, ...]] = {
    "learning_rate": ("nsr", "w_reinforce"),
    "positive_weight": ("w_reinforce",),
}


class ReinforcePart(Part):
    """NSR and W-REINFORCE (arXiv 2506.01347). All that is not here is as for `rlvr_more`."""

    learning_rate: float | None = Field(None, gt=0, description="default that of rlvr")
    positive_weight: float = Field(
        0.1, gt=0, description="lambda of w_reinforce: weight of correct samples, where that of the others is 1"
    )


class EvaluatePart(Part):
    """Greedy and sampled accuracy on every benchmark."""

    k: int = Field(4, ge=1, description="samples a problem for avg@k, pass@k, maj@k at temperature 1")
    max_new_tokens: int = Field(72, ge=1)
    batch_size: int = Field(300, ge=1)
    bootstrap: int = Field(2000, ge=100)


class RoundPart(Part):
    """Which share of the fresh problems is used: iterated PNS needs new ones in every round (`pns iterate`)."""

    number: int = Field(1, ge=1)
    of: int = Field(1, ge=1, description="the splits generator, pairs and reward are cut into so many equal shares")

    @model_validator(mode="after")
    def _inside(self) -> RoundPart:
        if self.number > self.of:
            raise ValueError(f"round {self.number} of {self.of}: there is none")
        return self


class ReportPart(Part):
    """The page."""

    examples: int = Field(10, ge=0)


class Recipe(Part):
    """Everything that a run depends on."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    about: str = Field("", description="what it costs and what it gave, for the reader")
    seed: int = Field(0, ge=0, lt=2**31)
    problems: ProblemsPart
    model: ModelPart = ModelPart()
    runtime: RuntimePart = RuntimePart()
    sft: SftPart
    rlvr: RlvrPart
    rollouts: SamplePart = SamplePart()
    reward_model: RewardModelPart
    reward: RewardPart = RewardPart()
    generator: GeneratorPart
    negatives: NegativesPart = NegativesPart()
    pairs: PairsPart
    align: AlignPart
    references: tuple[Reference, ...] = Field(
        ("rlvr_more",),
        description="trainings from the policy with the budget that PNS cost: rlvr_more (RLVR goes on), nsr (REINFORCE on "
        "samples that are not correct), w_reinforce (on all, the correct ones with little weight)",
    )
    reinforce: ReinforcePart = ReinforcePart()
    evaluate: EvaluatePart = EvaluatePart()
    report: ReportPart = ReportPart()
    round: RoundPart = RoundPart()

    @model_validator(mode="after")
    def _boxed(self) -> Recipe:
        if self.reward.answer_format != "boxed":
            raise ValueError(
                f"reward.answer_format: {self.reward.answer_format} is for scoring alone: SFT targets are written with "
                "\\boxed{}, and the policy would be trained on another form than it is paid for"
            )
        return self

    @field_validator("references")
    @classmethod
    def _once(cls, value: tuple[Reference, ...]) -> tuple[Reference, ...]:
        if len(set(value)) != len(value):
            raise ValueError("references must be a list without repeats")
        return value

    @model_validator(mode="after")
    def _read(self) -> Recipe:
        for key, readers in _REINFORCE_KEYS.items():
            default = ReinforcePart.model_fields[key].default
            if not {*readers} & {*self.references} and getattr(self.reinforce, key) != default:
                raise ValueError(
                    f"reinforce.{key} says nothing to references: [{', '.join(self.references)}]; leave it out, or add "
                    f"{' or '.join(readers)} to references"
                )
        return self

    @model_validator(mode="after")
    def _can_be_prompted(self) -> Recipe:
        own = "prompted" in self.negatives.sources() and self.negatives.prompted.writer == "policy"
        if own and self.model.kind == "scratch":
            raise ValueError(
                "negatives.prompted is not applicable: the policy is a model from scratch (model.kind: scratch), which "
                "cannot follow a prompt; name a model or a server (negatives.prompted.writer)"
            )
        return self

    @model_validator(mode="after")
    def _one_pass(self) -> Recipe:
        for part, split in (("rlvr", "rlvr"), ("generator", "generator")):
            grpo: GrpoPart = getattr(self, part)
            need, have = grpo.steps * grpo.prompts_per_step, getattr(self.problems.splits, split)
            if need > have:
                raise ValueError(
                    f"{part}.steps x {part}.prompts_per_step = {need} needs as many problems, and problems.splits.{split} "
                    f"is {have}: GRPO makes a single pass, because only that resumes exactly"
                )
        return self


class RewardRecipe(Part):
    """A recipe for scoring alone: only the composite reward."""

    name: str = Field("reward", min_length=1)
    about: str = ""
    reward: RewardPart
