"""What a study compares: its cells by name, the recipe that each one rests on, and the tasks behind it.

A cell is named by its model, then by what differs from the study's first objective, regime and protocol: `pns`,
`pns/own`, `pns/ipo`, `pns/own/each`, `sft_chosen/own`, and `pns@no_judge` for an ablation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from pns.errors import UserError
from pns.recipe import REFERENCES, AlignPart, Objective, Recipe, Regime
from pns.recipe_errors import as_user_error, line_of
from pns.recipe_files import leaves, load_recipe
from pns.study.graph import OWN_SFT, PLAIN, Graph, nodes_of, rl_stage, sft_stage, with_foreign_rollouts
from pns.study.spec import Protocol, Settings, Study, combinations, grid_of, with_settings

STARTS = ("policy", "sft")
RL = "rl_"
"""Before the name of a policy that was trained on a reward model: `plain`, or the method whose negatives that saw."""
SFT = "sft_"
"""Before the name of a control on one method's chosen side (`sft_each`): the method whose own pairs it saw."""
_STAGE: dict[str, str] = {"policy": "rlvr", "sft": "sft"} | dict(zip(REFERENCES, REFERENCES, strict=True))


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
    def is_sft(self) -> bool:
        """Whether it learns from the chosen side alone."""
        return self.model.startswith(SFT)

    @property
    def stage(self) -> str:
        """The stage that makes the model."""
        if self.is_sft:
            own = OWN_SFT if self.model == "sft_chosen" else sft_stage(self.model.removeprefix(SFT))
            return own if self.regime == "own" else "align-sft_chosen"
        if self.objective is None and self.model.startswith(RL):
            return rl_stage(self.model.removeprefix(RL))
        return _STAGE.get(self.model) or f"align-{self.model}-{self.regime}"


def cells(study: Study) -> dict[str, Cell]:
    """All cells by name: starts, controls, every method by objective, regime and protocol; then the ablations."""
    found = [Cell(name, name, seeds=study.seeds) for name in STARTS]
    for control in (*study.controls, *study.ablations.controls):
        seeds = study.seeds if control in study.controls else study.ablations.seeds
        if control in REFERENCES:
            found.append(Cell(control, control, seeds=seeds))
            continue
        if control == "sft_each":
            for method in study.methods:
                own = _grid(study, f"{SFT}{method}", study.main, seeds, limited=control)
                found += [cell for cell in own if cell.regime == "own"]
            continue
        found += _grid(study, control, study.main, seeds)
    if "rl" in study.uses:
        found += [Cell(f"{RL}{judge}", f"{RL}{judge}", seeds=study.seeds) for judge in (PLAIN, *study.methods)]
    for objective, part in study.objectives.items():
        for method in part.methods or study.methods:
            found += _grid(study, method, objective, study.seeds)
    at = study.ablations
    for switch, what in at.switches.items():
        name = f"{what.method}@{switch}"
        found.append(Cell(name, what.method, study.main, at.regime, study.protocols[0], switch, at.seeds))
    return {cell.name: cell for cell in found}


def _grid(
    study: Study, model: str, objective: str, seeds: tuple[int, ...], *, limited: str | None = None
) -> Iterator[Cell]:
    for regime, protocol in itertools.product(study.regimes, study.protocols):
        if study.takes_part(limited or model, objective, regime, protocol):
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
    for what in ("primary", "secondary"):
        for pair in getattr(study, what):
            for name in pair:
                if name not in known:
                    raise UserError(
                        f"no cell called {name!r}", file=file, field=what, remedy=f"cells: {', '.join(known)}"
                    )


