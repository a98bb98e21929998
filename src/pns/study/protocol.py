"""The protocol of a study: written down before the test split is opened, and not changed after."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pns
from pns.errors import UserError
from pns.fingerprints import input_hashes, of_protocol
from pns.rewards.version import RULES
from pns.run import Run, fingerprint, read_json, write_json
from pns.study.cells import Recipes, cells
from pns.study.family import family
from pns.study.tuning import Trial
from pns.verify.version import VERIFIER

FILE, OPENED = "protocol.json", "opened.json"
# What says when and where a protocol was written, not what it is.
_ASIDE = ("written", "fingerprint")
# What protocols did not name once. One that lacks it is no other protocol for that.
_SINCE = ("family", "uses", "audit")
_COMMIT = "name the committed protocol.json that `pns study STUDY --until protocol` wrote"


def protocol_of(recipes: Recipes, chosen: Mapping[str, Any], trials: list[Trial]) -> dict[str, Any]:
    """All that is decided before the test: hypotheses, contrasts and the whole family, seeds, budgets, settings, cells, the recipe."""
    study = recipes.study
    data = study.model_dump(mode="json")
    files = input_hashes(recipes.base).get("problems")
    body = {
        "study": study.name,
        "hypotheses": data["hypotheses"],
        "primary": data["primary"],
        "secondary": data["secondary"],
        "family": family(recipes),
        "metric": study.metric,
        "seeds": data["seeds"],
        "tuning": {**data["tuning"], "combinations": _budget(trials), "trials": trials},
        "chosen": chosen,
        "cells": {name: {"stage": cell.stage, "seeds": list(cell.seeds)} for name, cell in cells(study).items()},
        "objectives": data["objectives"],
        "ablations": data["ablations"],
        "uses": data["uses"],
        "audit": data["audit"],
        "bootstrap": study.bootstrap,
        "recipe": of_protocol(recipes.base.model_dump(mode="json", exclude={"seed", "about"})),
        "versions": {"pns": pns.__version__, "verifier": VERIFIER, "rules": RULES},
        **({"problems": files} if files else {}),
    }
    body = json.loads(json.dumps(body))  # as it will be read again: tuples are lists
    return {"written": _now(), "fingerprint": fingerprint(body=body), **body}


def _budget(trials: list[Trial]) -> dict[str, int]:
    out: dict[str, int] = {}
    for trial in trials:
        name = f"{trial['step']}: {trial['objective']}, {trial['model']}"
        out[name] = out.get(name, 0) + 1
    return out


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def freeze(run: Run, protocol: Mapping[str, Any]) -> Path:
    """Write the protocol where there is none, or another that nothing was tested under.

    Raises UserError where the test split was opened under another one.
    """
    path, opened = run.folder / FILE, run.folder / OPENED
    old = read_json(path) if path.is_file() else {}
    if opened.is_file() and (mark := read_json(opened)["protocol"]) != protocol["fingerprint"]:
        # One that was written when protocols said more, or less, has another fingerprint, and may still be this one.
        if what := _differing_from_opened(old, old, protocol, mark) if old else [f"{FILE} is gone"]:
            raise _another(path, ", ".join(what))
        return path
    if old.get("fingerprint") != protocol["fingerprint"]:
        write_json(path, protocol)
    return path


def _as_opened(protocol: Mapping[str, Any], mark: str) -> bool:
    body = {k: v for k, v in protocol.items() if k not in _ASIDE}
    return bool(protocol.get("fingerprint") == mark == fingerprint(body=body))


def _differing_from_opened(
    frozen: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any], mark: str
) -> list[str]:
    """As `differing(a, b)`, and whether the frozen protocol is still the one that was opened.

    Its family stands: where all that a family comes of is the same, not the study has changed but the code that expands it.
    """
    what = [key for key in differing(a, b) if key != "family"]
    return what if what or _as_opened(frozen, mark) else [f"{FILE} was changed since"]


def check_opened(run: Run, recipes: Recipes) -> None:
    """Raises UserError where the test split was opened under a protocol that this study cannot have, whatever tuning finds."""
    path, opened = run.folder / FILE, run.folder / OPENED
    if not (path.is_file() and opened.is_file()):
        return
    old, new = read_json(path), _untuned(protocol_of(recipes, {}, []))
    if what := _differing_from_opened(old, _untuned(old), new, read_json(opened)["protocol"]):
        raise _another(path, ", ".join(what))


def _untuned(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without what tuning finds."""
    tuning = {k: v for k, v in protocol.get("tuning", {}).items() if k not in ("combinations", "trials")}
    return {**protocol, "tuning": tuning, "chosen": {}}


def _another(path: Path, what: str) -> UserError:
    return UserError(
        f"the test split was opened under another protocol; what differs: {what}",
        file=path,
        remedy="put the study back as it was, or give the new one another name and fresh seeds",
    )


def check_committable(path: Path, recipes: Recipes) -> None:
    """Raises UserError where a protocol that was committed beforehand is none of this study, whatever tuning finds."""
    _check_same(path, _untuned(_committed(path)), _untuned(protocol_of(recipes, {}, [])))


def check_committed(path: Path, protocol: Mapping[str, Any]) -> None:
    """Raises UserError where a protocol that was committed beforehand is not the study's."""
    _check_same(path, _committed(path), protocol)


def _committed(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as a protocol ({error})", file=path, remedy=_COMMIT) from None
    if not isinstance(found, dict) or not isinstance(found.get("tuning"), dict):
        raise UserError("this is no protocol of a study", file=path, remedy=_COMMIT)
    return found


def _check_same(path: Path, committed: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if what := differing(committed, own):
        raise UserError(f"not the protocol of this study; what differs: {', '.join(what)}", file=path, remedy=_COMMIT)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Keys in which two protocols differ. What of their recipes changes no result is no difference, nor is a key that older
    protocols lack.
    """
    a, b = ({**one, "recipe": of_protocol(one["recipe"])} if "recipe" in one else one for one in (a, b))
    aside = {*_ASIDE, *(key for key in _SINCE if key not in a or key not in b)}
    return [key for key in dict.fromkeys([*a, *b]) if key not in aside and a.get(key) != b.get(key)]


def open_test(run: Run, protocol: Mapping[str, Any]) -> None:
    """Note that the test split is looked at from now on."""
    path = run.folder / OPENED
    if not path.is_file():
        write_json(path, {"protocol": protocol["fingerprint"], "at": _now()})
