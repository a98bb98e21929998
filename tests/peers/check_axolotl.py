"""axolotl's own loader with our exports: `make check-axolotl`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from axolotl.prompt_strategies.dpo import load as load_dpo
from axolotl.prompt_strategies.kto import load as load_kto
from axolotl.utils.data.rl import _map_dataset
from axolotl.utils.data.shared import datasets_with_name_generator, load_dataset_with_config
from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer

from peers.common import PAIRS, exported, save_tokenizer, told


def loaded(out: Path, tokenizer: Any) -> Any:
    """The rows that axolotl's trainer gets with the lines that stand in our card, and nothing more."""
    card = (out / "README.md").read_text(encoding="utf-8")
    config = DictDefault(yaml.safe_load(card.split("```")[1]) | {"chat_template": "tokenizer_default"})
    [dataset_config] = datasets_with_name_generator(config.datasets)
    rows = load_dataset_with_config(dataset_config, False, streaming=False)
    load = {"dpo": load_dpo, "kto": load_kto}[config.rl]
    transform = load(config.datasets[0]["type"], config, dataset_idx=0)
    more: dict[str, Any] = {}
    if isinstance(transform, tuple):
        transform, more = transform
    return _map_dataset(config, rows, transform, tokenizer, **more)


def main() -> None:
    """All checks; the first that fails ends the program."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tokenizer = AutoTokenizer.from_pretrained(save_tokenizer(folder / "model"))
        rows = loaded(exported(folder, "pairs", "axolotl"), tokenizer)
        for row, pair in zip(rows, PAIRS, strict=True):
            assert row["prompt"] == f"<|im_start|>user\n{pair['prompt']}<|im_end|>\n<|im_start|>assistant\n"
            assert row["chosen"] == f"{pair['chosen']}<|im_end|>", json.dumps(row["chosen"])
            assert row["rejected"] == f"{pair['rejected']}<|im_end|>"
        unpaired = loaded(exported(folder, "pairs", "axolotl-kto"), tokenizer)
        found = {(row["completion"].removesuffix("<|im_end|>"), row["label"]) for row in unpaired}
        assert found == {(p["chosen"], True) for p in PAIRS} | {(p["rejected"], False) for p in PAIRS}
        told("axolotl", pairs=len(rows), unpaired=len(unpaired))


if __name__ == "__main__":
    main()
