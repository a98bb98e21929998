"""Seconds of a study's tasks by the cost model of `pns plan`, for models and machines of which nothing was measured."""

from __future__ import annotations

from dataclasses import replace

from pns.errors import UserError
from pns.plan.cost import Spread
from pns.plan.estimate import Setting, estimate
from pns.plan.machine import DEFAULTS
from pns.plan.models import shapes_of
from pns.plan.work import Read, Train, Work, assumptions, work_of
from pns.recipe import Recipe
from pns.scheduler import Task

# Stages that a study has and a run has not, by the stage of a run that does what costs time in them.
_LIKE = {"models:hardened_reward_model": "models:reward_model", "uses:rl": "models:generator"}


class CostModel:
    """What the cost model says, with the default constants of a machine. A model's shape is looked up once."""

    def __init__(self) -> None:
        self._settings: dict[str, Setting | None] = {}

    def seconds(self, task: Task) -> float | None:
        """Of all the task's devices at work together; None where the cost model has no answer: a model whose shape is not
        known, or one that another writer than the policy stands behind.
        """
        recipe, setting = task.recipe, self._setting(task.recipe)
        if setting is None:
            return None
        prompted = task.stage.call == "negatives:negatives" and task.stage.args[0] == "prompted"
        if prompted and recipe.negatives.prompted.writer != "policy":
            return None
        try:
            return estimate(task.stage.name, _work(task, setting), recipe, setting).total
        except (UserError, OverflowError):
            return None

    def _setting(self, recipe: Recipe) -> Setting | None:
        key = recipe.model_dump_json(include={"model", "generator", "reward_model", "problems", "runtime"})
        if key not in self._settings:
            self._settings[key] = _setting(recipe)
        return self._settings[key]


def _setting(recipe: Recipe) -> Setting | None:
    try:
        shapes, _ = shapes_of(recipe)
    except UserError:
        return None
    machine = DEFAULTS[recipe.runtime.device]
    return Setting(shapes, machine, Spread(recipe.runtime.processes), assumptions(recipe))


def _work(task: Task, setting: Setting) -> Work:
    stage, recipe, given = task.stage, task.recipe, setting.given
    call = stage.call
    text = given.prompt_tokens + given.answer_share * recipe.rollouts.max_new_tokens
    pairs = recipe.problems.splits.pairs
    if call in ("evaluate:dev", "evaluate:test"):
        return _evaluated(task, setting)
    if call == "negatives:reward_scores":
        rows = pairs * (1 + recipe.negatives.per_problem * len(recipe.negatives.methods))
        return Work(rows=rows, reads=[Read("reward_model", rows, text)], beside=("reward_model",))
    if call == "uses:calibration":
        rows = 3 * recipe.uses.calibration_responses
        calls = rows if recipe.reward.judge == "server" else 0
        return Work(rows=rows, reads=[Read("reward_model", rows, text)], calls=calls, beside=("reward_model",))
    if call == "uses:step_verifier":
        part, answers = recipe.uses.step_verifier, recipe.problems.splits.reward * recipe.rollouts.n
        train = Train("reward_model", part.steps, part.batch_size, min(part.max_length, text), part.max_length)
        return Work(part.steps * part.batch_size, [], [Read("reward_model", answers, text)], train)
    return work_of(replace(stage, call=_LIKE.get(call, call)), recipe, given)


def _evaluated(task: Task, setting: Setting) -> Work:
    """One half of what a run's evaluation counts, and both readings of the samples for KL."""
    whole = work_of(replace(task.stage, call="evaluate:evaluate"), task.recipe, setting.given)
    # Greedy and sampled answers of each set in turn, those of the development split last.
    mine = whole.samples[-2:] if task.stage.call == "evaluate:dev" else whole.samples[:-2]
    rows, sampled = sum(s.rows for s in mine), sum(s.rows for s in mine[1::2])
    length = setting.given.prompt_tokens + mine[0].mean
    return Work(rows, mine, [Read("policy", sampled, length)] * 2, verified=rows, beside=("policy",))
