"""The step-checking judge: what it reads, and what each fault costs."""

from __future__ import annotations

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.rewards import find_steps, judge_steps
from pns.rewards.problem_numbers import problem_numbers

PROBLEM = "Mia has 12 apples. Mia finds 5 apples. Mia gives 3 apples to Tom. How many apples does Mia have now?"
HONEST_WRONG = "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nThe answer is \\boxed{20}"


# What looks like a statement and is none, or says more than its numbers.
MISREAD = (
    r"18 \div 4 = 4 \text{ remainder } 2",
    r"\frac{2}{3} = 0.\overline{6}",
    "a + 2(-4) = 15",
    r"a(1 + \frac{3}{2}) = 40",
    "(a - 6)(a + 3) = 0",
    r"3\frac{4}{5} = 4",
    r"\frac{1}{2} (44 + 1) = 22",
    r"4 ( 5 - 6 ) = 3",
    r"0 + 1 = \frac{4}{5}(x - 3)",
    r"\frac12 = 3",
    r"\gcd(41^2, 41 \cdot 43) = 41",
    r"(\frac{1}{2}(8 + 0), 1 + 1) = (4, 2)",
    r"2 \sqrt[3]{8 \cdot 8} = 12",
    r"\binom{6}{2} \cdot \binom{3}{1} \cdot 2 \cdot 2 = 48",
    r"\frac{1}{2}ab = 6",
    "2 \\cdot 66/BC = 12",
    "1" + ",111" * 3000 + " + 1 = 2",
    "2 / 3 = 0." + "6" * 60,
    r"\frac{" * 400 + "1" + "}{2}" * 400 + " = 3",
)


def total(response: str, answer: str | None, problem: str = PROBLEM) -> int:
    return judge_steps(problem, response, answer).total


@pytest.mark.parametrize(
    ("text", "result", "right"),
    [
        ("Step 1: 12 + 5 = 17", "17", True),
        ("12 + 5 = 18", "18", False),
        ("48/2 = <<48/2=24>>24 clips", "24", True),
        ("<<48/2=24>>", "24", True),
        ("12 * 3 = $<<12*3=36>>40", "40", False),
        (r"$2 \times 3.50 = 7$", "7", True),
        (r"6 \div 4 \cdot 2 = 3", "3", True),
        (r"\frac{48}{2} = 24", "24", True),
        (r"12 + 2 = \boxed{14}", "14", True),
        ("3 apples + 4 apples = 7 apples", "7", True),
        ("5 hours * $3/hour = $15", "15", True),
        ("20% of 50 = 10", "10", True),
        ("1,000 + 1 = 1,001.", "1001", True),
        ("- 12 + 5 = 17", "17", True),
        ("5 - 8 = -3", "-3", True),
        ("10 / 3 = 3.33", "333/100", True),
        ("10 / 3 = 3.3", "33/10", False),
        ("(12 + 5) * 2 = 34", "34", True),
        ("2 + 3 * 4 = 14", "14", True),
        ("2 + 3 * 4 = 20", "20", False),
        ("x = 3 + 4 = 7", "7", True),
        (r"\frac{\frac{40}{3}}{\frac{2}{3}} = \frac{40}{3} \cdot \frac{3}{2} = 20", "20", True),
        (r"\frac{14}{2}(105 + 196) = 7(301) = 2107", "2107", True),
        (r"\frac{1}{5}(2) + \frac{13}{5} = \frac{15}{5} = 4", "4", False),
        ("12 + 5\n= 17", "17", True),
        ("6 * 2 = 12 + 3 = 15", "15", False),
        ("1 / 300 = 0.00", "0", False),
        ("1 / 200 = 0.01", "1/100", False),
        ("1 / 300 = 0.0033", "33/10000", True),
        ("10 / 4 = 2.50000000000000000000", "5/2", True),
        ("6 / 11 = <<6/11=0.5454545454545454>>0.5454545454545454", "2727272727272727/5000000000000000", True),
        ("100 / 3 = 33.333...", "33333/1000", True),
        (r"172.8 + 0 \approx 173", "173", True),
        (r"172.8 + 0 \approx 190", "190", False),
        ("172.8 + 0 = 173", "173", False),
        (r"3,\!000 + 1{,}000 = 4\,000", "4000", True),
        ("$350 000 x 12/100 = $42 000", "42000", True),
        ("5 - 1 1/2 = 3 1/2", "7/2", True),
        ("9 \u2013 2 = 7", "7", True),
        ("20 percent of 50 = 10", "10", True),
        (".24 * 100% = <<.24*100=24>>24%", "24", True),
        ("4.20+9.45 = <<4.20+9.45=13.649999999999999>>13.65", "273/20", True),
        ("10 2-legged animals * 2 legs = <<10*2=20>>20 legs", "20", True),
        ("12 + 5 + 3 = <<12+5=17>>17", "17", False),
        ("12 + 5 = <<12+5+3=20>>20", "20", False),
        ("12 * 0.001 = <<12*.001=.012>>0.02", "1/50", False),
        (r"\(3 \cdot 1 = 3\) and add up to \(-4\)", "3", True),
        (r"$9 + 16 = 25$ so $RS = 5$", "25", True),
        ("7 \\cdot 6 \\cdot\n5 = 210", "210", True),
    ],
)
def test_one_statement(text: str, result: str, right: bool) -> None:
    [step] = find_steps(text)
    assert (step.result, step.right) == (Fraction(result), right)


