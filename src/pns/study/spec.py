"""A study as typed models: the recipe it rests on, what it compares, how settings are tuned, what it wants to know."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from pns.recipe import Method, Part, Recipe, Reference, Regime
from pns.recipe_errors import as_user_error
from pns.recipe_files import check_kind, read_yaml, set_key

Protocol = Literal["held", "each"]
"""Settings tuned on the pairs of one method and held for all, or tuned for each method with the same budget."""
Control = Literal["sft_chosen", "sft_each", Reference]
Use = Literal["reward_model", "rl", "step_verifier", "calibration"]
Settings = dict[str, Any]
"""dotted recipe key -> value."""
T = TypeVar("T")
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class LimitPart(Part):
    """Where a model takes part."""

    regimes: tuple[Regime, ...] | None = Field(None, description="in these alone; null: in all of the study")
    protocols: tuple[Protocol, ...] | None = Field(None, description="in these alone; null: in all of the study")


class TuningPart(Part):
    """Settings are chosen on the development split of seeds of their own, before the benchmarks are looked at."""

    seeds: tuple[int, ...] = Field(description="of its own; none where each grid has one combination: nothing is tuned")
    grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="align key: its values; every combination is tried for every method, so all have the same budget",
    )
    negatives: dict[Method, dict[str, tuple[Any, ...]]] = Field(
        default_factory=dict,
        description="method: recipe keys of generator, negatives, reward and their values; how its negatives are made. The "
        "stages that make them see these keys alone",
    )
    metric: Literal["greedy", "sampled", "mean"] = Field(
        "mean", description="accuracy on the development split that decides; mean: of greedy and sampled"
    )
    regime: Regime = Field("matched", description="of the pairs that are tried")
    held_on: Method = Field("rejection", description="whose pairs decide in the protocol `held`")

    @field_validator("seeds")
    @classmethod
    def _can_be_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _seeds(_without_repeats(value))

    @field_validator("grid")
    @classmethod
    def _keys(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in value.items():
            if not key.startswith("align.") or key == "align.objective":
                raise ValueError(f"{key}: only keys of align are tuned (the objective is a part of the grid of cells)")
            _different(key, values)
        return value

    @field_validator("negatives")
    @classmethod
    def _made(cls, value: dict[Method, dict[str, tuple[Any, ...]]]) -> dict[Method, dict[str, tuple[Any, ...]]]:
        for method, grid in value.items():
            for key, values in grid.items():
                if key.split(".")[0] not in ("generator", "negatives", "reward"):
                    raise ValueError(f"{method}: {key} is no key of generator, negatives or reward")
                _different(key, values)
        return value


class ObjectivePart(LimitPart):
    """One objective of the grid."""

    set: Settings = Field(default_factory=dict, description="align keys that it needs, align.objective among them")
    grid: dict[str, tuple[Any, ...]] | None = Field(None, description="in place of tuning.grid")
    methods: tuple[Method, ...] | None = Field(None, description="for these negatives alone; null: for all")


class SwitchPart(Part):
    """One ablation: what is switched, and at which stages alone."""

    set: Settings = Field(default_factory=dict)
    foreign: bool = Field(
        False,
        description="wrong rollouts of the policy of the next of ablations.seeds, in place of its own (rejection)",
    )
    at: tuple[str, ...] = Field(
        (), description="stages that see the switch; those after them see its effect. Empty: every stage does"
    )
    method: Method = Field("pns", description="whose negatives are compared with the unswitched ones")
    why: str = ""

    @model_validator(mode="after")
    def _something(self) -> SwitchPart:
        if not self.set and not self.foreign:
            raise ValueError("nothing is switched: `set` is empty")
        if self.foreign and self.method != "rejection":
            raise ValueError("foreign is for method: rejection")
        return self


class AblationsPart(Part):
    """Switches, each against the unswitched method on the same seeds."""

    seeds: tuple[int, ...] = Field((), description="some of the study's")
    regime: Regime = Field("own", description="of the pairs of all switches")
    controls: tuple[Control, ...] = Field((), description="controls that run on these seeds alone, for their cost")
    switches: dict[str, SwitchPart] = Field(default_factory=dict)

    @field_validator("seeds", "controls")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return _without_repeats(value)


class Study(Part):
    """All that `pns study` is told."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    about: str = ""
    recipe: Path = Field(description="the recipe that all cells share; relative to the working directory")
    set: Settings = Field(default_factory=dict, description="recipe keys that the study changes, dotted")
    seeds: tuple[int, ...] = Field(min_length=1, description="each its own from SFT on")
    methods: tuple[Method, ...] = Field(min_length=1, description="whose negatives are compared")
    controls: tuple[Control, ...] = Field(
        ("sft_chosen",),
        description="sft_chosen; sft_each: the same for the own pairs of every method, one model for each (regime own); and the "
        "whole-method references",
    )
    regimes: tuple[Regime, ...] = Field(
        ("matched", "own"), min_length=1, description="matched: the problems that every method serves; own: all of each"
    )
    objectives: dict[str, ObjectivePart] = Field(
        min_length=1, description="a name, and under it what it sets and where it takes part; the first is the main one"
    )
    limits: dict[Literal[Method, Control], LimitPart] = Field(
        default_factory=dict, description="where a method or control takes part, if not everywhere"
    )
    protocols: tuple[Protocol, ...] = Field(
        ("held", "each"),
        min_length=1,
        description="settings that are tuned for one method and held for all, or for each",
    )
    tuning: TuningPart
    hypotheses: tuple[str, ...] = ()
    primary: tuple[tuple[str, str], ...] = Field(
        (("pns", "policy"), ("pns", "rejection")), description="contrasts of cells (a, b), meaning a - b"
    )
    secondary: tuple[tuple[str, str], ...] = Field(
        (), description="further contrasts; Holm-corrected with the rest of the family that the protocol names"
    )
    difference: float = Field(0.02, gt=0, lt=1, description="how many seeds this difference would need is reported")
    metric: Literal["greedy", "sampled"] = Field("greedy", description="of the primary contrasts; both are reported")
    ablations: AblationsPart = AblationsPart()
    bootstrap: int = Field(2000, ge=100)
    audit: bool = Field(
        False,
        description="train a second reward model of each seed, with the split `audit`, that selects nothing, and report how well it "
        "tells each method's negatives from correct responses",
    )
    uses: tuple[Use, ...] = Field(
        (),
        description="what else each method's matched pairs are good for: reward_model (as hard examples for it), rl (RL of the "
        "policy on such reward models), step_verifier, calibration (of judge and reward model)",
    )

    @property
    def main(self) -> str:
        """The first objective: its cells are called by their method alone."""
        return next(iter(self.objectives))

    def takes_part(self, model: str, objective: str, regime: Regime, protocol: Protocol) -> bool:
        """Whether there is such a cell."""
        for limit in (self.objectives[objective], self.limits.get(model)):  # type: ignore[call-overload]
            if limit is None:
                continue
            if regime not in (limit.regimes or self.regimes) or protocol not in (limit.protocols or self.protocols):
                return False
        return True

    @field_validator("seeds", "methods", "controls", "regimes", "protocols", "uses")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return _without_repeats(value)

    @field_validator("seeds")
    @classmethod
    def _can_be_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return _seeds(value)

    @field_validator("primary", "secondary")
    @classmethod
    def _contrasts(cls, value: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for a, b in value:
            if a == b:
                raise ValueError(f"{a} is contrasted with itself")
        twice = repeated([frozenset(pair) for pair in value])
        if twice is not None:
            raise ValueError(f"{' and '.join(sorted(twice))} are contrasted twice, whichever way round")
        return value

    @model_validator(mode="after")
    def _apart(self) -> Study:
        both = set(self.seeds) & set(self.tuning.seeds)
        if both:
            raise ValueError(f"seeds {sorted(both)} are tuned on and tested on; the test needs fresh ones")
        primary = {frozenset(pair) for pair in self.primary}
        for a, b in self.secondary:
            if {a, b} in primary:
                raise ValueError(f"secondary: {a} and {b} are a primary contrast already, whichever way round")
        if not set(self.ablations.seeds) <= set(self.seeds):
            raise ValueError("ablations.seeds must be among seeds: they are compared with the cells of those")
        return self

    @model_validator(mode="after")
    def _tuning(self) -> Study:
        if self.tuning.held_on not in self.methods and "held" in self.protocols:
            raise ValueError(f"tuning.held_on: {self.tuning.held_on} is not among methods")
        if "sft_each" in (*self.controls, *self.ablations.controls) and "own" not in self.regimes:
            raise ValueError("sft_each is about each method's own pairs: add own to regimes")
        several = [
            name
            for name, grid in (
                ("tuning.grid", self.tuning.grid),
                *((f"objectives.{name}.grid", part.grid or {}) for name, part in self.objectives.items()),
                *((f"tuning.negatives.{method}", grid) for method, grid in self.tuning.negatives.items()),
            )
            if len(combinations(grid)) > 1
        ]
        if not self.tuning.seeds and several:
            raise ValueError(
                f"{several[0]} has combinations to choose from, and tuning.seeds names no seed to try them on"
            )
        if self.tuning.regime not in self.regimes:
            raise ValueError(f"tuning.regime: {self.tuning.regime} is not among regimes")
        if not set(self.tuning.negatives) <= set(self.methods):
            raise ValueError("tuning.negatives names methods of the study")
        if any(not key.startswith("negatives.") for key in self.tuning.negatives.get("pns_prefix", ())):
            raise ValueError(
                "tuning.negatives.pns_prefix: its generator is that of pns, or of `set`; give keys of negatives alone"
            )
        if self.uses and "matched" not in self.regimes:
            raise ValueError("uses compares methods on matched pairs: add matched to regimes")
        for name, part in self.objectives.items():
            _named(name, "objectives")
            if not set(part.methods or ()) <= set(self.methods):
                raise ValueError(f"objectives.{name}.methods must be among methods")
            if any(not key.startswith("align.") for key in (*part.set, *(part.grid or ()))):
                raise ValueError(f"objectives.{name}: only keys of align belong to an objective")
        return self

    @model_validator(mode="after")
    def _ablations(self) -> Study:
        at = self.ablations
        if set(self.controls) & set(at.controls):
            raise ValueError("a control stands in controls or in ablations.controls, not in both")
        if (at.controls or at.switches) and not at.seeds:
            raise ValueError("ablations need ablations.seeds")
        if at.switches and at.regime not in self.regimes:
            raise ValueError("ablations.regime is not among regimes")
        for name, switch in at.switches.items():
            _named(name, "ablations.switches")
            if switch.foreign and len(at.seeds) < 2:
                raise ValueError(f"ablations.switches.{name}: foreign needs two ablations.seeds")
            if switch.method not in self.methods:
                raise ValueError(f"ablations.switches.{name}.method must be among methods")
        return self


def repeated(values: Sequence[T]) -> T | None:
    """The first that stands there twice."""
    return next((value for place, value in enumerate(values) if value in values[:place]), None)


def _without_repeats(values: tuple[T, ...]) -> tuple[T, ...]:
    if (twice := repeated(values)) is not None:
        raise ValueError(f"{twice} stands there twice")
    return values


def _seeds(values: tuple[int, ...]) -> tuple[int, ...]:
    if not all(0 <= seed < 2**31 for seed in values):
        raise ValueError("a seed is a whole number from 0 to 2147483647")
    return values


def _different(key: str, values: tuple[Any, ...]) -> None:
    if not values or len(set(map(str, values))) != len(values):
        raise ValueError(f"{key} needs a non-empty list of different values")


def _named(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}.{name}: names are small letters, digits and _")


def combinations(grid: Mapping[str, tuple[Any, ...]]) -> list[Settings]:
    """Every combination of a grid's values, in a fixed order. An empty grid has one: nothing set."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def grid_of(study: Study, objective: str) -> Mapping[str, tuple[Any, ...]]:
    """The grid that an objective is tuned on."""
    own = study.objectives[objective].grid
    return study.tuning.grid if own is None else own


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys set, validated anew. Raises pydantic's ValidationError."""
    data = recipe.model_dump(mode="json")
    for key, value in settings.items():
        set_key(data, key, value, key)
    return Recipe.model_validate(data)


def load_study(path: Path) -> Study:
    """A study from its YAML file.

    Raises UserError: missing file, broken YAML, a recipe, unknown key, wrong type, broken rule.
    """
    data = read_yaml(path, "study", "studies/")
    check_kind(data, path, "study")
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise as_user_error(error, path, {}, Study) from None
