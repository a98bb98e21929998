"""The rewards as TRL's GRPOTrainer calls them (`reward_funcs`, TRL 1.16). This module needs neither TRL nor torch.

TRL calls `f(prompts=, completions=, completion_ids=, <dataset columns>=, trainer_state=, log_extra=, log_metric=)`
and takes a list of float or None; None leaves a completion out of its group's baseline and gives it advantage 0.

    composite = build_composite(load_reward("my/reward.yaml"))
    reward = composite_reward(composite, eos_ids={tokenizer.eos_token_id}, max_unscored=0.05)
    GRPOTrainer(..., reward_funcs=reward, train_dataset=...)  # with columns prompt, answer, and problem if need be
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pns.errors import StageStopped, UserError
from pns.records import Gate, Problem, Scores
from pns.rewards.adapters.fields import OPTIONAL, problem_of
from pns.rewards.adapters.log import RewardLog
from pns.rewards.composite import Composite, Finish, Scorer
from pns.rewards.format import format_failures
from pns.rewards.reward_model import Calibration
from pns.rewards.unscored import remedy
from pns.verify import Verifier

RewardFunction = Callable[..., list[float | None]]
AsyncRewardFunction = Callable[..., Awaitable[list[float | None]]]
Window = deque[tuple[int, int, Counter[tuple[str, str]]]]
"""Of each step: how many are unscored, how many there are, and the causes, each behind the part that failed."""

_COLUMNS = ("answer", "problem", "problem_id", *OPTIONAL)


def composite_reward(
    composite: Composite,
    problems: Mapping[str, Problem] | None = None,
    *,
    max_unscored: float,
    eos_ids: Collection[int],
    window_steps: int = 20,
    metrics: Callable[[dict[str, float]], None] | None = None,
    log: Path | None = None,
) -> AsyncRewardFunction:
    """The generator's reward, asynchronous: TRL runs it beside its other asynchronous rewards.

    Args:
        problems: by id, with a column `problem_id`. None: the columns say it all, `answer` (the gold one) and, where
            they are there, `problem`, `kind`, `tolerance`, `unit`; without `problem` the prompt's last user message is it.
        max_unscored: share (0..1) of unscored responses over the last `window_steps` calls above which the returned
            function raises StageStopped with the commonest cause; it does so as soon as a full window could no longer
            be below it.
        eos_ids: token ids that end a completion; one that ends on none of them was cut off.
        metrics: also given each call's means: shares of the five gates, `mean_M`, `mean_C` (where any was scored). They
            go to TRL's `log_metric` under `composite/`, too.
        log: a JSONL file for every completion with its breakdown, by step (see `RewardLog`). TRL's own table of
            completions, which `log_extra` fills, is written only with `log_completions`.
    """
    window: Window = deque(maxlen=window_steps)
    kept = None if log is None else RewardLog(log)

    async def reward(
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        rows = _problems(problems, prompts, columns)
        texts = [completion_text(c) for c in completions]
        finishes = [finish_of(ids, eos_ids) for ids in completion_ids]
        scores = await asyncio.to_thread(composite, rows, texts, finishes)
        means = _means(scores)
        if log_metric is not None:
            for name, value in means.items():
                log_metric(f"composite/{name}", value)
        if log_extra is not None:
            log_extra("gate", [s.gate for s in scores])
        if metrics is not None:
            metrics(means)
        if kept is not None:
            kept.append(getattr(trainer_state, "global_step", None), list(_logged(rows, texts, finishes, scores)))
        causes = Counter((str(s.unscored_by), s.unscored_cause or "unknown") for s in scores if s.gate == "unscored")
        window.append((causes.total(), len(scores), causes))
        _stop_if_unscored(window, max_unscored, window_steps)
        return [s.score for s in scores]

    reward.__name__ = "composite"
    return reward


def rlvr_reward(
    verifier: Verifier,
    problems: Mapping[str, Problem],
    *,
    format_weight: float,
    answer_format: str,
    max_chars: int,
    eos_ids: Collection[int],
    name: str = "rlvr",
) -> RewardFunction:
    """RLVR's reward: 1 for a correct and well-formed response, and `format_weight` for a well-formed one.

    A malformed response gets 0. A well-formed one whose answer cannot be decided because of the response is paid like a
    wrong one; where gold answer or system were the cause the reward is None. Its shares go to TRL's metrics under `name`.
    """

    def reward(
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        rows = _problems(problems, prompts, columns)
        texts = [completion_text(c) for c in completions]
        rules: dict[str, Any] = {"answer_format": answer_format, "max_chars": max_chars}
        finishes = [finish_of(ids, eos_ids) for ids in completion_ids]
        failures = [
            format_failures(text, problem=row.problem, finish=finish, **rules)
            for row, text, finish in zip(rows, texts, finishes, strict=True)
        ]
        formed = [i for i, failed in enumerate(failures) if not failed]
        out: list[float | None] = [0.0] * len(texts)
        correct = undecided = 0
        verdicts = verifier.verify_problems([rows[i] for i in formed], [texts[i] for i in formed])
        for i, verdict in zip(formed, verdicts, strict=True):
            right = verdict.outcome == "correct"
            blameless = verdict.outcome == "undecided" and verdict.cause != "response"
            out[i] = None if blameless else float(right) + format_weight
            correct, undecided = correct + right, undecided + (verdict.outcome == "undecided")
        if log_metric is not None and texts:
            for what, count in (("well_formed", len(formed)), ("correct", correct), ("undecided", undecided)):
                log_metric(f"{name}/{what}", count / len(texts))
        return out

    reward.__name__ = name
    return reward


def signed_reward(
    verifier: Verifier,
    problems: Mapping[str, Problem],
    *,
    answer_format: str,
    max_chars: int,
    eos_ids: Collection[int],
) -> RewardFunction:
    """The reward of NSR and W-REINFORCE: 1 for a correct and well-formed response, else -1 (arXiv 2506.01347).

    What counts as correct is what RLVR pays for (ours): a malformed response gets -1 whatever it says, and so does one
    whose answer cannot be decided because of the response. Where gold answer or system were the cause it is None.
    """
    paid = rlvr_reward(
        verifier, problems, format_weight=0.0, answer_format=answer_format, max_chars=max_chars, eos_ids=eos_ids
    )

    def reward(**columns: Any) -> list[float | None]:
        return [None if value is None else 2 * value - 1 for value in paid(**columns)]

    reward.__name__ = "signed"
    return reward


def either_reward(
    mistakes: AsyncRewardFunction, solutions: RewardFunction, solved: Collection[str]
) -> AsyncRewardFunction:
    """The reward of one generator with two goals: `solutions` pays the completions to the problems `solved` (by id),
    `mistakes` those to all others. Advantages are within one problem's completions, so the two scales never mix.
    """

    async def reward(
        *, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]],
        problem_id: Sequence[str], trainer_state: Any = None, log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:  # fmt: skip
        given = {
            "prompts": prompts, "completions": completions, "completion_ids": completion_ids, "problem_id": problem_id,
        }  # fmt: skip

        def rows(at: Sequence[int]) -> dict[str, Any]:
            own = {name: [values[i] for i in at] for name, values in given.items()}
            return {**own, "trainer_state": trainer_state, "log_metric": log_metric}

        to_solve = [i for i, identity in enumerate(problem_id) if identity in solved]
        to_err = [i for i, identity in enumerate(problem_id) if identity not in solved]
        paid: dict[int, float | None] = {}
        if to_err:
            paid |= zip(to_err, await mistakes(**rows(to_err)), strict=True)
        if to_solve:  # in a thread, as the composite is: the verifier waits for other processes
            paid |= zip(to_solve, await asyncio.to_thread(solutions, **rows(to_solve)), strict=True)
        return [paid[i] for i in range(len(problem_id))]

    reward.__name__ = "either"
    return reward


def scored_reward(
    scorer: Scorer,
    calibration: Calibration,
    problems: Mapping[str, Problem],
    *,
    answer_format: str,
    max_chars: int,
    eos_ids: Collection[int],
) -> RewardFunction:
    """A reward model's term M (0..1) for a well-formed response, whatever its answer; 0 for a malformed one.

    None where the reward model has no score: it is not the response's fault.
    """

    def reward(
        *, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        rows = _problems(problems, prompts, columns)
        texts = [completion_text(c) for c in completions]
        formed = [
            i
            for i, (row, text, ids) in enumerate(zip(rows, texts, completion_ids, strict=True))
            if not format_failures(
                text,
                problem=row.problem,
                finish=finish_of(ids, eos_ids),
                answer_format=answer_format,
                max_chars=max_chars,
            )
        ]
        out: list[float | None] = [0.0] * len(texts)
        raws = scorer.score([rows[i].problem for i in formed], [texts[i] for i in formed])
        for i, raw in zip(formed, raws, strict=True):
            out[i] = None if raw is None or isinstance(raw, Exception) else calibration.squash(raw)
        return out

    reward.__name__ = "reward_model"
    return reward


def completion_text(completion: Any) -> str:
    """The text of a completion, which TRL gives as a string or as a list of messages."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message["content"] or "") for message in completion if message.get("role") == "assistant")


