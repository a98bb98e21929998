"""The reward model on a tiny classifier: order, padding, batches, and the directories that it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pns.errors import UserError
from pns.rewards import RewardModel
from pns.rewards import reward_model as module

torch = pytest.importorskip("torch")

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
PROBLEMS = ["one two", "three", "two two two one", "three one"]
TEXTS = ["one", "two three one two three one two", "three", "one one"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<user>", "<assistant>", "one", "two", "three", "<unk>"]
    bare = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=1,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    path = tmp_path_factory.mktemp("model")
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_order_and_batches_do_not_matter(saved: Path) -> None:
    together = RewardModel(saved).score(PROBLEMS, TEXTS)
    assert len(set(together)) == len(PROBLEMS)
    alone = RewardModel(saved, batch_size=1)
    for problem, text, score in zip(PROBLEMS, TEXTS, together, strict=True):
        assert alone.score([problem], [text]) == [pytest.approx(score, abs=1e-5)]
    assert RewardModel(saved, batch_size=3).score(PROBLEMS[::-1], TEXTS[::-1]) == pytest.approx(
        together[::-1], abs=1e-5
    )
    assert alone.score([], []) == []


def test_a_forward_pass_has_a_bound_in_tokens(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = RewardModel(saved), list[tuple[int, ...]]()
    together = model.score(PROBLEMS, TEXTS)
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(module, "MAX_TOKENS", 16)
    assert model.score(PROBLEMS, TEXTS) == pytest.approx(together, abs=1e-5)
    assert len(sizes) > 1
    assert all(rows * length <= 16 or rows == 1 for rows, length in sizes)


def test_it_reads_what_the_template_says(saved: Path) -> None:
    model = RewardModel(saved)
    ids = model.tokenizer("<user> one <end> <assistant> two <end>", add_special_tokens=False, return_tensors="pt")
    expected = model.model(input_ids=ids["input_ids"]).logits.item()
    assert model.score(["one"], ["two"]) == [pytest.approx(expected, abs=1e-5)]


def test_too_long_is_an_error_and_never_cut(saved: Path) -> None:
    with pytest.raises(ValueError, match="32 positions"):
        RewardModel(saved).score(["one"], ["two " * 40])


def test_the_dtype_is_kept(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "half")
    RewardModel(copy).model.to(torch.bfloat16).save_pretrained(copy)
    assert RewardModel(copy).model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "words"),
    [({"pad_token_id": 1}, "padding token"), ({"pad_token_id": None}, "padding token"), ({"num_labels": 2}, "labels")],
)
def test_unfit_configurations_are_refused(saved: Path, tmp_path: Path, change: dict[str, object], words: str) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    if "num_labels" in change:
        config["id2label"], config["label2id"] = {"0": "a", "1": "b"}, {"a": 0, "b": 1}
        (copy / "model.safetensors").unlink()
        from transformers import LlamaConfig, LlamaForSequenceClassification

        LlamaForSequenceClassification(LlamaConfig(**config)).save_pretrained(copy)
    else:
        (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=words):
        RewardModel(copy)


def test_directories_without_tokenizer_template_or_model_are_refused(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="chat template"):
        RewardModel(copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        RewardModel(copy)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no tokenizer"):
        RewardModel(empty)
    shutil.copytree(saved, tmp_path / "headless")
    (tmp_path / "headless" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="not a sequence classifier"):
        RewardModel(tmp_path / "headless")
    weights = tmp_path / "headless" / "model.safetensors"
    weights.write_bytes((saved / weights.name).read_bytes()[:1000])
    with pytest.raises(UserError, match="this file is damaged") as caught:
        RewardModel(tmp_path / "headless")
    assert caught.value.file == weights


def test_inputs_go_where_the_model_is(saved: Path) -> None:
    """Other threads score, too, and what device is current there says nothing."""
    scorer = RewardModel(saved)
    expected = scorer.score(PROBLEMS, TEXTS)
    scorer.device = "cuda:7"
    assert scorer.score(PROBLEMS, TEXTS) == expected
