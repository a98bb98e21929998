"""vLLM in this process. Prompts go in as token ids and completions come out as such, so the texts are those of every engine.

Log-probabilities are not its business: stages compare those of several models, so one implementation, that of
transformers, computes them all. Covered by contract tests against the sources of vLLM 0.31.0 alone: it needs a GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pns.errors import StageStopped, UserError
from pns.parts.engine import VllmPart
from pns.run import seed_of
from pns.sampling.jobs import Drawn, Job, ahead
from pns.sampling.prompts import Completion, completion, load_tokenizer, model_end_ids, prompt_texts, token_ids

ADAPTER = "adapter"
_CONFIG = "adapter_config.json"
MOST_TOGETHER = 1024
"""Completions in one call, where a shard has fewer. A kill loses those of the call, and of the one that is being scored."""
_FIELD = "engine.vllm"


class VllmEngine:
    """Completions by `vllm.LLM`, each problem with a seed of its own, and sample k of it with that seed plus k. A Pool (see
    `jobs`) that keeps the order.

    Args:
        path: model directory with its tokenizer. With `part.lora` a directory `adapter` beside it, as a stage with
            align.lora publishes it, is sampled over the base that it names; without such a directory, the model itself.
    Attributes:
        deterministic: with `batch_invariant` alone: other kernels round by what else is in the batch.
    Raises UserError where vLLM is missing, or cannot load the model.
    """

    def __init__(self, path: str | Path, part: VllmPart) -> None:
        self.name, self.deterministic = Path(path).name, part.batch_invariant
        if part.batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"  # vLLM reads it when it is imported, and in its own processes
        try:
            import vllm
            from vllm.exceptions import VLLMValidationError
        except ImportError as error:
            raise UserError(
                f"vLLM cannot be imported ({error})", field="engine.kind",
                remedy="pip install vllm, on a machine with a GPU that it supports; or set engine.kind=transformers",
            ) from None  # fmt: skip
        folder = Path(path).parent / ADAPTER
        adapter = _adapter(folder) if part.lora and folder.is_dir() else None
        self.tokenizer = load_tokenizer(path)
        self._params, self._lora, lora = vllm.SamplingParams, None, {}
        self._refused = (ValueError, VLLMValidationError)  # older releases raise ValueError, 0.31 its own alone
        if adapter is not None:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest(lora_name=self.name, lora_int_id=1, lora_path=str(folder))
            lora = {"enable_lora": True, "max_lora_rank": _rank(adapter[1])}
        model = str(path if adapter is None else adapter[0])
        try:
            self._llm = vllm.LLM(
                model=model,
                tokenizer=str(path),
                tensor_parallel_size=part.tensor_parallel,
                gpu_memory_utilization=part.gpu_memory_utilization,
                max_model_len=part.max_model_len,
                enable_prefix_caching=part.prefix_caching,
                seed=0,
                **lora,
                **part.args,
            )
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"vLLM cannot load the model ({error})", file=path, field=_FIELD,
                remedy="its log says more; less gpu_memory_utilization or max_model_len, more tensor_parallel, or other args",
            ) from None  # fmt: skip
        self._ends = model_end_ids(path, self.tokenizer)

    def generate(self, job: Job) -> Drawn:
        """See `TransformersEngine.generate`.

        Raises UserError for what vLLM refuses: a prompt that is too long for the model, a temperature above 2.
        """
        return self._call([job])[0]

    def generate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Drawn]]:
        """(place of the job, its completions), in order. Several jobs are one call, and the next call goes on while those of
        one are taken: see `_groups`. Raises as `generate`.
        """
        calls = ((group, self._call([jobs[i] for i in group])) for group in _groups(jobs))
        for group, drawn in ahead(calls):
            yield from zip(group, drawn, strict=True)

    def close(self) -> None:
        """Let go of the engine, so that its processes end and the GPU is free."""
        self._llm = None

    def _call(self, jobs: Sequence[Job]) -> list[Drawn]:
        prompts, params = [], []
        try:
            for job in jobs:
                ids = token_ids(self.tokenizer, prompt_texts(self.tokenizer, job.problems, job.prefixes))
                prompts += [{"prompt_token_ids": row} for row in ids]
                params += [
                    self._params(
                        n=job.n, temperature=job.temperature, top_p=job.top_p, top_k=0, max_tokens=job.max_new_tokens,
                        # Of the shard's seed alone: neither the place in a batch nor a resume changes it.
                        seed=seed_of(job.seed, f"problem/{i}"), stop_token_ids=sorted(self._ends), detokenize=False,
                    )
                    for i in range(len(ids))
                ]  # fmt: skip
            outputs = iter(self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora))
        except self._refused as error:
            raise UserError(
                f"vLLM refuses a prompt or how it is to be sampled ({error})", field=_FIELD,
                remedy="a prompt needs vllm.max_model_len; a temperature is at most 2 there",
            ) from None  # fmt: skip
        return [[[self._completion(one) for one in next(outputs).outputs] for _ in job.problems] for job in jobs]

    def _completion(self, one: Any) -> Completion:
        if one.finish_reason not in ("stop", "length"):
            raise StageStopped(f"vLLM gave up a request ({one.finish_reason})")
        return completion(self.tokenizer, self._ends, list(one.token_ids))


def _groups(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Places of the jobs that are one call, for which vLLM fills its batch as sequences end: of at most MOST_TOGETHER
    completions, and of a quarter of all, so that scoring has something to do beside the drawing; or one larger job.
    """
    sizes = [len(job.problems) * job.n for job in jobs]
    most = min(MOST_TOGETHER, sum(sizes) // 4)
    group: list[int] = []
    for place, size in enumerate(sizes):
        if group and sum(sizes[i] for i in group) + size > most:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _adapter(folder: Path) -> tuple[Path, int]:
    """The directory of the base model that a LoRA adapter belongs to, and the adapter's rank."""
    file = folder / _CONFIG
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        base, rank = found["base_model_name_or_path"], found["r"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"not a LoRA adapter's ({type(error).__name__}: {error})", file=file) from None
    if not isinstance(base, str) or type(rank) is not int or not 0 < rank <= _RANKS[-1]:
        raise UserError(f"needs a base model and a rank of 1 to {_RANKS[-1]}", file=file)
    if not (Path(base) / "config.json").is_file():
        raise UserError(
            f"its base model is not there: {base}", file=file, field=f"{_FIELD}.lora",
            remedy="was the run moved? Set engine.vllm.lora=false: the merged model is the same but for rounding",
        )  # fmt: skip
    return Path(base), rank


_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def _rank(r: int) -> int:
    """The least of the ranks that vLLM takes that holds this one."""
    return next(rank for rank in _RANKS if rank >= r)
