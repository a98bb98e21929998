"""The embedded model: its tokenizer reads all that the families write, and its chat template is what trainers expect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pns.problems import embedded, families
from pns.problems.families import BENCHMARKS
from pns.recipe import ModelPart
from pns.sampling.engine import assistant, load_causal, load_tokenizer, user
from pns.training.common import save_model
from pns.training.tiny import build_model, build_tokenizer, pieces

PART = ModelPart(hidden=32, layers=1, heads=4, feed_forward=32)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rows = [p for name in BENCHMARKS for p in embedded.benchmark_problems(name, 60, 0)]
    rows += embedded.training_problems("sft", 600, 0, 0.5)
    return [text for p in rows for text in (p.problem, p.solution or "")]


def test_every_text_of_the_families_comes_back_without_an_unknown_token(texts: list[str]) -> None:
    tokenizer = build_tokenizer()
    for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text
        assert "".join(pieces(text)) == text


def test_a_number_is_one_token_and_so_is_the_box() -> None:
    tokenizer = build_tokenizer()
    for n in range(families.LIMIT + 1):
        assert len(tokenizer(f"{n}", add_special_tokens=False)["input_ids"]) == 1
        assert len(tokenizer(f" {n}", add_special_tokens=False)["input_ids"]) == 1
    assert tokenizer.convert_ids_to_tokens(tokenizer(" \\boxed{7}", add_special_tokens=False)["input_ids"]) == [
        " \\boxed{",
        "7",
        "}",
    ]


def test_special_tokens_differ_from_each_other() -> None:
    tokenizer = build_tokenizer()
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 3
    assert None not in special
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_the_chat_template_puts_a_prompt_before_its_response() -> None:
    tokenizer = build_tokenizer()
    prompt = tokenizer.apply_chat_template([user("How many?")], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([user("How many?"), assistant("Step 1")], tokenize=False)
    assert prompt == "<user>How many?<assistant>"
    assert whole == prompt + "Step 1<end>"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    with pytest.raises(Exception, match="only user and assistant"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_a_saved_model_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(PART, tokenizer)
    save_model(model, tokenizer, tmp_path)
    again, words = load_causal(tmp_path), load_tokenizer(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert (words.pad_token, words.eos_token, words.chat_template) == ("<pad>", "<end>", tokenizer.chat_template)
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not [p.name for p in tmp_path.iterdir() if not re.fullmatch(r".*\.(json|safetensors|jinja)", p.name)]


def test_number_tokens_start_near_their_neighbours() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    weight = build_model(PART, tokenizer).get_input_embeddings().weight.detach()
    vocabulary = tokenizer.get_vocab()

    def distance(a: int, b: int) -> float:
        return float((weight[vocabulary[f" {a}"]] - weight[vocabulary[f" {b}"]]).norm())

    near = sum(distance(n, n + 10) for n in range(40))
    far = sum(distance(n, n + 33) for n in range(40))
    assert near < far
