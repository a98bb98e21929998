"""The commands of the README on a finished run: what they print, what they leave, what they do not do again."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pns import pipeline
from pns.recipe import METHODS
from pns.recipe_files import load_recipe
from pns.records import Pair, Response, read_parquet

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
MODELS = ("policy", "sft_chosen", "rlvr_more", *METHODS)


def results(smoke: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((smoke.folder / "report" / "results.json").read_text(encoding="utf-8"))
    return found


def numbers(*values: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def test_a_run_says_what_it_does_and_ends_with_a_table(smoke: Any, smoke_recipe: Path) -> None:
    nodes = pipeline.stages(load_recipe(smoke_recipe)[0])
    for name in nodes:
        assert re.search(rf"^\[\d+/{len(nodes)}\] {name} done in \d+:\d\d ", smoke.output, re.MULTILINE), name
    assert f"[{len(nodes)}/{len(nodes)}] report done" in smoke.output
    table = smoke.output.rpartition("smoke: mean accuracy")[2]
    assert all(re.search(rf"\b{m}\b", table) for m in MODELS)
    assert f"report: {smoke.folder / 'report' / 'index.html'}" in smoke.output
    assert "Traceback" not in smoke.output
    assert "Warning" not in smoke.output


def test_results_have_every_key(smoke: Any) -> None:
    data = results(smoke)
    assert (data["recipe"], data["seed"]) == ("smoke", 0)
    assert set(MODELS) <= set(data["mean"])
    assert all(0 <= x <= 1 for x in data["mean"].values())
    assert len(data["benchmarks"]) == 7
    for cells in data["benchmarks"].values():
        for method in MODELS:
            cell = cells[method]
            low, high = cell["ci95"]
            assert 0 <= low <= cell["accuracy"] <= high <= 1
            assert cell["n"] == 8
    for method in set(MODELS) - {"policy"}:
        assert numbers(data["paired"][method]["difference_to_policy"], *data["paired"][method]["ci95"])
    for key in ("well_formed", "wrong", "correct", "undecided", "unscored", "plausible"):
        assert 0 <= data["generator"][key] <= 1, key
    assert numbers(data["generator"]["distinct_answers"], data["generator"]["kl_to_policy"])
    assert set(data["plausibility"]["reward_model"]) == {"correct", *METHODS}
    assert set(data["plausibility"]["heldout_auc"]) == set(METHODS)
    pair_keys = ("n", "coverage", "separated_before", "separated_after", "chosen_logp_shift", "rejected_logp_shift")
    for method in METHODS:
        assert numbers(*(data["pairs"][method][key] for key in pair_keys)), method
    assert len({data["pairs"][method]["n"] for method in METHODS}) == 1, "matched pairs are equally many"
    assert set(data["seconds"]) == set(smoke.states())
    assert data["total_seconds"] == pytest.approx(sum(data["seconds"].values()), abs=0.01)


def test_gates_of_the_generator_add_up(smoke: Any) -> None:
    got = results(smoke)["generator"]
    assert sum(got[k] for k in ("malformed", "undecided", "correct", "wrong", "unscored")) == pytest.approx(1)
    assert got["plausible"] <= got["wrong"] <= got["well_formed"]


def test_pairs_are_right_on_one_side_and_wrong_on_the_other(smoke: Any) -> None:
    folder = smoke.run.published(smoke.label("pairs"))
    answers = {p.id: p.answer for p in smoke_problems(smoke, "pairs")}
    matched = {m: read_parquet(folder / f"matched-{m}.parquet", Pair) for m in METHODS}
    assert len({tuple((p.problem_id, p.chosen) for p in rows) for rows in matched.values()}) == 1
    for method in METHODS:
        for pair in [*matched[method], *read_parquet(folder / f"own-{method}.parquet", Pair)]:
            assert pair.chosen_answer == answers[pair.problem_id] != pair.rejected_answer
            assert pair.scores is not None
            assert (pair.method, pair.scores.gate, pair.scores.inversion) == (method, "scored", 1.0)


def smoke_problems(smoke: Any, split: str) -> list[Any]:
    from pns.records import Problem

    return read_parquet(smoke.run.published(smoke.label("problems")) / f"{split}.parquet", Problem)


def test_every_response_has_its_provenance(smoke: Any) -> None:
    rows = read_parquet(smoke.run.published(smoke.label("samples-pns")) / "candidates.parquet", Response)
    assert len(rows) == 32 * 4
    for row in rows:
        assert row.source == "pns"
        assert row.sampling["temperature"] == 1.0
        assert row.sampling["generator_logp"] <= 0
        assert row.policy_logp is not None
        assert row.policy_logp <= 0
        assert row.verdict is not None
        assert row.scores is not None


class Links(HTMLParser):
    """Everything in a page that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "action", "poster", "data") and v]


