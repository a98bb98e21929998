"""OpenRLHF's own executor with our reward, and its data sets with our exports: `make check-openrlhf`. No GPU."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from openrlhf.datasets import PromptDataset, RewardDataset
from openrlhf.datasets.utils import blending_datasets
from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer

import pns.rewards.adapters.openrlhf as adapter
from peers.common import PAIRS, PROBLEMS, exported, fixture, or_penalty, save_tokenizer, settings, told
from pns.records import Problem

SAMPLING = SimpleNamespace(max_tokens=1 << 20, logprobs=None)


class Engine:
    """In the place of vLLM: answers with a response that is known."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(self, prompt_ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
        """One output, ended by itself."""
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.ids, finish_reason="stop", logprobs=None)])


async def executed(tokenizer: Any, prompts: list[str], texts: list[str], labels: Any) -> list[Any]:
    """What the executor returns for each response: it loads our file, decodes whole texts and calls our function."""
    executor = SingleTurnAgentExecutor(adapter.__file__)
    assert executor.reward_func is not None

    async def one(prompt: str, text: str, label: str) -> Any:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return await executor.execute(prompt, label, SAMPLING, 1 << 21, tokenizer, Engine(ids))

    return await asyncio.gather(*map(one, prompts, texts, labels))


def strategy(**keys: Any) -> Any:
    """The part of OpenRLHF's strategy that its data sets look at; `keys` are the flags that we print."""
    args = SimpleNamespace(data=SimpleNamespace(apply_chat_template=True, **keys), use_ms=False)
    return SimpleNamespace(args=args, print=lambda *said: None, is_rank_0=lambda: False)


def pairs(tokenizer: Any, folder: Path) -> None:
    """Its preference data set reads exported pairs, and renders them without a loss."""
    out = exported(folder, "pairs", "openrlhf")
    flags = strategy(prompt_key="prompt", chosen_key="chosen", rejected_key="rejected")
    loaded = blending_datasets(str(out / "train.jsonl"), strategy=flags)
    rows = RewardDataset(loaded, tokenizer, 4096, flags, is_dpo=True, num_processors=1)
    assert len(rows) == len(PAIRS)
    for row, pair in zip(rows, PAIRS, strict=True):
        before = f"<|im_start|>user\n{pair['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        for ids, side in ((row[0], "chosen"), (row[2], "rejected")):
            assert tokenizer.decode(ids[0]) == f"{before}{pair[side]}<|im_end|>"


def prompts(tokenizer: Any, folder: Path, problems: list[Problem]) -> PromptDataset:
    """Its data set of prompts reads the exported ones, with our label."""
    rows = [p.model_dump(exclude_none=True, exclude={"meta"}) for p in problems]
    out = exported(folder, "prompts", "openrlhf", rows=rows)
    flags = strategy(input_key="input", label_key="label")
    return PromptDataset(blending_datasets(str(out / "train.jsonl"), strategy=flags), tokenizer, flags)


def main() -> None:
    """All checks; the first that fails ends the program."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        responses, scores, recipe = fixture(folder)
        settings(recipe)
        tokenizer = AutoTokenizer.from_pretrained(save_tokenizer(folder / "model"))
        pairs(tokenizer, folder)
        asked = [p.model_copy(update={"id": str(i)}) for i, (p, _) in enumerate(responses)]
        asked += [Problem.model_validate(p) for p in PROBLEMS]
        data = prompts(tokenizer, folder, asked)
        n = len(responses)
        out = asyncio.run(executed(tokenizer, data.prompts[:n], [text for _, text in responses], data.labels[:n]))
        expected = torch.tensor(or_penalty(scores))
        rewards = torch.cat([row["reward"] for row in out])
        assert torch.equal(rewards, expected)
        assert torch.equal(torch.cat([row["scores"] for row in out]), expected)
        assert all(row["extra_logs"][f"gate_{s.gate}"].item() == 1.0 for row, s in zip(out, scores, strict=True))
        told("openrlhf", pairs=len(PAIRS), prompts=len(data), responses=n, equal=len(expected))


if __name__ == "__main__":
    main()
