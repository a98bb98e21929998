"""Texts made to break a verifier: they end within the limits as undecided or wrong, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pns.records import Verdict
from pns.verify import Verifier, check, extract

ZERO_WIDTH, RIGHT_TO_LEFT, ARABIC, FULL_WIDTH = "\u200b", "\u202e", "\u0664\u0662", "\uff14\uff12"

HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "tower in a tuple": "(1, 9^{9^{9^9}})",
    "factorials": "((((9!)!)!)!)!",
    "huge binomial": r"\binom{10^{9}}{5 \cdot 10^{8}}",
    "huge sum": r"\sum_{n=1}^{10^{12}} \frac{1}{n^2}",
    "nested braces": "{" * 100_000 + "42" + "}" * 100_000,
    "open braces": "{" * 900,
    "nested brackets": "(" * 450 + "42" + ")" * 450,
    "nested fractions": r"\frac{1}{" * 60 + "2" + "}" * 60,
    "nested roots": r"\sqrt{" * 80 + "2" + "}" * 80,
    "a megabyte": "4" * 1_000_000,
    "a megabyte of spaces": " " * 1_000_000 + "43",
    "a megabyte of commas": "1," * 500_000,
    "five hundred members": "1," * 499 + "2",
    "NUL bytes": "4\x002",
    "backspace": "43\x08\x082",
    "Arabic digits": ARABIC,
    "full-width digits": FULL_WIDTH,
    "zero width": f"4{ZERO_WIDTH}2",
    "right to left": f"{RIGHT_TO_LEFT}24",
    "soft hyphen": "4\u00ad2",
    "lone surrogate": "4\ud8002",
    "input": r"\input{/etc/passwd}",
    "write": r"\immediate\write18{ls}42",
    "definition": r"\def\x{42}\x",
    "catcode": r"\catcode`\@=11 42",
    "python": "__import__('os').system('true')",
    "lambda": "(lambda: 42)()",
    "exponent": "1e999999999",
    "division by zero": r"\frac{42}{0}",
    "not a number": "nan",
    "infinity": r"\infty",
    "empty set": r"\emptyset",
    "only commands": "\\" * 999,
    "matrix of nothing": r"\begin{pmatrix}\end{pmatrix}",
    "unclosed matrix": r"\begin{pmatrix} 42",
    "html": "<script>42</script>",
    "choice of everything": "A, B, C, D, E",
}


# What may be called wrong: plain numbers, and closed forms that have a value. And what runs into the time limit.
DECIDED = (
    "nested fractions",
    "nested roots",
    "infinity",
    "huge sum",
    "a megabyte of spaces",
    "huge binomial",
    "factorials",
)
SLOW = ("tower", "tower in a tuple", "factorials", "huge binomial", "huge sum")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(cpu_seconds=0.5) as v:
        yield v


@pytest.fixture(scope="module")
def verdicts(verifier: Verifier) -> dict[str, Verdict]:
    return dict(zip(HOSTILE, verifier.check(["42"] * len(HOSTILE), list(HOSTILE.values())), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_never_correct_and_never_raises(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    assert verdict.outcome in ("undecided", "wrong"), verdict
    assert verdict.cause in ("response", None), verdict
    if name not in DECIDED:
        assert verdict.outcome == "undecided", verdict


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in SLOW])
def test_the_same_inside_a_box(verifier: Verifier, name: str) -> None:
    [boxed] = verifier.verify(["42"], [f"So \\boxed{{{HOSTILE[name]}}}"])
    assert boxed.outcome in ("undecided", "wrong"), boxed


@pytest.mark.parametrize("name", ["tower", "NUL bytes", "zero width", "a megabyte", "open braces", "only commands"])
def test_a_hostile_gold_costs_no_response_anything(verifier: Verifier, name: str) -> None:
    [verdict] = verifier.check([HOSTILE[name]], ["42"])
    assert (verdict.outcome, verdict.cause in ("gold", "system")) == ("undecided", True), verdict


def test_many_boxes_and_long_responses() -> None:
    boxes = r"\boxed{1} " * 10_000
    assert extract(boxes + r"\boxed{42}").answer == "42"
    assert extract(boxes + r"\boxed{42").answer is None
    assert extract("\\boxed{" * 10_000).answer is None
    assert extract("x" * 1_000_000 + r"\boxed{42}").answer == "42"
    assert extract("\\boxed{" + "{" * 100_000 + "}" * 100_000 + "}").answer is not None


def test_nothing_is_left_behind() -> None:
    me = psutil.Process()
    before = {p.pid for p in me.children(recursive=True)}
    with Verifier(cpu_seconds=0.2) as v:
        v.check(["42"] * len(HOSTILE), list(HOSTILE.values()))
        grown = me.memory_info().rss
        for _ in range(3):
            v.check(
                ["42"] * 6, [HOSTILE[n] for n in ("tower", "nested roots", "a megabyte", "huge sum", "input", "html")]
            )
        assert me.memory_info().rss < grown + 64 * 2**20
    assert {p.pid for p in me.children(recursive=True)} <= before


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(), max_size=80), st.text(alphabet="0123456789\\{}()[],;^_$ abcfrtx", max_size=60))
def test_any_text_ends_in_a_verdict_with_a_cause(wild: str, mathy: str) -> None:
    for gold, answer in (("42", wild), (wild, "42"), ("42", mathy), (mathy, wild)):
        verdict = check(gold, answer)
        assert (verdict.cause is None) == (verdict.outcome != "undecided")
