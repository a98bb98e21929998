"""Numbers as text, and the sentences that the report draws from them. Shares go in, percent and points come out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pns.negatives.yields import PLAUSIBLE_RUBRIC

MINUS, DASH, NONE = "\u2212", "\u2013", "\u2013"

# Display order; methods that are not named here follow in the order of the results.
METHODS = {
    "sft": "reference: the model before RLVR",
    "policy": "the RL-trained policy that every row below starts from",
    "sft_chosen": "control: SFT on the chosen side alone",
    "rlvr_more": "control: RLVR goes on with the budget that pns cost",
    "nsr": "reference: REINFORCE on samples that are not correct, with the budget that pns cost",
    "w_reinforce": "reference: REINFORCE, correct samples weigh little, with the budget that pns cost",
    "rejection": "DPO; negatives are the policy's own wrong answers",
    "prompted": "DPO; negatives that a prompted model wrote",
    "flip": "DPO; a correct derivation with another final answer",
    "corruption": "DPO; one step is changed and carried through",
    "pns": "DPO; negatives from the trained generator",
    "pns_prefix": "DPO; the trained generator goes on from a prefix of a correct solution",
}
PLAUSIBLE = (
    "wrong and well-formed, M at least that of the lowest quarter of correct responses, and at least "
    f"{PLAUSIBLE_RUBRIC} of 12 points where a judge was asked"
)
"""What counts as plausible in every yield, whatever a recipe selects by; see `yields.yield_of`."""
LEAST_SHIFT = 0.05  # nats a response; less than this is not worth a warning
SEPARATED_BOUND = 0.9
SAID_ELSEWHERE = "likelihood displacement"  # the page has a sentence of its own for it


def dig(data: Any, *keys: str) -> Any:
    """The value at a path of nested mappings, None where any of it is missing or empty."""
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            return None
        data = data[key]
    return data


def number(value: Any) -> float | None:
    """The value as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(value: Any) -> tuple[float, float] | None:
    """A (low, high) of two finite numbers, else None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def in_order(methods: Iterable[str]) -> list[str]:
    """Method names without repeats, the known ones in the order of the table, the others after them."""
    seen = dict.fromkeys(methods)
    return [m for m in METHODS if m in seen] + [m for m in seen if m not in METHODS]


def fixed(value: Any, digits: int = 2, *, sign: bool = False) -> str:
    """A number with so many decimals and a true minus sign; a dash where there is none. Never shows a negative zero."""
    x = number(value)
    if x is None:
        return NONE
    text = f"{x:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """A share in 0..1 as percent, without the sign for it: 0.7321 -> 73.2."""
    x = number(value)
    return NONE if x is None else fixed(100 * x, digits)


def points(value: Any, digits: int = 1) -> str:
    """A difference of shares as signed points: -0.004 -> −0.4."""
    x = number(value)
    return NONE if x is None else fixed(100 * x, digits, sign=True)


def span(value: Any, *, signed: bool = False, digits: int = 1) -> str:
    """An interval of shares in points: 71.9–74.5, or −1.3 to +0.5 when signed; empty where there is none."""
    pair = interval(value)
    if pair is None:
        return ""
    if signed:
        return f"{points(pair[0], digits)} to {points(pair[1], digits)}"
    return f"{percent(pair[0], digits)}{DASH}{percent(pair[1], digits)}"


def anything(value: Any) -> str:
    """A value whose meaning is only known by its name: counts as counts, shares as percent, other numbers short."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    x = number(value)
    if x is not None:
        return f"{percent(x)} %" if 0 <= x <= 1 else fixed(x, 3 if abs(x) < 100 else 0)
    if isinstance(value, list | tuple):
        return ", ".join(anything(v) for v in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{label(k)} {_inner(v)}" for k, v in value.items())
    return NONE if value is None or isinstance(value, float) else str(value)


def _inner(value: Any) -> str:
    # Inside a mapping (a calibration, library versions) a number is itself, not a share.
    return fixed(value, 3) if isinstance(value, float) else anything(value)


def label(name: Any) -> str:
    """A key as words."""
    return str(name).replace("_", " ")


def duration(seconds: Any) -> str:
    """Seconds as 1 h 02 min, 3 min 05 s or 4.2 s."""
    x = number(seconds)
    if x is None:
        return NONE
    if x < 59.95:
        return f"{x:.1f} s"
    whole = round(x)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    whole = round(x / 60)
    return f"{whole // 60} h {whole % 60:02d} min"


def reading(ci: Any) -> str:
    """What the interval of a difference allows one to say: gain, loss, unseen, or nothing (empty) without one."""
    pair = interval(ci)
    if pair is None:
        return ""
    return "gain" if pair[0] > 0 else "loss" if pair[1] < 0 else "unseen"


READINGS = {"gain": "a gain", "loss": "a loss", "unseen": "no difference that this run can see"}


def verdict(results: Mapping[str, Any]) -> str:
    """The run's answer to the claim in a sentence or two, computed from the numbers and from nothing else."""
    pns = _change(results, "pns")
    if pns is None:
        return "This run has no comparison of pns with the policy, so it says nothing about the claim."
    text = f"On this run pns changed the mean accuracy by {pns[0]} against the RL-trained policy: {pns[1]}."
    other = _change(results, "rejection")
    if other is not None:
        also = "also " if other[1] == pns[1] and pns[1] in READINGS.values() else ""
        text += f" Rejection sampling changed it by {other[0]}: {also}{other[1]}."
    direct = dig(results, "paired", "pns", "difference_to_rejection") or {}
    mine, theirs = (number(dig(results, "mean", m)) for m in ("pns", "rejection"))
    if (gap_known := number(direct.get("difference"))) is not None:
        said = READINGS.get(reading(direct.get("ci95")), "no interval was computed")
        text += (
            f" On the same problems pns stands {_points_with(gap_known, direct.get('ci95'))} from rejection: {said}."
        )
    elif mine is not None and theirs is not None:
        gap = points(mine - theirs)
        text += f" Between the two point estimates, pns stands {gap} points from rejection."
    return text


def sampled_verdict(results: Mapping[str, Any]) -> str:
    """The same for sampled accuracy, in one sentence; empty where it was not measured."""
    parts = []
    for method in ("pns", "rejection"):
        row = dig(results, "paired", method) or {}
        change = number(row.get("sampled_difference_to_policy"))
        if change is not None:
            said = READINGS.get(reading(row.get("sampled_ci95")), "no interval was computed")
            parts.append(f"{method} {_points_with(change, row.get('sampled_ci95'))}: {said}")
    return f"Sampled at temperature 1: {'; '.join(parts)}." if parts else ""


def _change(results: Mapping[str, Any], method: str) -> tuple[str, str] | None:
    row = dig(results, "paired", method) or {}
    change = number(row.get("difference_to_policy"))
    if change is None:
        return None
    return _points_with(change, row.get("ci95")), READINGS.get(reading(row.get("ci95")), "no interval was computed")


def _points_with(change: float, ci: Any) -> str:
    given = span(ci, signed=True)
    return f"{points(change)} points" + (f" (95 % interval {given})" if given else "")


def pair_notes(pairs: Mapping[str, Any]) -> list[tuple[bool, str, str]]:
    """How to read the pair diagnostics: (is it a warning, method, sentences) for each that stands out."""
    rows = {method: pairs[method] or {} for method in in_order(pairs)}
    parts = {
        m: " ".join(filter(None, (_separation_note(row), _chosen_note(row), *_told(row)))) for m, row in rows.items()
    }
    warnings = [(True, method, text) for method, text in parts.items() if text]
    if warnings or not rows:
        return warnings
    text = "No method stands out: none is separated beyond 90 % before training, and no chosen side grew less likely by 0.05 nats."
    return [(False, "", text)]


def _told(row: Mapping[str, Any]) -> list[str]:
    """Warnings of the training that are not said in other words below."""
    found = [str(text) for text in row.get("warnings") or [] if not str(text).startswith(SAID_ELSEWHERE)]
    return [f"{text[:1].upper()}{text[1:]}." for text in found]


def _separation_note(row: Mapping[str, Any]) -> str:
    before = number(row.get("separated_before"))
    if before is None or before <= SEPARATED_BOUND:
        return ""
    return (
        f"Before any training the policy already prefers the chosen response in {percent(before)} % of the pairs. "
        "These negatives are not plausible to the policy: there is little left to learn from them, and pushing "
        "them further down mostly moves something else."
    )


def _chosen_note(row: Mapping[str, Any]) -> str:
    chosen, rejected = number(row.get("chosen_logp_shift")), number(row.get("rejected_logp_shift"))
    if chosen is None or chosen > -LEAST_SHIFT:
        return ""
    beside = "" if rejected is None else f" (rejected: {fixed(rejected, sign=True)})"
    return (
        f"Training moved the log-probability of the chosen responses by {fixed(chosen, sign=True)} nats{beside}: the "
        "policy's own correct answers became less likely along with the wrong ones."
    )


def reward_model_note(block: Mapping[str, Any]) -> tuple[bool, str] | None:
    """(is it a warning, sentence) on whether choosing by the model beats choosing blindly; None where not measured."""
    best, mean, oracle = (number(block.get(k)) for k in ("best_of_8", "mean_of_8", "oracle_of_8"))
    if best is None or mean is None:
        return None
    gained = points(best - mean)
    if best < mean:
        return True, f"It chooses worse than the mean: {gained} points against a blind pick of the same eight."
    share = ""
    if oracle is not None and oracle > mean:
        part = percent((best - mean) / (oracle - mean), 0)
        share = f", {part} % of the {points(oracle - mean)} that a perfect choice would gain"
    return False, f"Choosing the best of eight by it gains {gained} points over a blind pick{share}."
