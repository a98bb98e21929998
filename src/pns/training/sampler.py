"""How a GRPO training draws its completions where TRL's own way is slow: from a copy of the weights. (Ours.)

On a GPU a training keeps its weights in float32 and computes in bfloat16. TRL samples with those very weights, so each token
reads four bytes a weight and casts them all, layer by layer. A copy in bfloat16 is half as large and is cast once a draw.
`compiled` decodes through `torch.compile` (see `pns.sampling.compiled`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType

from pns.accelerated import no_copy
from pns.recipe import RuntimePart
from pns.sampling.compiled import CompiledDecoder
from pns.sampling.engine import load_causal


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
        self._decoder: CompiledDecoder | None = None

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        tokenizer, device = trainer.processing_class, trainer.accelerator.device
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
        model, config = self._newest(trainer), copy.deepcopy(trainer.generation_config)
        # What stands at its default in a config that is passed to it, transformers takes from the model's own, for a published
        # model perhaps another temperature; so that is the same one.
        model.generation_config = config
        if self.compiled:
            self._decoder = self._decoder or CompiledDecoder(model)
            new = self._decoder.generate(tokenizer, ids, self.prompt_tokens, config)
        else:
            batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(device)
            config.cache_implementation = "static"  # as in pns.sampling.engine
            with torch.no_grad():
                new = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :].tolist()
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


def _to_end(row: list[int], end: int | list[int]) -> list[int]:
    """A completion to its end token, or as far as it goes."""
    ends = {end} if isinstance(end, int) else set(end)
    at = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: at + 1]


def set_sampler(trainer: Any, runtime: RuntimePart, start: Path, prompt_tokens: Callable[[], int]) -> None:
    """Let the trainer sample as `runtime.sampler` says; `auto`: from a copy on GPUs that hold a whole model, else by TRL
    itself.

    Args:
        prompt_tokens: of the longest prompt; asked for where a copy samples.
    Raises UserError where the recipe asks for a copy and the weights are divided among processes.
    """
    divided = _divided(trainer.accelerator)
    if not runtime.copies(divided):
        return
    if divided:
        raise no_copy(runtime.sampler)
    compiled = runtime.sampler == "compiled"
    trainer.rollout_func = CopySampler(start, prompt_tokens=prompt_tokens(), compiled=compiled)


def _divided(accelerator: Any) -> bool:
    """Whether each process has a part of the weights alone; under ZeRO-1 and -2 each has a whole model."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return bool(accelerator.state.deepspeed_plugin.zero_stage == 3)
    return bool(accelerator.distributed_type == DistributedType.FSDP)
