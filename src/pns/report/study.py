"""The page of `pns study`: what was asked, what came out, how sure that is, and what stands behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pns.report import plots, study_plots, words
from pns.report.build import environment, generator_plots
from pns.report.diff import printable
from pns.report.view import readings
from pns.report.warned import MANY, warned_line, warned_rows
from pns.run import write_atomic

Row = dict[str, Any]


def build_study_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write `index.html` into `out`: one self-contained page. The same results give the same bytes.

    Args:
        results: the contents of a study's results.json.
    """
    shown = {name: cell for name, cell in results["cells"].items() if cell["switch"] is None}
    usual = usual_settings(shown)
    page = environment().get_template("study.html.j2").render(
        title=printable(str(results["study"])),
        about=printable(str(results.get("about") or "")),
        facts=_facts(results),
        verdicts=[printable(line) for line in results.get("reading") or reading(results)],
        warnings=_warnings(results),
        warned_rows=(told := _warned_rows(results)),
        warned_fold=len(told) > MANY,
        hypotheses=[printable(str(h)) for h in results["protocol"]["hypotheses"]],
        readings=readings(),
        primary=[contrast_row(c, results["metric"]) for c in results["primary"]],
        secondary=[contrast_row(c, results["metric"]) for c in results["secondary"]],
        family=results["family"],
        cells=[cell_row(name, cell, usual) for name, cell in shown.items()],
        usual=_settings(usual),
        settings_differ=any(_unusual(cell["settings"], usual) for cell in shown.values()),
        not_applicable=[(printable(k), printable(v)) for k, v in (results.get("not_applicable") or {}).items()],
        changed=[(printable(k), printable(_value(v))) for k, v in (results.get("set") or {}).items()],
        accuracy_plot=study_plots.accuracy(results),
        forest_plot=study_plots.forest(results),
        kl_plot=study_plots.against_kl(results),
        benchmarks=benchmark_table(results),
        negatives=negatives_table(results),
        plausibility=plausibility_table(results),
        generator_plots=generator_plots(results),
        generators=any("generators" in one for one in words.dig(results, "generator", "by_seed") or []),
        score_plot=plots.score_distributions(results.get("scores") or {}, "score of the reward model (line: median)"),
        reward_models=_reward_models(results),
        uses=uses_tables(results),
        ablations=[ablation_row(n, c, results) for n, c in results["ablations"].items()],
        pairs_plot=study_plots.against_pairs(results),
        tuning=tuning_rows(results),
        metric=results["metric"],
        k=results["k"],
        environment=[(words.label(k), words.anything(v)) for k, v in results["environment"].items()],
    )  # fmt: skip
    path = out / "index.html"
    write_atomic(path, page)
    return path


def reading(results: Mapping[str, Any]) -> list[str]:
    """The answer in words, from the numbers alone: each primary contrast, then what the study could have seen."""
    out = []
    metric = results["metric"]
    for c in results["primary"]:
        found, other = c[metric], c["sampled" if metric == "greedy" else "greedy"]
        both = [words.reading(found["ci95"]), words.reading(found["ci95_t"])]
        # One seed is one training: its interval covers the problems alone, and says nothing of the method.
        what = {"gain": "above", "loss": "below"}.get(both[0] if both[0] == both[1] else "", "")
        over = "over seeds and problems" if len(c["seeds"]) > 1 else "over the problems of one seed"
        said = f"is {what} {c['b']}" if what else f"is not clear of {c['b']}"
        out.append(
            f"{c['a']} {said}: {words.points(found['difference'])} points {metric} "
            f"(95 % {words.span(found['ci95'], signed=True)} {over}"
            + (f", t over seeds {words.span(found['ci95_t'], signed=True)}" if found["ci95_t"] else "")
            + f"), {words.points(other['difference'])} {'sampled' if metric == 'greedy' else 'greedy'} "
            f"({words.span(other['ci95'], signed=True)}); {len(c['seeds'])} seed{'s' * (len(c['seeds']) != 1)}."
        )
        if not what and c["smallest_difference"] is not None:
            out.append(
                f"With these seeds a difference of {words.points(c['smallest_difference'])} points would be seen in four "
                f"studies of five."
            )
    if not out:
        out.append("None of the primary contrasts has its cells yet.")
    return [*out, *_read_uses(results)]


