"""Preference training of the policy for one method and regime, and the control that sees the chosen side alone."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pns.evaluation.lengths import lengths, told_by_length
from pns.processes import loading_device
from pns.recipe import Method, Regime
from pns.records import Pair, read_parquet
from pns.run import write_json
from pns.sampling.engine import load_causal, load_tokenizer
from pns.stages.context import Context
from pns.stages.engines import reader
from pns.training.common import train_dtype
from pns.training.preference import align_steps, count_cut, train_preference
from pns.training.sft import train_sft

LOG = logging.getLogger("pns")
DISPLACED = 0.05
"""Nats that the chosen side may lose before it is called displaced."""


def align(context: Context, method: Method, regime: Regime) -> None:
    """Preference training on one set of pairs; stats.json says what it did to the pairs' log-probabilities.

    What a person should know stands in stats.json, under `warnings`, and in the stage's log.
    """
    rows = _pairs(context, f"{regime}-{method}")
    train_preference(
        context.model("rlvr"),
        rows,
        context.out,
        part=context.recipe.align,
        runtime=context.recipe.runtime,
        seed=context.seed,
        progress=context.progress,
    )
    stats: dict[str, Any] = {**_after(context, rows), "lengths": lengths(rows)}
    if context.recipe.align.cut:
        stats["cut"] = count_cut(context.model("rlvr"), rows, context.recipe.align)
    stats["warnings"] = warnings(rows, stats)
    _tell(context, stats)


def warnings(rows: Sequence[Pair], stats: Mapping[str, Any]) -> list[str]:
    """Signs that the training did something else than it should (bounds ours).

    Likelihood displacement: the margin grew while chosen responses became less likely. Separable by length: length alone
    tells rejected from chosen, over all pairs, within a pair or by its distance from the usual, so that is what may be
    learned. Cut: sides that do not end in an answer.
    """
    out = []
    chosen, rejected = stats["chosen_logp_shift"], stats["rejected_logp_shift"]
    if chosen < -DISPLACED and chosen > rejected:
        out.append(
            f"likelihood displacement: the margin grew by {chosen - rejected:.2f} nats while chosen responses became less "
            f"likely by {-chosen:.2f}; a lower learning rate, nll_weight or apo_zero counter it"
        )
    if told := told_by_length(lengths(rows)):
        out.append(f"separable by length: {'; '.join(told)}; length_alpha, or selection by length, may counter it")
    cut = stats.get("cut") or {}
    if any(cut.values()):
        out.append(
            f"cut at align.max_length: {cut['chosen']} chosen and {cut['rejected']} rejected sides of {len(rows)} pairs "
            "lose their end, the answer with it"
        )
    return out


def sft_chosen(context: Context, regime: Regime | None = None, method: Method | None = None) -> None:
    """The control: NLL on the chosen side of the pairs, with as many updates as DPO.

    In the matched regime every method has the same chosen side. Default: the first regime, the first method. With
    `align.cut`, stats.json says how many sides were cut.
    """
    recipe, part = context.recipe, context.recipe.align
    rows = _pairs(context, f"{regime or recipe.pairs.regimes[0]}-{method or recipe.negatives.methods[0]}")
    train_sft(
        load_causal(context.model("rlvr"), loading_device(recipe.runtime.device), train_dtype(recipe.runtime)),
        load_tokenizer(context.model("rlvr")),
        [(p.prompt, p.chosen) for p in rows],
        context.out,
        runtime=recipe.runtime,
        steps=align_steps(len(rows), part),
        batch_size=part.batch_size,
        gradient_accumulation=part.gradient_accumulation,
        learning_rate=part.sft_learning_rate or part.learning_rate,
        warmup=0.1,
        max_length=part.max_length,
        seed=context.seed,
        progress=context.progress,
        key="align.max_length",
        cut=part.cut,
    )
    if part.cut:
        cut = count_cut(context.model("rlvr"), rows, part)["chosen"]
        said = [f"cut at align.max_length: {cut} of {len(rows)} chosen sides lose their end, the answer with it"]
        _tell(context, {"cut": {"chosen": cut}, "warnings": said if cut else []})


def _tell(context: Context, stats: Mapping[str, Any]) -> None:
    for warning in stats["warnings"]:
        LOG.warning("%s", warning)
    write_json(context.out / "stats.json", stats)


def _pairs(context: Context, name: str) -> list[Pair]:
    return read_parquet(context.inputs["pairs"] / f"{name}.parquet", Pair)


def _after(context: Context, rows: Sequence[Pair]) -> dict[str, float]:
    """Separation after training (share, summed and per token) and mean shifts of log p (nats a response)."""
    engine = reader(context, context.out / "model")
    prompts = [p.prompt for p in rows]
    chosen = engine.log_probabilities(prompts, [p.chosen for p in rows])
    rejected = engine.log_probabilities(prompts, [p.rejected for p in rows])
    sides = list(zip(chosen, rejected, rows, strict=True))
    return {
        "separated_after": statistics.fmean(float(c > r) for (c, _), (r, _), _ in sides),
        "separated_after_per_token": statistics.fmean(float(c / n > r / m) for (c, n), (r, m), _ in sides),
        "chosen_logp_shift": statistics.fmean(c - (p.chosen_logp or 0.0) for (c, _), _, p in sides),
        "rejected_logp_shift": statistics.fmean(r - (p.rejected_logp or 0.0) for _, (r, _), p in sides),
    }
