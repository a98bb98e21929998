"""Engines draw completions. One protocol; here the one over plain transformers, which scores log-probabilities too."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pns.compute import batches, turn
from pns.errors import UserError
from pns.records import Problem
from pns.sampling.compiled import CompiledDecoder, padded
from pns.sampling.jobs import Drawn, Job
from pns.sampling.prompts import (
    Completion,
    assistant,
    completion,
    end_ids,
    load_tokenizer,
    prompt_texts,
    token_ids,
    user,
)
from pns.weights import whole_weights

if TYPE_CHECKING:
    import torch

    from pns.readers import Passes

__all__ = [
    "Completion",
    "Engine",
    "TransformersEngine",
    "assistant",
    "load_causal",
    "load_tokenizer",
    "prompt_rows",
    "user",
]


class Engine(Protocol):
    """What sampling asks of an engine: the completions of a job, in the order of its problems.

    Attributes:
        name: of the model.
        deterministic: the same call gives the same completions exactly, on any worker of the same kind.
    """

    name: str
    deterministic: bool

    def generate(self, job: Job) -> Drawn: ...

    def close(self) -> None: ...


def load_causal(path: str | Path, device: str = "cpu", dtype: str = "auto") -> Any:
    """A causal LM from a directory; `auto`: in the dtype it was saved in. Raises UserError when it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    try:
        with whole_weights(path):
            return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        raise UserError(f"no usable model ({error})", file=path, remedy="run the stage that makes it again") from None


MAX_LOGITS = 2**28
"""Of one forward pass of `log_probabilities`: 1 GiB in float32. With a vocabulary of 150,000 that is some 1,800 tokens."""


