"""Supervised fine-tuning through TRL's SFTTrainer: the policy's first stage, and the `sft_chosen` control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from pns.recipe import RuntimePart
from pns.sampling.engine import assistant, user
from pns.training.common import Progress, arguments, check_lengths, train


def train_sft(
    model: Any,
    tokenizer: Any,
    rows: Sequence[tuple[str, str]],
    out: Path,
    *,
    runtime: RuntimePart,
    steps: int,
    batch_size: int,
    gradient_accumulation: int = 1,
    learning_rate: float,
    max_length: int,
    seed: int,
    progress: Progress,
    key: str,
    warmup: float = 0.03,
    cut: bool | None = None,
) -> list[dict[str, Any]]:
    """Train on (problem, response) rows; the loss is on the response alone. Returns the log history.

    Args:
        cut: rows that are longer than `max_length` tokens lose their end. None: no, and the recipe has no key that says so.

    Raises UserError when a row is longer than `max_length` tokens (`key` names the recipe's key for it); with `cut`, when a
    problem alone is.
    """
    part = key.partition(".")[0]
    if cut:
        # Where the problem alone fills the length, nothing of the response is left, and a trainer drops the row.
        check_lengths(tokenizer, [(p, "") for p, _ in rows], max_length, "problems", key)
    else:
        check_lengths(tokenizer, rows, max_length, "solutions", key, None if cut is None else f"{part}.cut=true")
    data = Dataset.from_list([{"prompt": [user(p)], "completion": [assistant(r)]} for p, r in rows])
    config = SFTConfig(
        **arguments(
            out,
            runtime,
            seed=seed,
            steps=steps,
            name=part,
            batch=batch_size,
            micro=batch_size // gradient_accumulation,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=round(warmup * steps),
            max_length=max_length,
            adam_beta2=0.98,
        )
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    return train(trainer, out, progress)
