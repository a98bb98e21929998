"""The row forms of other trainers, read at TRL 1.16, LLaMA-Factory 0.9.5, axolotl 0.19, OpenRLHF 0.11.2 and verl 0.9.1.

Each form is a function from our rows to theirs and one that says how their trainer loads the file. (Source: the
trainers' documentation and loaders.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pns.exports.sources import Preference
from pns.exports.unpaired import labelled
from pns.records import Problem

JSONL, PARQUET, CARD, INFO = "train.jsonl", "train.parquet", "README.md", "dataset_info.json"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Form:
    """One trainer's form. `paired`: a row is a pair; else a row is one response with a label.

    Attributes:
        title: for people.
        rows: our rows in this form.
        files: what is written.
        use: how it is loaded, from the folder and the name of the data set.
        entry: what LLaMA-Factory's `dataset_info.json` says of it, the file's name left out.
    """

    title: str
    rows: Callable[[Sequence[Preference]], Rows]
    files: tuple[str, ...]
    use: Callable[[Path, str], str]
    paired: bool = True
    entry: dict[str, Any] | None = None


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _conversations(rows: Sequence[Preference]) -> Rows:
    return [
        {"prompt": _user(r.prompt), "chosen": _assistant(r.chosen or ""), "rejected": _assistant(r.rejected)}
        for r in rows
    ]


def _unpaired(rows: Sequence[Preference]) -> Rows:
    return [
        {"prompt": _user(prompt), "completion": _assistant(text), "label": label}
        for prompt, text, label in labelled(rows)
    ]


def _alpaca(rows: Sequence[Preference]) -> Rows:
    return [{"instruction": r.prompt, "input": "", "chosen": r.chosen, "rejected": r.rejected} for r in rows]


def _alpaca_unpaired(rows: Sequence[Preference]) -> Rows:
    return [
        {"instruction": prompt, "input": "", "output": text, "kto_tag": label} for prompt, text, label in labelled(rows)
    ]


def _messages(rows: Sequence[Preference]) -> Rows:
    """axolotl finds a side in the rendered template by its text; templates that trim would hide one with outer space.

    Pairs whose sides differ in nothing else are left out.
    """
    return [
        {
            "messages": _user(r.prompt),
            "chosen": {"role": "assistant", "content": chosen},
            "rejected": {"role": "assistant", "content": rejected},
        }
        for r in rows
        for chosen, rejected in [_bare(r)]
        if chosen != rejected
    ]


def trimmed(rows: Sequence[Preference]) -> int:
    """How many sides lose outer white space in axolotl's form, of the pairs that it keeps."""
    kept = [(row.chosen or "", row.rejected) for row in rows if len(set(_bare(row))) > 1]
    return sum(text != text.strip() for sides in kept for text in sides)


def _bare(row: Preference) -> tuple[str, str]:
    return (row.chosen or "").strip(), row.rejected.strip()


def _texts(rows: Sequence[Preference]) -> Rows:
    return [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in labelled(rows)]


def _trl(folder: Path, name: str) -> str:
    return f'from datasets import load_dataset\n\ntrain = load_dataset("{folder}", split="train")'


def _llamafactory(stage: str) -> Callable[[Path, str], str]:
    def use(folder: Path, name: str) -> str:
        return f"stage: {stage}\ndataset_dir: {folder}\ndataset: {name}"

    return use


def _axolotl(rl: str, type_: str) -> Callable[[Path, str], str]:
    def use(folder: Path, name: str) -> str:
        data = {"path": str(folder / JSONL), "ds_type": "json", "split": "train", "type": type_}
        return yaml.safe_dump({"rl": rl, "datasets": [data]}, sort_keys=False).rstrip()

    return use


def _openrlhf(folder: Path, name: str) -> str:
    return (
        f"--data.dataset {folder / JSONL} --data.apply_chat_template \\\n"
        "--data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected"
    )


_RANKING = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
_TAGGED = {"prompt": "instruction", "query": "input", "response": "output", "kto_tag": "kto_tag"}
FORMS: dict[str, Form] = {
    "trl": Form("TRL, conversational preference", _conversations, (JSONL, PARQUET), _trl),
    "trl-kto": Form("TRL, conversational unpaired preference", _unpaired, (JSONL, PARQUET), _trl, paired=False),
    "llamafactory": Form(
        "LLaMA-Factory, alpaca form, ranking", _alpaca, (JSONL,), _llamafactory("dpo"),
        entry={"ranking": True, "columns": _RANKING},
    ),
    "llamafactory-kto": Form(
        "LLaMA-Factory, alpaca form, KTO", _alpaca_unpaired, (JSONL,), _llamafactory("kto"), paired=False,
        entry={"columns": _TAGGED},
    ),
    "axolotl": Form("axolotl, chat_template.default", _messages, (JSONL,), _axolotl("dpo", "chat_template.default")),
    "axolotl-kto": Form("axolotl, KTO", _texts, (JSONL,), _axolotl("kto", "chatml.ultra"), paired=False),
    "openrlhf": Form("OpenRLHF, preference", _conversations, (JSONL,), _openrlhf),
}  # fmt: skip


@dataclass(frozen=True)
class PromptForm:
    """The prompts of reinforcement learning with our reward. `rows`: from problems, and the names of set and split."""

    title: str
    rows: Callable[[Sequence[Problem], str, str], Rows]
    file: str
    use: Callable[[Path], str]


def _verl(problems: Sequence[Problem], name: str, split: str) -> Rows:
    """verl's adapter of ours reads `extra_info`: the statement, and how answers are compared."""
    return [
        {
            "data_source": name, "prompt": _user(p.problem), "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": p.answer},
            "extra_info": {
                "split": split, "index": i, "id": p.id, "problem": p.problem, "kind": p.kind, "tolerance": p.tolerance,
                "unit": p.unit,
            },
        }
        for i, p in enumerate(problems)
    ]  # fmt: skip


def _openrlhf_prompts(problems: Sequence[Problem], name: str, split: str) -> Rows:
    """The label is a JSON object, as our reward function for OpenRLHF reads it."""
    rows = []
    for p in problems:
        label = {"answer": p.answer, "problem": p.problem, "kind": p.kind, "tolerance": p.tolerance, "unit": p.unit}
        known = {key: value for key, value in label.items() if value is not None}
        rows.append({"input": p.problem, "label": json.dumps(known, ensure_ascii=False), "datasource": name})
    return rows


def _use_verl(folder: Path) -> str:
    return f"data.train_files={folder / PARQUET} data.prompt_key=prompt"


def _use_openrlhf_prompts(folder: Path) -> str:
    return (
        f"--data.prompt_dataset {folder / JSONL} --data.apply_chat_template \\\n"
        "--data.input_key input --data.label_key label"
    )


PROMPT_FORMS: dict[str, PromptForm] = {
    "verl": PromptForm("verl, prompts of reinforcement learning", _verl, PARQUET, _use_verl),
    "openrlhf": PromptForm(
        "OpenRLHF, prompts of reinforcement learning", _openrlhf_prompts, JSONL, _use_openrlhf_prompts
    ),
}
