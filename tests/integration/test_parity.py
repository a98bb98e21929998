"""One reward under every trainer: the same 500 real responses through each face give the same numbers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from helpers.real_server import free_port, running
from helpers.reward import real_responses, write_recipe
from pns.recipe_files import load_reward
from pns.records import Problem, Scores
from pns.rewards.adapters import openrlhf, plugin, verl
from pns.rewards.adapters.trl import composite_reward
from pns.rewards.build import build_composite
from pns.rewards.composite import Composite

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("parity")]

PENALTY = -0.25
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def responses() -> list[tuple[Problem, str]]:
    return real_responses()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def composite(recipe: Path) -> Iterator[Composite]:
    with build_composite(load_reward(recipe)) as made:
        yield made


@pytest.fixture(scope="module")
def expected(composite: Composite, responses: list[tuple[Problem, str]]) -> list[Scores]:
    """The composite itself. Every gate occurs, so that parity says something."""
    found = composite([p for p, _ in responses], [t for _, t in responses], ["stop"] * len(responses))
    assert {s.gate for s in found} == {"malformed", "undecided", "correct", "scored", "unscored"}
    assert len({s.score for s in found if s.gate == "scored"}) > 50
    return found


@pytest.fixture
def settings(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment that a trainer's process would have."""
    monkeypatch.setenv(plugin.RECIPE, str(recipe))
    monkeypatch.setenv(plugin.ON_UNSCORED, str(PENALTY))
    yield
    for made in plugin._made.values():
        made.close()
    plugin._made.clear()


def or_penalty(expected: list[Scores]) -> list[float]:
    return [PENALTY if s.score is None else s.score for s in expected]


def test_trl(
    composite: Composite, responses: list[tuple[Problem, str]], expected: list[Scores], tmp_path: Path
) -> None:
    log = tmp_path / "rewards.jsonl"
    reward = composite_reward(composite, max_unscored=1.0, eos_ids={0}, log=log)
    out: list[float | None] = asyncio.run(
        reward(  # type: ignore[arg-type]
            prompts=[[{"role": "user", "content": p.problem}] for p, _ in responses],
            completions=[[{"role": "assistant", "content": text}] for _, text in responses],
            completion_ids=[[5, 0]] * len(responses),
            answer=[p.answer for p, _ in responses],
        )
    )
    assert out == [s.score for s in expected]
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["score"] for row in kept] == out
    assert [row["gate"] for row in kept] == [s.gate for s in expected]


def test_verl(settings: None, responses: list[tuple[Problem, str]], expected: list[Scores]) -> None:
    """As its reward loop does it: one call a response, all gathered on one event loop."""

    async def loop() -> list[dict[str, float]]:
        return await asyncio.gather(
            *(
                verl.compute_score("math", text, p.answer, {"question": p.problem, "index": i, "split": "train"})
                for i, (p, text) in enumerate(responses)
            )
        )

    out = asyncio.run(loop())
    assert [row["score"] for row in out] == or_penalty(expected)
    same_breakdown(out, expected)


def test_openrlhf(settings: None, responses: list[tuple[Problem, str]], expected: list[Scores]) -> None:
    """As its executor does it: one call a response, each in a thread, whole texts with special tokens."""
    torch = pytest.importorskip("torch")

    def one(row: tuple[Problem, str]) -> dict[str, Any]:
        problem, text = row
        prompt = f"<|im_start|>user\n{problem.problem}<|im_end|>\n<|im_start|>assistant\n"
        label = json.dumps({"answer": problem.answer, "problem": problem.problem})
        return openrlhf.reward_func([f"{prompt}{text}<|im_end|>"], [prompt], [label])

    with ThreadPoolExecutor(16) as pool:
        out = list(pool.map(one, responses))
    rewards = torch.cat([row["rewards"] for row in out])
    assert rewards.dtype == torch.float32
    assert torch.equal(rewards, torch.tensor(or_penalty(expected)))
    assert all(torch.equal(row["rewards"], row["scores"]) for row in out)
    same_breakdown(
        [
            {"score": s, **{k: v.item() for k, v in row["extra_logs"].items()}}
            for s, row in zip(rewards, out, strict=True)
        ],
        expected,
    )


def same_breakdown(out: list[dict[str, float]], expected: list[Scores]) -> None:
    """Fixed numeric keys; the credits add up to the score where the gates are open, and are nothing elsewhere."""
    assert len({tuple(row) for row in out}) == 1
    for row, scores in zip(out, expected, strict=True):
        assert all(isinstance(value, float) for key, value in row.items() if key != "score")
        assert row[f"gate_{scores.gate}"] == 1.0
        assert sum(value for key, value in row.items() if key.startswith("gate_")) == 1.0
        credit = sum(value for key, value in row.items() if key.startswith("credit_"))
        assert credit == pytest.approx(float(row["score"]) if scores.gate == "scored" else 0.0, abs=1e-6)
        assert row["acc"] == float(scores.gate == "correct")


def test_http(recipe: Path, responses: list[tuple[Problem, str]], expected: list[Scores], tmp_path: Path) -> None:
    """The real command in a process of its own; several requests at a time."""
    port = free_port()
    command = [sys.executable, "-m", "pns", "serve-reward", str(recipe), "--port", str(port)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    with running(command, port, tmp_path / "log", env={"PYTHONPATH": paths}) as root, httpx2.Client() as client:

        def ask(start: int) -> list[dict[str, Any]]:
            asked = [
                {"id": p.id, "problem": p.problem, "answer": p.answer, "response": text}
                for p, text in responses[start : start + 50]
            ]
            reply = client.post(f"{root}/score", json={"responses": asked}, timeout=120)
            assert reply.status_code == 200, reply.text
            found: list[dict[str, Any]] = reply.json()["scores"]
            assert [row["id"] for row in found] == [row["id"] for row in asked]
            return found

        with ThreadPoolExecutor(4) as pool:
            out = [row for part in pool.map(ask, range(0, len(responses), 50)) for row in part]
        metrics = client.get(f"{root}/metrics").text
    for row in out:
        row.pop("id")
    assert [Scores.model_validate(row) for row in out] == expected
    for gate in ("malformed", "correct", "scored", "unscored"):
        count = sum(s.gate == gate for s in expected)
        assert f'pns_responses_total{{gate="{gate}"}} {count}.0' in metrics


def test_pns_score(recipe: Path, responses: list[tuple[Problem, str]], expected: list[Scores], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pns.cli import app

    source, out = tmp_path / "responses.jsonl", tmp_path / "scores.jsonl"
    source.write_text(
        "".join(
            json.dumps({"id": p.id, "problem": p.problem, "answer": p.answer, "response": text}) + "\n"
            for p, text in responses
        )
    )
    done = CliRunner().invoke(
        app, ["score", str(source), "--recipe", str(recipe), "--out", str(out), "reward.max_unscored=1"]
    )
    assert done.exit_code == 0, done.output
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["score"] for row in kept] == [s.score for s in expected]
    assert [row["gate"] for row in kept] == [s.gate for s in expected]
