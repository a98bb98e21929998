"""Sampling: log-probabilities against a direct computation, seeds, end tokens, and shards that survive an interrupt."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from pns.compute import turn
from pns.errors import UserError
from pns.problems import embedded
from pns.recipe import ModelPart, SamplePart
from pns.records import Problem, Response
from pns.sampling import engine as engine_module
from pns.sampling.engine import TransformersEngine, load_causal, load_tokenizer
from pns.sampling.jobs import Job
from pns.sampling.shards import Draw, sample
from pns.training.common import save_model
from pns.training.tiny import build_model, build_tokenizer

PROBLEMS = embedded.training_problems("pairs", 10, 0)
TEXTS = [p.problem for p in PROBLEMS]
HOW: dict[str, Any] = {"n": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(ModelPart(hidden=32, layers=2, heads=4, feed_forward=32), tokenizer)
    path = tmp_path_factory.mktemp("model")
    save_model(model, tokenizer, path)
    return path


@pytest.fixture(scope="module")
def engine(saved: Path) -> TransformersEngine:
    return TransformersEngine(saved, batch_size=4)


def test_log_probabilities_equal_a_direct_computation(saved: Path, engine: TransformersEngine) -> None:
    model, tokenizer = load_causal(saved).eval(), load_tokenizer(saved)
    answers = [p.solution or "" for p in PROBLEMS]
    answers[3] = ""  # nothing but the end token
    found = engine.log_probabilities(TEXTS, answers)
    for problem, answer, (total, count) in zip(TEXTS, answers, found, strict=True):
        prompt = tokenizer(f"<user>{problem}<assistant>", add_special_tokens=False)["input_ids"]
        response = tokenizer(f"{answer}<end>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(response))
        assert count == len(response)
        assert total == pytest.approx(expected, abs=1e-3)
    assert found[3][1] == 1
    cut = engine.log_probabilities(TEXTS, answers, [i != 0 for i in range(len(TEXTS))])
    assert cut[1:] == found[1:]
    assert cut[0][1] == found[0][1] - 1, "nobody sampled the end token of a text that was cut"
    assert cut[0][0] > found[0][0]
    assert engine.log_probabilities([], []) == []


def test_log_probabilities_keep_within_a_bound_of_logits(
    saved: Path, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of many long rows with a large vocabulary would not fit any memory; the figures do not depend on it."""
    answers = [(p.solution or "") * (1 + i % 3) for i, p in enumerate(PROBLEMS)]
    free = engine.log_probabilities(TEXTS, answers)
    vocabulary = engine.model.config.vocab_size
    longest = max(len(ids) for ids in engine._conversations(TEXTS, answers))
    shapes: list[tuple[int, ...]] = []

    def seen(model: Any, args: Any, given: dict[str, Any], out: Any) -> None:
        shapes.append(tuple(out.logits.shape))

    monkeypatch.setattr(engine_module, "MAX_LOGITS", 2 * longest * vocabulary)
    watch = engine.model.register_forward_hook(seen, with_kwargs=True)
    try:
        found = engine.log_probabilities(TEXTS, answers)
        bounded = list(shapes)
        monkeypatch.setattr(engine_module, "MAX_LOGITS", 1)
        alone = engine.log_probabilities(TEXTS, answers)
    finally:
        watch.remove()
    assert max(math.prod(shape) for shape in bounded) <= 2 * longest * vocabulary
    assert sum(shape[0] for shape in bounded) == len(TEXTS)
    assert {shape[0] for shape in bounded} >= {2, engine.batch_size}
    assert [shape[0] for shape in shapes[len(bounded) :]] == [1] * len(TEXTS), "a row beyond the bound goes alone"
    for some in (found, alone):
        assert [n for _, n in some] == [n for _, n in free]
        assert [total for total, _ in some] == pytest.approx([total for total, _ in free], abs=1e-3)


