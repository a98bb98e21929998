"""Negatives: methods, selection, pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from pns.parts.base import Part, SamplePart, ServerPart

Method = Literal[
    "rejection", "rejection_hard", "prefix", "prompted", "flip", "corruption", "pns", "pns_prefix", "mixture", "fill"
]

Regime = Literal["matched", "own"]

METHODS: tuple[Method, ...] = ("rejection", "flip", "corruption", "pns")
"""Those that a recipe compares unless it says otherwise."""

ALL_METHODS: tuple[Method, ...] = get_args(Method)

REGIMES: tuple[Regime, ...] = ("matched", "own")

GENERATED: tuple[Method, ...] = ("pns", "pns_prefix")
"""Those that the trained generator writes."""


RULED: tuple[Method, ...] = ("flip", "corruption")
"""Those that a rule makes from a chosen response."""


class PrefixPart(SamplePart):
    """Step-Controlled DPO: from a prefix of a correct solution, go on at rising temperature until the answer is wrong.

    `prefix` has the policy go on, `pns_prefix` the generator.
    """

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
        "prompted (a model is asked for them), flip, corruption, pns, pns_prefix (the generator goes on from a prefix of a "
        "correct solution), mixture, fill (rejection where the policy errs, pns for what is left of `per_problem`)",
    )
    sample: SamplePart = SamplePart()
    prefix: PrefixPart = PrefixPart()
    prompted: PromptedPart = PromptedPart()
    mixture: dict[Method, float] = Field(
        default_factory=dict,
        description="method: weight. For each negative of a problem one of those that serve it is drawn",
    )
    reward_model_quantile: float | None = Field(
        0.25,
        ge=0,
        le=1,
        description="M gate: quantile of correct responses, from 0.05 to 0.95 (below and above count as those); null: no gate",
    )
    min_rubric: int = Field(9, ge=0, le=12, description="C gate: least sum of the four dimensions")
    select: Literal["likely", "best", "proportional", "importance", "as_rejection", "random"] = Field(
        "likely",
        description="among the accepted: highest policy log-probability a token, highest score, drawn by score, drawn by "
        "policy over generator, drawn so that log-probabilities are spread as those of rejection's, or any",
    )
    per_problem: int = Field(1, ge=1, description="most negatives of a problem")
    near_duplicate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of words up to which two negatives of a problem are one; 0: the same words alone",
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
        if self.select == "as_rejection" and self.gate_all:
            raise ValueError("select: as_rejection needs rejection's own negatives; set gate_all: false")
        if {"mixture", "fill"} & set(self.mixture) or any(not 0 < w < float("inf") for w in self.mixture.values()):
            raise ValueError("mixture takes methods of their own with weights above 0, no mixture and no fill")
        return self

    def sources(self) -> tuple[Method, ...]:
        """The methods whose negatives are to be made: those compared, those that `mixture` and `fill` draw from, and
        rejection where the generator's are to be like them.
        """
        drawn = {*self.methods, *self.mixture, *(("rejection", "pns") if "fill" in self.methods else ())}
        if self.select == "as_rejection" and drawn & set(GENERATED):
            drawn.add("rejection")
        return tuple(m for m in ALL_METHODS if m in drawn)

    def generates(self) -> bool:
        """Whether a generator is trained."""
        return bool(set(GENERATED) & set(self.sources()))

    def gated(self, method: str) -> bool:
        """Whether a method's negatives pass the gates on M and C."""
        return method in GENERATED or (self.gate_all and method in ("rejection", "prompted"))

    def drawn(self, method: str) -> int | None:
        """How many of a problem's wrong rollouts `rejection` and `rejection_hard` score; None: all.

        As many as the selection can take, and no fewer than two, spare the scoring of the others. Where it may pass over
        some of them (by scores, lengths, or what is too near to another one), all of them are needed.
        """
        apart = self.near_duplicate > 0 and self.per_problem > 1
        every = method == "rejection_hard" or self.gate_all or self.length_ratio is not None or apart
        return None if every else max(2, self.per_problem)


class PairsPart(Part):
    """How pairs are put together."""

    n: int = Field(ge=1, description="most pairs a method and regime")
    regimes: tuple[Regime, ...] = REGIMES
    chosen: Literal["policy", "policy_or_reference"] = Field(
        "policy", description="fall back to the reference solution where no sampled response is correct"
    )
    chosen_by: Literal["policy", "generator"] = Field(
        "policy",
        description="whose correct response is the chosen side; generator: one with generator.control, asked without it",
    )
    min_pairs: int = Field(4, ge=1, description="fewer pairs than this for a method stop the run with a message")

    @field_validator("regimes")
    @classmethod
    def _in_order(cls, value: tuple[Regime, ...]) -> tuple[Regime, ...]:
        """Matched first, however they were written: models of the first regime bear the method's plain name."""
        if not value:
            raise ValueError("give one of matched, own, or both")
        return tuple(regime for regime in REGIMES if regime in value)

    @model_validator(mode="after")
    def _can_be_met(self) -> PairsPart:
        if self.min_pairs > self.n:
            raise ValueError(f"min_pairs: {self.min_pairs} can never be met with n: {self.n}, the most pairs; lower it")
        return self
