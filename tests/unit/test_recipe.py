"""Recipes: what is refused and with which words, overrides, where values come from, and the recipes of the repository."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pns.errors import UserError
from pns.recipe import Part, Recipe, RewardPart
from pns.recipe_files import kind_of, load_recipe, load_reward
from pns.study.spec import load_study

RECIPES = Path(__file__).parents[2] / "recipes"
RULE = "change what it names; `pns recipe recipes/embedded.yaml` lists every key of a recipe"
SMALL: dict[str, Any] = {
    "name": "small",
    "problems": {"splits": dict.fromkeys(("sft", "rlvr", "reward", "audit", "generator", "pairs", "dev"), 8)},
    "sft": {"steps": 2},
    "rlvr": {"steps": 2, "prompts_per_step": 4, "learning_rate": 1e-4},
    "reward_model": {"steps": 2},
    "generator": {"steps": 2, "prompts_per_step": 4, "learning_rate": 1e-4},
    "pairs": {"n": 4},
    "align": {"learning_rate": 1e-5},
}


def put(data: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `data` with a dotted key set, or removed where the value is `...`."""
    data = node = copy.deepcopy(data)
    *parents, last = key.split(".")
    for name in parents:
        node = node.setdefault(name, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def refused(path: Path, data: dict[str, Any] | str, *overrides: str) -> UserError:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("sead", 1, "`seed`"),
        ("align.bata", 0.1, "`align.beta`"),
        ("alignment", {"beta": 1}, "`align`"),
        ("problems.splits.pears", 3, "`problems.splits.pairs`"),
        ("negatives.sample.temprature", 1.0, "`negatives.sample.temperature`"),
        ("learning_rate", 0.1, "learning_rate`"),  # known under other parts only
        ("align.num_generations", 4, "num_generations`"),
        ("qqqqqq", 1, "keys here: name, about, seed, problems"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(file: Path, key: str, value: Any, near: str) -> None:
    error = refused(file, put(SMALL, key, value))
    assert (error.file, error.field, error.message) == (file, key, "unknown key")
    assert near in (error.remedy or "")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", "many", "must be a whole number, got 'many'"),
        ("seed", -1, "must be at least 0"),
        ("align.beta", 0, "must be above 0"),
        ("align.learning_rate", "fast", "must be a number"),
        ("sft.steps", 1.5, "must be a whole number"),
        ("problems.splits", [1, 2], "must hold keys, got [1, 2]"),
        ("problems.misread_share", 1, "must be below 1"),
        ("negatives.methods", ["pns", "pns"], "without repeats"),
        ("negatives.methods", [], "non-empty"),
        ("negatives.methods", ["guess"], "'mixture' or 'fill'"),
        ("name", "../up", "must be letters, digits"),
        ("negatives.methods", "rejection", "must be a list, got 'rejection'"),
        ("align", 3, "must hold keys, got 3"),
        ("align.beta", {"x": 1}, "holds a value, not keys"),
        ("align.lora.target_modules", 3, "must be a list or 'all-linear', got 3"),
        ("model.heads", 5, "multiple of heads"),
        ("pairs.min_pairs", 1000, "can never be met"),
        ("generator.micro_batch", 3, "micro_batch must divide"),
        ("reward.answer_format", "gsm8k", "boxed"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(file: Path, key: str, value: Any, words: str) -> None:
    error = refused(file, put(SMALL, key, value))
    assert words in error.message
    assert error.file == file
    # A rule over several keys is blamed on their part, an item of a list on its place in the list.
    assert error.field in (key, f"{key}.0", key.rpartition(".")[0] or None, None)
    assert (error.field or key.split(".")[-1]) in str(error)


@pytest.mark.parametrize("key", ["name", "problems", "sft.steps", "align.learning_rate", "problems.splits.audit"])
def test_a_missing_key_is_named(file: Path, key: str) -> None:
    error = refused(file, put(SMALL, key, ...))
    assert (error.field, error.message) == (key, "this key is required")
    assert f"`{key}: ...`" in (error.remedy or "")


def test_several_faults_are_counted(file: Path) -> None:
    assert "(and 1 more)" in refused(file, put(put(SMALL, "sead", 1), "align.bata", 1)).message


@pytest.mark.parametrize("value", ["2020-13-45", "9" * 5000])
def test_values_that_python_cannot_hold_are_told_plainly(file: Path, value: str) -> None:
    assert "not valid YAML" in refused(file, f"name: x\nseed: {value}\n").message


def test_broken_yaml_is_named_with_its_line(file: Path) -> None:
    error = refused(file, "name: x\nseed: 1\nsft: {steps: 1\nrlvr: 3\n")
    assert error.line in (3, 4)
    assert "not valid YAML" in error.message
    assert str(error).startswith(f"{file}:{error.line}: ")
    assert "mapping" in refused(file, "- a\n- b\n").message
    assert "mapping" in refused(file, "").message


def test_a_key_that_stands_twice_is_named_with_its_line(file: Path) -> None:
    error = refused(file, "name: a\nalign:\n  beta: 0.1\n  beta: 0.2\n")
    assert (error.line, "the key 'beta' stands twice" in error.message) == (4, True)
    anchored = "base: &b {beta: 0.1}\nalign:\n  <<: *b\n  beta: 0.2\n"
    assert "stands twice" not in refused(file, anchored).message, "a merge may be overridden"


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "0.5"])
def test_the_penalty_is_a_finite_number_and_no_reward(file: Path, value: str) -> None:
    error = refused(file, SMALL, f"reward.malformed={value}")
    assert (error.file, error.field) == ("override", "reward.malformed")


def test_a_fault_of_file_and_override_together_names_both(file: Path) -> None:
    error = refused(file, put(SMALL, "reward.malformed", -1.0), "reward.judge=nope")
    assert str(error.file) == f"{file} with overrides"


def test_a_missing_recipe_says_what_is_there(file: Path) -> None:
    with pytest.raises(UserError, match="no such recipe") as caught:
        load_recipe(file.with_name("smal.yaml"))
    assert "small.yaml" in (caught.value.remedy or "")
    with pytest.raises(UserError, match="no such recipe") as caught:
        load_recipe(file.parent / "none" / "a.yaml")
    assert caught.value.remedy == "check the path; ours are under recipes/"
    (file.parent / "empty").mkdir()
    (file.parent / "empty" / ".hidden.yaml").touch()
    with pytest.raises(UserError, match="no such recipe") as caught:
        load_recipe(file.parent / "empty" / "a.yaml")
    assert caught.value.remedy == "check the path; ours are under recipes/", "what is hidden is no recipe"


def test_overrides_are_yaml_values_under_dotted_keys(file: Path) -> None:
    recipe, _ = load_recipe(
        file, ["align.beta=0.25", "negatives.methods=[pns, flip]", "about=a=b", "rollouts={n: 3}", "seed=7"]
    )
    assert (recipe.align.beta, recipe.seed, recipe.about, recipe.rollouts.n) == (0.25, 7, "a=b", 3)
    assert recipe.negatives.methods == ("pns", "flip")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("align.beta", "not key=value"),
        ("=3", "not key=value"),
        ("seed.deep=3", "holds a value"),
        ("about=[1", "not valid YAML"),
        ("about=2020-13-45", "not valid YAML"),
        ("seed=" + "9" * 5000, "not valid YAML"),
        ("seed=soon", "a whole number"),
        ("align.bata=0.1", "unknown key"),
        ("algin.beta=0.1", "did you mean `align`?"),
    ],
)
def test_a_bad_override_is_blamed_on_the_override(file: Path, text: str, words: str) -> None:
    error = refused(file, put(SMALL, "seed", 1), text)
    assert words in str(error)
    assert error.file == "override"