def test_on_a_cpu_with_several_threads_models_take_turns(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model that computes beside it would double the threads; with one thread each they do not wait."""
    job = Job(TEXTS, seed=1, **HOW)
    for threads, waits in ((2, True), (1, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        with ThreadPoolExecutor(2) as pool:
            with turn("cpu"):
                both: list[Future[Any]] = [
                    pool.submit(engine.generate, job),
                    pool.submit(engine.log_probabilities, TEXTS, TEXTS),
                ]
                early, _ = wait(both, timeout=1 if waits else 60)
                assert len(early) == (0 if waits else 2)
            assert both[0].result(60) == engine.generate(job)
            assert len(both[1].result(60)) == len(TEXTS)
    assert isinstance(turn("cuda"), nullcontext), "an accelerator orders its own work"


def test_the_same_seed_gives_the_same_samples(engine: TransformersEngine) -> None:
    first, again, other = (engine.generate(Job(TEXTS, seed=seed, **HOW)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [len(rows) for rows in first] == [3] * len(TEXTS)
    assert len({c.text for rows in first for c in rows}) > 20
    for completion in (c for rows in first for c in rows):
        assert 1 <= completion.n_tokens <= 12
        assert "<end>" not in completion.text
        assert (completion.n_tokens == 12) or completion.finish == "stop"


def test_greedy_takes_the_likeliest_token_whatever_the_seed(saved: Path, engine: TransformersEngine) -> None:
    greedy: dict[str, Any] = {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 4}
    found = engine.generate(Job(TEXTS, seed=1, **greedy))
    assert found == engine.generate(Job(TEXTS, seed=2, **greedy))
    model, tokenizer = load_causal(saved).eval(), load_tokenizer(saved)
    for problem, (completion,) in zip(TEXTS, found, strict=True):
        ids = tokenizer(f"<user>{problem}<assistant>", add_special_tokens=False)["input_ids"]
        new: list[int] = []
        while len(new) < 4 and tokenizer.eos_token_id not in new:
            with torch.no_grad():
                new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        assert completion.text == tokenizer.decode([t for t in new if t != tokenizer.eos_token_id])


def test_a_completion_ends_at_the_first_end_token(engine: TransformersEngine) -> None:
    end, pad = engine.tokenizer.eos_token_id, engine.tokenizer.pad_token_id
    word = engine.tokenizer("Step", add_special_tokens=False)["input_ids"]
    assert engine._completion([*word, end, pad, pad]) == ("Step", 2, "stop")
    assert engine._completion([*word, end, *word]) == ("Step", 2, "stop")
    assert engine._completion([*word, *word]) == ("StepStep", 2, "length")
    assert engine._completion([end]) == ("", 1, "stop")


def test_directories_that_are_no_models_are_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(UserError, match="no usable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.remedy
    with pytest.raises(UserError, match="no usable model"):
        load_causal(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_weights_that_were_cut_are_named(tmp_path: Path, saved: Path, kept: int) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError, match="this file is damaged") as caught:
        load_causal(copy)
    assert caught.value.file == weights
    assert "delete the stage's folder and run again" in (caught.value.remedy or "")


class Dies(Exception):
    pass


def sampled(engine: TransformersEngine, folder: Path, *, die_at: int | None = None) -> tuple[list[Response], list[int]]:
    """The rows of four shards, and which of them were drawn rather than read."""
    drawn: list[int] = []

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        if len(drawn) == die_at:
            raise Dies
        drawn.append(len(rows))
        assert [p.id for p in problems] == [r.problem_id for r in rows]
        return [r.model_copy(update={"policy_logp": -1.0}) for r in rows]

    part = SamplePart(n=2, max_new_tokens=6, batch_size=6)
    draw = Draw(PROBLEMS, part, folder, seed=5, source="test")
    sample(nullcontext(engine), [draw], finish, lambda done, total: None)
    return list(draw.rows()), drawn


def test_interrupted_shards_are_gone_on_with_to_the_same_rows(engine: TransformersEngine, tmp_path: Path) -> None:
    whole, drawn = sampled(engine, tmp_path / "a")
    assert drawn == [6, 6, 6, 2]
    assert [(r.problem_id, r.index) for r in whole] == [(p.id, i) for p in PROBLEMS for i in range(2)]
    assert all(r.policy_logp == -1.0 and r.source == "test" and r.sampling["temperature"] == 1.0 for r in whole)
    with pytest.raises(Dies):
        sampled(engine, tmp_path / "b", die_at=2)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["00000.jsonl", "00001.jsonl"]
    rest, drawn = sampled(engine, tmp_path / "b")
    assert rest == whole
    assert drawn == [6, 2]
    assert sampled(engine, tmp_path / "b") == (whole, [])
