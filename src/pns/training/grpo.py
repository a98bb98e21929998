"""GRPO through TRL: RLVR of the policy, more of it as a control, reverse RL of the generator; and REINFORCE in its place.

One pass over the problems, one update a generation, checkpoints on generation boundaries: the setting in which a
resumed training equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from pns.errors import UserError
from pns.extras import install, missing
from pns.recipe import GrpoPart, RuntimePart
from pns.records import Problem
from pns.rewards.adapters.trl import AsyncRewardFunction, RewardFunction
from pns.sampling.engine import load_tokenizer, prompt_rows
from pns.sampling.prompts import prompt_texts, token_ids
from pns.training.batches import rows_of
from pns.training.common import Progress, arguments, train, train_dtype
from pns.training.reinforce import ReinforceTrainer
from pns.training.sampler import set_sampler


def train_grpo(
    start: Path,
    problems: Sequence[Problem],
    reward: RewardFunction | AsyncRewardFunction,
    out: Path,
    *,
    part: GrpoPart,
    runtime: RuntimePart,
    seed: int,
    progress: Progress,
    positive_weight: float | None = None,
) -> list[dict[str, Any]]:
    """Train from the model saved at `start`, which is also the reference of the KL term. Returns the log history.

    With a `positive_weight` (>= 0) it is not GRPO: the advantage is the reward, with that weight where it is above 0
    (see `pns.training.reinforce`).

    Raises UserError when there are fewer problems than one pass needs, or vLLM is asked for and not installed.
    """
    need = part.steps * part.prompts_per_step
    if len(problems) < need:
        raise UserError(
            f"{part.steps} steps of {part.prompts_per_step} prompts need {need} problems, not {len(problems)}"
        )
    if runtime.vllm is not None and missing(["vllm"]):
        raise UserError("vLLM is not installed", field="runtime.vllm", remedy=f"install it: {install('vllm')}")
    tokenizer = load_tokenizer(start)

    def longest() -> int:
        return _longest(tokenizer, problems[:need])

    config = GRPOConfig(**grpo_arguments(out, part, runtime, seed, lambda: longest() + part.max_new_tokens))
    own = {} if positive_weight is None else {"positive_weight": positive_weight}
    trainer = (GRPOTrainer if positive_weight is None else ReinforceTrainer)(
        model=str(start),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(prompt_rows(problems[:need])),
        processing_class=tokenizer,
        **own,
    )
    set_sampler(trainer, runtime, start, longest)
    return train(trainer, out, progress)


def _longest(tokenizer: Any, problems: Sequence[Problem]) -> int:
    """Tokens of the longest prompt."""
    return max(map(len, token_ids(tokenizer, prompt_texts(tokenizer, [p.problem for p in problems]))))


def grpo_arguments(
    out: Path, part: GrpoPart, runtime: RuntimePart, seed: int, room: Callable[[], int]
) -> dict[str, Any]:
    """Those of TRL's GRPOConfig. A step's completions are drawn at once, by all processes, and trained on in passes.

    Args:
        room: see `_sampler`.
    """
    batch, micro = rows_of(part)
    shared = arguments(
        out,
        runtime,
        name="GRPO",
        batch=batch,
        micro=micro,
        seed=seed,
        steps=part.steps,
        num_iterations=1,
        num_generations=part.num_generations,
        max_completion_length=part.max_new_tokens,
        temperature=part.temperature,
        learning_rate=part.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(5, part.steps // 4),
        beta=part.beta,
        shuffle_dataset=False,
        **_sampler(runtime, room),
        model_init_kwargs={"dtype": train_dtype(runtime)},
    )
    return {**shared, "steps_per_generation": shared["gradient_accumulation_steps"]}


def _sampler(runtime: RuntimePart, room: Callable[[], int]) -> dict[str, Any]:
    """How TRL samples: by the model itself, or by vLLM, which is sent the weights after every step.

    Args:
        room: tokens of the longest prompt and completion. Without it vLLM makes room for all positions of the model.
    """
    part = runtime.vllm
    if part is None:
        # A static cache, as in pns.sampling.engine; on a GPU it would have the dtype of the weights, float32, and be given bfloat16.
        return {"cache_implementation": "static"} if runtime.device == "cpu" else {}
    if part.mode == "server":
        return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": part.url}
    return {
        "use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": part.gpu_memory_utilization,
        "vllm_tensor_parallel_size": part.tensor_parallel, "vllm_enable_sleep_mode": part.sleep,
        "vllm_max_model_length": part.max_model_len or room(),
    }  # fmt: skip
