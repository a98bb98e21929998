"""The work of every stage, counted from the recipe: rows, tokens, steps, verdicts. No model is looked at here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pns.errors import UserError
from pns.faults import said
from pns.parts.training import GrpoPart, as_large_as, more_steps
from pns.pipeline import Stage
from pns.problems.families import BENCHMARKS as EMBEDDED
from pns.problems.registry import find
from pns.recipe import GENERATED, Recipe

Which = Literal["policy", "generator", "reward_model"]


class Assumptions(BaseModel):
    """What no recipe says. Lengths in tokens, shares 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt_tokens: float = Field(gt=0, description="a problem in the chat template")
    answer_share: float = Field(gt=0, le=1, description="mean completion as a share of max_new_tokens")
    policy_wrong: float = Field(ge=0, le=1, description="the policy's completions that are decidedly wrong")
    generator_wrong: float = Field(ge=0, le=1, description="the generator's, on average over its training and after")
    wrong_problems: float = Field(ge=0, le=1, description="problems with a wrong rollout")
    paired: float = Field(ge=0, le=1, description="problems with both a chosen response and a negative")
    symbolic: float = Field(
        ge=0, le=1, description="responses whose answer is checked symbolically; others cost nothing"
    )
    judge_prompt_tokens: float = Field(1400, gt=0, description="rubric, problem and response, as the judge reads them")
    judge_tokens: float = Field(300, gt=0, description="a verdict")
    judge_seconds: float = Field(10.0, gt=0, description="a verdict, with as many at a time as the recipe allows")


def assumptions(recipe: Recipe) -> Assumptions:
    """The defaults: for the embedded problems measured (`recipes/embedded.yaml`), for others ours."""
    if recipe.problems.source == "embedded":
        return Assumptions(
            prompt_tokens=33,
            answer_share=0.6,
            policy_wrong=0.6,
            generator_wrong=0.66,
            wrong_problems=0.85,
            paired=0.4,
            symbolic=0,
        )
    return Assumptions(
        prompt_tokens=140,
        answer_share=0.25,
        policy_wrong=0.25,
        generator_wrong=0.6,
        wrong_problems=0.45,
        paired=0.4,
        symbolic=0.3,
    )


def assume(recipe: Recipe, given: Sequence[str]) -> Assumptions:
    """The defaults with `key=value` in place. Raises UserError for an unknown key or a value out of range."""
    data = assumptions(recipe).model_dump()
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or key not in data:
            raise UserError(
                f"`{text}` assumes nothing", field="--assume", remedy=f"write KEY=VALUE with {', '.join(data)}"
            )
        data[key] = value
    try:
        return Assumptions.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {said(first)}", field="--assume", remedy="give a number in range") from None


def longest_generated(recipe: Recipe) -> int:
    """Tokens of the longest response that the trained generator writes, with the prefix of it that it goes on from."""
    part = recipe.negatives
    made = {
        "pns": part.sample.max_new_tokens,
        "pns_prefix": recipe.rollouts.max_new_tokens + part.prefix.max_new_tokens,
    }
    solved = recipe.rollouts.max_new_tokens if recipe.pairs.chosen_by == "generator" else 0
    return max([solved, *(tokens for method, tokens in made.items() if method in part.sources())])


@dataclass(frozen=True)
class Sample:
    """Completions drawn, in `rounds` equal lots one after the other.

    Attributes:
        batch: rows of a shard.
        continuous: as vLLM does it, else in static batches.
        compiled: these through torch.compile.
        pool: by the engines of all `ray_workers`; else one engine draws them, a shard after the other.
    """

    model: Which
    rows: int
    mean: float
    longest: int
    batch: int
    rounds: int = 1
    continuous: bool = False
    compiled: bool = False
    pool: bool = True


@dataclass(frozen=True)
class Read:
    """Texts read: log-probabilities, or scores of a reward model.

    `inside`: by a training, whose devices divide the rows; else one process on one device reads them all.
    """

    model: Which
    rows: int
    length: float
    rounds: int = 1
    inside: bool = False


@dataclass(frozen=True)
class Train:
    """Optimizer steps. `unit`: rows that stay together; `reference`: a second model is held and read for the loss."""

    model: Which
    steps: int
    rows: int
    length: float
    longest: int
    accumulation: int = 1
    unit: int = 1
    reference: bool = False
    lora: bool = False


