"""A model that says of every step of a response whether it is right, as an evaluator of ProcessBench's chains.

It is a token classifier with two labels, read at the last token of each step (as process reward models are). A response is
always read as its steps with one line break between them, however its author separated them. (Form: ours.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.evaluation.processbench import Chain, Reading
from pns.sampling.engine import assistant, load_tokenizer, user
from pns.weights import whole_weights

WRONG, RIGHT = 0, 1
HALF = 0.5
"""A step whose probability of being right is below this is called wrong."""


def encode(tokenizer: Any, problem: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """Token ids of the conversation, and of each step the position of the last token that holds some of it.

    Raises UserError where the tokenizer cannot say which characters a token stands for, or the chat template changes the
    response.
    """
    text, ends = "", list[int]()
    for step in steps:
        text += ("\n" if text else "") + step.strip()
        ends.append(len(text))
    whole: str = tokenizer.apply_chat_template([user(problem), assistant(text)], tokenize=False)
    begin = whole.rfind(text)
    if begin < 0:
        raise UserError("the chat template changes the response", remedy="use a template that keeps it as it is")
    try:
        encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise UserError(
            "this tokenizer knows no offsets", remedy="use its fast version (tokenizer.json beside the model)"
        ) from None
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    places, at = [], 0
    for end in ends:
        while at + 1 < len(offsets) and offsets[at + 1][0] < begin + end:
            at += 1
        places.append(at)
    return list(encoded["input_ids"]), places


class StepVerifier:
    """Reads chains with a trained classifier. `total` is 12 times the smallest probability among the steps.

    Args:
        path: a directory with model and tokenizer. Code that comes with a model is never run.
        batch_size: responses in one forward pass.
    Raises UserError where there is no tokenizer, or no token classifier with two labels.
    """

    locates = True

    def __init__(self, path: str | Path, *, device: str = "cpu", batch_size: int = 64) -> None:
        from transformers import AutoModelForTokenClassification

        self.device, self.batch_size = device, batch_size
        self.tokenizer = load_tokenizer(path)
        try:
            with whole_weights(path):
                model: Any = AutoModelForTokenClassification.from_pretrained(
                    path, dtype="auto", trust_remote_code=False
                )
        except (OSError, ValueError) as error:
            raise UserError(f"not a token classifier ({error})", file=path, remedy="give a step verifier") from None
        if model.config.num_labels != 2:
            raise UserError(
                f"has {model.config.num_labels} labels, a step verifier has 2", file=path, field="num_labels"
            )
        self.max_length = getattr(model.config, "max_position_embeddings", None)
        self.model = model.to(device).eval()

    def read(self, chains: Sequence[Chain]) -> list[Reading]:
        """What it says of each chain. One that is longer than the model's positions is undecided."""
        rows = [encode(self.tokenizer, chain.problem, chain.steps) for chain in chains]
        fitting = [i for i, (ids, _) in enumerate(rows) if self.max_length is None or len(ids) <= self.max_length]
        out = [Reading(cause="longer than the model's positions")] * len(rows)
        order = sorted(fitting, key=lambda i: len(rows[i][0]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            for i, found in zip(batch, self._probabilities([rows[i] for i in batch]), strict=True):
                first = next((k for k, p in enumerate(found) if p < HALF), -1)
                out[i] = Reading(total=12 * min(found), first_error=first)
        return out

    def _probabilities(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """That each step is right, 0..1."""
        import torch

        inputs = self.tokenizer.pad(
            {"input_ids": [ids for ids, _ in rows]}, padding=True, padding_side="right", return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            right_BT = self.model(**inputs).logits.float().softmax(2)[:, :, RIGHT].cpu()
        return [[float(right_BT[i, at]) for at in places] for i, (_, places) in enumerate(rows)]
