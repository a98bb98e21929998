"""verl's own loading code with our recipe, reward and prompts: `make check-verl`. No GPU, no vLLM, no model."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopManager, RewardLoopWorker, migrate_legacy_reward_impl
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils import hf_tokenizer
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.dataset.rl_dataset import RLHFDataset

from peers.common import PENALTY, PROBLEMS, exported, fixture, or_penalty, save_tokenizer, told
from pns.records import Problem

ROOT = Path(__file__).parents[2]


def composed(*overrides: str) -> Any:
    """Our recipe as verl's `main_ppo` would get it, checked by verl as it does before it starts."""
    with initialize_config_dir(str(ROOT / "recipes" / "verl"), version_base=None):
        config = compose("reverse-rl", overrides=list(overrides))
    config = migrate_legacy_reward_impl(config)
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    actor, reward = config.actor_rollout_ref, config.reward
    for part in (actor.rollout, config.algorithm, *([reward.reward_model] * reward.reward_model.enable)):
        omega_conf_to_dataclass(part)
    return config


def batch(tokenizer: Any, rows: Sequence[tuple[Problem, str]]) -> DataProto:
    """Responses as verl's rollout leaves them: padded token ids, their mask, and the columns of the data set."""
    written = [[*tokenizer(t, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for _, t in rows]
    longest = max(map(len, written))
    prompts = [[tokenizer.eos_token_id]] * len(rows)
    responses = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids in written]
    masks = [[1] * (1 + len(ids)) + [0] * (longest - len(ids)) for ids in written]
    columns = {
        "data_source": ["math"] * len(rows),
        "reward_model": [{"style": "rule", "ground_truth": problem.answer} for problem, _ in rows],
        "extra_info": [{"problem": problem.problem, "index": i, "split": "train"} for i, (problem, _) in enumerate(rows)],
    }  # fmt: skip
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": masks}
    return DataProto.from_dict(
        tensors={name: torch.tensor(value) for name, value in tensors.items()},
        non_tensors={name: np.array(value, dtype=object) for name, value in columns.items()},
    )


def in_this_process(config: Any, data: DataProto) -> list[dict[str, Any]]:
    """verl's worker of the reward loop, which loads our function and calls it for every response at once."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    found: list[dict[str, Any]] = loop.run_until_complete(RewardLoopWorker(config).compute_score_batch(data))
    return found


def under_ray(config: Any, data: DataProto) -> tuple[list[float], dict[str, Any]]:
    """The same through verl's manager: workers that are Ray actors."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )  # fmt: skip
    try:
        out = RewardLoopManager(config).compute_rm_score(data)
    finally:
        ray.shutdown()
    return out.batch["rm_scores"].sum(-1).tolist(), dict(out.non_tensor_batch)


def prompts(config: Any, tokenizer: Any, folder: Path) -> None:
    """verl's data set reads the exported prompts."""
    out = exported(folder, "prompts", "verl", rows=PROBLEMS)
    with open_dict(config):
        config.data.cache_dir = str(folder / "cache")
    rows = list(RLHFDataset([str(out / "train.parquet")], tokenizer, config.data))
    assert [row["raw_prompt"][0]["content"] for row in rows] == [p["problem"] for p in PROBLEMS]
    assert [row["reward_model"]["ground_truth"] for row in rows] == [p["answer"] for p in PROBLEMS]
    assert rows[1]["extra_info"]["unit"] == "cm"
    assert [row["index"] for row in rows] == [0, 1, 2]


def main() -> None:
    """All checks; the first that fails ends the program."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        responses, scores, recipe = fixture(folder)
        model = save_tokenizer(folder / "model")
        os.environ |= {
            "PNS_TRAIN": str(folder / "train.parquet"), "PNS_POLICY": str(model), "PNS_REWARD": str(recipe),
            "PNS_REWARD_MODEL": str(model),
        }  # fmt: skip
        routed = composed("+with=router")
        assert routed.reward.reward_model.rollout.name == "vllm"
        assert routed.reward.custom_reward_function.reward_kwargs.use_router
        config = composed(f"reward.custom_reward_function.reward_kwargs.on_unscored={PENALTY}", "reward.num_workers=2")
        tokenizer = hf_tokenizer(str(model))
        prompts(config, tokenizer, folder)
        data, expected = batch(tokenizer, responses), or_penalty(scores)
        here = in_this_process(config, data)
        assert [row["reward_score"] for row in here] == expected
        rewards, extra = under_ray(config, data)
        single = torch.tensor(expected, dtype=torch.float32).tolist()
        assert rewards == single
        for row, gate, i in zip(here, (s.gate for s in scores), range(len(scores)), strict=True):
            assert row["reward_extra_info"][f"gate_{gate}"] == extra[f"gate_{gate}"][i] == 1.0
        told("verl", recipes=2, prompts=len(PROBLEMS), responses=len(here), equal=len(expected))


if __name__ == "__main__":
    main()
