"""Engines beside the default one, on a real small model: `transformers serve` that pns starts, and continuous batching."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.small import save_small_model
from pns.parts.engine import EnginePart, EngineServerPart
from pns.problems import embedded
from pns.run import seed_of
from pns.sampling.engine import TransformersEngine
from pns.sampling.jobs import Job
from pns.sampling.make import make_engine

pytestmark = pytest.mark.slow

TEXTS = [p.problem for p in embedded.training_problems("pairs", 6, 0)]
GREEDY: dict[str, Any] = {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 6, "seed": 0}
SAMPLED: dict[str, Any] = {"n": 2, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "seed": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("engines") / "model")


def test_transformers_serve_gives_the_samples_of_the_engine_in_process(saved: Path) -> None:
    """One at a time and with seeds, so that they can be the very same: same prompts, same distribution, nothing cut off."""
    for package in ("openai", "fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (transformers[serving] needs it)")
    command = (sys.executable, "-m", "transformers.cli.transformers", "serve", "{model}", "--host", "127.0.0.1")
    part = EngineServerPart(
        start=(*command, "--port", "{port}", "--device", "cpu"), dialect="transformers", concurrency=1
    )
    here = TransformersEngine(saved)
    there = make_engine(saved, EnginePart(kind="server", server=part), device="cpu")
    try:
        assert there.generate(Job(TEXTS[:3], **GREEDY)) == here.generate(Job(TEXTS[:3], **GREEDY))
        begun = ["Step 1: ", "The answer", ""]
        found = there.generate(Job(TEXTS[:3], prefixes=begun, **GREEDY))
        assert found == here.generate(Job(TEXTS[:3], prefixes=begun, **GREEDY))
        for i, ones in enumerate(there.generate(Job(TEXTS[:2], **SAMPLED))):
            for k, one in enumerate(ones):
                alone = {**SAMPLED, "n": 1, "seed": seed_of(3, f"problem/{i}/{k}")}
                assert [[one]] == here.generate(Job([TEXTS[i]], **alone))
    finally:
        there.close()


def test_continuous_batching(saved: Path) -> None:
    here = TransformersEngine(saved)
    there = make_engine(saved, EnginePart(continuous_batching=True), device="cpu")
    assert (here.deterministic, there.deterministic) == (True, False)
    assert there.generate(Job(TEXTS, **GREEDY)) == here.generate(Job(TEXTS, **GREEDY))
    begun = ["Step 1: "] * len(TEXTS)
    assert there.generate(Job(TEXTS, prefixes=begun, **GREEDY)) == here.generate(Job(TEXTS, prefixes=begun, **GREEDY))
    found = there.generate(Job(TEXTS[:3], **SAMPLED))
    assert [len(ones) for ones in found] == [2] * 3
    assert len({one.text for ones in found for one in ones}) == 6
    assert {1 <= one.n_tokens <= 8 for ones in found for one in ones} == {True}
    assert found != there.generate(Job(TEXTS[:3], **{**SAMPLED, "seed": 4}))