class Recipes:
    """The recipe of each cell and seed, all from the study's one recipe.

    Raises UserError, naming the study's file, where settings do not fit the recipe.
    """

    def __init__(self, study: Study, file: Path) -> None:
        self.study, self.file = study, file
        base, _ = load_recipe(study.recipe)
        methods = tuple(study.methods)
        wanted = {*study.controls, *study.ablations.controls}
        own = {
            "negatives.methods": methods, "pairs.regimes": study.regimes,
            "references": tuple(name for name in REFERENCES if name in wanted),
        }  # fmt: skip
        self._check_own("set", study.set, {*own, "seed"})
        for name, switch in study.ablations.switches.items():
            self._check_own(f"ablations.switches.{name}.set", switch.set, {"seed"})
        self.base = self._with(base, {**study.set, **own}, "set")
        self._check_objectives()

    def of(self, seed: int, settings: Mapping[str, Any] | None = None, where: str = "objectives") -> Recipe:
        """The recipe of a seed with settings on top."""
        return self._with(self.base, {"seed": seed, **(settings or {})}, where)

    def _with(self, recipe: Recipe, settings: Mapping[str, Any], where: str) -> Recipe:
        try:
            return _valid(recipe, settings, self.file)
        except UserError as error:
            raise self._placed(error, settings, where) from None

    def _placed(self, found: UserError, settings: Mapping[str, Any], where: str) -> UserError:
        """A fault of the recipe with the place in the study that the setting came from."""
        key = found.field or ""
        named = next((k for k in settings if f"{key}.".startswith(f"{k}.")), None)
        if named is None:  # a rule between keys
            return UserError(
                found.message, file=self.file, line=line_of(self.file, where.split(".")),
                field=f"{where}: {key or ', '.join(settings)}",
                remedy="settings must be keys of the recipe that fit each other (`pns recipe RECIPE` lists them)",
            )  # fmt: skip
        place = [_SAID_BY[named]] if named in _SAID_BY else [*where.split("."), named]
        below = key.removeprefix(named)
        return UserError(
            found.message, file=self.file, line=line_of(self.file, [*place, *below.split(".")[1:]]),
            field=".".join(place) + below, remedy=found.remedy,
        )  # fmt: skip

    def _check_own(self, where: str, given: Settings, own: set[str]) -> None:
        """Refuse settings of the recipe that the study says in keys of its own."""
        clash = own & set(leaves(given))
        if clash:
            key = min(clash)
            raise UserError(
                "the study sets this itself", file=self.file, line=line_of(self.file, [*where.split("."), key]),
                field=f"{where}.{key}", remedy=f"leave it out: `{_SAID_BY[key]}` says it",
            )  # fmt: skip

    def _check_objectives(self) -> None:
        """Refuse an objective that trains another loss than its name says, and one under two names."""
        seen: dict[tuple[AlignPart, ...], str] = {}
        for name, part in self.study.objectives.items():
            tried = [self._tried(name, part.set, one).align for one in combinations(grid_of(self.study, name))]
            trained = next((one.objective for one in tried if one.objective != name), name)
            if name in get_args(Objective) and trained != name:
                raise self._objective(
                    name, f"named after a loss, and trained with another (align.objective: {trained})",
                    f"write `{name}: {{set: {{align.objective: {name}}}}}`, or give it another name",
                )  # fmt: skip
            # The order of a grid decides nothing but ties.
            key = tuple(sorted(tried, key=repr))
            if key in seen:
                raise self._objective(
                    name, f"the same as {seen[key]} in all settings and combinations: its cells would be that one's under another name",
                    "leave one of them out, or set what it differs in, such as align.objective",
                )  # fmt: skip
            seen[key] = name

    def _tried(self, name: str, given: Settings, combination: Settings) -> Recipe:
        """The recipe of one combination of an objective's grid; a fault is told where the key stands."""
        whole, own = {**given, **combination}, f"objectives.{name}"
        try:
            return _valid(self.base, whole, self.file)
        except UserError as error:
            found = error
        at = "tuning" if self.study.objectives[name].grid is None else own
        from_grid = any(f"{found.field}.".startswith(f"{key}.") for key in combination)
        raise self._placed(found, whole, f"{at}.grid" if from_grid else f"{own}.set" if given else own)

    def _objective(self, name: str, message: str, remedy: str) -> UserError:
        line = line_of(self.file, ["objectives", name])
        return UserError(message, file=self.file, line=line, field=f"objectives.{name}", remedy=remedy)


def _valid(recipe: Recipe, settings: Mapping[str, Any], file: Path) -> Recipe:
    """The recipe with settings. Raises UserError with the recipe's key."""
    try:
        return with_settings(recipe, settings)
    except ValidationError as error:
        raise as_user_error(error, file, {}) from None


_SAID_BY = {"negatives.methods": "methods", "pairs.regimes": "regimes", "references": "controls", "seed": "seeds"}
"""Recipe keys that a study sets, and its own keys that say them."""


