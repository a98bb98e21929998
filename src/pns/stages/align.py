"""Preference training of the policy for one method and regime, and the control that sees the chosen side alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pns.recipe import Method, Regime
from pns.records import Pair, read_parquet
from pns.run import write_json
from pns.sampling.engine import TransformersEngine, load_causal, load_tokenizer
from pns.stages.context import Context
from pns.training.preference import align_steps, train_dpo
from pns.training.sft import train_sft


def align(context: Context, method: Method, regime: Regime) -> None:
    """DPO on one set of pairs; stats.json says what it did to the pairs' log-probabilities."""
    rows = _pairs(context, f"{regime}-{method}")
    train_dpo(
        context.model("rlvr"),
        rows,
        context.out,
        part=context.recipe.align,
        runtime=context.recipe.runtime,
        seed=context.seed,
        progress=context.progress,
    )
    write_json(context.out / "stats.json", _after(context, rows))


def sft_chosen(context: Context) -> None:
    """The control: NLL on the chosen side of the first regime's pairs, with as many updates as DPO."""
    recipe, part = context.recipe, context.recipe.align
    regime = recipe.pairs.regimes[0]
    rows = _pairs(context, f"{regime}-{recipe.negatives.methods[0]}")
    train_sft(
        load_causal(context.model("rlvr"), recipe.runtime.device),
        load_tokenizer(context.model("rlvr")),
        [(p.prompt, p.chosen) for p in rows],
        context.out,
        runtime=recipe.runtime,
        steps=align_steps(len(rows), part),
        batch_size=part.batch_size,
        learning_rate=part.sft_learning_rate or part.learning_rate,
        warmup=0.1,
        max_length=part.max_length,
        seed=context.seed,
        progress=context.progress,
        key="align.max_length",
    )


def _pairs(context: Context, name: str) -> list[Pair]:
    return read_parquet(context.inputs["pairs"] / f"{name}.parquet", Pair)


def _after(context: Context, rows: Sequence[Pair]) -> dict[str, float]:
    """Separation after training (share, summed and per token) and mean shifts of log p (nats a response)."""
    engine = TransformersEngine(context.out / "model", device=context.recipe.runtime.device)
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
