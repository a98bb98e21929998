"""What else negatives are good for: step verifiers, calibrated judges, RL on a reward model that saw them. (`pns study`)"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from pns.evaluation.first_errors import Chosen, first_error
from pns.evaluation.negative_rows import Negative
from pns.evaluation.probabilities import fit_and_judge
from pns.evaluation.processbench import Chain, evaluate
from pns.evaluation.step_labels import chosen_chains, label_negatives, rejected_chains
from pns.evaluation.step_verifier import StepVerifier
from pns.evaluation.texts import split_steps
from pns.parts.training import as_large_as
from pns.records import Pair, Problem, Response, read_parquet
from pns.rewards.adapters.trl import scored_reward
from pns.rewards.arithmetic import find_steps
from pns.rewards.reward_model import Calibration, FittingScorer
from pns.run import write_json
from pns.stages.context import Context
from pns.stages.models import trained_on
from pns.stages.policy import grpo, references, reward_rules
from pns.streams import read_responses
from pns.training.step_verifier import train_step_verifier

SPLIT = "reward"
"""The policy's answers to these problems are what is judged; pairs are made of others."""


def step_verifier(context: Context, which: str) -> None:
    """A step verifier on one method's pairs, judged on the policy's own answers to other problems.

    Labels of both are those of rules (see `first_errors`); what they leave undecided is left out. verifier.json: the
    figures of `processbench.evaluate`, and how many chains there were of each label.
    """
    recipe, part = context.recipe, context.recipe.uses.step_verifier
    pairs = read_parquet(context.inputs["pairs"] / f"{which}.parquet", Pair)
    problems = {p.id: p for p in context.problems("pairs")}
    negatives = [
        Negative(i, p.prompt, p.rejected, p.method, p.chosen, problems[p.problem_id]) for i, p in enumerate(pairs)
    ]
    with context.verifier() as verifier:
        rows = label_negatives(negatives, verifier)
    right, _ = chosen_chains(rows, which)
    wrong = rejected_chains(rows, which)
    chains = [*right, *wrong]
    random.Random(context.seed).shuffle(chains)
    train_step_verifier(
        context.model("rlvr"),
        chains,
        context.out,
        part=part,
        runtime=recipe.runtime,
        seed=context.seed,
        progress=context.progress,
    )
    held = _held_out(context)
    readings = StepVerifier(context.out / "model", device=recipe.runtime.device).read(held)
    figures = evaluate(held, readings, locates=True, samples=recipe.evaluate.bootstrap, seed=context.seed)
    told = {"n_training_pairs": len(pairs), "n_right": len(right), "n_wrong": len(wrong)}
    write_json(context.out / "verifier.json", {**told, "held_out": figures})


def _held_out(context: Context) -> list[Chain]:
    """The policy's distinct answers with a decided first wrong step, or a right answer and no false statement.

    The reference solution stands beside a wrong answer, where a problem has one that is verified correct.
    """
    problems = {p.id: p for p in context.problems(SPLIT)}
    known = references(context, list(problems.values()))
    beside = {i: Chosen(split_steps(r.text), "correct") for i, r in known.items()}
    out: list[Chain] = []
    seen: set[tuple[str, str]] = set()
    for r in _responses(context):
        if r.verdict is None or (r.problem_id, r.text) in seen or not r.text.strip():
            continue
        seen.add((r.problem_id, r.text))
        problem, steps = problems[r.problem_id].problem, split_steps(r.text)
        if r.verdict.outcome == "correct":
            step = None if any(not s.right for step in steps for s in find_steps(step)) else -1
        else:
            step = first_error(problem, steps, r.verdict.outcome, beside.get(r.problem_id)).step
        if step is not None:
            out.append(Chain(id=f"{r.problem_id}-{r.index}", problem=problem, steps=tuple(steps), label=step))
    return out


def _responses(context: Context) -> Iterator[Response]:
    return read_responses(context.inputs[f"rollouts-{SPLIT}"] / "responses.parquet")


