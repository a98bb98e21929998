"""The composite as OpenRLHF calls a reward function from a file (checked with 0.11.2: `make check-openrlhf`). Needs none of it.

    export PNS_REWARD_RECIPE=my/reward.yaml        # on every node: Ray's runtime_env
    --reward.remote_url $(python -c 'import pns.rewards.adapters.openrlhf as m; print(m.__file__)')

The label of a prompt is the gold answer, or, where the reward reads the problem too (a judge, a reward model), a JSON
object: {"answer": "14", "problem": "...", "tolerance": null, "unit": null, "kind": null}. OpenRLHF calls the function
once a response from a thread of its own; calls that are under way at the same time are scored as one batch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pns.errors import UserError
from pns.records import Problem
from pns.rewards.adapters.batching import Row
from pns.rewards.adapters.fields import problem_of
from pns.rewards.adapters.plugin import RewardAborted, Settings, as_numbers, batcher, needs_text
from pns.rewards.composite import Finish

END_TOKENS = "PNS_END_TOKENS"
"""Environment variable: the policy's end tokens, separated by white space. With it, a response that ends in none of
them counts as cut off; without it, the usual ones are taken off and nothing is known about the others."""

_TAIL = 200
_USUAL_END = re.compile(r"(?:<\|[a-z0-9_]{1,30}\|>|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>)\s*\Z")


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **of_openrlhf: Any
) -> dict[str, Any]:
    """Scores of whole texts (prompt and response, special tokens kept), as OpenRLHF wants them.

    Returns: `rewards` and `scores`, float32 tensors (n,), the same numbers; `extra_logs`: a tensor (n,) for each key
        of `plugin.as_numbers`.
    Raises RewardAborted where the settings or the data cannot be used, and for an unscored response unless
        PNS_ON_UNSCORED is a penalty.
    """
    import torch

    try:
        settings = Settings.of()
        made = batcher(settings)
        text_needed = needs_text(made)
        rows = [
            Row(problem_from(label, text_needed), *response_in(query, prompt))
            for query, prompt, label in zip(queries, prompts, labels, strict=True)
        ]
    except UserError as error:
        raise RewardAborted(str(error)) from None
    numbers = [as_numbers(s, made.composite.part, settings.on_unscored) for s in made.score(rows)]
    columns = {key: torch.tensor([row[key] for row in numbers], dtype=torch.float32) for key in numbers[0]}
    score = columns.pop("score")
    return {"rewards": score, "scores": score.clone(), "extra_logs": columns}


def problem_from(label: Any, text_needed: bool) -> Problem:
    """The problem in a label: a JSON object, or the bare gold answer. Raises UserError."""
    fields: Mapping[str, Any] = {"answer": label}
    if isinstance(label, Mapping):
        fields = label
    elif isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            found = json.loads(label)
        except ValueError:
            found = None  # a set such as {1, 2} is a gold answer
        if isinstance(found, dict) and "answer" in found:
            fields = found
    return problem_of(fields, needs_text=text_needed, where="label")


def response_in(query: str, prompt: str) -> tuple[str, Finish]:
    """The response of a whole text, its end token taken off, and whether it was cut off. Raises UserError."""
    tail = prompt[-_TAIL:]  # the end of it: OpenRLHF cuts a prompt that is too long from the left
    at = query.find(tail)
    if at < 0:
        raise UserError(
            "a text does not hold the end of its prompt, so its response cannot be told", field="queries",
            remedy="give prompts that come out of the tokenizer as they went in (a chat template does)",
        )  # fmt: skip
    text = query[at + len(tail) :]
    ends = os.environ.get(END_TOKENS, "").split()
    if not ends:
        return _USUAL_END.sub("", text), "stop"
    bare = text.rstrip()
    end = next((end for end in ends if bare.endswith(end)), None)
    return (text, "length") if end is None else (bare.removesuffix(end), "stop")
