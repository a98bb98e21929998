"""What preference training warns of."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from pns.evaluation.lengths import lengths
from pns.recipe_files import load_recipe
from pns.records import Pair, write_parquet
from pns.report.words import pair_notes
from pns.run import read_json
from pns.stages import align as stage
from pns.stages.align import warnings
from pns.stages.context import Context

LEVEL = {"chosen_logp_shift": 0.2, "rejected_logp_shift": -1.0}


def pairs(rejected: int) -> list[Pair]:
    return [
        Pair(
            problem_id=str(i), method="m", prompt="p", chosen="c", rejected="r", chosen_tokens=20 + i % 3,
            rejected_tokens=rejected + i % 3,
        )
        for i in range(12)
    ]  # fmt: skip


def test_nothing_to_warn_of() -> None:
    assert warnings(pairs(20), LEVEL) == []


def test_likelihood_displacement_needs_a_chosen_side_that_fell_beside_a_growing_margin() -> None:
    (said,) = warnings(pairs(20), {"chosen_logp_shift": -0.4, "rejected_logp_shift": -3.0})
    assert "the margin grew by 2.60 nats while chosen responses became less likely by 0.40" in said
    # Both fell, and the margin with them: that is harm, but not this one.
    assert warnings(pairs(20), {"chosen_logp_shift": -3.0, "rejected_logp_shift": -0.4}) == []


@pytest.mark.parametrize(("rejected", "word"), [(40, "longer"), (5, "shorter")])
def test_pairs_that_length_alone_separates(rejected: int, word: str) -> None:
    (said,) = warnings(pairs(rejected), LEVEL)
    assert f"AUC of length alone is 1.00, rejected responses are {word}" in said


def drawn(n: int, rejected: Callable[[int, int], int], *, per_problem: int = 1, seed: int = 0) -> list[Pair]:
    """n pairs whose chosen sides have 40 to 160 tokens; `rejected(i, tokens)` is the length of the other side."""
    luck = random.Random(seed)
    out = []
    for i in range(n):
        tokens = luck.randint(40, 160)
        out.append(
            Pair(
                problem_id=str(i // per_problem), method="m", prompt="p", chosen="c", rejected="r", chosen_tokens=tokens,
                rejected_tokens=rejected(i, tokens),
            )
        )  # fmt: skip
    return out


@pytest.mark.parametrize(("by", "word"), [(3, "longer"), (-3, "shorter")])
def test_a_few_tokens_in_every_pair_separate_though_no_pool_shows_it(by: int, word: str) -> None:
    (said,) = warnings(drawn(300, lambda i, n: n + by), LEVEL)
    assert f"within a pair the rejected side is the {word} one in 100 %" in said
    assert "AUC" not in said


def test_ties_within_a_pair_count_one_half() -> None:
    assert lengths(drawn(300, lambda i, n: n + 3 * (i % 2)))["rejected_longer"] == 0.75
    assert warnings(drawn(300, lambda i, n: n + 3 * (i % 3 == 0)), LEVEL) == []
    (said,) = warnings(drawn(300, lambda i, n: n + 3 * (i % 2)), LEVEL)
    assert "the longer one in 75 %" in said


def test_lengths_on_both_sides_of_the_usual_one_separate() -> None:
    rows = [p.model_copy(update={"chosen_tokens": 100}) for p in drawn(300, lambda i, n: 80 if i % 2 else 120)]
    (said,) = warnings(rows, LEVEL)
    assert (
        "the distance from the median chosen length (100 tokens) is 1.00, rejected responses are farther from it"
        in said
    )
    assert "AUC of length alone" not in said
    assert "within a pair" not in said
    swapped = [
        p.model_copy(update={"chosen_tokens": p.rejected_tokens, "rejected_tokens": p.chosen_tokens}) for p in rows
    ]
    (said,) = warnings(swapped, LEVEL)
    assert "is 1.00, rejected responses are nearer to it" in said


def test_what_chance_may_do_is_no_warning() -> None:
    assert warnings(drawn(8, lambda i, n: n + 100), LEVEL) == [], "eight of eight"
    assert warnings(drawn(9, lambda i, n: n + 3), LEVEL) != []
    assert warnings(drawn(32, lambda i, n: n + 100, per_problem=4), LEVEL) == [], "eight problems"
    luck = random.Random(5)
    sizes = (2, 4, 8, 16, 32, 64) * 50
    alike = [drawn(n, lambda i, _: luck.randint(40, 160), seed=k) for k, n in enumerate(sizes)]
    assert sum(bool(warnings(rows, LEVEL)) for rows in alike) <= 6, "two of a hundred"


def test_the_stage_writes_the_figures_and_what_they_warn_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(300, lambda i, n: n + 3)
    write_parquet(tmp_path / "own-m.parquet", rows)
    monkeypatch.setattr(stage, "train_preference", lambda *_, **__: None)
    monkeypatch.setattr(stage, "_after", lambda *_: LEVEL)
    recipe, _ = load_recipe(Path(__file__).parents[2] / "recipes" / "smoke.yaml")
    here: Any = Context(recipe, "align-m-own", tmp_path, {"pairs": tmp_path, "rlvr": tmp_path}, lambda *_: None)
    stage.align(here, "m", "own")  # type: ignore[arg-type]
    found = read_json(tmp_path / "stats.json")
    assert found["lengths"] == lengths(rows)
    assert found["lengths"]["rejected_longer"] == 1
    assert (found["chosen_logp_shift"], len(found["warnings"])) == (0.2, 1)


def test_cut_sides_are_counted_and_the_page_says_so() -> None:
    stats = {**LEVEL, "cut": {"chosen": 2, "rejected": 5}}
    said = warnings(pairs(20), stats)
    assert said == [
        "cut at align.max_length: 2 chosen and 5 rejected sides of 12 pairs lose their end, the answer with it"
    ]
    assert warnings(pairs(20), {**LEVEL, "cut": {"chosen": 0, "rejected": 0}}) == []
    shift = {"chosen_logp_shift": -0.4, "rejected_logp_shift": -3.0}
    ((warns, method, text),) = pair_notes({"pns": {**shift, "warnings": [*warnings(pairs(20), shift), *said]}})
    assert (warns, method) == (True, "pns")
    assert "Cut at align.max_length: 2 chosen" in text
    assert text.count("less likely") == 1, "displacement is said once"
