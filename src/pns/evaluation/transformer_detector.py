"""A small transformer as a detector: trained from scratch on each fold, on prompt and response. (Source: ours.)"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

from pns.evaluation.detectors import Floats, Scorer

VOCABULARY, LONGEST, HIDDEN, LAYERS, HEADS = 4096, 192, 64, 2, 2
EPOCHS, FEWEST_STEPS, BATCH, RATE = 3, 200, 16, 5e-4
_PAD, _CLS, _SEP = "[PAD]", "[CLS]", "[SEP]"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread; afterwards on as many as before.

    On a busy machine several threads wait for each other at every step, and take ten times as long (docs/log.md). One also
    sums in the same order however many cores there are; another number would change scores by rounding alone.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def fit_transformer(prompts: Sequence[str], texts: Sequence[str], labels: NDArray[np.int64], seed: int) -> Scorer:
    """A BERT of 2 layers, 64 wide, with byte-level tokens of its own; prompt and response are cut at 192 tokens.

    The longer of the two is cut first, at its beginning: a response ends in its answer. Learns and scores on one thread.
    """
    torch.manual_seed(seed)
    tokenizer = _tokenizer(texts, prompts)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN, max_position_embeddings=LONGEST, pad_token_id=0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,  # on a CPU dropout costs as much as the rest
    )  # fmt: skip
    model = _Classifier(config)
    rows = [_encode(tokenizer, *row) for row in zip(prompts, texts, strict=True)]
    order = random.Random(seed)
    steps = max(FEWEST_STEPS, EPOCHS * len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    target = torch.tensor(labels, dtype=torch.float32)
    model.train()
    for _ in range(steps):
        batch = order.sample(range(len(rows)), min(BATCH, len(rows)))
        logits = model(**_padded([rows[i] for i in batch]))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()

    @_one_thread()
    def score(given_prompts: Sequence[str], given: Sequence[str]) -> Floats:
        coded = [_encode(tokenizer, *row) for row in zip(given_prompts, given, strict=True)]
        out = np.zeros(len(coded))
        by_length = sorted(range(len(coded)), key=lambda i: len(coded[i][0]))
        with torch.inference_mode():
            for start in range(0, len(by_length), 128):
                some = by_length[start : start + 128]
                out[some] = model(**_padded([coded[i] for i in some])).numpy()
        return out

    return score


class _Classifier(torch.nn.Module):
    """A linear map of the mean over tokens: with so few texts, far quicker to learn than a class token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.body: Any = BertModel(config, add_pooling_layer=False)
        self.head = torch.nn.Linear(HIDDEN, 1)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.body(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * mask).sum(1) / mask.sum(1))[:, 0]


def _tokenizer(*texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[_PAD, _CLS, _SEP], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator((t for side in texts for t in side), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_CLS} $A {_SEP}", pair=f"{_CLS} $A {_SEP} $B:1 {_SEP}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (_CLS, _SEP)],
    )  # fmt: skip
    tokenizer.enable_truncation(LONGEST, strategy="longest_first", direction="left")
    return tokenizer


def _encode(tokenizer: Tokenizer, prompt: str, text: str) -> tuple[list[int], list[int]]:
    coded = tokenizer.encode(prompt, text)
    return coded.ids, coded.type_ids


def _padded(rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "token_type_ids": torch.tensor([kinds + [0] * (longest - len(kinds)) for _, kinds in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
    }