@dataclass
class Work:
    """Of one stage.

    Attributes:
        calls: verdicts asked of a judge behind a server.
        models: model directories that it publishes.
        beside: models that transformers holds at the same time, for other work than the loss: on every device of a
            training, on one device of another stage.
    """

    rows: int = 0
    samples: list[Sample] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    train: Train | None = None
    calls: float = 0.0
    rounds: int = 1
    verified: int = 0
    models: tuple[Which, ...] = ()
    beside: tuple[Which, ...] = ()

    @property
    def decoded(self) -> float:
        """Tokens sampled."""
        return sum(s.rounds * s.rows * s.mean for s in self.samples)

    @property
    def trained(self) -> float:
        """Tokens in forward and backward passes."""
        return self.train.steps * self.train.rows * self.train.length if self.train is not None else 0.0


def continuous(recipe: Recipe, *, training: bool) -> bool:
    """Whether completions are decoded in continuous batches: of trainings, which sample through TRL, or of other stages."""
    if training:
        return recipe.runtime.vllm is not None
    return recipe.engine.kind != "transformers" or recipe.engine.continuous_batching


@dataclass(frozen=True)
class Desk:
    """What the counting of every stage needs."""

    recipe: Recipe
    given: Assumptions

    def answer(self, longest: int) -> float:
        return self.given.answer_share * longest

    def sample(self, model: Which, rows: int, longest: int, batch: int, *, pool: bool = True) -> Sample:
        """Of a stage that does not train."""
        flag = continuous(self.recipe, training=False)
        compiled = self.recipe.engine.compiled
        return Sample(model, rows, self.answer(longest), longest, batch, continuous=flag, compiled=compiled, pool=pool)

    @property
    def longest_answer(self) -> int:
        """Of the policy's rollouts and of the generator's samples."""
        return max(self.recipe.rollouts.max_new_tokens, longest_generated(self.recipe))

    @property
    def text(self) -> float:
        """Tokens of a prompt with a rollout."""
        return self.given.prompt_tokens + self.answer(self.recipe.rollouts.max_new_tokens)

    @property
    def judged(self) -> bool:
        return self.recipe.reward.judge == "server"

    def scored(self, work: Work, wrong: float, length: float, rounds: int = 1) -> None:
        """What the composite asks for: the gates spare reward model and judge all that is not decidedly wrong."""
        if self.recipe.reward.reward_model is None:
            inside = work.train is not None
            work.reads.append(Read("reward_model", math.ceil(wrong / rounds), length, rounds, inside))
            work.beside += ("reward_model",)
        if self.judged:
            work.calls += wrong
            work.rounds = max(work.rounds, rounds)


def benchmark_rows(recipe: Recipe) -> dict[str, int]:
    """Problems of each benchmark: of a set by its table, of a file at most `benchmark_size` (fewer where it has fewer)."""
    part = recipe.problems
    if part.source == "embedded":
        return dict.fromkeys(EMBEDDED, part.benchmark_size)
    return {name: min(part.benchmark_size, rows_of(file)) for name, file in part.benchmarks.items()}


def rows_of(source: Path) -> int:
    """Problems of a set by its table, or lines of a JSONL file that is here; else more than any size asks for."""
    entry = find(source)
    if entry is not None:
        return entry.rows
    if source.suffix == ".jsonl" and source.is_file():
        with source.open("rb") as stream:
            return sum(1 for line in stream if line.strip())
    return 10**9


def work_of(stage: Stage, recipe: Recipe, given: Assumptions) -> Work:
    """The work of a stage of this recipe; nothing where it neither samples, reads, trains nor verifies."""
    count = _COUNT.get(stage.call)
    return Work() if count is None else count(Desk(recipe, given), stage)


def _problems(desk: Desk, stage: Stage) -> Work:
    part = desk.recipe.problems
    rows = sum(part.splits.model_dump().values()) + sum(benchmark_rows(desk.recipe).values())
    return Work(rows=rows, verified=rows if part.source != "embedded" else 0)


def _start(desk: Desk, stage: Stage) -> Work:
    return Work(models=("policy",))


def _base(desk: Desk, stage: Stage) -> Work:
    return Work(models=("generator" if stage.args == ("generator",) else "reward_model",))


def _sft(desk: Desk, stage: Stage) -> Work:
    part, given = desk.recipe.sft, desk.given
    if not part.steps:
        return Work(models=("policy",))
    length = min(part.max_length, given.prompt_tokens + desk.answer(desk.recipe.rlvr.max_new_tokens))
    train = Train("policy", part.steps, part.batch_size, length, part.max_length, part.gradient_accumulation)
    return Work(rows=part.steps * part.batch_size, train=train, models=("policy",))


