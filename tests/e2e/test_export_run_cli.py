"""`pns export pairs` and `pns export prompts` on a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pns.records import Pair, Problem, Response, read_parquet

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]


def test_a_run_gives_its_pairs_negatives_and_prompts(here: Any, smoke: Any) -> None:
    stages = smoke.run.stages
    said = json.loads(here("export", "pairs", smoke.folder, "--to", "openrlhf", "-o", "pairs", "--json"))
    made = read_parquet(stages / smoke.label("pairs") / "matched-pns.parquet", Pair)
    rows = [json.loads(line) for line in (here.folder / "pairs" / "train.jsonl").read_text().splitlines()]
    assert said["pairs"] == len(rows) == len(made)
    assert [row["rejected"][0]["content"] for row in rows] == [pair.rejected for pair in made]
    card = (here.folder / "pairs" / "README.md").read_text()
    digest = smoke.state("pairs")["digest"][:16]
    for part in ("| run | run |", "| recipe | smoke |", "| method | pns |", "| regime | matched |", digest):
        assert part in card
    assert "M at least the 0.05 quantile of correct responses; judge (steps) at least 0 of 12" in card
    words = ("--to", "trl-kto", "--negatives", "--method", "rejection", "--json")
    said = json.loads(here("export", "pairs", smoke.folder, "-o", "bad", *words))
    negatives = read_parquet(stages / smoke.label("negatives-rejection") / "negatives.parquet", Response)
    assert (said["desirable"], said["undesirable"]) == (0, len({(r.problem_id, r.text) for r in negatives}))
    assert "M at least" not in (here.folder / "bad" / "README.md").read_text(), "rejection has no gate on M here"
    said = json.loads(here("export", "prompts", smoke.folder, "--to", "verl", "-o", "prompts", "--json"))
    problems = read_parquet(stages / smoke.label("problems") / "generator.parquet", Problem)
    assert said["prompts"] == len(problems)
    assert "there: corruption, flip, pns" in here(
        "export", "pairs", smoke.folder, "--to", "trl", "-o", "no", "--method", "nobody", code=2
    )


def test_stale_results_are_refused(here: Any, own: Any, smoke_recipe: Path) -> None:
    """The card of an export would state the seed of the last command."""
    here("run", smoke_recipe, "seed=9", "--run-dir", own.folder, "--until", "start")
    for command, stage in (
        (("export", "pairs", own.folder, "--to", "trl", "-o", "x"), "pairs"),
        (("export", "pairs", own.folder, "--to", "trl-kto", "--negatives", "-o", "x"), "negatives-pns"),
        (("export", "prompts", own.folder, "--to", "verl", "-o", "x"), "problems"),
        (("audit", "negatives", own.folder, "--out", "x"), "pairs"),
        (("inspect", own.folder), "pairs"),
        (("report", own.folder), "report"),
    ):
        said = here(*command, code=2)
        assert f"the result of stage {stage} is stale" in said, said
        assert f"-> `pns run RECIPE --run-dir {own.folder}`" in said
    assert not (here.folder / "x").exists()
    here("run", smoke_recipe, "--run-dir", own.folder)
    here("export", "pairs", own.folder, "--to", "trl", "-o", "x")
