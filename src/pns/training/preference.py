"""Preference training through TRL's DPOTrainer: DPO, optionally with the NLL of the chosen side beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from pns.recipe import AlignPart, RuntimePart
from pns.records import Pair
from pns.sampling.engine import assistant, load_causal, load_tokenizer, user
from pns.training.common import Progress, arguments, check_lengths, train


def align_steps(n_pairs: int, part: AlignPart) -> int:
    """Optimizer steps of preference training on `n_pairs` pairs."""
    return max(1, part.epochs * -(-n_pairs // part.batch_size))


def train_dpo(
    start: Path,
    pairs: Sequence[Pair],
    out: Path,
    *,
    part: AlignPart,
    runtime: RuntimePart,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """DPO from the model at `start`, which is also the reference. Returns the log history.

    Raises UserError when a pair is longer than `part.max_length` tokens.
    """
    tokenizer = load_tokenizer(start)
    rows = [(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)]
    check_lengths(tokenizer, rows, part.max_length, "sides of preference pairs", "align.max_length")
    data = Dataset.from_list(
        [
            {"prompt": [user(p.prompt)], "chosen": [assistant(p.chosen)], "rejected": [assistant(p.rejected)]}
            for p in pairs
        ]
    )
    losses: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if part.nll_weight:
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, part.nll_weight]}
    steps = align_steps(len(pairs), part)
    config = DPOConfig(
        **arguments(
            out,
            runtime,
            seed=seed,
            steps=steps,
            per_device_train_batch_size=part.batch_size,
            learning_rate=part.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=round(0.1 * steps),
            beta=part.beta,
            max_length=part.max_length,
            **losses,
        )
    )
    # An in-memory model has no reference of its own in TRL, so it is given one, loaded from the same directory.
    trainer = DPOTrainer(
        model=load_causal(start, runtime.device),
        ref_model=load_causal(start, runtime.device),
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
    )
    return train(trainer, out, progress)
