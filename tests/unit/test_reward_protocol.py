"""What reward-model servers are sent and what is read from their replies."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pns.rewards.judge.client import ServerFailed
from pns.rewards.reward_protocol import Conversation, Dialect, ManyLabels, switched_off, too_long

ROWS = [Conversation([1, 2, 3], "a b c"), Conversation([4, 5], "d e")]
VLLM, TEXT = Dialect("vllm", "m"), Dialect("vllm", "m", ids=False)
POOLING, SGLANG = Dialect("vllm", "m", "pooling"), Dialect("sglang", "m")


@pytest.mark.parametrize(
    ("dialect", "path", "body"),
    [
        (VLLM, "/classify", {"model": "m", "input": [[1, 2, 3], [4, 5]]}),
        (TEXT, "/classify", {"model": "m", "input": ["a b c", "d e"], "add_special_tokens": False}),
        (POOLING.but(raw_field="use_activation"), "/pooling",
         {"model": "m", "input": [[1, 2, 3], [4, 5]], "use_activation": False}),
        (SGLANG, "/classify", {"input_ids": [[1, 2, 3], [4, 5]]}),
    ],
)  # fmt: skip
def test_requests(dialect: Dialect, path: str, body: dict[str, Any]) -> None:
    assert (dialect.path, dialect.request(ROWS)) == (path, body)


def classified(*probs: Any, tokens: int | None = 5) -> dict[str, Any]:
    data = [{"index": i, "probs": p} for i, p in enumerate(probs)]
    return {"data": data} | ({} if tokens is None else {"usage": {"prompt_tokens": tokens}})


def pooled(*data: Any) -> dict[str, Any]:
    return {"data": [{"index": i, "data": d} for i, d in enumerate(data)], "usage": {"prompt_tokens": 5}}


def embedded(*rows: Any, tokens: tuple[int, ...] = (3, 2)) -> list[dict[str, Any]]:
    return [{"embedding": r, "meta_info": {"prompt_tokens": n}} for r, n in zip(rows, tokens, strict=False)]


@pytest.mark.parametrize(
    ("dialect", "reply"),
    [
        (VLLM, classified([1.5], [-2])),
        (VLLM, classified([1.5], [-2], tokens=None)),
        (VLLM, {"data": classified([1.5], [-2])["data"][::-1]}),
        (POOLING, pooled([1.5], [-2])),
        (POOLING, pooled([[9], [9], [1.5]], [[9], [-2]])),
        (SGLANG, embedded([1.5], [-2])),
        (SGLANG, [{"embedding": [1.5]}, {"embedding": [-2], "meta_info": None}]),
    ],
)
def test_scores_of_replies(dialect: Dialect, reply: Any) -> None:
    assert dialect.scores(reply, ROWS) == [1.5, -2.0]


def test_sglang_may_answer_one_text_without_a_list() -> None:
    assert SGLANG.scores(embedded([0.25])[0], ROWS[:1]) == [0.25]


@pytest.mark.parametrize(
    ("dialect", "reply", "words"),
    [
        (VLLM, None, "no list `data`"),
        (VLLM, [], "no list `data`"),
        (VLLM, {"data": {}}, "no list `data`"),
        (VLLM, {"data": [1, 2]}, "no list `data`"),
        (VLLM, classified([1]), "1 scores for 2"),
        (VLLM, classified([1], [2], [3]), "3 scores for 2"),
        (VLLM, {"data": [{"index": 0, "probs": [1]}] * 2}, "not numbered"),
        (VLLM, {"data": [{"probs": [1]}] * 2}, "not numbered"),
        (VLLM, classified([1], []), "`probs` is no list"),
        (VLLM, classified([1], None), "`probs` is no list"),
        (VLLM, classified([1], 2), "`probs` is no list"),
        (VLLM, classified([1], [None]), "no number"),
        (VLLM, classified([1], ["2"]), "no number"),
        (VLLM, classified([1], [True]), "no number"),
        (VLLM, classified([1], [math.nan]), "is nan"),
        (VLLM, classified([1], [-math.inf]), "is -inf"),
        (VLLM, classified([1], [10**400]), "is inf"),
        (VLLM, classified([1], [2], tokens=6), "has read 6 tokens where our tokenizer gives 5"),
        (POOLING, pooled([[1], [1], [1]], []), "`data` is no list"),
        (POOLING, pooled([[1], [1], [1]], [[1], [None]]), "no number"),
        (POOLING, pooled([[1], [1], [1]], "AACAPw=="), "`data` is no list"),
        (SGLANG, {"embedding": [1]}, "no list of objects"),
        (SGLANG, embedded([1]), "1 scores for 2"),
        (SGLANG, embedded([1], None), "`embedding` is no list"),
        (SGLANG, embedded([1], [2], tokens=(3, 1)), "has read 1 tokens where our tokenizer gives 2"),
    ],
)
def test_replies_that_make_no_sense(dialect: Dialect, reply: Any, words: str) -> None:
    with pytest.raises(ServerFailed, match=words):
        dialect.scores(reply, ROWS)


@pytest.mark.parametrize(
    ("dialect", "reply", "words"),
    [
        (VLLM, classified([0.25, 0.75], [0.5, 0.5]), "2 numbers a text"),
        (POOLING, pooled([0.1] * 768, [0.1] * 768), "768 numbers a text"),
        (POOLING, pooled([[1, 2]] * 3, [[1, 2]] * 2), "2 numbers a token"),
        (POOLING, pooled([[1], [2]], [[1], [2]]), "2 numbers for the steps of a text of 3 tokens"),
        (SGLANG, embedded([1, 2], [1, 2]), "2 numbers a text"),
    ],
)
def test_several_numbers_are_no_reward(dialect: Dialect, reply: Any, words: str) -> None:
    with pytest.raises(ManyLabels, match=words):
        dialect.scores(reply, ROWS)


@pytest.mark.parametrize(
    ("status", "message", "found"),
    [
        (400, "the maximum context length is 32 tokens; your prompt contains 40", True),
        (400, "an input of 40 tokens is longer than the model's context length", True),
        (400, "a length of 40 exceeds the maximum that is allowed", True),
        (422, "prompt too long", True),
        (400, "a valid string is needed", False),
        (400, "the model does not exist", False),
        (500, "the maximum context length is 32 tokens", False),
        (None, "the reply is longer than 99 bytes", False),
    ],
)
def test_which_refusals_mean_too_long(status: int | None, message: str, found: bool) -> None:
    assert too_long(ServerFailed("x", status=status, body={"error": {"message": message}})) == found
    assert too_long(ServerFailed(message, status=status)) == found


def test_what_tells_raw_scores_from_activated_ones() -> None:
    scores = [-3.0, 0.5, 4.0]
    squashed = [1 / (1 + math.exp(-x)) for x in scores]
    for field in ("use_activation", "activation", "softmax"):
        assert switched_off(field, squashed, scores)
        assert switched_off(field, [1.0] * 3, scores)
        assert not switched_off(field, scores, [x + 1e-4 for x in scores])
    # One version reads `softmax: false` as yes. There the raw scores are those by default.
    assert not switched_off("softmax", scores, squashed)
    assert switched_off("use_activation", [math.tanh(x) for x in scores], scores)
    assert switched_off("softmax", [0.0, 0.5, 1.0], [-2000.0, 0.0, 2000.0])
