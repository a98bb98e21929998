"""The flow: its order, and that a changed key re-runs what depends on it and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pns import fingerprints, pipeline
from pns.errors import UserError
from pns.recipe import ALL_METHODS, METHODS, Recipe
from pns.recipe_files import load_recipe

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"


def recipe(*overrides: str, file: Path = SMOKE) -> Recipe:
    return load_recipe(file, overrides)[0]


def changed(*overrides: str) -> set[str]:
    """Stages whose fingerprint an override changes."""
    before, after = recipe(), recipe(*overrides)
    nodes = pipeline.stages(before)
    assert list(pipeline.stages(after)) == list(nodes)
    old, new = fingerprints.of_stages(before, nodes), fingerprints.of_stages(after, pipeline.stages(after))
    return {name for name in nodes if old[name] != new[name]}


def group(*prefixes: str) -> set[str]:
    return {n for n in pipeline.stages(recipe()) if n.startswith(prefixes)}


ALL = set(pipeline.stages(recipe()))
ALIGNED = {f"evaluate-{m}{own}" for m in METHODS for own in ("", "-own")} | {"evaluate-sft_chosen"}


@pytest.mark.parametrize("methods", ["[pns]", "[rejection, pns]", "[flip, corruption]", None])
@pytest.mark.parametrize("regimes", ["[matched]", "[own]", "[matched, own]"])
def test_every_stage_comes_after_what_it_needs(methods: str | None, regimes: str) -> None:
    overrides = [f"pairs.regimes={regimes}", *([f"negatives.methods={methods}"] if methods else [])]
    nodes = pipeline.stages(recipe(*overrides))
    seen: set[str] = set()
    for name, stage in nodes.items():
        assert stage.name == name
        assert set(stage.needs) <= seen, name
        seen.add(name)
    assert ("generator" in nodes) == ("pns" in recipe(*overrides).negatives.methods)
    assert pipeline.upstream(["report"], nodes) == set(nodes), "a stage that nothing reads"
    assert len(set(pipeline.labels(nodes).values())) == len(nodes)


MIXED = ("negatives.methods=[rejection_hard, prefix, mixture, fill]", "negatives.mixture={rejection: 1, flip: 2}")


def test_what_mixtures_draw_from_is_made_and_not_compared() -> None:
    nodes = pipeline.stages(recipe(*MIXED))
    made = {name.removeprefix("negatives-") for name in nodes if name.startswith("negatives-")}
    assert made == {"rejection", "rejection_hard", "prefix", "flip", "pns", "mixture", "fill"}
    aligned = {name for name in nodes if name.startswith("align-") and name.endswith("-matched")}
    assert aligned == {f"align-{m}-matched" for m in ("rejection_hard", "prefix", "mixture", "fill")}
    assert nodes["negatives-mixture"].needs == ("negatives-rejection", "negatives-flip")
    assert nodes["negatives-fill"].needs == ("negatives-rejection", "negatives-pns")
    assert "generator" in nodes
    seen: set[str] = set()
    for name, stage in nodes.items():
        assert set(stage.needs) <= seen, name
        seen.add(name)
    marks = [fingerprints.of_stages(recipe(*MIXED, extra), nodes) for extra in ("seed=0", "negatives.prefix.rise=0.3")]
    touched = {name for name in nodes if marks[0][name] != marks[1][name]}
    assert {n for n in touched if n.startswith("negatives-")} == {"negatives-prefix"}


def test_the_generator_goes_on_from_prefixes_without_samples_of_its_own() -> None:
    alone = pipeline.stages(recipe("negatives.methods=[rejection, pns_prefix]"))
    assert "generator" in alone
    assert not {"samples-pns", "negatives-pns"} & set(alone)
    assert "generator" in alone["samples-pns_prefix"].needs
    assert pipeline.upstream(["report"], alone) == set(alone), "a stage that nothing reads"
    both = ("negatives.methods=[prefix, pns, pns_prefix]",)
    nodes = pipeline.stages(recipe(*both))

    def touched(key: str) -> set[str]:
        marks = [fingerprints.of_stages(recipe(*both, *extra), nodes) for extra in ((), (key,))]
        return {
            n.removeprefix("negatives-") for n in nodes if n.startswith("negatives-") and marks[0][n] != marks[1][n]
        }

    assert touched("negatives.prefix.rise=0.3") == {"prefix", "pns_prefix"}
    assert touched("negatives.min_rubric=3") == {"pns", "pns_prefix"}, "the policy's continuations pass no gates"
    assert touched("generator.beta=0.7") == {"pns", "pns_prefix"}
    assert touched("negatives.sample.n=3") == {"pns"}
    gates = [fingerprints.of_stages(recipe(*both, *extra), nodes) for extra in ((), ("negatives.min_rubric=3",))]
    assert gates[0]["samples-pns_prefix"] == gates[1]["samples-pns_prefix"], "other gates need no new samples"


def test_the_chosen_side_of_a_generator_with_two_goals() -> None:
    both = (
        "generator.control=err",
        "pairs.chosen_by=generator",
        "negatives.methods=[rejection, flip, pns, pns_prefix]",
    )
    nodes = pipeline.stages(recipe(*both))
    readers = {name for name, stage in nodes.items() if "rollouts-generator" in stage.needs}
    assert readers == {"samples-pns_prefix", "negatives-flip", "pairs", "audit"}
    assert pipeline.upstream(["report"], nodes) == set(nodes), "a stage that nothing reads"
    plain = fingerprints.of_stages(recipe(both[2]), pipeline.stages(recipe(both[2])))
    marks = fingerprints.of_stages(recipe(*both), nodes)
    same = {name for name in plain if plain[name] == marks[name]}
    assert {"rlvr", "rollouts-pairs", "reward_model", "negatives-rejection"} <= same, (
        "the policy's own rollouts are the same"
    )
    assert not {"generator", "samples-pns", "pairs", "negatives-flip"} & same
    measured = pipeline.stages(recipe(*both, "negatives.length_ratio=2"))
    assert "rollouts-generator" in measured["negatives-rejection"].needs
    alone = pipeline.stages(recipe(*both[:2], "negatives.methods=[rejection]"))
    assert "generator" in alone
    assert not any(name.startswith("samples-") for name in alone)
    costs = [recipe(*given).sampled_by_generator for given in ((), both)]
    assert costs[1] - costs[0] == recipe().problems.splits.pairs * recipe().rollouts.n


def test_further_generators_are_trained_beside_the_first_and_change_only_what_samples_them() -> None:
    one, more = recipe(), recipe("generator.others=[{beta: 0.7}, {steps: 1}]", "negatives.sample.n=4")
    nodes = pipeline.stages(more)
    assert pipeline.upstream(["report"], nodes) == set(nodes), "a stage that nothing reads"
    assert set(nodes) - set(pipeline.stages(one)) == {"generator-2", "generator-3"}
    assert set(nodes["samples-pns"].needs) >= {"generator", "generator-2", "generator-3"}
    assert [more.generator.of(name).beta for name in more.generator.stages] == [
        one.generator.beta,
        0.7,
        one.generator.beta,
    ]
    assert more.generator.of("generator-3").steps == 1
    assert not more.generator.of("generator").others
    before = recipe("negatives.sample.n=4")
    marks = fingerprints.of_stages(more, nodes)
    plain = fingerprints.of_stages(before, pipeline.stages(before))
    touched = {name for name in plain if plain[name] != marks[name]}
    assert {"rlvr_more", "samples-pns", "negatives-pns", "pairs"} <= touched, (
        "the reference has the steps of all of them"
    )
    assert not {"generator", "negatives-rejection", "reward_model"} & touched
    other = recipe("generator.others=[{beta: 0.7}, {steps: 2}]", "negatives.sample.n=4")
    others = fingerprints.of_stages(other, pipeline.stages(other))
    assert {n for n in marks if n.startswith("generator") and marks[n] != others[n]} == {"generator-3"}
    judged = recipe("generator.others=[{beta: 0.7}, {steps: 1}]", "negatives.sample.n=4", "reward.weight_judge=0.1")
    after = fingerprints.of_stages(judged, pipeline.stages(judged))
    assert all(after[n] != marks[n] for n in more.generator.stages)
    sft = recipe("generator.others=[{start: sft}]")
    assert "sft" in pipeline.stages(sft)["generator-2"].needs
    assert "sft" not in pipeline.stages(sft)["generator"].needs


def test_the_generators_are_named_together() -> None:
    nodes = pipeline.stages(recipe("generator.others=[{beta: 0.7}]"))
    assert pipeline.resolve(["generator"], nodes) == ["generator", "generator-2"]
    assert pipeline.resolve(["generator-2"], nodes) == ["generator-2"]
    assert pipeline.resolve(["pairs", "rollouts"], nodes)[0] == "pairs"


def test_a_mistake_in_one_of_them_is_found_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        recipe("generator.others=[{}, {betta: 1}]")
    assert "did you mean `generator.others.1.beta`?" in str(told.value)
    assert "override" in str(told.value)
    file, text = tmp_path / "r.yaml", SMOKE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("generator:")]
    own = [
        "generator:",
        "  steps: 6",
        "  prompts_per_step: 8",
        "  learning_rate: 1.0e-4",
        "  others:",
        "    - {}",
        "    - steps: 2",
        "      beta: -1",
    ]
    file.write_text("\n".join([*lines, *own]), encoding="utf-8")
    with pytest.raises(UserError) as told:
        recipe(file=file)
    assert (told.value.line, told.value.field) == (len(lines) + len(own), "generator.others.1.beta")
    assert "KL coefficient" in str(told.value)


def test_further_generators_and_what_goes_with_them() -> None:
    for given, words in (
        (("generator.others=[{beta: 0.7}]", "negatives.sample.n=1"), r"sample\.n = 1 gives 2 generators"),
        (("generator.others=[{steps: 1000}]",), r"generator\.others\[0\]\.steps x generator\.prompts_per_step"),
        (("generator.others=[{start: sft}]", "generator.base={path: /m}"), "others: start says nothing beside base"),
        (("generator.others=[{micro_batch: 1}]",), "unknown key"),
    ):
        with pytest.raises(UserError, match=words):
            recipe(*given)
    alone = recipe("generator.others=[{beta: 0.7}]", "negatives.sample.n=1", "negatives.methods=[rejection]")
    assert "generator" not in pipeline.stages(alone), "methods that have none of it may stand in the same recipe"


def test_a_generator_of_mistakes_alone_has_no_chosen_side() -> None:
    with pytest.raises(UserError, match=r"chosen_by: generator needs generator\.control"):
        recipe("pairs.chosen_by=generator")
    with pytest.raises(UserError, match="control is blank"):
        recipe("generator.control=' '")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["negatives.methods=[mixture]"], "mixture and negatives.mixture go together"),
        (["negatives.mixture={pns: 1}"], "mixture and negatives.mixture go together"),
        (["negatives.methods=[mixture]", "negatives.mixture={fill: 1}"], "no mixture and no fill"),
        (["negatives.methods=[mixture]", "negatives.mixture={pns: 0}"], "weights above 0"),
    ],
)
def test_mixtures_that_mean_nothing_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(*overrides)


def test_every_key_of_a_stage_is_a_key_of_the_recipe() -> None:
    nodes = pipeline.stages(recipe())
    marks = fingerprints.of_stages(recipe(), nodes)  # reads every key
    assert len(set(marks.values())) == len(nodes), "two stages with one fingerprint"


def test_the_seed_changes_every_stage() -> None:
    assert changed("seed=1") == ALL


@pytest.mark.parametrize(
    "key",
    [
        "runtime.jobs=1",
        "runtime.checkpoint_every=7",
        "runtime.report_to=[tensorboard]",
        "about=other",
        "engine.ray_workers=2",
        "engine.ray_readers=2",
        "reward.max_unscored=0.2",
    ],
)
def test_keys_that_change_no_result_change_no_fingerprint(key: str) -> None:
    assert changed(key) == set()


@pytest.mark.parametrize(
    ("one", "other", "touched"),
    [
        ("{mode: server, url: http://node1:8000}", "{mode: server, url: http://node2:8000}", False),
        (
            "{mode: server, url: http://a, generator_url: http://b}",
            "{mode: server, url: http://a, generator_url: http://c}",
            False,
        ),
        ("{gpu_memory_utilization: 0.3}", "{gpu_memory_utilization: 0.25}", False),
        ("{tensor_parallel: 1}", "{tensor_parallel: 2}", True),
        ("{mode: colocate}", "{max_model_len: null}", False),
        ("{mode: colocate}", "{max_model_len: 512}", True),
    ],
)
def test_where_trainings_sample_and_how_much_memory_they_get_changes_no_fingerprint(
    one: str, other: str, touched: bool
) -> None:
    base = ("generator.base={path: b}",) if "generator_url" in one else ()
    marks = [
        fingerprints.of_stages(given, pipeline.stages(given))
        for given in (
            recipe("runtime.device=cuda", "runtime.jobs=1", *base, f"runtime.vllm={part}") for part in (one, other)
        )
    ]
    assert (marks[0] != marks[1]) == touched


def test_versions_are_raised_where_results_changed_and_nowhere_else() -> None:
    named = ("reward.reward_model={path: m, calibration: somewhere}",)
    every = (
        "negatives.methods=[rejection, prompted, flip, pns]",
        "negatives.prompted={writer: server, server: {url: http://a/v1}}",
    )
    gated = ("negatives.gate_all=true",)
    names = [f"negatives-{m}" for m in ("rejection", "prompted", "flip", "pns")]

    def versions(*overrides: str) -> list[int]:
        nodes = pipeline.stages(recipe(*every, *overrides))
        return [nodes[name].version for name in names]

    assert versions() == [2, 1, 1, 2], "rejection draws from what is well-formed and distinct"
    assert versions(*gated) == [1, 1, 1, 2], "where all of them are gated it always scored all"
    assert versions(*named) == [2, 1, 1, 3], "the M gate of another reward model has that model's floor"
    assert versions(*gated, *named) == [2, 2, 1, 3]
    control = [pipeline.stages(recipe(f"align.cut={cut}"))["align-sft_chosen"].version for cut in ("false", "true")]
    assert control == [1, 2], "it now cuts what it refused"
    files = (
        "problems.source=jsonl",
        "problems.train_file=[a]",
        "problems.benchmarks={b: b}",
        "problems.misread_share=0",
    )
    assert versions(*files) == [2, 1, 2, 2], "rules read more forms of numbers"
    assert versions("model={kind: pretrained, path: somewhere}") == [2, 1, 2, 2]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("align.beta=0.7", group("align-") | ALIGNED | {"report"}),
        # Whatever samples, and all after it; the trainings of start, sft, rlvr and the references have samplers of their own.
        ("engine.kind=vllm", ALL - {"problems", "start", "sft", "rlvr", "rlvr_more"}),
        ("evaluate.k=3", group("evaluate-") | {"report"}),
        ("evaluate.bootstrap=300", {"report"}),
        ("report.examples=3", {"report"}),
        ("name=other", {"report"}),
        ("runtime.threads=2", ALL - {"start"}),
        ("model.hidden=32", ALL - {"problems"}),
        ("problems.misread_share=0.1", ALL - {"start"}),
        ("sft.learning_rate=1e-3", ALL - {"problems", "start"}),
        ("rlvr.beta=0.01", ALL - {"problems", "start", "sft", "evaluate-sft"}),
    ],
)
def test_a_changed_key_changes_exactly_what_depends_on_it(key: str, expected: set[str]) -> None:
    assert changed(key) == expected


def test_selection_does_not_touch_methods_that_it_does_not_select() -> None:
    found = changed("negatives.select=best")
    assert {"negatives-pns", "pairs", "audit", "report"} <= found
    untouched = {"negatives-flip", "negatives-corruption", "generator", "reward_model", "rollouts-pairs"}
    assert not found & {*untouched, "negatives-rejection"}
    gated = recipe("negatives.gate_all=true"), recipe("negatives.gate_all=true", "negatives.select=best")
    marks = [fingerprints.of_stages(one, pipeline.stages(one)) for one in gated]
    assert marks[0]["negatives-rejection"] != marks[1]["negatives-rejection"], "through the gates it is selected, too"
    only_pns = changed("negatives.sample.temperature=0.5")
    assert only_pns & group("negatives-") == {"negatives-pns"}


def test_the_reward_reaches_the_generator_and_not_the_policy() -> None:
    found = changed("reward.weight_judge=0.1")
    assert {"generator", *group("negatives-")} <= found
    assert not found & {"rlvr", "rlvr_more", "reward_model", "audit_model", *group("rollouts-")}


def test_the_generator_does_not_touch_the_other_methods() -> None:
    found = changed("generator.beta=0.3")
    assert {"generator", "negatives-pns", "rlvr_more", "pairs"} <= found
    assert not found & {"negatives-rejection", "negatives-flip", "negatives-corruption", "reward_model", "audit_model"}


EVERY = "references=[rlvr_more, nsr, w_reinforce]"


@pytest.mark.parametrize(
    ("references", "there"),
    [
        (None, {"rlvr_more"}),
        ("[]", set()),
        ("[w_reinforce, nsr]", {"nsr", "w_reinforce"}),
        ("[nsr, rlvr_more]", {"nsr", "rlvr_more"}),
    ],
)
def test_references_add_and_take_away_their_own_stages_alone(references: str | None, there: set[str]) -> None:
    given = recipe(*([] if references is None else [f"references={references}"]))
    nodes = pipeline.stages(given)
    possible = {name for r in ("rlvr_more", "nsr", "w_reinforce") for name in (r, f"evaluate-{r}")}
    assert set(nodes) & possible == {name for r in there for name in (r, f"evaluate-{r}")}
    assert set(nodes) - possible == ALL - possible
    assert {name for name in possible if name in nodes["report"].needs} == set(nodes) & possible
    old, new = fingerprints.of_stages(recipe(), pipeline.stages(recipe())), fingerprints.of_stages(given, nodes)
    touched = {name for name in {*old} & {*new} if old[name] != new[name]}
    assert touched == (set() if there == {"rlvr_more"} else {"report"})


def test_the_order_in_which_references_are_named_changes_nothing() -> None:
    one, other = recipe(EVERY), recipe("references=[w_reinforce, rlvr_more, nsr]")
    assert pipeline.stages(one) == pipeline.stages(other)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("reinforce.positive_weight=0.3", {"w_reinforce"}),
        ("reinforce.learning_rate=1e-3", {"nsr", "w_reinforce"}),
        ("negatives.sample.n=2", {"rlvr_more", "nsr", "w_reinforce"}),
    ],
)
def test_the_keys_of_reinforce_reach_those_that_read_them(key: str, expected: set[str]) -> None:
    nodes = pipeline.stages(recipe(EVERY))
    old, new = (fingerprints.of_stages(r, nodes) for r in (recipe(EVERY), recipe(EVERY, key)))
    touched = {name for name in nodes if old[name] != new[name]}
    of_references = {name for r in ("rlvr_more", "nsr", "w_reinforce") for name in (r, f"evaluate-{r}")}
    assert touched & of_references == {name for r in expected for name in (r, f"evaluate-{r}")}
    if key.startswith("reinforce."):
        assert touched - of_references == {"report"}


def test_the_audit_model_never_reaches_the_negatives() -> None:
    nodes = pipeline.stages(recipe())
    reached = pipeline.downstream(["audit_model"], nodes)
    assert reached == {"audit_model", "audit", "report"}
    assert "reward_model" not in pipeline.upstream(["audit_model"], nodes)


def test_the_content_of_input_files_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.jsonl", "bench.jsonl"):
        Path(name).write_text("one")
    overrides = ("problems.source=jsonl", "problems.misread_share=0", "problems.train_file=train.jsonl")
    given = recipe(*overrides, "problems.benchmarks={b: bench.jsonl}")
    nodes = pipeline.stages(given)
    marks = [fingerprints.of_stages(given, nodes)]
    for name in ("train.jsonl", "bench.jsonl"):
        Path(name).write_text("two")
        marks.append(fingerprints.of_stages(given, nodes))
    for before, after in itertools.pairwise(marks):
        assert before["problems"] != after["problems"]
        assert before["report"] != after["report"]
    Path("train.jsonl").write_text("one")
    Path("bench.jsonl").write_text("one")
    assert fingerprints.of_stages(given, nodes) == marks[0]
    Path("bench.jsonl").unlink()
    with pytest.raises(UserError, match=r"bench\.jsonl: cannot be read"):
        fingerprints.of_stages(given, nodes)


def test_names_and_groups_are_resolved_and_unknown_ones_get_a_suggestion() -> None:
    nodes = pipeline.stages(recipe())
    assert pipeline.resolve(["sft"], nodes) == ["sft"]
    assert set(pipeline.resolve(["align"], nodes)) == group("align-")
    assert pipeline.resolve(["pairs", "rollouts-pairs", "pairs"], nodes) == ["pairs", "rollouts-pairs"]
    for wrong, near in (("generater", "`generator`"), ("aling", "`align`"), ("negatives-pn", "`negatives-pns`")):
        with pytest.raises(UserError, match="no stage called") as caught:
            pipeline.resolve([wrong], nodes)
        assert near in (caught.value.remedy or "")


JUDGE = "reward.judge=server"


def judged(url: str, **more: str) -> list[str]:
    part = ", ".join([f"server: {{url: {url}}}", *(f"{k}: {v}" for k, v in more.items())])
    return [JUDGE, f"reward.judge_server={{{part}}}"]


def test_how_a_server_is_reached_changes_no_result_but_its_prompt_does(tmp_path: Path) -> None:
    assert changed("reward.verify_workers=2") == set()
    nodes = pipeline.stages(recipe())
    prompt = tmp_path / "mine.txt"
    prompt.write_text("one")

    def marks(*overrides: str) -> dict[str, str]:
        return fingerprints.of_stages(recipe(*overrides), nodes)

    here = marks(*judged("http://a/v1", model="mine"))
    assert marks(*judged("http://b/v1", model="mine", max_calls="5", cache="elsewhere")) == here
    assert marks(*judged("http://a/v1", model="other")) != here
    own = marks(*judged("http://a/v1", prompt=str(prompt)))
    prompt.write_text("two")
    after = marks(*judged("http://a/v1", prompt=str(prompt)))
    assert {n for n in nodes if own[n] != after[n]} >= {"generator", "negatives-pns"}
    assert own["rollouts-pairs"] == after["rollouts-pairs"]


def test_of_a_server_that_names_no_model_the_address_counts() -> None:
    parts = {
        "judge": "reward={{judge: server, judge_server: {{server: {{url: {url}, concurrency: {n}}}{named}}}}}",
        "model": "reward.reward_model={{kind: vllm, path: m, server: {{url: {url}, concurrency: {n}}}{named}}}",
        "writer": "negatives.prompted={{writer: server, server: {{url: {url}, concurrency: {n}}}{named}}}",
    }
    methods = "negatives.methods=[rejection, prompted, pns]"

    def marks(part: str, url: str, n: int = 4, named: str = "") -> dict[str, str]:
        writer = [] if part == "writer" else [parts["writer"].format(url="http://w/v1", n=4, named=", model: w")]
        given = recipe(methods, *writer, parts[part].format(url=url, n=n, named=named))
        return fingerprints.of_stages(given, pipeline.stages(given))

    for part, key in (("judge", "model"), ("model", "name"), ("writer", "model")):
        here, there = marks(part, "http://a/v1"), marks(part, "http://b/v1")
        read_by = {"negatives-prompted"} | ({"generator", "samples-pns"} if part != "writer" else set())
        assert {name for name in here if here[name] != there[name]} >= read_by
        assert here["rlvr"] == there["rlvr"]
        assert marks(part, "http://a/v1", n=8) == here, "how many requests at a time changes no answer"
        named = f", {key}: mine"
        assert marks(part, "http://a/v1", named=named) == marks(part, "http://b/v1", named=named)


def overridden(*overrides: str) -> list[str]:
    """The keys of these overrides that change nothing."""
    found, sources = load_recipe(SMOKE, overrides)
    return sorted(
        pipeline.unread([key for key, source in sources.items() if source == "override"], pipeline.stages(found))
    )


def test_a_key_of_what_is_not_chosen_is_named() -> None:
    alone = ["negatives.methods=[rejection]", "references=[]"]
    own = ["negatives.prefix.rounds=2", "generator.beta=0.3", "negatives.select=best"]
    assert overridden(*alone, *own, "align.beta=0.2", "seed=4", "runtime.jobs=2", "references=[]") == sorted(
        text.split("=")[0] for text in own
    )
    with_gates = overridden(*alone, "negatives.gate_all=true", "negatives.select=best")
    assert with_gates == [], "rejection through all gates is selected, too"
    assert overridden(
        "negatives.methods=[prefix]", "references=[]", "negatives.prefix.rounds=2", "generator.beta=0.3"
    ) == ["generator.beta"]
    assert overridden("uses.rl.beta=0.1") == ["uses.rl.beta"], "a study alone reads it"


def test_with_everything_chosen_everything_is_read() -> None:
    every = [m for m in ALL_METHODS if m not in ("prompted", "mixture")]
    found, sources = load_recipe(
        SMOKE, [f"negatives.methods=[{', '.join(every)}]", "references=[rlvr_more, nsr, w_reinforce]"]
    )
    left = pipeline.unread(sources, pipeline.stages(found))
    assert [key for key in left if not key.startswith(("uses.", "negatives.prompted.", "negatives.mixture"))] == []
