"""The page and the terminal tables: what they say, what they survive, what they never let through."""

from __future__ import annotations

import copy
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from rich.console import Console

from pns.records import Pair, Rubric, Scores
from pns.report import build as build_module
from pns.report import plots, view, words
from pns.report.build import build_report
from pns.report.console import inspect_pairs, results_table
from pns.report.diff import mark_steps, mark_words, printable

METHODS = ("policy", "sft_chosen", "rlvr_more", "rejection", "flip", "corruption", "pns")
NEGATIVES = METHODS[3:]
BENCHMARKS = ("in_distribution", "longer", "larger", "distractors", "reordered", "unseen_pairings", "comparison")
HOSTILE = "<script>alert(1)</script> [bold]x[/bold] [/] {{ 7*7 }} \x1b[2J \u202e \ud800 <img src=http://evil.test/x>"


def _spread(mean: dict[str, float], half: float) -> dict[str, list[float]]:
    return {m: [round(v - half, 4), round(v + half, 4)] for m, v in mean.items()}


def _paired(mean: dict[str, float], base: float) -> dict[str, dict[str, Any]]:
    return {
        m: {
            "difference_to_policy": v - base,
            "ci95": [v - base - 0.009, v - base + 0.009],
            "p_value": 0.0004 if abs(v - base) > 0.009 else 0.31,
            "sampled_difference_to_policy": v - base + 0.004,
            "sampled_ci95": [v - base - 0.002, v - base + 0.010],
        }
        for m, v in mean.items()
        if m not in ("policy", "sft")
    }


