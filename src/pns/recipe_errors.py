"""What pydantic finds wrong with a recipe or a study, as one message: file, line, key, and what mends it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pns.errors import UserError
from pns.faults import MUST, said
from pns.recipe import Part, Recipe


def as_user_error(
    error: ValidationError, path: Path, sources: Mapping[str, str], model: type[BaseModel] = Recipe
) -> UserError:
    """The first fault, with its key and the place that the value came from."""
    faults = error.errors()
    # An unknown key first: where one is misspelt, the right one is also missing.
    first = min(faults, key=lambda e: e["type"] != "extra_forbidden")
    loc = _loc(first)
    # The branches of a union say each what would do; what is missing beside is named with it.
    same = [e for e in faults if e["type"] != "extra_forbidden" and _loc(e) == loc] or [first]
    short = first["type"] == "missing" and loc[-1].isdigit()  # an item of a pair
    lacks = first["type"] == "missing" and not short
    lacking = [e for e in faults if e["type"] == "missing"] if lacks else []
    more = len(faults) - len(lacking or same)
    loc = loc[:-1] if short else loc
    key = ".".join(loc)
    # What is missing has no source of its own: its part has.
    place = ".".join(loc[:-1]) if lacks else key
    # A list is one value, whose place is that of its key.
    given = [v for k, v in sources.items() if not place or f"{k}.".startswith(f"{place}.") or place.startswith(f"{k}.")]
    file: Path | str = path
    if "override" in given:
        file = "override" if set(given) == {"override"} else f"{path} with overrides"
    line = line_of(path, loc) if file is path else None
    if short:
        message, remedy = "an item is missing", f"add it{_meaning(_at(loc, model)[0])}"
    else:
        message, remedy = _told(same, loc, model, on_command_line=file == "override")
    beside = [".".join(_loc(e)) for e in lacking if _loc(e) != loc]
    also = f", and so {'is' if len(beside) == 1 else 'are'} {', '.join(beside)}" if beside else ""
    tail = f" (and {more} more)" if more else ""
    return UserError(f"{message}{also}{tail}", file=file, line=line, field=key or None, remedy=remedy)


def _loc(fault: ErrorDetails) -> list[str]:
    """Where a fault is. Of a union pydantic names the branch too, `literal[...]`, which is no key; an unknown key may be of any form."""
    unknown = fault["type"] == "extra_forbidden"
    return [str(p) for p in fault["loc"] if unknown or "[" not in str(p)]


def _told(
    faults: Sequence[ErrorDetails], loc: list[str], model: type[BaseModel], *, on_command_line: bool
) -> tuple[str, str]:
    """What is wrong with a value, and what mends it.

    Args:
        faults: one, or those of each branch of a union.
    """
    kind, given = faults[0]["type"], faults[0]["input"]
    if kind == "extra_forbidden":
        return "unknown key", _instead(loc, model)
    if kind == "missing":
        return "this key is required", f"add `{'.'.join(loc)}: ...`{_meaning(_at(loc, model)[0])}"
    if kind == "invalid_key":  # YAML reads `on` as true, `5` as a number
        return "this key is no text", "write it in quotes"
    field, inner = _at(loc, model)
    if isinstance(given, dict) and inner is None and kind in MUST:
        return "holds a value, not keys", f"write `{'.'.join(loc)}: ...`{_meaning(field)}"
    got = "" if isinstance(given, dict) else f", got {given!r}"
    told = " or ".join(dict.fromkeys(said(fault) for fault in faults)).replace(" or must be ", " or ")
    return told + got, _remedy(faults, loc, model, on_command_line=on_command_line)


def _remedy(
    faults: Sequence[ErrorDetails], loc: Sequence[str], model: type[BaseModel], *, on_command_line: bool
) -> str:
    """What the key is for; of a part its keys; of a rule between keys where their values stand; of a list, or of a word that
    is nearly right, what to write.
    """
    field, inner = _at(loc, model)
    kind, given = faults[0]["type"], faults[0]["input"]
    if kind == "tuple_type" and isinstance(given, str | int | float):
        name = ".".join(loc)
        return f"write '{name}=[{given}]'" if on_command_line else f"write `{name}: [{given}]`"
    words = [word for fault in faults for word in re.findall(r"'([^']*)'", fault.get("ctx", {}).get("expected", ""))]
    if near := difflib.get_close_matches(str(given), words, n=1):
        return f"did you mean `{near[0]}`?"
    if kind == "literal_error" and inner is not None:  # a name under which keys stand
        return "write one of them"
    if field is not None and inner is None:
        return f"change it{_meaning(field) or _known(model)}"
    if kind == "value_error" or inner is None:  # a rule of ours, whose message says what must hold
        return f"change what it names{_known(model)}"
    return f"write keys under it: {', '.join(inner.model_fields)}"


def _known(model: type[BaseModel]) -> str:
    """Where every key stands."""
    return "; `pns recipe recipes/embedded.yaml` lists every key of a recipe" if issubclass(model, Recipe) else ""


def _meaning(field: FieldInfo | None) -> str:
    if field is None or _part(field.annotation) is not None:
        return ""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    usual = f" (default {default})" if isinstance(default, str | int | float) else ""
    return f"; its meaning: {field.description}{usual}" if field.description else usual


def line_of(path: Path, loc: Sequence[str]) -> int | None:
    """Of the key in the file, or of the last of its parents that is there; from 1. None where none of them is."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = None
    for name in loc:
        if isinstance(node, yaml.SequenceNode) and name.isdigit() and int(name) < len(node.value):
            node = node.value[int(name)]
            found = node.start_mark.line + 1
            continue
        pairs: list[tuple[Any, Any]] = node.value if isinstance(node, yaml.MappingNode) else []
        here = next((pair for pair in pairs if str(pair[0].value) == name), None)
        if here is None:
            break
        found, node = here[0].start_mark.line + 1, here[1]
    return found


