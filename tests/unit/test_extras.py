"""What is installed is told without importing it, and the command that mends it names an extra that there is."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from pns.extras import TRAINING, install, missing, package_folder

ROOT = Path(__file__).parents[2]


def test_what_is_missing() -> None:
    assert missing(["json", "no_such_module_here"]) == ["no_such_module_here"]
    assert missing(["json"]) == []
    assert missing(["no_such.package", ""]) == ["no_such.package", ""]


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "lonely.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_folder("carrier") == tmp_path / "carrier"
    assert "carrier" not in sys.modules
    assert package_folder("lonely") is None
    assert package_folder("no_such.package") is None
    assert package_folder("") is None


def test_the_extras_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(TRAINING) <= {word.partition(">")[0] for word in extras["train"]}
    for name in ("train", "server", "ray", "ray-train", "vllm"):
        assert name in extras
        assert install(name) == f'pip install "plausible-negatives[{name}]"'