def _benchmarks(mean: dict[str, float]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    for name, shift in zip(BENCHMARKS, (0.17, -0.12, -0.2, 0.06, 0.03, 0.1, -0.04), strict=True):
        out[name] = {}
        for method, value in mean.items():
            x = round(float(value + shift + rng.normal(0, 0.012)), 4)
            out[name][method] = {
                "accuracy": x,
                "n": 300,
                "ci95": [x - 0.05, x + 0.05],
                "sampled": x - 0.06,
                "undecided": 0.003,
                "pass_at_k": x + 0.1,
                "maj_at_k": x + 0.01,
            }
    return out


def _pairs_block() -> dict[str, Any]:
    rows = zip(NEGATIVES, (0.71, 0.985, 0.94, 0.78), (-0.4, -6.1, -1.9, 0.3), (-2.1, -15.0, -8.2, -2.9), strict=True)
    return {
        method: {
            "n": 640,
            "coverage": 0.64,
            "separated_before": before,
            "separated_after": min(1.0, before + 0.05),
            "separated_before_per_token": before - 0.02,
            "separated_after_per_token": before + 0.01,
            "chosen_logp_shift": chosen,
            "rejected_logp_shift": rejected,
            "rejected_logp_per_token": -0.21,
            "length_difference": -0.3,
            "duplicates": 3,
            "distinct_answers": 61,
            "chosen_reference": 0,
        }
        for method, before, chosen, rejected in rows
    }


def _generator() -> dict[str, Any]:
    rng, steps = np.random.default_rng(1), np.arange(0, 150, 2)
    wrong = 0.3 + 0.45 * (1 - np.exp(-steps / 40))
    curve = [
        {
            "step": int(s),
            "reward": float(0.75 * w - 0.05 + rng.normal(0, 0.03)),
            "kl": float(0.002 * s**0.8 + abs(rng.normal(0, 0.003))),
            "share_malformed": float(max(0, 0.06 * np.exp(-s / 30) + rng.normal(0, 0.005))),
            "share_correct": float(max(0, 0.95 - w + rng.normal(0, 0.03))),
            "share_scored": float(w + rng.normal(0, 0.03)),
            "mean_reward_model": float(0.32 + 0.0008 * s + rng.normal(0, 0.02)),
            "mean_judge": float(0.71 + 0.0012 * s + rng.normal(0, 0.02)),
        }
        for s, w in zip(steps, wrong, strict=True)
    ]
    return {
        "well_formed": 0.982,
        "wrong": 0.733,
        "correct": 0.249,
        "undecided": 0.0,
        "unscored": 0.0,
        "plausible": 0.412,
        "distinct_answers": 0.37,
        "kl_to_policy": 0.134,
        "n": 4800,
        "curve": curve,
    }


def _plausibility() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    centre = {"correct": 1.1, "rejection": -0.6, "flip": -0.1, "corruption": 0.1, "pns": 0.5}
    auc = {"rejection": 0.81, "flip": 0.72, "corruption": 0.7, "pns": 0.63}
    return {
        "reward_model": {"correct": 0.5, "rejection": 0.24, "flip": 0.35, "corruption": 0.36, "pns": 0.43},
        "heldout_auc": auc,
        "heldout_auc_ci95": _spread(auc, 0.025),
        "length_auc": {"rejection": 0.55, "flip": 0.5, "corruption": 0.5, "pns": 0.53},
        "fully_consistent": {"rejection": 0.62, "flip": 0.0, "corruption": 0.9, "pns": 0.88},
        "scores": {k: [float(x) for x in rng.normal(c, 1.2, 500)] for k, c in centre.items()},
    }


def fixture_results() -> dict[str, Any]:
    """A results.json with every block, with numbers of a likely size."""
    mean = dict(zip(METHODS, (0.602, 0.605, 0.609, 0.61, 0.588, 0.597, 0.598), strict=True))
    sampled = {m: v - 0.05 for m, v in mean.items()} | {"sft": 0.49}
    worth = {"pair_accuracy": 0.69, "best_of_8": 0.61, "mean_of_8": 0.55, "oracle_of_8": 0.81, "n_problems": 150}
    bad_worth = {**worth, "best_of_8": 0.52}
    own = {m: mean[m] + 0.003 for m in NEGATIVES}
    return {
        "recipe": "embedded",
        "seed": 0,
        "version": "0.1.0",
        "created": "2026-02-10T12:00:00Z",
        "mean": {"sft": 0.55, **mean},
        "mean_ci95": _spread({"sft": 0.55, **mean}, 0.018),
        "sampled": {
            "mean": sampled,
            "mean_ci95": _spread(sampled, 0.015),
            "pass_at_k": {m: v + 0.15 for m, v in sampled.items()},
            "maj_at_k": {m: v + 0.05 for m, v in sampled.items()},
            "k": 4,
        },
        "benchmarks": _benchmarks({"sft": 0.55, **mean}),
        "paired": _paired(mean, mean["policy"]),
        "own_coverage": {
            "mean": own,
            "sampled": {m: v - 0.05 for m, v in own.items()},
            "paired": _paired(own, mean["policy"]),
        },
        "policy": {
            "misread_share": 0.33,
            "sft": {"greedy": 0.55, "sampled": 0.49},
            "rlvr": {"greedy": 0.602, "sampled": 0.552},
            "rlvr_curve": [{"step": s, "reward": 0.55 + 0.1 * (1 - 2.718 ** (-s / 30))} for s in range(0, 90, 2)],
        },
        "reward_model": {**worth, "calibration": {"median": 0.82, "scale": 1.31}},
        "audit_model": bad_worth,
        "generator": _generator(),
        "plausibility": _plausibility(),
        "pairs": _pairs_block(),
        "pairs_own": _pairs_block(),
        "seconds": {
            "sft": 92.0,
            "rlvr": 121.5,
            "reward_model": 31.0,
            "generator": 139.0,
            "align": 74.2,
            "evaluate": 48.8,
        },
        "total_seconds": 583.2,
        "environment": {
            "python": "3.12.3",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "trl": "1.16.0",
            "machine": "x86_64, 2 cores",
        },
        "notes": ["flip has fewer pairs than the others could have had"],
    }


def fixture_pairs() -> list[Pair]:
    """Ten pairs, the negatives in turn."""
    prompt = (
        "Ana has 24 shells. She finds 13 more at the beach, then gives 9 to Tom. Tom already had 5 shells. "
        "How many shells does Ana have now?"
    )
    chosen = "Ana starts with 24.\nStep 1: 24 + 13 = 37\nStep 2: 37 - 9 = 28\n\\boxed{28}"
    rejected = {
        "pns": "Ana starts with 24.\nStep 1: 24 + 13 = 37\nStep 2: 37 + 9 = 46\n\\boxed{46}",
        "rejection": "Ana starts with 24.\nStep 1: 24 + 13 = 37\nStep 2: 37 - 9 = 28\nStep 3: 28 - 5 = 23\n\\boxed{23}",
        "corruption": "Ana starts with 24.\nStep 1: 24 + 12 = 36\nStep 2: 36 - 9 = 27\n\\boxed{27}",
        "flip": "Ana starts with 24.\nStep 1: 24 + 13 = 37\nStep 2: 37 - 9 = 28\n\\boxed{31}",
    }
    scores = Scores(
        gate="scored",
        score=0.87,
        well_formed=True,
        inversion=1.0,
        reward_raw=0.61,
        reward_model=0.46,
        rubric=Rubric(relevance=3, coherence=3, completeness=3, consistency=2),
    )
    methods = ["pns", "rejection", "corruption", "flip", "pns"] * 2
    return [
        Pair(
            problem_id=f"pairs-{i:05d}",
            method=method,
            prompt=prompt,
            chosen=chosen,
            rejected=rejected[method],
            chosen_source="reference" if i == 3 else "policy",
            chosen_answer="28",
            rejected_answer=rejected[method].split("{")[1].rstrip("}"),
            chosen_logp=-2.4,
            rejected_logp=-4.1,
            chosen_tokens=38,
            rejected_tokens=38,
            scores=None if method == "flip" else scores,
        )
        for i, method in enumerate(methods)
    ]


def hostile_pair() -> Pair:
    return fixture_pairs()[0].model_copy(
        update={
            "prompt": HOSTILE,
            "chosen": HOSTILE + "\na",
            "rejected": HOSTILE + "\nb",
            "rejected_answer": HOSTILE,
            "problem_id": HOSTILE,
        }
    )


class Page(HTMLParser):
    """What a browser would see: the visible text, the tags, the attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", [], []  # type: str, list[str], list[tuple[str, str]]
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page(
    tmp_path: Path, results: dict[str, Any], pairs: list[Pair] | None = None, recipe: str = "name: embedded\n"
) -> Page:
    got = Page(build_report(results, pairs or [], recipe, tmp_path / "report"))
    assert not got.open, "every tag is closed"
    return got


def render(thing: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    thing(console) if callable(thing) else console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


# The page


def test_full_page_has_every_section_and_figure(tmp_path: Path) -> None:
    got = page(tmp_path, fixture_results(), fixture_pairs())
    ids = {value for name, value in got.attributes if name == "id"}
    sections = "comparison benchmarks own pairs generator plausibility reward policy examples time recipe sources"
    assert set(sections.split()) <= ids
    links = [value[1:] for name, value in got.attributes if name == "href" and value.startswith("#")]
    assert set(links) <= ids, "every link and every drawn reference has its target"
    assert got.tags.count("svg") == 8
    assert got.tags.count("article") == 10
    for text in (
        "33 % of its SFT solutions",
        "It chooses worse than the mean",
        "plausible to the policy",
        "9 min 43 s",
    ):
        assert text in got.text


def test_the_sum_of_the_stages_is_not_called_the_whole_run(tmp_path: Path) -> None:
    got = page(tmp_path, {**fixture_results(), "wall_seconds": 371.0}, fixture_pairs())
    assert "Took: 6 min 11 s. Stage time: 9 min 43 s. Stage time is the sum of the rows" in got.text
    assert "Whole run" not in got.text


def test_the_page_says_what_counts_as_plausible_and_what_the_recipe_selects_by(tmp_path: Path) -> None:
    results = fixture_results()
    results["generator"]["min_rubric"] = 0
    text = page(tmp_path, results, recipe="negatives:\n  reward_model_quantile: 0.05\n").text
    assert "of the generator's samples; its section says what counts" in text
    assert "Plausible: wrong and well-formed, M at least that of the lowest quarter" in text
    assert "at least 9 of 12 points" in text
    assert "M at least the 0.05 quantile of correct responses and at least 0 of 12 points" in text


def test_stages_bear_their_own_names_and_counts_are_named(tmp_path: Path) -> None:
    results = fixture_results()
    results["seconds"] = {"align-sft_chosen": 1.0, "evaluate-rlvr_more": 2.0}
    results["reward_model"] |= {"n_pairs": 12, "n_training_pairs": 96}
    text = page(tmp_path, results).text
    for name in ("align-sft_chosen", "evaluate-rlvr_more", "Pairs compared", "Pairs trained on", "not significant"):
        assert name in text
    assert "N pairs" not in text
    assert "not visible" not in text


def test_the_rule_under_the_head_of_the_heat_table_is_whole(tmp_path: Path) -> None:
    page(tmp_path, fixture_results())
    styles = (tmp_path / "report" / "index.html").read_text()
    assert ".heat tbody tr:first-child td { border-top: 0; }" in styles, "a wider border of the cells would win over it"


def test_identifiers_are_unique(tmp_path: Path) -> None:
    ids = [value for name, value in page(tmp_path, fixture_results(), fixture_pairs()).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_page_loads_nothing(tmp_path: Path) -> None:
    got = page(tmp_path, fixture_results(), [hostile_pair()])
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(got.tags)
    for name, value in got.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith("#"), f"{name}={value}"
        assert not name.startswith("on")
    styles = re.findall(r"<style>(.*?)</style>", (tmp_path / "report/index.html").read_text(), flags=re.DOTALL)
    assert styles
    assert not any("url(" in s or "@import" in s for s in styles)


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    results = fixture_results()
    results["recipe"], results["notes"] = HOSTILE, [HOSTILE]
    results["mean"][HOSTILE.replace("\ud800", "")] = 0.5
    results["environment"] = {"<b>machine</b>": "<script>x</script>"}
    got = page(tmp_path, results, [hostile_pair()], recipe=HOSTILE)
    raw = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "script" not in got.tags
    assert "b" not in {value for name, value in got.attributes if name == "id"}
    assert got.text.count("<script>alert(1)</script>") >= 5
    assert "{{ 7*7 }}" in got.text
    assert "<script" not in raw


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first = build_report(fixture_results(), fixture_pairs(), "x: 1\n", tmp_path / "a").read_bytes()
    second = build_report(fixture_results(), fixture_pairs(), "x: 1\n", tmp_path / "b").read_bytes()
    assert first == second


@pytest.fixture
def quick_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the drawing code, but spare the layout and the rendering, which are nearly all of a page's time."""

    def svg(draw: Any, name: str, height: float) -> Markup:
        from matplotlib.figure import Figure

        draw(Figure(figsize=(4, height)))
        return Markup("<svg></svg>")

    monkeypatch.setattr(plots, "draw_svg", svg)


@pytest.mark.usefixtures("quick_drawings")
@pytest.mark.parametrize("block", sorted(fixture_results()))
def test_any_block_may_be_missing(tmp_path: Path, block: str) -> None:
    results = fixture_results()
    del results[block]
    got = page(tmp_path, results, fixture_pairs()[:1])
    links = {value[1:] for name, value in got.attributes if name == "href"}
    assert links <= {value for name, value in got.attributes if name == "id"}
    render(results_table(results))


@pytest.mark.parametrize("empty", [None, {}], ids=["null", "empty"])
def test_all_blocks_may_be_empty(tmp_path: Path, empty: dict[str, Any] | None) -> None:
    results: dict[str, Any] = dict.fromkeys(fixture_results(), empty)
    got = page(tmp_path, results, fixture_pairs()[:1])
    assert not re.search(r"\b(None|nan)\b", got.text)
    render(results_table(results))


@pytest.mark.usefixtures("quick_drawings")
@pytest.mark.parametrize("empty", [None, {}], ids=["null", "empty"])
def test_inner_blocks_may_be_empty(tmp_path: Path, empty: dict[str, Any] | None) -> None:
    results = {k: dict.fromkeys(v, empty) if isinstance(v, dict) else v for k, v in fixture_results().items()}
    got = page(tmp_path, results, fixture_pairs()[:1])
    assert not re.search(r"\b(None|nan)\b", got.text)
    render(results_table(results))


def test_several_generators_have_a_table(tmp_path: Path) -> None:
    results = fixture_results()
    assert "generator-2" not in page(tmp_path, results, []).text
    one = {"n": 40, "wrong": 0.5, "plausible": 0.25, "distinct_answers": 1.0, "kl_to_policy": 0.1234, "selected": 7}
    results["generator"]["generators"] = {
        "generator": {"otherwise": {}, "fully_consistent": 0.875, **one},
        "generator-2": {"otherwise": {"beta": 0.5, "start": "<b>sft"}, "fully_consistent": None, **one},
    }
    got = page(tmp_path, results, [])
    for text in ("There are 2 of them", "generator-2", "beta 0.5, start <b>sft", "0.123", "87.5", "1.00"):
        assert text in got.text
    assert "b" not in got.tags, "what a setting says is text"


def test_a_run_without_pns_and_with_holes(tmp_path: Path) -> None:
    results = fixture_results()
    _remove(results, "pns")
    results["generator"] = {"curve": [{"step": 0}], "plausible": None}
    results["paired"]["rejection"] = {"difference_to_policy": 0.01}
    results["mean"]["policy"] = float("nan")
    results["plausibility"]["scores"] = {"correct": [1.0, 1.0], "rejection": []}
    got = page(tmp_path, results, [])
    assert "no comparison of pns with the policy" in got.text
    assert "nan" not in got.text.lower().split()
    assert "None" not in got.text


def test_an_empty_run_is_a_page(tmp_path: Path) -> None:
    got = page(tmp_path, {}, [])
    assert "says nothing about the claim" in got.text
    assert "svg" not in got.tags


def _remove(data: Any, key: str) -> None:
    if isinstance(data, dict):
        data.pop(key, None)
        for value in data.values():
            _remove(value, key)


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_report({"recipe": "old"}, [], "", tmp_path)
    before = path.read_bytes()

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module.Path, "replace", broken)
    with pytest.raises(OSError, match="No space"):
        build_report({"recipe": "new"}, [], "", tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_number_of_examples(tmp_path: Path) -> None:
    path = build_report({}, fixture_pairs(), "", tmp_path, examples=3)
    assert Page(path).tags.count("article") == 3


# The words


def _verdict(difference: float, ci: list[float] | None) -> str:
    row = {"difference_to_policy": difference, "ci95": ci}
    return words.verdict({"paired": {"pns": row}})


def test_verdict_follows_the_interval() -> None:
    text = _verdict(-0.004, [-0.013, 0.005])
    assert "by −0.4 points (95 % interval −1.3 to +0.5)" in text
    assert text.endswith("no difference that this run can see.")
    assert _verdict(0.02, [0.01, 0.03]).endswith(": a gain.")
    assert _verdict(-0.02, [-0.03, -0.01]).endswith(": a loss.")
    assert _verdict(0.01, [0.0, 0.02]).endswith("no difference that this run can see.")
    assert _verdict(0.01, None).endswith("no interval was computed.")


def test_verdict_sets_pns_beside_rejection() -> None:
    text = words.verdict(fixture_results())
    assert "Rejection sampling changed it by +0.8 points" in text
    assert "also no difference" in text
    assert "pns stands −1.2 points from rejection" in text


def test_pair_notes_warn_and_do_not() -> None:
    notes = words.pair_notes(_pairs_block())
    assert [method for warns, method, _ in notes if warns] == ["rejection", "flip", "corruption"]
    assert ["not plausible to the policy" in text for _, _, text in notes] == [False, True, True]
    assert all("became less likely" in text for _, _, text in notes)
    fine = {"pns": {"separated_before": 0.9, "chosen_logp_shift": 0.0}}
    assert [warns for warns, _, _ in words.pair_notes(fine)] == [False]
    assert words.pair_notes({}) == []


def test_reward_model_note() -> None:
    better = words.reward_model_note({"best_of_8": 0.61, "mean_of_8": 0.55, "oracle_of_8": 0.81})
    worse = words.reward_model_note({"best_of_8": 0.52, "mean_of_8": 0.55, "oracle_of_8": 0.81})
    assert better == (
        False,
        "Choosing the best of eight by it gains +6.0 points over a blind pick, "
        "23 % of the +26.0 that a perfect choice would gain.",
    )
    assert worse is not None
    assert worse[0]
    assert "worse than the mean: −3.0 points" in worse[1]
    assert words.reward_model_note({"pair_accuracy": 0.7}) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12345, "12,345"),
        (0.25, "25.0 %"),
        (-1.5, "−1.500"),
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        ("x", "x"),
    ],
)
def test_anything(value: Any, shown: str) -> None:
    assert words.anything(value) == shown


