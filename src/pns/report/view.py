"""From results.json to what the page shows: tables of ready text. Every function copes with what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pns.records import Pair, Rubric
from pns.report.diff import mark_steps, mark_words, printable
from pns.report.words import (
    METHODS,
    NONE,
    READINGS,
    anything,
    dig,
    duration,
    fixed,
    in_order,
    interval,
    label,
    number,
    percent,
    points,
    reading,
    span,
)

Row = dict[str, Any]

PAIR_COLUMNS = {
    "n": "Pairs",
    "coverage": "Coverage, %",
    "separated_before": "Sep. before, %",
    "separated_after": "Sep. after, %",
    "separated_before_per_token": "Sep. per token, before, %",
    "separated_after_per_token": "Sep. per token, after, %",
    "chosen_logp_shift": "Chosen log p, shift",
    "rejected_logp_shift": "Rejected log p, shift",
    "rejected_logp_per_token": "Rejected log p a token",
    "length_difference": "Length differs by, tokens",
    "duplicates": "Dupli\u00adcates",
    "distinct_answers": "Distinct answers",
    "chosen_reference": "Chosen from reference",
}
_SHARES = {"coverage", "separated_before", "separated_after", "separated_before_per_token", "separated_after_per_token"}
_SIGNED = {"chosen_logp_shift", "rejected_logp_shift", "length_difference"}

GENERATOR_FACTS = {
    "plausible": "Plausible",
    "wrong": "Wrong",
    "well_formed": "Well-formed",
    "correct": "Correct",
    "undecided": "Undecided",
    "unscored": "Unscored",
    "distinct_answers": "Distinct answers",
    "kl_to_policy": "KL to the policy, nats",
    "n": "Samples",
}
GENERATORS_FACTS = {
    "n": "Samples",
    "wrong": "Wrong",
    "plausible": "Plausible",
    "fully_consistent": "Consistent throughout, of the judged",
    "distinct_answers": "Distinct answers",
    "kl_to_policy": "KL to the policy, nats",
    "selected": "Selected",
}
REWARD_FACTS = {
    "pair_accuracy": "Pair accuracy within a problem",
    "mean_of_8": "A blind pick of eight",
    "best_of_8": "The model's pick of eight",
    "oracle_of_8": "The best possible of eight",
    "n_problems": "Problems",
    "n_pairs": "Pairs compared",
    "n_training_pairs": "Pairs trained on",
}


def compared_pairs(results: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """(regime, method -> block) of the pairs that the compared methods learned from: own ones where there are no matched ones.

    The regime is empty where there are no pairs at all.
    """
    for regime, key in (("matched", "pairs"), ("own", "pairs_own")):
        if block := dig(results, key):
            return regime, block
    return "", {}


def comparison(results: Mapping[str, Any]) -> list[Row]:
    """One row a method: means with intervals, and the paired differences to the policy."""
    mean, sampled, paired = (dig(results, *k) or {} for k in (("mean",), ("sampled", "mean"), ("paired",)))
    return [_comparison_row(results, method) for method in in_order([*mean, *sampled, *paired])]


def _comparison_row(results: Mapping[str, Any], method: str) -> Row:
    paired = dig(results, "paired", method) or {}
    return {
        "method": method,
        "about": METHODS.get(method, ""),
        "greedy": percent(dig(results, "mean", method)),
        "greedy_ci": span(dig(results, "mean_ci95", method)),
        "sampled": percent(dig(results, "sampled", "mean", method)),
        "sampled_ci": span(dig(results, "sampled", "mean_ci95", method)),
        "pass_at_k": percent(dig(results, "sampled", "pass_at_k", method)),
        "maj_at_k": percent(dig(results, "sampled", "maj_at_k", method)),
        **_differences(paired),
    }


def _differences(paired: Mapping[str, Any]) -> Row:
    ci, sampled_ci = paired.get("ci95"), paired.get("sampled_ci95")
    return {
        "change": points(paired.get("difference_to_policy")),
        "change_ci": span(ci, signed=True),
        "reading": reading(ci),
        "p": _p_value(paired.get("p_value")),
        "sampled_change": points(paired.get("sampled_difference_to_policy")),
        "sampled_change_ci": span(sampled_ci, signed=True),
        "sampled_reading": reading(sampled_ci),
    }


def _p_value(value: Any) -> str:
    p = number(value)
    return NONE if p is None else "< 0.001" if p < 0.001 else fixed(p, 3)


def own_coverage(results: Mapping[str, Any]) -> list[Row]:
    """The own-coverage regime beside the matched one."""
    own = dig(results, "own_coverage") or {}
    methods = in_order([m for key in ("mean", "sampled", "paired") for m in dig(own, key) or {}])
    return [
        {
            "method": method,
            "greedy": percent(dig(own, "mean", method)),
            "matched": percent(dig(results, "mean", method)),
            "sampled": percent(_sampled_of(own, method)),
            "coverage": percent(dig(results, "pairs_own", method, "coverage")),
            "n": anything(dig(results, "pairs_own", method, "n")),
            **_differences(dig(own, "paired", method) or {}),
        }
        for method in methods
    ]


def _sampled_of(own: Mapping[str, Any], method: str) -> Any:
    # Either {method: accuracy} or the shape of the matched block, {"mean": {method: accuracy}, ...}.
    direct = dig(own, "sampled", method)
    return dig(own, "sampled", "mean", method) if direct is None else direct


def benchmark_table(results: Mapping[str, Any]) -> Row | None:
    """Benchmarks by methods, each cell with its difference to the policy and a strength of tint; None without any."""
    blocks: Mapping[str, Any] = dig(results, "benchmarks") or {}
    methods = in_order([m for block in blocks.values() for m in block or {}])
    if not methods:
        return None
    rows = [_benchmark_row(name, block or {}, methods) for name, block in blocks.items()]
    return {"methods": methods, "rows": rows}


def _benchmark_row(name: str, block: Mapping[str, Any], methods: Sequence[str]) -> Row:
    base = number(dig(block, "policy", "accuracy"))
    sizes = [dig(block, m, "n") for m in methods if dig(block, m, "n") is not None]
    cells = []
    for method in methods:
        entry = dig(block, method) or {}
        accuracy = number(entry.get("accuracy"))
        change = None if accuracy is None or base is None or method == "policy" else accuracy - base
        cells.append(
            {
                "method": method,
                "accuracy": percent(accuracy),
                "ci": span(entry.get("ci95")),
                "change": "" if change is None else points(change),
                # The model before RLVR is far below; tinted, it would drown the comparison.
                "side": "" if not change or method == "sft" else "up" if change > 0 else "down",
                # Full tint at six points: about twice the half-width of an interval on 300 problems.
                "tint": 0 if change is None else round(min(1.0, abs(change) / 0.06) * 45),
                "sampled": percent(entry.get("sampled")),
                "pass_at_k": percent(entry.get("pass_at_k")),
                "maj_at_k": percent(entry.get("maj_at_k")),
                "undecided": anything(entry.get("undecided")),
            }
        )
    return {"name": label(name), "n": anything(sizes[0]) if sizes else NONE, "cells": cells}


def pair_table(block: Mapping[str, Any] | None) -> Row | None:
    """Pair diagnostics, a row a method, only the columns that some method has; None without any."""
    block = {method: row for method, row in (block or {}).items() if row}
    columns = [key for key in PAIR_COLUMNS if any(key in row for row in block.values())]
    if not any(row.get("chosen_reference") for row in block.values()):
        columns = [key for key in columns if key != "chosen_reference"]
    if not columns:
        return None
    rows = [(method, [_pair_cell(key, block[method].get(key)) for key in columns]) for method in in_order(block)]
    return {"columns": [PAIR_COLUMNS[key] for key in columns], "rows": rows}


def _pair_cell(key: str, value: Any) -> str:
    if key in _SHARES:
        return percent(value)
    if key in _SIGNED:
        return fixed(value, sign=True)
    return fixed(value) if key == "rejected_logp_per_token" else anything(value)


def facts(block: Mapping[str, Any] | None, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, value) of the named keys that a block has."""
    return [(name, _fact(key, (block or {})[key])) for key, name in names.items() if key in (block or {})]


