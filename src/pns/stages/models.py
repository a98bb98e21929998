"""Reward model, audit model, generator."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from pns.errors import UserError
from pns.evaluation.metrics import rank_auc
from pns.processes import is_main
from pns.recipe import RewardModelPart
from pns.records import Pair, Problem, Response, read_parquet
from pns.rewards.adapters.trl import composite_reward, either_reward, rlvr_reward
from pns.rewards.reward_model import Calibration, RewardModel
from pns.run import write_json
from pns.sampling.prompts import controlled
from pns.stages.context import CONTROL, Context
from pns.stages.policy import grpo, reward_rules, with_references
from pns.training.reward_model import TextPair, pairs_within, train_reward_model, worth


def reward_model(context: Context, split: str) -> None:
    """A reward model on the rollouts of a split: trained on most of its problems, calibrated and judged on the rest."""
    _reward_model(context, split, [])


def hardened_reward_model(context: Context, split: str, pairs: str, before: str, which: str) -> None:
    """As `reward_model`, with preference pairs as hard examples among its own, in as many steps.

    hard.json: the AUC over responses, and the accuracy within pairs, of the model `before` and of this one, on the pairs
    of problems that neither was trained on.

    Args:
        pairs: the input with the pairs; `which` of its files, as a pattern.
        before: the input with a reward model to compare with.
    """
    every = [p for f in sorted(context.inputs[pairs].glob(f"{which}.parquet")) for p in read_parquet(f, Pair)]
    ids = sorted({p.problem_id for p in every})
    random.Random(context.seed).shuffle(ids)
    held = set(ids[: max(1, round(len(ids) * context.recipe.reward_model.holdout))])
    _reward_model(context, split, [(p.prompt, p.chosen, p.rejected) for p in every if p.problem_id not in held])
    rest = [p for p in every if p.problem_id in held]
    models = {"before": context.model(before), "after": context.out / "model"}
    write_json(
        context.out / "hard.json",
        {"n_training_pairs": len(every) - len(rest), "n_held_out_pairs": len(rest)}
        | {name: _tells(context.reward_model(path), rest) for name, path in models.items()},
    )


def trained_on(ids: Sequence[str], part: RewardModelPart) -> set[str]:
    """The problems of its split that a reward model is trained on; the others are held out. Their order is random already."""
    return set(ids[: max(1, round(len(ids) * (1 - part.holdout)))])


def _tells(model: RewardModel, pairs: Sequence[Pair]) -> dict[str, float]:
    """How well a reward model tells the sides of pairs: over all responses, and within each pair (a tie counts half)."""
    chosen = model.score([p.prompt for p in pairs], [p.chosen for p in pairs])
    rejected = model.score([p.prompt for p in pairs], [p.rejected for p in pairs])
    within = [(c > r) + 0.5 * (c == r) for c, r in zip(chosen, rejected, strict=True)]
    return {"auc": rank_auc(chosen, rejected), "pair_accuracy": statistics.fmean(within)}


def _reward_model(context: Context, split: str, hard: list[TextPair]) -> None:
    recipe, part = context.recipe, context.recipe.reward_model
    problems = {p.id: p for p in context.problems(split)}
    responses = read_parquet(context.inputs[f"rollouts-{split}"] / "responses.parquet", Response)
    if part.correct == "policy_or_reference":
        responses = with_references(context, list(problems.values()), responses)
    train_ids = trained_on(list(problems), part)
    pairs = pairs_within(
        problems, [r for r in responses if r.problem_id in train_ids], part.pairs_per_problem, context.seed
    )
    if hard:  # evenly among the others, for the steps may not reach the end of the list
        pairs = [*pairs, *hard]
        random.Random(context.seed).shuffle(pairs)
    train_reward_model(
        context.model("rlvr" if part.base is None else "start-reward_model"),
        pairs,
        context.out,
        part=part,
        runtime=recipe.runtime,
        seed=context.seed,
        progress=context.progress,
    )
    held = [r for r in responses if r.problem_id not in train_ids]
    raw = score(context, [problems[r.problem_id] for r in held], held)
    right = [s for s, r in zip(raw, held, strict=True) if r.verdict and r.verdict.outcome == "correct"]
    if not right:
        raise UserError(
            "no held-out rollout is correct, so the reward model cannot be calibrated",
            field=f"problems.splits.{split}",
            remedy="more problems in this split, more samples (rollouts.n), or reward_model.correct=policy_or_reference",
        )
    calibration = Calibration.fit(right)
    calibration.save(context.out)
    groups: dict[str, list[tuple[float, bool]]] = {}
    for s, r in ((s, r) for s, r in zip(raw, held, strict=True) if r.source == "policy"):
        groups.setdefault(r.problem_id, []).append((s, bool(r.verdict and r.verdict.outcome == "correct")))
    write_json(
        context.out / "worth.json",
        {
            **worth(groups, recipe.rollouts.n),
            "n_training_pairs": len(pairs),
            "calibration": {"n": calibration.n, "median": calibration.median, "scale": calibration.scale},
        },
    )


def score(context: Context, problems: Sequence[Problem], responses: Sequence[Response]) -> list[float]:
    """Raw scores by the model that this stage has just published into its own folder."""
    model = context.reward_model(context.out / "model")
    return model.score([p.problem for p in problems], [r.text for r in responses])


def generator(context: Context, name: str = "generator") -> None:
    """Reverse RL: GRPO on the composite reward, with a KL term back to its start: the policy, or as the recipe says.

    With a control text, which control.json then holds, every other problem comes without it and is to be solved.

    Args:
        name: which of the recipe's generators.
    """
    recipe, part = context.recipe, context.recipe.generator.of(name)
    start, control = part.start_stage, part.control
    problems = context.problems("generator")
    by_id, rules = {p.id: p for p in problems}, reward_rules(context, start)
    log = context.out / "rewards.jsonl"
    with context.composite() as composite:
        reward = composite_reward(
            composite, by_id, max_unscored=recipe.reward.max_unscored, eos_ids=rules["eos_ids"], log=log
        )
        if control is not None:
            if is_main():
                write_json(context.out / CONTROL, {"control": control})
            weight = recipe.rlvr.format_weight
            solutions = rlvr_reward(composite.verifier, by_id, format_weight=weight, name="solving", **rules)
            reward = either_reward(reward, solutions, {p.id for p in problems[1::2]})
            problems[::2] = [p.model_copy(update={"problem": controlled(p.problem, control)}) for p in problems[::2]]
        grpo(context, start, problems, reward, part)
