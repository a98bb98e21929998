"""`benchmarks/steps.py` takes TRL's steps apart by wrapping its methods; a renamed one would leave its time in `other`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_a_step_is_taken_apart_where_its_time_goes(
    tmp_path: Path, benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = benchmark("steps")
    monkeypatch.setattr(module, "apart", lambda log, *args: module.train(*args))  # here, not in a process of its own
    file = tmp_path / "steps.json"
    sizes = "--prompts 2 --generations 2 --pairs 2 --accumulate 2 --prompt-tokens 8 --new-tokens 6 --steps 2 --warm 1"
    module.main(
        ["--shape", "tiny", "--variant", "base", "precomputed", "--threads", "1", "--out", str(file), *sizes.split()]
    )
    grpo, dpo, precomputed, draw = json.loads(file.read_text())["shapes"][0]["rows"]

    assert set(grpo["parts"]) == {"sampling", "reference", "forward", "backward", "optimizer", "other"}
    assert set(dpo["parts"]) == {"reference", "forward", "backward", "optimizer", "other"}
    assert set(precomputed["parts"]) == {"forward", "backward", "optimizer", "other"}
    assert set(draw["parts"]) == {"sampling", "other"}
    for row in (grpo, dpo, precomputed, draw):
        assert all(seconds > 0 for seconds in row["parts"].values())
        assert row["rows"] == 4
        assert row["prompt_tokens"] + row["new_tokens"] == 14
        assert row is draw or 0 < row["train_mfu"] < 1
    assert grpo["samples_tokens_a_second"] > 0
    assert draw["samples_tokens_a_second"] > 0
    assert precomputed["ratio"] == pytest.approx(precomputed["seconds"] / dpo["seconds"])
