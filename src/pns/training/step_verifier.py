"""A step verifier through transformers' Trainer: a token classifier on responses with their first wrong step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from pns.errors import UserError
from pns.evaluation.processbench import Chain
from pns.evaluation.step_verifier import RIGHT, WRONG, encode
from pns.recipe import RuntimePart, StepVerifierPart
from pns.sampling.engine import load_tokenizer
from pns.training.common import Progress, arguments, train, train_dtype
from pns.weights import whole_weights

NO_LABEL = -100


def row_of(tokenizer: Any, chain: Chain) -> dict[str, list[int]]:
    """`input_ids` and `labels` (T,) of a chain: a label at the last token of each step up to the first wrong one.

    What follows a wrong step has no label: whether it is right behind a mistake is not what anybody has said.
    """
    ids, places = encode(tokenizer, chain.problem, chain.steps)
    labels = [NO_LABEL] * len(ids)
    for i, at in enumerate(places):
        if 0 <= chain.label < i:
            break
        labels[at] = WRONG if i == chain.label else RIGHT
    return {"input_ids": ids, "labels": labels}


def train_step_verifier(
    start: Path,
    chains: Sequence[Chain],
    out: Path,
    *,
    part: StepVerifierPart,
    runtime: RuntimePart,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train a head of two labels on the model at `start`. Returns the log history.

    Raises UserError where chains of one kind (right, with a wrong step) are missing, or one is longer than
    `part.max_length` tokens.
    """
    if not any(chain.label < 0 for chain in chains) or not any(chain.label >= 0 for chain in chains):
        raise UserError(
            "a step verifier needs responses with a known first wrong step, and right ones",
            field="uses.step_verifier", remedy="more pairs, or a judge that names first wrong steps",
        )  # fmt: skip
    tokenizer = load_tokenizer(start)
    rows = [row_of(tokenizer, chain) for chain in chains]
    longest = max(len(row["input_ids"]) for row in rows)
    if longest > part.max_length:
        raise UserError(
            f"a response of {longest} tokens", field="uses.step_verifier.max_length", remedy=f"set it to {longest}"
        )
    set_seed(seed)  # the head's start is random
    with whole_weights(start):
        model = AutoModelForTokenClassification.from_pretrained(start, num_labels=2, dtype=train_dtype(runtime))
    config = TrainingArguments(
        **arguments(
            out,
            runtime,
            seed=seed,
            steps=part.steps,
            name="uses.step_verifier",
            batch=part.batch_size,
            micro=part.batch_size,
            learning_rate=part.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=round(0.05 * part.steps),
        )
    )
    collator = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=NO_LABEL)
    tokenizer.padding_side = "right"
    trainer = Trainer(model=model, args=config, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
    return train(trainer, out, progress)