def add_cell(
    graph: Graph, recipes: Recipes, cell: Cell, seed: int, tuned: Tuned, align: Settings, kind: str = "test"
) -> str:
    """Add the task that scores a cell's model of one seed; returns its name.

    Args:
        tuned: of it, how each method makes its negatives.
        align: the tuned settings that the cell is trained with (see `Tuned.of`).
        kind: `test` for the benchmarks, `dev` for the development split.
    """
    study = recipes.study
    settings = {} if cell.objective is None else {**study.objectives[cell.objective].set, **align}
    switch = None if cell.switch is None else study.ablations.switches[cell.switch]
    everywhere = switch.set if switch is not None and not switch.at else {}
    recipe = recipes.of(seed, {**settings, **everywhere}, _where(cell))
    special = _special(recipes, seed, tuned, settings, everywhere)
    changes = bool(everywhere) and recipe != recipes.of(seed, settings)
    if switch is not None:
        for stage in switch.at:
            made = next((m for method, m in tuned.negatives.items() if stage in _made(recipes, seed, method, m)), {})
            special[stage] = recipes.of(seed, {**settings, **made, **switch.set}, _where(cell))
            changes = changes or special[stage] != recipes.of(seed, {**settings, **made})
    nodes, given = None, dict[str, str]()
    if switch is not None and switch.foreign:
        seeds = study.ablations.seeds
        other = seeds[(seeds.index(seed) + 1) % len(seeds)]
        nodes, given = with_foreign_rollouts(nodes_of(recipe)), {"foreign": graph.add(recipes.of(other), "rlvr")}
    try:
        key = graph.add(recipe, f"{kind}-{cell.stage}", special, nodes=nodes, given=given)
    except KeyError as error:
        remedy = (
            "name stages of the run, such as generator or negatives-pns; without `at` a switch is seen by all of them"
        )
        raise UserError(str(error.args[0]), file=recipes.file, field=f"{_where(cell)}.at", remedy=remedy) from None
    # What tuning chose may be what a switch says; a key that nobody reads is a mistake.
    if changes and key == add_cell(graph, recipes, replace(cell, switch=None), seed, tuned, align, kind):
        raise UserError(
            f"{', '.join(switch.set if switch else ())} changes nothing of this model", file=recipes.file, field=_where(cell),
            remedy="name keys that the stages read, and in `at` stages that read them",
        )  # fmt: skip
    return key


def add_extras(graph: Graph, recipes: Recipes, seed: int, tuned: Tuned) -> dict[str, str]:
    """Add what is measured once a seed beside the cells; returns stage -> task.

    The reward model's scores of chosen responses and negatives, and, where the study asks for them, the audit by a model that
    selected nothing, and the other uses of a method's negatives.
    """
    study = recipes.study
    extra = [use for use in study.uses if use != "rl"]  # those have cells
    names = [
        "scores",
        *(["audit"] if study.audit else []),
        *(f"{use}-{method}" for use in extra for method in study.methods),
    ]
    special = _special(recipes, seed, tuned, {}, {})
    return {name: graph.add(recipes.of(seed), name, special) for name in names}


def _special(recipes: Recipes, seed: int, tuned: Tuned, settings: Settings, switched: Settings) -> dict[str, Recipe]:
    """The recipes of the stages that make negatives, where those were tuned. A switch stands above what was tuned."""
    return {
        stage: recipes.of(seed, {**settings, **made, **switched}, f"tuning.negatives.{method}")
        for method, made in tuned.negatives.items()
        for stage in _made(recipes, seed, method, {**made, **switched})
    }


def _where(cell: Cell) -> str:
    return (
        "set"
        if cell.objective is None
        else f"objectives.{cell.objective}"
        if cell.switch is None
        else f"ablations.switches.{cell.switch}"
    )


def _made(recipes: Recipes, seed: int, method: str, settings: Settings) -> tuple[str, ...]:
    """The stages that make a method's negatives; how many generators there are, the settings may say."""
    generators = recipes.of(seed, settings, f"tuning.negatives.{method}").generator.stages
    made = {"pns": (*generators, "samples-pns"), "pns_prefix": ("samples-pns_prefix",)}
    return (*made.get(method, ()), f"negatives-{method}")


@dataclass(frozen=True)
class Tuned:
    """What tuning has found by now.

    Attributes:
        align: objective -> `held`, or a model's name for its own -> settings.
        negatives: method -> settings of the stages that make its negatives.
    """

    align: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    negatives: Mapping[str, Settings] = field(default_factory=dict)

    @property
    def held(self) -> Mapping[str, Settings]:
        """objective -> the settings that are held for all."""
        return {objective: found["held"] for objective, found in self.align.items()}

    def of(self, cell: Cell) -> Settings:
        """The settings that a cell is trained with; none where it has no objective."""
        if cell.objective is None:
            return {}
        found = self.align.get(cell.objective, {})
        return found.get("held" if cell.protocol == "held" else cell.model, {})
