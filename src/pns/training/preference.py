"""Preference training through TRL: DPO and its relatives, KTO, and the reference-free SimPO and ORPO.

| objective | TRL's loss | reference |
|---|---|---|
| `dpo` | `sigmoid` | arXiv 2305.18290 |
| `ipo` | `ipo`, per token | arXiv 2310.12036 |
| `robust` | `robust` with `label_smoothing` | arXiv 2403.00409 |
| `cdpo` | conservative DPO; see `_losses` | Mitchell, "A note on DPO with noisy preferences" |
| `apo_zero` | `apo_zero` | arXiv 2408.06266 |
| `kto` | `kto`, on unpaired responses | arXiv 2402.01306 |
| `simpo` | CPO's `simpo`, no reference | arXiv 2405.14734 |
| `orpo` | ORPO, no reference | arXiv 2403.07691 |

`length_alpha` is length-desensitised DPO (arXiv 2409.06411), `nll_weight` the NLL of chosen beside the loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from pns.errors import UserError
from pns.processes import loading_device
from pns.recipe import AlignPart, RuntimePart
from pns.records import Pair
from pns.sampling.engine import assistant, load_causal, load_tokenizer, user
from pns.training.batches import rows_of
from pns.training.common import Progress, arguments, check_lengths, over_length, train, train_dtype

REFERENCE_FREE = ("simpo", "orpo")


def align_steps(n_pairs: int, part: AlignPart) -> int:
    """Optimizer steps of preference training on `n_pairs` pairs."""
    return max(1, part.epochs * -(-n_pairs // part.batch_size))


def train_preference(
    start: Path,
    pairs: Sequence[Pair],
    out: Path,
    *,
    part: AlignPart,
    runtime: RuntimePart,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train from the model at `start`, which is also the reference where the objective has one. Returns the log history.

    Raises UserError when a pair is longer than `part.max_length` tokens and `part.cut` is off; without peft, where the
    part asks for LoRA.
    """
    tokenizer = load_tokenizer(start)
    if part.cut:
        # Where the prompt alone fills the length, nothing of the response is left, and a trainer drops the pair.
        rows = [(p.prompt, "") for p in pairs]
        check_lengths(tokenizer, rows, part.max_length, "prompts of preference pairs", "align.max_length")
    else:
        rows = [(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)]
        what = "sides of preference pairs"
        check_lengths(tokenizer, rows, part.max_length, what, "align.max_length", "align.cut=true")
    # Both before the arguments are made: afterwards, with FSDP's `cpu_ram_efficient_loading`, transformers would read weights in
    # the first process alone, and TRL's `prepare_fsdp` hands none on to the others' references.
    device, dtype = loading_device(runtime.device), train_dtype(runtime)
    model, reference = load_causal(start, device, dtype), None
    lora = None if part.lora is None else _lora(part.lora)
    # An in-memory model has no reference of its own in TRL, so it is given one, loaded from the same directory. With
    # adapters the reference is the model without them.
    if part.objective not in REFERENCE_FREE and lora is None:
        reference = load_causal(start, device, dtype)
    steps = align_steps(len(pairs), part)
    batch, micro = rows_of(part)
    shared = arguments(
        out,
        runtime,
        name="align",
        batch=batch,
        micro=micro,
        seed=seed,
        steps=steps,
        learning_rate=part.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(0.1 * steps),
        beta=part.beta,
        max_length=part.max_length,
    )
    trainer_class, config, data = _BUILD[part.objective](part, shared, pairs)
    trainer = trainer_class(
        model=model, args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer,
        peft_config=lora, **({"ref_model": reference} if reference is not None else {}),
    )  # fmt: skip
    return train(trainer, out, progress)


def count_cut(start: Path, pairs: Sequence[Pair], part: AlignPart) -> dict[str, int]:
    """How many chosen and rejected sides are longer than `part.max_length` tokens, so that a trainer cuts them."""
    tokenizer = load_tokenizer(start)
    return {
        side: over_length(tokenizer, [(p.prompt, getattr(p, side)) for p in pairs], part.max_length)[0]
        for side in ("chosen", "rejected")
    }


Built = tuple[Any, Any, list[dict[str, Any]]]
"""Trainer class, its config, and the rows that it trains on."""


