"""Exported data sets, loaded by `datasets` from their folder alone, take a training step of TRL's DPO and KTO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from typer.testing import CliRunner

from helpers.small import save_small_model, swap
from pns.cli import app
from pns.problems import embedded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"))


PAIRS = [
    {"prompt": p.problem, "chosen": p.solution, "rejected": swap(p.solution or "")}
    for p in embedded.training_problems("pairs", 12, 0)
    if swap(p.solution or "") != p.solution
][:4]


@pytest.mark.parametrize(("to", "rows"), [("trl", 4), ("trl-kto", 8)])
def test_trl_takes_a_step_on_what_was_exported(
    to: str, rows: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    done = CliRunner().invoke(app, ["export", "pairs", str(file), "--to", to, "-o", str(out)])
    assert done.exit_code == 0, done.output
    train = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(train) == rows, "the card's header names one of the two files"
    arguments: dict[str, Any] = {
        "output_dir": str(tmp_path / "trained"), "max_steps": 1, "per_device_train_batch_size": rows, "report_to": [],
        "learning_rate": 1e-2, "save_strategy": "no", "use_cpu": True, "logging_steps": 1, "bf16": False,
        "gradient_checkpointing": False, "warmup_steps": 0, "disable_tqdm": True,
    }  # fmt: skip
    trainer_class, config = {"trl": (DPOTrainer, DPOConfig), "trl-kto": (KTOTrainer, KTOConfig)}[to]
    before, trained = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
    trainer = trainer_class(
        model=trained, ref_model=before, args=config(**arguments), train_dataset=train,
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    trainer.train()
    [log] = [row for row in trainer.state.log_history if "loss" in row]
    assert log["loss"] > 0
    assert log["grad_norm"] > 0
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), trained.parameters(), strict=True)]
    assert any(moved)
