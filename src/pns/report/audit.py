"""The page of `pns audit negatives`: the figures in tables, plots and words, with the pairs that fool and those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import pstdev
from typing import Any

from pns.evaluation.plausibility import COMPARED
from pns.evaluation.preferences import BASELINE, Preference
from pns.evaluation.texts import any_answer
from pns.records import Pair
from pns.report import audit_plots
from pns.report.build import environment
from pns.report.diff import printable
from pns.report.view import example
from pns.run import write_atomic

TELLS, HARDLY = 0.75, 0.6
"""An AUC at or above the first is called telling, below the second hardly more than chance. (Words ours.)"""
DETECTORS = {
    "length": "length alone",
    "ngrams": "n-grams",
    "transformer": "small transformer",
    "reward_model": "reward model",
}
SHOWN = 6


def build_audit_page(
    figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], pairs: Sequence[Preference],
    settings: Mapping[str, Any], out: Path,
) -> Path:  # fmt: skip
    """Write `index.html` into `out`: one self-contained page. The same arguments give the same bytes.

    Args:
        figures, rows: what `pns.evaluation.plausibility.audit_pairs` gave.
        settings: shown as they are.
    """
    page = environment().get_template("audit.html.j2").render(
        title=printable(str(settings.get("file") or "preference data")),
        verdicts=[printable(line) for line in verdicts(figures)],
        methods=[printable(name) for name in figures],
        table=[(name, cells) for name, cells in figure_rows(figures)],
        drawings=audit_plots.all_drawings(figures, rows),
        examples=_examples(rows, pairs),
        nearest=audit_plots.nearest(figures),
        compared=COMPARED,
        settings=[(printable(name), printable(str(value))) for name, value in settings.items() if value is not None],
    )  # fmt: skip
    path = out / "index.html"
    write_atomic(path, page)
    return path


def figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, one cell a method) of every figure that some method has."""
    out: list[tuple[str, list[str]]] = [
        ("pairs", [f"{f['pairs']:,}" for f in figures.values()]),
        ("problems", [f"{f['problems']:,}" for f in figures.values()]),
    ]
    for key, name in DETECTORS.items():
        found = [f["detectors"].get(key) for f in figures.values()]
        if any(found):
            out.append((f"AUC, {name}", [_with_span(d, "auc", "ci95") for d in found]))
            out.append(("  pairs told apart", [_percent(d and d["separable"]) for d in found]))
    every = list(figures.values())
    wrong = "wrong " if all("truth" in f for f in every) else ""
    out += [
        ("steps and answer hold, rejected", [_percent(f["consistent"]["rejected"]["share"]) for f in every]),
        ("steps and answer hold, chosen", [_percent(f["consistent"]["chosen"]["share"]) for f in every]),
        ("  rejected without a step to check", [str(f["consistent"]["rejected"]["nothing_to_check"]) for f in every]),
        ("a false statement is found", [_percent(f["first_wrong_step"]["found"]) for f in every]),
        ("first wrong step decided", [_percent(f["first_error"]["share"]) for f in every]),
        (
            "  decided, undecided",
            [f"{f['first_error']['decided']:,}, {f['first_error']['undecided']:,}" for f in every],
        ),
        ("  where, 0 first .. 1 last", [_quartiles(f["first_error"]["quartiles"]) for f in every]),
        ("  by statement / answer / chosen side", [_deciders(f["first_error"]["by"]) for f in every]),
        *_distances(every),
        ("same words until, 0..1", [_quartiles(f["divergence"]["quartiles"]) for f in every]),
        ("length, rejected / chosen", [_quartiles(f["length_ratio"]["quartiles"]) for f in every]),
        ("no answer found", [_percent(f["answers"]["none"]) for f in every]),
        (f"different {wrong}answers a problem", [_number(f["answers"]["distinct_a_problem"]) for f in every]),
        ("most common answer", [_common(f["answers"]) for f in every]),
        ("announces its error, rejected", [str(f["leaks"]["rejected"]) for f in every]),
        ("announces an error, chosen", [str(f["leaks"]["chosen"]) for f in every]),
        ("copies, near-copies", [f"{f['duplicates']['exact']}, {f['duplicates']['near']}" for f in every]),
    ]
    if any("truth" in f for f in every):
        out.append(("rejected: wrong / undecided / correct", [_truth(f, "rejected") for f in every]))
        out.append(("chosen: wrong / undecided / correct", [_truth(f, "chosen") for f in every]))
    return out


