"""Decoding through `torch.compile`: one CUDA graph a token in place of hundreds of small launches. (Source: ours.)

transformers compiles the decoding of a static cache. A graph belongs to its shapes and to the addresses of its cache, so both
stay: prompts are padded to a length that many batches share, and a cache serves every batch of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAGE = 64
"""Prompts are padded to multiples of this, where nobody knows the longest one beforehand."""


def padded(longest: int) -> int:
    """Tokens of a prompt of at most `longest`, padded to whole pages."""
    return -(-longest // PAGE) * PAGE


class CompiledDecoder:
    """`model.generate` with decoding compiled, on a GPU; elsewhere transformers does not compile, and all else is the same.

    Memory of a cache is kept until a batch of another shape comes.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        # A cache that is named there would stand beside the one that `generate` is given, which transformers refuses.
        model.generation_config.cache_implementation = None
        self._shape: tuple[int, int] | None = None
        self._cache: Any = None

    def generate(self, tokenizer: Any, prompts: Sequence[Sequence[int]], length: int, config: Any) -> list[list[int]]:
        """What follows each prompt, padding and all, in the order of the prompts.

        Args:
            prompts: token ids, each at most `length` long.
            config: a GenerationConfig; with `num_return_sequences` each prompt has so many rows, one after the other.
        """
        import torch

        # A list of its own, so that padding does not change the caller's.
        batch = tokenizer.pad(
            {"input_ids": [list(ids) for ids in prompts]},
            padding="max_length",
            max_length=length,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        config.disable_compile, config.cache_implementation = False, None
        cache = self._emptied((len(prompts) * (config.num_return_sequences or 1), length + config.max_new_tokens))
        with torch.no_grad():
            out = self.model.generate(**batch, generation_config=config, past_key_values=cache)
        rows: list[list[int]] = out[:, length:].tolist()
        return rows

    def _emptied(self, shape: tuple[int, int]) -> Any:
        """The cache for so many rows of so many tokens."""
        from transformers import StaticCache

        if self._shape == shape:
            self._cache.reset()
        else:
            self._cache = None  # before the next one is made: two would not fit, perhaps
            self._shape, self._cache = shape, StaticCache(config=self.model.config, max_cache_len=shape[1])
        return self._cache
