"""The whole configuration as typed models: YAML file + dotted overrides; unknown keys are errors.

Each room takes its own part (`recipe.generator`, ...), never the whole; the parts are in `pns.parts`. Units: steps are
optimizer steps, lengths tokens, shares 0..1, log-probabilities nats. Nothing here loads torch.
"""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from pns.parts.base import BasePart, Part, SamplePart, ServerPart
from pns.parts.engine import EnginePart, EngineServerPart, VllmPart
from pns.parts.negatives import (
    ALL_METHODS,
    GENERATED,
    METHODS,
    REGIMES,
    Method,
    NegativesPart,
    PairsPart,
    PrefixPart,
    PromptedPart,
    Regime,
)
from pns.parts.reward import JudgeServerPart, RewardModelSource, RewardPart
from pns.parts.sources import (
    SHARED_AMONG_ROUNDS,
    SPLITS,
    GrpoVllmPart,
    ModelPart,
    ProblemsPart,
    RuntimePart,
    Splits,
    expand,
)
from pns.parts.training import (
    REFERENCES,
    REINFORCE_KEYS,
    AlignPart,
    GeneratorPart,
    GrpoPart,
    LoraPart,
    Objective,
    Reference,
    ReinforcePart,
    RewardModelPart,
    RlvrPart,
    SftPart,
)
from pns.parts.uses import RewardModelRlPart, StepVerifierPart, UsesPart
from pns.problems.families import BENCHMARKS as EMBEDDED

__all__ = [
    "ALL_METHODS",
    "GENERATED",
    "METHODS",
    "REFERENCES",
    "REGIMES",
    "SHARED_AMONG_ROUNDS",
    "SPLITS",
    "AlignPart",
    "BasePart",
    "EnginePart",
    "EngineServerPart",
    "EvaluatePart",
    "GeneratorPart",
    "GrpoPart",
    "GrpoVllmPart",
    "JudgeServerPart",
    "LoraPart",
    "Method",
    "ModelPart",
    "NegativesPart",
    "Objective",
    "PairsPart",
    "Part",
    "PrefixPart",
    "ProblemsPart",
    "PromptedPart",
    "Recipe",
    "Reference",
    "Regime",
    "ReinforcePart",
    "ReportPart",
    "RewardModelPart",
    "RewardModelRlPart",
    "RewardModelSource",
    "RewardPart",
    "RewardRecipe",
    "RlvrPart",
    "RoundPart",
    "RuntimePart",
    "SamplePart",
    "ServerPart",
    "SftPart",
    "Splits",
    "StepVerifierPart",
    "UsesPart",
    "VllmPart",
    "expand",
]


