"""Installed packages against what this package's metadata asks for; the bounds are those of pyproject.toml.

The environment is read in one place, `installed`; everything else here is made of what that returns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PROJECT = "plausible-negatives"
CORE = "core"
"""Stands for what is needed without any extra."""

State = Literal["ok", "missing", "version", "damaged"]


@dataclass(frozen=True)
class Installed:
    """A distribution in this environment, as its metadata describes it.

    Attributes:
        version: empty where the metadata is damaged.
        requires: requirement strings (PEP 508), those of its extras among them.
        extras: names of its extras.
        editable: whether it is a checkout, installed in place.
    """

    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    editable: bool = False


def installed(name: str) -> Installed | None:
    """The distribution of this name, or None where there is none."""
    try:
        found = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        return Installed(
            found.version or "",
            tuple(found.requires or ()),
            tuple(found.metadata.get_all("Provides-Extra") or ()),
            bool(origin.get("dir_info", {}).get("editable")),
        )
    except Exception:  # half of an installation: what is wrong with it differs by what is left
        return Installed("")


@dataclass(frozen=True)
class Library:
    """One requirement and what is there for it.

    Attributes:
        name: the distribution's canonical name.
        wants: the versions that will do; empty for any.
        version: the installed one, or None.
        state: `ok`, `missing`, `version` (one that will not do), `damaged` (its metadata cannot be read).
        lacks: what an extra of it needs and is not there (`ray[data]` needs pandas), as requirement strings.
    """

    name: str
    wants: str
    version: str | None
    state: State
    lacks: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing is to be done."""
        return self.state == "ok" and not self.lacks


def look_at(requirement: Requirement) -> Library:
    """What is there for a requirement. Its marker is not looked at."""
    name, wants = canonicalize_name(requirement.name), str(requirement.specifier)
    there = installed(name)
    if there is None:
        return Library(name, wants, None, "missing")
    fits = _fits(there.version, requirement.specifier)
    state: State = "damaged" if fits is None else "ok" if fits else "version"
    return Library(name, wants, there.version or None, state, tuple(_lacking(there, requirement.extras)))


def _fits(version: str, wanted: SpecifierSet) -> bool | None:
    """Whether a version will do, a development version too; None where it is none."""
    try:
        return wanted.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return None


def _lacking(there: Installed, extras: set[str]) -> Iterator[str]:
    for extra in sorted(extras):
        for inner in _of_extra(there, extra):
            found = installed(inner.name)
            if found is None or _fits(found.version, inner.specifier) is False:
                yield f"{inner.name}{inner.specifier}"


def _parsed(texts: tuple[str, ...]) -> Iterator[Requirement]:
    for text in texts:
        try:
            yield Requirement(text)
        except InvalidRequirement:  # old packages hold requirements that no standard knows
            continue


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _of_extra(there: Installed, extra: str) -> list[Requirement]:
    """What only the extra asks for, on this platform and Python."""
    every = _parsed(there.requires)
    return [r for r in every if r.marker is not None and _applies(r, extra) and not _applies(r)]


def requirements() -> dict[str, list[Requirement]] | None:
    """What this package asks for: `core`, then each extra; None where its own metadata is not there."""
    own = installed(PROJECT)
    if own is None or not own.version:
        return None
    core = [r for r in _parsed(own.requires) if _applies(r)]
    return {CORE: core, **{canonicalize_name(extra): _of_extra(own, extra) for extra in own.extras}}


@dataclass(frozen=True)
class Conflict:
    """Two installed packages that do not fit.

    Attributes:
        package, version: the one that asks.
        needs: the requirement that is not met, as `name<specifier>`.
        found: the installed version of what it asks for.
        extra: the extra of `package` that asks for it, or None where `package` always does.
    """

    package: str
    version: str
    needs: str
    found: str
    extra: str | None

    def __str__(self) -> str:
        asks = f"{self.package}[{self.extra}]" if self.extra else self.package
        return f"{asks} {self.version} wants {self.needs}; {self.found} is installed"


def conflicts(names: list[str]) -> list[Conflict]:
    """Among the named packages that are installed: those whose own metadata asks for another version of what is here.

    An extra is looked at where it has the name of what it asks for (`trl[vllm]` and vllm): who has both uses it.
    """
    found = []
    for name in names:
        there = installed(name)
        if there is None:
            continue
        for requirement in _parsed(there.requires):
            target = canonicalize_name(requirement.name)
            extra = None if _applies(requirement) else target
            if extra is not None and not _applies(requirement, extra):
                continue
            other = installed(target)
            if other is not None and _fits(other.version, requirement.specifier) is False:
                needs = f"{target}{requirement.specifier}"
                found.append(Conflict(name, there.version, needs, other.version, extra))
    return found


def unmet(needs: tuple[str, ...]) -> list[str]:
    """Of the requirements of a package that is not here: those that a version installed here stands against."""
    looked = [look_at(requirement) for requirement in _parsed(needs)]
    return [f"{lib.name}{lib.wants} ({lib.version} is here)" for lib in looked if lib.state == "version"]


def install_command(extras: set[str]) -> str:
    """The pip command that brings extras (`core` stands for none), for a checkout or for the package.

    A checkout takes the versions that the tests were made with, but not beside vLLM, whose own pins differ from them.
    """
    names = ",".join(sorted(extras - {CORE}))
    own = installed(PROJECT)
    bracket = f"[{names}]" if names else ""
    if own is None or own.editable:
        pins = "" if "vllm" in extras else "-c constraints.txt "
        return f"pip install {pins}-e '.{bracket}'"
    return f"pip install '{PROJECT}{bracket}'"
