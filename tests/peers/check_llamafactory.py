"""LLaMA-Factory's own loader with our exports: `make check-llamafactory`."""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import AutoTokenizer

from peers.common import PAIRS, exported, save_tokenizer, told

OTHER = {"known": {"file_name": "known.json", "columns": {"prompt": "täxt"}}}


def without_sound() -> None:
    """Its loader imports torchaudio, for sound alone; that wheel wants libraries of CUDA, so an empty module stands in."""
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)


def loaded(tokenizer: Any, model: Path, folder: Path, name: str, stage: str) -> Any:
    """The training rows of one data set, tokenized, as the trainer of a stage gets them."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments, TrainingArguments

    arguments = DataArguments(
        dataset=name, dataset_dir=str(folder), template="qwen", cutoff_len=4096, overwrite_cache=True,
        preprocessing_num_workers=None,
    )  # fmt: skip
    template = get_template_and_fix_tokenizer(tokenizer, arguments)
    training = TrainingArguments(output_dir=str(folder / "out"), use_cpu=True)
    found = get_dataset(template, ModelArguments(model_name_or_path=str(model)), arguments, training, stage, tokenizer)
    return found["train_dataset"]


def answer(tokenizer: Any, labels: list[int]) -> str:
    """The text that is trained on."""
    said: str = tokenizer.decode([i for i in labels if i >= 0])
    return said.rstrip("\n").removesuffix("<|im_end|>")


def main() -> None:
    """All checks; the first that fails ends the program."""
    without_sound()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = save_tokenizer(folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(model)
        info = folder / "dataset_info.json"
        info.write_text(json.dumps(OTHER))
        exported(folder, "pairs", "llamafactory", "--dataset-info", str(info), "--name", "mine")
        rows = loaded(tokenizer, model, folder, "mine", "rm")
        for row, pair in zip(rows, PAIRS, strict=True):
            assert answer(tokenizer, row["chosen_labels"]) == pair["chosen"]
            assert answer(tokenizer, row["rejected_labels"]) == pair["rejected"]
            assert pair["prompt"] in tokenizer.decode(row["chosen_input_ids"])
        out = exported(folder, "pairs", "llamafactory-kto")
        rows = loaded(tokenizer, model, out, out.name, "kto")
        found = {(answer(tokenizer, row["labels"]), row["kto_tags"]) for row in rows}
        assert found == {(p["chosen"], True) for p in PAIRS} | {(p["rejected"], False) for p in PAIRS}
        kept = json.loads(info.read_text())
        assert {name: kept[name] for name in OTHER} == OTHER
        told("llamafactory", pairs=len(PAIRS), unpaired=len(rows))


if __name__ == "__main__":
    main()