def _read_uses(results: Mapping[str, Any]) -> list[str]:
    """The primary contrasts once more, of what else negatives are good for: one line a use and pair of methods."""
    asked = dict.fromkeys((c["a"], c["b"]) for c in results["primary"])
    out = []
    for use, found in (results.get("uses") or {}).items():
        for pair in asked:
            told = [_told(c) for c in found["contrasts"] if (c["a"], c["b"]) == pair]
            if told:
                out.append(f"{_USES[use]}: {pair[0]} against {pair[1]} {', '.join(told)}; {_seeds(found)}.")
    return out


def _told(c: Mapping[str, Any]) -> str:
    over = f" (t over seeds {_range(c['ci95_t'])})" if c["ci95_t"] else ""
    return f"{words.fixed(c['difference'], 3, sign=True)} {c['figure'].replace('_', ' ')}{over}"


def _seeds(found: Mapping[str, Any]) -> str:
    return f"{len(found['seeds'])} seed{'s' * (len(found['seeds']) != 1)}"


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    protocol = results["protocol"]
    recipe = [("Recipe", printable(str(results["recipe"])))] if results.get("recipe") else []
    return [
        *recipe,
        ("Seeds", ", ".join(map(str, results["seeds"]))),
        ("Benchmarks", str(len(results["benchmarks"]))),
        ("Protocol", f"{protocol['fingerprint']}, written {protocol['written']}"),
        ("pns", str(results["version"])),
    ]


def _value(value: Any) -> str:
    """A setting as a recipe has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _warnings(results: Mapping[str, Any]) -> list[str]:
    out = []
    if not results["complete"]:
        missing = sum(len(seeds) for seeds in results["missing"].values())
        out.append(f"Not complete: {missing} cells of seeds are still to do. What stands here may change.")
    if min([len(results["seeds"]), *(len(c["seeds"]) for c in results["primary"])]) < 5:
        out.append("Fewer than five seeds: the intervals say little about another seed.")
    if line := warned(results):
        out.append(line)
    return [printable(line) for line in out]


def warned(results: Mapping[str, Any]) -> str:
    """What training warned of, in one line; empty where it did not."""
    return warned_line(_by_cell(results), "cell")


def _by_cell(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell.get("warnings") or [] for name, cell in results["cells"].items()}


def _warned_rows(results: Mapping[str, Any]) -> list[Row]:
    return warned_rows(_by_cell(results), {name: len(cell["seeds"]) for name, cell in results["cells"].items()})


def _with(value: str, ci: Any, *, signed: bool) -> tuple[str, str]:
    return value, words.span(ci, signed=signed)


def contrast_row(c: Mapping[str, Any], metric: str) -> Row:
    """One contrast: both kinds of accuracy, the deciding one first, both intervals, p-values, seeds needed."""
    other = "sampled" if metric == "greedy" else "greedy"
    row: Row = {
        "set": "",
        "why": "",
        "name": f"{c['a']} − {c['b']}",
        "seeds": len(c["seeds"]),
        "by_seed": {seed: words.points(v) for seed, v in zip(c["seeds"], c[metric]["by_seed"], strict=True)},
    }
    for key, kind in (("main", metric), ("other", other)):
        found = c[kind]
        row[key] = words.points(found["difference"])
        row[f"{key}_ci"] = words.span(found["ci95"], signed=True)
        row[f"{key}_t"] = words.span(found["ci95_t"], signed=True)
        row[f"{key}_reading"] = _among_many(words.reading(found["ci95_t"] or found["ci95"]), found.get("p_holm"))
        row[f"{key}_p"] = _p(found.get("p_holm", found["p_value"]))
    row["needed"] = words.NONE if c["seeds_needed"] is None else str(c["seeds_needed"])
    row["kl"] = " / ".join(words.fixed(x) for x in c["kl"])
    return row


def _among_many(kind: str, p_holm: float | None) -> str:
    """The reading of an interval where there are many: what does not stand after Holm's correction says so."""
    return kind if p_holm is None or p_holm < 0.05 or kind == "unseen" else f"{kind}_alone"


def _p(value: Any) -> str:
    x = words.number(value)
    return words.NONE if x is None else "<0.001" if x < 0.001 else f"{x:.3f}"