def test_each_value_says_where_it_comes_from(file: Path) -> None:
    _, sources = load_recipe(file, ["align.beta=0.2", "rollouts={n: 4}"])
    assert sources["align.learning_rate"] == str(file)
    assert sources["align.beta"] == sources["rollouts.n"] == "override"
    assert sources["rollouts.temperature"] == sources["seed"] == "default"
    assert "problems.splits.pairs" in sources


@pytest.mark.parametrize("part", ["rlvr", "generator"])
def test_grpo_makes_a_single_pass(file: Path, part: str) -> None:
    load_recipe(file, [f"{part}.prompts_per_step=4", f"{part}.steps=2"])
    error = refused(file, put(SMALL, f"{part}.steps", 3))
    assert f"{part}.steps x {part}.prompts_per_step = 12" in error.message
    assert f"problems.splits.{part} is 8" in error.message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reinforce.learning_rate=1e-3"], "reinforce.learning_rate says nothing to references: [rlvr_more]"),
        (["reinforce.positive_weight=0.2"], "or add w_reinforce to references"),
        (["references=[nsr]", "reinforce.positive_weight=0.2"], "reinforce.positive_weight says nothing to references: [nsr]"),
        (["references=[]", "reinforce.learning_rate=1e-3"], "leave it out, or add nsr or w_reinforce"),
        (["references=[nsr, nsr]"], "without repeats"),
        (["references=[psr]"], "'rlvr_more', 'nsr' or 'w_reinforce'"),
        (["references=[w_reinforce]", "reinforce.positive_weight=0"], "must be above 0"),
        (["references=[nsr]", "reinforce.learning_rate=0"], "must be above 0"),
    ],
)  # fmt: skip
def test_references_and_their_keys_go_together(file: Path, overrides: list[str], words: str) -> None:
    assert words in refused(file, SMALL, *overrides).message


