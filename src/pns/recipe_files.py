"""Reading recipes: YAML and `key=value` overrides into the models of `pns.recipe`, every fault told with its key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from pns.errors import UserError
from pns.recipe import Recipe, RewardPart, RewardRecipe
from pns.recipe_errors import as_user_error

Kind = Literal["recipe", "study", "reward"]

_STUDYS_OWN = frozenset({"recipe", "objectives", "tuning", "methods", "seeds"})
_OF_BOTH = frozenset({"name", "about", "uses"})
"""Keys of recipes and studies alike."""


def kind_of(given: Mapping[str, Any]) -> Kind | None:
    """What a file holds, by its keys: a whole recipe, a study, or the reward alone; None where they do not tell.

    What names a recipe is a study, whatever else stands in it: such a key is a fault of that study.
    """
    keys = set(given)
    if "recipe" not in keys and keys & (set(Recipe.model_fields) - _OF_BOTH):
        return "reward" if keys <= set(RewardRecipe.model_fields) else "recipe"
    return "study" if keys & _STUDYS_OWN else None


def check_kind(given: Mapping[str, Any], path: Path, wanted: Kind) -> None:
    """Raises UserError where a file holds something else, with the command that takes it: that says more than its first
    unknown key.
    """
    found = kind_of(given)
    if found is None or found == wanted or (found, wanted) == ("recipe", "reward"):
        return
    of_it = f"; its recipe is {given['recipe']}" if "recipe" in given else ""
    told = {
        "study": ("is a study", f"`pns study {path} --plan` says what there is to do{of_it}"),
        "recipe": ("is a recipe", f"`pns run {path}` runs it; a study names one under its key `recipe`"),
        "reward": ("holds the reward alone", "it is for `pns score`; a run needs a whole recipe"),
    }
    message, remedy = told[found]
    raise UserError(f"{message}, and a {wanted} is asked for", file=path, remedy=remedy)


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> tuple[Recipe, dict[str, str]]:
    """Read a recipe and apply `key=value` overrides.

    Returns:
        the recipe, and for each leaf key in dotted form where its value came from: `default`, the file, or `override`.

    Raises:
        UserError: missing file, broken YAML, a study, unknown key (with the nearest known one), wrong type,
            broken rule.
    """
    path = Path(path)
    given = read_yaml(path)
    check_kind(given, path, "recipe")
    data, sources = _overridden(given, path, overrides)
    recipe = parse_recipe(data, path, sources)
    resolved = leaves(recipe.model_dump(mode="json"))
    return recipe, {key: sources.get(key, "default") for key in resolved}


def load_reward(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RewardPart:
    """The `reward` part of a recipe, with `reward.key=value` overrides: what scoring needs and nothing else.

    The file is a whole recipe, which is checked whole, or one with only `reward` (and `name`, `about`). An answer
    format that training refuses is fine here.

    Raises:
        UserError: as `load_recipe`; also where `reward` is missing from a file that is no whole recipe.
    """
    path = Path(path)
    given = read_yaml(path)
    check_kind(given, path, "reward")
    whole = bool(set(given) & (set(Recipe.model_fields) - set(RewardRecipe.model_fields)))
    data, sources = _overridden(given, path, overrides)
    reward = data.get("reward", {} if whole else None)
    if whole and isinstance(reward, dict):
        parse_recipe({**data, "reward": {k: v for k, v in reward.items() if k != "answer_format"}}, path, sources)
    elif whole:
        parse_recipe(data, path, sources)
    alone = {"reward": reward} if whole else data
    try:
        return RewardRecipe.model_validate(alone).reward
    except ValidationError as error:
        raise as_user_error(error, path, sources, RewardRecipe) from None


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str = "recipe", folder: str = "recipes/") -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError: missing, broken, a key twice, no mapping.

    Args:
        what, folder: what it is called, and where ours are, for the message.
    """
    if path.is_dir():
        raise UserError("this is a directory", file=path, remedy=f"name a {what} inside it")
    if not path.is_file():
        raise UserError(f"no such {what}", file=path, remedy=_nearby(path, folder))
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError("not UTF-8 text", file=path, line=line, remedy="save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date of month 13, a number of 5,000 digits
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}",
            file=path,
            line=None if mark is None else mark.line + 1,
            remedy="mend the syntax; keys and values are written `key: value`",
        ) from None
    if not isinstance(data, dict):
        raise UserError("a recipe is a mapping of keys to values", file=path, remedy="see recipes/embedded.yaml")
    try:
        leaves(data)
    except RecursionError:
        raise UserError("an alias stands inside what it names", file=path, remedy="write the value out") from None
    return data


def _overridden(
    data: dict[str, Any], path: Path, overrides: list[str] | tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The data with the overrides in it, and where each leaf comes from."""
    sources = {key: str(path) for key in leaves(data)}
    for text in overrides:
        key, value = _override(text)
        set_key(data, key, value, text)
        for old in [k for k in sources if k == key or k.startswith(f"{key}.")]:  # what it replaces
            del sources[old]
        sources.update(dict.fromkeys(leaves(value, key) if isinstance(value, dict) else [key], "override"))
    return data, sources


def parse_recipe(data: dict[str, Any], path: Path, sources: dict[str, str] | None = None) -> Recipe:
    """Validate a mapping as a recipe; relative paths in it are taken from the working directory."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise as_user_error(error, path, sources or {}) from None


def _override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UserError(f"`{text}` is not key=value", file="override", remedy="write e.g. align.beta=0.2")
    try:
        return key.strip(), yaml.load(value, Loader=_Strict)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"the value of `{text}` is not valid YAML", file="override", remedy="quote it") from None


def set_key(data: dict[str, Any], key: str, value: Any, text: str) -> None:
    """Set a dotted key of nested mappings. Raises UserError (quoting `text`) where a parent holds a value."""
    *parents, last = key.split(".")
    node: Any = data
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise UserError(
                f"`{name}` holds a value, not keys",
                file="override",
                field=text,
                remedy="`pns recipe RECIPE` lists every key",
            )
    node[last] = value


def leaves(data: Any, prefix: str = "") -> list[str]:
    """The dotted keys of nested mappings' values."""
    if isinstance(data, dict) and data:
        return [leaf for k, v in data.items() for leaf in leaves(v, f"{prefix}.{k}" if prefix else str(k))]
    return [prefix] if prefix else []


def _nearby(path: Path, folder: str) -> str:
    here = sorted(p.name for p in path.parent.glob("[!.]*.yaml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, here, n=1, cutoff=0.5) or here[:3]
    return f"there: {', '.join(near)}" if near else f"check the path; ours are under {folder}"