def finish_of(ids: Sequence[int], eos_ids: Collection[int]) -> Finish:
    """`stop` if the completion's last token ends it, else `length`."""
    return "stop" if len(ids) and int(ids[-1]) in eos_ids else "length"


def _problems(
    problems: Mapping[str, Problem] | None, prompts: Sequence[Any], columns: Mapping[str, Any]
) -> list[Problem]:
    if problems is None:
        return _from_columns(prompts, columns)
    ids = columns.get("problem_id")
    if ids is None or len(ids) != len(prompts):
        raise UserError(
            "the training data need a problem id for each prompt", field="problem_id", remedy="add the column"
        )
    try:
        return [problems[i] for i in ids]
    except KeyError as error:
        raise UserError(
            f"unknown problem {error}", field="problem_id", remedy="give the problems of this data set"
        ) from None


def _from_columns(prompts: Sequence[Any], columns: Mapping[str, Any]) -> list[Problem]:
    out = []
    for i, prompt in enumerate(prompts):
        fields = {name: columns[name][i] for name in _COLUMNS if columns.get(name) is not None}
        fields["id"] = fields.pop("problem_id", None)
        fields.setdefault("problem", last_user_message(prompt))
        out.append(problem_of(fields, needs_text=True, where="the dataset's columns"))
    return out


