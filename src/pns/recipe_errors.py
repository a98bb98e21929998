"""What pydantic finds wrong with a recipe or a study, as one message: file, line, key, and what mends it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pns.errors import UserError
from pns.recipe import Part, Recipe


def as_user_error(
    error: ValidationError, path: Path, sources: Mapping[str, str], model: type[BaseModel] = Recipe
) -> UserError:
    """The first fault, with its key and the place that the value came from."""
    # An unknown key first: where one is misspelt, the right one is also missing.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # Of a union pydantic names the branch too, `literal[...]`, which is no key.
    loc = [str(p) for p in first["loc"] if "[" not in str(p)]
    key = ".".join(loc)
    given = [source for k, source in sources.items() if k == key or k.startswith(f"{key}.")]
    file: Path | str = path
    if "override" in given:
        file = "override" if set(given) == {"override"} else f"{path} with overrides"
    line = _line(path, loc) if file is path else None
    more = len(error.errors()) - 1
    tail = f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        near = _nearest(loc, model)
        remedy = f"did you mean `{near}`?" if near else "`pns recipe RECIPE` lists every key"
        return UserError(f"unknown key{tail}", file=file, line=line, field=key, remedy=remedy)
    if first["type"] == "missing":
        remedy = f"add `{key}: ...`{_meaning(_field(loc, model))}"
        return UserError(f"this key is required{tail}", file=file, line=line, field=key, remedy=remedy)
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
    remedy = _remedy(loc, model, rule=first["type"] == "value_error")
    return UserError(f"{message}{got}{tail}", file=file, line=line, field=key or None, remedy=remedy)


def _remedy(loc: Sequence[str], model: type[BaseModel], *, rule: bool) -> str:
    """What the key is for; of a part its keys; of a rule between keys where their values stand.

    Args:
        rule: a rule of ours was broken, whose message says what must hold.
    """
    field = _field(loc, model)
    inner = model if field is None and not loc else None if field is None else _part(field.annotation)
    if field is not None and inner is None:
        return f"change it{_meaning(field)}"
    if rule or inner is None:
        return "change what it names (`pns recipe RECIPE` lists every key with its value)"
    return f"write keys under it: {', '.join(inner.model_fields)}"


def _meaning(field: FieldInfo | None) -> str:
    if field is None or _part(field.annotation) is not None:
        return ""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    usual = f" (default {default})" if isinstance(default, str | int | float) else ""
    return f"; its meaning: {field.description}{usual}" if field.description else usual


def _line(path: Path, loc: Sequence[str]) -> int | None:
    """Of the key in the file, or of the last of its parents that is there; from 1. None where none of them is."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = None
    for name in loc:
        pairs: list[tuple[Any, Any]] = node.value if isinstance(node, yaml.MappingNode) else []
        here = next((pair for pair in pairs if str(pair[0].value) == name), None)
        if here is None:
            break
        found, node = here[0].start_mark.line + 1, here[1]
    return found


def _nearest(loc: list[str], model: type[BaseModel]) -> str | None:
    """The known key nearest to an unknown one: among its siblings first, then among all keys by last name."""
    siblings: list[str] = _fields_at(loc[:-1], model)
    close = difflib.get_close_matches(loc[-1], siblings, n=1, cutoff=0.6)
    if close:
        return ".".join([*loc[:-1], close[0]])
    every = _all_keys(model)
    by_last: dict[str, list[str]] = {}
    for key in every:
        by_last.setdefault(key.split(".")[-1], []).append(key)
    close = difflib.get_close_matches(loc[-1], list(by_last), n=1, cutoff=0.6)
    return by_last[close[0]][0] if close else None


def _fields_at(loc: Sequence[str], root: type[BaseModel]) -> list[str]:
    field = _field(loc, root)
    model = root if not loc else None if field is None else _part(field.annotation)
    return list(model.model_fields) if model is not None else []


def _field(loc: Sequence[str], root: type[BaseModel]) -> FieldInfo | None:
    """The field that a key names, or that holds it: of `problems.benchmarks.mine` it is `benchmarks`. None: no such one."""
    model: type[BaseModel] | None = root
    field: FieldInfo | None = None
    for name in loc:
        if model is None:  # an item of what a field holds
            break
        field = model.model_fields.get(name)
        if field is None:
            return None
        model = _part(field.annotation)
    return field


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = _part(field.annotation)
        keys += _all_keys(inner, f"{prefix}{name}.") if inner is not None else [prefix + name]
    return keys


def _part(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation: `Part`, or `Part | None`."""
    inner = next((a for a in [annotation, *get_args(annotation)] if isinstance(a, type) and issubclass(a, Part)), None)
    return inner
