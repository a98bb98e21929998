"""Final-answer extraction."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.verify import extract
from pns.verify.extract import FORMATS, count_marks


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{14}", "14"),
        (r"\boxed{ 14 }.", "14"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"first \boxed{3}, then \boxed{4}", "4"),
        (r"\boxed {5}", "5"),
        (r"\boxed{}", None),
        (r"\boxed{  }", None),
        (r"\boxed{3} and \boxed{4", None),
        (r"\boxed 5", None),
        (r"\boxedx{5}", None),
        ("14", None),
        ("", None),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    found = extract(text)
    assert found.answer == answer
    assert (found.reason == "") == (answer is not None)


def test_other_formats() -> None:
    assert extract("a\n#### 5\n#### 1,234 \nrest", "gsm8k").answer == "1,234"
    assert extract("####\n5", "gsm8k").answer is None
    assert extract("<answer>1</answer> <answer> 2 </answer>", "answer_tag").answer == "2"
    assert extract("<answer>1</answer><answer>2", "answer_tag").answer is None
    assert extract(r"<think>\boxed{1}</think> \boxed{2}", "think_boxed").answer == "2"
    assert extract(r"<think>\boxed{1}</think> so", "think_boxed").answer is None
    assert extract(r"\boxed{1}", "think_boxed").reason == "no </think>"
    with pytest.raises(ValueError, match="unknown answer format"):
        extract("x", "json")


@given(st.text(alphabet="\\boxed{} 1\n#<answer>/thinkx", max_size=80), st.sampled_from(FORMATS))
def test_the_answer_is_its_span(text: str, answer_format: str) -> None:
    found = extract(text, answer_format)
    if found.answer is None:
        assert (found.start, found.end, found.outer_start, found.outer_end) == (-1, -1, -1, -1)
        assert found.reason
    else:
        assert text[found.start : found.end] == found.answer == found.answer.strip() != ""
        assert found.outer_start < found.start < found.end <= found.outer_end
        assert count_marks(text, answer_format) >= 1


@given(st.text(alphabet="ab1{}\\", max_size=30).filter(lambda s: s.count("{") == s.count("}") and "\\" not in s))
def test_a_closed_box_is_read_back(inner: str) -> None:
    depth = 0
    for c in inner:
        depth += (c == "{") - (c == "}")
        if depth < 0:
            return
    assert extract(f"x \\boxed{{{inner}}} y").answer == (inner or None)


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" + "{" * 100_000,
        "\\boxed{" * 100_000,
        "\\boxed" * 150_000,
        "\\boxed{" + "{}" * 50_000 + "}",
        "\\boxed" + " " * 1_000_000,
        "\\" * 1_000_000,
        "<answer>" * 100_000,
        "####" * 250_000,
        "</think>" * 100_000,
    ],
)
def test_hostile_input_takes_linear_time(text: str) -> None:
    begin = time.process_time()
    for answer_format in FORMATS:
        extract(text, answer_format)
        count_marks(text, answer_format)
    # quadratic time over 1 MB would be hours; this bound only tells the two apart
    assert time.process_time() - begin < 20
