"""A study: what it may be told, its cells, the tasks that they share, tuning, the protocol, the plan."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.study import ROOT, SMALL, recipes, study_file
from pns import fingerprints, pipeline
from pns.errors import UserError
from pns.problems.families import BENCHMARKS as EMBEDDED
from pns.recipe_files import load_recipe
from pns.report.rounds import table_of
from pns.run import Run, fingerprint, read_json, write_json
from pns.scheduler import Task
from pns.study import protocol as protocols
from pns.study.cells import Cell, Recipes, Tuned, add_cell, add_extras, cells, check_contrasts
from pns.study.family import unnamed_family
from pns.study.graph import Graph
from pns.study.iterate import add_all
from pns.study.modelled import CostModel
from pns.study.plan import plan, units
from pns.study.rounds import IteratedMethod, add_rounds, aligned_by, for_rounds
from pns.study.spec import combinations, load_study, with_settings
from pns.study.tuning import Trial, add_step, choose

IPO = {"set": {"align.objective": "ipo"}}


def refused(folder: Path, **changes: Any) -> str:
    try:
        path = study_file(folder, **changes)
        told = load_study(path)
        check_contrasts(told, path)
        Recipes(told, path)
    except UserError as error:
        return str(error)
    pytest.fail("it was taken")


def tuning(**changes: Any) -> dict[str, Any]:
    return {**SMALL["tuning"], **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, "did you mean `seeds`?"),
        ({"seeds": [1, 11]}, "seeds [11] are tuned on and tested on"),
        ({"seeds": [1, 1]}, "small.yaml:3: seeds: 1 stands there twice"),
        ({"seeds": [1, -2]}, "small.yaml:3: seeds: a seed is a whole number from 0"),
        ({"tuning": tuning(seeds=[11, 11])}, "tuning.seeds: 11 stands there twice"),
        ({"tuning": tuning(seeds=[-1])}, "tuning.seeds: a seed is a whole number from 0"),
        ({"methods": ["pns", "pns", "rejection"]}, "methods: pns stands there twice"),
        ({"methods": ["pms"]}, "did you mean `pns`?"),
        ({"controls": ["sft_chosen", "sft_chosen"]}, "controls: sft_chosen stands there twice"),
        ({"controls": ["foo"]}, "'sft_chosen', 'sft_each', 'rlvr_more', 'nsr' or 'w_reinforce'"),
        ({"regimes": ["own", "own"]}, "regimes: own stands there twice"),
        ({"protocols": ["held", "held"]}, "protocols: held stands there twice"),
        ({"primary": [["pns", "pns"]]}, "primary: pns is contrasted with itself"),
        ({"primary": [["pns", "policy"], ["pns", "policy"]]}, "primary: pns and policy are contrasted twice"),
        ({"secondary": [["pns", "sft"], ["sft", "pns"]]}, "secondary: pns and sft are contrasted twice"),
        ({"secondary": [["policy", "pns"]]}, "secondary: policy and pns are a primary contrast already"),
        ({"primary": [["pns"]]}, "primary.0: an item is missing\n  -> add it; its meaning: contrasts of cells (a, b)"),
        ({"tuning": tuning(grid={"sft.steps": [1, 2]})}, "only keys of align are tuned"),
        ({"tuning": tuning(grid={"align.beta": [0.1, 0.1]})}, "align.beta needs a non-empty list of different values"),
        ({"tuning": tuning(negatives={"pns": {"rlvr.steps": [1, 2]}})}, "is no key of generator, negatives or reward"),
        ({"tuning": tuning(negatives={"flip": {"negatives.select": ["best"]}})}, "names methods of the study"),
        ({"tuning": tuning(held_on="flip")}, "tuning.held_on: flip is not among methods"),
        (
            {"tuning": tuning(seeds=[], grid={"align.beta": [0.1, 0.2]})},
            "tuning.grid has combinations to choose from, and tuning.seeds names no seed",
        ),
        (
            {
                "tuning": tuning(negatives={"pns_prefix": {"generator.beta": [0.1]}}),
                "methods": ["rejection", "pns_prefix"],
            },
            "its generator is that of pns",
        ),
        ({"primary": [["pns", "flip"]]}, "primary: no cell called 'flip'"),
        ({"set": {"negatives.methods": ["flip"]}}, "leave it out: `methods` says it"),
        ({"set": {"align.betta": 1}}, "set.align.betta: unknown key\n  -> did you mean `align.beta`?"),
        ({"set": {"seed": 3}}, "set.seed: the study sets this itself\n  -> leave it out: `seeds` says it"),
        ({"set": {"negatives": {"methods": ["flip"]}}}, "leave it out: `methods` says it"),
        (
            {"ablations": {"seeds": [1], "switches": {"x": {"set": {"seed": 3}}}}},
            "ablations.switches.x.set.seed: the study sets",
        ),
        ({"set": {"align.beta": -1}}, "align.beta"),
        ({"recipe": "nowhere.yaml"}, "no such recipe"),
        ({"ablations": {"seeds": [4], "switches": {}}}, "ablations.seeds must be among seeds"),
        ({"ablations": {"switches": {"a": {"set": {"align.beta": 1}}}}}, "ablations need ablations.seeds"),
        ({"ablations": {"seeds": [1], "controls": ["sft_chosen"]}}, "not in both"),
        ({"objectives": {"ipo": {"set": {"sft.steps": 3}}}}, "only keys of align belong to an objective"),
        ({"objectives": {"dpo": {"grit": 3}}}, "did you mean `objectives.dpo.grid`"),
        ({"objectives": {"dpo": 3}}, "write keys under it: regimes, protocols, set, grid, methods"),
        ({"objectives": {"dpo": {"grid": 3}}}, "change it; its meaning: in place of tuning.grid"),
        (
            {"objectives": 3},
            "objectives: must hold keys, got 3\n  -> change it; its meaning: a name, and under it what it sets",
        ),
        ({"limits": {"foo": {}}}, "-> write one of them"),
        ({"limits": {"rejektion": {}}}, "-> did you mean `rejection`?"),
        ({"wxyz": 3}, "keys here: name, about, recipe"),
        (
            {"objectives": {"dpo": {}, "ipo": {}}},
            "objectives.ipo: named after a loss, and trained with another (align.objective: dpo)",
        ),
        (
            {"objectives": {"dpo": IPO}},
            "objectives.dpo: named after a loss, and trained with another (align.objective: ipo)",
        ),
        ({"objectives": {"ipo": {}}}, "write `ipo: {set: {align.objective: ipo}}`, or give it another name"),
        (
            {"objectives": {"dpo": {"grid": {"align.objective": ["dpo", "ipo"]}}}},
            "trained with another (align.objective: ipo)",
        ),
        (
            {"objectives": {"dpo": {}, "large": {"set": {"align.epochs": 1}}}},
            "objectives.large: the same as dpo in all settings",
        ),
        (
            {"objectives": {"dpo": {}, "large": {"grid": {**SMALL["tuning"]["grid"], "align.beta": [0.2, 0.1]}}}},
            "leave one of them out",
        ),
        (
            {"tuning": tuning(grid={"align.bata": [0.1, 0.2]})},
            "tuning.grid.align.bata: unknown key\n  -> did you mean `align.beta`?",
        ),
        ({"tuning": tuning(grid={"align.beta": [0.1, -1]})}, "small.yaml:16: tuning.grid.align.beta: "),
        ({"objectives": {"dpo": {"set": {"align.bata": 1}}}}, "objectives.dpo.set.align.bata: unknown key"),
        ({"objectives": {"I P O": {}}}, "names are small letters, digits and _"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refused(tmp_path, **changes)


def test_what_else_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in SMALL.items() if k not in ("objectives", "tuning")}))
    with pytest.raises(UserError, match="objectives: this key is required, and so is tuning\n"):
        load_study(path)


def test_without_a_grid_there_is_nothing_to_choose(tmp_path: Path) -> None:
    assert recipes(tmp_path, tuning={"seeds": []}).study.tuning.grid == {}


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (["pairs"], "rollouts-generator is needed, and the other stages' recipe has none"),
        (["pears"], "no stage called pears"),
    ],
)
def test_where_a_switch_cannot_be_is_told(tmp_path: Path, at: list[str], words: str) -> None:
    switch = {"set": {"pairs.chosen_by": "generator"}, "at": at}
    found = recipes(tmp_path, set={"generator.control": " x"}, ablations={"seeds": [1], "switches": {"own": switch}})
    with pytest.raises(UserError, match=words) as caught:
        add_cell(Graph(), found, cells(found.study)["pns@own"], 1, Tuned(), {})
    assert caught.value.field == "ablations.switches.own.at"
    assert "without `at`" in (caught.value.remedy or "")


def test_an_objective_may_be_named_after_a_loss_that_the_study_sets(tmp_path: Path) -> None:
    assert recipes(tmp_path, set=IPO["set"], objectives={"ipo": {}, "large": {"set": {"align.epochs": 2}}})
    needs = {"set": {"align.objective": "robust"}, "grid": {"align.label_smoothing": [0.1, 0.2]}}
    assert recipes(tmp_path, objectives={"dpo": {}, "robust": needs}), "its grid says what the loss needs"


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_study_of_the_repository_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    told = load_study(path)
    assert told.name == path.stem
    check_contrasts(told, path)
    for cell in cells(told).values():
        add_cell(Graph(), Recipes(told, path), cell, cell.seeds[0], Tuned(), {})


def test_cells_are_named_by_what_differs(tmp_path: Path) -> None:
    found = cells(
        recipes(tmp_path, objectives={"dpo": {}, "ipo": {**IPO, "regimes": ["matched"], "protocols": ["held"]}}).study
    )
    assert list(found)[:2] == ["policy", "sft"]
    assert {"pns", "pns/own", "pns/each", "pns/own/each", "pns/ipo", "sft_chosen/own"} <= set(found)
    assert "pns/ipo/own" not in found
    assert found["pns/own/each"].stage == "align-pns-own"
    limited = cells(recipes(tmp_path, limits={"rejection": {"regimes": ["matched"]}}).study)
    assert "rejection/each" in limited
    assert not any(n.startswith("rejection/own") for n in limited)


def keys_of(graph: Graph, name: str) -> dict[str, str]:
    """stage -> task of all that a task rests on."""
    todo, out = [name], dict[str, str]()
    while todo:
        task = graph.tasks[(key := todo.pop())]
        out[task.stage.name] = key
        todo += task.needs.values()
    return out


def cell_keys(found: Recipes, graph: Graph, name: str, seed: int = 1, tuned: Tuned | None = None) -> dict[str, str]:
    align = {"align.learning_rate": 1e-5}
    return keys_of(graph, add_cell(graph, found, cells(found.study)[name], seed, tuned or Tuned(), align))


def test_cells_of_a_seed_share_everything_before_the_alignment(tmp_path: Path) -> None:
    found, graph = recipes(tmp_path), Graph()
    a, b = cell_keys(found, graph, "pns"), cell_keys(found, graph, "rejection/own")
    for stage in ("sft", "rlvr", "generator", "rollouts-pairs", "reward_model", "pairs"):
        assert a[stage] == b[stage]
    other = cell_keys(found, graph, "pns", seed=2)
    assert not set(other.values()) & set(a.values()), "every seed runs its own from the problems on"
    assert cell_keys(found, graph, "pns/each")["test-align-pns-matched"] == a["test-align-pns-matched"], (
        "equal settings are one cell"
    )
    order = list(graph.tasks)
    for key, task in graph.tasks.items():
        assert all(order.index(need) < order.index(key) for need in task.needs.values())


def test_tasks_have_the_fingerprints_of_a_run(tmp_path: Path) -> None:
    found, graph = recipes(tmp_path), Graph()
    keys = cell_keys(found, graph, "pns")
    recipe = with_settings(found.of(1), {"align.learning_rate": 1e-5})
    marks = fingerprints.of_stages(recipe, pipeline.stages(recipe))
    shared = set(keys) & set(marks)
    assert {"sft", "generator", "align-pns-matched"} <= shared
    assert all(graph.tasks[keys[stage]].mark == marks[stage] for stage in shared)


def test_how_a_method_makes_its_negatives_touches_no_other_method(tmp_path: Path) -> None:
    found, graph = recipes(tmp_path), Graph()
    plain = cell_keys(found, graph, "pns")
    tuned = cell_keys(found, graph, "pns", tuned=Tuned(negatives={"pns": {"generator.beta": 0.7}}))
    assert {s for s in plain if plain[s] != tuned[s]} == {
        "generator", "samples-pns", "negatives-pns", "pairs", "align-pns-matched", "test-align-pns-matched",
    }  # fmt: skip
    assert graph.tasks[tuned["generator"]].recipe.generator.beta == 0.7
    gates = cell_keys(found, graph, "pns", tuned=Tuned(negatives={"pns": {"negatives.min_rubric": 5}}))
    assert gates["samples-pns"] == plain["samples-pns"], "other gates need no new samples"
    assert gates["negatives-pns"] != plain["negatives-pns"]


def test_how_many_generators_there_are_may_be_tuned_and_switched(tmp_path: Path) -> None:
    two = {"generator.others": [{"beta": 0.5}], "negatives.sample.n": 2}
    switches = {"other": {"set": {"generator.others": [{"beta": 0.9}]}, "at": ["generator-2"]}}
    found, graph = recipes(tmp_path, ablations={"seeds": [1], "switches": switches}), Graph()
    plain = cell_keys(found, graph, "pns/own")
    tuned = cell_keys(found, graph, "pns/own", tuned=Tuned(negatives={"pns": two}))
    assert "generator-2" not in plain
    assert tuned["generator"] == plain["generator"]
    assert graph.tasks[tuned["samples-pns"]].needs["generator-2"] == tuned["generator-2"]
    switched = cell_keys(found, graph, "pns@other", tuned=Tuned(negatives={"pns": two}))
    parts = [graph.tasks[keys["generator-2"]].recipe.generator.of("generator-2") for keys in (tuned, switched)]
    assert [part.beta for part in parts] == [0.5, 0.9]
    assert switched["generator"] == plain["generator"]
    assert units(graph.tasks[tuned["generator-2"]]) == units(graph.tasks[plain["generator"]])
    with pytest.raises(UserError, match="no stage called generator-2"):
        cell_keys(
            recipes(
                tmp_path,
                ablations={"seeds": [1], "switches": {"x": {**switches["other"], "set": {"generator.beta": 0.9}}}},
            ),
            Graph(),
            "pns@x",
        )


def test_a_switch_everywhere_stands_above_what_was_tuned(tmp_path: Path) -> None:
    switches = {"kl_0": {"set": {"generator.beta": 0.0}}}
    found, graph = recipes(tmp_path, ablations={"seeds": [1], "switches": switches}), Graph()
    tuned = Tuned(negatives={"pns": {"generator.beta": 0.7}})
    plain, switched = (cell_keys(found, graph, name, tuned=tuned) for name in ("pns/own", "pns@kl_0"))
    betas = [graph.tasks[keys["generator"]].recipe.generator.beta for keys in (plain, switched)]
    assert betas == [0.7, 0.0]


def test_regimes_may_stand_in_any_order(tmp_path: Path) -> None:
    found, graph = recipes(tmp_path, regimes=["own", "matched"], tuning={**SMALL["tuning"], "regime": "own"}), Graph()
    assert found.base.pairs.regimes == ("matched", "own")
    keys = cell_keys(found, graph, "sft_chosen/matched")
    assert graph.tasks[keys["align-sft_chosen"]].stage.args == (), "the first regime of the recipe: matched"
    assert {"pns", "pns/matched"} <= set(cells(found.study)), "names follow the study's own order"
    words = refused(tmp_path, regimes=["own"], tuning={**SMALL["tuning"], "regime": "own"}, uses=["reward_model"])
    assert "add matched to regimes" in words
    with pytest.raises(UserError, match="give one of matched, own, or both"):
        load_recipe(ROOT / "recipes" / "smoke.yaml", ["pairs.regimes=[]"])


def test_how_many_negatives_fill_takes_touches_neither_of_its_sources(tmp_path: Path) -> None:
    found, graph = recipes(tmp_path, methods=["rejection", "pns", "fill"]), Graph()
    plain = cell_keys(found, graph, "fill/own")
    two = cell_keys(found, graph, "fill/own", tuned=Tuned(negatives={"fill": {"negatives.per_problem": 2}}))
    changed = {"negatives-fill", "pairs", "align-fill-own", "test-align-fill-own"}
    assert {s for s in plain if plain[s] != two[s]} == changed
    control = cell_keys(found, graph, "sft_chosen/own")
    assert graph.tasks[control["align-sft_chosen-own"]].stage.args == ("own", "fill"), "the widest method's chosen side"


@pytest.mark.parametrize(
    ("switch", "changed"),
    [
        ({"set": {"reward.weight_judge": 0.0}, "at": ["generator"]}, "generator"),
        ({"set": {"generator.start": "sft"}, "at": ["generator"]}, "generator"),
        ({"set": {"negatives.min_rubric": 5}, "at": ["negatives-pns"]}, "negatives-pns"),
        ({"set": {"pairs.n": 5}, "at": ["pairs"]}, "pairs"),
    ],
)
def test_a_switch_is_seen_where_it_says_and_felt_after(tmp_path: Path, switch: dict[str, Any], changed: str) -> None:
    found, graph = recipes(tmp_path, ablations={"seeds": [1], "switches": {"one": switch}}), Graph()
    plain, other = cell_keys(found, graph, "pns/own"), cell_keys(found, graph, "pns@one")
    nodes = pipeline.stages(found.base)
    after = pipeline.downstream([changed], nodes) | {"test-align-pns-own"}
    assert {s for s in other if plain.get(s) != other[s]} == after & set(other)
    seen = graph.tasks[other[changed]].recipe.model_dump(mode="json")
    for key, value in switch["set"].items():
        part, name = key.split(".")
        assert seen[part][name] == value


def test_wrong_rollouts_of_another_seed(tmp_path: Path) -> None:
    switches = {"foreign": {"foreign": True, "method": "rejection"}}
    found, graph = recipes(tmp_path, ablations={"seeds": [1, 3], "switches": switches}), Graph()
    plain, other = cell_keys(found, graph, "rejection/own"), cell_keys(found, graph, "rejection@foreign")
    drawn = graph.tasks[other["rollouts-foreign"]]
    assert graph.tasks[drawn.needs["foreign"]].recipe.seed == 3
    assert drawn.needs["rlvr"] == plain["rlvr"]
    assert drawn.needs["problems"] == plain["problems"]
    assert graph.tasks[other["negatives-rejection"]].needs["rollouts-foreign"] == other["rollouts-foreign"]
    assert other["rollouts-pairs"] == plain["rollouts-pairs"], "the chosen side stays the policy's own"
    last = cell_keys(found, graph, "rejection@foreign", seed=3)
    assert graph.tasks[graph.tasks[last["rollouts-foreign"]].needs["foreign"]].recipe.seed == 1
    assert "foreign is for method: rejection" in refused(
        tmp_path, ablations={"seeds": [1, 2], "switches": {"a": {"foreign": True}}}
    )
    assert "nothing is switched" in refused(tmp_path, ablations={"seeds": [1], "switches": {"a": {}}})


def test_every_method_may_have_its_own_control(tmp_path: Path) -> None:
    found, graph = recipes(tmp_path, controls=["sft_chosen", "sft_each"]), Graph()
    own = {n for n in cells(found.study) if n.startswith("sft_") and not n.startswith("sft_chosen")}
    assert own == {f"sft_{method}/own{p}" for method in ("pns", "rejection") for p in ("", "/each")}, (
        "on matched pairs there is one control for all"
    )
    for method in ("pns", "rejection"):
        keys = cell_keys(found, graph, f"sft_{method}/own")
        control = graph.tasks[keys[f"align-sft_chosen-own-{method}"]]
        assert control.stage.call == "align:sft_chosen"
        assert control.stage.args == ("own", method)
        assert control.needs["pairs"] == cell_keys(found, graph, f"{method}/own")["pairs"], "the very same pairs"
    words = refused(tmp_path, controls=["sft_each"], regimes=["matched"], ablations={})
    assert "add own to regimes" in words


def test_a_combination_that_changes_nothing_counts_once(tmp_path: Path) -> None:
    grid = {"negatives.gate_all": [False, True], "negatives.reward_model_quantile": [0.25, 0.5]}
    found = recipes(tmp_path, tuning=tuning(negatives={"rejection": grid}))
    made = add_step(Graph(), found, "negatives", Tuned({"dpo": {"held": {}}}))
    assert [tuple(s.values()) for _, _, s, _ in made] == [(False, 0.25), (True, 0.25), (True, 0.5)], (
        "without the gates nobody reads their threshold"
    )


def test_a_switch_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    switches = {
        "idle": {"set": {"negatives.min_rubric": 5}, "at": ["align-pns-own"]},
        "as_tuned": {"set": {"generator.beta": 0.7}, "at": ["generator"]},
    }
    found, graph = recipes(tmp_path, ablations={"seeds": [1], "switches": switches}), Graph()
    with pytest.raises(UserError, match=r"ablations.switches.idle: negatives.min_rubric changes nothing of this model"):
        cell_keys(found, graph, "pns@idle")
    tuned = Tuned(negatives={"pns": {"generator.beta": 0.7}})
    plain, same = (cell_keys(found, graph, name, tuned=tuned) for name in ("pns/own", "pns@as_tuned"))
    assert same == plain, "what tuning has chosen may be what a switch says"


def test_a_switch_at_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    switch = {"set": {"generator.beta": 0.0}, "at": ["generater"]}
    found = recipes(tmp_path, ablations={"seeds": [1], "switches": {"one": switch}})
    with pytest.raises(UserError, match=r"ablations.switches.one.at: no stage called generater"):
        cell_keys(found, Graph(), "pns@one")


def trial(step: Any, model: str, settings: dict[str, Any], greedy: float, sampled: float) -> Trial:
    return Trial(
        step=step, objective="dpo", model=model, settings=settings, greedy=[greedy], sampled=[sampled], kl=[0.1]
    )


def test_tuning_takes_the_best_and_of_equals_the_first(tmp_path: Path) -> None:
    study = recipes(tmp_path).study
    tried = [
        trial("held", "rejection", {"align.beta": 0.1}, 0.5, 0.4),
        trial("held", "rejection", {"align.beta": 0.2}, 0.4, 0.6),
        trial("held", "rejection", {"align.beta": 0.3}, 0.6, 0.4),
    ]
    held = choose(study, Tuned(), "held", tried)
    assert held.held == {"dpo": {"align.beta": 0.2}}
    made = choose(
        study,
        held,
        "negatives",
        [trial("negatives", "pns", {"generator.beta": b}, a, a) for b, a in ((1, 0.1), (2, 0.2))],
    )
    assert made.negatives == {"pns": {"generator.beta": 2}}
    each = choose(
        study, made, "each", [trial("each", "pns", {"align.beta": b}, a, a) for b, a in ((0.5, 0.9), (0.6, 0.2))]
    )
    assert each.of(cells(study)["pns"]) == {"align.beta": 0.2}
    assert each.of(cells(study)["pns/each"]) == {"align.beta": 0.5}
    assert each.of(Cell("policy", "policy")) == {}


def test_every_method_has_the_same_budget(tmp_path: Path) -> None:
    found = recipes(tmp_path, tuning=tuning(negatives={"pns": {"generator.beta": [0.1, 0.2]}}))
    graph = Graph()
    held = add_step(graph, found, "held", Tuned())
    assert {(o, m) for o, m, _, _ in held} == {("dpo", "rejection")}
    tuned = Tuned({"dpo": {"held": {"align.beta": 0.2}}})
    made = add_step(graph, found, "negatives", tuned)
    assert [s for _, _, s, _ in made] == [{"generator.beta": 0.1}, {"generator.beta": 0.2}]
    assert {
        graph.tasks[keys_of(graph, k)["align-pns-matched"]].recipe.align.beta for *_, keys in made for k in keys
    } == {0.2}
    each = add_step(graph, found, "each", tuned)
    counts = {m: sum(model == m for _, model, _, _ in each) for m in ("pns", "rejection", "sft_chosen")}
    assert counts == {"pns": 4, "rejection": 4, "sft_chosen": 2}, "the control has no beta"
    assert len(combinations({})) == 1


def test_the_protocol_stands_once_the_test_split_was_opened(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "study", "resume")
    first = protocols.protocol_of(recipes(tmp_path), {}, [])
    second = protocols.protocol_of(recipes(tmp_path, seeds=[1, 2]), {}, [])
    assert protocols.differing(first, second) == ["seeds", "cells"]
    path = protocols.freeze(run, first)
    protocols.freeze(run, second)
    assert read_json(path)["seeds"] == [1, 2], "nothing was tested under the first"
    protocols.open_test(run, second)
    assert protocols.freeze(run, second) == path
    with pytest.raises(UserError, match=r"opened under another protocol; what differs: seeds, cells"):
        protocols.freeze(run, first)
    path.unlink()
    with pytest.raises(UserError, match=r"opened under another protocol; what differs: protocol.json is gone"):
        protocols.freeze(run, first)
    assert protocols.freeze(run, second) == path
    write_json(tmp_path / "committed.json", second)
    protocols.check_committed(tmp_path / "committed.json", second)
    with pytest.raises(UserError, match="not the protocol of this study; what differs: seeds, cells"):
        protocols.check_committed(tmp_path / "committed.json", first)
    write_json(tmp_path / "committed.json", {**second, "hypotheses": ["another one"]})
    with pytest.raises(UserError, match="what differs: hypotheses"):
        protocols.check_committed(tmp_path / "committed.json", second)


def test_a_foreign_protocol_is_refused_before_the_tuning(tmp_path: Path) -> None:
    path, own = tmp_path / "committed.json", recipes(tmp_path)
    found = {"step": "held"}
    write_json(
        path, protocols.protocol_of(own, {"align": {"dpo": {"held": {"align.beta": 0.4}}}}, []) | {"written": "then"}
    )
    protocols.check_committable(path, own)
    told = read_json(path)
    write_json(path, {**told, "tuning": {**told["tuning"], "trials": [found], "combinations": {"held": 1}}})
    protocols.check_committable(path, own)
    with pytest.raises(UserError, match="what differs: seeds, cells"):
        protocols.check_committable(path, recipes(tmp_path, seeds=[1, 2]))
    for broken in ("{", "[]", "{}"):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(UserError, match="protocol"):
            protocols.check_committable(path, own)
    with pytest.raises(UserError, match="cannot be read as a protocol"):
        protocols.check_committable(tmp_path / "nowhere.json", own)


def test_the_protocol_names_the_whole_family(tmp_path: Path) -> None:
    def told(**changes: Any) -> list[Any]:
        return protocols.protocol_of(recipes(tmp_path, protocols=["held"], **changes), {}, [])["family"]

    plain = told(uses=["rl"])
    assert len(plain) == len({tuple(pair) for pair in plain})
    assert ["pns", "rejection"] not in plain, "it is primary"
    wanted = [["pns", "sft_chosen"], ["rejection", "sft_chosen"], ["pns/own", "sft_chosen/own"]]
    assert ["rejection/own", "sft_chosen/own"] not in plain, "that control has pns's chosen side"
    each = told(controls=["sft_each"])
    own = [pair for pair in each if any(name.startswith("sft_") for name in pair) and "policy" not in pair]
    assert sorted(own) == [["pns/own", "sft_pns/own"], ["rejection/own", "sft_rejection/own"]]
    wanted += [
        ["pns/own", "rejection/own"],
        ["rl_pns", "rl_plain"],
        ["rl_pns", "rl_rejection"],
        ["sft_chosen/own", "policy"],
    ]
    assert [pair for pair in wanted if pair not in plain] == []

    methods = {"methods": ["rejection", "pns", "mixture", "fill"], "regimes": ["matched"], "uses": ["rl"]}
    mixed = told(**methods, set={"negatives.mixture": {"rejection": 1, "pns": 1}})
    rivals = ({"pns", "mixture"}, {"pns", "fill"}, {"rl_pns", "rl_mixture"}, {"rl_pns", "rl_fill"})
    assert [pair for pair in mixed if set(pair) in rivals] == [], "a mixture that contains pns is no rival to it"
    assert ["mixture", "sft_chosen"] in mixed
    begun = told(methods=["rejection", "pns", "pns_prefix"], regimes=["matched"])
    assert ["pns", "pns_prefix"] not in begun, "the same generator's"
    assert ["pns_prefix", "sft_chosen"] in begun
    other = told(**methods, set={"negatives.mixture": {"rejection": 1, "flip": 1}})
    assert ["pns", "mixture"] in other
    assert ["rl_pns", "rl_mixture"] in other
    assert ["pns", "fill"] not in other
    asked = told(**methods, set={"negatives.mixture": {"rejection": 1, "pns": 1}}, secondary=[["pns", "mixture"]])
    assert asked[0] == ["pns", "mixture"], "what the study asks for stands"


@pytest.mark.parametrize("changed", [{"uses": ["reward_model"]}, {"audit": True}])
def test_what_else_is_measured_belongs_to_the_protocol(changed: dict[str, Any], tmp_path: Path) -> None:
    old, new = (protocols.protocol_of(recipes(tmp_path, **told), {}, []) for told in ({}, changed))
    assert protocols.differing(old, new) == list(changed)


def test_a_protocol_without_what_came_later_is_no_other_one(tmp_path: Path) -> None:
    new = protocols.protocol_of(recipes(tmp_path), {}, [])
    old = {k: v for k, v in new.items() if k not in ("family", "uses", "audit")}
    assert protocols.differing(old, new) == protocols.differing(new, old) == []
    assert protocols.differing({**new, "family": new["family"][1:]}, new) == ["family"]


# What the two oldest name otherwise: the rules had version 2 then.
PUBLISHED = {
    "embedded": ["versions"],
    "beside": ["versions"],
    "references": [],
    "strong": [],
    "control-test": [],
    "hard": [],
    "plain-dpo-test": [],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_protocols_hold_for_their_studies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = ROOT / "studies" / f"{name}.yaml"
    found, old = Recipes(load_study(path), path), read_json(ROOT / "docs" / "results" / f"{name}.protocol.json")
    new = protocols.protocol_of(found, old["chosen"], old["tuning"]["trials"])
    assert protocols.differing(old, new) == PUBLISHED[name]
    if name == "embedded":
        published = read_json(ROOT / "docs" / "results" / "embedded.json")["secondary"]
        assert [(c["a"], c["b"]) for c in published] == unnamed_family(found.study)


def test_every_published_protocol_is_tested() -> None:
    there = {path.name.removesuffix(".protocol.json") for path in (ROOT / "docs" / "results").glob("*.protocol.json")}
    assert there == set(PUBLISHED)


def test_how_the_work_is_done_is_no_part_of_the_protocol(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "study", "resume")
    first = protocols.protocol_of(recipes(tmp_path), {}, [])
    moved = protocols.protocol_of(recipes(tmp_path, set={"runtime.jobs": 1, "runtime.checkpoint_every": 7}), {}, [])
    assert moved["fingerprint"] == first["fingerprint"]
    assert protocols.differing(first, protocols.protocol_of(recipes(tmp_path, set={"runtime.threads": 2}), {}, [])) == [
        "recipe"
    ]

    # As protocols once were: they held the number of jobs, too.
    recipe = {**first["recipe"], "runtime": {**first["recipe"]["runtime"], "jobs": 2}}
    body = {k: v for k, v in first.items() if k not in ("written", "fingerprint")} | {"recipe": recipe}
    old = {"written": first["written"], "fingerprint": fingerprint(body=body), **body}
    assert old["fingerprint"] != first["fingerprint"]
    path = protocols.freeze(run, old)
    protocols.open_test(run, old)
    assert protocols.freeze(run, moved) == path
    assert read_json(path) == old
    edited = protocols.protocol_of(recipes(tmp_path, seeds=[1, 2]), {}, [])
    write_json(path, {**old, **{k: edited[k] for k in ("seeds", "cells")}})
    with pytest.raises(UserError, match=r"what differs: protocol.json was changed since"):
        protocols.freeze(run, edited)


def test_what_the_benchmarks_hold_is_part_of_the_protocol(tmp_path: Path) -> None:
    assert "problems" not in protocols.protocol_of(recipes(tmp_path), {}, []), "made-up problems have no files"
    row = {"id": "1", "problem": "1 + 1", "answer": "2", "solution": "2"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    read = {
        "problems.source": "jsonl", "problems.train_file": str(tmp_path / "train.jsonl"),
        "problems.benchmarks": {"test": str(tmp_path / "test.jsonl")}, "reward.answer_format": "boxed", "reward.judge": "none",
        "problems.misread_share": 0.0,
    }  # fmt: skip
    first = protocols.protocol_of(recipes(tmp_path, set=read), {}, [])
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, "answer": "3"}) + "\n")
    second = protocols.protocol_of(recipes(tmp_path, set=read), {}, [])
    assert protocols.differing(first, second) == ["problems"]


def test_a_protocol_does_not_depend_on_when_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = protocols.protocol_of(recipes(tmp_path), {}, [])
    monkeypatch.setattr(protocols, "_now", lambda: "later")
    assert protocols.protocol_of(recipes(tmp_path), {}, [])["fingerprint"] == first["fingerprint"]


def two_tasks(tmp_path: Path) -> dict[str, Task]:
    graph = Graph()
    cell_keys(recipes(tmp_path), graph, "pns")
    cell_keys(recipes(tmp_path), graph, "pns", seed=2)
    return graph.tasks


def test_the_plan_takes_what_was_measured_and_counts_nothing_twice(tmp_path: Path) -> None:
    tasks = two_tasks(tmp_path)
    done = {name: {"seconds": 3.0} for name, t in tasks.items() if t.recipe.seed == 1}
    shares = plan({"first": tasks, "second": tasks}, tasks, done)
    assert [(s.tasks, s.done) for s in shares] == [(len(tasks), len(done)), (0, 0)]
    assert shares[0].seconds_left == pytest.approx(3.0 * len(done), rel=0.05), (
        "the other seed's tasks are of the same sizes"
    )
    assert shares[0].measured == len(tasks) - len(done)
    assert shares[0].wall(2) == pytest.approx(1.5 * len(done), rel=0.05)


def test_the_reference_rates_know_every_kind_of_stage(tmp_path: Path) -> None:
    found = recipes(
        tmp_path,
        controls=["sft_chosen", "rlvr_more", "nsr", "w_reinforce"],
        uses=["reward_model", "rl", "step_verifier", "calibration"],
        ablations={"seeds": [1, 2], "switches": {"foreign": {"foreign": True, "method": "rejection"}}},
    )
    graph = Graph()
    for cell in cells(found.study).values():
        add_cell(graph, found, cell, 1, Tuned(), {})
    add_cell(graph, found, cells(found.study)["pns"], 1, Tuned(), {}, kind="dev")
    add_extras(graph, found, 1, Tuned())
    fresh = plan({"first": graph.tasks}, graph.tasks, {})[0]
    assert fresh.measured == 0
    assert fresh.seconds_left is not None


@pytest.mark.parametrize("other", [{"runtime.device": "cuda"}, {"model.hidden": 512}])
def test_a_plan_for_another_kind_of_model_or_machine_takes_the_cost_model_and_says_so(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    graph = Graph()
    found = recipes(tmp_path, set=other, uses=["reward_model", "rl", "step_verifier", "calibration"])
    add_cell(graph, found, cells(found.study)["pns"], 1, Tuned(), {})
    add_cell(graph, found, cells(found.study)["pns"], 1, Tuned(), {}, kind="dev")
    extras = add_extras(graph, found, 1, Tuned())
    assert extras
    for task in graph.tasks.values():
        seconds = CostModel().seconds(task)
        assert seconds is not None, task.stage.call
        assert seconds > 0
    share = plan({"all": graph.tasks}, graph.tasks, {})[0]
    assert share.modelled == len(graph.tasks)
    assert share.seconds_left == pytest.approx(sum(CostModel().seconds(t) or 0 for t in graph.tasks.values()))
    some = next(n for n, t in graph.tasks.items() if t.stage.name == "rlvr")
    again = plan({"all": graph.tasks}, graph.tasks, {some: {"seconds": 3.0}})[0]
    assert again.modelled == len(graph.tasks) - 1 - again.measured


def test_a_model_of_which_nobody_knows_the_shape_has_no_times(tmp_path: Path) -> None:
    graph = Graph()
    found = recipes(tmp_path, set={"model": {"kind": "pretrained", "path": "."}})
    add_cell(graph, found, cells(found.study)["pns"], 1, Tuned(), {})
    share = plan({"all": graph.tasks}, graph.tasks, {})[0]
    assert share.seconds_left is None
    assert share.modelled == 0


def test_what_scores_the_benchmarks_and_the_development_split_is_modelled_apart(tmp_path: Path) -> None:
    graph, found = Graph(), recipes(tmp_path, set={"runtime.device": "cuda", "problems.splits.dev": 1})
    one = {k: add_cell(graph, found, cells(found.study)["policy"], 1, Tuned(), {}, kind=k) for k in ("dev", "test")}
    dev, test = (CostModel().seconds(graph.tasks[one[k]]) for k in ("dev", "test"))
    assert dev is not None
    assert test is not None
    assert dev < test


def test_work_grows_with_what_is_sampled(tmp_path: Path) -> None:
    graph = Graph()
    found = recipes(tmp_path, set={"negatives.sample.n": 6})
    assert units(graph.tasks[cell_keys(found, graph, "pns")["samples-pns"]]) == 32 * 6


WRITTEN = {
    "model": {"kind": "pretrained", "path": "."}, "negatives.prompted": {"n": 3, "style": "both"},
    "negatives.prefix": {"n": 2, "rounds": 5}, "rollouts.n": 8,
}  # fmt: skip


def test_work_counts_styles_rounds_and_what_is_drawn(tmp_path: Path) -> None:
    graph, methods = Graph(), ["rejection", "rejection_hard", "prefix", "pns_prefix", "prompted", "flip"]
    found = recipes(tmp_path, methods=methods, set=WRITTEN, primary=[])
    asked = ["samples-pns_prefix", *(f"negatives-{m}" for m in methods)]
    rows = {name: units(graph.tasks[graph.add(found.base, name)]) / 32 for name in asked}
    assert rows == {
        "samples-pns_prefix": 10, "negatives-rejection": 2, "negatives-rejection_hard": 8, "negatives-prefix": 10,
        "negatives-pns_prefix": 1, "negatives-prompted": 6, "negatives-flip": 1,
    }  # fmt: skip
    gated = with_settings(found.base, {"negatives.gate_all": True})
    assert units(graph.tasks[graph.add(gated, "negatives-rejection")]) == 32 * 8, "all wrong ones are scored"


def test_the_rate_of_rules_is_not_that_of_what_is_written(tmp_path: Path) -> None:
    graph, found = Graph(), recipes(tmp_path, methods=["rejection", "flip", "prompted"], set=WRITTEN, primary=[])
    rule, other, written = (graph.add(found.base, f"negatives-{m}") for m in ("flip", "rejection", "prompted"))
    tasks = {name: graph.tasks[name] for name in (rule, other, written)}
    share = plan({"all": tasks}, tasks, {rule: {"seconds": 1.0}, other: {"seconds": 2.0}})[0]
    assert (share.measured, share.seconds_left) == (0, None)
    again = {n: graph.tasks[n] for m in ("flip", "prompted") for n in [graph.add(found.of(2), f"negatives-{m}")]}
    done = {rule: {"seconds": 1.0}, written: {"seconds": 60.0}}
    assert plan({"all": again}, {**tasks, **again}, done)[0].seconds_left == pytest.approx(61.0)


def test_work_counts_the_samples_of_each_benchmark(tmp_path: Path) -> None:
    tests = []
    for n, more in enumerate(({}, {"evaluate.k_of": {next(iter(EMBEDDED)): 9}})):
        (tmp_path / str(n)).mkdir()
        graph, found = Graph(), recipes(tmp_path / str(n), set=more)
        tests.append(graph.tasks[add_cell(graph, found, cells(found.study)["policy"], 1, Tuned(), {})])
    plain, several = tests
    part = plain.recipe
    assert units(several) - units(plain) == part.problems.benchmark_size * (9 - part.evaluate.k)


def test_rounds_go_on_from_the_aligned_policy_with_fresh_problems() -> None:
    recipe, _ = load_recipe(ROOT / "recipes" / "smoke.yaml")
    graph = Graph()
    found = add_rounds(graph, for_rounds(recipe, 3, "pns"), 3, "pns")
    assert len(found) == 4
    assert len({one["test"] for one in found}) == 4
    for before, after in itertools.pairwise(found[1:]):
        task = graph.tasks[after["generator"]]
        assert task.needs["rlvr"] == before["align-pns-own"]
        refreshed = graph.tasks[after["reward_model"]]
        assert refreshed.stage.call == "models:hardened_reward_model"
        assert refreshed.needs["hard"] == before["pairs"]
        assert refreshed.needs["before"] == before["reward_model"]
        assert task.needs["problems"] == graph.tasks[before["generator"]].needs["problems"]
    assert [graph.tasks[one["generator"]].recipe.round.number for one in found[1:]] == [1, 2, 3]
    last = graph.tasks[found[3]["test"]]
    assert last.needs["rlvr"] == next(n for n, t in graph.tasks.items() if t.stage.name == "rlvr"), (
        "the distance is that from the first policy"
    )
    rejection = add_rounds(Graph(), for_rounds(recipe, 2, "rejection"), 2, "rejection")
    assert not any("generator" in one for one in rejection)


@pytest.mark.parametrize(("control", "method"), [("sft_pns", "pns"), ("sft_chosen", "rejection")])
def test_a_control_of_rounds_has_the_very_pairs_of_its_method(control: IteratedMethod, method: IteratedMethod) -> None:
    recipe, _ = load_recipe(ROOT / "recipes" / "smoke.yaml")
    graph, of = add_all(recipe, [1], 2, [method, control])
    theirs, mine = of[method][1], of[control][1]
    assert mine[0] == theirs[0], "both begin with the same policy"
    assert mine[1]["pairs"] == theirs[1]["pairs"]
    assert ("generator" in mine[1]) == (method == "pns")
    trained = graph.tasks[mine[1][aligned_by(control)]]
    assert trained.stage.call == "align:sft_chosen"
    assert trained.stage.args == ("own", method)
    assert trained.needs["pairs"] == theirs[1]["pairs"]
    assert graph.tasks[mine[2]["pairs"]].mark != graph.tasks[theirs[2]["pairs"]].mark, "the policies have parted"
    head, _ = table_of(control, [{"round": 1, "greedy": {"mean": 0.5, "ci95": None}, "sampled": {"mean": 0.5, "ci95": None},
                                  "pairs": {f"own-{method}": {"n": 3}}}])  # fmt: skip
    assert "pairs" in head
    assert not any("consistent" in name for name in head), "a column without any value is left out"


def test_studies_and_rounds_with_one_vllm_server_have_one_training_at_a_time(tmp_path: Path) -> None:
    from pns.study import iterate
    from pns.study.run import execute

    nothing: Any = None
    served = {"mode": "server", "url": "http://a"}
    told = recipes(tmp_path, set={"runtime.device": "cuda", "runtime.jobs": 1, "runtime.vllm": served})
    with pytest.raises(UserError, match="side by side would send their weights") as caught:
        execute(told, nothing, nothing, until="tuning", jobs=2)
    assert caught.value.field == "runtime.vllm"
    alone = with_settings(told.base, {"runtime.jobs": 2, "references": (), "negatives.methods": ("pns",)})
    with pytest.raises(UserError, match="side by side would send their weights"):
        iterate.execute(alone, nothing, nothing, seeds=[1, 2], rounds=1, methods=["pns"])
