"""The Dockerfiles, without Docker: they install as the Makefile does, copy what is there, and keep to their own rules."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
IDS = [path.suffix for path in FILES]


def _check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docker_check", ROOT / "docker" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = _check()


def pip_lines(path: Path) -> list[str]:
    return [rest for word, rest in CHECK.instructions(path) if word == "RUN" and rest.startswith("pip ")]


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert IDS == [".cpu", ".cuda"]


def test_the_image_for_a_cpu_installs_what_the_makefile_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^\.venv/\.stamp-install:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    ours = [line.strip().replace("$(PIP)", "pip") for line in recipe.group(1).splitlines() if "$(PIP)" in line]
    option = ' ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}'
    assert [line.replace(option, "") for line in pip_lines(ROOT / "docker" / "Dockerfile.cpu")] == ours
    assert len(ours) == 2


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_is_copied_is_there_and_reaches_the_builder(path: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    sent = [line[1:] for line in lines if line.startswith("!")]
    copied = [source for word, rest in CHECK.instructions(path) if word == "COPY" for source in CHECK.copied(rest)[0]]
    assert {"src", "recipes", "studies"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, name) or source.startswith(f"{name}/") for name in sent), source


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_packages_of_the_image_for_gpus_are_resolved_and_not_installed(path: Path) -> None:
    for line in pip_lines(path):
        found = CHECK.resolving(line)
        assert found.startswith(f"uv pip install --dry-run {CHECK.TARGET} ")
        assert found.endswith(line.removeprefix("pip install --quiet"))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_base_is_pinned_user_is_not_root_and_the_command_exists(path: Path) -> None:
    steps = CHECK.instructions(path)
    bases = [rest for word, rest in steps if word == "FROM"]
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert [rest for word, rest in steps if word == "USER"] == ["1000:1000"]
    words = [word for word, _ in steps]
    assert words.index("USER") < min(i for i, (word, rest) in enumerate(steps) if word == "RUN" and "pip " in rest)
    assert steps[-2] == ("ENTRYPOINT", '["pns"]')


def test_pins_of_the_cuda_image_meet_the_bounds_of_pyproject() -> None:
    text = (ROOT / "docker" / "constraints-cuda.txt").read_text(encoding="utf-8")
    pins = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    line = next(line for line in pip_lines(ROOT / "docker" / "Dockerfile.cuda") if "-e" in line)
    extras = re.search(r"\[(.*)\]", line)
    assert extras is not None
    assert set(extras.group(1).split(",")) == set(project["optional-dependencies"]) - {"dev"}
    wanted = [text for extra in extras.group(1).split(",") for text in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, [*project["dependencies"], *wanted]):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
