"""What a study compares: its cells by name, the recipe that each one rests on, and the tasks behind it.

A cell is named by its model, then by what differs from the study's first objective, regime and protocol: `pns`,
`pns/own`, `pns/ipo`, `pns/own/each`, `sft_chosen/own`, and `pns@no_judge` for an ablation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pns.errors import UserError
from pns.recipe import Recipe, Regime
from pns.recipe_files import as_user_error, load_recipe
from pns.study.graph import OWN_SFT, Graph
from pns.study.spec import Protocol, Settings, Study, combinations, with_settings

STARTS = ("policy", "sft")
_STAGE = {"policy": "rlvr", "sft": "sft", "rlvr_more": "rlvr_more"}
# Of an objective's settings those that the SFT control reads.
_SFT_KEYS = ("align.learning_rate", "align.epochs", "align.batch_size", "align.max_length")


@dataclass(frozen=True)
class Cell:
    """One model of the comparison, trained once a seed."""

    name: str
    model: str
    objective: str | None = None
    regime: Regime | None = None
    protocol: Protocol | None = None
    switch: str | None = None
    seeds: tuple[int, ...] = ()

    @property
    def stage(self) -> str:
        """The stage that makes the model."""
        if self.model == "sft_chosen":
            return OWN_SFT if self.regime == "own" else "align-sft_chosen"
        return _STAGE.get(self.model) or f"align-{self.model}-{self.regime}"


def cells(study: Study) -> dict[str, Cell]:
    """All cells by name: starts, controls, every method by objective, regime and protocol; then the ablations."""
    found = [Cell(name, name, seeds=study.seeds) for name in STARTS]
    for control in (*study.controls, *study.ablations.controls):
        seeds = study.seeds if control in study.controls else study.ablations.seeds
        if control == "rlvr_more":
            found.append(Cell(control, control, seeds=seeds))
            continue
        found += _grid(study, control, study.main, seeds)
    for objective, part in study.objectives.items():
        for method in part.methods or study.methods:
            found += _grid(study, method, objective, study.seeds)
    at = study.ablations
    for switch, what in at.switches.items():
        name = f"{what.method}@{switch}"
        found.append(Cell(name, what.method, study.main, at.regime, study.protocols[0], switch, at.seeds))
    return {cell.name: cell for cell in found}


def _grid(study: Study, model: str, objective: str, seeds: tuple[int, ...]) -> Iterator[Cell]:
    for regime, protocol in itertools.product(study.regimes, study.protocols):
        if study.takes_part(model, objective, regime, protocol):
            name = _name(study, model, objective, regime, protocol)
            yield Cell(name, model, objective, regime, protocol, seeds=seeds)


def _name(study: Study, model: str, objective: str, regime: Regime, protocol: Protocol) -> str:
    differs = [
        part
        for part, usual in ((objective, study.main), (regime, study.regimes[0]), (protocol, study.protocols[0]))
        if part != usual
    ]
    return "/".join([model, *differs])


def unswitched(study: Study, cell: Cell) -> str:
    """The cell that an ablation is compared with."""
    return _name(study, cell.model, study.main, study.ablations.regime, study.protocols[0])


def check_contrasts(study: Study, file: Path) -> None:
    """Raises UserError where a contrast names a cell that the study does not have."""
    known = cells(study)
    for field in ("primary", "secondary"):
        for pair in getattr(study, field):
            for name in pair:
                if name not in known:
                    raise UserError(
                        f"no cell called {name!r}", file=file, field=field, remedy=f"cells: {', '.join(known)}"
                    )


class Recipes:
    """The recipe of each cell and seed, all from the study's one recipe.

    Raises UserError, naming the study's file, where settings do not fit the recipe.
    """

    def __init__(self, study: Study, file: Path) -> None:
        self.study, self.file = study, file
        base, _ = load_recipe(study.recipe)
        methods = tuple(study.methods)
        own = {"negatives.methods": methods, "pairs.regimes": study.regimes}
        clash = set(own) & set(study.set)
        if clash:
            raise UserError(
                "the study sets this itself", file=file, field=f"set.{min(clash)}", remedy="leave it out: `methods` and `regimes` say it"
            )  # fmt: skip
        self.base = self._with(base, {**study.set, **own}, "set")

    def of(self, seed: int, settings: Mapping[str, Any] | None = None, where: str = "objectives") -> Recipe:
        """The recipe of a seed with settings on top."""
        return self._with(self.base, {"seed": seed, **(settings or {})}, where)

    def _with(self, recipe: Recipe, settings: Mapping[str, Any], where: str) -> Recipe:
        try:
            return with_settings(recipe, settings)
        except ValidationError as error:
            found = as_user_error(error, self.file, {})
            raise UserError(
                found.message, file=self.file, field=f"{where}: {found.field or ', '.join(settings)}",
                remedy="settings must be keys of the recipe that fit each other (`pns recipe RECIPE` lists them)",
            ) from None  # fmt: skip


def settings_of(study: Study, objective: str, tuned: Settings) -> Settings:
    """All align settings of an objective with its tuned ones."""
    return {**study.objectives[objective].set, **tuned}


def grid_of(study: Study, objective: str, model: str) -> list[Settings]:
    """The settings that are tried for a model; those that differ for it alone."""
    part = study.objectives[objective]
    grid = study.tuning.grid if part.grid is None else part.grid
    if model == "sft_chosen":
        grid = {key: values for key, values in grid.items() if key in _SFT_KEYS}
    return combinations(grid)


def tuned_for(study: Study) -> Iterator[tuple[str, str]]:
    """(objective, model) of everything that is tuned."""
    for objective, part in study.objectives.items():
        models = [*(part.methods or study.methods), *(study.controls if objective == study.main else ())]
        for model in dict.fromkeys([study.tuning.held_on, *models]):
            held = model == study.tuning.held_on and "held" in study.protocols
            each = any(study.takes_part(model, objective, regime, "each") for regime in study.regimes)
            if model != "rlvr_more" and (held or (each and "each" in study.protocols)):
                yield objective, model


def add_cell(graph: Graph, recipes: Recipes, cell: Cell, seed: int, tuned: Settings, kind: str = "test") -> str:
    """Add the task that scores a cell's model of one seed; returns its name.

    Args:
        tuned: the settings that tuning chose for it.
        kind: `test` for the benchmarks, `dev` for the development split.
    """
    study = recipes.study
    settings = {} if cell.objective is None else settings_of(study, cell.objective, tuned)
    recipe = recipes.of(seed, settings)
    if cell.switch is None:
        return graph.add(recipe, f"{kind}-{cell.stage}")
    switch = study.ablations.switches[cell.switch]
    where = f"ablations.switches.{cell.switch}"
    switched = recipes.of(seed, {**settings, **switch.set}, f"{where}.set")
    try:
        return graph.add(recipe, f"{kind}-{cell.stage}", switched=switched, at=switch.at)
    except KeyError as error:
        raise UserError(
            str(error.args[0]), file=recipes.file, field=f"{where}.at", remedy="name stages of the run"
        ) from None
