"""Prompts and completions as every engine forms them: one chat template, one reading of end tokens. Loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pns.errors import UserError


class Completion(NamedTuple):
    """One sampled completion: text without the end token, its length in tokens, and why it stopped."""

    text: str
    n_tokens: int
    finish: Literal["stop", "length"]


def user(problem: str) -> dict[str, str]:
    """A problem as a chat message."""
    return {"role": "user", "content": problem}


def assistant(text: str) -> dict[str, str]:
    """A response as a chat message."""
    return {"role": "assistant", "content": text}


def controlled(problem: str, control: str | None) -> str:
    """The problem as a generator with two goals is asked for a mistake: with its control text behind it, if it has one."""
    return problem if control is None else f"{problem}{control}"


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model directory. Raises UserError where there is none, or it has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no usable tokenizer in this model directory ({type(error).__name__})",
            file=path,
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(directory)",
        ) from None
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template", file=path, remedy="set tokenizer.chat_template and save it"
        )
    return tokenizer


def prompt_texts(tokenizer: Any, problems: Sequence[str], prefixes: Sequence[str] | None = None) -> list[str]:
    """What the model reads for each problem, as text; `prefixes` begin the responses."""
    texts = [tokenizer.apply_chat_template([user(p)], add_generation_prompt=True, tokenize=False) for p in problems]
    if prefixes is None:
        return texts
    return [text + prefix for text, prefix in zip(texts, prefixes, strict=True)]


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Their token ids; what is special stands in the texts already."""
    if not texts:  # tokenizers do not take an empty batch
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def end_ids(tokenizer: Any, eos: int | Sequence[int] | None) -> set[int]:
    """The tokens that end a response: the tokenizer's, and those of the model's generation config."""
    return {tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])}


def model_end_ids(model: str | Path, tokenizer: Any) -> set[int]:
    """`end_ids` of a model directory or hub id; one without a generation config ends with its tokenizer's token."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        eos = None
    return end_ids(tokenizer, eos)


def completion(tokenizer: Any, ends: set[int], ids: Sequence[int]) -> Completion:
    """The completion that begins with these tokens: up to the first end token, padding left out."""
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = ids if end is None else ids[:end]
    if end is None:
        kept = [t for t in ids if t != tokenizer.pad_token_id]
    text = tokenizer.decode(kept, skip_special_tokens=False)
    return Completion(text, len(kept) + (end is not None), "length" if end is None else "stop")