def generators_table(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """One row a generator, where there are several: its name, what it has otherwise, and what its samples are."""
    rows = dig(results, "generator", "generators") or {}
    return [
        (
            printable(name),
            [
                printable(", ".join(f"{key} {value}" for key, value in (one.get("otherwise") or {}).items())),
                *(_fact(key, one.get(key)) for key in GENERATORS_FACTS),
            ],
        )
        for name, one in rows.items()
    ]


def _fact(key: str, value: Any) -> str:
    """A number that is no share would be taken for one where it is between 0 and 1."""
    digits = {"kl_to_policy": 3, "distinct_answers": 2}.get(key)
    return anything(value) if digits is None else fixed(value, digits)


def policy_rows(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(phase, greedy, sampled) of the policy's making."""
    phases = (("sft", "after SFT"), ("rlvr", "after RLVR"))
    return [
        (name, percent(dig(results, "policy", key, "greedy")), percent(dig(results, "policy", key, "sampled")))
        for key, name in phases
        if dig(results, "policy", key)
    ]


def plausibility_table(results: Mapping[str, Any]) -> list[Row]:
    """One row a kind of response: mean M, held-out and length AUC, share that is consistent throughout."""
    block = dig(results, "plausibility") or {}
    keys = ("reward_model", "heldout_auc", "length_auc", "fully_consistent")
    kinds = in_order([kind for key in keys for kind in dig(block, key) or {}])
    kinds.sort(key=lambda kind: kind != "correct")
    return [
        {
            "kind": kind,
            "m": fixed(dig(block, "reward_model", kind)),
            "auc": fixed(dig(block, "heldout_auc", kind)),
            "auc_ci": _plain_span(dig(block, "heldout_auc_ci95", kind)),
            "length": fixed(dig(block, "length_auc", kind)),
            "consistent": percent(dig(block, "fully_consistent", kind)),
        }
        for kind in kinds
    ]


def _plain_span(value: Any) -> str:
    pair = interval(value)
    return "" if pair is None else f"{fixed(pair[0])}–{fixed(pair[1])}"


def auc_note(results: Mapping[str, Any]) -> str:
    """The held-out AUC of pns beside that of rejection, in a sentence; empty where not measured."""
    pns, rejection = (number(dig(results, "plausibility", "heldout_auc", m)) for m in ("pns", "rejection"))
    if pns is None:
        return ""
    text = f"The audit model tells pns negatives from correct responses with an AUC of {fixed(pns)}"
    if rejection is None:
        return (
            text
            + "; without its AUC on rejection samples one cannot say whether that is their merit or its own weakness."
        )
    mine, theirs = (interval(dig(results, "plausibility", "heldout_auc_ci95", m)) for m in ("pns", "rejection"))
    if mine is not None and theirs is not None and mine[0] <= theirs[1] and theirs[0] <= mine[1]:
        end = "the two cannot be told apart, their intervals overlap."
    elif pns < rejection:
        end = "the pns negatives are the harder ones to tell from correct responses."
    else:
        end = "the pns negatives are no harder to tell from correct responses."
    return f"{text}, rejection samples with {fixed(rejection)}: for this detector {end}"


def reward_models(results: Mapping[str, Any]) -> list[Row]:
    """The reward model and the audit model: named facts first, whatever else they hold after them."""
    out = []
    for key, name in (("reward_model", "Reward model"), ("audit_model", "Audit model")):
        block = dig(results, key)
        if block:
            rest = {k: label(k).capitalize() for k in block if k not in REWARD_FACTS}
            out.append({"name": name, "block": block, "facts": facts(block, {**REWARD_FACTS, **rest})})
    return out


def stage_times(results: Mapping[str, Any]) -> list[Row]:
    """Seconds a stage, with the width of its bar in percent of the longest."""
    seconds = {k: number(v) for k, v in (dig(results, "seconds") or {}).items()}
    longest = max((s for s in seconds.values() if s is not None), default=0.0)
    return [
        {"stage": printable(k), "time": duration(s), "width": round(100 * s / longest, 1) if s and longest else 0}
        for k, s in seconds.items()
    ]


def example(pair: Pair) -> Row:
    """A pair as aligned rows of marked words, with the breakdown of the rejected side's score."""
    chosen, rejected = printable(pair.chosen).rstrip("\n"), printable(pair.rejected).rstrip("\n")
    rows, first = [], True
    for left, right, differs in mark_steps(chosen, rejected):
        rows.append(
            {
                "left": mark_words(left, right),
                "right": mark_words(right, left),
                "differs": differs,
                "first": differs and first,
            }
        )
        rows[-1]["no_left"], rows[-1]["no_right"] = left is None, right is None
        first = first and not differs
    return {
        "method": pair.method,
        "id": printable(pair.problem_id),
        "prompt": printable(pair.prompt),
        "rows": rows,
        "chosen_source": pair.chosen_source,
        "chosen_answer": printable(pair.chosen_answer or NONE),
        "rejected_answer": printable(pair.rejected_answer or NONE),
        "logp": log_probabilities(pair),
        "scores": breakdown(pair),
    }


def log_probabilities(pair: Pair) -> list[tuple[str, str]]:
    """Log p a token under the policy of both sides, where they are known."""
    sides = (("chosen", pair.chosen_logp, pair.chosen_tokens), ("rejected", pair.rejected_logp, pair.rejected_tokens))
    return [(f"log p a token, {side}", fixed(logp / n)) for side, logp, n in sides if logp is not None and n > 0]


def breakdown(pair: Pair) -> list[tuple[str, str]]:
    """(term, value) of the rejected side's score; empty where it was never scored."""
    scores = pair.scores
    if scores is None:
        return []
    terms = [("gate", scores.gate), ("score R", fixed(scores.score))]
    optional = (
        ("inversion A", scores.inversion),
        ("reward model M", scores.reward_model),
        ("raw reward", scores.reward_raw),
    )
    terms += [(name, fixed(value)) for name, value in optional if value is not None]
    if scores.rubric is not None:
        terms.append(("judge C", f"{scores.rubric.total}/12"))
        terms += [(name, f"{getattr(scores.rubric, name)}/3") for name in Rubric.model_fields]
    if scores.unscored_cause:
        terms.append(("unscored because", printable(scores.unscored_cause)))
    return terms


def readings() -> Mapping[str, str]:
    """Reading of an interval -> its words on the page."""
    alone = {f"{kind}_alone": f"{kind}, not after Holm" for kind in ("gain", "loss")}
    return {**READINGS, "gain": "gain", "loss": "loss", "unseen": "not significant", **alone}