def test_the_references_of_a_recipe_that_names_none_are_as_they_were(file: Path) -> None:
    assert load_recipe(file)[0].references == ("rlvr_more",)
    given = load_recipe(
        file, ["references=[nsr, w_reinforce]", "reinforce={learning_rate: 1e-5, positive_weight: 0.2}"]
    )[0]
    assert (given.references, given.reinforce.learning_rate) == (("nsr", "w_reinforce"), 1e-5)
    assert given.reinforce.positive_weight == 0.2
    assert load_recipe(file, ["references=[w_reinforce]"])[0].reinforce.positive_weight == 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "jsonl"}, "needs train_file and benchmarks"),
        ({"source": "jsonl", "train_file": "a.jsonl"}, "needs train_file and benchmarks"),
        ({"train_file": "a.jsonl"}, "belong to source: jsonl"),
        (
            {"source": "jsonl", "train_file": "a.jsonl", "benchmarks": {"b": "b.jsonl"}, "misread_share": 0.1},
            "belong to source: embedded",
        ),
    ],
)
def test_sources_and_files_go_together(file: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refused(file, {**SMALL, "problems": {**SMALL["problems"], **changes}}).message


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"kind": "pretrained"}, "needs path or gguf_package"),
        ({"path": "a"}, "belong to kind: pretrained"),
        ({"kind": "pretrained", "gguf_package": "a"}, "needs gguf_file"),
    ],
)
def test_kinds_of_models_and_their_places_go_together(file: Path, model: dict[str, Any], words: str) -> None:
    assert words in refused(file, {**SMALL, "model": model}).message


