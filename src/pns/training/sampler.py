"""How a GRPO training draws its completions where TRL's own way is slow: from a copy of the weights. (Ours.)

On a GPU a training keeps its weights in float32 and computes in bfloat16. TRL samples with those very weights, so each token
reads four bytes a weight and casts them all, layer by layer. A copy in bfloat16 is half as large and is cast once a draw.
`compiled` decodes through `torch.compile`, which replays one CUDA graph a token in place of hundreds of small launches. For
that, shapes stay the same: prompts are padded to the longest one of the training, and one cache serves all draws.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from transformers import StaticCache

from pns.errors import UserError
from pns.recipe import RuntimePart
from pns.sampling.engine import load_causal

DIVIDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class CopySampler:
    """TRL's `rollout_func`: completions of a step's prompts, drawn with the newest weights.

    The random numbers are torch's, as in TRL's own sampling, so checkpoints hold their state; on a CPU, where both have
    one dtype, the completions are the same.

    Args:
        start: directory of a model of the same shape; its weights are replaced at the first draw.
        prompt_tokens: of the longest prompt of the training.
        compiled: decode through `torch.compile` (a GPU; tens of seconds at the first draw).
    """

    def __init__(self, start: Path, *, prompt_tokens: int, compiled: bool) -> None:
        self.start, self.prompt_tokens, self.compiled = start, prompt_tokens, compiled
        self._model: Any = None
        self._cache: Any = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        tokenizer, device = trainer.processing_class, trainer.accelerator.device
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
        model = self._newest(trainer)
        batch = tokenizer.pad(
            {"input_ids": ids}, padding="max_length", max_length=self.prompt_tokens, padding_side="left", return_tensors="pt"
        ) if self.compiled else tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")  # fmt: skip
        batch = batch.to(device)
        config = copy.deepcopy(trainer.generation_config)
        how: dict[str, Any] = {}
        if self.compiled:
            config.disable_compile, config.cache_implementation = False, None
            how["past_key_values"] = self._emptied(model, config.max_new_tokens)
        # What stands at its default in a config that is passed to it, transformers takes from the model's own, for a published
        # model perhaps another temperature; so that is the same one.
        model.generation_config = config
        with torch.no_grad():
            out = model.generate(**batch, generation_config=config, **how)
        new = out[:, batch["input_ids"].shape[1] :].tolist()
        return {
            "prompt_ids": ids,
            "completion_ids": [_to_end(row, config.eos_token_id) for row in new],
            "logprobs": None,
        }

    def _newest(self, trainer: Any) -> Any:
        """The copy, with the trainer's weights of now."""
        source = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        if self._model is None:
            dtype = "auto" if trainer.args.use_cpu else "bfloat16"
            self._model = load_causal(self.start, str(trainer.accelerator.device), dtype).eval()
        theirs = dict(source.named_parameters())
        with torch.no_grad():
            for name, own in self._model.named_parameters():
                own.copy_(theirs[name])
        return self._model

    def _emptied(self, model: Any, new_tokens: int) -> Any:
        """The one cache: a new one at every draw would have other addresses, and its graph to be recorded again."""
        if self._cache is None:
            self._cache = StaticCache(config=model.config, max_cache_len=self.prompt_tokens + new_tokens)
        else:
            self._cache.reset()
        return self._cache


def _to_end(row: list[int], end: int | list[int]) -> list[int]:
    """A completion to its end token, or as far as it goes."""
    ends = {end} if isinstance(end, int) else set(end)
    at = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: at + 1]


def set_sampler(trainer: Any, runtime: RuntimePart, start: Path, prompt_tokens: int) -> None:
    """Let the trainer sample as `runtime.sampler` says; `auto`: from a copy on a GPU, by TRL itself on a CPU.

    Raises UserError where the recipe asks for a copy and the weights are divided among processes.
    """
    how = runtime.sampler
    if how == "auto":
        whole = trainer.accelerator.distributed_type not in DIVIDED
        how = "copy" if whole and runtime.device == "cuda" and runtime.vllm is None else "trl"
    elif how != "trl" and trainer.accelerator.distributed_type in DIVIDED:
        raise UserError(
            f"{how} needs a whole model in each process, and FSDP or DeepSpeed divides it", field="runtime.sampler",
            remedy="leave it out, or sample with runtime.vllm",
        )  # fmt: skip
    if how != "trl":
        trainer.rollout_func = CopySampler(start, prompt_tokens=prompt_tokens, compiled=how == "compiled")
