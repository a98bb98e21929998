"""Pretrained starts: directories made here, and the real SmolLM2 from its GGUF file where that package is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from integration.conftest import GGUF_PACKAGE
from pns.errors import UserError
from pns.recipe import ModelPart
from pns.training.pretrained import load_pretrained

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<end>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SPECIAL = ["<unk>", "<end>", "<user>", "<assistant>", "<reserved>"]


def save_tiny(folder: Path, **changes: Any) -> Path:
    vocab = {token: i for i, token in enumerate([*SPECIAL, "a", "b"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    options = {"eos_token": "<end>", "unk_token": "<unk>", "chat_template": TEMPLATE, **changes}
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, **{"additional_special_tokens": SPECIAL[2:], **options})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    surprises = {"do_sample": True, "temperature": 0.2, "top_p": 0.5, "repetition_penalty": 1.3, "eos_token_id": [0, 1]}
    (folder / "generation_config.json").write_text(json.dumps(surprises))
    return folder


def part(path: Path | str, **changes: Any) -> ModelPart:
    return ModelPart(kind="pretrained", path=str(path), **changes)


def test_a_directory_comes_out_with_one_end_token_a_pad_token_and_plain_sampling(tmp_path: Path) -> None:
    model, tokenizer = load_pretrained(part(save_tiny(tmp_path / "m")))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<end>", "<reserved>")
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (1, 4)
    assert model.get_input_embeddings().padding_idx == 4
    settings = model.generation_config.to_diff_dict()
    assert not {"do_sample", "temperature", "top_p", "top_k", "repetition_penalty"} & set(settings)
    assert not model.training
    assert model.dtype == torch.float32


def test_a_pad_token_that_differs_from_the_end_token_is_kept(tmp_path: Path) -> None:
    _, tokenizer = load_pretrained(part(save_tiny(tmp_path / "m", pad_token="<unk>")))
    assert tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_directory_without_a_file_says_which(tmp_path: Path, missing: str, words: str) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=words) as caught:
        load_pretrained(part(folder))
    assert caught.value.file == folder
    assert caught.value.remedy


def test_an_adapter_is_told_from_a_whole_model(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/base"}')
    with pytest.raises(UserError, match="a PEFT adapter, not a whole model") as caught:
        load_pretrained(part(folder))
    assert "merge_and_unload" in (caught.value.remedy or "")


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_file_is_a_user_error(tmp_path: Path, broken: str) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / broken).write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pretrained(part(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat_template": None}, "no chat template"),
        ({"chat_template": TEMPLATE.replace("<end>", "<unk>")}, "not with the end token"),
        ({"eos_token": None}, "not with the end token None"),
        ({"unk_token": None, "additional_special_tokens": SPECIAL[2:4]}, "no special token to pad with"),
    ],
)
def test_a_tokenizer_that_cannot_serve_is_a_user_error(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = save_tiny(tmp_path / "m", **changes)
    with pytest.raises(UserError, match=words) as caught:
        load_pretrained(part(folder))
    assert caught.value.remedy


def test_wrong_places_are_user_errors(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / "bad.gguf").write_bytes(b"nothing like it")
    file = folder / "config.json"
    cases = [
        (part(tmp_path / "none"), "no such directory"),
        (part(file), "not a directory"),
        (part(folder, revision="main"), "has no revisions"),
        (part(folder, gguf_file="x.gguf"), r"there: bad\.gguf"),
        (part(folder, gguf_file="bad.gguf"), "not a GGUF file"),
        (ModelPart(kind="pretrained", gguf_package="no_such_weights", gguf_file="x.gguf"), "--no-deps no-such-weights"),
    ]
    for wrong, words in cases:
        with pytest.raises(UserError, match=words):
            load_pretrained(wrong)


def test_an_unreachable_hub_id_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody-here/no-model"):
        load_pretrained(part("nobody-here/no-model", revision="main"))


def write_tiny_gguf(file: Path) -> None:
    """A one-layer Llama that, like SmolLM2's file, pads with its end token."""
    gguf = pytest.importorskip("gguf")
    tokens = ["<end>", "<user>", "<assistant>", "<reserved>", "a", "b", "1", "Ġ", "ĠĠ"]
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * 5)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (9, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{name}": (size, 32) for name, size in [("q", 32), ("k", 16), ("v", 16), ("output", 32)]}
    shapes |= {f"blk.0.ffn_{name}": (32, 32) for name in ("gate", "up", "down")}
    for name, shape in shapes.items():
        weights = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", weights)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_in_a_directory_and_in_a_package_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tiny_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no inference engine here')")
    write_tiny_gguf(package / "w.gguf")
    with pytest.raises(UserError, match=r"set model\.gguf_file to one of: w\.gguf"):
        load_pretrained(part(package))
    monkeypatch.syspath_prepend(tmp_path)
    model, tokenizer = load_pretrained(part(package, gguf_file="w.gguf"))
    packed, _ = load_pretrained(ModelPart(kind="pretrained", gguf_package="tiny_weights", gguf_file="w.gguf"))
    ids = torch.tensor([[4, 5, 0, 6]])
    assert torch.equal(model(ids).logits, packed(ids).logits)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<end>", "<reserved>")
    assert model.get_input_embeddings().padding_idx == 3
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    again, tokenizer_again = load_pretrained(part(saved))
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert tokenizer_again("a  1<end>").input_ids == tokenizer("a  1<end>").input_ids == [4, 8, 6, 0]


# One worker for all tests of it: loading takes half a minute.
SMOLLM2 = pytest.mark.xdist_group("smollm2")


@SMOLLM2
def test_smollm2_has_its_tokens_and_answers_in_its_chat_format(smollm2: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = smollm2
    assert GGUF_PACKAGE not in sys.modules
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<empty_output>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().padding_idx == tokenizer.pad_token_id
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith("<|im_start|>assistant\n")
    batch = tokenizer(prompt, return_tensors="pt")
    answer = model.generate(**batch, do_sample=False, max_new_tokens=24)[0, batch["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@SMOLLM2
def test_smollm2_survives_saving_and_loading(smollm2: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = smollm2
    plain_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain_tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Tom has  12 apples,\n  7 pears & $3.50: 48/2=24 é"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert torch.equal(ids, plain_tokenizer(text, return_tensors="pt").input_ids)
    assert tokenizer.decode(ids[0]) == text
    assert plain_tokenizer.chat_template == tokenizer.chat_template
    assert plain_tokenizer.pad_token == tokenizer.pad_token
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain_model(ids).logits)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


@SMOLLM2
def test_smollm2_splits_numbers_as_its_vocabulary_was_learned(smollm2: tuple[Any, Any, Path]) -> None:
    # Two blanks before a number are one token: the number is cut off first. Without that split they would be two.
    assert smollm2[1].tokenize("has  12") == ["has", "ĠĠ", "1", "2"]


@SMOLLM2
def test_smollm2_end_token_gets_a_gradient(smollm2: tuple[Any, Any, Path]) -> None:
    model, tokenizer, _ = smollm2
    embedding = model.get_input_embeddings()
    ids = torch.tensor([[tokenizer.eos_token_id, tokenizer.pad_token_id]])
    embedding(ids).sum().backward()
    assert embedding.weight.grad[tokenizer.eos_token_id].abs().sum() > 0
    assert embedding.weight.grad[tokenizer.pad_token_id].abs().sum() == 0
    model.zero_grad()
