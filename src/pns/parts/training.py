"""SFT, RLVR, the generator, the reward model, preference training and whole-method references."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from pns.parts.base import BasePart, Part


class _Accumulated(Part):
    """A batch that may be divided over several backward passes."""

    batch_size: int = Field(ge=1)
    gradient_accumulation: int = Field(
        1,
        ge=1,
        description="backward passes that a step's batch is divided into: less memory, the same gradient; with several "
        "processes the rows of a pass are each one's, and the passes fewer",
    )

    @model_validator(mode="after")
    def _divides(self) -> _Accumulated:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(f"gradient_accumulation must divide batch_size = {self.batch_size}")
        return self


class SftPart(_Accumulated):
    """Supervised fine-tuning."""

    steps: int = Field(ge=0, description="0: none; the start is an instruct model and goes to RLVR as it is")
    batch_size: int = Field(24, ge=1)
    learning_rate: float = Field(4e-3, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)
    max_length: int = Field(192, ge=8, description="prompt and completion, tokens; longer rows are an error")


class GrpoPart(Part):
    """One GRPO training: a single pass over its problems, one update a generation (the resumable setting)."""

    steps: int = Field(ge=1)
    prompts_per_step: int = Field(ge=1)
    num_generations: int = Field(8, ge=2)
    micro_batch: int | None = Field(
        None, ge=1, description="completions a forward pass of one process; None: all of its step's"
    )
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


Grpo = TypeVar("Grpo", bound=GrpoPart)


def as_large_as(part: Grpo, other: GrpoPart, **changes: object) -> Grpo:
    """A part with steps of as many rollouts as another one's, and with the changes."""
    shape = {name: getattr(other, name) for name in ("prompts_per_step", "num_generations", "micro_batch")}
    return part.model_copy(update={**shape, **changes})


class RlvrPart(GrpoPart):
    """RLVR: accuracy + format reward."""

    format_weight: float = Field(0.1, ge=0, description="credit for a well-formed response; a correct one earns 1 more")


class OtherGenerator(Part):
    """What another generator has otherwise than the first; null: the same."""

    steps: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    beta: float | None = Field(None, ge=0, description="KL coefficient to the model that it starts from")
    temperature: float | None = Field(None, gt=0)
    start: Literal["policy", "sft"] | None = None


class GeneratorPart(GrpoPart):
    """Reverse RL of the generator."""

    start: Literal["policy", "sft"] = Field(
        "policy", description="the model that it starts from, which is also the reference of its KL term"
    )
    base: BasePart | None = Field(
        None, description="another pretrained model to start from; its KL term then refers to that model"
    )
    control: str | None = Field(
        None,
        description="one generator for both goals: this text, right behind a problem (begin it with a space or line breaks), asks "
        "for a mistake, and every other training problem comes without it, to be solved (paid as in RLVR). null: mistakes "
        "alone, asked for by the problem itself",
    )
    others: tuple[OtherGenerator, ...] = Field(
        (),
        description="further generators, each with what it has otherwise ({}: another seed alone); the samples of a problem for "
        "pns are divided among all of them",
    )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stage of each generator: `generator`, `generator-2`, ..."""
        return ("generator", *(f"generator-{i}" for i in range(2, len(self.others) + 2)))

    def of(self, stage: str) -> GeneratorPart:
        """What the generator of a stage is trained with."""
        place = self.stages.index(stage)
        otherwise = self.others[place - 1].model_dump(exclude_none=True) if place else {}
        return self.model_copy(update={**otherwise, "others": ()})

    @property
    def start_stage(self) -> str:
        """The stage that makes the model which it starts from."""
        return "start-generator" if self.base is not None else {"policy": "rlvr", "sft": "sft"}[self.start]

    @field_validator("control")
    @classmethod
    def _said(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("control is blank; give a text, or leave it out")
        return value

    @model_validator(mode="after")
    def _one_start(self) -> GeneratorPart:
        if self.base is not None and self.start != "policy":
            raise ValueError(f"start: {self.start} says nothing beside base; leave it out")
        if self.base is not None and any(other.start for other in self.others):
            raise ValueError("others: start says nothing beside base; leave it out")
        return self


def more_steps(part: GeneratorPart, sampled: int) -> int:
    """Steps that PNS cost: those of all generators, and as many again as what was sampled beside them would have filled."""
    rows = part.prompts_per_step * part.num_generations
    return sum(part.of(stage).steps for stage in part.stages) + -(-sampled // rows)


class RewardModelPart(_Accumulated):
    """Centre-regularised Bradley-Terry reward model, trained on pairs within one problem. The audit model, too."""

    base: BasePart | None = Field(None, description="another pretrained model to start from; null: the policy")
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


class AlignPart(_Accumulated):
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
        if self.objective == "kto" and self.gradient_accumulation > 1:
            raise ValueError("gradient_accumulation: kto takes its KL term from the whole batch; leave it out")
        if self.objective in ("robust", "cdpo") and not self.label_smoothing:
            raise ValueError(f"objective: {self.objective} needs label_smoothing above 0; without it, it is dpo")
        return self


Reference = Literal["rlvr_more", "nsr", "w_reinforce"]

REFERENCES: tuple[Reference, ...] = get_args(Reference)

# Which reference reads which key of `reinforce`; as with `_OBJECTIVE_KEYS`.
REINFORCE_KEYS: dict[str, tuple[Reference, ...]] = {
    "learning_rate": ("nsr", "w_reinforce"),
    "positive_weight": ("w_reinforce",),
}


class ReinforcePart(Part):
    """NSR and W-REINFORCE (arXiv 2506.01347). All that is not here is as for `rlvr_more`."""

    learning_rate: float | None = Field(None, gt=0, description="default that of rlvr")
    positive_weight: float = Field(
        0.1, gt=0, description="lambda of w_reinforce: weight of correct samples, where that of the others is 1"
    )
