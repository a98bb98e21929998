"""What a recipe needs from its environment, read off its typed parts: one function for each part that needs something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pns.accelerated import configuration
from pns.errors import UserError
from pns.parts.base import Part, ServerPart
from pns.parts.sources import data_root
from pns.recipe import (
    EnginePart,
    EngineServerPart,
    GrpoVllmPart,
    LoraPart,
    ModelPart,
    ProblemsPart,
    Recipe,
    RewardModelSource,
    RewardPart,
    RuntimePart,
)

if TYPE_CHECKING:
    from pns.launch import Launcher

Kind = Literal["extra", "package", "module", "cuda", "problems", "variable"]


@dataclass(frozen=True)
class Need:
    """One thing that must be there.

    Attributes:
        kind: `extra` of this package; `package`, an import name; `module` of the user's own; `cuda`, a GPU that torch
            sees; `problems`, a set's name or a file; `variable` of the environment.
        name: which one; empty for `cuda`.
        why: the key of the recipe, or the option, that asks for it.
    """

    kind: Kind
    name: str
    why: str


@dataclass(frozen=True)
class Asked:
    """A recipe, or a study, and what it needs.

    Attributes:
        kind: `recipe`, `study`, or `reward` for a recipe with the reward alone.
        name: its name, which is also that of its run directory.
        needs: each once, in the order of the keys.
        busy: keys whose values make, as a product, the cores that it keeps busy.
    """

    kind: Literal["recipe", "study", "reward"]
    name: str
    needs: list[Need]
    busy: dict[str, int]


def needs_of(recipe: Recipe, launcher: Launcher | None = None) -> list[Need]:
    """What a run of the recipe needs. A prompted writer counts only where `prompted` is among the methods.

    Raises UserError where the launcher's configuration cannot be read.
    """
    idle = () if "prompted" in recipe.negatives.sources() else ("negatives.prompted",)
    return _once([Need("extra", "train", "every run trains"), *_below(recipe, "", idle), *_launching(launcher)])


def _launching(launcher: Launcher | None) -> Iterator[Need]:
    if launcher is None:
        return
    if launcher.kind == "ray":
        yield Need("extra", "ray-train", "--launcher")
    if str(configuration(launcher.config).get("distributed_type")).upper() == "DEEPSPEED":
        yield Need("extra", "deepspeed", "--launcher-config")


def needs_of_reward(reward: RewardPart) -> list[Need]:
    """What scoring with the reward alone needs."""
    return _once(_below(reward, "reward"))


def load(path: Path, overrides: list[str], launcher: Launcher | None = None) -> Asked:
    """A recipe, a study (of all its cells together), or a recipe with the reward alone.

    Raises UserError: as the commands that run it; overrides of a study; a launcher of a reward, which trains nothing.
    """
    from pns.recipe_files import kind_of, load_recipe, load_reward, read_yaml

    kind = kind_of(read_yaml(path))
    with _placeholder_for_data():
        if kind == "study":
            if overrides:
                raise UserError(
                    "a study takes no overrides", file=path, field=overrides[0], remedy="write them under its key `set`"
                )
            return _study(path, launcher)
        if kind == "reward":
            if launcher is not None:
                raise UserError("a reward trains nothing", file=path, field="--launcher", remedy="leave it out")
            reward = load_reward(path, overrides)
            return Asked("reward", path.stem, needs_of_reward(reward), {"reward.verify_workers": reward.verify_workers})
        recipe, _ = load_recipe(path, overrides)
    return Asked("recipe", recipe.name, needs_of(recipe, launcher), _busy(recipe.runtime))


def _busy(part: RuntimePart) -> dict[str, int]:
    return {"runtime.jobs": part.jobs, "runtime.threads": part.threads}


def _study(path: Path, launcher: Launcher | None) -> Asked:
    from pns.study.cells import Recipes, check_contrasts
    from pns.study.spec import combinations, grid_of, load_study

    study = load_study(path)
    check_contrasts(study, path)
    recipes = Recipes(study, path)
    settings: list[tuple[str, dict[str, Any]]] = []
    for name, part in study.objectives.items():
        tried = combinations(grid_of(study, name))
        settings += [(f"objectives.{name}", {**part.set, **values}) for values in tried]
    for method, made in study.tuning.negatives.items():
        settings += [(f"tuning.negatives.{method}", values) for values in combinations(made)]
    main = study.objectives[study.main].set
    settings += [(f"ablations.switches.{n}", {**main, **s.set}) for n, s in study.ablations.switches.items()]
    every = [recipes.base, *(recipes.of(study.seeds[0], values, where) for where, values in settings)]
    needs = _once(need for recipe in every for need in needs_of(recipe, launcher))
    return Asked("study", study.name, needs, _busy(recipes.base.runtime))


@contextmanager
def _placeholder_for_data() -> Iterator[None]:
    """Without a data folder `$PNS_DATA` in a recipe is an error; here it stays as it is written, to be told as missing."""
    if data_root() is not None:
        yield
        return
    before = os.environ.get("PNS_DATA")
    os.environ["PNS_DATA"] = "$PNS_DATA"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PNS_DATA"]
        else:
            os.environ["PNS_DATA"] = before


def _below(part: Part, key: str, idle: tuple[str, ...] = ()) -> Iterator[Need]:
    """The needs of a part and of the parts in it."""
    if key in idle:
        return
    if type(part) in _NEEDS:
        yield from _NEEDS[type(part)](part, key)
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Part):
            yield from _below(value, f"{key}.{name}" if key else name, idle)


def _problems(part: ProblemsPart, key: str) -> Iterator[Need]:
    for file in part.train_file or ():
        yield Need("problems", str(file), f"{key}.train_file")
    for name, source in part.benchmarks.items():
        yield Need("problems", str(source), f"{key}.benchmarks.{name}")


def _model(part: ModelPart, key: str) -> Iterator[Need]:
    if part.gguf_file is not None:
        yield Need("extra", "gguf", f"{key}.gguf_file")
    if part.gguf_package is not None:
        yield Need("package", part.gguf_package, f"{key}.gguf_package")


def _runtime(part: RuntimePart, key: str) -> Iterator[Need]:
    if part.device == "cuda":
        yield Need("cuda", "", f"{key}.device")
    for name in part.report_to:
        yield Need("package", name, f"{key}.report_to")


def _lora(_: LoraPart, key: str) -> Iterator[Need]:
    yield Need("extra", "lora", key)


def _server(part: ServerPart | EngineServerPart, key: str) -> Iterator[Need]:
    yield Need("extra", "server", key)
    if part.api_key_env is not None:
        yield Need("variable", part.api_key_env, f"{key}.api_key_env")


def _reward(part: RewardPart, key: str) -> Iterator[Need]:
    if ":" in part.judge:
        yield Need("module", part.judge, f"{key}.judge")


def _reward_model(part: RewardModelSource, key: str) -> Iterator[Need]:
    if ":" in part.kind:
        yield Need("module", part.kind, f"{key}.kind")
    else:  # in process the model, before a server its tokenizer
        yield Need("extra", "train", f"{key}.kind")
    if part.device == "cuda":
        yield Need("cuda", "", f"{key}.device")


def _engine(part: EnginePart, key: str) -> Iterator[Need]:
    if part.kind != "transformers":
        yield Need("extra", part.kind, f"{key}.kind")
    for name in ("ray_workers", "ray_readers"):
        if getattr(part, name):
            yield Need("extra", "ray", f"{key}.{name}")


def _grpo_vllm(part: GrpoVllmPart, key: str) -> Iterator[Need]:
    yield Need("extra", "vllm", key)


_NEEDS: dict[type[Part], Callable[[Any, str], Iterator[Need]]] = {
    ProblemsPart: _problems,
    ModelPart: _model,
    RuntimePart: _runtime,
    EnginePart: _engine,
    EngineServerPart: _server,
    GrpoVllmPart: _grpo_vllm,
    LoraPart: _lora,
    ServerPart: _server,
    RewardPart: _reward,
    RewardModelSource: _reward_model,
}


def _once(needs: Iterator[Need] | list[Need]) -> list[Need]:
    """The first of those that name the same thing."""
    found: dict[tuple[str, str], Need] = {}
    for need in needs:
        found.setdefault((need.kind, need.name), need)
    return list(found.values())