def test_the_page_needs_no_network(smoke: Any) -> None:
    text = (smoke.folder / "report" / "index.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert all(link.startswith(("#", "data:")) for link in page.found)
    assert not re.search(r"@import|url\((?!\s*['\"]?(data:|#))", text)
    assert all(m in text for m in MODELS)
    assert len(text) > 20_000


def test_the_manifest_says_how_the_run_was_made(smoke: Any) -> None:
    data = json.loads((smoke.folder / "manifest.json").read_text(encoding="utf-8"))
    assert data["command"][1] == "run"
    assert (data["recipe"], data["seed"], data["inputs"]) == ("smoke", 0, {})
    assert {"pns", "python", "torch", "transformers", "trl", "datasets"} <= set(data["versions"])
    assert set(data["stages"]) == set(smoke.states())
    for stage in data["stages"].values():
        assert stage["seconds"] >= 0
        assert stage["peak_memory_bytes"] > 1e7


def tree(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_second_run_finds_everything_done(here: Any, own: Any, smoke_recipe: Path) -> None:
    before = tree(own.folder)
    output = here("run", smoke_recipe, "--run-dir", own.folder)
    assert f"{len(own.states())} of {len(own.states())} stages are done already" in output
    assert "smoke: mean accuracy" in output
    after = tree(own.folder)
    assert {name for name in after if after[name] != before.get(name)} <= {"manifest.json", "recipe.yaml", "lock"}
    assert set(after) == set(before)
    # Nothing was started, so nothing waited for the heavy libraries either.
    assert " ..." not in output


def test_show_lists_every_stage(here: Any, smoke: Any) -> None:
    output = here("show", smoke.folder)
    for name, state in smoke.states().items():
        line = next(line for line in output.splitlines() if f" {name} " in line)
        assert " done " in line
        assert state["digest"][:12] in line
    assert f"{len(smoke.states())} of {len(smoke.states())} stages done" in output


def test_inspect_shows_pairs_side_by_side(here: Any, smoke: Any) -> None:
    (pair, *_) = read_parquet(smoke.run.published(smoke.label("pairs")) / "matched-corruption.parquet", Pair)
    output = here("inspect", smoke.folder, "--method", "corruption", "--n", "1")
    assert "1 of 1" in output
    for text in (
        pair.prompt.split(".")[0],
        f"chosen (reference), answer {pair.chosen_answer}",
        "rejected, answer",
        "»",
    ):
        assert text in output
    assert f"answer {pair.rejected_answer}" in output
    assert "own" not in output
    assert here("inspect", smoke.folder, "--method", "pns", "--regime", "own", "--n", "2").count("of 2") == 2
    wrong = here("inspect", smoke.folder, "--method", "guess", code=2)
    assert "matched-pns" in wrong
    assert "Traceback" not in wrong


def test_recipe_prints_every_value_with_its_source(here: Any, smoke_recipe: Path) -> None:
    output = here("recipe", smoke_recipe, "align.beta=0.25", env={"COLUMNS": "400"})
    lines = {cells[1]: cells[2:4] for line in output.splitlines() if len(cells := re.split(r"\s*│\s*", line)) > 3}
    assert lines["align.beta"] == ["0.25", "override"]
    assert lines["align.learning_rate"] == ["2e-05", str(smoke_recipe)]
    assert lines["rollouts.temperature"] == ["1.0", "default"]
    assert len(lines) > 90


def test_a_key_that_nothing_reads_is_named(here: Any, smoke_recipe: Path) -> None:
    for command in (("plan", "--offline"), ("run", "--until", "start")):
        name, *options = command
        keys = ["negatives.methods=[rejection]", "references=[]", "generator.beta=0.2", "align.beta=0.2"]
        output = here(name, smoke_recipe, *keys, *options)
        assert "note: generator.beta changes nothing: no stage of this recipe reads it" in output
        assert output.count("changes nothing") == 1


def test_report_builds_the_page_again(here: Any, own: Any) -> None:
    page = own.folder / "report" / "index.html"
    before, kept = page.read_text(encoding="utf-8"), results(own)
    page.unlink()
    (own.folder / "report" / "results.json").unlink()
    assert str(page) in here("report", own.folder)
    assert len(page.read_text(encoding="utf-8")) == pytest.approx(len(before), rel=0.05)
    assert results(own) == kept


def test_one_changed_key_runs_only_what_depends_on_it(here: Any, own: Any, smoke_recipe: Path) -> None:
    before = own.states()
    output = here("run", smoke_recipe, "align.beta=0.9", "--run-dir", own.folder, "--until", "evaluate-pns")
    after = own.states()
    again = {name for name in after if after[name] != before[name]}
    assert again == {"align-pns-matched", "evaluate-pns"}
    assert set(re.findall(r"\] (\S+) done", output)) == again
    assert after["align-pns-matched"]["digest"] != before["align-pns-matched"]["digest"]
    shown = {line.split()[1]: line for line in here("show", own.folder).splitlines() if line.startswith("│")}
    for name, line in shown.items():
        stale = name.startswith(("align-", "evaluate-")) or name == "report"
        stale = stale and name not in (*again, "evaluate-policy", "evaluate-sft", "evaluate-rlvr_more")
        assert (" stale " in line) == stale, line
        assert (" done " in line) != stale, line


def test_a_key_of_the_report_runs_the_report_alone(here: Any, own: Any, smoke_recipe: Path) -> None:
    before, page = own.states(), (own.folder / "report" / "index.html").read_text(encoding="utf-8")
    output = here("run", smoke_recipe, "report.examples=2", "--run-dir", own.folder)
    assert re.findall(r"\] (\S+) done", output) == ["report"]
    after = own.states()
    assert {name for name in after if after[name] != before[name]} == {"report"}
    assert (own.folder / "report" / "index.html").read_text(encoding="utf-8") != page


def test_from_runs_a_stage_and_what_depends_on_it_again(here: Any, own: Any, smoke_recipe: Path) -> None:
    before = own.states()
    command = ("run", smoke_recipe, "--run-dir", own.folder, "--from", "rollouts-audit", "--until", "audit")
    output = here(*command)
    assert set(re.findall(r"\] (\S+) done", output)) == {"rollouts-audit", "audit_model", "audit"}
    after = own.states()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"rollouts-audit", "audit_model", "audit"}
    assert {n: s["digest"] for n, s in after.items()} == {n: s["digest"] for n, s in before.items()}


def test_until_stops_there_and_on_existing_is_obeyed(here: Any, smoke_recipe: Path) -> None:
    output = here("run", smoke_recipe, "name=a", "--until", "start")
    assert re.findall(r"\] (\S+) done", output) == ["start"]
    made = {p.suffix for p in (here.folder / "runs" / "a" / "stages" / "02-start" / "model").iterdir()}
    assert ".safetensors" in made
    assert not made & {".bin", ".pt", ".pkl"}, "pickles"
    assert not (here.folder / "runs" / "a" / "report").exists()
    refused = here("run", smoke_recipe, "--run-dir", "runs/a", "--until", "start", "--on-existing", "fail", code=2)
    assert "this run exists" in refused
    assert "--on-existing" in refused
    beside = here("run", smoke_recipe, "--run-dir", "runs/a", "--until", "start", "--on-existing", "new")
    assert re.findall(r"\] (\S+) done", beside) == ["start"]
    one, two = (
        json.loads((here.folder / "runs" / name / "stages" / "02-start" / "stage.json").read_text())["digest"]
        for name in ("a", "a-2")
    )
    assert one == two
    missing = here("stage", "rlvr", smoke_recipe, "--run-dir", "runs/a", code=2)
    assert "stage rlvr needs problems, sft" in missing
    assert "--until sft" in missing


@pytest.mark.parametrize("command", ["", "run", "stage", "show", "inspect", "recipe", "report"])
def test_help_has_examples(pns: Any, command: str) -> None:
    output = pns(*filter(None, [command]), "--help")
    assert "Example" in output
    assert re.search(rf"pns {command or 'run'} (recipes/|runs/|generator)", output)
