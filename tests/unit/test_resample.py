"""Negatives drawn so that their log-probabilities are spread as rejection's."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from helpers.selection import pick
from pns import pipeline
from pns.errors import UserError
from pns.negatives.resample import BINS, Likeness
from pns.negatives.selection import likeness_of
from pns.recipe import NegativesPart
from pns.recipe_files import load_recipe
from pns.records import Response, Rubric, Scores, Verdict, read_parquet, write_parquet
from pns.stages import negatives as stages
from pns.stages.context import Context

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"


def negative(problem: int, index: int, logp: float | None, source: str = "pns") -> Response:
    verdict = Verdict(outcome="wrong", answer=str(index))
    scores = Scores(
        gate="scored", score=0.5, well_formed=True, reward_raw=0.0, reward_model=0.5, verdict=verdict,
        rubric=Rubric(relevance=3, coherence=3, completeness=3, consistency=3),
    )  # fmt: skip
    return Response(
        problem_id=f"p{problem:04}", text=f"text {index}", index=index, source=source, n_tokens=9, policy_logp=logp,
        verdict=verdict, scores=scores, sampling={"generator_logp": -1.0},
    )  # fmt: skip


def population(mean: float, deviation: float, problems: int, each: int, seed: int) -> list[Response]:
    rng = random.Random(seed)
    return [negative(p, i, min(-0.01, rng.gauss(mean, deviation))) for p in range(problems) for i in range(each)]


def logps(rows: list[Response]) -> list[float]:
    return [r.policy_logp for r in rows if r.policy_logp is not None]


def test_drawn_ones_are_spread_as_the_wanted_and_no_problem_is_left_out(tmp_path: Path) -> None:
    wanted = population(-4.0, 0.7, 700, 1, seed=1)
    candidates = population(-2.5, 1.5, 1500, 6, seed=2)
    part = NegativesPart(select="as_rejection")
    spread = likeness_of(wanted, candidates, tmp_path, part, None, None)
    found = pick(candidates, part, None, plausible=True, how="as_rejection", seed=3, like=spread)
    assert len(found) == 1500
    like = logps([rows[0] for rows in found.values()])
    assert abs(np.mean(logps(candidates)) - np.mean(logps(wanted))) > 1.3, "they were far from each other"
    assert np.mean(like) == pytest.approx(np.mean(logps(wanted)), abs=0.15)
    edges = np.quantile(logps(wanted), np.linspace(0, 1, BINS + 1)[1:-1])
    shares = np.bincount(np.searchsorted(edges, like, side="right"), minlength=BINS) / len(like)
    assert shares == pytest.approx([1 / BINS] * BINS, abs=0.04)
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_nothing_alike_the_nearest_are_drawn() -> None:
    far = [[-1.0, -9.0]] * 50
    spread = Likeness([-3.0 - i / 100 for i in range(100)], far)
    assert spread.weight(-9.0) == spread.weight(-1.0) > 0, "both lie outside"
    assert Likeness([-3.0], []).weight(-5.0) == 1, "nothing can be drawn"
    one = Likeness([-3.0] * 9, [[-3.0, -2.0, -4.0]])
    assert one.weight(-3.0) == 1
    assert 0 < one.weight(-2.0) == one.weight(-4.0) < 1e-6


def test_unknown_log_probabilities_are_drawn_last(tmp_path: Path) -> None:
    rows = [negative(p, i, None if i == 0 else -2.0) for p in range(30) for i in range(2)]
    part = NegativesPart(select="as_rejection", per_problem=2)
    spread = likeness_of(rows, rows, tmp_path, part, None, None)
    found = pick(rows, part, None, plausible=True, how="as_rejection", seed=0, like=spread)
    assert {tuple(r.index for r in some) for some in found.values()} == {(1, 0)}
    assert math.isfinite(spread.weight(-2.0))


def test_the_stages_that_it_needs() -> None:
    plain, _ = load_recipe(SMOKE, ["negatives.methods=[pns]"])
    alike, _ = load_recipe(SMOKE, ["negatives.methods=[pns]", "negatives.select=as_rejection"])
    assert "negatives-rejection" not in pipeline.stages(plain)
    stages_of = pipeline.stages(alike)
    assert "negatives-rejection" in stages_of["negatives-pns"].needs
    assert stages_of["pairs"].args == pipeline.stages(plain)["pairs"].args
    assert "negatives-rejection" not in stages_of["pairs"].needs, "it is no method of the comparison"
    rules, _ = load_recipe(SMOKE, ["negatives.methods=[flip]", "negatives.select=as_rejection"])
    assert "negatives-rejection" not in pipeline.stages(rules)
    with pytest.raises(UserError, match="needs rejection's own negatives; set gate_all: false"):
        load_recipe(SMOKE, ["negatives.select=as_rejection", "negatives.gate_all=true"])


def test_the_stage(tmp_path: Path) -> None:
    recipe, _ = load_recipe(SMOKE, ["negatives.select=as_rejection", "negatives.reward_model_quantile=null"])
    inputs = {name: tmp_path / name for name in ("samples-pns", "negatives-rejection", "reward_model")}
    for folder in (tmp_path / "out", *inputs.values()):
        folder.mkdir()
    rows = [negative(p, i, logp) for p in range(40) for i, logp in enumerate((-1.0, -4.0, -9.0))]
    write_parquet(inputs["samples-pns"] / "candidates.parquet", rows)
    like = [negative(p, 0, -3.0 - p / 20, "rejection") for p in range(40)]
    write_parquet(inputs["negatives-rejection"] / "negatives.parquet", like)
    here = context(recipe, tmp_path, inputs)
    stages._select(here, "pns", lambda: rows)
    drawn = read_parquet(tmp_path / "out" / "negatives.parquet", Response)
    assert len(drawn) == 40
    assert {r.policy_logp for r in drawn} == {-4.0}, "the others lie outside of all that rejection has"
    write_parquet(inputs["negatives-rejection"] / "negatives.parquet", like[:0])
    with pytest.raises(UserError, match="rejection has no negatives to be like"):
        stages._select(here, "pns", lambda: rows)


def context(recipe: object, folder: Path, inputs: dict[str, Path]) -> Context:
    return Context(recipe, "negatives-pns", folder / "out", inputs, lambda *_: None)  # type: ignore[arg-type]
