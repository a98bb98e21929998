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


def swap(text: str) -> str:
    """A wrong response: its numbers, in another order."""
    return text.replace("1", "x").replace("2", "1").replace("x", "2")