def _distances(every: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The edit distances, and with how many responses each was compared: of which kinds, only where there are two."""
    cells = [_quartiles(f["edit_distance"]["quartiles"]) for f in every]
    kinds = [(_number(f["nearest"]["chosen"]), _number(f["nearest"]["rollouts"])) for f in every]
    if not any(f["nearest"]["rollouts"] for f in every):
        told = ("  chosen responses a problem", [chosen for chosen, _ in kinds])
        return [("words to the nearest chosen response, 0..1", cells), told]
    told = ("  correct ones a problem: chosen + rollouts", [" + ".join(both) for both in kinds])
    return [("words to the nearest correct response, 0..1", cells), told]


def verdicts(figures: Mapping[str, Any]) -> list[str]:
    """A sentence or two on each method: what tells it, what it fools, and what that is worth."""
    baseline = figures.get(BASELINE)
    out = [_verdict(name, f, baseline if name != BASELINE else None) for name, f in figures.items()]
    if baseline is None:
        out.append(
            "No rejection samples stand beside these figures (--baseline): a weak detector gives 0.5 for everything."
        )
    return out


def _verdict(name: str, figures: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> str:
    found = figures["detectors"]
    tells = [key for key, d in found.items() if d["auc"] >= TELLS and d["ci95"][0] > 0.5]
    fooled = [key for key, d in found.items() if d["ci95"][1] < 0.5]
    blind = [key for key, d in found.items() if d["ci95"][0] <= 0.5 <= d["ci95"][1] or (0.5 < d["auc"] < HARDLY)]
    said = []
    if tells:
        said.append(f"told from chosen by {_names(tells, found)}")
    if blind:
        said.append(f"hardly or not by {_names(blind, found)}")
    if fooled:
        said.append(f"{_names(fooled, found)} fooled: the rejected side looks better to it")
    between = [key for key in found if key not in (*tells, *fooled, *blind)]
    if between:
        said.append(f"partly by {_names(between, found)}")
    text = f"{name}: {'; '.join(said) or 'no detector was asked'}."
    if baseline is not None:
        text += _beside(found, baseline["detectors"])
    return text + _caveats(figures)


def _beside(found: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    shared = [key for key in found if key in baseline]
    harder = [key for key in shared if found[key]["ci95"][1] < baseline[key]["ci95"][0]]
    easier = [key for key in shared if found[key]["ci95"][0] > baseline[key]["ci95"][1]]
    said = [f"harder to tell than rejection samples by {_plain(harder)}"] if harder else []
    said += [f"easier by {_plain(easier)}"] if easier else []
    return f" {'; '.join(said).capitalize()}." if said else " No detector sets it clearly apart from rejection samples."


def _caveats(figures: Mapping[str, Any]) -> str:
    out = _steps(figures) + _first_errors(figures)
    share = figures["answers"]["most_common_share"]
    if share is not None and share > 0.2 and figures["problems"] >= 20:
        out += f" One answer, {printable(str(figures['answers']['most_common']))[:40]}, stands in {_percent(share)} of the pairs."
    if figures["leaks"]["rejected"] > 0.01 * figures["pairs"]:
        out += f" {figures['leaks']['rejected']} rejected responses announce their error."
    truth = figures.get("truth", {}).get("rejected", {})
    if truth.get("correct"):
        out += f" {truth['correct']} rejected answers are correct."
    return out


def _steps(figures: Mapping[str, Any]) -> str:
    """The share of fully consistent responses, rejected against chosen: it stands beside every verdict, since a weak detector
    gives 0.5, too, and a flip passes by length and n-grams.
    """
    found = figures["consistent"]
    mine, other = found["rejected"]["share"], found["chosen"]["share"]
    if mine is None and other is None:
        return " No step could be checked on either side, so whether they hold is unknown."
    if mine is not None and other is not None and mine < other / 2:
        false = figures["first_wrong_step"]["found"]
        # A flip has no false statement: what fails is that its answer follows from them.
        rest = ": in the others a number, a link or the answer does not follow" if false < (1 - mine) / 2 else ""
        out = (
            f" Not consistent: {_percent(mine)} are fully so, of the chosen {_percent(other)}; "
            f"a false statement is found in {_percent(false)}{rest}."
        )
    else:
        out = f" Fully consistent: {_known(mine)} of the rejected, {_known(other)} of the chosen."
    bare = [f"{n:,} {side}" for side in ("rejected", "chosen") if (n := found[side]["nothing_to_check"])]
    return f"{out} Without a step to check: {' and '.join(bare)} of {figures['pairs']:,} pairs." if bare else out


def _first_errors(figures: Mapping[str, Any]) -> str:
    """How often rules decide the first wrong step, where it then stands, and what they had to go by."""
    found, pairs = figures["first_error"], figures["pairs"]
    out = f" The first wrong step is decided in {found['decided']:,} of {pairs:,} pairs ({_percent(found['share'])})"
    out += "" if found["quartiles"] is None else f", at {found['quartiles'][1]:.2f} in the median (0 first, 1 last)"
    if not found["with_gold"]:
        return f"{out}; without gold answers by false statements alone."
    bare = pairs - found["with_gold"]
    return f"{out}; in {bare:,} without a gold answer by false statements alone." if bare else f"{out}."


def _deciders(by: Mapping[str, int]) -> str:
    return " / ".join(f"{by.get(rule, 0):,}" for rule in ("arithmetic", "consistency", "only_step"))


def _known(share: Any) -> str:
    return "an unknown share" if share is None else _percent(share)


def _names(keys: Sequence[str], found: Mapping[str, Any]) -> str:
    return ", ".join(f"{DETECTORS.get(key, key)} ({found[key]['auc']:.2f})" for key in keys)


def _plain(keys: Sequence[str]) -> str:
    return ", ".join(DETECTORS.get(key, key) for key in keys)


def _with_span(block: Mapping[str, Any] | None, value: str, span: str) -> str:
    if not block:
        return "-"
    low, high = block[span]
    return f"{block[value]:.3f} [{low:.2f}, {high:.2f}]"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"


def _quartiles(values: Any) -> str:
    return "-" if values is None else " ".join(f"{value:.2f}" for value in values)


def _common(answers: Mapping[str, Any]) -> str:
    if answers["most_common"] is None:
        return "-"
    return f"{printable(str(answers['most_common']))[:16]} ({_percent(answers['most_common_share'])})"


def _truth(figures: Mapping[str, Any], side: str) -> str:
    counts = figures.get("truth", {}).get(side, {})
    return " / ".join(str(counts.get(outcome, 0)) for outcome in ("wrong", "undecided", "correct"))


def _examples(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Preference]) -> list[tuple[str, dict[str, Any]]]:
    """Of each method, the pairs that fool its detectors most, by their mean, and the one that they tell most surely."""
    by_method: dict[str, list[tuple[float, int]]] = {}
    spreads = _spreads(rows)
    for i, row in enumerate(rows):
        method = pairs[i].method
        gaps = [(chosen - rejected) / spreads[method, name] for name, (chosen, rejected) in row["scores"].items()]
        if gaps:
            by_method.setdefault(method, []).append((sum(gaps) / len(gaps), i))
    out = []
    for method, ranked in by_method.items():
        ranked.sort()
        each = max(1, SHOWN // (2 * len(by_method)))
        out += [(f"{method}: fools the detectors most", i) for _, i in ranked[:each]]
        out.append((f"{method}: told most surely", ranked[-1][1]))
    return [(printable(caption), _example(pairs[i], rows[i])) for caption, i in out]


def _spreads(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Standard deviation of a detector's scores over both sides of a method's pairs; 1 where all scores are the same.

    A reward model's scores are raw: without this its unit would decide how much it counts beside the other detectors.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for name, sides in row["scores"].items():
            found.setdefault((row["method"], name), []).extend(sides)
    return {key: pstdev(scores) or 1.0 for key, scores in found.items()}


def _example(one: Preference, row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair as the page shows it, with what each detector gave its two sides."""
    pair = Pair(
        problem_id=f"line {one.line}", method=one.method, prompt=one.prompt, chosen=one.chosen, rejected=one.rejected,
        chosen_answer=any_answer(one.chosen), rejected_answer=row["answer"],
    )  # fmt: skip
    given = [
        (DETECTORS.get(name, name), f"chosen {chosen:.2f}, rejected {rejected:.2f}")
        for name, (chosen, rejected) in row["scores"].items()
    ]
    return {**example(pair), "scores": given}
