"""NSR and W-REINFORCE: advantages, loss and gradient are those of the paper's formula, on a tiny model."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small import save_small_model
from pns.problems import embedded
from pns.recipe import GrpoPart, RuntimePart
from pns.sampling.engine import load_causal, load_tokenizer, prompt_rows
from pns.training.grpo import train_grpo
from pns.training.reinforce import ReinforceTrainer, advantages

PROBLEMS = embedded.training_problems("pairs", 8, 0)
Batch = dict[str, Any]
Judged = Callable[[list[int]], float | None]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_small_model(tmp_path_factory.mktemp("start"))


def trained(start: Path, out: Path, judged: Judged, weight: float | None, **given: Any) -> list[Batch]:
    """The log of a training whose reward is a function of a completion's token ids."""

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [judged(ids) for ids in completion_ids]

    problems = given.pop("problems", PROBLEMS)
    own = {"steps": 2, "prompts_per_step": 2, "num_generations": 4, "learning_rate": 1e-3, "max_new_tokens": 8, **given}
    rows = train_grpo(
        start, problems, reward, out, part=GrpoPart(**own), runtime=RuntimePart(), seed=1, progress=lambda *_: None,
        positive_weight=weight,
    )  # fmt: skip
    return [row for row in rows if "loss" in row]


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_causal(folder).state_dict()
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def mixed(ids: list[int]) -> float | None:
    """Wrong, correct, or unscored by the first token."""
    return (-1.0, 1.0, None)[ids[0] % 3]


def test_advantages_by_hand() -> None:
    nan = float("nan")
    rewards = torch.tensor([1.0, -1.0, nan, -1.0, 1.0])
    assert advantages(rewards, 0.0).tolist() == [0, -1, 0, -1, 0]
    assert advantages(rewards, 0.25).tolist() == [0.25, -1, 0, -1, 0.25]
    assert advantages(rewards, 1.0).tolist() == [1, -1, 0, -1, 1]
    assert advantages(torch.tensor([nan, nan]), 0.1).tolist() == [0, 0]


def flat(gradients: Any) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradients])


def by_hand(model: Any, inputs: Batch, advantages_B: torch.Tensor) -> torch.Tensor:
    """- sum A log pi(y) over the completions, by the tokens of the batch."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    at, prompt = (mask.cumsum(1) - 1).clamp(min=0), inputs["prompt_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask, position_ids=at).logits[:, prompt - 1 : -1]
    logp_BT = logits.log_softmax(-1).gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)
    logp_B = (logp_BT * inputs["completion_mask"]).sum(1)
    return -(advantages_B * logp_B).sum() / inputs["completion_mask"].sum()


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_advantages_loss_and_gradient_are_the_papers(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    """-1 for a wrong completion, lambda (NSR: 0) for a correct one, 0 for an unscored one, in the batch of the loss."""
    compute = ReinforceTrainer._compute_loss
    seen: list[int] = []

    def checked(self: Any, model: Any, inputs: Batch) -> Any:
        loss = compute(self, model, inputs)
        given = [mixed(row.tolist()) for row in inputs["completion_ids"]]
        seen.extend({None: 0, 1.0: 1, -1.0: 2}[value] for value in given)
        want = torch.tensor([0.0 if value is None else weight if value > 0 else -1.0 for value in given])
        assert torch.equal(inputs["advantages"], want)
        lengths = inputs["completion_mask"].sum(1)
        assert loss.item() == pytest.approx(-(want * lengths).sum().item() / lengths.sum().item(), abs=1e-5)
        parameters = list(model.parameters())
        ours = flat(torch.autograd.grad(loss, parameters, retain_graph=True))
        theirs = flat(torch.autograd.grad(by_hand(model, inputs, want), parameters))
        assert theirs.norm() > 0.01
        assert torch.allclose(ours, theirs, atol=1e-5)
        return loss

    monkeypatch.setattr(ReinforceTrainer, "_compute_loss", checked)
    trained(start, tmp_path, mixed, weight)
    assert len(seen) == 16
    assert set(seen) == {0, 1, 2}, "the three kinds"


def test_micro_batches_see_the_advantages_of_their_own_rows(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = ReinforceTrainer._compute_loss
    sizes: list[int] = []

    def checked(self: Any, model: Any, inputs: Batch) -> Any:
        want = [{None: 0.0, 1.0: 0.5, -1.0: -1.0}[mixed(row.tolist())] for row in inputs["completion_ids"]]
        assert inputs["advantages"].tolist() == want
        sizes.append(len(want))
        return compute(self, model, inputs)

    monkeypatch.setattr(ReinforceTrainer, "_compute_loss", checked)
    trained(start, tmp_path, mixed, 0.5, micro_batch=2)
    assert sizes == [2] * 8


@pytest.mark.parametrize(
    ("reward", "weight", "moves"),
    [
        (-1.0, None, False),  # GRPO: a group of one reward has no advantage
        (-1.0, 0.0, True),
        (-1.0, 0.1, True),
        (1.0, 0.0, False),
        (1.0, 0.1, True),
        (None, 0.1, False),
    ],
)
def test_groups_of_one_kind(
    start: Path, tmp_path: Path, reward: float | None, weight: float | None, moves: bool
) -> None:
    (row,) = trained(start, tmp_path, lambda ids: reward, weight, steps=1)
    assert (row["grad_norm"] > 0) == moves
    assert same(weights(tmp_path / "model"), weights(start)) != moves


def test_nsr_makes_the_wrong_answers_that_were_sampled_less_likely(start: Path, tmp_path: Path) -> None:
    one = PROBLEMS[:1] * 6  # the same problem at each step
    sampled: list[list[int]] = []

    def odd(ids: list[int]) -> float:
        sampled.append(ids)
        return -1.0 if ids[0] % 2 else 1.0

    trained(start, tmp_path, odd, 0.0, problems=one, steps=6, prompts_per_step=1, num_generations=16)
    first = sampled[:16]
    wrong = [ids for ids in first if ids[0] % 2]
    assert 0 < len(wrong) < 16
    before, after = (log_probabilities(folder, wrong) for folder in (start, tmp_path / "model"))
    assert statistics.fmean(after) < statistics.fmean(before) - 0.1
    share = [statistics.fmean(ids[0] % 2 for ids in sampled[i : i + 16]) for i in (0, 80)]
    assert share[1] < share[0]


def log_probabilities(folder: Path, completions: list[list[int]]) -> list[float]:
    """Of completions of the first problem."""
    model, tokenizer = load_causal(folder), load_tokenizer(folder)
    prompt = tokenizer.apply_chat_template(
        prompt_rows(PROBLEMS[:1])[0]["prompt"], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    out = []
    for ids in completions:
        with torch.no_grad():
            logp = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        out.append(float(logp.gather(-1, torch.tensor(ids).unsqueeze(-1)).sum()))
    return out
