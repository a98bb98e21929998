"""What is believed of a judge's reply, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.records import Rubric
from pns.rewards.judge.parse import DIMENSIONS, MAX_CHARS, VERDICT_SCHEMA, MalformedVerdict, parse_verdict

MARKS = dict(zip(DIMENSIONS, (3, 2, 1, 0), strict=True))
PLAIN = json.dumps(MARKS)
RUBRIC = Rubric(relevance=3, coherence=2, completeness=1, consistency=0)
WITH_REASON = json.dumps({"reason": 'It says {"relevance": 0} and ``` and }', **MARKS})


def changed(**values: Any) -> str:
    return json.dumps({**MARKS, **values})


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"\n  {PLAIN}\n\n",
        json.dumps(MARKS, indent=2),
        f"```json\n{PLAIN}\n```",
        f"```\n{PLAIN}\n```\n",
        f"<think>\nStep 2 is odd.\n</think>\n\n{PLAIN}",
        f"Step 2 is odd.\n</think>{PLAIN}",
        f"<think>It quotes </think> and more</think>```json\n{json.dumps(MARKS, indent=2)}\n```",
        WITH_REASON,
        json.dumps(dict(reversed(MARKS.items()))),
    ],
)
def test_one_object_alone_is_believed(text: str) -> None:
    assert parse_verdict(text).rubric == RUBRIC


def test_the_reason_is_kept() -> None:
    assert parse_verdict(WITH_REASON).reason == 'It says {"relevance": 0} and ``` and }'
    assert parse_verdict(PLAIN).reason == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "The solution is fine.",
        f"Here is my verdict: {PLAIN}",
        f"{PLAIN}\nI hope this helps.",
        f"{PLAIN} {PLAIN}",
        f"{PLAIN}\n```json\n{PLAIN}\n```",
        f"The response says {changed(relevance=0)}\n\n{PLAIN}",
        f"```json\n{PLAIN}\n```\nand\n```json\n{PLAIN}\n```",
        f"text\n```json\n{PLAIN}\n```",
        f"```python\n{PLAIN}\n```",
        f"```json {PLAIN}```",
        "```",
        "```json\n```",
        f"```json\n{PLAIN}",
        f"<think>{PLAIN}",
        f"<think></think>\nSo: {PLAIN}",
        f"[{PLAIN}]",
        f'"{PLAIN}"',
        "null",
        "3",
        PLAIN[:-1],
        PLAIN.replace("0}", "0,}"),
        PLAIN.replace('"', "'"),
    ],
)
def test_anything_around_it_or_beside_it_is_malformed(text: str) -> None:
    with pytest.raises(MalformedVerdict):
        parse_verdict(text)


@pytest.mark.parametrize("value", ["3", "three", 3.0, 2.5, True, False, None, -1, 4, 10**30, [3], {"mark": 3}])
@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_mark_is_an_integer_from_0_to_3_and_nothing_like_it(name: str, value: Any) -> None:
    with pytest.raises(MalformedVerdict):
        parse_verdict(changed(**{name: value}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e0", "3.", "03", "0x1", "1" * 5000])
def test_odd_numbers_are_malformed(number: str) -> None:
    with pytest.raises(MalformedVerdict):
        parse_verdict(PLAIN.replace('"relevance": 3', f'"relevance": {number}'))


@pytest.mark.parametrize(
    "text",
    [
        changed(score=3),
        changed(reason=3),
        changed(reason=None),
        changed(Relevance=3),
        json.dumps({k: v for k, v in MARKS.items() if k != "consistency"}),
        PLAIN[:-1] + ', "relevance": 3}',
        PLAIN[:-1] + ', "relevance": 0}',
        PLAIN[:-1] + ', "reason": "a", "reason": "b"}',
        json.dumps({"verdict": MARKS}),
        "{}",
    ],
)
def test_keys_are_exactly_the_four_and_a_reason_each_once(text: str) -> None:
    with pytest.raises(MalformedVerdict):
        parse_verdict(text)


@pytest.mark.parametrize(
    "text",
    [
        changed(reason="x" * MAX_CHARS),
        "[" * MAX_CHARS,
        '{"reason":' * 1900 + "1",
        '{"relevance":' + "[" * 9000 + "]" * 9000 + "}",
        "{" * 10_000_000,
        "</think>" * 3_000_000,
        "```json\n" * 2_400,
        "```json\n" + " \n" * 9_000 + "x",
        "```json\n" + "`" * 19_000,
    ],
)
def test_huge_and_deep_replies_end_as_malformed(text: str) -> None:
    with pytest.raises(MalformedVerdict):
        parse_verdict(text)


@given(st.text(max_size=300))
def test_free_text_is_malformed_and_nothing_else_is_raised(text: str) -> None:
    with pytest.raises(MalformedVerdict):
        parse_verdict(text)


@given(st.text(min_size=1, max_size=60).filter(str.strip), st.booleans())
def test_no_text_around_a_verdict_lets_it_through(text: str, before: bool) -> None:
    reply = f"{text}{PLAIN}" if before else f"{PLAIN}{text}"
    if reply.strip() == PLAIN or "</think>" in reply:
        return
    with pytest.raises(MalformedVerdict):
        parse_verdict(reply)


VALUES = st.one_of(st.integers(-1, 4), st.text(max_size=3), st.booleans(), st.none(), st.floats())


@given(st.dictionaries(st.sampled_from([*DIMENSIONS, "reason", "more"]), VALUES))
def test_the_parser_believes_what_the_schema_allows(row: dict[str, Any]) -> None:
    fits = (
        set(DIMENSIONS) <= set(row) <= {*DIMENSIONS, "reason"}
        and all(type(row[d]) is int and 0 <= row[d] <= 3 for d in DIMENSIONS)
        and isinstance(row.get("reason", ""), str)
    )
    try:
        assert parse_verdict(json.dumps(row)).rubric.total == sum(row[d] for d in DIMENSIONS)
        assert fits
    except MalformedVerdict:
        assert not fits


def test_the_schema_asks_for_the_same() -> None:
    assert VERDICT_SCHEMA["additionalProperties"] is False
    assert list(VERDICT_SCHEMA["properties"]) == ["reason", *DIMENSIONS] == VERDICT_SCHEMA["required"]
    assert all(VERDICT_SCHEMA["properties"][d] == {"type": "integer", "enum": [0, 1, 2, 3]} for d in DIMENSIONS)
