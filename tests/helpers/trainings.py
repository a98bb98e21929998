"""SFT, reward model, DPO and GRPO at a tiny size, the same in one process and in several: `python -m ... JOB-folder`.

All but SFT go through a step in passes, of as many rows each whatever the number of processes. GRPO's completions are given,
for its sampling seeds differ by process; `grpo_trl` and `grpo_copy` draw their own, by TRL and from a copy of the weights.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from pns.parts.training import AlignPart, GrpoPart, RewardModelPart
from pns.problems import embedded
from pns.processes import OtherProcess
from pns.recipe import RuntimePart
from pns.records import Pair
from pns.training import common

NAMES = ("grpo_trl", "grpo_copy", "sft", "reward_model", "dpo", "grpo")
"""What begins with `grpo_` depends on the number of processes."""


def train_all(start: Path, out: Path) -> None:
    """Each training into a folder of its own. The processes stay together until the last one, behind which they part."""
    part_ways = common.part_ways
    for name in NAMES:
        common.part_ways = part_ways if name == NAMES[-1] else lambda: None
        (out / name).mkdir(parents=True, exist_ok=True)
        with suppress(OtherProcess):
            TRAIN[name](start, out / name, {"runtime": RuntimePart(), "seed": 3, "progress": lambda *_: None})
    assert not torch.distributed.is_initialized()


def _sft(start: Path, out: Path, how: dict[str, Any]) -> None:
    from pns.sampling.engine import load_causal, load_tokenizer
    from pns.training.sft import train_sft

    rows = [(p.problem, p.solution or "") for p in embedded.training_problems("sft", 32, 1)]
    train_sft(
        load_causal(start), load_tokenizer(start), rows, out, steps=4, batch_size=8, learning_rate=1e-2, max_length=192,
        key="sft.max_length", **how,
    )  # fmt: skip


def _reward_model(start: Path, out: Path, how: dict[str, Any]) -> None:
    from pns.training.reward_model import train_reward_model

    pairs = [(p.prompt, p.chosen, p.rejected) for p in _pairs()]
    part = RewardModelPart(steps=4, batch_size=8, gradient_accumulation=4, learning_rate=1e-2)
    train_reward_model(start, pairs, out, part=part, **how)


def _dpo(start: Path, out: Path, how: dict[str, Any]) -> None:
    from pns.training.preference import train_preference

    part = AlignPart(learning_rate=1e-2, batch_size=8, gradient_accumulation=2, nll_weight=1.0)
    train_preference(start, _pairs(), out, part=part, **how)


def _grpo(start: Path, out: Path, how: dict[str, Any]) -> None:
    import pns.training.grpo as grpo

    class Given(grpo.GRPOTrainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(rollout_func=_completions, **kwargs)

    real, grpo.GRPOTrainer = grpo.GRPOTrainer, Given
    try:
        _grpo_drawn(start, out, how)
    finally:
        grpo.GRPOTrainer = real


def _grpo_drawn(start: Path, out: Path, how: dict[str, Any]) -> None:
    from pns.training.grpo import train_grpo

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [float(sum(ids) % 5) for ids in completion_ids]

    part = GrpoPart(
        steps=4, prompts_per_step=2, num_generations=4, micro_batch=2, learning_rate=1e-2, beta=0.1, max_new_tokens=8
    )
    train_grpo(start, embedded.training_problems("rlvr", 8, 1), reward, out, part=part, **how)


def _grpo_by(sampler: Literal["trl", "copy"]) -> Callable[[Path, Path, dict[str, Any]], None]:
    return lambda start, out, how: _grpo_drawn(start, out, {**how, "runtime": RuntimePart(sampler=sampler)})


def _completions(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """The k-th completion of a prompt depends on prompt and k alone."""
    seen: Counter[str] = Counter()
    tokenizer, completions = trainer.processing_class, []
    ids = [
        tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        for p in prompts
    ]
    for prompt in prompts:
        text = str(prompt)
        digest = hashlib.sha256(f"{text}/{seen[text]}".encode()).digest()
        seen[text] += 1
        completions.append([10 + byte % 60 for byte in digest[: 3 + digest[0] % 5]])
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}


def _pairs() -> list[Pair]:
    return [
        Pair(problem_id=p.id, method="x", prompt=p.problem, chosen=p.solution or "", rejected=(p.solution or "")[:-8] + "1}")
        for p in embedded.training_problems("pairs", 32, 1)
    ]  # fmt: skip


TRAIN = {
    "sft": _sft, "reward_model": _reward_model, "dpo": _dpo, "grpo": _grpo,
    "grpo_trl": _grpo_by("trl"), "grpo_copy": _grpo_by("copy"),
}  # fmt: skip

if __name__ == "__main__":
    train_all(Path(sys.argv[1]), Path(sys.argv[2]))
