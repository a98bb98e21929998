"""The recipes at the paper's scale, and what recipes can say for their sake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pns import fingerprints, pipeline
from pns.errors import UserError
from pns.problems.registry import BENCHMARKS, find
from pns.recipe import Recipe
from pns.recipe_files import load_recipe
from pns.stages.data import _pool

ROOT = Path(__file__).parents[2] / "recipes"
PAPER = sorted((ROOT / "paper").glob("*.yaml"))
SMOKE, FILES = ROOT / "smoke.yaml", ROOT / "smollm2-gsm8k.yaml"


@pytest.mark.parametrize("file", PAPER, ids=lambda f: f.stem)
def test_a_paper_recipe_is_valid_without_weights(file: Path) -> None:
    recipe, sources = load_recipe(file)
    assert recipe.name == file.stem
    part = recipe.problems
    assert tuple(part.benchmarks) == BENCHMARKS
    sets = [find(f) for f in part.train_file or ()]
    assert [s.name for s in sets if s] == ["gsm8k-train", "math-train"]
    assert sum(part.splits.model_dump().values()) < sum(s.rows for s in sets if s)
    assert all(part.benchmark_size >= entry.rows for f in part.benchmarks.values() if (entry := find(f)))
    assert recipe.reward_model.base is not None
    assert recipe.reward_model.base.path == "Qwen/Qwen3-4B"
    assert recipe.generator.base is not None
    assert recipe.generator.base.path == "Qwen/Qwen2.5-7B-Instruct"
    assert (recipe.engine.kind, recipe.runtime.vllm is not None) == ("vllm", True)
    assert (recipe.reward.judge, recipe.align.objective, recipe.model.kind) == ("server", "dpo", "pretrained")
    nodes = pipeline.stages(recipe)
    assert len(set(fingerprints.of_stages(recipe, nodes).values())) == len(nodes)
    assert sources["generator.beta"] == str(file)


def test_there_are_three_backbones() -> None:
    assert len({load_recipe(file)[0].model.path for file in PAPER}) == 3


def smoke(*overrides: str) -> Recipe:
    return load_recipe(SMOKE, overrides)[0]


def marks(*overrides: str) -> dict[str, str]:
    recipe = smoke(*overrides)
    return fingerprints.of_stages(recipe, pipeline.stages(recipe))


def test_what_recipes_did_not_say_before_changes_nothing_where_it_is_not_said() -> None:
    same = (
        "generator.base=null",
        "reward_model.base=null",
        "model.system_prompt=null",
        "align.gradient_accumulation=1",
    )
    assert marks(*same, "evaluate.k_of={}", "runtime.gradient_checkpointing=true") == marks()
    data = smoke().model_dump(mode="json")
    assert "base" not in json.dumps(fingerprints.of_protocol(data))
    assert fingerprints.of_protocol(data)["align"] == {
        k: v for k, v in data["align"].items() if k != "gradient_accumulation"
    }
    told = fingerprints.of_protocol(smoke("align.gradient_accumulation=2").model_dump(mode="json"))
    assert told["align"]["gradient_accumulation"] == 2


def test_other_bases_are_stages_of_their_own() -> None:
    given = ("generator.base={path: a/b}", "reward_model.base={path: c/d}")
    nodes = pipeline.stages(smoke(*given))
    assert set(nodes) - set(pipeline.stages(smoke())) == {"start-generator", "start-reward_model"}
    assert nodes["generator"].needs == ("problems", "rlvr", "start-generator", "reward_model")
    for name in ("reward_model", "audit_model"):
        assert nodes[name].needs[-1] == "start-reward_model"
    assert not {"start", "start-generator"} & set(nodes["report"].needs)
    before, after, other = marks(), marks(*given), marks(*given, "generator.base.path=e/f")
    assert {n for n in before if before[n] != after[n]} >= {"generator", "reward_model", "negatives-pns"}
    assert before["rollouts-pairs"] == after["rollouts-pairs"]
    touched = {n for n in after if after[n] != other[n]}
    assert touched >= {"start-generator", "generator", "samples-pns"}
    assert not touched & {"start-reward_model", "reward_model", "negatives-rejection"}
    assert smoke(*given).generator.start_stage == "start-generator"
    assert "start-generator" not in pipeline.stages(smoke(*given, "negatives.methods=[rejection]"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generator.base={path: a/b}", "generator.start=sft"], "says nothing beside base"),
        (["generator.base={revision: x}"], "required"),
        (["sft.steps=0"], "sft.steps: 0 and problems.splits.sft: 0 go together"),
        (["problems.splits.sft=0"], "belongs to source: jsonl"),
        (["model.system_prompt=x"], "belongs to kind: pretrained"),
        (["align.gradient_accumulation=5"], "must divide batch_size"),
        (["reward_model.gradient_accumulation=7"], "must divide batch_size"),
        (["sft.gradient_accumulation=7"], "must divide batch_size"),
        (["align.objective=kto", "align.gradient_accumulation=2"], "kto takes its KL term"),
        (["evaluate.k_of={nothing: 32}"], "no benchmark called nothing"),
        (["evaluate.k=4", "evaluate.k_of={longer: 2}"], "at least k = 4"),
    ],
)
def test_what_means_nothing_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        smoke(*overrides)


def test_no_sft_needs_a_pretrained_start() -> None:
    files = ["problems.splits.sft=0", "sft.steps=0"]
    assert load_recipe(FILES, files)[0].sft.steps == 0
    with pytest.raises(UserError, match="needs an instruct model"):
        load_recipe(FILES, [*files, "model={kind: scratch}"])


def test_small_benchmarks_may_have_more_samples() -> None:
    part = smoke("evaluate.k=2", "evaluate.k_of={longer: 8}").evaluate
    assert (part.samples("longer"), part.samples("larger"), part.samples("dev")) == (8, 2, 2)
    before, after = marks(), marks("evaluate.k_of={longer: 8}")
    assert {n for n in before if before[n] != after[n]} == {n for n in before if n.startswith("evaluate-")} | {"report"}


def test_one_training_file_is_dumped_as_it_was_written() -> None:
    one = load_recipe(FILES, ["problems.train_file=gsm8k-train"])[0].problems
    assert one.model_dump(mode="json")["train_file"] == "gsm8k-train"
    two = load_recipe(FILES, ["problems.train_file=[gsm8k-train, math-train]"])[0]
    dumped = two.model_dump(mode="json")
    assert dumped["problems"]["train_file"] == ["gsm8k-train", "math-train"]
    assert Recipe.model_validate(dumped) == two
    with pytest.raises(UserError, match="without repeats"):
        load_recipe(FILES, ["problems.train_file=[gsm8k-train, gsm8k-train]"])
    with pytest.raises(UserError, match="needs train_file"):
        load_recipe(FILES, ["problems.train_file=[]"])


def test_several_training_files_are_one_pool_and_an_id_stands_once(tmp_path: Path) -> None:
    def file(name: str, *ids: str) -> Path:
        rows = [{"id": i, "problem": f"How much is {i}?", "answer": "1"} for i in ids]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    a, b, c = file("a.jsonl", "1", "2"), file("b.jsonl", "3"), file("c.jsonl", "4", "2")
    assert [p.id for p in _pool([a, b], [])] == ["1", "2", "3"]
    with pytest.raises(UserError, match="the id '2' stands in") as caught:
        _pool([a, b, c], [])
    assert (caught.value.file, caught.value.field) == (c, "problems.train_file")
