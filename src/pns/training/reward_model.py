"""The reward model through TRL's RewardTrainer: centre-regularised Bradley-Terry on pairs within one problem."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

from pns.errors import UserError
from pns.recipe import RewardModelPart, RuntimePart
from pns.records import Problem, Response
from pns.sampling.engine import assistant, load_tokenizer, user
from pns.training.batches import rows_of
from pns.training.common import Progress, arguments, check_lengths, train, train_dtype
from pns.weights import whole_weights

TextPair = tuple[str, str, str]


def by_problem(responses: Sequence[Response]) -> dict[str, tuple[list[Response], list[Response]]]:
    """Responses with a decided verdict, as (correct, wrong) for each problem, in the order given."""
    out: dict[str, tuple[list[Response], list[Response]]] = {}
    for r in responses:
        if r.verdict is not None and r.verdict.outcome != "undecided":
            out.setdefault(r.problem_id, ([], []))[r.verdict.outcome == "wrong"].append(r)
    return out


def pairs_within(
    problems: Mapping[str, Problem], responses: Sequence[Response], most: int, seed: int
) -> list[TextPair]:
    """(problem, correct response, wrong response) triples, at most `most` distinct ones a problem."""
    rng = random.Random(seed)
    out: list[TextPair] = []
    for identity, (correct, wrong) in by_problem(responses).items():
        texts = sorted(set(itertools.product({r.text for r in correct}, {r.text for r in wrong})))
        chosen = rng.sample(texts, min(most, len(texts)))
        out += [(problems[identity].problem, right, bad) for right, bad in chosen]
    rng.shuffle(out)
    return out


def train_reward_model(
    start: Path,
    pairs: Sequence[TextPair],
    out: Path,
    *,
    part: RewardModelPart,
    runtime: RuntimePart,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train a scalar head on the model at `start`. Returns the log history.

    Raises UserError when there are no pairs, when one is longer than `part.max_length` tokens (TRL would drop it
    silently), or when pad and end tokens are the same (engines would then pool different positions).
    """
    if not pairs:
        raise UserError(
            "no problem has both a right and a wrong response, so there is nothing to train a reward model on",
            field="problems.splits.reward",
            remedy="more problems, more samples (rollouts.n), or a policy that is neither perfect nor hopeless",
        )
    tokenizer = load_tokenizer(start)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            "pad and end tokens are the same", file=start, remedy="give the tokenizer a pad token of its own"
        )
    rows = [(p, text) for p, right, wrong in pairs for text in (right, wrong)]
    check_lengths(tokenizer, rows, part.max_length, "responses of reward-model pairs", "reward_model.max_length")
    set_seed(seed)  # the head's start is random
    with whole_weights(start):
        model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1, dtype=train_dtype(runtime))
    model.config.pad_token_id = tokenizer.pad_token_id
    data = Dataset.from_list(
        [{"chosen": [user(p), assistant(c)], "rejected": [user(p), assistant(r)]} for p, c, r in pairs]
    )
    batch, micro = rows_of(part)
    config = RewardConfig(
        **arguments(
            out,
            runtime,
            seed=seed,
            steps=part.steps,
            name="reward_model",
            batch=batch,
            micro=micro,
            learning_rate=part.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=round(0.05 * part.steps),
            center_rewards_coefficient=part.center,
            max_length=part.max_length,
        )
    )
    trainer = RewardTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    return train(trainer, out, progress)


def worth(scores: Mapping[str, Sequence[tuple[float, bool]]], n: int) -> dict[str, float | int | None]:
    """What a reward model is worth on held-out problems, judged within problems.

    Args:
        scores: for each problem the (raw score, correct) of its `n` responses.
    Returns:
        `pair_accuracy` over all right/wrong pairs (a tie counts half), `best_of_{n}` accuracy, `mean_of_{n}`,
        `oracle_of_{n}` (0..1; None where no pair exists), `n_problems`, `n_pairs`.
    """
    won = total = 0.0
    best, mean, oracle = [], [], []
    for rows in scores.values():
        right = [s for s, ok in rows if ok]
        wrong = [s for s, ok in rows if not ok]
        total += len(right) * len(wrong)
        won += sum((a > b) + 0.5 * (a == b) for a in right for b in wrong)
        best.append(max(rows, key=lambda row: row[0])[1])
        mean.append(len(right) / len(rows))
        oracle.append(bool(right))
    count = max(1, len(best))
    return {
        "pair_accuracy": won / total if total else None,
        f"best_of_{n}": sum(best) / count,
        f"mean_of_{n}": sum(mean) / count,
        f"oracle_of_{n}": sum(oracle) / count,
        "n_problems": len(best),
        "n_pairs": int(total),
    }