def last_user_message(prompt: Any) -> str:
    """What the user said last in a conversation; of a prompt that is mere text, all of it."""
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt if message.get("role") == "user"]
    content = said[-1] if said else ""
    if isinstance(content, list):  # content blocks
        content = "".join(str(block.get("text") or "") for block in content)
    return str(content or "")


def _logged(
    rows: Sequence[Problem], texts: Sequence[str], finishes: Sequence[Finish], scores: Sequence[Scores]
) -> Iterator[dict[str, Any]]:
    for row, text, finish, score in zip(rows, texts, finishes, scores, strict=True):
        yield {"problem_id": row.id, "completion": text, "finish": finish, **score.model_dump(mode="json")}


def _means(scores: Sequence[Scores]) -> dict[str, float]:
    n = max(1, len(scores))
    means = {gate: sum(s.gate == gate for s in scores) / n for gate in get_args(Gate)}
    for name, values in (
        ("mean_M", [s.reward_model for s in scores if s.gate == "scored" and s.reward_model is not None]),
        ("mean_C", [s.rubric.value for s in scores if s.gate == "scored" and s.rubric is not None]),
    ):
        if values:
            means[name] = sum(values) / len(values)
    return means


def _stop_if_unscored(window: Window, limit: float, steps: int) -> None:
    """Stop when the window is over the limit: a full one, or one that good steps could not bring below it again."""
    unscored = sum(count for count, _, _ in window)
    seen = sum(n for _, n, _ in window)
    full = max(seen, seen / len(window) * steps) if window else 0
    if unscored > limit * full:
        causes: Counter[tuple[str, str]] = sum((c for _, _, c in window), Counter())
        (by, cause), _ = causes.most_common(1)[0]
        raise StageStopped(
            f"{unscored} of the last {seen} responses could not be scored (limit {limit:.0%} over {steps} steps); "
            f"commonest cause: {cause}\n  -> {remedy(by)}"
        )
