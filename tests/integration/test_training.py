"""What all trainers share: refused lengths, complete checkpoints only, metrics and weights that a resume does not change."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small import save_small_model, swap
from pns.errors import UserError
from pns.problems import embedded
from pns.recipe import AlignPart, GrpoPart, RewardModelPart, RewardPart, RuntimePart
from pns.records import Outcome, Pair, Response, Rubric, Verdict
from pns.rewards import Composite
from pns.rewards.adapters.trl import composite_reward
from pns.run import digest_of
from pns.sampling.engine import load_causal, load_tokenizer
from pns.training.common import MARKER, check_lengths, last_checkpoint
from pns.training.grpo import train_grpo
from pns.training.preference import align_steps, train_preference
from pns.training.reward_model import by_problem, pairs_within, train_reward_model, worth
from pns.training.sft import train_sft
from pns.verify import Verifier

PROBLEMS = embedded.training_problems("pairs", 24, 0)
ROWS = [(p.problem, p.solution or "") for p in PROBLEMS]
RUNTIME = RuntimePart(checkpoint_every=2)
STEPS = 5
Progress = Callable[[int, int], None]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("start"))


def sft(start: Path, out: Path, progress: Progress) -> Any:
    return train_sft(
        load_causal(start),
        load_tokenizer(start),
        ROWS,
        out,
        runtime=RUNTIME,
        steps=STEPS,
        batch_size=4,
        learning_rate=1e-3,
        max_length=192,
        seed=1,
        progress=progress,
        key="sft.max_length",
    )


def dpo(start: Path, out: Path, progress: Progress, **part_of: Any) -> Any:
    pairs = [Pair(problem_id=p, method="flip", prompt=p, chosen=r, rejected=swap(r)) for p, r in ROWS[: 4 * STEPS]]
    part = AlignPart(**{"batch_size": 4, "learning_rate": 1e-3, "nll_weight": 0.5, **part_of})
    assert align_steps(len(pairs), part) == STEPS
    return train_preference(start, pairs, out, part=part, runtime=RUNTIME, seed=1, progress=progress)


def reward_model(start: Path, out: Path, progress: Progress) -> Any:
    part = RewardModelPart(steps=STEPS, batch_size=4)
    pairs = [(p, r, swap(r)) for p, r in ROWS]
    return train_reward_model(start, pairs, out, part=part, runtime=RUNTIME, seed=1, progress=progress)


def grpo(start: Path, out: Path, progress: Progress, positive_weight: float | None = None) -> Any:
    def short(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [-float(len(ids)) for ids in completion_ids]

    part = GrpoPart(
        steps=STEPS,
        prompts_per_step=2,
        num_generations=4,
        learning_rate=1e-3,
        beta=0.1,
        max_new_tokens=8,
        micro_batch=4,
    )
    return train_grpo(
        start, PROBLEMS, short, out, part=part, runtime=RUNTIME, seed=1, progress=progress,
        positive_weight=positive_weight,
    )  # fmt: skip


def reinforce(start: Path, out: Path, progress: Progress) -> Any:
    return grpo(start, out, progress, 0.1)


class Dies(Exception):
    pass


@pytest.mark.slow
def kto(start: Path, out: Path, progress: Progress) -> Any:
    return dpo(start, out, progress, objective="kto", nll_weight=0.0)


def simpo(start: Path, out: Path, progress: Progress) -> Any:
    return dpo(start, out, progress, objective="simpo")


def orpo(start: Path, out: Path, progress: Progress) -> Any:
    return dpo(start, out, progress, objective="orpo", nll_weight=0.0)


@pytest.mark.parametrize("trainer", [sft, dpo, kto, simpo, orpo, reward_model, grpo, reinforce])
def test_a_resumed_training_ends_with_the_same_files(trainer: Any, start: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = trainer(start, tmp_path / "whole", lambda *_: None)
    seen: list[int] = []

    def dies(done: int, total: int) -> None:
        assert total == STEPS
        seen.append(done)
        if done == 3:
            raise Dies

    def notes(done: int, total: int) -> None:
        seen.append(done)

    random.seed(99)
    torch.manual_seed(99)
    with pytest.raises(Dies):
        trainer(start, tmp_path / "cut", dies)
    half = tmp_path / "cut" / "checkpoints" / "checkpoint-3"
    half.mkdir()  # as a kill during the writing of a checkpoint leaves it
    (half / "trainer_state.json").write_text("{")
    torch.manual_seed(98)
    resumed = trainer(start, tmp_path / "cut", notes)
    assert seen == [0, 1, 2, 3, 2, 3, 4, 5]
    assert resumed == whole
    assert [row["step"] for row in whole if "loss" in row] == list(range(1, STEPS + 1))
    assert digest_of(tmp_path / "cut") == digest_of(tmp_path / "whole")
    assert not (tmp_path / "whole" / "checkpoints").exists()
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole
    trainer(start, tmp_path / "cut", lambda *_: pytest.fail("a training that had ended was begun again"))


def test_half_written_checkpoints_are_removed(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for number, complete in ((2, True), (10, True), (12, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text("x")
        if complete:
            (folder / MARKER).touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / "checkpoint-10")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-10", "checkpoint-2"]


def test_rows_that_a_trainer_would_cut_are_refused(start: Path) -> None:
    tokenizer = load_tokenizer(start)
    lengths = [len(tokenizer(f"<user>{p}<assistant>{r}<end>", add_special_tokens=False)["input_ids"]) for p, r in ROWS]
    check_lengths(tokenizer, ROWS, max(lengths), "solutions", "sft.max_length")
    check_lengths(tokenizer, [], 1, "solutions", "sft.max_length")
    limit = sorted(lengths)[len(lengths) // 2]
    over = sum(n > limit for n in lengths)
    with pytest.raises(UserError, match=rf"{over} of {len(ROWS)} solutions .* longest: {max(lengths)}") as caught:
        check_lengths(tokenizer, ROWS, limit, "solutions", "sft.max_length")
    assert caught.value.field == "sft.max_length"
    assert f"sft.max_length={max(lengths)}, or leave" in (caught.value.remedy or ""), "sft has no key that cuts"


def test_trainers_refuse_what_is_too_long_or_too_little(start: Path, tmp_path: Path) -> None:
    def nothing(*_: int) -> None:
        pytest.fail("training was begun")

    part = RewardModelPart(steps=1, max_length=8)
    how: dict[str, Any] = {"runtime": RUNTIME, "seed": 0, "progress": nothing}
    with pytest.raises(UserError, match="both a right and a wrong response"):
        train_reward_model(start, [], tmp_path, part=part, **how)
    with pytest.raises(UserError, match=r"reward_model\.max_length"):
        train_reward_model(start, [(*ROWS[0], "5")], tmp_path, part=part, **how)
    pair = Pair(problem_id="p", method="pns", prompt=ROWS[0][0], chosen=ROWS[0][1], rejected="5")
    with pytest.raises(UserError, match=r"align\.max_length"):
        train_preference(start, [pair], tmp_path, part=AlignPart(learning_rate=1e-4, max_length=8), **how)
    grpo_part = GrpoPart(steps=9, prompts_per_step=3, num_generations=2, learning_rate=1e-4)
    with pytest.raises(UserError, match=f"need 27 problems, not {len(PROBLEMS)}"):
        train_grpo(start, PROBLEMS, lambda **_: [], tmp_path, part=grpo_part, **how)
    assert not list(tmp_path.iterdir())


def responses(problem: str, *sides: tuple[str, Outcome]) -> list[Response]:
    return [
        Response(problem_id=problem, text=text, index=i, source="policy", verdict=Verdict(outcome=outcome))
        for i, (text, outcome) in enumerate(sides)
    ]


def test_reward_model_pairs_stay_within_one_problem() -> None:
    problems = {p.id: p for p in PROBLEMS[:3]}
    a, b, c = problems
    rows = [
        *responses(a, ("r1", "correct"), ("w1", "wrong"), ("w2", "wrong"), ("r1", "correct"), ("u", "undecided")),
        *responses(b, ("w3", "wrong")),
        *responses(c, ("r2", "correct"), ("w4", "wrong")),
        Response(problem_id=c, text="unverified", index=9, source="policy"),
    ]
    assert {k: (len(x), len(y)) for k, (x, y) in by_problem(rows).items()} == {a: (2, 2), b: (0, 1), c: (1, 1)}
    pairs = pairs_within(problems, rows, 4, seed=0)
    text = {i: p.problem for i, p in problems.items()}
    assert sorted(pairs) == sorted([(text[a], "r1", "w1"), (text[a], "r1", "w2"), (text[c], "r2", "w4")])
    assert len(pairs_within(problems, rows, 1, seed=0)) == 2
    assert pairs_within(problems, rows, 4, seed=0) == pairs


def test_worth_by_hand() -> None:
    found = worth(
        {
            # right beats one of two wrong ones; the best of three is wrong
            "a": [(1.0, True), (2.0, False), (0.0, False)],
            # a tie counts half; the first of the tied is taken
            "b": [(3.0, True), (3.0, False), (1.0, False)],
            # nothing right: no pairs, counts for best, mean and oracle
            "c": [(5.0, False), (4.0, False), (3.0, False)],
            # all right: no pairs either
            "d": [(0.0, True), (0.0, True), (0.0, True)],
        },
        3,
    )
    assert found["pair_accuracy"] == pytest.approx((1 + 1.5) / 4)
    assert found["best_of_3"] == pytest.approx((0 + 1 + 0 + 1) / 4)
    assert found["mean_of_3"] == pytest.approx((1 / 3 + 1 / 3 + 0 + 1) / 4)
    assert found["oracle_of_3"] == pytest.approx(3 / 4)
    assert (found["n_problems"], found["n_pairs"]) == (4, 4)
    assert worth({"c": [(1.0, False)]}, 1)["pair_accuracy"] is None


def test_trl_takes_an_unscored_completion_as_none_and_logs_the_terms(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The composite under a real GRPOTrainer. An untrained model writes no solution, so gates are opened by hand."""
    torch.set_num_threads(1)
    asked = itertools.count()

    def judge(problem: str, response: str, answer: str | None) -> Rubric:
        if next(asked) % 2:
            raise ConnectionError("judge is down")
        return Rubric(relevance=3, coherence=3, completeness=3, consistency=3)

    class Wrong(Verifier):
        def verify_problems(self, problems: Any, texts: Any) -> list[Verdict]:
            return [Verdict(outcome="wrong")] * len(texts)

    monkeypatch.setattr("pns.rewards.composite.format_failures", lambda *_, **__: ())
    log = tmp_path / "rewards.jsonl"
    with Composite(RewardPart(), Wrong(), judge=judge) as composite:
        reward = composite_reward(composite, {p.id: p for p in PROBLEMS}, max_unscored=1, eos_ids={1}, log=log)
        part = GrpoPart(steps=2, prompts_per_step=2, num_generations=4, learning_rate=1e-3, max_new_tokens=8)
        history = train_grpo(
            start, PROBLEMS, reward, tmp_path / "out", part=part, runtime=RUNTIME, seed=1, progress=lambda *_: None
        )
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0] * 8 + [1] * 8
    assert [row["score"] for row in rows] == [pytest.approx(0.8), None] * 8
    assert [row["unscored_by"] for row in rows] == [None, "judge_server"] * 8
    steps = [row for row in history if "composite/unscored" in row]
    assert [(row["composite/unscored"], row["composite/scored"]) for row in steps] == [(0.5, 0.5)] * 2
    # 0.4 and a spread, if an unscored one counted as 0
    assert [row["reward"] for row in steps] == [pytest.approx(0.8)] * 2
    assert [row["reward_std"] for row in steps] == [pytest.approx(0, abs=1e-6)] * 2