def test_numbers_as_text() -> None:
    assert words.points(-0.0004) == "0.0", "no negative zero"
    assert words.points(0.012) == "+1.2"
    assert words.span([0.719, 0.745]) == "71.9–74.5"
    assert words.span(None) == ""
    assert [words.duration(s) for s in (4.21, 59.97, 185, 3600 * 2 + 61, None)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 01 min",
        "–",
    ]


# The differences


def test_mark_steps_by_hand() -> None:
    rows = mark_steps("a\nb\nc", "a\nx\ny\nc")
    assert rows == [("a", "a", False), ("b", "x", True), (None, "y", True), ("c", "c", False)]


def test_a_step_too_many_leaves_the_answers_face_to_face() -> None:
    rows = mark_steps("1 + 1 = 2\n[2]", "1 + 1 = 2\n2 + 3 = 5\n[5]")
    assert rows == [("1 + 1 = 2", "1 + 1 = 2", False), (None, "2 + 3 = 5", True), ("[2]", "[5]", True)]


LINES = st.lists(st.text(alphabet="ab 1", max_size=4), min_size=1, max_size=8).map("\n".join)


@given(LINES, LINES)
def test_mark_steps_keeps_both_texts(chosen: str, rejected: str) -> None:
    rows = mark_steps(chosen, rejected)
    assert "\n".join(a for a, _, _ in rows if a is not None) == chosen
    assert "\n".join(b for _, b, _ in rows if b is not None) == rejected
    assert all((a == b) if not differs else (a is None or b is None or a != b) for a, b, differs in rows)
    assert any(differs for _, _, differs in rows) == (chosen != rejected)


