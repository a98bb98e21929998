"""The verifier over all rows of real data: gold answers, official solutions, pairs of problems, labelled solutions."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from fractions import Fraction

import pytest

from helpers.data import rows
from pns.verify import Verifier, check, extract

FILES = (
    "aime24", "aime25", "amc23", "asdiv", "gsm8k.test", "gsm8k.train", "math.train", "math500.test", "mawps",
    "minerva_math", "olympiadbench", "svamp",
)  # fmt: skip

# A gold answer against which no answer can be decided. It still checks correct against its own text.
UNDECIDABLE = {
    "asdiv": {"asdiv-1110"},  # a time with its date; read as text where the registry says so
    "minerva_math": {
        "minerva-5",  # `np.arcsin(10/13)`, Python
        "minerva-27",  # a derivative and a sun sign
        "minerva-261", "minerva-268", "minerva-269",  # `E_{1}`: the parser takes E for Euler's number
    },
    "olympiadbench": {"olympiadbench-2045"},  # `t(0,4]` lost a relation sign at the source
}  # fmt: skip

# Official solutions without a complete box: `\boxed 2` without braces, and two empty boxes (data README).
NO_BOX = {
    "math.train": {
        "train/algebra/24014.json", "train/algebra/25040.json",
        "train/number_theory/7115.json", "train/number_theory/7117.json",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2) as v:
        yield v


@pytest.mark.parametrize("name", FILES)
def test_every_gold_answer_is_itself(verifier: Verifier, name: str) -> None:
    found = rows(f"math/{name}.jsonl")
    golds = [r["answer"] for r in found]
    for answers in (golds, [f" ${g}$ " if "$" not in g else g for g in golds]):
        verdicts = verifier.check(golds, answers)
        assert [(r["id"], v.reason) for r, v in zip(found, verdicts, strict=True) if v.outcome != "correct"] == []
    undecidable = {r["id"] for r in found if not verifier.decidable(r["answer"])}
    assert undecidable == UNDECIDABLE.get(name, set())


@pytest.mark.parametrize("name", ["aime24", "math.train", "math500.test", "minerva_math"])
def test_every_official_solution_ends_in_its_gold_answer(verifier: Verifier, name: str) -> None:
    found = [r for r in rows(f"math/{name}.jsonl") if "\\boxed" in (r["solution"] or "")]
    assert len(found) >= 29
    verdicts = verifier.verify([r["answer"] for r in found], [r["solution"] for r in found])
    failed = {r["id"]: v for r, v in zip(found, verdicts, strict=True) if v.outcome != "correct"}
    assert set(failed) == NO_BOX.get(name, set())
    assert len(failed) <= max(1, 0.002 * len(found))
    assert all(v.outcome == "undecided" and "\\boxed" in v.reason for v in failed.values())


def test_gsm8ks_own_solutions_end_in_their_gold_answer() -> None:
    for name in ("gsm8k.test", "gsm8k.train"):
        for row in rows(f"math/{name}.jsonl"):
            answer = extract(f"{row['solution']}\n#### {row['answer']}", "gsm8k").answer
            assert check(row["answer"], answer).outcome == "correct"


PLAIN = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:/([0-9]+))?")


def exact(text: str) -> Fraction | None:
    """A judge that shares no code with the verifier: integers, decimals and fractions, written plainly."""
    match = PLAIN.fullmatch(text.replace(",", "") if re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+", text) else text)
    frac = re.fullmatch(r"(-?)\\d?frac\{([0-9]+)\}\{([0-9]+)\}", text)
    if frac:
        return Fraction(int(frac[2]), int(frac[3])) * (-1 if frac[1] else 1)
    if match is None or (match[4] and (match[3] or not int(match[4]))):
        return None
    value = Fraction(f"{match[2]}.{match[3] or 0}") / int(match[4] or 1)
    return -value if match[1] else value


@pytest.mark.parametrize("name", FILES)
def test_no_answer_to_another_problem_is_correct(name: str) -> None:
    """10,000 random pairs of gold answers a file, or all pairs of a small one, that are plain numbers and differ."""
    known = [(text, value) for r in rows(f"math/{name}.jsonl") if (value := exact(text := r["answer"])) is not None]
    every = [pair for pair in itertools.product(known, known) if len(known) <= 100]
    rng = random.Random(0)
    pairs = every or [(rng.choice(known), rng.choice(known)) for _ in range(12_000)]
    differing = [(a, b) for (a, x), (b, y) in pairs if x != y][:10_000]
    assert len(differing) == 10_000 or every
    for gold, answer in differing:
        assert check(gold, answer).outcome != "correct", (gold, answer)


def test_no_answer_in_symbols_to_another_problem_is_correct(verifier: Verifier) -> None:
    """Pairs of MATH-500 answers that are no plain numbers. None has the same value as another: looked at one by one."""
    golds = sorted({r["answer"] for r in rows("math/math500.test.jsonl") if exact(r["answer"]) is None})
    rng = random.Random(1)
    pairs = [rng.sample(golds, 2) for _ in range(3000)]
    verdicts = verifier.check([a for a, _ in pairs], [b for _, b in pairs])
    same = [pair for pair, v in zip(pairs, verdicts, strict=True) if v.outcome == "correct"]
    # two spellings of one answer may meet, and one angle in degrees and radians; two answers may not
    same = [pair for pair in same if sorted(pair) != [r"180^\circ", r"\pi"]]
    assert [pair for pair in same if len({re.sub(r"[ {}]|\\left|\\right", "", text) for text in pair}) > 1] == []


def test_labels_of_gsm8k_solutions_agree_in_all_rows() -> None:
    """5,276 rows: correct exactly where the label says so. Undecided: 11 without an answer, one in words."""
    found = rows("cot_labels/gsm8k_model_solutions.jsonl")
    verdicts = [check(r["answer"], r["final_answer"]) for r in found]
    pairs = list(zip(found, verdicts, strict=True))
    assert len(pairs) == 5276
    assert [r["id"] for r, v in pairs if (v.outcome == "correct") != r["final_answer_correct"]] == []
    undecided = {r["id"]: r["final_answer"] for r, v in pairs if v.outcome == "undecided"}
    assert sorted(map(str, undecided.values())) == ["10+John's age", *["None"] * 11]


# The label judges the source's own extraction (`pred`). `10{,}000` and 10000 are one number: the label is at fault.
WRONG_LABEL = {"mathcot-72-7"}
# The source cut `4:30 \text{ p.m.}` down to `4:30`, and labelled that wrong; the response itself ends in the gold time.
CUT_BY_THE_SOURCE = {f"mathcot-3-{i}" for i in range(8)}


def test_labels_of_math_solutions_agree(verifier: Verifier) -> None:
    found = rows("cot_labels/math_cot_100x8.jsonl")
    golds, labels = [r["answer"] for r in found], [r["final_answer_correct"] for r in found]
    labelled = verifier.check(golds, [r["pred"] for r in found])
    against = {
        r["id"] for r, v, label in zip(found, labelled, labels, strict=True) if (v.outcome == "correct") != label
    }
    assert against == WRONG_LABEL  # 799 of 800
    whole = verifier.verify(golds, [r["response"] for r in found])
    against = {r["id"] for r, v, label in zip(found, whole, labels, strict=True) if (v.outcome == "correct") != label}
    assert against == WRONG_LABEL | CUT_BY_THE_SOURCE
    wrong = sum(v.outcome == "wrong" for v in whole)
    assert (wrong, sum(v.outcome == "undecided" for v in whole)) == (62, 1)
