"""What a study says of finished cells: estimates, contrasts, corrections, the page. Results are made up, nothing is trained."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from helpers.study import BENCHMARKS, ROOT, pretend, recipes
from pns.commands.study import _plan, _report
from pns.display import Display
from pns.errors import UserError
from pns.recipe_files import load_recipe
from pns.records import Response, Rubric, Scores, write_parquet
from pns.report import rounds
from pns.report.console import study_table
from pns.report.study import build_study_page, contrast_row, plausibility_table, reading, tuning_rows, usual_settings
from pns.report.study_plots import against_pairs, pairs_lines
from pns.report.view import readings
from pns.report.words import points
from pns.run import Run, fingerprint, read_json, write_json
from pns.scheduler import Task
from pns.study import iterate
from pns.study import protocol as protocols
from pns.study.cells import cells
from pns.study.collect import not_applicable
from pns.study.family import unnamed_family
from pns.study.plausible import plausibility
from pns.study.report import write_report
from pns.study.run import Work, cell_tasks, execute, planned, tune

SWITCHES = {
    "no_judge": {"set": {"reward.weight_judge": 0.0}, "at": ["generator"], "why": "<i>is it the judge?</i>"},
    "pairs_5": {"set": {"pairs.n": 5}, "at": ["pairs"]},
}
SETTINGS: dict[str, Any] = {
    "set": {"report.examples": 3},
    "ablations": {"seeds": [1, 2], "switches": SWITCHES},
    "tuning": {
        "seeds": [11], "grid": {"align.learning_rate": [1e-5, 2e-5]}, "negatives": {"pns": {"generator.beta": [0.1, 0.5]}},
    },
    "uses": ["reward_model", "rl", "step_verifier", "calibration"],
    "hypotheses": ["pns > policy & all"],
}  # fmt: skip


def accuracy(task: Task, kind: str) -> float:
    """pns is better than rejection, rejection than the policy; the larger learning rate is better, the larger KL too."""
    name = task.stage.name
    base = 0.5 if kind == "greedy" else 0.4
    base += 0.02 if task.recipe.align.learning_rate > 1.5e-5 and "align" in name else 0.0
    return base + (0.3 if "-pns" in name else 0.1 if "align" in name else 0.0)


@pytest.fixture
def done(tmp_path: Path) -> tuple[Any, Run]:
    """A study of which every task has a result."""
    found, run = recipes(tmp_path, **SETTINGS), Run.create(tmp_path / "study", "resume")
    work = Work(found)
    for _ in range(3):  # each step of tuning adds tasks that rest on the one before
        work = Work(found)
        tune(work, run)
        pretend(run, work.graph.tasks, accuracy)
    work = Work(found)
    tune(work, run)
    assert work.open_step is None
    for ablations in (False, True):
        cell_tasks(work, ablations=ablations)
    pretend(run, work.graph.tasks, accuracy)
    return found, run


def run_through(found: Any, run: Run, **how: Any) -> None:
    with Display(Console(quiet=True)) as display:
        execute(found, run, display, **{"until": "report", "jobs": 1, **how})


def test_a_finished_study_runs_nothing_and_reports_everything(done: tuple[Any, Run]) -> None:
    found, run = done
    run_through(found, run)
    results, page = write_report(found, run)
    assert json.loads(json.dumps(results)) == read_json(run.folder / "report" / "results.json")
    assert results["complete"] is True
    assert results["cells"]["pns"]["settings"] == {"align.learning_rate": 2e-5}, "tuned on dev"
    assert results["tuning"]["combinations"] == {
        "held: dpo, rejection": 2, "negatives: dpo, pns": 2, "each: dpo, sft_chosen": 2, "each: dpo, rejection": 2,
        "each: dpo, pns": 2,
    }  # fmt: skip
    first, second = results["primary"]
    assert (first["a"], first["b"], second["b"]) == ("pns", "policy", "rejection")
    assert first["greedy"]["difference"] == pytest.approx(0.32, abs=0.07)
    assert first["greedy"]["ci95"][0] > 0
    assert first["seeds"] == [1, 2, 3]
    assert first["seeds_needed"] is not None
    assert results["pns_minus"]["rejection"]["difference"] == pytest.approx(0.2, abs=0.07)
    for row in results["secondary"]:
        assert row["greedy"]["p_holm"] >= row["greedy"]["p_value"]
    assert {(c["a"], c["b"]) for c in results["secondary"]} >= {("pns/own", "rejection/own"), ("rejection", "policy")}
    assert set(results["ablations"]) == {"pns@no_judge", "pns@pairs_5"}
    assert results["ablations"]["pns@no_judge"]["seeds"] == [1, 2]
    assert results["scores"]["correct"] == [1.0, 2.0] * 3
    assert [row["seed"] for row in results["reward_model"]] == [1, 2, 3]
    assert results["cells"]["pns"]["pairs"]["n_by_seed"] == [20] * 3
    _check_uses(results)
    _check_plausibility(results)
    html = page.read_text(encoding="utf-8")
    _check_figures(html)
    assert '<a href="#uses">' in html
    assert '<a href="#plausibility">' in html
    assert "Missing for all: consistent of the wrong, %." in html
    assert "pns is above policy" in html
    _check_seeds_and_settings(html, results)
    assert "&lt;i&gt;is it the judge?&lt;/i&gt;" in html
    assert "pns &gt; policy &amp; all" in html
    assert "<script" not in html
    assert "For a verifier of steps, on the policy&#39;s answers to other problems (3 seeds)" in html
    assert set(results["not_applicable"]) == {"prompted", "a model as judge"}
    assert "<b>prompted</b> is not applicable here: a word-problem model follows no prompt" in html
    said = [line for line in reading(results) if line.startswith("As hard examples for the reward model")]
    assert said == [line for line in results["reading"] if "hard examples" in line]
    assert [line.partition(": ")[2] for line in said] == [
        "pns against rejection 0.000 pair accuracy, 0.000 best of 8; 3 seeds."
    ]
    assert (results["recipe"], results["set"]) == (found.base.name, found.study.set)
    assert f"<dt>Recipe</dt><dd>{found.base.name}</dd>" in html
    assert '<th scope="row">report.examples</th><td class="wrap">3</td>' in html
    samples = pq.read_table(run.folder / "report" / "samples.parquet").to_pylist()
    cells = {c: len(row["seeds"]) for c, row in results["cells"].items()}
    assert len(samples) == sum(cells.values()) * len(BENCHMARKS) * 40 * 3
    _check_negatives(run.folder / "report" / "negatives.parquet")
    mine = [r for r in samples if r["cell"] == "pns" and r["kind"] == "greedy"]
    share = sum(r["outcome"] == "correct" for r in mine) / len(mine)
    assert share == pytest.approx(results["cells"]["pns"]["greedy"]["mean"])
    assert build_study_page(results, run.folder / "report").read_text(encoding="utf-8") == html


def _check_negatives(path: Path) -> None:
    negatives = pq.read_table(path).to_pylist()
    assert {(r["method"], r["seed"]) for r in negatives} == {(m, s) for m in ("rejection", "pns") for s in (1, 2, 3)}
    full = {m: sum(r["judge"] == 1.0 for r in negatives if r["method"] == m) for m in ("rejection", "pns")}
    assert full == {"rejection": 3, "pns": 9}
    assert sum(r["judge"] is None for r in negatives) == 6


DISPLACED = "likelihood displacement: the margin grew by {} nats <b>&"
LONGER = "separable by length: the AUC of length alone is 0.90"


def warn(run: Run, pattern: str, *texts: str) -> None:
    """Make trainings that are done have warned."""
    found = list(run.stages.glob(pattern))
    assert found
    for folder in found:
        write_json(folder / "stats.json", {**read_json(folder / "stats.json"), "warnings": list(texts)})


def test_what_training_warned_of_is_told_cell_by_cell(
    done: tuple[Any, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    found, run = done
    run_through(found, run)
    quiet, page = write_report(found, run)
    assert quiet["cells"]["pns"]["warnings"] == []
    assert "warned of" not in page.read_text(encoding="utf-8")
    for seed in (1, 2):
        warn(run, f"s{seed}-align-pns-*", DISPLACED.format(seed), LONGER)
    warn(run, "s3-align-rejection-own-*", LONGER)
    _report(found, run)
    line = " ".join(capsys.readouterr().out.split())
    results, html = read_json(run.folder / "report" / "results.json"), page.read_text(encoding="utf-8")
    assert results["cells"]["pns"]["warnings"] == [
        {"seed": seed, "text": text} for seed in (1, 2) for text in (DISPLACED.format(seed), LONGER)
    ]
    told = [name for name, cell in results["cells"].items() if cell.get("warnings")]
    assert {"pns/own/each", "pns@no_judge", "rejection/own"} <= set(told)
    for name in told:
        assert html.count(f'<th scope="row">{name}</th><td>separable by length</td>') == 1
    assert '<th scope="row">pns</th><td>likelihood displacement</td><td>2 of 3</td>' in html
    assert "<div>seed 1: the margin grew by 1 nats &lt;b&gt;&amp;</div>" in html
    assert "<div>seed 1, 2: the AUC of length alone is 0.90</div>" in html
    assert '<details class="card"><summary>What training warned of' in html, "many, so folded"
    said = f"separable by length in {len(told)} cells; likelihood displacement in {len(told) - 2} cells"
    assert said in line
    assert said in html


def test_what_training_warned_of_is_told_round_by_round(tmp_path: Path) -> None:
    recipe, _ = load_recipe(ROOT / "recipes" / "smoke.yaml")
    run = Run.create(tmp_path / "rounds", "resume")
    graph, found = iterate.add_all(recipe, [1, 2], 2, ["pns", "sft_chosen"])
    pretend(run, graph.tasks, accuracy, problems=4)
    (run.folder / "report").mkdir()
    quiet = iterate.results_of(recipe, run, graph.tasks, found)
    assert rounds.warned(quiet) == ""
    warn(run, "s2-r1-align-pns-own-*", DISPLACED.format(3))
    results = iterate.results_of(recipe, run, graph.tasks, found)
    results["rounds"]["pns"][1]["negatives"]["fully_consistent"] = 0.25
    head, rows = rounds.table_of("pns", results["rounds"]["pns"])
    assert [row[head.index("of the wrong fully consistent, %")] for row in rows] == ["", "25.0", ""]
    assert [row.get("warnings") for row in results["rounds"]["pns"]] == [
        None, [{"seed": 2, "text": DISPLACED.format(3)}], [],
    ]  # fmt: skip
    assert [row.get("warnings") for row in results["rounds"]["sft_chosen"]] == [None, [], []]
    line = "Training warned of likelihood displacement in 1 round."
    assert rounds.warned(results).startswith(line)
    html = rounds.build_rounds_page(results, run.folder / "report").read_text(encoding="utf-8")
    assert line in html
    assert '<th scope="row">pns, round 1</th><td>likelihood displacement</td><td>1 of 2</td>' in html
    assert "<div>seed 2: the margin grew by 3 nats &lt;b&gt;&amp;</div>" in html


def _check_plausibility(results: dict[str, Any]) -> None:
    """Figures of every method; what could not be had is None."""
    found = results["plausibility"]
    assert list(found) == ["correct", "rejection", "pns"]
    assert found["correct"] == {"reward_model": {"n": 6, "quartiles": (1.0, 1.5, 2.0)}}
    assert found["pns"]["yield"] == {
        "n": 9, "wrong": pytest.approx(0.6), "plausible": pytest.approx(0.4), "kl_to_policy": 1, "fully_consistent": None,
    }  # fmt: skip
    assert found["rejection"]["yield"] is None
    assert found["pns"]["fully_consistent"] == {"mean": 0.75, "by_seed": [0.75] * 3}
    assert found["rejection"]["fully_consistent"]["mean"] == 0.25
    assert found["pns"]["reward_model"] == {
        "n": 6, "quartiles": (0.5, 1.0, 1.5), "auc": {"mean": 0.75, "by_seed": [0.75] * 3},
    }  # fmt: skip
    assert found["rejection"]["reward_model"]["auc"]["mean"] == 1
    assert plausibility_table(results) == {
        "columns": [
            "samples a seed", "wrong, %", "plausible, %", "KL to the policy, nats", "negatives: fully consistent, %", "scored",
            "score: quartiles", "AUC against correct",
        ],
        "rows": [
            ("correct responses", ["–"] * 5 + ["6", "1.00 / 1.50 / 2.00", "–"]),
            ("rejection", ["–"] * 4 + ["25.0", "6", "−1.00 / −0.50 / 0.00", "1.00"]),
            ("pns", ["9", "60.0", "40.0", "1.00", "75.0", "6", "0.50 / 1.00 / 1.50", "0.75"]),
        ],
        "missing": ["consistent of the wrong, %"],
    }  # fmt: skip


def test_the_page_is_silent_on_plausibility_of_which_nothing_is_known() -> None:
    assert plausibility_table({}) is None
    nothing = {"yield": None, "fully_consistent": None, "reward_model": None}
    assert plausibility_table({"plausibility": {"correct": {"reward_model": None}, "flip": nothing}}) is None


def test_a_seed_without_a_share_leaves_no_mean(tmp_path: Path) -> None:
    folders = {}
    for seed, rubrics in ((1, 1), (2, 0)):
        folders[seed] = tmp_path / str(seed)
        folders[seed].mkdir()
        write_json(folders[seed] / "stats.json", {"candidates": 1})
        scores = Scores(gate="scored", score=0.5, well_formed=True, rubric=FULL if rubrics else None)
        row = Response(problem_id="a", text="1", index=0, source="x", n_tokens=1, scores=scores)
        write_parquet(folders[seed] / "negatives.parquet", [row])
    scores_of = {1: {"correct": [1.0], "flip": [0.0]}, 2: {"correct": [], "flip": [float("nan"), 2.0]}}
    audits = {1: {"heldout_auc": {"flip": 0.25}}, 2: {"heldout_auc": {"flip": 0.75}}}
    found = plausibility(["flip", "prefix"], {"flip": folders}, scores_of, audits)
    assert found["flip"]["fully_consistent"] == {"mean": None, "by_seed": [1, None]}
    assert found["flip"]["reward_model"]["n"] == 2
    assert found["flip"]["reward_model"]["auc"] == {"mean": None, "by_seed": [1, None]}
    assert found["flip"]["heldout_auc"] == {"mean": 0.5, "by_seed": [0.25, 0.75]}
    nothing = dict.fromkeys(("yield", "fully_consistent", "reward_model", "heldout_auc"))
    assert found["prefix"] == nothing
    assert plausibility(["flip"], {}, {}, {})["flip"] == nothing


FULL = Rubric(relevance=3, coherence=3, completeness=3, consistency=3)


def _check_uses(results: dict[str, Any]) -> None:
    """Each use has its models, and pns against every other one; RL on reward models has cells."""
    uses = results["uses"]
    assert list(uses) == ["reward_model", "step_verifier", "calibration"]
    assert list(uses["reward_model"]["figures"]) == ["plain", "rejection", "pns"]
    assert uses["reward_model"]["figures"]["pns"]["best_of_8"] == {"mean": 0.5, "by_seed": [0.5] * 3}
    found = {(c["a"], c["b"], c["figure"]): c for c in uses["step_verifier"]["contrasts"]}
    assert found["pns", "rejection", "f1"]["difference"] == pytest.approx(0.2)
    assert found["pns", "rejection", "auc"]["difference"] == 0
    best, *methods = uses["calibration"]["figures"]
    assert methods == ["rejection", "pns"]
    assert uses["calibration"]["figures"][best]["both: brier"]["mean"] == pytest.approx(0.1)
    assert uses["calibration"]["figures"]["pns"]["judge: ece"] == {"mean": None, "by_seed": [None] * 3}
    assert {(c["a"], c["b"]) for c in results["secondary"]} >= {("rl_pns", "rl_rejection"), ("rl_pns", "rl_plain")}


FIGURES = (
    ("lines 95 % intervals over seeds and problems; the dashed line is the policy, greedy.", ("mean accuracy over",)),
    ("Differences with 95 % intervals over seeds; filled: primary", ("difference in greedy accuracy",)),
    ("What each cell gained over the policy, beside the KL that it took", ("KL from the policy,", "greedy, points")),
    (
        "Raw scores of the reward model, all seeds together: correct responses, and the negatives of each method.",
        ("correct (n = 6)", "pns (n = 6)", "rejection (n = 6)", "score of the reward model"),
    ),
    ("What became of its samples, by the gate that decided.", ("wrong, scored", "correct", "malformed", "share, %")),
    ("The composite reward R, mean of a step.", ("mean reward",)),
    ("Accuracy against the number of pairs.", ("greedy accuracy, %",)),
)
"""Of each figure of the page: words of its caption, and texts in its SVG."""


def _check_seeds_and_settings(html: str, results: dict[str, Any]) -> None:
    """What is the same in every row is said above the table, and a value of a seed under its number."""
    assert "What is trained on pairs or their chosen sides has learning_rate 2e-05." in html
    assert html.count('<th scope="col">Settings</th>') == 1, "that of the tuning"
    heads = re.findall(r'<th scope="col">(seed \d)</th>', html)
    assert heads[:3] == ["seed 1", "seed 2", "seed 3"]
    by_seed = [points(x) for x in results["primary"][0]["greedy"]["by_seed"]]
    assert "".join(f"<td>{x}</td>" for x in by_seed) in html


def _check_figures(html: str) -> None:
    """Every figure stands on the page, with its caption and its drawing."""
    found = re.findall(r"<figure[^>]*><figcaption>(.*?)</figcaption>(.*?)</figure>", html, re.DOTALL)
    assert len(found) == len(FIGURES)
    for words, labels in FIGURES:
        (drawing,) = [drawing for caption, drawing in found if words in caption]
        assert drawing.strip().startswith("<svg")
        assert "<path" in drawing
        for label in labels:
            assert label in drawing, (words, label)


def test_accuracy_and_pairs_are_means_over_the_same_seeds() -> None:
    cells = {
        "pns": {
            "model": "pns", "switch": None, "seeds": [1, 2, 3], "pairs": {"n": 40, "n_by_seed": [10, 20, 90]},
            "greedy": {"by_seed": [0.5, 0.7, 0.1]},
        },
        "pns@few": {
            "model": "pns", "switch": "few", "seeds": [2, 1], "pairs": {"n": 5, "n_by_seed": [4, 6]},
            "greedy": {"by_seed": [0.4, 0.2]},
        },
        "pns@judge": {"model": "pns", "switch": "judge", "seeds": [1], "pairs": {}, "greedy": {"by_seed": [0.9]}},
    }  # fmt: skip
    results = {
        "metric": "greedy", "cells": cells,
        "ablations": {name: {"b": "pns", "seeds": [1, 2]} for name in ("pns@few", "pns@judge")},
        "switches": {"few": {"set": {"pairs.n": 5}}, "judge": {"set": {"reward.weight_judge": 0.0}}},
    }  # fmt: skip
    (points,) = pairs_lines(results).values()
    assert [x for point in points for x in point] == pytest.approx([5, 30, 15, 60])
    assert "<svg" in str(against_pairs(results))


def test_a_study_ends_with_one_count_and_a_table_that_explains_itself(done: tuple[Any, Run]) -> None:
    found, run = done
    with Display(Console(file=(said := io.StringIO()), width=200)) as display:
        execute(found, run, display, until="report", jobs=1)
    _, _, after = said.getvalue().partition("protocol ")
    assert after.count("stages are done already") == 1, "ablations that are done have no count of their own"
    Console(file=(said := io.StringIO()), width=200).print(study_table(write_report(found, run)[0]))
    shown = " ".join(said.getvalue().split())
    for part in ("KL, nats", "Needed: seeds, to see", "In brackets: 95 % intervals over seeds and problems."):
        assert part in shown


def test_what_rounds_have_stands_below_each_other() -> None:
    assert rounds.turned(["round", "a", "b"], [["0", "1", ""], ["1", "2", "3"]]) == (
        ["", "round 0", "round 1"], [["a", "1", "2"], ["b", "", "3"]],
    )  # fmt: skip


def test_the_rounds_page_explains_the_methods_that_it_has_and_columns_that_are_filled(tmp_path: Path) -> None:
    recipe, _ = load_recipe(ROOT / "recipes" / "smoke.yaml")
    run = Run.create(tmp_path / "rounds", "resume")
    graph, found = iterate.add_all(recipe, [1], 1, ["pns", "rejection"])
    pretend(run, graph.tasks, accuracy, problems=4)
    html = rounds.build_rounds_page(iterate.results_of(recipe, run, graph.tasks, found), tmp_path).read_text(
        encoding="utf-8"
    )
    assert "pns trains a generator" in html
    assert "rejection aligns the policy on its own mistakes" in html
    assert "sft_" not in html
    assert "t over seeds" not in html, "one seed"
    assert "<td></td>" not in html
    assert "round 0 is the start itself" in html


def test_settings_that_most_have_are_said_once() -> None:
    cells: dict[str, Any] = {
        "policy": {"settings": {}},
        "pns": {"settings": {"align.beta": 0.4, "align.learning_rate": 1e-4}},
        "fill": {"settings": {"align.beta": 0.4, "align.learning_rate": 1e-5, "align.nll_weight": 5}},
        "pns/low": {"settings": {"align.beta": 0.4, "align.learning_rate": 1e-4}},
    }
    assert usual_settings(cells) == {"align.beta": 0.4, "align.learning_rate": 1e-4}, "nll_weight is not set for all"
    assert usual_settings({"policy": {"settings": {}}}) == {}


def test_chosen_sides_that_the_control_cut_are_told_of(done: tuple[Any, Run]) -> None:
    found, run = done
    run_through(found, run)
    assert "warnings" not in write_report(found, run)[0]["cells"]["sft_chosen"]
    for folder in run.stages.glob("s[123]-align-sft_chosen-*"):
        cut = 2 * folder.name.startswith("s1-")
        write_json(folder / "stats.json", {"cut": {"chosen": cut}, "warnings": ["cut"] * (cut > 0)})
    results, _ = write_report(found, run)
    assert results["cells"]["sft_chosen"]["warnings"] == [{"seed": 1, "text": "cut"}]
    assert "pairs" not in results["cells"]["sft_chosen"]


def test_a_study_at_work_reports_what_there_is(done: tuple[Any, Run]) -> None:
    found, run = done
    run_through(found, run)
    for path in [*run.stages.glob("s3-test-align-pns-*"), *run.stages.glob("s*-test-align-rejection-matched-*")]:
        path.rename(run.folder / path.name)
    results, page = write_report(found, run)
    assert results["complete"] is False
    assert results["missing"]["pns"] == [3]
    assert [c["b"] for c in results["primary"]] == ["policy"], "rejection is not there"
    assert results["primary"][0]["seeds"] == [1, 2]
    assert "Not complete" in page.read_text(encoding="utf-8")
    # The contrasts with rejection cannot be made yet; they were planned, so they count.
    raw = {(c["a"], c["b"]): c["greedy"] for c in results["secondary"]}
    family = len(read_json(run.folder / protocols.FILE)["family"])
    assert len(raw) < family == results["family"]
    least = min(raw.values(), key=lambda c: c["p_value"])
    assert least["p_holm"] == pytest.approx(min(1.0, family * least["p_value"]))


def test_the_report_corrects_over_the_family_of_the_frozen_protocol(
    done: tuple[Any, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, run = done
    run_through(found, run)
    before, _ = write_report(found, run)
    assert [[c["a"], c["b"]] for c in before["secondary"]] == read_json(run.folder / protocols.FILE)["family"]
    # Another version expands another family: nothing moves, and the study goes on.
    monkeypatch.setattr(protocols, "family", lambda recipes: [("pns", "sft_chosen")])
    assert write_report(found, run)[0]["secondary"] == before["secondary"]
    run_through(found, run)
    # One that was changed by hand is told.
    path = run.folder / protocols.FILE
    frozen = read_json(path)
    without = {k: v for k, v in frozen.items() if k != "family"}
    for changed in ({**frozen, "family": frozen["family"][:1]}, without):
        write_json(path, changed)
        for act in (lambda: write_report(found, run), lambda: run_through(found, run)):
            with pytest.raises(UserError, match=r"protocol.json was changed since"):
                act()


def test_a_protocol_that_names_no_family_keeps_its_p_values(done: tuple[Any, Run]) -> None:
    found, run = done
    run_through(found, run, until="protocol")
    path = run.folder / protocols.FILE
    body = {k: v for k, v in read_json(path).items() if k not in ("written", "fingerprint", "family")}
    old = {"written": "then", "fingerprint": fingerprint(body=body), **body}
    write_json(path, old)
    protocols.open_test(run, old)
    run_through(found, run)
    results, _ = write_report(found, run)
    assert read_json(path) == old
    assert [(c["a"], c["b"]) for c in results["secondary"]] == unnamed_family(found.study)
    assert ("rejection", "sft_chosen") not in unnamed_family(found.study)


def test_one_seed_makes_no_claim_about_a_method(done: tuple[Any, Run]) -> None:
    found, run = done
    run_through(found, run)
    for path in [*run.stages.glob("s2-test-align-pns-matched-*"), *run.stages.glob("s3-test-align-pns-matched-*")]:
        path.rename(run.folder / path.name)
    results, page = write_report(found, run)
    assert results["primary"][0]["seeds"] == [1]
    html = page.read_text(encoding="utf-8")
    assert "pns is not clear of policy" in html
    assert "over the problems of one seed" in html
    assert "Fewer than five seeds" in html


def test_another_study_is_told_before_it_changes_anything(done: tuple[Any, Run], tmp_path: Path) -> None:
    found, run = done
    run_through(found, run)
    before = {name: (run.folder / name).read_bytes() for name in ("study.yaml", "tuning.json", protocols.FILE)}
    (tmp_path / "other").mkdir()
    for changes, what in (
        ({"seeds": [1, 2]}, "seeds, cells"),
        ({"metric": "sampled"}, "metric"),
        ({"tuning": {**SETTINGS["tuning"], "seeds": [12]}}, "tuning"),
    ):
        other = recipes(tmp_path / "other", **{**SETTINGS, **changes})
        for act in (lambda other=other: run_through(other, run), lambda other=other: write_report(other, run)):
            with pytest.raises(UserError, match=f"opened under another protocol; what differs: {what}"):
                act()
    assert {name: (run.folder / name).read_bytes() for name in before} == before


def test_a_study_misses_what_a_late_stage_is_to_read_before_the_first(tmp_path: Path) -> None:
    named = {"reward.reward_model": {"kind": "transformers", "path": "a/b"}}
    run = Run.create(tmp_path / "study", "resume")
    with pytest.raises(UserError, match="this reward model has no calibration"):
        run_through(recipes(tmp_path, **{**SETTINGS, "set": named}), run)
    assert not list(run.stages.glob("*"))


def test_the_test_split_waits_for_the_protocol(done: tuple[Any, Run]) -> None:
    found, run = done
    run_through(found, run, until="tuning")
    assert not (run.folder / protocols.FILE).exists()
    with pytest.raises(UserError, match="tuning is not over"):
        write_report(found, run)
    run_through(found, run, until="protocol")
    assert (run.folder / protocols.FILE).exists()
    assert not (run.folder / protocols.OPENED).exists()
    run_through(found, run)
    assert read_json(run.folder / protocols.OPENED)["protocol"] == read_json(run.folder / protocols.FILE)["fingerprint"]


def test_the_plan_of_a_new_study_is_there_before_anything_has_run(tmp_path: Path) -> None:
    found = recipes(tmp_path, **SETTINGS)
    shares = planned(found, Run(tmp_path / "nowhere")).shares
    assert [s.phase for s in shares] == ["tuning", "test", "ablations"]
    assert all(s.tasks and s.done == 0 and s.seconds_left for s in shares)
    assert not (tmp_path / "nowhere").exists()


def test_the_plan_counts_all_of_tuning_and_the_cells_that_it_may_tell_apart(
    done: tuple[Any, Run], tmp_path: Path
) -> None:
    found, run = done
    fresh = planned(found, Run(tmp_path / "nowhere")).shares
    over = planned(found, run).shares
    assert all(share.supposed for share in fresh)
    assert not any(share.supposed for share in over)
    # Here tuning chose the larger rate for all, so held and each are the same models; the plan could not know.
    assert fresh[0].tasks >= over[0].tasks
    each = [n for n, c in cells(found.study).items() if c.protocol == "each"]
    assert fresh[1].tasks - over[1].tasks == 2 * 3 * len(each), "trained and scored, three seeds"
    # One combination of each leaves nothing to choose, so there is nothing to suppose.
    (tmp_path / "other").mkdir()
    settled = recipes(tmp_path / "other", tuning={"seeds": [11], "grid": {"align.beta": [0.2]}})
    assert not any(share.supposed for share in planned(settled, Run(tmp_path / "nowhere")).shares)


def test_nothing_to_tune_takes_no_seed(tmp_path: Path) -> None:
    given = {"seeds": [], "grid": {"align.beta": [0.2]}, "negatives": {"pns": {"generator.beta": [0.3]}}}
    found = recipes(tmp_path, tuning=given)
    work = Work(found)
    tune(work, Run(tmp_path / "nowhere"))
    assert work.open_step is None
    assert not work.graph.tasks
    assert not work.trials
    assert work.tuned.held == {"dpo": {"align.beta": 0.2}}
    assert work.tuned.negatives == {"pns": {"generator.beta": 0.3}}
    shares = planned(found, Run(tmp_path / "nowhere")).shares
    assert shares[0].tasks == 0
    assert shares[1].tasks
    assert not any(share.supposed for share in shares)
    assert tuning_rows({"tuning": {"metric": "mean", "trials": work.trials}}) == []


def test_the_plan_says_that_tuning_may_change_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _plan(recipes(tmp_path, **SETTINGS), Run(tmp_path / "nowhere"), 1)
    assert "Tuning is not over: settings of its grids stand for" in " ".join(capsys.readouterr().out.split())


def contrast(difference: float, ci: tuple[float, float], t: tuple[float, float] | None) -> dict[str, Any]:
    return {"difference": difference, "ci95": ci, "ci95_t": t}


@pytest.mark.parametrize(
    ("ci", "t", "words"),
    [
        ((0.01, 0.03), (0.005, 0.035), "pns is above policy: +2.0 points greedy"),
        ((-0.03, -0.01), (-0.04, -0.001), "pns is below policy"),
        ((0.01, 0.03), (-0.01, 0.05), "pns is not clear of policy"),
        ((-0.01, 0.03), None, "pns is not clear of policy"),
        ((0.01, 0.03), None, "pns is not clear of policy"),
    ],
)
def test_the_reading_claims_only_what_both_intervals_say(ci: Any, t: Any, words: str) -> None:
    c = {
        "a": "pns", "b": "policy", "seeds": [1, 2], "greedy": contrast(0.02, ci, t),
        "sampled": contrast(0.01, (0.0, 0.02), None), "smallest_difference": 0.04,
    }  # fmt: skip
    said = reading({"primary": [c], "metric": "greedy"})
    assert said[0].startswith(words)
    assert (len(said) == 2) == ("not clear" in words)


def test_the_reading_says_of_other_uses_what_the_primary_contrasts_ask() -> None:
    def told(b: str, ci: Any) -> dict[str, Any]:
        return {"a": "pns", "b": b, "figure": "pair_accuracy", "difference": 0.002, "ci95_t": ci}

    uses = {"reward_model": {"seeds": [1, 2], "contrasts": [told("rejection", (-0.033, 0.038)), told("plain", None)]}}
    c = {
        "a": "pns", "b": "rejection", "seeds": [1, 2], "greedy": contrast(0.02, (0.01, 0.03), (0.01, 0.03)),
        "sampled": contrast(0.01, (0.0, 0.02), None), "smallest_difference": 0.04,
    }  # fmt: skip
    _, said = reading({"primary": [c], "metric": "greedy", "uses": uses})
    assert said == (
        "As hard examples for the reward model, on the policy's held-out answers: pns against rejection +0.002 pair accuracy "
        "(t over seeds −0.033 to +0.038); 2 seeds."
    )


def test_what_another_model_does_is_applicable(tmp_path: Path) -> None:
    own = recipes(tmp_path).base
    prompted = own.negatives.prompted.model_copy(update={"writer": "model", "model": "a/b"})
    written = own.model_copy(update={"negatives": own.negatives.model_copy(update={"prompted": prompted})})
    judged = own.model_copy(update={"reward": own.reward.model_copy(update={"judge": "my.module:judge"})})
    taught = own.model_copy(update={"model": own.model.model_copy(update={"kind": "pretrained"})})
    found = [list(not_applicable(recipe)) for recipe in (own, written, judged, taught)]
    assert found == [["prompted", "a model as judge"], ["a model as judge"], ["prompted"], []]


@pytest.mark.parametrize(
    ("t", "p_holm", "words"),
    [
        ((0.01, 0.03), None, "gain"),
        ((0.01, 0.03), 0.01, "gain"),
        ((0.01, 0.03), 0.41, "gain, not after Holm"),
        ((-0.03, -0.01), 0.05, "loss, not after Holm"),
        ((-0.01, 0.03), 0.9, "not significant"),
    ],
)
def test_what_does_not_stand_after_the_correction_is_no_plain_gain(t: Any, p_holm: float | None, words: str) -> None:
    found = {**contrast(0.02, t, t), "p_value": 0.02, "by_seed": [0.02, 0.02]} | (
        {} if p_holm is None else {"p_holm": p_holm}
    )
    row = contrast_row(
        {"a": "a", "b": "b", "seeds": [1, 2], "greedy": found, "sampled": found, "seeds_needed": 2, "kl": [0, 0]},
        "greedy",
    )
    assert [readings()[row[f"{key}_reading"]] for key in ("main", "other")] == [words, words]


def test_seeds_that_agree_to_the_digit_are_told_of_where_an_interval_would_stand() -> None:
    def found(*by_seed: float) -> dict[str, Any]:
        spread = None if len(by_seed) == 1 else max(by_seed) - min(by_seed)
        t = [0.1, 0.6] if spread else None
        return {"difference": by_seed[0], "ci95": [0.0, 0.9], "ci95_t": t, "by_seed": list(by_seed), "seed_sd": spread}

    row = {"a": "pns", "b": "rejection", "round": 1, "greedy": found(0.5, 0.5), "sampled": found(0.5, 0.25)}
    ((_, _, _, alike, _, spread),) = rounds.contrasts_of({"contrasts": [row]})
    assert (alike, spread) == ("all seeds alike", "+10.0 to +60.0")
    assert rounds.contrasts_of({"contrasts": [{**row, "greedy": found(0.5)}]})[0][3] == "", "one seed has no spread"
