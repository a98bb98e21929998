"""Shapes of dense decoder models, and what follows from them: parameters, operations, bytes.

Pure functions of integers. B rows, T tokens of a row. Llama-like models: grouped-query attention, gated feed-forward,
RMS norms, rotary positions. Formulas: forward 2N operations a token and training 6N (arXiv 2001.08361, section 2.1), N the
parameters that are in matrix products, plus attention over the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pns.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, under the names of its config.json where those are longer."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocab: int
    positions: int
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The weight matrices of one layer by name, as (inputs, outputs)."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, wide), "k_proj": (self.hidden, narrow), "v_proj": (self.hidden, narrow),
            "o_proj": (wide, self.hidden), "gate_proj": (self.hidden, self.feed_forward),
            "up_proj": (self.hidden, self.feed_forward), "down_proj": (self.feed_forward, self.hidden),
        }  # fmt: skip

    def layer(self) -> int:
        """Parameters in the matrices of one layer."""
        return sum(a * b for a, b in self.matrices().values())

    def parameters(self, *, head: bool = True) -> int:
        """All parameters; without `head` those of a scalar reward model, which has one output in place of the vocabulary."""
        small = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        out = 0 if self.tied else self.vocab * self.hidden
        body = self.layers * (self.layer() + small + bias) + self.hidden + self.vocab * self.hidden
        return body + (out if head else self.hidden)

    def active(self, *, head: bool = True) -> int:
        """Parameters in matrix products: without the embedding, which is looked up."""
        return self.layers * self.layer() + (self.vocab if head else 1) * self.hidden

    def kv_bytes(self, width: int) -> int:
        """Bytes of keys and values that one token keeps, with numbers of `width` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * width

    def forward_flops(self, length: float, *, head: bool = True) -> float:
        """Operations of one row of `length` tokens, causal attention included (each token sees half of them)."""
        attention = 2 * self.layers * self.heads * self.head_dim * length
        return length * (2 * self.active(head=head) + attention)

    def train_flops(self, length: float, *, head: bool = True, again: bool = False) -> float:
        """Operations of forward and backward pass of one row; `again`: activations are computed twice."""
        return (4 if again else 3) * self.forward_flops(length, head=head)

    def decode_flops(self, context: float) -> float:
        """Operations of one new token of one row that has `context` tokens before it."""
        return 2 * self.active() + 4 * self.layers * self.heads * self.head_dim * context

    def activation_bytes(self, width: int, *, again: bool = False) -> int:
        """Bytes that one token keeps for the backward pass, attention not materialised.

        A layer keeps its two inputs and their norms, q, k, v, what attention gives, and four of the feed-forward; with
        `again` its input alone, and one whole layer at a time. (Counted by us from the graph of a Llama layer.)
        """
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        whole = 4 * self.hidden + 2 * wide + 2 * narrow + 4 * self.feed_forward
        return width * (self.layers * self.hidden + whole if again else self.layers * whole)

    def lora_parameters(self, r: int, modules: tuple[str, ...] | str) -> int:
        """Trainable parameters of rank-`r` adapters on the named matrices, or on all of a layer (`all-linear`)."""
        chosen = [ab for name, ab in self.matrices().items() if isinstance(modules, str) or name in modules]
        return self.layers * sum(r * (a + b) for a, b in chosen)


_QWEN_7B = Shape(3584, 28, 28, 4, 128, 18944, 152064, 32768, qkv_bias=True)

KNOWN: dict[str, Shape] = {
    "Qwen/Qwen2.5-7B-Instruct": _QWEN_7B,
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1536, 28, 12, 2, 128, 8960, 151936, 32768, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, 32768, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-Math-7B-Instruct": Shape(3584, 28, 28, 4, 128, 18944, 152064, 4096, qkv_bias=True),
    "Qwen/Qwen3-4B": Shape(2560, 36, 32, 8, 128, 9728, 151936, 40960, tied=True, qk_norm=True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4096, 32, 32, 8, 128, 14336, 128256, 131072),
}
"""Shapes of the hub ids in our recipes and in docs/scale.md, for plans without a hub: facts of their config.json."""


MOST = 10**9
"""No model has a size beyond it, and no product of sizes below it is too large for a float."""


def from_config(config: Mapping[str, Any], where: str = "config.json") -> Shape:
    """The shape that a config.json states. Raises UserError where a size is missing or none, or the model not of this kind."""
    if config.get("num_experts") or config.get("num_local_experts"):
        raise UserError(
            "a mixture of experts; the cost model knows dense models", file=where, remedy="plan another model"
        )
    try:
        hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        return Shape(
            hidden=hidden,
            layers=_size(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=_size({"num_key_value_heads": heads, **_said(config)}, "num_key_value_heads"),
            head_dim=_size({"head_dim": hidden // heads, **_said(config)}, "head_dim"),
            feed_forward=_size(config, "intermediate_size"),
            vocab=_size(config, "vocab_size"),
            positions=int(config.get("max_position_embeddings") or 0),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias")),
            qk_norm=config.get("model_type") == "qwen3",
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"no size of a dense decoder: {error}", file=where, remedy="the cost model reads Llama-like configurations"
        ) from None


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says: null and 0 say nothing."""
    return {key: value for key, value in config.items() if value}


def _size(config: Mapping[str, Any], name: str) -> int:
    """A size of the model. Raises KeyError, TypeError, ValueError or OverflowError where it is missing, or none."""
    found = int(config[name])
    if not 1 <= found <= MOST:
        raise ValueError(f"{name} is not from 1 to {MOST:,}")
    return found
