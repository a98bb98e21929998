"""Every objective of preference training: its loss is the one that its paper states, on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from helpers.small import save_small_model, swap
from pns.errors import UserError
from pns.problems import embedded
from pns.recipe import AlignPart, LoraPart, RuntimePart
from pns.recipe_files import load_recipe
from pns.records import Pair, write_parquet
from pns.run import read_json
from pns.sampling.engine import TransformersEngine, load_causal, load_tokenizer
from pns.stages.align import sft_chosen
from pns.stages.context import Context
from pns.training.common import over_length
from pns.training.preference import count_cut, train_preference, unpaired

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
RUNTIME = RuntimePart(checkpoint_every=50)
BETA = 0.3
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("start"))


PAIRS = [
    Pair(problem_id=p.id, method="flip", prompt=p.problem, chosen=p.solution or "", rejected=swap(p.solution or ""))
    for p in embedded.training_problems("pairs", 24, 0)
    if swap(p.solution or "") != p.solution
][:6]


def trained(start: Path, out: Path, pairs: list[Pair] = PAIRS, **part: Any) -> Rows:
    """The log of a training on one pair a step."""
    given = {"batch_size": 1, "learning_rate": 3e-3, "beta": BETA, **part}
    rows = train_preference(
        start, pairs, out, part=AlignPart(**given), runtime=RUNTIME, seed=1, progress=lambda done, total: None
    )
    return [row for row in rows if "loss" in row]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


LOSSES: dict[str, Any] = {
    "dpo": lambda c, r: -log_sigmoid(c - r),
    "robust": lambda c, r: (-0.9 * log_sigmoid(c - r) + 0.1 * log_sigmoid(r - c)) / 0.8,
    "cdpo": lambda c, r: -0.9 * log_sigmoid(c - r) - 0.1 * log_sigmoid(r - c),
    "apo_zero": lambda c, r: 1 - sigmoid(c) + sigmoid(r),
}


@pytest.mark.parametrize("objective", LOSSES)
def test_losses_with_a_reference_are_those_of_their_papers(start: Path, tmp_path: Path, objective: str) -> None:
    smoothing: dict[str, Any] = {"label_smoothing": 0.1} if objective in ("robust", "cdpo") else {}
    log = trained(start, tmp_path, objective=objective, **smoothing)
    assert len(log) == len(PAIRS)
    for row in log:
        want = LOSSES[objective](row["rewards/chosen"], row["rewards/rejected"])
        assert row["loss"] == pytest.approx(want, abs=2e-4)
    margins = [row["rewards/margins"] for row in log]
    assert margins[0] == pytest.approx(0, abs=1e-5), "the reference is the start"
    assert max(map(abs, margins)) > 0.05, "nothing to tell the objectives apart by"


def test_ipo_is_a_squared_distance_per_token(start: Path, tmp_path: Path) -> None:
    pairs = PAIRS[:1] * 4
    log = trained(start, tmp_path, pairs, objective="ipo")
    engine = TransformersEngine(start)
    (_, n), (_, m) = engine.log_probabilities([pairs[0].prompt] * 2, [pairs[0].chosen, pairs[0].rejected])
    for row in log:
        gap = row["rewards/chosen"] / BETA / n - row["rewards/rejected"] / BETA / m
        assert row["loss"] == pytest.approx((gap - 1 / (2 * BETA)) ** 2, abs=2e-3)


def test_the_nll_of_chosen_is_added_with_its_weight(start: Path, tmp_path: Path) -> None:
    pair = PAIRS[:1]
    engine = TransformersEngine(start)
    ((logp, n),) = engine.log_probabilities([pair[0].prompt], [pair[0].chosen])
    (row,) = trained(start, tmp_path, pair, nll_weight=0.7)
    assert row["loss"] == pytest.approx(math.log(2) - 0.7 * logp / n, abs=1e-3)


def test_simpo_is_a_margin_of_mean_log_probabilities_without_a_reference(start: Path, tmp_path: Path) -> None:
    pair = PAIRS[:1]
    engine = TransformersEngine(start)
    (c, n), (r, m) = engine.log_probabilities([pair[0].prompt] * 2, [pair[0].chosen, pair[0].rejected])
    (row,) = trained(start, tmp_path, pair, objective="simpo", simpo_gamma=0.2)
    # TRL's margin is gamma / beta inside beta: the paper's gamma.
    assert row["loss"] == pytest.approx(-log_sigmoid(BETA * (c / n - r / m) - 0.2), abs=1e-3)


def test_orpo_is_nll_and_the_log_odds_of_the_two_sides(start: Path, tmp_path: Path) -> None:
    pair = PAIRS[:1]
    engine = TransformersEngine(start)
    (c, n), (r, m) = engine.log_probabilities([pair[0].prompt] * 2, [pair[0].chosen, pair[0].rejected])
    c, r = c / n, r / m
    odds = c - r - (math.log1p(-math.exp(c)) - math.log1p(-math.exp(r)))
    (row,) = trained(start, tmp_path, pair, objective="orpo")
    assert row["log_odds_chosen"] == pytest.approx(odds, abs=2e-3)
    assert row["loss"] == pytest.approx(row["nll_loss"] - BETA * log_sigmoid(odds), abs=2e-3)


def test_kto_pulls_the_sides_apart_from_unpaired_rows(start: Path, tmp_path: Path) -> None:
    log = trained(start, tmp_path, PAIRS[:4], objective="kto", batch_size=4, epochs=6, rejected_weight=0.5)
    assert log[0]["loss"] == pytest.approx((4 * 0.5 + 4 * 0.5 * 0.5) / 8, abs=1e-3), "1 - s(0) on each side, weighted"
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["rewards/chosen"] > log[-1]["rewards/rejected"]


def test_kto_rows_have_no_two_sides_of_a_pair_in_a_row() -> None:
    part = AlignPart(learning_rate=1e-3, objective="kto", batch_size=3)
    rows = unpaired(PAIRS, part, 0)
    assert len(rows) == 2 * len(PAIRS)
    for start in range(0, len(rows), 6):
        batch = rows[start : start + 6]
        assert [row["label"] for row in batch] == [True] * 3 + [False] * 3
        for before, row in zip([batch[-1], *batch], batch, strict=False):
            assert before["prompt"] != row["prompt"], "the KL term needs a completion of another prompt"


def test_length_desensitised_dpo_leaves_the_longer_tail_out(start: Path, tmp_path: Path) -> None:
    """At length_alpha 0 tokens beyond the shorter side do not count: whatever follows there changes no loss."""
    one = PAIRS[0]
    tails = [f"{one.rejected}\n{tail}" for tail in (one.chosen, one.prompt)]
    pairs = [[one.model_copy(update={"rejected": text})] * 3 for text in tails]
    without, plain = (
        [[row["loss"] for row in trained(start, tmp_path / f"{name}{i}", rows, **how)] for i, rows in enumerate(pairs)]
        for name, how in (("without", {"length_alpha": 0.0}), ("plain", {}))
    )
    assert without[0] == pytest.approx(without[1], abs=1e-5)
    assert plain[0] != pytest.approx(plain[1], abs=1e-3)


def test_a_precomputed_reference_is_the_same_loss(start: Path, tmp_path: Path) -> None:
    plain = trained(start, tmp_path / "a")
    once = trained(start, tmp_path / "b", precompute_reference=True)
    assert [row["loss"] for row in once] == pytest.approx([row["loss"] for row in plain], abs=1e-4)


@pytest.mark.parametrize("objective", ["dpo", "kto", "simpo"])
def test_adapters_are_merged_into_the_published_model(start: Path, tmp_path: Path, objective: str) -> None:
    pytest.importorskip("peft")
    log = trained(start, tmp_path, objective=objective, batch_size=2, lora=LoraPart(r=4, alpha=8), epochs=2)
    if objective == "dpo":
        assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4), "the reference is the model without adapters"
    before, after = load_causal(start).state_dict(), load_causal(tmp_path / "model").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed), "adapters sit on linear layers alone"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_long_pairs_are_refused_unless_told(start: Path, tmp_path: Path) -> None:
    rows = [(p.prompt, text) for p in PAIRS for text in (p.chosen, p.rejected)]
    _, longest = over_length(load_tokenizer(start), rows, 0)
    with pytest.raises(UserError, match=rf"sides of preference pairs are longer than {longest - 2} tokens") as refused:
        trained(start, tmp_path, max_length=longest - 2)
    assert f"set align.max_length={longest} or align.cut=true (" in (refused.value.remedy or "")
    counts = count_cut(start, PAIRS, AlignPart(learning_rate=1e-3, max_length=longest - 2, cut=True))
    assert 0 < counts["chosen"] + counts["rejected"] < 2 * len(PAIRS)
    assert len(trained(start, tmp_path, max_length=longest - 2, cut=True)) == len(PAIRS)
    with pytest.raises(UserError, match=r"prompts of preference pairs are longer than 12 tokens") as refused:
        trained(start, tmp_path / "short", max_length=12, cut=True)
    assert "align.cut" not in (refused.value.remedy or ""), "it is on already"


def test_the_control_cuts_what_is_long_where_it_is_told_to(start: Path, tmp_path: Path) -> None:
    lengths = [over_length(load_tokenizer(start), [(p.prompt, p.chosen)], 0)[1] for p in PAIRS]
    limit = max(lengths) - 1
    over = lengths.count(max(lengths))
    assert over < len(PAIRS)
    (tmp_path / "rlvr").mkdir()
    (tmp_path / "rlvr" / "model").symlink_to(start)
    (tmp_path / "pairs").mkdir()
    write_parquet(tmp_path / "pairs" / "matched-flip.parquet", PAIRS)
    inputs = {name: tmp_path / name for name in ("rlvr", "pairs")}

    def control(out: Path, *overrides: str) -> None:
        recipe, _ = load_recipe(SMOKE, ["align.batch_size=2", f"align.max_length={limit}", *overrides])
        out.mkdir()
        sft_chosen(Context(recipe, "align-sft_chosen", out, inputs, lambda *_: None), "matched", "flip")

    with pytest.raises(UserError, match=rf"{over} of 6 solutions are longer than {limit} tokens") as refused:
        control(tmp_path / "refused")
    assert "or align.cut=true (" in (refused.value.remedy or "")
    control(tmp_path / "cut", "align.cut=true")
    assert read_json(tmp_path / "cut" / "stats.json") == {
        "cut": {"chosen": over},
        "warnings": [f"cut at align.max_length: {over} of 6 chosen sides lose their end, the answer with it"],
    }
    assert (tmp_path / "cut" / "model").is_dir()
    with pytest.raises(UserError, match=r"6 of 6 problems are longer than 12 tokens"):
        control(tmp_path / "short", "align.cut=true", "align.max_length=12")
    control(tmp_path / "whole", f"align.max_length={max(lengths)}", "align.cut=true")
    assert read_json(tmp_path / "whole" / "stats.json") == {"cut": {"chosen": 0}, "warnings": []}
    control(tmp_path / "plain", f"align.max_length={max(lengths)}")
    assert not (tmp_path / "plain" / "stats.json").exists(), "without cut its results are what they were"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"objective": "kto", "nll_weight": 1.0}, "nll_weight says nothing to objective: kto"),
        ({"label_smoothing": 0.1}, "label_smoothing says nothing to objective: dpo"),
        ({"objective": "cdpo"}, "needs label_smoothing above 0"),
        ({"objective": "orpo", "precompute_reference": True}, "precompute_reference says nothing"),
        ({"simpo_gamma": 1.0}, "simpo_gamma says nothing to objective: dpo"),
        ({"objective": "simpo", "length_alpha": 0.5}, "length_alpha says nothing"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AlignPart(learning_rate=1e-4, **given)


def test_the_log_is_kept(start: Path, tmp_path: Path) -> None:
    trained(start, tmp_path, objective="simpo")
    assert "loss" in json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