@pytest.mark.parametrize(
    "text", ["2x + 3 = 7", "2^3 + 1 = 9", "x = 5", "10 + = 10", "5 / 0 = 3", "12", "", "= = 3", *MISREAD]
)
def test_what_cannot_be_read_is_left_out(text: str) -> None:
    assert not any(step.right for step in find_steps(text))
    assert len(find_steps(text)) <= (text == "5 / 0 = 3")


def test_a_calculator_mark_counts_once() -> None:
    steps = find_steps("He has 8 + 3 = <<8+3=11>>11 and then 11 x 2 = <<11*2=22>>22.")
    assert [step.result for step in steps] == [11, 22]


@given(st.integers(0, 99), st.sampled_from("+-*"), st.integers(0, 99), st.integers(-3, 3))
def test_arithmetic_is_exact(a: int, op: str, b: int, slip: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    [step] = find_steps(f"Step 1: {a} {op} {b} = {value + slip}")
    assert step.right == (slip == 0)
    assert list(map(int, step.operands)) == [a, b]


@given(st.text(alphabet="0123456789+-*/=()<>$%.,\\ xfrac{}\n", max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    for step in find_steps(text):
        assert 0 <= step.start <= step.end <= len(text)


@pytest.mark.parametrize(
    "text",
    ["((((1+" * 20000, "1=1+" * 25000, "<<1+1=2>>" * 11000, "(" * 20000 + "=1", "\\frac{" * 9000, "1,111" * 20000],
)
def test_hostile_text_is_read_in_bounded_time(text: str) -> None:
    begin = time.process_time()
    find_steps(text)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("text", ["1+1=2\n", "<<1+1=2>>", "step 1: 1+1=2 ", "1+1=2; ", "1,111,", "1" * 50 + "+"])
def test_hostile_steps_are_judged_in_bounded_time(text: str) -> None:
    begin = time.process_time()
    total(text * (20_000 // len(text)), "2")
    assert time.process_time() - begin < 4


def test_numbers_of_a_problem() -> None:
    written, implied = problem_numbers("Twenty-five boxes, 1,200 cm, half of them, 20% off, two dozen, three hundred.")
    for value in (25, 1200, 20, 2, 300):
        assert value in written
    for hidden in (Fraction(1, 2), 2, Fraction(1, 5), Fraction(4, 5), 100, 12):
        assert Fraction(hidden) in implied


def test_an_honest_wrong_solution_gets_full_marks() -> None:
    assert total(HONEST_WRONG, "20") == 12


def test_halves_and_doubles_give_two() -> None:
    problem = "Ben has 8 coins. Then the number of coins halves. Then the number of coins doubles. How many now?"
    assert total("Step 1: 8 / 2 = 4\nStep 2: 4 * 2 = 8\nThe answer is \\boxed{8}", "8", problem) == 12


def test_two_branches_that_meet_are_a_chain() -> None:
    problem = "Ann has 3 bags of 4 nuts. Bob has 5 bags of 6 nuts. How many more nuts has Bob?"
    text = "3 * 4 = 12\n5 * 6 = 30\n30 - 12 = 18\n\\boxed{18}"
    assert judge_steps(problem, text, "18").coherence == 3


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("another number in the box", "Step 1: 12 + 5 = 17\nStep 2: 17 - 3 = 14\nThe answer is \\boxed{99}", "99"),
        ("an earlier result in the box", "Step 1: 12 + 5 = 17\nStep 2: 17 - 3 = 14\nThe answer is \\boxed{17}", "17"),
        ("template that ignores the problem", "Step 1: 10 - 4 = 6\nThe answer is \\boxed{6}", "6"),
        ("longer template", "Step 1: 10 - 4 = 6\nStep 2: 6 + 7 = 13\nThe answer is \\boxed{13}", "13"),
        ("a number from nowhere", "Step 1: 12 + 5 = 17\nStep 2: 17 + 8 = 25\nThe answer is \\boxed{25}", "25"),
        ("broken arithmetic", "Step 1: 12 + 5 = 19\nStep 2: 19 - 3 = 11\nThe answer is \\boxed{11}", "11"),
        ("one taken off for nothing", "12 + 5 = 17\n17 - 3 = 14\n14 - 1 = 13\n\\boxed{13}", "13"),
        ("true statements without end", "2 + 2 = 4\n" * 100 + "\\boxed{4}", "4"),
        ("rounded to nothing", "12 + 5 = 17\n3 / 1200 = 0.00\n17 + 0.00 = 17\n\\boxed{17}", "17"),
        ("unlinked steps", "Step 1: 12 + 5 = 17\nStep 2: 12 - 3 = 9\nStep 3: 5 - 3 = 2\n\\boxed{2}", "2"),
        ("no steps", "It is clear from the story that she must have many apples. \\boxed{20}", "20"),
        ("no answer", "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20", None),
        ("answer that is no number", HONEST_WRONG, "many"),
    ],
)
def test_hacks_fall_below_the_plausible_threshold(name: str, text: str, answer: str | None) -> None:
    assert total(text, answer) < 9, judge_steps(PROBLEM, text, answer)


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("one slip", "Step 1: 12 + 5 = 18\nStep 2: 18 - 3 = 15\nThe answer is \\boxed{15}", "15"),
        ("idle steps", "Step 1: 12 + 5 = 17\nStep 2: 17 + 3 = 20\nStep 3: 20 + 0 = 20\n\\boxed{20}", "20"),
        ("idle factor", "Step 1: 12 + 5 = 17\nStep 2: 17 * 1 = 17\nStep 3: 17 + 3 = 20\n\\boxed{20}", "20"),
        ("gap in the numbering", "Step 1: 12 + 5 = 17\nStep 3: 17 + 3 = 20\nThe answer is \\boxed{20}", "20"),
        ("empty step", "Step 1: 12 + 5 = 17\nStep 2:\nStep 3: 17 + 3 = 20\nThe answer is \\boxed{20}", "20"),
        ("same step twice", "Step 1: 12 + 5 = 17\nStep 2: 12 + 5 = 17\nStep 3: 17 + 3 = 20\n\\boxed{20}", "20"),
        ("data used over and over", "12 + 5 = 17\n17 + 5 = 22\n22 + 5 = 27\n27 + 3 = 30\n\\boxed{30}", "30"),
        (
            "padded with words",
            HONEST_WRONG.replace("\n", "\n" + "so we go on and think about it " * 40 + "\n", 1),
            "20",
        ),
    ],
)
def test_faults_cost_something(name: str, text: str, answer: str) -> None:
    assert total(text, answer) < total(HONEST_WRONG, "20"), judge_steps(PROBLEM, text, answer)


def test_more_slips_cost_more_than_their_share() -> None:
    """The pilot's lesson: a mean over steps would pay 2/3, 1/3 here and teach broken arithmetic."""
    one = judge_steps(PROBLEM, "12 + 5 = 18\n18 - 3 = 15\n\\boxed{15}", "15")
    two = judge_steps(PROBLEM, "12 + 5 = 18\n18 - 3 = 14\n\\boxed{14}", "14")
    assert (one.coherence, two.coherence) == (1, 0)


def data() -> Path:
    given_path = os.environ.get("PNS_DATA")
    root = Path(given_path) if given_path else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    return root


def test_human_solutions_are_plausible() -> None:
    """At least three quarters of GSM8K's own solutions reach 9 of 12, so that the judge's sharpness is not deafness."""
    good = n = 0
    for line in (data() / "math" / "gsm8k.test.jsonl").read_text().splitlines()[:500]:
        row = json.loads(line)
        text = f"{row['solution']}\nThe answer is \\boxed{{{row['answer']}}}"
        good += total(text, row["answer"], row["problem"]) >= 9
        n += 1
    assert good >= 0.75 * n