def _instead(loc: list[str], model: type[BaseModel]) -> str:
    """What to write in place of an unknown key."""
    near, part = _nearest(loc, model), _at(loc[:-1], model)[1]
    if near:
        return f"did you mean `{near}`?"
    return f"leave it out{_known(model)}" if part is None else f"keys here: {', '.join(part.model_fields)}"


def _nearest(loc: list[str], model: type[BaseModel]) -> str | None:
    """The known key nearest to an unknown one: among its siblings first, then among all keys by last name."""
    _, part = _at(loc[:-1], model)
    siblings = list(part.model_fields) if part is not None else []
    close = difflib.get_close_matches(loc[-1], siblings, n=1, cutoff=0.6)
    if close:
        return ".".join([*loc[:-1], close[0]])
    every = _all_keys(model)
    by_last: dict[str, list[str]] = {}
    for key in every:
        by_last.setdefault(key.split(".")[-1], []).append(key)
    close = difflib.get_close_matches(loc[-1], list(by_last), n=1, cutoff=0.6)
    return by_last[close[0]][0] if close else None


def _at(loc: Sequence[str], root: type[BaseModel]) -> tuple[FieldInfo | None, type[BaseModel] | None]:
    """What a key names: its field, or the one that holds it (of `problems.benchmarks.mine` it is `benchmarks`), and the model
    of the keys under it. None, None: there is no such key.

    Behind a mapping of parts, as a study's `objectives`, comes a name of the user's, behind a list of them a place in it, and then
    the keys of a part.
    """
    model: type[BaseModel] | None = root
    values: type[BaseModel] | None = None
    field: FieldInfo | None = None
    for name in loc:
        if values is not None:
            model, values = values, None
            continue
        if model is None:  # an item of what a field holds
            break
        field = model.model_fields.get(name)
        if field is None:
            return None, None
        model, values = _part(field.annotation), _value_part(field.annotation)
    return field, model


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner = _part(field.annotation)
        keys += _all_keys(inner, f"{prefix}{name}.") if inner is not None else [prefix + name]
    return keys


def _part(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation: `Part`, or `Part | None`."""
    alone = (annotation, *(get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()))
    return next((a for a in alone if isinstance(a, type) and issubclass(a, Part)), None)


def _value_part(annotation: Any) -> type[BaseModel] | None:
    """The model of the values of `dict[str, Part]`, or of the items of `tuple[Part, ...]`."""
    kind, inner = get_origin(annotation), get_args(annotation)
    return _part(inner[1]) if kind is dict else _part(inner[0]) if kind is tuple else None
