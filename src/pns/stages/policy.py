"""The policy: its start, SFT, RLVR (and references that go on from it), and its verified rollouts."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal

from transformers import set_seed

from pns.errors import UserError
from pns.parts.training import as_large_as, more_steps
from pns.problems.files import to_boxed
from pns.processes import OtherProcess, is_main, loading_device
from pns.recipe import GrpoPart, Reference, RuntimePart
from pns.records import Problem, Response, write_parquet
from pns.rewards.adapters.trl import AsyncRewardFunction, RewardFunction, rlvr_reward, signed_reward
from pns.rewards.format import format_failures
from pns.run import seed_of, write_json
from pns.sampling.engine import TransformersEngine, load_causal, load_tokenizer
from pns.sampling.prompts import model_end_ids
from pns.sampling.shards import Draw, sample
from pns.stages import engines
from pns.stages.context import Context
from pns.stages.engines import scorer
from pns.streams import by_problem, publish
from pns.training.common import save_model, train_dtype
from pns.training.grpo import train_grpo
from pns.training.pretrained import as_field, based_on, load_pretrained
from pns.training.sft import train_sft
from pns.training.tiny import build_model, build_tokenizer


def make_start(context: Context) -> None:
    """The model that SFT starts from, as a model directory."""
    part = context.recipe.model
    if part.kind == "pretrained":
        model, tokenizer = load_pretrained(part, device=context.recipe.runtime.device)
    else:
        set_seed(context.seed)
        tokenizer = build_tokenizer()
        model = build_model(part, tokenizer)
    save_model(model, tokenizer, context.out / "model")
    write_json(context.out / "start.json", {"parameters": sum(p.numel() for p in model.parameters())})


def make_base(context: Context, part: Literal["generator", "reward_model"]) -> None:
    """The other pretrained model that the generator or the reward model starts from, as a model directory."""
    recipe = context.recipe
    base = recipe.generator.base if part == "generator" else recipe.reward_model.base
    assert base is not None, "the pipeline has this stage only where there is one"
    with as_field(f"{part}.base"):
        model, tokenizer = load_pretrained(based_on(base, recipe), device=recipe.runtime.device)
    save_model(model, tokenizer, context.out / "model")
    write_json(context.out / "start.json", {"parameters": sum(p.numel() for p in model.parameters())})


def sft(context: Context) -> None:
    """Supervised fine-tuning on the solutions of the sft split; without steps the start is published as it is."""
    part, start = context.recipe.sft, context.model("start")
    if not part.steps:
        if not is_main():
            raise OtherProcess
        shutil.copytree(start, context.out / "model", dirs_exist_ok=True)
        return
    problems = context.problems("sft")
    # Each row is seen once where there are enough; a smaller set is passed over again by the trainer.
    rows = [(p.problem, p.solution or "") for p in problems[: part.steps * part.batch_size]]
    train_sft(
        load_causal(start, loading_device(context.recipe.runtime.device), train_dtype(context.recipe.runtime)),
        load_tokenizer(start),
        rows,
        context.out,
        runtime=context.recipe.runtime,
        steps=part.steps,
        batch_size=part.batch_size,
        gradient_accumulation=part.gradient_accumulation,
        learning_rate=part.learning_rate,
        warmup=part.warmup,
        max_length=part.max_length,
        seed=context.seed,
        progress=context.progress,
        key="sft.max_length",
    )


def rlvr(context: Context) -> None:
    """RLVR of the SFT model: the policy that all methods start from."""
    _rlvr(context, "sft", context.problems("rlvr"), context.recipe.rlvr)


def rlvr_more(context: Context) -> None:
    """RLVR continued on the problems that PNS used, with the rollouts that PNS cost: reward model, generator, negatives."""
    _rlvr(context, "rlvr", *_budget_of_pns(context))


def reinforce(context: Context, reference: Reference) -> None:
    """NSR or W-REINFORCE (arXiv 2506.01347) from the policy: `rlvr_more` with another reward, advantage and step size."""
    problems, part = _budget_of_pns(context)
    own = context.recipe.reinforce
    part = part.model_copy(update={"learning_rate": own.learning_rate or part.learning_rate})
    _rlvr(context, "rlvr", problems, part, positive_weight=own.positive_weight if reference == "w_reinforce" else 0.0)


def _budget_of_pns(context: Context) -> tuple[list[Problem], GrpoPart]:
    """The problems that PNS used, and RLVR's part with as many rollouts a step and steps as PNS cost; budget.json tells."""
    recipe = context.recipe
    problems = [p for split in recipe.splits_of_pns for p in context.problems(split)]
    steps = more_steps(recipe.generator, recipe.sampled_for_pns)
    part = as_large_as(
        recipe.rlvr, recipe.generator, steps=min(steps, len(problems) // recipe.generator.prompts_per_step)
    )
    write_json(context.out / "budget.json", {"steps": part.steps, "steps_of_pns": steps})
    return problems, part


def _rlvr(
    context: Context, start: str, problems: Sequence[Problem], part: GrpoPart, *, positive_weight: float | None = None
) -> None:
    recipe = context.recipe
    reward_of = partial(rlvr_reward, format_weight=recipe.rlvr.format_weight)
    with context.verifier() as verifier:
        reward = (reward_of if positive_weight is None else signed_reward)(
            verifier, {p.id: p for p in problems}, **reward_rules(context, start)
        )
        grpo(context, start, problems, reward, part, positive_weight)


def grpo(
    context: Context, start: str, problems: Sequence[Problem], reward: RewardFunction | AsyncRewardFunction, part: GrpoPart,
    positive_weight: float | None = None,
) -> None:  # fmt: skip
    """`train_grpo` from a stage's model into this stage's folder."""
    train_grpo(
        context.model(start),
        problems,
        reward,
        context.out,
        part=part,
        runtime=runtime_from(context.recipe.runtime, start),
        seed=context.seed,
        progress=context.progress,
        positive_weight=positive_weight,
    )


def runtime_from(runtime: RuntimePart, start: str) -> RuntimePart:
    """The runtime of a GRPO training from this stage's model: one of another base samples with a server of its own."""
    part = runtime.vllm
    if part is None or part.generator_url is None or start != "start-generator":
        return runtime
    return runtime.model_copy(update={"vllm": part.model_copy(update={"url": part.generator_url})})


def reward_rules(context: Context, start: str) -> dict[str, Any]:
    """What every reward that checks the form of a GRPO training's completions is told: format, length, tokens that end one."""
    part = context.recipe.reward
    return {"answer_format": part.answer_format, "max_chars": part.max_chars, "eos_ids": end_ids(context, start)}


def end_ids(context: Context, stage: str) -> set[int]:
    """The tokens that end a response of a stage's model."""
    return model_end_ids(context.model(stage), load_tokenizer(context.model(stage)))


def rollouts(context: Context, split: str, sampler: str = "rlvr") -> None:
    """`rollouts.n` verified samples of the policy for each problem of a split; for `pairs` also the chosen responses.

    Args:
        sampler: the input whose model is sampled. Log-probabilities are those of the policy, whoever wrote the responses;
            from another seed's policy (`foreign`) no response is chosen.
    """
    recipe = context.recipe
    problems = context.problems(split)
    policy = scorer(context, "rlvr")
    own = policy if sampler == "rlvr" else None
    writer = "generator" if sampler == "generator" else "policy"
    drawn = Draw(problems, recipe.rollouts, context.out / "shards", context.seed, writer)
    with context.verifier() as verifier:

        def finish(rows: Sequence[Problem], responses: list[Response]) -> list[Response]:
            verdicts = verifier.verify_problems(rows, [r.text for r in responses])
            done = [r.model_copy(update={"verdict": v}) for r, v in zip(responses, verdicts, strict=True)]
            if split != "pairs":
                return done
            logps = policy.log_probabilities([p.problem for p in rows], [r.text for r in done])
            # A generator's tokens may be of another kind than the policy's.
            return [
                r.model_copy(update={"policy_logp": lp, "n_tokens": r.n_tokens if writer == "policy" else n})
                for r, (lp, n) in zip(done, logps, strict=True)
            ]

        sample(engines.sampler(context, sampler, own), [drawn], finish, context.progress)
    publish(context.out / "responses.parquet", drawn.rows)
    if split == "pairs" and sampler != "foreign":
        chosen = _chosen(context, problems, drawn.rows(), policy, writer)
        write_parquet(context.out / "chosen.parquet", chosen)


def _chosen(
    context: Context,
    problems: Sequence[Problem],
    responses: Iterable[Response],
    engine: TransformersEngine,
    writer: str,
) -> list[Response]:
    """One correct, well-formed response a problem, drawn by seed; the same one serves every method."""
    recipe = context.recipe
    by_id = {p.id: p for p in problems}
    correct = (
        r
        for r in responses
        if r.verdict and r.verdict.outcome == "correct" and not _failures(context, by_id[r.problem_id], r)
    )
    rng = random.Random(seed_of(recipe.seed, "chosen"))
    groups = groupby(by_problem(correct, context.out), key=lambda r: r.problem_id)
    out = {identity: rng.choice(list(rows)) for identity, rows in groups}
    if recipe.pairs.chosen == "policy_or_reference":
        found = references(context, [p for p in problems if p.id not in out])
        logps = engine.log_probabilities([by_id[i].problem for i in found], [r.text for r in found.values()])
        for (identity, r), (lp, n) in zip(found.items(), logps, strict=True):
            out[identity] = r.model_copy(update={"policy_logp": lp, "n_tokens": n})
    if not out:
        raise UserError(
            f"none of {len(problems) * recipe.rollouts.n} rollouts of the {writer} on {len(problems)} problems is correct, so "
            "there is no chosen side",
            field="pairs.chosen",
            remedy=f"train the {writer} longer, draw more samples, or set pairs.chosen=policy_or_reference",
        )
    return [out[identity] for identity in sorted(out)]


def references(context: Context, problems: Sequence[Problem]) -> dict[str, Response]:
    """Reference solutions in the trained format, as verified-correct responses, for the problems that have one."""
    texts = {p.id: to_boxed(p) for p in problems}
    usable = [(p, text) for p in problems if (text := texts[p.id])]
    with context.verifier() as verifier:
        verdicts = verifier.verify_problems([p for p, _ in usable], [t for _, t in usable])
    return {
        p.id: Response(problem_id=p.id, text=t, index=0, source="reference", verdict=verdict)
        for (p, t), verdict in zip(usable, verdicts, strict=True)
        if verdict.outcome == "correct"
    }


def with_references(context: Context, problems: Sequence[Problem], responses: Sequence[Response]) -> list[Response]:
    """The responses, and the reference solution for each problem that no sampled response solves."""
    solved = {r.problem_id for r in responses if r.verdict and r.verdict.outcome == "correct"}
    return [*responses, *references(context, [p for p in problems if p.id not in solved]).values()]


def _failures(context: Context, problem: Problem, response: Response) -> tuple[str, ...]:
    reward = context.recipe.reward
    return format_failures(
        response.text,
        problem=problem.problem,
        finish=response.finish,
        answer_format=reward.answer_format,
        max_chars=reward.max_chars,
    )