def usual_settings(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of the settings that all trained cells have, the value that most have: a table says it once, above its rows."""
    trained = [cell["settings"] for cell in cells.values() if cell["settings"]]
    keys = [key for key in trained[0] if all(key in settings for settings in trained)] if trained else []
    values = {key: [settings[key] for settings in trained] for key in keys}
    return {key: max(found, key=found.count) for key, found in values.items()}


def _unusual(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in usual or usual[key] != value}


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k.removeprefix('align.')} {v}" for k, v in settings.items())


def cell_row(name: str, cell: Mapping[str, Any], usual: Mapping[str, Any]) -> Row:
    """One model: accuracies, the KL that it spent, its pairs and what training did to them; settings that are not the usual ones."""
    training, pairs = cell.get("training") or {}, cell.get("pairs") or {}
    return {
        "name": name,
        "model": cell["model"],
        "key": cell["model"] == "pns",
        "settings": _settings(_unusual(cell["settings"], usual)),
        "seeds": len(cell["seeds"]),
        **{kind: words.percent(cell[kind]["mean"]) for kind in ("greedy", "sampled")},
        **{f"{kind}_ci": words.span(cell[kind]["ci95"]) for kind in ("greedy", "sampled")},
        "kl": words.fixed(cell["kl"]["mean"]),
        "pairs": words.fixed(pairs.get("n"), 0) if pairs else "",
        "separated": f"{words.percent(pairs.get('separated_before'))} → {words.percent(training.get('separated_after'))}"
        if pairs
        else "",
        "shifts": f"{words.fixed(training.get('chosen_logp_shift'), sign=True)} / "
        f"{words.fixed(training.get('rejected_logp_shift'), sign=True)}"
        if training
        else "",
        "undecided": words.percent(cell["undecided"]),
    }


def benchmark_table(results: Mapping[str, Any]) -> Row:
    """Benchmarks by cells of the first objective, regime and protocol, in the deciding kind of accuracy."""
    metric, cells = results["metric"], results["cells"]
    shown = [n for n, c in cells.items() if c["switch"] is None and "/" not in n]
    rows = []
    for name in results["benchmarks"]:
        base = cells["policy"]["by_benchmark"][metric][name] if "policy" in cells else None
        found = [cells[n]["by_benchmark"][metric][name] for n in shown]
        rows.append(
            {
                "name": printable(name),
                "cells": [
                    (words.percent(x), words.points(x - base) if base is not None and n != "policy" else "")
                    for n, x in zip(shown, found, strict=True)
                ],
            }
        )
    return {"names": shown, "rows": rows}


_NEGATIVES = {
    "coverage": ("coverage, %", words.percent),
    "n": ("pairs", lambda v: words.fixed(v, 0)),
    "separated_before": ("separated before, %", words.percent),
    "rejected_logp": ("log p rejected, nats", words.fixed),
    "chosen_logp": ("log p chosen, nats", words.fixed),
    "length_difference": ("longer than chosen, tokens", words.fixed),
    "distinct_answers": ("different answers", lambda v: words.fixed(v, 0)),
}


def negatives_table(results: Mapping[str, Any]) -> Row:
    """What each method's pairs are like, means over seeds."""
    rows = [
        (f"{method}, {regime}", [show(block.get(key)) for key, (_, show) in _NEGATIVES.items()])
        for method, regimes in results["negatives"].items()
        for regime, block in regimes.items()
    ]
    return {"columns": [name for name, _ in _NEGATIVES.values()], "rows": rows}


def _quartiles(values: Any) -> str:
    return words.NONE if values is None else " / ".join(words.fixed(x) for x in values)


_ON_REQUEST = "AUC of a model that selected nothing"
"""What only a study with `audit: true` has."""
_PLAUSIBLE: dict[str, tuple[tuple[str, ...], Any]] = {
    "samples a seed": (("yield", "n"), lambda v: words.fixed(v, 0)),
    "wrong, %": (("yield", "wrong"), words.percent),
    "plausible, %": (("yield", "plausible"), words.percent),
    "consistent of the wrong, %": (("yield", "fully_consistent"), words.percent),
    "KL to the policy, nats": (("yield", "kl_to_policy"), words.fixed),
    "negatives: fully consistent, %": (("fully_consistent", "mean"), words.percent),
    "scored": (("reward_model", "n"), lambda v: words.fixed(v, 0)),
    "score: quartiles": (("reward_model", "quartiles"), _quartiles),
    "AUC against correct": (("reward_model", "auc", "mean"), words.fixed),
    _ON_REQUEST: (("heldout_auc", "mean"), words.fixed),
}
"""heading -> where in a method's plausibility, how it is shown."""


def plausibility_table(results: Mapping[str, Any]) -> Row | None:
    """How plausible each method's negatives are, with the correct responses first; None where nothing is known of it. Columns
    that are empty for all are left out, and `missing` names them.
    """
    found = results.get("plausibility") or {}
    every = {
        heading: [(show(v := words.dig(row, *path)), v is not None) for row in found.values()]
        for heading, (path, show) in _PLAUSIBLE.items()
    }
    shown = {heading: cells for heading, cells in every.items() if any(known for _, known in cells)}
    if not shown:
        return None
    rows = [(name, [cells[i][0] for cells in shown.values()]) for i, name in enumerate(found)]
    return {
        "columns": list(shown),
        "rows": [("correct responses" if name == "correct" else name, cells) for name, cells in rows],
        "missing": [heading for heading in every if heading not in shown and heading != _ON_REQUEST],
    }


def _reward_models(results: Mapping[str, Any]) -> Row | None:
    found = results.get("reward_model") or []
    if not found:
        return None
    keys = [k for k in found[0] if k.startswith(("pair_accuracy", "best_of", "mean_of", "oracle_of"))]
    rows = [(str(one["seed"]), [words.percent(one.get(k)) for k in keys]) for one in found]
    return {"columns": [words.label(k) for k in keys], "rows": rows}


_USES = {
    "reward_model": "As hard examples for the reward model, on the policy's held-out answers",
    "step_verifier": "For a verifier of steps, on the policy's answers to other problems",
    "calibration": "To calibrate judge and reward model, on the policy's held-out answers",
}


def _range(ci: Any) -> str:
    pair = words.interval(ci)
    return words.NONE if pair is None else " to ".join(words.fixed(x, 3, sign=True) for x in pair)


def uses_tables(results: Mapping[str, Any]) -> list[Row]:
    """What else negatives are good for: of each use the figures of every model, and the contrasts."""
    out = []
    for use, found in (results.get("uses") or {}).items():
        names = list(next(iter(found["figures"].values())))
        rows = [
            (printable(model), [words.fixed(figures[n]["mean"], 3) for n in names])
            for model, figures in found["figures"].items()
        ]
        contrasts = [
            (
                f"{c['a']} − {c['b']}", c["figure"].replace("_", " "), words.fixed(c["difference"], 3, sign=True),
                _range(c["ci95_t"]),
            )
            for c in found["contrasts"]
        ]  # fmt: skip
        columns = [n.replace("_", " ") for n in names]
        out.append(
            {"title": f"{_USES[use]} ({_seeds(found)})", "columns": columns, "rows": rows, "contrasts": contrasts}
        )
    return out


def ablation_row(name: str, c: Mapping[str, Any], results: Mapping[str, Any]) -> Row:
    """One switch against the unswitched method."""
    row = contrast_row(c, results["metric"])
    switch = results["switches"][results["cells"][name]["switch"]]
    told = ", ".join(f"{k} {v}" for k, v in switch["set"].items()) or "wrong rollouts of another seed's policy"
    at = f" at {', '.join(switch['at'])}" if switch["at"] else ""
    return {**row, "name": name, "set": told + at, "why": switch["why"]}


def tuning_rows(results: Mapping[str, Any]) -> list[Row]:
    """Every combination that was tried, best first within its step and model."""
    metric = results["tuning"]["metric"]
    kinds = ("greedy", "sampled") if metric == "mean" else (metric,)

    def value(trial: Mapping[str, Any]) -> float:
        return sum(sum(trial[k]) / len(trial[k]) for k in kinds) / len(kinds)

    order = {
        at: i
        for i, at in enumerate(
            dict.fromkeys((t["step"], t["objective"], t["model"]) for t in results["tuning"]["trials"])
        )
    }
    found = sorted(results["tuning"]["trials"], key=lambda t: (order[t["step"], t["objective"], t["model"]], -value(t)))
    return [
        {
            "at": f"{t['step']}: {t['objective']}, {t['model']}",
            "settings": _settings(t["settings"]) or "as the recipe",
            "value": words.percent(value(t)),
            "greedy": " ".join(words.percent(x) for x in t["greedy"]),
            "sampled": " ".join(words.percent(x) for x in t["sampled"]),
            "kl": " ".join(words.fixed(x) for x in t["kl"]),
        }
        for t in found
    ]
