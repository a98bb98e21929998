"""A tiny Llama from scratch with a tokenizer of its own: whole numbers are tokens, `\\boxed{` is one token (ours).

Whole-number tokens are what makes arithmetic learnable in a minute on one core; digit tokens need many times that.
"""

from __future__ import annotations

import math
import re

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pns.problems import families
from pns.recipe import ModelPart

# Measured on 9,600 stories, share of right step results: features at 0 / 8 / 16 times the 0.02 start: 25 / 65 / 81 %.
INIT_RANGE = 0.04
NUMBER_SCALE = 8.0
PIECE = r" ?\\boxed\{| ?[A-Za-z]+| ?[0-9]+|\n| ?[^\sA-Za-z0-9]|\s"
SPECIAL = ("<pad>", "<unk>", "<end>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<user>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<assistant>' + m['content'] + '<end>' }}"
    "{% else %}{{ raise_exception('this template knows only user and assistant') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def pieces(text: str) -> list[str]:
    """The text cut into the tokenizer's pieces; joined they give the text back."""
    return re.findall(PIECE, text)


def vocabulary() -> list[str]:
    """All tokens, special ones first, in a fixed order."""
    texts = [f"{n}" for n in range(families.LIMIT + 1)] + [f" {n}" for n in range(families.LIMIT + 1)]
    texts += [f"{name}{sep} {name}" for name in families.NAMES for sep in ("", ".")]
    texts += [f" {obj}" for obj in families.OBJECTS]
    texts += [f" {s.format(a='', b='', v='', o='')}" for _, ss in families.EVENTS.values() for s in ss]
    texts += [
        " ".join(families.MARKERS),
        " ".join(("", *families.MARKERS)),
        " How many does do have has now? together? and more fewer than",
    ]
    texts += ["Step 1: + - * / = \nThe answer is \\boxed{}"]
    seen = dict.fromkeys(piece for text in texts for piece in pieces(text))
    return [*SPECIAL, *seen]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded tokenizer with its chat template. Pad and end tokens differ, so that reward models pool the end token."""
    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build_model(part: ModelPart, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights (seed torch before the call). Sizes from the recipe."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=part.hidden,
        num_hidden_layers=part.layers,
        num_attention_heads=part.heads,
        num_key_value_heads=part.heads,
        intermediate_size=part.feed_forward,
        max_position_embeddings=part.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=INIT_RANGE,
    )
    model = LlamaForCausalLM(config)
    _number_features(model, tokenizer)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def _number_features(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start the embeddings of number tokens from sines and cosines of their value, so that near numbers start near.

    Only the start is set; training moves every weight. It shortens the learning of sums of whole-number tokens.
    """
    weight = model.get_input_embeddings().weight
    periods = torch.tensor([2.0, 4.0, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0, 200.0])
    width = 2 * len(periods)
    if weight.shape[1] < width:
        return
    scale = INIT_RANGE * NUMBER_SCALE
    for token, index in tokenizer.get_vocab().items():
        if token.strip().isdigit():
            angle = 2 * math.pi * int(token) / periods
            with torch.no_grad():
                weight[index, :width] += scale * torch.cat([angle.sin(), angle.cos()])