@given(st.text(max_size=20), st.text(max_size=20))
def test_mark_words_keeps_the_line(line: str, other: str) -> None:
    runs = mark_words(line, other)
    assert "".join(text for text, _ in runs) == line
    if line == other:
        assert not any(differs for _, differs in runs)


def test_mark_words_by_hand() -> None:
    assert [t for t, differs in mark_words("37 + 9 = 46", "37 - 9 = 28") if differs] == ["+", "46"]
    assert mark_words("Step", None) == [("Step", True)]
    assert mark_words(None, "Step") == []


@given(st.text())
def test_printable_text_can_be_written_and_steers_nothing(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert printable(shown) == shown


# The terminal


def test_results_table() -> None:
    text = render(results_table(fixture_results()))
    line = next(row for row in text.splitlines() if row.startswith("│ pns"))
    for part in ("59.8 (58.0–61.6)", "54.8 (53.3–56.3)", "−0.4 (−1.3 to +0.5)", "640", "78.0"):
        assert part in line


def test_the_table_says_which_accuracy_is_compared_and_what_stands_in_brackets() -> None:
    shown = " ".join(render(results_table(fixture_results()), width=140).split())
    assert "Greedy, to policy" in shown
    assert "In brackets: 95 % intervals over problems." in shown


def test_a_run_of_own_pairs_alone_shows_them_and_claims_no_matched_ones(tmp_path: Path) -> None:
    results = fixture_results()
    results["pairs"], results["pairs_own"], results["own_coverage"] = {}, results["pairs"], {}
    shown = render(results_table(results))
    line = next(row for row in shown.splitlines() if row.startswith("│ pns"))
    assert "640" in line
    assert "78.0" in line
    assert "Own" in shown
    text = page(tmp_path, results).text
    assert "matched regime: the same problems" not in text
    assert "in the own regime, which alone was asked for" in text
    assert "These negatives are not plausible to the policy" in text, "the notes on pairs are of those that there are"


def test_references_stand_beside_each_other_with_their_labels(tmp_path: Path) -> None:
    results = fixture_results()
    extra = ("w_reinforce", "nsr")
    for block in (results["mean"], results["sampled"]["mean"]):
        block.update(dict.fromkeys(extra, 0.5))
    results["paired"].update({m: dict(results["paired"]["rlvr_more"]) for m in extra})
    methods = [row["method"] for row in view.comparison(results)]
    at = methods.index("rlvr_more")
    assert methods[at : at + 4] == ["rlvr_more", "nsr", "w_reinforce", "rejection"]
    assert "REINFORCE on samples that are not correct" in page(tmp_path, results, []).text
    shown = render(results_table(results))
    assert all(f"│ {m} " in shown for m in extra)
    for block in (results["mean"], results["sampled"]["mean"], results["paired"]):
        del block["rlvr_more"]
    assert "rlvr_more" not in render(results_table(results))


def test_inspect_marks_steps_and_shows_scores() -> None:
    pair = fixture_pairs()[0]
    text = render(lambda console: inspect_pairs([pair, fixture_pairs()[3]], console))
    assert re.search(r"│ » │ Step 2: 37 - 9 = 28 +│ Step 2: 37 \+ 9 = 46", text)
    assert re.search(r"│ · │ \\boxed\{28\} +│ \\boxed\{46\}", text)
    assert "judge C 11/12" in text
    assert "not scored" in text
    assert "(reference)" in text


def test_inspect_never_obeys_model_text() -> None:
    text = render(lambda console: inspect_pairs([hostile_pair()], console), width=240)
    assert "[bold]x[/bold]" in text
    assert "\x1b[2J" not in text
    assert "\ud800" not in text
    results = copy.deepcopy(fixture_results())
    results["mean"]["[bold]x[/bold]\x1b[2J"] = 0.5
    table = render(results_table(results), width=160)
    assert "[bold]x[/bold]" in table
    assert "\x1b[2J" not in table
