"""A small model to train, and a wrong response."""

from __future__ import annotations

from pathlib import Path


def save_small_model(path: Path) -> Path:
    """A word-level Llama of one layer with its tokenizer, the same weights each time."""
    import torch

    from pns.recipe import ModelPart
    from pns.training.common import save_model
    from pns.training.tiny import build_model, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    save_model(build_model(ModelPart(hidden=32, layers=1, heads=4, feed_forward=32), tokenizer), tokenizer, path)
    return path


def save_small_reward_model(path: Path) -> Path:
    """A reward model over the tokenizer of `save_small_model`, the same weights each time."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from pns.training.tiny import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_labels=1, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **sizes,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def swap(text: str) -> str:
    """A wrong response: its numbers, in another order."""
    return text.replace("1", "x").replace("2", "1").replace("x", "2")
