"""Continuous batching by transformers itself: a sequence that has ended makes room for the next one. (Source: ours.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pns.compute import turn
from pns.errors import StageStopped, UserError
from pns.sampling.engine import TransformersEngine
from pns.sampling.jobs import Drawn, Job

_PAGE = 64


class ContinuousEngine(TransformersEngine):
    """`model.generate_batch`. Which sequences share a batch is left to its scheduler, so the same samples are not promised.

    It changes the attention of its model while it runs, so the model must not be shared with another engine.
    """

    deterministic = False

    def generate(self, job: Job) -> Drawn:
        """See `TransformersEngine.generate`. Raises UserError where transformers or the model cannot do it."""
        import torch

        prompts = self._prompts(job.problems, job.prefixes)
        how: dict[str, Any] = {}
        if job.temperature > 0:
            how = {"do_sample": True, "temperature": job.temperature, "top_p": job.top_p, "top_k": 0}
        torch.manual_seed(job.seed)
        try:
            from transformers import ContinuousBatchingConfig, GenerationConfig

            config = GenerationConfig(
                max_new_tokens=job.max_new_tokens, num_return_sequences=job.n, eos_token_id=sorted(self.eos_ids),
                pad_token_id=self.tokenizer.pad_token_id, **how,
            )  # fmt: skip
            cache = ContinuousBatchingConfig(**self._cache(prompts, job.n, job.max_new_tokens))
            with turn(self.device):
                found = self.model.generate_batch(prompts, generation_config=config, continuous_batching_config=cache)
        except (ImportError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise UserError(
                f"this transformers or model has no continuous batching ({type(error).__name__}: {error})",
                field="engine.continuous_batching", remedy="set it to false, or use engine.kind=vllm",
            ) from None  # fmt: skip
        rows = list(found.values())
        failed = [row.error for row in rows if row.error is not None]
        if failed or len(rows) != job.n * len(prompts):
            raise StageStopped(
                f"continuous batching lost {job.n * len(prompts) - len(rows) + len(failed)} sequences: {failed[:1]}"
            )
        done = [self._completion(list(row.generated_tokens)) for row in rows]
        return [done[i * job.n : (i + 1) * job.n] for i in range(len(prompts))]

    def _cache(self, prompts: Sequence[Sequence[int]], n: int, limit: int) -> dict[str, Any]:
        """On a GPU transformers takes what memory is free; on a CPU that would be most of the machine's, filled with zeros."""
        if self.device != "cpu":
            return {}
        pages = sum(-(-(len(ids) + limit) // _PAGE) for ids in prompts) * n
        return {
            "page_size": _PAGE,
            "num_blocks": pages + n,
            "max_batch_tokens": 4 * n * max(map(len, prompts), default=1),
        }