def _grpo(desk: Desk, part: GrpoPart, model: Which, steps: int | None = None) -> Work:
    """Of each step: sample its rows, verify them, read them under the reference where there is a KL term, train on them."""
    steps = part.steps if steps is None else steps
    rows, mean = part.prompts_per_step * part.num_generations, desk.answer(part.max_new_tokens)
    length, longest = desk.given.prompt_tokens + mean, math.ceil(desk.given.prompt_tokens) + part.max_new_tokens
    accumulation = rows // (part.micro_batch or rows)
    work = Work(rows=steps * rows, verified=steps * rows, models=(model,))
    flag = continuous(desk.recipe, training=True)
    compiled = desk.recipe.runtime.sampler == "compiled"
    work.samples.append(Sample(model, rows, mean, part.max_new_tokens, rows, steps, flag, compiled))
    if part.beta:
        work.reads.append(Read(model, rows, length, steps, inside=True))
    work.train = Train(model, steps, rows, length, longest, accumulation, reference=part.beta > 0)
    return work


def _rlvr(desk: Desk, stage: Stage) -> Work:
    return _grpo(desk, desk.recipe.rlvr, "policy")


def _more(desk: Desk, stage: Stage) -> Work:
    recipe, part = desk.recipe, desk.recipe.generator
    steps = more_steps(part, recipe.sampled_for_pns)
    most = sum(getattr(recipe.problems.splits, split) for split in recipe.splits_of_pns) // part.prompts_per_step
    return _grpo(desk, as_large_as(recipe.rlvr, part), "policy", min(steps, most))


def _generator(desk: Desk, stage: Stage) -> Work:
    part = desk.recipe.generator.of(stage.name)
    work = _grpo(desk, part, "generator")
    length = desk.given.prompt_tokens + desk.answer(part.max_new_tokens)
    asked = work.rows if part.control is None else work.rows / 2  # the other problems are to be solved
    desk.scored(work, desk.given.generator_wrong * asked, length, part.steps)
    return work


def _rollouts(desk: Desk, stage: Stage) -> Work:
    part, split = desk.recipe.rollouts, stage.args[0]
    rows = getattr(desk.recipe.problems.splits, split) * part.n
    work = Work(rows=rows, verified=rows)
    writer: Which = "generator" if "generator" in stage.args else "policy"
    work.samples.append(desk.sample(writer, rows, part.max_new_tokens, part.batch_size))
    if split == "pairs":
        work.reads.append(Read("policy", rows, desk.text))
        work.beside = ("policy",)
    return work


def _reward_model(desk: Desk, stage: Stage) -> Work:
    part, rows = desk.recipe.reward_model, 2 * desk.recipe.reward_model.batch_size
    length = min(part.max_length, desk.text)
    held = round(getattr(desk.recipe.problems.splits, stage.args[0]) * part.holdout) * desk.recipe.rollouts.n
    train = Train("reward_model", part.steps, rows, length, part.max_length, part.gradient_accumulation, unit=2)
    return Work(part.steps * rows, [], [Read("reward_model", held, length)], train, models=("reward_model",))


