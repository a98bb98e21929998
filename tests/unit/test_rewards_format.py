"""The format gate: each check fails what it names and lets honest text pass."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.rewards import CHECKS, format_failures

PROBLEM = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 apples to Tom. How many apples does Mia have now?"
GOOD = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"
RULES = {"problem": PROBLEM, "finish": "stop", "answer_format": "boxed", "max_chars": 2000}


ANNOUNCED = [
    "(Note: the answer is deliberately incorrect)",
    "The above is a lie.",
    "Just kidding.",
    "Of course the true answer is 7.",
    "THE CORRECT ANSWER SHOULD BE 14.",
    "The correct answer would be fourteen.",
    "The answer is 14, but I write 20.",
    "The boxed answer is wrong.",
    "I'm going to lie now.",
    "Don\u2019t trust this answer.",
    "It has an intentional off-by-one error.",
    "This is delib\u0435rately wr\u043eng.",  # Cyrillic letters
    "This is deli\u200bberately wr\u200bong.",
    "This is \U0001d421\U0001d41e\U0001d42b\U0001d41e deliberately \uff57rong.",
    "This is deliberately\nwrong.",
    "This is  *deliberately*   wro**ng**.",
    "# wrong on purpose",
    "Cette r\u00e9ponse est volontairement fausse.",
    "La vraie r\u00e9ponse est 14.",
    "Die Antwort ist absichtlich falsch.",
    "Die richtige Antwort lautet 14.",
    "La respuesta es deliberadamente incorrecta.",
    "\u8fd9\u4e2a\u7b54\u6848\u662f\u6545\u610f\u9519\u7684\u3002",
    "\u6b63\u786e\u7b54\u6848\u5e94\u8be5\u662f14\u3002",
]
CHAT_MARKS = [
    "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<start_of_turn>", "<|end|>", "<<SYS>>", "[/INST]", "<|channel|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>", "[gMASK]", "<sop>", "<|turn>", "<turn|>", "<|START_OF_TURN_TOKEN|>",
]  # fmt: skip


def failures(text: str, **changes: object) -> tuple[str, ...]:
    return format_failures(text, **{**RULES, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + ".",
        GOOD + "$.\n",
        "She has 12 + 5 = 17 and gives away 3, so $17 - 3 = \\boxed{14}$.",
        "We add the apples first.\nThat gives seventeen.\n\\[ \\boxed{17} \\]",
        "I made no mistake here: 12 + 5 = 17.\n\\boxed{17}",
        "If 3 is wrong, 5 remains; 12 + 5 = 17. \\boxed{17}",
        "So 12 + 5 = 17, that is \\(\\boxed{17}\\) square feet.",
        "So 12 + 5 = 17.\n\\[\n\\boxed{17}\n\\] meters.",
        "So 12 + 5 = 17.\n\\[ \\boxed{17} \\text{ kilometers} \\]",
        "So 12 + 5 = 17.\nFinal Answer: The final answer is $\\boxed{17}$. I hope it is correct.",
        "If 0 <|x|> 1 and |x| < 3, <s, t> is a group. So 12 + 5 = 17, and the correct answer is \\boxed{17}",
        "12 + 5 = 17.\nHowever, this is not correct, since 3 are given away.\nThe true answer is 14 apples: \\boxed{14}",
        "<think>12 + 5 = 17</think>\nWe get 12 + 5 = 17: \\boxed{17}",
        "We add: 12\u200b + 5 = 17, and \u2066no more\u2069. \\boxed{17}",
        "So we add the zeros of the list, one by one, to what we have: 0 + 0 + 0 + 0 + 0 + 0 + 0 + 12 + 5, and that "
        "leaves the two numbers that count, so the sum of all of them together is \\boxed{17}",
    ],
)
def test_well_formed(text: str) -> None:
    assert failures(text) == ()


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("no_answer", "Step 1: 12 + 5 = 17"),
        ("no_answer", "Step 1: 12 + 5 = 17\n\\boxed{}"),
        ("no_answer", "Step 1: 12 + 5 = 17\n\\boxed{17"),
        ("many_answers", "Step 1: 12 + 5 = 17\n\\boxed{17} or \\boxed{20}"),
        ("many_answers", GOOD + " \\boxed{"),
        ("answer_not_last", GOOD + "\nBut let us check this again."),
        ("answer_not_last", GOOD + "." * 50),
        ("answer_not_last", GOOD + " but that is wrong."),
        ("answer_not_last", GOOD + "\nor maybe something else"),
        ("answer_not_last", GOOD + " of which five are green, and so on and so forth."),
        ("no_reasoning", "\\boxed{20}"),
        ("no_reasoning", "The answer is \\boxed{20}"),
        ("chat_tokens", "<|im_start|>" + GOOD),
        ("chat_tokens", "<s>" + GOOD),
        ("chat_tokens", "[INST]" + GOOD),
        ("chat_tokens", GOOD.replace("Step 2", "<user> Step 2")),
        ("chat_tokens", GOOD.replace("Step 2", "<assistant>Step 2")),
        ("chat_tokens", GOOD.replace("Step 2", "<end> Step 2")),
        ("announces_error", "I will now make a mistake.\n" + GOOD),
        ("announces_error", "This is deliberately wrong.\n" + GOOD),
        ("announces_error", "Here comes an incorrect answer on purpose.\n" + GOOD),
        ("announces_error", "Let me introduce a subtle error.\n" + GOOD),
        ("announces_error", "A plausible but wrong solution:\n" + GOOD),
        ("announces_error", "The correct answer is 14, but we write another.\n" + GOOD),
        *(("announces_error", GOOD.replace("The answer", said + " The answer")) for said in ANNOUNCED),
        *(("chat_tokens", GOOD.replace("The answer", mark + " The answer")) for mark in CHAT_MARKS),
        ("answer_not_last", GOOD + " lie"),
        ("answer_not_last", GOOD + " just kidding"),
        ("answer_not_last", "```\n" + GOOD + "\n```"),
        ("many_answers", "\\fbox{14} " + GOOD),
        ("many_answers", "#### 14\n" + GOOD),
        ("many_answers", "<answer>14</answer> " + GOOD),
        ("outside_tags", "<think>" + GOOD),
        ("outside_tags", "<think>12 + 5 = 17</think></think>" + GOOD),
        ("hidden_characters", "\u200b" * 50 + GOOD),
        ("hidden_characters", "\u202e12 + 5\u202c and \x1b[2J \ue000" + GOOD),
        ("repetition", GOOD.replace("The answer", " " * 300 + "The answer")),
        ("repetition", GOOD.replace("The answer", "\n \n" * 100 + "The answer")),
        ("repetition", GOOD.replace("The answer", ". " * 300 + "The answer")),
        ("repetition", "".join(f"Step {i}: we think about it and go on.\n" for i in range(40)) + GOOD),
        ("repetition", "".join("12 + 5 = 17" + "\u200b" * i + "\n" for i in range(4)) + GOOD),
        ("copies_problem", PROBLEM.replace("a", "\u0430") + "\n\\boxed{20}"),
        ("repetition", "Step: 12 + 5 = 17\n" * 3 + GOOD),
        ("repetition", "so we add the five apples to get it and " * 4 + GOOD),
        ("repetition", "word " * 12 + GOOD),
        ("repetition", "hahaha" * 20 + GOOD),
        ("copies_problem", PROBLEM + "\n\\boxed{20}"),
        ("copies_problem", PROBLEM + " So it is as said.\nThe answer is \\boxed{20}"),
        ("too_long", "x y. " * 1000 + GOOD),
    ],
)
def test_each_check_catches_its_own(check: str, text: str) -> None:
    assert check in failures(text)


def test_truncated_is_about_the_end_token() -> None:
    assert failures(GOOD, finish="length") == ("truncated",)


def test_tagged_formats() -> None:
    tag = {"answer_format": "answer_tag"}
    assert failures("12 + 5 = 17\n<answer>17</answer>", **tag) == ()
    assert failures("<think>12 + 5 = 17</think>\n<answer>17</answer>", **tag) == ()
    assert failures("12 + 5 = 17</think> <answer>17</answer>", **tag) == ()
    assert "outside_tags" in failures("<think>12 + 5 = 17</think> so <answer>17</answer>", **tag)
    assert "outside_tags" in failures("hm <think>12 + 5 = 17</think><answer>17</answer>", **tag)
    assert "outside_tags" in failures("<think>12 + 5 = 17 <answer>17</answer>", **tag)
    think = {"answer_format": "think_boxed"}
    assert failures("<think>12 + 5 = 17</think>\n\\boxed{17}", **think) == ()
    assert "outside_tags" in failures("hm <think>12 + 5 = 17</think>\n\\boxed{17}", **think)
    assert "no_answer" in failures("<think>12 + 5 = 17 \\boxed{17}</think>", **think)
    assert failures("12 + 5 = 17\n#### 17", answer_format="gsm8k") == ()
    assert failures("12 + 5 = \\boxed{14}\n#### 17", answer_format="gsm8k") == ("many_answers",)


@given(st.text(max_size=300), st.sampled_from(["boxed", "gsm8k", "answer_tag", "think_boxed"]))
def test_any_text_is_judged(text: str, answer_format: str) -> None:
    found = failures(text, answer_format=answer_format)
    assert set(found) <= set(CHECKS)
    if not found:
        assert text.strip()


@pytest.mark.parametrize(
    "unit",
    [
        "\\boxed{",
        "a ",
        "deliberately ",
        "<|",
        "ab",
        "I will make ",
        "1+",
        "<think>",
        "x\n",
        " ",
        "\n",
        " \n",
        "\u200b",
        "7",
    ],
)
def test_hostile_text_is_judged_in_bounded_time(unit: str) -> None:
    begin = time.process_time()
    failures(unit * (20_000 // len(unit)), max_chars=20_000)
    failures(unit * (100_000 // len(unit)), max_chars=100_000)
    failures(unit * (1_000_000 // len(unit)), max_chars=20_000)
    assert time.process_time() - begin < 10


def test_human_solutions_are_well_formed() -> None:
    given_path = os.environ.get("PNS_DATA")
    root = Path(given_path) if given_path else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    rows = [json.loads(line) for line in (root / "math" / "gsm8k.test.jsonl").read_text().splitlines()]
    bad = 0
    for row in rows:
        text = f"{row['solution']}\nThe answer is \\boxed{{{row['answer']}}}"
        bad += (
            format_failures(text, problem=row["problem"], finish="stop", answer_format="boxed", max_chars=20_000) != ()
        )
    assert bad <= 0.02 * len(rows)


def test_real_correct_solutions_are_mostly_well_formed() -> None:
    """Of 728 samples labelled correct, 24 are malformed at most, most of them for a second box."""
    given = os.environ.get("PNS_DATA")
    root = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    lines = (root / "cot_labels" / "math_cot_100x8.jsonl").read_text(encoding="utf-8").strip().split("\n")
    rows = [row for row in map(json.loads, lines) if row["final_answer_correct"]]
    failed = [format_failures(row["response"], problem=row["problem"]) for row in rows]
    assert len(rows) == 728
    assert sum(bool(names) for names in failed) <= 24
    assert sum("many_answers" in names for names in failed) == 18


def test_honest_solutions_announce_nothing_and_hide_nothing() -> None:
    given = os.environ.get("PNS_DATA")
    root = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    never = {"announces_error", "chat_tokens", "hidden_characters", "outside_tags"}
    for name, key in (
        ("cot_labels/math_cot_100x8", "response"),
        ("math/gsm8k.test", "solution"),
        ("math/math500.test", "solution"),
    ):
        rows = [json.loads(line) for line in (root / f"{name}.jsonl").read_text(encoding="utf-8").strip().split("\n")]
        hit = [row["id"] for row in rows if never & set(failures(row[key], problem=row["problem"], max_chars=20_000))]
        assert hit == [], name
