"""The exact comparison in process."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.verify import check
from pns.verify.check import normalise
from pns.verify.numbers import parse_plain


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5"),
        ("5", "5."),
        ("5", "5.00"),
        ("5", "05"),
        ("5", "+5"),
        ("-5", "\u22125"),
        ("1000", "1,000"),
        ("1{,}234", "1234"),
        ("1/2", r"\frac{1}{2}"),
        ("1/2", r"$\dfrac12$"),
        ("0.5", "1/2"),
        ("7/3", r"2\frac{1}{3}"),
        ("18", r"\$18.00"),
        ("18", "$18$"),
        ("18", r"\(18\)"),
        ("5", "x = 5"),
        ("x=5", "5"),
        ("50", r"50\%"),
        ("0.5", "50%"),
        ("50%", "50"),
        ("1500", r"1.5 \times 10^{3}"),
        ("3e6", "3000000"),
        ("Yes", r"\text{yes}."),
        (r"\left(1,2\right)", "(1, 2)"),
    ],
)
def test_correct(gold: str, answer: str) -> None:
    assert check(gold, answer).outcome == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("5", "6"), ("5", "-5"), ("1/3", "0.4"), ("1/3", "1/4"), ("5", "x=6"), ("50", "51%"), ("0.5", "5"), ("Yes", "No")],
)
def test_wrong(gold: str, answer: str) -> None:
    verdict = check(gold, answer)
    assert (verdict.outcome, verdict.cause) == ("wrong", None)


@pytest.mark.parametrize(
    ("gold", "answer", "cause"),
    [
        ("1/3", "0.333", "response"),
        ("2/3", "0.67", "response"),
        ("2/3", "0.66", "response"),
        ("0.33", "1/3", "response"),
        ("0.5", "0.5%", "response"),
        ("5", None, "response"),
        ("5", "  ", "response"),
        ("5", "\uff15", "response"),
        ("5", "\u0665", "response"),
        ("5", "1" * 2000, "response"),
        ("5", "1e99999999", "response"),
        ("5", "$$", "response"),
        ("  ", "5", "gold"),
        ("1" * 2000, "5", "gold"),
        ("5", r"\text{five}", "response"),
        ("5", r"\sqrt{2}", "system"),
        ("5", "1/0", "system"),
        ("x=5", "y=5", "response"),
    ],
)
def test_undecided(gold: str, answer: str | None, cause: str) -> None:
    verdict = check(gold, answer)
    assert (verdict.outcome, verdict.cause) == ("undecided", cause)
    assert verdict.reason


def test_tolerance_decides_either_way() -> None:
    assert check("1/3", "0.333", tolerance=1e-2).outcome == "correct"
    assert check("1/3", "0.333", tolerance=1e-6).outcome == "wrong"


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_fractions_agree_with_exact_arithmetic(a: int, b: int) -> None:
    assert check(f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}").outcome == "correct"
    whole = Fraction(a, b)
    assert check(f"{a}/{b}", str(whole)).outcome == "correct"
    assert check(f"{a}/{b}", str(whole + 1)).outcome == "wrong"


@given(st.decimals(-(10**9), 10**9, places=3))
def test_zeros_and_commas_do_not_matter(value: object) -> None:
    assert check(f"{value}", f"{value:,}00").outcome == "correct"


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_gets_a_verdict_with_a_cause(gold: str, answer: str) -> None:
    verdict = check(gold, answer)
    assert (verdict.cause is None) == (verdict.outcome != "undecided")
    if verdict.outcome == "wrong":
        assert all(any(c.isdigit() for c in side) for side in (gold, answer))


@given(st.text(alphabet="0123456789eE^{}\\times.,/-+%$", max_size=400))
def test_numbers_stay_bounded(text: str) -> None:
    plain = parse_plain(normalise(text))
    assert plain is None or abs(plain.value.numerator) < 10**800
