"""The family of secondary contrasts: those that Holm's correction counts, planned before the test split is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pns.recipe import GENERATED, Recipe
from pns.study.cells import RL, SFT, STARTS, Cell, Recipes, cells
from pns.study.graph import PLAIN, widest
from pns.study.spec import Study

Pair = tuple[str, str]
"""Cells (a, b), meaning a - b."""


def family(recipes: Recipes) -> list[Pair]:
    """What a new protocol plans beside its primary contrasts, each pair once.

    The study's own; every pns cell against the others of its objective, regime and protocol; every method's against the SFT
    control on its very chosen responses; RL on a reward model that saw pns against RL on another; every cell against the policy.
    Starts and ablations are left out. What contains pns is no rival to it, so such a pair is here only where the study names it.
    """
    study, plain = recipes.study, _plain(recipes.study)
    no_rivals = containing_pns(recipes.base)
    beside = [(a, b) for a, b in _beside_pns(plain) if plain[b].model not in no_rivals]
    controls = [
        (a, b)
        for a, cell in plain.items()
        for b, other in plain.items()
        if _place(cell) == _place(other) and _is_control(study, other, cell)
    ]
    on_models = [(a, b) for a, b in _on_reward_models(study, plain) if b.removeprefix(RL) not in no_rivals]
    return _once(study, [*beside, *controls, *on_models, *_to_policy(plain)])


def unnamed_family(study: Study) -> list[Pair]:
    """The family of protocols that were written before they named one: their p-values stay what they were."""
    plain = _plain(study)
    return _once(study, [*_beside_pns(plain), *_on_reward_models(study, plain), *_to_policy(plain)])


def containing_pns(recipe: Recipe) -> set[str]:
    """The methods beside pns that draw from its negatives, or from its generator."""
    mixed = set(GENERATED) & set(recipe.negatives.mixture)
    return {"pns_prefix", "fill"} | ({"mixture"} if mixed else set())


def _plain(study: Study) -> dict[str, Cell]:
    return {n: cell for n, cell in cells(study).items() if n not in STARTS and cell.switch is None}


def _place(cell: Cell) -> tuple[str | None, ...]:
    return cell.objective, cell.regime, cell.protocol


def _beside_pns(plain: Mapping[str, Cell]) -> list[Pair]:
    return [
        (a, b)
        for a, cell in plain.items()
        for b, other in plain.items()
        if cell.model == "pns" and other.model != "pns" and _place(cell) == _place(other) and not _of_another(other)
    ]


def _of_another(cell: Cell) -> bool:
    """Whether it is the control of another method than pns."""
    return cell.is_sft and cell.model not in ("sft_chosen", f"{SFT}pns")


def _on_reward_models(study: Study, plain: Mapping[str, Cell]) -> list[Pair]:
    pairs = [(f"{RL}pns", f"{RL}{other}") for other in (PLAIN, *study.methods) if other != "pns"]
    return [pair for pair in pairs if set(pair) <= set(plain)]


def _is_control(study: Study, control: Cell, cell: Cell) -> bool:
    """Whether one learned from the other's chosen responses alone. On matched pairs those are one set for all methods."""
    if cell.is_sft or cell.model not in study.methods:
        return False
    if control.model == "sft_chosen":
        return cell.regime == "matched" or cell.model == widest(study.methods)
    return control.model == f"{SFT}{cell.model}"


def _to_policy(plain: Mapping[str, Cell]) -> list[Pair]:
    return [(name, "policy") for name in plain]


def _once(study: Study, pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in dict.fromkeys([*study.secondary, *pairs]) if pair not in study.primary]
