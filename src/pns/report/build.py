"""The report of a run: one self-contained HTML page that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pns.records import Pair
from pns.report import plots, view, words
from pns.report.diff import printable
from pns.run import write_atomic

_TEMPLATES = Path(__file__).parent / "templates"


def build_report(
    results: Mapping[str, Any], pairs: Sequence[Pair], recipe_text: str, out_dir: Path, *, examples: int = 10
) -> Path:
    """Write `index.html`, replacing an older one in one move.

    The same arguments give the same bytes. Any block of `results` may be missing: the page shows what is there.

    Args:
        results: the contents of results.json.
        pairs: preference pairs to show; the first `examples` of them appear.
        recipe_text: the recipe as YAML text.
        out_dir: where the page goes; made if missing.
        examples: how many pairs to show, >= 0.

    Returns:
        the path of the page.
    """
    page = environment().get_template("index.html.j2").render(page_context(results, pairs[:examples], recipe_text))
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / "index.html"
    write_atomic(path, page)
    return path


def environment() -> Any:
    """Our templates. Model text is untrusted, so everything is escaped; only our own drawings are marked as safe."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["plausible_means"] = words.PLAUSIBLE
    return found


def page_context(results: Mapping[str, Any], pairs: Sequence[Pair], recipe_text: str) -> dict[str, Any]:
    """Everything that the template names, as text, tables and drawings."""
    plausibility = words.dig(results, "plausibility") or {}
    return {
        "title": printable(str(results.get("recipe") or "a run")),
        "facts": _head(results),
        "verdict": words.verdict(results),
        "sampled_verdict": words.sampled_verdict(results),
        "tiles": _tiles(results),
        "k": words.dig(results, "sampled", "k") or "k",
        "comparison": view.comparison(results),
        "readings": view.readings(),
        "accuracy_plot": plots.accuracy_by_method(results),
        "benchmarks": view.benchmark_table(results),
        "own": view.own_coverage(results),
        "pairs": view.pair_table(words.dig(results, "pairs")),
        "pairs_own": view.pair_table(words.dig(results, "pairs_own")),
        "regime": (compared := view.compared_pairs(results))[0],
        "pair_notes": words.pair_notes(compared[1]),
        "generator": view.facts(words.dig(results, "generator"), view.GENERATOR_FACTS),
        "selects": _selects(results, recipe_text),
        "generators": view.generators_table(results),
        "generators_columns": [*view.GENERATORS_FACTS.values()],
        "generator_plots": generator_plots(results),
        "plausibility": view.plausibility_table(results),
        "auc_note": view.auc_note(results),
        "auc_plot": plots.auc_by_method(plausibility),
        "score_plot": plots.score_distributions(words.dig(plausibility, "scores") or {}),
        "reward_models": [{**m, "note": words.reward_model_note(m["block"])} for m in view.reward_models(results)],
        "misread": _misread(results),
        "policy": view.policy_rows(results),
        "policy_plot": plots.training_curve(
            words.dig(results, "policy", "rlvr_curve") or [], {"reward": "reward"}, "mean reward, RLVR"
        ),
        "examples": [view.example(pair) for pair in pairs],
        "stages": view.stage_times(results),
        "times": _times(results),
        "recipe": printable(recipe_text),
        "environment": [(words.label(k), words.anything(v)) for k, v in (results.get("environment") or {}).items()],
        "notes": [printable(str(note)) for note in results.get("notes") or []],
    }


def _head(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = (("Recipe", "recipe"), ("Seed", "seed"), ("pns", "version"), ("Made", "created"))
    found = [(name, printable(str(results[key]))) for name, key in named if results.get(key) is not None]
    return found + _times(results)


def _times(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    times = (("Took", "wall_seconds"), ("Stage time", "total_seconds"))
    return [(name, words.duration(results[key])) for name, key in times if results.get(key) is not None]


def _tiles(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The few numbers on top: what pns and rejection changed, where the policy stood, what the generator yields."""
    tiles = []
    for method in ("pns", "rejection"):
        row = words.dig(results, "paired", method) or {}
        if words.number(row.get("difference_to_policy")) is not None:
            change, ci = words.points(row["difference_to_policy"]), row.get("ci95")
            kind = words.reading(ci)
            under = " · ".join(x for x in (words.span(ci, signed=True), view.readings().get(kind, "")) if x)
            tiles.append(
                {
                    "name": f"{method} against the policy",
                    "value": change,
                    "unit": "points",
                    "under": under,
                    "kind": kind,
                }
            )
    policy = words.dig(results, "mean", "policy")
    if words.number(policy) is not None:
        ci = words.span(words.dig(results, "mean_ci95", "policy"))
        tiles.append({"name": "policy, greedy", "value": words.percent(policy), "unit": "%", "under": ci, "kind": ""})
    plausible = words.dig(results, "generator", "plausible")
    if words.number(plausible) is not None:
        under = "of the generator's samples; its section says what counts"
        tiles.append(
            {"name": "plausible negatives", "value": words.percent(plausible), "unit": "%", "under": under, "kind": ""}
        )
    return tiles


def _selects(results: Mapping[str, Any], recipe_text: str) -> str:
    """What the recipe itself asks of a negative from the generator, which may be less or more than plausible."""
    points = words.number(words.dig(results, "generator", "min_rubric"))
    try:
        recipe = yaml.safe_load(recipe_text)
    except yaml.YAMLError:  # it is shown as it is
        recipe = None
    quantile = words.number(words.dig(recipe, "negatives", "reward_model_quantile"))
    parts = []
    if quantile is not None:
        parts.append(f"M at least the {quantile:g} quantile of correct responses")
    if points is not None:
        parts.append(f"at least {points:g} of 12 points where a judge was asked")
    return " and ".join(parts)


def generator_plots(results: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(caption, drawing) of the generator's training, without those that have no numbers."""
    curve = words.dig(results, "generator", "curve") or []
    gates = {"share_scored": "wrong, scored", "share_correct": "correct", "share_malformed": "malformed"}
    both = any("share_solved" in row for row in curve)
    drawings = [
        (
            "What became of its samples, by the gate that decided.",
            plots.training_curve(curve, gates, "share, %", share=True),
        ),
        (
            "Its other goal: the problems that came without the control text, to be solved.",
            plots.training_curve(curve, {"share_solved": "correct"}, "share, %", share=True),
        ),
        (
            "The reward of both goals, mean of a step." if both else "The composite reward R, mean of a step.",
            plots.training_curve(curve, {"reward": "reward"}, "mean reward"),
        ),
        (
            "The two plausibility terms, mean over the samples that reached them.",
            plots.training_curve(
                curve, {"mean_judge": "judge C", "mean_reward_model": "reward model M"}, "term, 0 to 1"
            ),
        ),
        (
            "Distance to the policy that it started from.",
            plots.training_curve(curve, {"kl": "KL"}, "KL to the policy, nats"),
        ),
    ]
    return [(caption, drawing) for caption, drawing in drawings if drawing is not None]


def _misread(results: Mapping[str, Any]) -> str:
    share = words.number(words.dig(results, "policy", "misread_share"))
    if share is None:
        return ""
    if share == 0:
        return "All solutions that the policy learned from in SFT were correct."
    return (
        f"The policy learned from a mixed corpus: {words.percent(share, 0)} % of its SFT solutions carry a "
        "self-consistent misreading of the problem. Real base models learn from such text too."
    )
