"""Attacks that once got through: the same value called wrong, another one called correct, and common spellings unread.

Kept apart from the other cases because each of them had another verdict before it was mended.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pns.records import Problem
from pns.verify import Verifier, check
from pns.verify.latex import clean
from pns.verify.slash import open_slash


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as v:
        yield v


# The same value: was wrong (which reverse RL would have paid for) or, where it is a common spelling, was not read.
SAME = [
    # words that scale or make per cent
    ("0.25", "25 percent"),
    (r"\frac14", r"25\text{ percent}"),
    (r"\frac{1}{8}", r"12.5\text{ per cent}"),
    ("1000000", "1 million"),
    ("1500000", r"1.5\text{ million}"),
    (r"\$5 million", "5000000"),
    ("24", "2 dozen"),
    (r"\frac{3}{10}", "3 tenths"),
    (r"\frac34", "3 quarters"),
    # degrees inside an expression
    (r"\sin 30^\circ", r"\frac12"),
    (r"\frac{\sqrt3}{2}", r"\cos 30^\circ"),
    (r"\sin 10^\circ", r"\cos 80^\circ"),
    (r"75^\circ", r"30^\circ + 45^\circ"),
    # a letter set upright
    ("1+2i", r"1+2\mathrm{i}"),
    # commas that part thousands, or members
    (r"4466\pi", r"4{,}466\pi"),
    (r"1008 \sqrt{6} + 1008 \sqrt{2}", r"1,008 \sqrt{6} + 1,008 \sqrt{2}"),
    ("(2223,4510)", "(2,223,4,510)"),
    ("$6764$,$10945$", "$6,764$,$10,945$"),
    (r"2{,}016{,}532", r"\{2{,}016{,}532\}"),
    ("4343_6", "4{,}343_6"),
    ("1, 100/3", r"\{1, 100/3\}"),
    ("1, 100", "100, 1"),
    ("1, 100/3", "1 , 100/3"),
    # spellings
    (r"\frac{1}{2}", "½"),
    (r"\frac{5}{2}", "2½"),
    ("2.5", "2 ½ hours"),
    (r"-\frac12", "-½"),
    (r"\frac{3}{4}", "¾"),
    (r"\frac{3}{4}", "3⁄4"),
    (r"\frac{5}{2}", "2 1⁄2"),
    ("x/2", "½x"),
    ("x^4", "x⁴"),
    ("x^{-10}", "x⁻¹⁰"),
    ("x_1", "x₁"),
    (r"\emptyset", r"\varnothing"),
    (r"-\frac{4}{3}", "-1 1/3"),
    ("0.001", "10^{-3}"),
    (r"\frac13", r"0.\overline{3}"),
    (r"0.1\overline{6}", "1/6"),
    (r"[2,\infty)", "x >= 2"),
    ("[1,2]", "1 <= x <= 2"),
    ("10", r"{5 \choose 2}"),
    ("30", "30^o"),
    ("(1,2)", "(x, y) = (1, 2)"),
    ("1010_2", "(1010)_2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
    ("8", r"\text{Area} = 8\text{ cm}^2"),
    (r"\frac12", r"\frac{3}{6} = \frac12 = 0.5"),
    ("x^2 - 4 = 0", "0 = 4 - x^2"),
    ("8", "x + y = 3 + 5 = 8"),
    (r"2\sqrt3", r"2\sqrt3 \approx 3.46"),
    # units
    ("5", "5 cm^2"),
    ("5", "5 cm²"),
    ("5", "5 km/h"),
    ("5", "5 mph"),
    ("5", r"5^\circ\text{C}"),
    (r"5\text{ m/s}", "18 km/h"),
    (r"\$0.05", "5¢"),
    ("72", r"72\,\mathrm{ft^2}"),
    (r"\frac{\sqrt{6}}{2}", r"\frac{\sqrt{6}}2"),
    # a choice with its value
    (r"\text{(B)}", r"\textbf{(B)}\ 5"),
    (r"\text{(B)}", r"\text{(B) } \frac12"),
    ("B", "B) 5"),
    (r"\textbf{(B)}\ 5", "B"),
]

# Another value, or one that nobody can tell from the text: was correct.
NOT_CORRECT = [
    ("1100", "1, 100", "undecided"),
    ("1{,}234", "1, 234", "undecided"),
    ("10^{-30}", "10^{-31}", "wrong"),
    (r"\frac{1}{2^{100}}", r"\frac{1}{2^{101}}", "wrong"),
    ("0", "10^{-40}", "wrong"),
    ("2^{1009}", "2^{1009}+1", "wrong"),
    ("100!", "100!+1", "wrong"),
    (r"2^{1009}\sqrt2", r"2^{1009}\sqrt2+1", "undecided"),
    ("8", "9 = 8", "undecided"),
    ("8", "x = 9 = 8", "undecided"),
    ("8", r"2\cdot3=8", "undecided"),
    ("8", r"8 \approx 9", "undecided"),
    ("A", "A'", "undecided"),
    ("x", "X", "undecided"),
    ("E", "e", "undecided"),
    (r"\sin 30^\circ", r"\sin 30", "undecided"),
    (r"\frac{1}{2x}", "1/2x", "undecided"),
    (r"\frac{1}{2\pi}", r"1/2\pi", "undecided"),
    (r"\frac{a}{b(c+1)}", "a/b(c+1)", "undecided"),
    (r"\emptyset", r"\{\emptyset\}", "undecided"),
    ("5", "5 million", "undecided"),
    ("5 million", "5", "undecided"),
    ("5", "5 hundredths", "undecided"),
    ("5", r"5 \text{ or more}", "undecided"),
    ("5", "5 squared", "undecided"),
    ("8", "8 and a half", "undecided"),
    ("8", r"8\text{ is not the answer}", "undecided"),
    ("8", r"8\text{ n}", "undecided"),
    ("8", r"8\text{ per thousand}", "undecided"),
    ("3", r"1+2\mathrm{i}", "wrong"),
    (r"\$5", "€5", "undecided"),
    (r"100^\circ C", r"100^\circ F", "undecided"),
    (r"\textbf{(B)}\ 5", "(C) 5", "undecided"),
    ("[1,2],[3,4]", "[[1,2],[3,4]]", "undecided"),
    ("8", "8 = x = 9", "undecided"),
    (r"\frac{x-1}{2} = \frac{y}{3} = z", "z", "undecided"),
]

# May be the same value: was wrong.
NOT_WRONG = [
    ("5", r"\sqrt25"),
    (r"\frac43", r"1 \text{ and } 1/3"),
    ("2.5", "2-1/2"),
    ("-2", r"\sqrt[3]{-8}"),
    (r"-\sqrt[3]{2}", r"\sqrt[3]{-2}"),
    ("60", r"\frac{\pi}{3}"),
    (r"\frac{\pi}{3}", "60"),
    ("6.25", "6.3"),
    ("1.41", "1.414"),
    (r"6.022\times10^{23}", r"6.02\times10^{23}"),
    ("4.49e33", r"4.5\times10^{33}"),
    ("5.47e5", r"1 \cdot 5.47e5"),
    (r"\frac{9}{\pi^2}(\sqrt{3}+3)", r"(9)/(\pi^2)(\sqrt{3}+3)"),
    (r"\frac{\sqrt{3}}{4} - \frac{1}{24}\pi", r"\frac{\sqrt{3}}{4} - 1/24\pi"),
    ("352146,362145", "352,146,362,145"),
    ("(1,1006),(3,331)", "(1,1,006),(3,331)"),
    ("98,634", "98 , 634"),
    (r"137\frac{1}{2}", "137 (1)/(2)"),
    (r"2.5\text{ hours}", "2 hours and 30 minutes"),
    (r"\$12.50", "12 dollars and 50 cents"),
    ("1250", r"\$12.50"),
    ("24", "2 years"),
    ("104", "2 years"),
    ("2", "24 months"),
    ("8", "4 pairs"),
    ("60", "1 mile per minute"),
    ("16", "1 gallon"),
    ("100", "212 degrees Fahrenheit"),
    (r"1,008\sqrt{6}", r"1008\sqrt6"),
]

# Caution has an end: these differ in every reading.
WRONG = [
    ("4.5e33", "4.6e33"),
    ("6.25", "6.4"),
    ("6.25", "6"),
    ("5000000", "6 million"),
    (r"\text{(B)}", r"\textbf{(C)}\ 5"),
    (r"\frac{3}{4}", "⅔"),
    (r"0.\overline{36}", r"0.3\overline{6}"),
    (r"\sin 30^\circ", r"\frac13"),
    ("(100, 200)", "(100, 300)"),
    ("36", "11 m/s"),
    ("7", r"2^3 = 8"),
    ("1+2i", r"1-2\mathrm{i}"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same_value_in_another_spelling(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.check([gold], [answer])[0].outcome == "correct"


@pytest.mark.parametrize(("gold", "answer", "outcome"), NOT_CORRECT)
def test_another_value_is_not_correct(verifier: Verifier, gold: str, answer: str, outcome: str) -> None:
    assert verifier.check([gold], [answer])[0].outcome == outcome


@pytest.mark.parametrize(("gold", "answer"), NOT_WRONG)
def test_what_may_be_the_same_is_not_wrong(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.check([gold], [answer])[0].outcome == "undecided"


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_what_differs_in_every_reading_is_wrong(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.check([gold], [answer])[0].outcome == "wrong"


@pytest.mark.parametrize(("answer", "outcome"), [("(B) 5", "correct"), (r"\textbf{(C)}\ 5", "wrong")])
def test_a_choice_with_its_value_where_the_problem_has_choices(verifier: Verifier, answer: str, outcome: str) -> None:
    problem = Problem(id="a", problem="?", answer="B", kind="choice")
    assert verifier.check_problems([problem], [answer])[0].outcome == outcome


def test_a_unit_that_the_problem_states_reads_a_scaled_number(verifier: Verifier) -> None:
    problem = Problem(id="a", problem="?", answer="5000000", unit="dollars")
    assert verifier.check_problems([problem], ["5 million dollars"])[0].outcome == "correct"


@pytest.mark.parametrize("text", ["1/2", "x/2+1", "a/b", r"1/2\cdot x", r"1/2^{10}", r"1/\sin x", r"\lceil n/2 \rceil"])
def test_a_slash_with_one_reading(text: str) -> None:
    assert not open_slash(text)


@pytest.mark.parametrize("text", ["1/2x", r"1/24\pi", "(1)/(2)e", "a/bc", "1/(x+1)(x+2)", r"1/2^{10}x"])
def test_a_slash_with_two_readings(text: str) -> None:
    assert open_slash(text)


def test_a_fraction_slash_behind_digits_that_ran_together_stays_unread() -> None:
    """A `2½` copied as `21⁄2` is not 21 halves."""
    assert clean("21⁄2") == "21⁄2"
    assert check("2.5", "21⁄2").outcome == "undecided"