def _paired(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {"prompt": [user(p.prompt)], "chosen": [assistant(p.chosen)], "rejected": [assistant(p.rejected)]}
        for p in pairs
    ]


def _dpo(part: AlignPart, shared: dict[str, Any], pairs: Sequence[Pair]) -> Built:
    config = DPOConfig(
        **shared,
        ld_alpha=part.length_alpha,
        precompute_ref_log_probs=part.precompute_reference,
        **_losses(part),
    )
    return DPOTrainer, config, _paired(pairs)


def _losses(part: AlignPart) -> dict[str, Any]:
    """TRL's losses with their weights.

    TRL's `sigmoid` does not read `label_smoothing`. With x = beta * margin, conservative DPO is
    -(1 - e) log s(x) - e log s(-x) = -log s(x) + e x, and `robust` at smoothing 1/4 is -log s(x) - x / 2, so
    (1 + 2e) `sigmoid` - 2e `robust` is exactly that.
    """
    names, weights, smoothing = {
        "dpo": (["sigmoid"], [1.0], 0.0),
        "ipo": (["ipo"], [1.0], 0.0),
        "robust": (["robust"], [1.0], part.label_smoothing),
        "cdpo": (["sigmoid", "robust"], [1 + 2 * part.label_smoothing, -2 * part.label_smoothing], 0.25),
        "apo_zero": (["apo_zero"], [1.0], 0.0),
    }[part.objective]
    if part.nll_weight:
        names, weights = [*names, "sft"], [*weights, part.nll_weight]
    return {"loss_type": names, "loss_weights": weights, "label_smoothing": smoothing}


def _kto(part: AlignPart, shared: dict[str, Any], pairs: Sequence[Pair]) -> Built:
    each = shared["per_device_train_batch_size"]  # pairs of a process, whose batch is both their sides
    config = KTOConfig(
        **{**shared, "per_device_train_batch_size": 2 * each},
        desirable_weight=part.chosen_weight,
        undesirable_weight=part.rejected_weight,
        precompute_ref_log_probs=part.precompute_reference,
    )
    return KTOTrainer, config, unpaired(pairs, part.model_copy(update={"batch_size": each}), shared["seed"])


def unpaired(pairs: Sequence[Pair], part: AlignPart, seed: int) -> list[dict[str, Any]]:
    """Rows for KTO, batch by batch: the chosen sides of a batch's pairs, then their rejected ones.

    TRL takes the rows in this order and estimates its KL term from each prompt with the completion of the row before it
    in the batch: side by side, the two sides of a pair would be no mismatch.
    """
    order = list(pairs)
    random.Random(seed).shuffle(order)
    rows = []
    for start in range(0, len(order), part.batch_size):
        some = order[start : start + part.batch_size]
        for side, good in (("chosen", True), ("rejected", False)):
            rows += [
                {"prompt": [user(p.prompt)], "completion": [assistant(getattr(p, side))], "label": good} for p in some
            ]
    return rows


def _simpo(part: AlignPart, shared: dict[str, Any], pairs: Sequence[Pair]) -> Built:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = CPOConfig(
        **shared,
        loss_type="simpo",
        simpo_gamma=part.simpo_gamma,
        cpo_alpha=part.nll_weight,
        remove_unused_columns=False,
    )
    return CPOTrainer, config, _paired(pairs)


def _orpo(part: AlignPart, shared: dict[str, Any], pairs: Sequence[Pair]) -> Built:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = ORPOConfig(**shared, remove_unused_columns=False)
    return ORPOTrainer, config, _paired(pairs)


_BUILD: dict[str, Callable[[AlignPart, dict[str, Any], Sequence[Pair]], Built]] = {
    "dpo": _dpo, "ipo": _dpo, "robust": _dpo, "cdpo": _dpo, "apo_zero": _dpo, "kto": _kto, "simpo": _simpo, "orpo": _orpo,
}  # fmt: skip


def _lora(part: Any) -> Any:
    try:
        from peft import LoraConfig
    except ModuleNotFoundError:
        raise UserError(
            "LoRA needs peft", field="align.lora", remedy='install it: pip install "plausible-negatives[lora]"'
        ) from None
    targets = part.target_modules if isinstance(part.target_modules, str) else list(part.target_modules)
    return LoraConfig(
        r=part.r, lora_alpha=part.alpha, lora_dropout=part.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
