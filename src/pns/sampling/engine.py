"""Engines draw completions and score log-probabilities. One protocol; here the one over plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pns.errors import UserError
from pns.records import Problem

if TYPE_CHECKING:
    import torch


class Completion(NamedTuple):
    """One sampled completion: text without the end token, its length in tokens, and why it stopped."""

    text: str
    n_tokens: int
    finish: Literal["stop", "length"]


class Engine(Protocol):
    """What sampling asks of an engine. `n` completions for each problem, in the order of the problems."""

    name: str

    def generate(
        self,
        problems: Sequence[str],
        *,
        n: int,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        seed: int,
        prefixes: Sequence[str] | None = None,
    ) -> list[list[Completion]]: ...

    def log_probabilities(self, problems: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]: ...


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model directory. Raises UserError where there is none, or it has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no usable tokenizer in this model directory ({type(error).__name__})",
            file=path,
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(directory)",
        ) from None
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template", file=path, remedy="set tokenizer.chat_template and save it"
        )
    return tokenizer


def load_causal(path: str | Path, device: str = "cpu") -> Any:
    """A causal LM from a directory, in the dtype it was saved in. Raises UserError when it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype="auto").to(device)
    except (OSError, ValueError) as error:
        raise UserError(f"no usable model ({error})", file=path, remedy="run the stage that makes it again") from None


def user(problem: str) -> dict[str, str]:
    """A problem as a chat message."""
    return {"role": "user", "content": problem}


def assistant(text: str) -> dict[str, str]:
    """A response as a chat message."""
    return {"role": "assistant", "content": text}


class TransformersEngine:
    """Plain `model.generate` in batches; on CPU the same seed and batch give the same samples exactly.

    Args:
        path: model directory with its tokenizer.
        batch_size: sequences in one forward pass of `log_probabilities`.
        loaded: model and tokenizer, where they are in memory already; the path only names them then.
    """

    def __init__(
        self, path: str | Path, *, device: str = "cpu", batch_size: int = 256, loaded: tuple[Any, Any] | None = None
    ) -> None:
        self.name = Path(path).name
        self.device, self.batch_size = device, batch_size
        self.tokenizer = load_tokenizer(path) if loaded is None else loaded[1]
        self.tokenizer.padding_side = "left"
        self.model = (load_causal(path, device) if loaded is None else loaded[0]).eval()
        eos = self.model.generation_config.eos_token_id
        self.eos_ids = {self.tokenizer.eos_token_id, *([eos] if isinstance(eos, int) else eos or [])}

    def _prompts(self, problems: Sequence[str], prefixes: Sequence[str] | None = None) -> list[list[int]]:
        if not problems:  # tokenizers do not take an empty batch
            return []
        texts = [
            self.tokenizer.apply_chat_template([user(p)], add_generation_prompt=True, tokenize=False) for p in problems
        ]
        if prefixes is not None:
            texts = [text + prefix for text, prefix in zip(texts, prefixes, strict=True)]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def generate(
        self,
        problems: Sequence[str],
        *,
        n: int,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        seed: int,
        prefixes: Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """Sample; temperature 0 is greedy (and asks for n = 1). `prefixes`: how each response begins; not given back."""
        import torch

        torch.manual_seed(seed)
        prompts = self._prompts(problems, prefixes)
        batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left").to(self.device)
        how: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0, "num_return_sequences": n}
        # A growing cache is copied at every token; a static one is not, and gives the same samples (1.2 to 1.5 times faster).
        how |= {"cache_implementation": "static", "disable_compile": True}
        with torch.inference_mode():
            out = self.model.generate(
                **batch, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, **how
            )
        rows = [self._completion(row) for row in out[:, batch["input_ids"].shape[1] :].tolist()]
        return [rows[i * n : (i + 1) * n] for i in range(len(problems))]

    def _completion(self, ids: list[int]) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in self.eos_ids), None)
        kept = ids if end is None else ids[:end]
        if end is None:
            kept = [t for t in ids if t != self.tokenizer.pad_token_id]
        text = self.tokenizer.decode(kept, skip_special_tokens=False)
        return Completion(text, len(kept) + (end is not None), "length" if end is None else "stop")

    def fits(self, problem: str, text: str) -> bool:
        """Whether the model has positions for the two; for texts that it has not written itself."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        return most is None or len(self._conversations([problem], [text])[0]) <= most

    def _conversations(self, problems: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        wholes = [
            self.tokenizer.apply_chat_template([user(p), assistant(t)], tokenize=False)
            for p, t in zip(problems, texts, strict=True)
        ]
        # All at once: one by one, tokenizing takes longer than the model does at small sizes.
        ids: list[list[int]] = self.tokenizer(wholes, add_special_tokens=False)["input_ids"] if wholes else []
        return ids

    def log_probabilities(self, problems: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
        """For each (problem, text): the sum over the text's tokens and its end token of log p (nats), and their number.

        The text is tokenized as a preference trainer does it, inside the chat template.
        """
        import torch

        rows = []
        for ids, prompt in zip(self._conversations(problems, texts), self._prompts(problems), strict=True):
            last = max((i for i, t in enumerate(ids) if t in self.eos_ids), default=len(ids) - 1)
            rows.append((ids[: last + 1], len(prompt)))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        out: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
        for at in range(0, len(order), self.batch_size):
            chunk = order[at : at + self.batch_size]
            with torch.inference_mode():
                sums = _sum_logps(self.model, [rows[i] for i in chunk], self.tokenizer.pad_token_id)
            for i, total in zip(chunk, sums, strict=True):
                out[i] = (total, len(rows[i][0]) - rows[i][1])
        return out


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