@pytest.mark.parametrize("path", sorted(set(RECIPES.glob("*.yaml")) - {RECIPES / "reward.yaml"}), ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNS_DATA", "somewhere")
    recipe, sources = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.about
    assert "pns" in recipe.negatives.methods
    assert {str(path)} < set(sources.values())


def test_data_folders_come_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = {**SMALL["problems"], "source": "jsonl", "train_file": "$PNS_DATA/a", "benchmarks": {"b": "${PNS_DATA}/b"}}
    file.write_text(yaml.safe_dump({**SMALL, "problems": data}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PNS_DATA", raising=False)
    with pytest.raises(UserError, match="PNS_DATA is not set"):
        load_recipe(file)
    monkeypatch.setenv("PNS_DATA", "/data")
    part = load_recipe(file)[0].problems
    assert (part.train_file, part.benchmarks) == ((Path("/data/a"),), {"b": Path("/data/b")})


@pytest.mark.parametrize(
    ("part", "key", "value", "line", "remedy"),
    [
        ("align", "beta", -1, True, "change it; its meaning: of the loss; for ipo its tau, for orpo its lambda (default 0.1)"),
        ("align", "bata", 1, True, "did you mean `align.beta`?"),
        ("generator", "steps", 0, True, "change it; `pns recipe recipes/embedded.yaml` lists every key of a recipe"),
        ("negatives", "methods", "flip", True, "write `negatives.methods: [flip]`"),
        ("negatives", "methods", ["pns", "pns"], False, RULE),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line_and_what_the_key_means(
    file: Path, part: str, key: str, value: Any, line: bool, remedy: str
) -> None:
    file.write_text(yaml.safe_dump({**SMALL, part: {**SMALL.get(part, {}), key: value}}, sort_keys=False))
    lines = file.read_text().splitlines()
    at = next(i for i, text in enumerate(lines, 1) if text.startswith(f"{part}:"))
    if line:  # of the key itself, else of the part whose rule it is
        at = next(i for i, text in enumerate(lines, 1) if i > at and text.strip().startswith(f"{key}:"))
    with pytest.raises(UserError) as caught:
        load_recipe(file)
    assert (caught.value.line, caught.value.remedy) == (at, remedy)
    assert str(caught.value).startswith(f"{file}:{at}: {part}")


def test_a_missing_key_is_told_at_its_part_and_an_override_has_no_line(file: Path) -> None:
    file.write_text(yaml.safe_dump({**SMALL, "align": {}}, sort_keys=False))
    with pytest.raises(UserError) as caught:
        load_recipe(file)
    at = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if text.startswith("align:"))
    assert (caught.value.line, caught.value.field) == (at, "align.learning_rate")
    file.write_text(yaml.safe_dump(SMALL))
    with pytest.raises(UserError) as caught:
        load_recipe(file, ["align.beta=-1"])
    assert (caught.value.file, caught.value.line) == ("override", None)


@pytest.mark.parametrize(
    ("override", "field", "words"),
    [
        ("align={beta: 1}", "align.learning_rate", "override: "),
        ("pairs.chosen_by=generator", None, "with overrides: pairs.chosen_by"),
        ("'[x]'=1", "'[x]'", "unknown key"),
        ("align.[beta]=1", "align.[beta]", "did you mean `align.beta`"),
        ("negatives.methods=rejection", "negatives.methods", "-> write 'negatives.methods=[rejection]'"),
        (
            "align.beta.x=1",
            "align.beta",
            "holds a value, not keys\n  -> write `align.beta: ...`; its meaning: of the loss",
        ),
        ("zzzzzz=1", "zzzzzz", "keys here: name, about, seed"),
    ],
)
def test_an_override_is_named_as_the_place(file: Path, override: str, field: str | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(file, [override])
    assert (caught.value.field, caught.value.line, words in str(caught.value)) == (field, None, True)


def test_an_alias_inside_what_it_names_is_refused(file: Path) -> None:
    file.write_text("x: &a {b: *a}\n")
    with pytest.raises(UserError, match="an alias stands inside what it names"):
        load_recipe(file)


def test_the_reward_alone_is_a_recipe_for_scoring(tmp_path: Path, file: Path) -> None:
    alone = tmp_path / "reward.yaml"
    alone.write_text("name: mine\nreward: {answer_format: gsm8k}\n")
    assert load_reward(alone).answer_format == "gsm8k"
    assert load_reward(alone, ["reward.weight_judge=0.1"]).weight_judge == 0.1
    assert load_reward(file) == RewardPart()
    # Training refuses this format; scoring does not train.
    assert load_reward(file, ["reward.answer_format=gsm8k"]).answer_format == "gsm8k"
    assert load_reward(RECIPES / "reward.yaml") == RewardPart()
    with pytest.raises(UserError, match="holds the reward alone"):
        load_recipe(alone)


@pytest.mark.parametrize(
    ("text", "override", "field", "words"),
    [
        ("name: x", None, "reward", "add `reward"),
        ("rewad: {}", None, "rewad", "did you mean `reward`"),
        ("reward: {judje: steps}", None, "reward.judje", "did you mean `reward.judge`"),
        ("reward: {judge: 5}", None, "reward.judge", "change it"),
        ("reward: {judge: server, judge_server: {sever: {url: x}}}", None, "reward.judge_server.sever", "judge_server.server`"),
        ("reward: {}", "align.beta=1", "align", "keys here: name, about, reward"),
        ("reward: 3", None, "reward", "write keys under it: answer_format, "),
        (None, "align.bata=1", "align.bata", "did you mean `align.beta`"),
        (None, "reward=1", "reward", "write keys under it: answer_format, "),
    ],
)  # fmt: skip
def test_load_reward_refuses_with_the_nearest_key(
    file: Path, tmp_path: Path, text: str | None, override: str | None, field: str, words: str
) -> None:
    if text is not None:
        file = tmp_path / "reward.yaml"
        file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_reward(file, [override] if override else [])
    assert (caught.value.field, words in (caught.value.remedy or "")) == (field, True)


STUDIES = RECIPES.parent / "studies"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_a_study_in_place_of_a_recipe_is_told_with_its_command(path: Path) -> None:
    for load in (load_recipe, load_reward):
        with pytest.raises(UserError, match=r"is a study, and a re\w+ is asked for") as caught:
            load(path)
        assert (caught.value.file, caught.value.field) == (path, None)
        assert f"`pns study {path} --plan`" in str(caught.value.remedy)
        assert "its recipe is recipes/" in str(caught.value.remedy)


@pytest.mark.parametrize("path", sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("paper/*")]), ids=lambda p: p.stem)
def test_a_recipe_in_place_of_a_study_is_told_with_its_command(path: Path) -> None:
    alone = path.stem == "reward"
    said = "holds the reward alone" if alone else "is a recipe"
    with pytest.raises(UserError, match=f"{said}, and a study is asked for") as caught:
        load_study(path)
    assert ("`pns score`" if alone else f"`pns run {path}`") in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["recipe", "align"], "study"),  # a key of the recipe's in a study is a fault of that study
        (["name", "tuning", "seeds"], "study"),  # one that has lost its recipe
        (["name", "problems", "seeds"], "recipe"),
        (["name", "uses"], None),
        ([], None),
        (["reward", "name"], "reward"),
        (["reward", "align"], "recipe"),
    ],
)
def test_what_a_file_holds_is_told_by_its_keys(keys: list[str], kind: str | None) -> None:
    assert kind_of(dict.fromkeys(keys)) == kind


@pytest.mark.parametrize("bad", ["zz", -1, 1.5, [], ["a"], [None], {"x": 1}, {1: 2}, None, 10**30, ""])
def test_no_fault_is_told_in_words_of_pydantic(file: Path, bad: Any) -> None:
    told = []
    for name, part in Recipe.model_fields.items():
        inner = (
            part.annotation.model_fields
            if isinstance(part.annotation, type) and issubclass(part.annotation, Part)
            else {}
        )
        for key in (name, *(f"{name}.{below}" for below in inner)):
            file.write_text(yaml.safe_dump(put(SMALL, key, bad)))
            try:
                load_recipe(file)
            except UserError as error:
                told.append(str(error))
    assert told
    assert not [
        text for text in told if re.search(r"Input should|valid dict|Tuple|String should|validation|Part\b", text)
    ]