class EvaluatePart(Part):
    """Greedy and sampled accuracy on every benchmark."""

    k: int = Field(4, ge=1, description="samples a problem for avg@k, pass@k, maj@k at temperature 1")
    k_of: dict[str, int] = Field(
        default_factory=dict, description="benchmark: samples in place of k, at least as many; for the small ones"
    )
    max_new_tokens: int = Field(72, ge=1)
    batch_size: int = Field(300, ge=1)
    bootstrap: int = Field(2000, ge=100)

    def samples(self, name: str) -> int:
        """Samples a problem of this benchmark."""
        return self.k_of.get(name, self.k)

    @model_validator(mode="after")
    def _more(self) -> EvaluatePart:
        if any(k < self.k for k in self.k_of.values()):
            raise ValueError(f"k_of holds at least k = {self.k} samples: pass@k is reported at k for all")
        return self


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
    engine: EnginePart = EnginePart()
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
    uses: UsesPart = UsesPart()

    @model_validator(mode="after")
    def _boxed(self) -> Recipe:
        if self.reward.answer_format != "boxed":
            raise ValueError(
                f"reward.answer_format: {self.reward.answer_format} is for scoring alone: SFT targets are written with "
                "\\boxed{}, and the policy would be trained on another form than it is paid for"
            )
        return self

    @model_validator(mode="after")
    def _benchmarks_of(self) -> Recipe:
        names = EMBEDDED if self.problems.source == "embedded" else tuple(self.problems.benchmarks)
        for name in self.evaluate.k_of:
            if name not in names:
                raise ValueError(f"evaluate.k_of: no benchmark called {name}; there are {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _starts(self) -> Recipe:
        if bool(self.sft.steps) != bool(self.problems.splits.sft):
            raise ValueError("sft.steps: 0 and problems.splits.sft: 0 go together: no SFT, no problems for it")
        if not self.sft.steps and self.model.kind == "scratch":
            raise ValueError("sft.steps: 0 needs an instruct model (model.kind: pretrained)")
        return self

    @property
    def trains_generator(self) -> bool:
        """Whether a generator is trained: for negatives, or for the chosen side."""
        return self.negatives.generates() or self.pairs.chosen_by == "generator"

    @property
    def sampled_by_generator(self) -> int:
        """Whole answers that the trained generator writes: mistakes and, where they are the chosen side, solutions."""
        solves = self.pairs.chosen_by == "generator"
        mistakes = self.negatives.sample.n if "pns" in self.negatives.sources() or not solves else 0
        return self.problems.splits.pairs * (mistakes + (self.rollouts.n if solves else 0))

    @property
    def splits_of_pns(self) -> tuple[str, ...]:
        """The splits whose problems PNS is trained on or writes for; a reward model that the recipe names cost it none."""
        return ("generator", "pairs") if self.reward.reward_model is not None else ("generator", "pairs", "reward")

    @property
    def sampled_for_pns(self) -> int:
        """Rollouts that PNS cost beside its generators' training: what they write, and what the reward model learns from."""
        learnt = self.problems.splits.reward * self.rollouts.n if "reward" in self.splits_of_pns else 0
        return self.sampled_by_generator + learnt

    @model_validator(mode="after")
    def _two_goals(self) -> Recipe:
        if self.pairs.chosen_by == "generator" and self.generator.control is None:
            raise ValueError(
                "pairs.chosen_by: generator needs generator.control: only a generator with both goals solves problems"
            )
        return self

    @model_validator(mode="after")
    def _on_a_gpu(self) -> Recipe:
        if self.engine.compiled and self.runtime.device != "cuda":
            raise ValueError("engine.compiled needs runtime.device: cuda")
        return self

    @field_validator("references")
    @classmethod
    def _once(cls, value: tuple[Reference, ...]) -> tuple[Reference, ...]:
        if len(set(value)) != len(value):
            raise ValueError("references must be a list without repeats")
        return value

    @model_validator(mode="after")
    def _read(self) -> Recipe:
        for key, readers in REINFORCE_KEYS.items():
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
    def _one_server(self) -> Recipe:
        """A server holds the weights of one GRPO training at a time, of the model that it was started with."""
        part, base = self.runtime.vllm, self.generator.base
        if part is None or part.mode != "server":
            return self
        own = [*self.generator.stages] if self.trains_generator else []
        beside = [*own, *self.references]
        if self.runtime.jobs > 1 and len(beside) > 1:
            raise ValueError(
                f"runtime.vllm: {' and '.join(beside)} may train side by side (runtime.jobs: {self.runtime.jobs}), and each "
                "would send its weights to the server of the other; set runtime.jobs: 1, or mode: colocate"
            )
        same = base is None or (base.path, base.revision) == (self.model.path, self.model.revision)
        if own and not same and part.generator_url is None:
            raise ValueError(
                "runtime.vllm: the generator starts from another model (generator.base) than the server at url; start a "
                "second one with that model and name it in generator_url, or use mode: colocate"
            )
        if part.generator_url is not None and base is None:
            raise ValueError("runtime.vllm.generator_url says nothing without generator.base; leave it out")
        return self

    @model_validator(mode="after")
    def _one_pass(self) -> Recipe:
        others = [(f"generator.others[{i}]", other.steps) for i, other in enumerate(self.generator.others)]
        generators = [("generator", self.generator.steps), *others]
        for name, steps in [("rlvr", self.rlvr.steps), *((n, s) for n, s in generators if s is not None)]:
            part = name.split(".")[0]
            grpo: GrpoPart = getattr(self, part)
            need, have = steps * grpo.prompts_per_step, getattr(self.problems.splits, part)
            if need > have:
                raise ValueError(
                    f"{name}.steps x {part}.prompts_per_step = {need} needs as many problems, and problems.splits.{part} "
                    f"is {have}: GRPO makes a single pass, because only that resumes exactly"
                )
        return self

    @model_validator(mode="after")
    def _each_generator_samples(self) -> Recipe:
        writers, n = len(self.generator.stages), self.negatives.sample.n
        if "pns" in self.negatives.sources() and n < writers:
            raise ValueError(
                f"negatives.sample.n = {n} gives {writers} generators (generator.others) not a sample of each problem each; "
                f"set it to {writers} or more"
            )
        return self


class RewardRecipe(Part):
    """A recipe for scoring alone: only the composite reward."""

    name: str = Field("reward", min_length=1)
    about: str = ""
    reward: RewardPart
