"""What the checks share: the 500 responses with our own scores, awkward pairs, a tokenizer that gives texts back exactly."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from helpers.reward import real_responses, write_recipe
from pns.cli import app
from pns.recipe_files import load_reward
from pns.records import Problem, Scores
from pns.rewards.build import build_composite

PENALTY = -0.25
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAIRS = [
    {"prompt": "Wie viele Äpfel? «2 + 3»\u2028Next", "chosen": "2 + 3 = 5\n\nSo \\boxed{5}.", "rejected": "2 + 3 = 6\nSo \\boxed{6}."},
    {"prompt": "多少?", "chosen": "答え: \\boxed{1} 🍎", "rejected": "<|im_end|> is no end here: \\boxed{2}"},
    {"prompt": 'A "quoted" \\prompt\\ with\ttabs', "chosen": "one\r\ntwo \\boxed{3}", "rejected": "{\"x\": null}\n\n\n\\boxed{4}"},
]  # fmt: skip
"""Texts that a careless writer or reader would change. None begins or ends with white space."""


def fixture(folder: Path) -> tuple[list[tuple[Problem, str]], list[Scores], Path]:
    """The responses, the scores of the composite itself, and the recipe; every gate occurs."""
    responses, recipe = real_responses(), write_recipe(folder)
    with build_composite(load_reward(recipe)) as composite:
        scores = composite([p for p, _ in responses], [t for _, t in responses], ["stop"] * len(responses))
    assert {s.gate for s in scores} == {"malformed", "undecided", "correct", "scored", "unscored"}
    return responses, scores, recipe


def or_penalty(scores: list[Scores]) -> list[float]:
    """What a trainer is told: the score, or the penalty that stands for none."""
    return [PENALTY if s.score is None else s.score for s in scores]


def settings(recipe: Path) -> None:
    """The environment that a trainer's process would have."""
    os.environ |= {"PNS_REWARD_RECIPE": str(recipe), "PNS_ON_UNSCORED": str(PENALTY)}


def save_tokenizer(folder: Path) -> Path:
    """A tokenizer whose tokens are bytes, with a chat template, and what transformers wants to know of a model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False,
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(tokenizer)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def exported(folder: Path, *words: str, rows: list[dict[str, Any]] | None = None) -> Path:
    """The folder that `pns export ...` made from some rows."""
    out = folder / f"{words[0]}-{words[1]}"
    source = out.with_suffix(".jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows or PAIRS))
    done = CliRunner().invoke(app, ["export", words[0], str(source), "--to", words[1], "-o", str(out), *words[2:]])
    assert done.exit_code == 0, done.output
    return out


def told(name: str, **facts: Any) -> None:
    """One line: versions, and what was found."""
    versions = {package: metadata.version(package) for package in (name, "torch", "transformers", "datasets")}
    print(json.dumps({"versions": versions, **facts}))


MORE: list[dict[str, Any]] = [{}, {"tolerance": 0.5, "unit": "cm"}, {"kind": "math"}]
PROBLEMS = [
    {"id": f"p{i}", "problem": row["prompt"], "answer": str(i), **more}
    for i, (row, more) in enumerate(zip(PAIRS, MORE, strict=True))
]