class TransformersEngine:
    """Plain `model.generate` in batches; on CPU the same seed and batch give the same samples exactly.

    Args:
        path: model directory with its tokenizer. The model is read when it is first needed.
        batch_size: sequences in one forward pass of `log_probabilities`.
        loaded: model and tokenizer, where they are in memory already; the path only names them then.
        compiled: decode through `torch.compile` (see `pns.sampling.compiled`).
        passes: of the same model elsewhere, which compute the log-probabilities; it is then loaded here only to sample.
    """

    deterministic = True

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        batch_size: int = 256,
        loaded: tuple[Any, Any] | None = None,
        compiled: bool = False,
        passes: Passes | None = None,
    ) -> None:
        self.path, self.name = Path(path), Path(path).name
        self._passes = passes
        self.device, self.batch_size = device, batch_size
        self._loaded, self.compiled = loaded, compiled
        if compiled:
            self.deterministic = False
        self.tokenizer = load_tokenizer(path) if loaded is None else loaded[1]
        self.tokenizer.padding_side = "left"

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode. Raises UserError when it cannot be loaded."""
        return (load_causal(self.path, self.device) if self._loaded is None else self._loaded[0]).eval()

    @cached_property
    def _decoder(self) -> CompiledDecoder:
        return CompiledDecoder(self.model)

    def facts(self) -> dict[str, Any]:
        """Of the loaded model: `ends`, the tokens that end a response; the size of its `vocabulary`; its `positions`."""
        return {
            "ends": sorted(end_ids(self.tokenizer, self.model.generation_config.eos_token_id)),
            "vocabulary": self.model.get_input_embeddings().num_embeddings,
            "positions": getattr(self.model.config, "max_position_embeddings", None),
        }

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return self.facts() if self._passes is None else self._passes.facts()

    @cached_property
    def eos_ids(self) -> set[int]:
        """The tokens that end a response."""
        return set(self._facts["ends"])

    def _prompts(self, problems: Sequence[str], prefixes: Sequence[str] | None = None) -> list[list[int]]:
        return token_ids(self.tokenizer, prompt_texts(self.tokenizer, problems, prefixes))

    def generate(self, job: Job) -> Drawn:
        """Sample in one batch."""
        import torch

        torch.manual_seed(job.seed)
        prompts = self._prompts(job.problems, job.prefixes)
        how: dict[str, Any] = {"do_sample": False}
        if job.temperature > 0:
            how = {"do_sample": True, "temperature": job.temperature, "top_p": job.top_p, "top_k": 0}
            how["num_return_sequences"] = job.n
        how |= {"max_new_tokens": job.max_new_tokens, "pad_token_id": self.tokenizer.pad_token_id}
        with turn(self.device):
            new = self._compiled(prompts, how) if self.compiled else self._plain(prompts, how)
        rows = [self._completion(row) for row in new]
        return [rows[i * job.n : (i + 1) * job.n] for i in range(len(job.problems))]

    def _plain(self, prompts: list[list[int]], how: dict[str, Any]) -> list[list[int]]:
        import torch

        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left").to(self.device)
        # A growing cache is copied at every token; a static one is not, and gives the same samples (1.2 to 1.5 times faster).
        with torch.inference_mode():
            out = self.model.generate(**batch, cache_implementation="static", disable_compile=True, **how)
        rows: list[list[int]] = out[:, batch["input_ids"].shape[1] :].tolist()
        return rows

    def _compiled(self, prompts: list[list[int]], how: dict[str, Any]) -> list[list[int]]:
        config = copy.deepcopy(self.model.generation_config)
        config.update(**how)
        return self._decoder.generate(self.tokenizer, prompts, padded(max(map(len, prompts))), config)

    def _completion(self, ids: list[int]) -> Completion:
        return completion(self.tokenizer, self.eos_ids, ids)

    def close(self) -> None:
        """Nothing to end: the memory goes with the object."""

    def fits(self, problem: str, text: str) -> bool:
        """Whether the model has positions for the two; for texts that it has not written itself."""
        most = self._facts["positions"]
        return most is None or len(self._conversations([problem], [text])[0]) <= most

    def _conversations(self, problems: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        wholes = [
            self.tokenizer.apply_chat_template([user(p), assistant(t)], tokenize=False)
            for p, t in zip(problems, texts, strict=True)
        ]
        # All at once: one by one, tokenizing takes longer than the model does at small sizes.
        return token_ids(self.tokenizer, wholes)

    def log_probabilities(
        self, problems: Sequence[str], texts: Sequence[str], ended: Sequence[bool] | None = None
    ) -> list[tuple[float, int]]:
        """For each (problem, text): the sum over the text's tokens and its end token of log p (nats), and their number.

        The text is tokenized as a preference trainer does it, inside the chat template.

        Args:
            ended: False for a text that was cut off, whose end token nobody sampled: it is left out. Default: all ended.
        """
        rows = []
        whole = ended or [True] * len(texts)
        for ids, prompt, end in zip(self._conversations(problems, texts), self._prompts(problems), whole, strict=True):
            last = max((i for i, t in enumerate(ids) if t in self.eos_ids), default=len(ids) - 1)
            rows.append((ids[: last + end], len(prompt)))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        out: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
        most = MAX_LOGITS // self._facts["vocabulary"]
        chunks = list(batches(order, [len(ids) for ids, _ in rows], self.batch_size, most))
        groups = [[rows[i] for i in chunk] for chunk in chunks]
        found = map(self.one_pass, groups) if self._passes is None else self._passes(groups)
        for chunk, sums in zip(chunks, found, strict=True):
            for i, total in zip(chunk, sums, strict=True):
                out[i] = (total, len(rows[i][0]) - rows[i][1])
        return out

    def one_pass(self, rows: Sequence[tuple[list[int], int]]) -> list[float]:
        """The sums of log p of one batch: (token ids, how many of them are the prompt's) of each row."""
        import torch

        with turn(self.device), torch.inference_mode():
            return _sum_logps(self.model, rows, self.tokenizer.pad_token_id)


def _sum_logps(model: Any, rows: Sequence[tuple[list[int], int]], pad: int) -> list[float]:
    import torch

    longest = max(len(ids) for ids, _ in rows)
    tokens_BT = torch.full((len(rows), longest), pad, dtype=torch.long)
    kept_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, (ids, start) in enumerate(rows):
        tokens_BT[i, : len(ids)] = torch.tensor(ids)
        mask_BT[i, : len(ids)] = 1
        kept_BT[i, start : len(ids)] = True
    tokens_BT, kept_BT, mask_BT = (t.to(model.device) for t in (tokens_BT, kept_BT, mask_BT))
    logits_BTV: torch.Tensor = model(input_ids=tokens_BT, attention_mask=mask_BT).logits[:, :-1].float()
    target_BT = tokens_BT[:, 1:]
    logps_BT = logits_BTV.gather(2, target_BT.unsqueeze(2)).squeeze(2) - logits_BTV.logsumexp(2)
    return [float(x) for x in (logps_BT * kept_BT[:, 1:]).sum(1).tolist()]


def prompt_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems as TRL prompt rows with the id that reward functions look problems up by."""
    return [{"prompt": [user(p.problem)], "problem_id": p.id} for p in problems]