def _samples(desk: Desk, stage: Stage) -> Work:
    part = desk.recipe.negatives.sample
    rows = desk.recipe.problems.splits.pairs * part.n
    length = desk.given.prompt_tokens + desk.answer(part.max_new_tokens)
    work = Work(rows=rows, verified=rows)
    writers = len(desk.recipe.generator.stages)  # each takes its turn, with its share of the samples
    work.samples += [desk.sample("generator", rows // writers, part.max_new_tokens, part.batch_size)] * writers
    work.reads += [Read("generator", rows, length), Read("policy", rows, length)]
    work.beside = ("generator", "policy")
    desk.scored(work, desk.given.generator_wrong * rows, length)
    return work


def _negatives(desk: Desk, stage: Stage) -> Work:
    """Candidates of a method, all of them scored; of the policy's wrong ones those that are drawn."""
    recipe, given, method = desk.recipe, desk.given, stage.args[0]
    part, pairs = recipe.negatives, recipe.problems.splits.pairs
    if method in (*GENERATED, "mixture", "fill"):
        return Work()
    if method in ("rejection", "rejection_hard"):
        wrong, drawn = given.policy_wrong * recipe.rollouts.n, part.drawn(method)
        rows = pairs * (wrong if drawn is None else min(wrong, drawn * given.wrong_problems))
        work = Work(rows=round(rows), verified=round(rows))
        desk.scored(work, rows, desk.text)
        return work
    return _read_and_scored(desk, _written(desk, method, pairs), ("policy",))


def _prefix_samples(desk: Desk, stage: Stage) -> Work:
    work = _read_and_scored(
        desk, _written(desk, "pns_prefix", desk.recipe.problems.splits.pairs), ("generator", "policy")
    )
    begun = desk.given.prompt_tokens + desk.answer(desk.recipe.rollouts.max_new_tokens) / 2
    work.reads += [Read(model, work.rows, begun) for model in work.beside]
    return work


def _read_and_scored(desk: Desk, work: Work, readers: tuple[Which, ...]) -> Work:
    """With what their log-probabilities under some models cost, and their scores."""
    work.reads += [Read(model, work.rows, desk.text) for model in readers]
    work.beside = readers
    work.verified = work.rows
    desk.scored(work, work.rows, desk.text)
    return work


def _written(desk: Desk, method: str, pairs: int) -> Work:
    """What `prefix`, `pns_prefix` and `prompted` sample, or the candidates of a rule; of prefixes at most, all rounds."""
    part = desk.recipe.negatives
    if method in ("prefix", "pns_prefix"):
        own = part.prefix
        rows = pairs * own.n * own.rounds
        writer: Which = "policy" if method == "prefix" else "generator"
        drawn = desk.sample(writer, rows // own.rounds, own.max_new_tokens, own.batch_size, pool=False)
        return Work(rows=rows, samples=[drawn] * own.rounds)
    if method == "prompted":
        told = part.prompted
        rows = pairs * told.n * (2 if told.style == "both" else 1)
        drawn = desk.sample("policy", rows, told.max_new_tokens, told.batch_size, pool=False)
        return Work(rows=rows, samples=[drawn] if told.writer == "policy" else [])
    return Work(rows=pairs * part.per_problem)


def _audit(desk: Desk, stage: Stage) -> Work:
    recipe = desk.recipe
    rows = recipe.problems.splits.pairs * (1 + recipe.negatives.per_problem * len(recipe.negatives.methods))
    both: tuple[Which, ...] = ("reward_model", "reward_model")  # the audit model has the same shape
    return Work(rows=rows, reads=[Read(model, rows, desk.text) for model in both], beside=both)


def _align(desk: Desk, stage: Stage) -> Work:
    recipe, part = desk.recipe, desk.recipe.align
    pairs = min(recipe.pairs.n, round(desk.given.paired * recipe.problems.splits.pairs * recipe.negatives.per_problem))
    reference = part.objective not in ("simpo", "orpo")
    own_model = reference and part.lora is None and not part.precompute_reference
    sides = 1 if stage.call.endswith("sft_chosen") else 2
    steps = max(1, part.epochs * math.ceil(pairs / part.batch_size))
    length, longest = (
        min(part.max_length, desk.text),
        min(part.max_length, round(desk.given.prompt_tokens) + desk.longest_answer),
    )
    train = Train(
        "policy", steps, sides * part.batch_size, length, longest, part.gradient_accumulation, unit=sides,
        reference=own_model and sides == 2, lora=part.lora is not None and sides == 2,
    )  # fmt: skip
    work = Work(rows=pairs, train=train, models=("policy",))
    if sides == 2:
        if reference:
            work.reads.append(Read("policy", 2 * part.epochs * pairs, length, inside=True))
        work.reads.append(Read("policy", 2 * pairs, length))
    return work


def _evaluate(desk: Desk, stage: Stage) -> Work:
    part = desk.recipe.evaluate
    sizes = {**benchmark_rows(desk.recipe), "dev": desk.recipe.problems.splits.dev}
    drawn = [(rows, n) for name, rows in sizes.items() for n in (1, part.samples(name))]
    total = sum(rows * n for rows, n in drawn)
    # Each set has shards of its own, so its last one is small.
    samples = [desk.sample("policy", rows * n, part.max_new_tokens, part.batch_size) for rows, n in drawn]
    return Work(rows=total, verified=total, samples=samples)


_COUNT: dict[str, Callable[[Desk, Stage], Work]] = {
    "data:make_problems": _problems, "policy:make_start": _start, "policy:make_base": _base, "policy:sft": _sft,
    "policy:rlvr": _rlvr, "policy:rlvr_more": _more, "policy:reinforce": _more, "policy:rollouts": _rollouts,
    "models:reward_model": _reward_model, "models:generator": _generator, "samples:samples": _samples,
    "samples:prefix_samples": _prefix_samples,
    "negatives:negatives": _negatives, "negatives:audit": _audit, "align:align": _align, "align:sft_chosen": _align,
    "evaluate:evaluate": _evaluate,
}  # fmt: skip