def calibration(context: Context, which: str) -> None:
    """Whether a judge and a reward model that were calibrated on one method's pairs know how sure they may be.

    probabilities.json: for each of `judge`, `reward_model` and `both` the figures of `fit_and_judge` on the policy's answers
    to problems that the reward model was not trained on, fitted on the pairs and, as what is best, on the policy's own answers
    to the problems that it was trained on.
    """
    pairs = read_parquet(context.inputs["pairs"] / f"{which}.parquet", Pair)
    own, held = _halves(context)
    prior = sum(right for _, _, right in own) / max(1, len(own))
    both_sides = [(p.prompt, text, right) for p in pairs for text, right in ((p.chosen, True), (p.rejected, False))]
    rng, most = random.Random(context.seed), context.recipe.uses.calibration_responses
    groups = {"pairs": both_sides, "policy": own, "held": held}
    drawn = {name: rng.sample(rows, min(most, len(rows))) for name, rows in groups.items()}
    with context.composite() as composite:
        scored = {name: _scores(composite, rows) for name, rows in drawn.items()}
    out: dict[str, Any] = {}
    for name, columns in {"judge": (0,), "reward_model": (1,), "both": (0, 1)}.items():
        kept = {group: _complete(rows, columns) for group, rows in scored.items()}
        out[name] = {
            f"fitted_on_{group}": fit_and_judge(*kept[group], *kept["held"], prior=prior)
            for group in ("pairs", "policy")
        }
    write_json(context.out / "probabilities.json", {**out, "prior": prior})


Judged = tuple[str, str, bool]
"""problem, response, whether it is correct."""


def _halves(context: Context) -> tuple[list[Judged], list[Judged]]:
    """The policy's decided answers to the problems that the reward model was trained on, and to the others."""
    problems: dict[str, Problem] = {p.id: p for p in context.problems(SPLIT)}
    trained = trained_on(list(problems), context.recipe.reward_model)
    own, held = list[Judged](), list[Judged]()
    for r in _responses(context):
        if r.verdict is not None and r.verdict.outcome != "undecided":
            row = problems[r.problem_id].problem, r.text, r.verdict.outcome == "correct"
            (own if r.problem_id in trained else held).append(row)
    return own, held


Scored = tuple[list[float | None], bool]


def _scores(composite: Any, rows: Sequence[Judged]) -> list[Scored]:
    """(judge's total, reward model's raw score) of each; None where it has none."""
    raws, judgements = composite.terms([p for p, _, _ in rows], [t for _, t, _ in rows])
    out: list[Scored] = []
    for (_, _, right), raw, judged in zip(rows, raws, judgements, strict=True):
        total = None if judged is None or judged.rubric is None else float(judged.rubric.total)
        out.append(([total, raw if isinstance(raw, float) else None], right))
    return out


def _complete(rows: Sequence[Scored], columns: tuple[int, ...]) -> tuple[list[list[float]], list[bool]]:
    """The rows that have all these scores: unscored is not zero."""
    kept = [([row[c] for c in columns], right) for row, right in rows if all(row[c] is not None for c in columns)]
    return [[float(x) for x in values if x is not None] for values, _ in kept], [right for _, right in kept]


def rl(context: Context, judge: str) -> None:
    """RL of the policy on a reward model alone: what the model is worth as a reward. (GRPO, malformed responses earn 0.)

    Problems and budget are those of the generator's training.

    Args:
        judge: the input with the reward model.
    """
    recipe, own = context.recipe, context.recipe.uses.rl
    problems = context.problems("generator")
    part = as_large_as(
        recipe.rlvr,
        recipe.generator,
        steps=recipe.generator.steps,
        beta=own.beta,
        learning_rate=own.learning_rate or recipe.rlvr.learning_rate,
    )
    folder = context.inputs[judge]
    reward = scored_reward(
        FittingScorer(context.reward_model(folder / "model")),
        Calibration.load(folder),
        {p.id: p for p in problems},
        **reward_rules(context, "rlvr"),
    )
    grpo(context, "rlvr", problems, reward, part)
