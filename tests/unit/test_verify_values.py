"""Every form of answer that the benchmarks contain: what equals what, what differs, and what stays undecided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pns.records import Problem
from pns.verify import Verifier, check
from pns.verify.reading import read
from pns.verify.values import Group, Num, Text


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as v:
        yield v


SAME = {
    "leading zero and bold": ("113", r"\textbf{(113)}"),
    "AIME's padding": ("73", "073"),
    "fraction styles": (r"\frac{270}{7}", r"\dfrac{270}7"),
    "money": ("18.9", r"\$18.90"),
    "unit left out": (r"864 \mbox{ inches}^2", "864"),
    "unit put in": ("864", r"864\text{ square inches}"),
    "words behind": ("18", "18 apples"),
    "another unit": (r"5 \text{ m}", "500 cm"),
    "dollars and cents": (r"\$0.50", "50 cents"),
    "degrees": (r"30^\circ", "30"),
    "degrees in words": (r"30^{\circ}", "30 degrees"),
    "degrees in radians": (r"30^\circ", r"\frac{\pi}{6}"),
    "per cent": ("50", r"50\%"),
    "list in any order": ("1,-2", "-2, 1"),
    "list with and": ("1,-2,7", r"1, 7 \text{ and } -2"),
    "list with or": ("1,-2", r"x = 1 \text{ or } x = -2"),
    "list with dollars": ("$-1$,$2$,$-2$", "2, -2, -1"),
    "set": (r"\{1, 2\}", "2,1"),
    "plus minus": (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    "plus minus in a set": (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5"),
    "tuple": (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
    "tuples in any order": ("(1,2),(3,4)", "(3, 4), (1, 2)"),
    "interval": (r"\left(\frac{3}{5},\frac{8}{3}\right]", "(0.6, 8/3]"),
    "interval with a name": (r"x \in [-2,7]", "[-2,7]"),
    "interval as an inequality": ("[-2,7]", r"-2 \leq x \leq 7"),
    "ray as an inequality": (r"(2,\infty)", "x > 2"),
    "union": (r"(-\infty, 2) \cup (3, \infty)", r"(3, \infty) \cup (-\infty, 2)"),
    "union as inequalities": (r"(-\infty, 2) \cup (3, \infty)", r"x<2 \text{ or } x>3"),
    "matrix": (r"\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}", r"\begin{bmatrix} -\frac13 \\ 2 \end{bmatrix}"),
    "column as a tuple": (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)"),
    "assignment": ("x=5", "5"),
    "function": ("f(x)=x+1", "x + 1"),
    "function as y": ("f(x)=x+1", "y = 1 + x"),
    "equation": ("5x - 7y + 11z + 4 = 0", "-5x + 7y - 11z = 4"),
    "radicals": (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt3}"),
    "TeX's short fraction": (r"\frac{\pi}{2}", r"\frac\pi 2"),
    "plain spelling": (r"\frac{1+\sqrt{5}}{2}", "(1 + sqrt(5))/2"),
    "powers of Python": ("x^2+1", "x**2 + 1"),
    "expression": ("6r^2-4r-24", "2(3r^2-2r-12)"),
    "bare symbol": ("x", "2x/2"),
    "trigonometry": (r"\cot x", r"\frac{\cos x}{\sin x}"),
    "binomial": (r"\binom{n+1}{2}", r"\frac{n(n+1)}{2}"),
    "complex": ("1 + 274i", "274i+1"),
    "base": ("52_8", "52_{8}"),
    "time": ("3:30 p.m.", r"\text{3:30 PM}"),
    "time in 24 hours": ("3:30 p.m.", "15:30"),
    "ratio": ("3:4", "3 : 4"),
    "choice": (r"\text{(C)}", "C"),
    "choice with its value": ("113", r"\textbf{(C) } 113"),
    "words": (r"\text{Evelyn}", "evelyn."),
    "article": ("The men's track team", "men’s track team"),
    "ordinal": ("6th", r"6^{\text{th}}"),
    "thousands in lists": ("2400, 1350, 864", "1350, 864, 2400"),
}  # fmt: skip

DIFFERENT = {
    "choice": (r"\text{(C)}", "D"),
    "words of one vocabulary": (r"\text{even}", "odd"),
    "weekday": (r"\text{Wednesday}", "Tuesday"),
    "unit": (r"5 \text{ m}", "300 cm"),
    "degrees in radians": (r"30^\circ", r"\frac{\pi}{3}"),
    "member missing": ("1,2,3", "1,2"),
    "member too many": ("1,2", "1,2,3"),
    "one of two": (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
    "tuple in another order": ("(1,2)", "(2,1)"),
    "tuple of another length": ("(1,2)", "(1,2,3)"),
    "end of an interval": ("[0,1)", "[0,2)"),
    "closed for open": ("(0,1]", "[0,1]"),
    "ray": (r"(2,\infty)", r"x \geq 2"),
    "matrix": (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    "radicals": (r"2\sqrt{3}", r"3\sqrt{2}"),
    "line": ("y = 2x + 3", "y = 3x + 2"),
    "plane": ("5x - 7y + 11z + 4 = 0", "5x + 7y + 11z + 4 = 0"),
    "expression": ("6r^2-4r-24", "6r^2-4r-25"),
    "complex": ("1+2i", "1-2i"),
    "base": ("52_8", "53_8"),
    "time": ("3:30 p.m.", "4:30 p.m."),
    "half of the day": ("3:30 p.m.", "3:30 a.m."),
    "ratio": ("3:4", "4:3"),
    "infinity": (r"(-\infty, 2)", r"(2, \infty)"),
}  # fmt: skip

UNDECIDED = {
    "rounded": (r"\frac{1}{3}", "0.333"),
    "rounded radical": (r"\frac{\sqrt{3}}{3}", "0.577"),
    "rounded in another unit": (r"\frac{1}{3} \text{ m}", "33.3 cm"),
    "unit left open": ("18", "1800 cents"),
    "other words": (r"\text{Evelyn}", "Angela"),
    "number word": ("4", r"\text{four}"),
    "words for a number": ("5", "no idea"),
    "half of the day left open": ("3:30 p.m.", "3:30"),
    "another name": ("x=5", "y=5"),
    "base left out": ("52_8", "52"),
    "base left out, value": ("52_8", "42"),
    "capital and small letter": ("3R^2", "3r^2"),
    "letters may be variables": ("C", "D"),
    "variables renamed": ("2k+1", "2n+1"),
    "pair in other brackets": ("(1,2)", "[1,2]"),
    "hedged": ("5", "5 or 6"),
    "list or tuple": ("1,2", "(2,1)"),
    "reduced ratio": ("6:8", "3:4"),
    "logarithm without a base": (r"\log 2", r"\ln 2"),
    "constant of integration": (r"x^2 + C", r"x^2 + 2C"),
    "mixed number or product": (r"\frac{\pi}{2}", r"3\frac{1}{2}\pi"),
    "numbers side by side": ("11", "5 6"),
    "a list or thousands": ("100,200", "200,100"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_same(verifier: Verifier, name: str) -> None:
    gold, answer = SAME[name]
    for pair in ((gold, answer), (answer, gold)):
        verdict = verifier.check([pair[0]], [pair[1]])[0]
        assert verdict.outcome == "correct", verdict


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(verifier: Verifier, name: str) -> None:
    gold, answer = DIFFERENT[name]
    verdict = verifier.check([gold], [answer])[0]
    assert (verdict.outcome, verdict.cause) == ("wrong", None), verdict


@pytest.mark.parametrize("name", UNDECIDED)
def test_undecided_because_of_the_response(verifier: Verifier, name: str) -> None:
    gold, answer = UNDECIDED[name]
    verdict = verifier.check([gold], [answer])[0]
    assert (verdict.outcome, verdict.cause) == ("undecided", "response"), verdict


@pytest.mark.parametrize(
    ("fields", "answer", "outcome"),
    [
        ({"answer": "4.2", "tolerance": 0.1}, "4.25", "correct"),
        ({"answer": "4.2", "tolerance": 0.1}, "4.4", "wrong"),
        ({"answer": r"\frac{1}{3}", "tolerance": 0.01}, "0.333", "correct"),
        ({"answer": r"\sqrt{2}", "tolerance": 0.01}, "1.41", "correct"),
        ({"answer": r"\sqrt{2}", "tolerance": 0.001}, "1.41", "wrong"),
        ({"answer": r"\frac{600}{7}", "unit": "km/h"}, r"\frac{600}{7} \text{ km/h}", "correct"),
        ({"answer": "50", "unit": "minutes"}, "50", "correct"),
        ({"answer": "120", "unit": "minutes"}, "2 hours", "correct"),
        ({"answer": "50", "unit": "minutes"}, "3000 seconds", "correct"),
        ({"answer": "4.2", "unit": "%"}, "0.042", "correct"),
        ({"answer": "May", "kind": "text"}, "may", "correct"),
        ({"answer": "May", "kind": "text"}, "June", "wrong"),
        ({"answer": "11:55 p.m. on 24 December 2014.", "kind": "text"}, "11:55 p.m. on 24 december 2014", "correct"),
        ({"answer": "E", "kind": "choice"}, "(E)", "correct"),
        ({"answer": "E", "kind": "choice"}, "D", "wrong"),
    ],
)
def test_what_the_problem_says_about_its_answer(
    verifier: Verifier, fields: dict[str, Any], answer: str, outcome: str
) -> None:
    problem = Problem(id="a", problem="?", **fields)
    assert verifier.check_problems([problem], [answer])[0].outcome == outcome
    boxed = f"So we are done. \\boxed{{{answer}}}"
    assert verifier.verify_problems([problem], [boxed])[0].outcome == outcome


def test_the_same_in_process_where_no_algebra_is_needed() -> None:
    in_process = {name for name, pair in SAME.items() if check(*pair).outcome == "correct"}
    assert {"tuples in any order", "union as inequalities", "another unit", "time in 24 hours"} <= in_process
    assert not {"radicals", "trigonometry"} & in_process


def test_reading() -> None:
    assert isinstance(read("1,234"), Num)
    listed = read("1, 2")
    assert isinstance(listed, Group)
    assert (listed.kind, len(listed.items)) == ("list", 2)
    assert read("They are equal") == Text("they are equal")
    assert read("") is None
    assert read("(" * 50 + "1" + ")" * 50) is None
