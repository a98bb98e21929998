"""Methods beyond the recipe's four, on a finished run: only what they need is made."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import SMOKE, Micro
from pns.records import Pair, Problem, Response, read_parquet
from pns.sampling.engine import TransformersEngine

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

METHODS = ("rejection", "rejection_hard", "prefix", "pns_prefix", "mixture", "fill")


def folder_of(run: Path, stage: str) -> Path:
    (found,) = (p for p in (run / "stages").iterdir() if p.name.partition("-")[2] == stage)
    return found


def test_prefixes_favourites_mixtures_and_filled_gaps(here: Any, smoke: Micro) -> None:
    run = smoke.copy(here.folder / "run").folder
    here(
        "run", SMOKE, "--run-dir", run, "--until", "pairs", f"negatives.methods=[{', '.join(METHODS)}]",
        "negatives.mixture={flip: 1, rejection: 1}", "negatives.prefix.max_new_tokens=32", "pairs.min_pairs=1", "negatives.min_rubric=3",
    )  # fmt: skip
    found = {
        m: {r.problem_id: r for r in read_parquet(folder_of(run, f"negatives-{m}") / "negatives.parquet", Response)}
        for m in (*METHODS, "pns", "flip")
    }
    for rows in found.values():
        assert all(
            r.verdict and r.verdict.outcome == "wrong" and r.scores and r.scores.well_formed for r in rows.values()
        )
    assert set(found["rejection_hard"]) == set(found["rejection"])
    hard = read_parquet(folder_of(run, "negatives-rejection_hard") / "candidates.parquet", Response)
    best: dict[str, float] = {}
    for r in hard:
        if r.scores and r.scores.gate == "scored" and r.scores.reward_raw is not None:
            best[r.problem_id] = max(best.get(r.problem_id, -1e9), r.scores.reward_raw)
    assert {i: r.scores.reward_raw for i, r in found["rejection_hard"].items() if r.scores} == best
    assert set(found["fill"]) == set(found["rejection"]) | set(found["pns"])
    assert set(found["mixture"]) == set(found["flip"]) | set(found["rejection"])
    stats = json.loads((folder_of(run, "negatives-fill") / "stats.json").read_text())
    assert stats["sources"]["rejection"] == len(found["rejection"])
    chosen = {r.problem_id: r for r in read_parquet(folder_of(run, "rollouts-pairs") / "chosen.parquet", Response)}
    for method in ("prefix", "pns_prefix"):
        for identity, row in found[method].items():
            assert chosen[identity].text.startswith(row.text[: row.sampling["cut"]])
            assert row.policy_logp is not None
            assert row.source == method
    _generator_went_on(run, found["pns_prefix"])
    pairs = {m: read_parquet(folder_of(run, "pairs") / f"own-{m}.parquet", Pair) for m in METHODS}
    assert all(rows for rows in pairs.values())
    assert Counter(p.method for rows in pairs.values() for p in rows).keys() == set(METHODS)


def test_generators_with_both_goals(here: Any, smoke: Micro) -> None:
    run = smoke.copy(here.folder / "run").folder
    here(
        "run", SMOKE, "--run-dir", run, "--until", "pairs", "negatives.methods=[rejection, pns, pns_prefix]", "pairs.min_pairs=1",
        "generator.control=' plausible'", "pairs.chosen_by=generator", "negatives.min_rubric=0", "negatives.prefix.max_new_tokens=32",
        "generator.others=[{steps: 2, learning_rate: 1.0e-3}]",
    )  # fmt: skip
    assert json.loads((folder_of(run, "generator") / "control.json").read_text()) == {"control": " plausible"}
    curve = [json.loads(line) for line in (folder_of(run, "generator") / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in curve if "reward" in row]
    assert steps
    assert all({"solving/correct", "composite/scored"} <= set(row) for row in steps), "both goals in every step"
    paid = [json.loads(line) for line in (folder_of(run, "generator") / "rewards.jsonl").read_text().splitlines()]
    problems = read_parquet(folder_of(run, "problems") / "generator.parquet", Problem)
    asked = {row["problem_id"] for row in paid}
    assert asked <= {p.id for p in problems[::2]}, "every other problem is to be solved"
    statements = {p.id: p.problem for p in read_parquet(folder_of(run, "problems") / "pairs.parquet", Problem)}
    policy, first, second = (
        TransformersEngine(folder_of(run, stage) / "model") for stage in ("rlvr", "generator", "generator-2")
    )

    def logps(engine: TransformersEngine, rows: list[Response], control: str = "") -> list[float]:
        ended = [r.finish != "length" for r in rows]
        told = [statements[r.problem_id] + control for r in rows]
        return [lp for lp, _ in engine.log_probabilities(told, [r.text for r in rows], ended)]

    every = read_parquet(folder_of(run, "samples-pns") / "candidates.parquet", Response)
    assert [r.index for r in every[:8]] == [0, 1, 2, 3] * 2
    control = " plausible"
    for name, writer in (("generator", first), ("generator-2", second)):
        samples = [r for r in every if r.sampling["generator"] == name][:8]
        written_by = logps(writer, samples, control)
        assert [r.sampling["generator_logp"] for r in samples] == pytest.approx(written_by, abs=1e-3)
        assert [r.policy_logp for r in samples] == pytest.approx(logps(policy, samples), abs=1e-3)
    assert logps(first, samples, control) != pytest.approx(written_by, abs=1e-3), "they are two models"
    stats = json.loads((folder_of(run, "negatives-pns") / "stats.json").read_text())["generators"]
    assert {name: (one["n"], one["otherwise"]) for name, one in stats.items()} == {
        "generator": (64, {}), "generator-2": (64, {"steps": 2, "learning_rate": 1e-3}),
    }  # fmt: skip
    negatives = read_parquet(folder_of(run, "negatives-pns") / "negatives.parquet", Response)
    assert sum(one["selected"] for one in stats.values()) == len(negatives)
    assert written_by != pytest.approx(logps(second, samples), abs=1e-3), "it reads the control"
    own = read_parquet(folder_of(run, "rollouts-generator") / "responses.parquet", Response)
    chosen = {r.problem_id: r for r in read_parquet(folder_of(run, "rollouts-generator") / "chosen.parquet", Response)}
    assert all(r.verdict and r.verdict.outcome == "correct" for r in chosen.values())
    written = {(r.problem_id, r.text) for r in chosen.values() if r.source == "generator"}
    assert written
    assert written <= {(r.problem_id, r.text) for r in own}
    assert {r.source for r in chosen.values()} <= {"generator", "reference"}, (
        "the smoke recipe falls back to references"
    )
    for method in ("rejection", "pns", "pns_prefix"):
        for pair in read_parquet(folder_of(run, "pairs") / f"own-{method}.parquet", Pair):
            assert (pair.chosen, pair.chosen_source) == (chosen[pair.problem_id].text, chosen[pair.problem_id].source)
    begun = read_parquet(folder_of(run, "negatives-pns_prefix") / "negatives.parquet", Response)
    assert all(chosen[r.problem_id].text.startswith(r.text[: r.sampling["cut"]]) for r in begun)


def _generator_went_on(run: Path, found: dict[str, Response]) -> None:
    """log p of the prefix by the policy and of the rest by the generator, and the gates on what it wrote."""
    statements = {p.id: p.problem for p in read_parquet(folder_of(run, "problems") / "pairs.parquet", Problem)}
    policy, generator = (TransformersEngine(folder_of(run, stage) / "model") for stage in ("rlvr", "generator"))
    rows = list(found.values())
    assert rows
    asked, whole = [statements[r.problem_id] for r in rows], [r.text for r in rows]
    begun = [r.text[: r.sampling["cut"]] for r in rows]
    of_policy, of_generator = (
        [
            (all_of, first)
            for (all_of, _), (first, _) in zip(
                engine.log_probabilities(asked, whole),
                engine.log_probabilities(asked, begun, [False] * len(rows)),
                strict=True,
            )
        ]
        for engine in (policy, generator)
    )
    for r, (p, p_first), (q, q_first) in zip(rows, of_policy, of_generator, strict=True):
        assert r.policy_logp == pytest.approx(p, abs=1e-3)
        assert r.sampling["generator_logp"] == pytest.approx(p_first + q - q_first, abs=1e-3)
        assert r.scores is not None
        assert r.scores.rubric is not None
        assert r.scores.rubric.total >= 3
    assert any(abs(q - p) > 1e-3 for (p, _), (q, _) in zip(of_policy, of_generator, strict=True)), "two models"
