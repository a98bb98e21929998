"""`pns study` and `pns iterate` as a user meets them, at the smallest size at which every stage has something to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import SMOKE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Long enough that responses have answers; nothing else is learned, and reference solutions stand in for right ones.
TINY = {
    "rlvr.steps": 2, "generator.steps": 2, "reward_model.steps": 2, "rollouts.n": 4, "problems.splits.reward": 24,
    "problems.splits.pairs": 16, "problems.benchmark_size": 2, "negatives.sample.n": 2, "evaluate.k": 1,
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    told = {
        "name": "tiny", "recipe": str(SMOKE), "set": TINY, "seeds": [1], "methods": ["rejection"],
        "controls": ["sft_chosen"], "regimes": ["matched"], "protocols": ["held"], "objectives": {"dpo": {}},
        "tuning": {"seeds": [11], "grid": {"align.learning_rate": [1.0e-5, 2.0e-5]}},
        "primary": [["rejection", "policy"]],
        **changes,
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path


def test_a_study_from_its_plan_to_its_page(here: Any) -> None:
    told = write(here.folder, audit=True)
    assert "a factor of two either way" in here("study", told, "--plan")
    assert not (here.folder / "runs").exists(), "a plan leaves nothing behind"
    said = here("study", told, "--until", "protocol")
    folder = here.folder / "runs" / "tiny"
    protocol = json.loads((folder / "protocol.json").read_text())
    assert protocol["fingerprint"] in said
    assert not list((folder / "stages").glob("*-test-*")), "the benchmarks were not looked at"
    (here.folder / "committed.json").write_text((folder / "protocol.json").read_text())

    said = here("study", told, "--protocol", "committed.json")
    assert "rejection - policy" in said
    results = json.loads((folder / "report" / "results.json").read_text())
    assert results["complete"]
    assert results["cells"]["rejection"]["settings"] == protocol["chosen"]["align"]["dpo"]["held"]
    assert results["cells"]["policy"]["kl"]["mean"] == 0
    (held_out,) = results["plausibility"]["rejection"]["heldout_auc"]["by_seed"]
    assert 0 <= held_out <= 1
    assert "<h1>" in (folder / "report" / "index.html").read_text()
    assert (folder / "report" / "samples.parquet").stat().st_size > 0

    said = here("study", told, "--report")
    assert "rejection - policy" in said
    assert "`pns study STUDY --plan`" in here("show", folder, code=2)
    other = write(here.folder, name="other", secondary=[["sft_chosen", "sft"]])
    assert "all is done" in here("study", other, "--study-dir", "other", "--store", folder, "--plan").lower()
    write(here.folder, seeds=[1, 2], audit=True)
    said = here("study", told, code=2)
    assert "the test split was opened under another protocol; what differs: seeds, cells" in said


def test_a_study_says_what_is_wrong_with_it(here: Any) -> None:
    assert "did you mean `tuning`?" in here("study", write(here.folder, tunning={}), code=2)
    assert "tuned on and tested on" in here("study", write(here.folder, seeds=[11]), code=2)
    assert "no such study" in here("study", "nowhere.yaml", code=2)
    assert "not a run directory" in here("study", write(here.folder), "--report", code=2)
    committed = Path(__file__).parents[2] / "docs" / "results" / "embedded.protocol.json"
    assert "not the protocol of this study; what differs: study," in here(
        "study", write(here.folder), "--protocol", committed, code=2
    )
    assert not (here.folder / "runs").exists()


def test_two_rounds(here: Any) -> None:
    settings = [f"{key}={value}" for key, value in TINY.items()]
    said = here("iterate", SMOKE, *settings, "--rounds", "2", "--method", "rejection", "--method", "sft_chosen")
    assert "round 2" in said
    folder = here.folder / "runs" / "smoke-rounds"
    results = json.loads((folder / "report" / "results.json").read_text())
    rejection, sft = results["rounds"]["rejection"], results["rounds"]["sft_chosen"]
    assert [row["round"] for row in rejection] == [0, 1, 2]
    assert {"before", "after"} <= set(rejection[2]["hard"])
    assert rejection[0] == sft[0], "both begin with the same policy"
    assert rejection[1]["pairs"] == sft[1]["pairs"], "the control has the pairs of rejection"
    assert rejection[1]["kl"] != sft[1]["kl"], "and learns from one side of them"
    assert [(c["a"], c["b"], c["round"]) for c in results["contrasts"]] == [
        ("rejection", "sft_chosen", n) for n in (1, 2)
    ]
    for c in results["contrasts"]:
        means = [results["rounds"][c[side]][c["round"]]["greedy"]["mean"] for side in "ab"]
        assert c["greedy"]["difference"] == pytest.approx(means[0] - means[1])
    page = (folder / "report" / "index.html").read_text()
    assert "<svg" in page
    assert "rejection - sft_chosen" in page
    assert len(list((folder / "stages").glob("s*-sft-*"))) == 1, "what both need is made once"
    assert "--seeds" in here("iterate", SMOKE, "--seeds", "1,x", code=2)
