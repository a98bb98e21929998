"""Every row of the table of outcomes in docs/verification.md is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pns.verify import Verifier

DOCS = Path(__file__).parents[2] / "docs" / "verification.md"
CODE = re.compile(r"`([^`]+)`")


def claims() -> list[tuple[str, str, str]]:
    """Gold answer, answer and outcome of every claim that the table makes."""
    table = DOCS.read_text(encoding="utf-8").split("| gold | answer | outcome | why |\n", 1)[1].split("\n\n", 1)[0]
    out = []
    for line in table.split("\n")[1:]:
        gold, answers, outcomes, _ = (cell.strip() for cell in line.strip("|").split(" | ", 3))
        groups, said = re.split(r"(?<=`) / (?=`)", answers), outcomes.split(" / ")
        assert len(groups) == len(said), line
        assert re.sub(r"[, ]|/", "", CODE.sub("", answers)) == "", f"an answer that is not in code: {line}"
        for group, outcome in zip(groups, said, strict=True):
            out += [(CODE.findall(gold)[0], answer, outcome) for answer in CODE.findall(group)]
    return out


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as v:
        yield v


def test_the_table_is_read_whole() -> None:
    found = claims()
    assert len(found) > 90
    assert {outcome for _, _, outcome in found} == {"correct", "wrong", "undecided"}


@pytest.mark.parametrize(("gold", "answer", "outcome"), claims())
def test_a_row_of_the_table(verifier: Verifier, gold: str, answer: str, outcome: str) -> None:
    verdict = verifier.check([gold], [answer])[0]
    assert verdict.outcome == outcome, verdict
    if outcome == "undecided":
        assert verdict.cause == ("gold" if gold == "\\frac{" else "response")
