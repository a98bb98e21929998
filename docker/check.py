"""Does what a Dockerfile does, without Docker: copies what it copies, and runs its pip lines, in a clean virtual environment.

`make docker-check`. What needs root or the base image (packages of the system, the user) is named and left out. At the end
its command is examined (`pns doctor`) and the smallest recipe runs.

`make docker-check-cuda`, with --resolve: the pip lines are resolved alone, for the Python and the platform of the image, by uv
in an environment of its own. It reads metadata and installs nothing, so neither a GPU nor gigabytes of wheels are needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

UV = "0.13"  # the series that has been tried
TARGET = "--python-version 3.12 --python-platform x86_64-manylinux_2_28"  # of docker/Dockerfile.cuda


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for line in whole if line.strip() for word, _, rest in [line.partition(" ")]]


def copied(arguments: str) -> tuple[list[str], str]:
    """The sources of a COPY, and where they go."""
    *sources, target = [word for word in arguments.split() if not word.startswith("--")]
    return sources, target


def _copy(arguments: str, folder: Path) -> None:
    sources, target = copied(arguments)
    for source in sources:
        place = folder / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, place)


def resolving(command: str) -> str:
    """What resolves the packages of a pip line, and no more."""
    return command.replace("pip install --quiet", f"uv pip install --dry-run {TARGET}", 1)


def main(dockerfile: Path, *, resolve: bool = False) -> None:
    """Run it, or with `resolve` find packages for its pip lines alone. Raises CalledProcessError for a step that fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "app"
        folder.mkdir()
        venv.create(Path(name) / "venv", with_pip=True)
        path = os.pathsep.join([str(Path(name) / "venv" / "bin"), os.environ["PATH"]])
        environment = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "PATH": path}

        def run(command: str) -> None:
            sys.stdout.write(f"{command}\n")
            sys.stdout.flush()
            subprocess.run(["sh", "-c", command], cwd=folder, env=environment, check=True)

        if resolve:
            run(f"pip install --quiet 'uv=={UV}.*'")
        command: list[str] = []
        for word, arguments in instructions(dockerfile):
            if word == "COPY":
                _copy(arguments, folder)
            elif word == "RUN" and arguments.startswith("pip "):
                run(resolving(arguments) if resolve else arguments)
            elif word == "CMD":
                command = json.loads(arguments)
            elif word == "RUN":
                sys.stdout.write(f"left out: {arguments}\n")
        if not resolve:
            run(" ".join(["pns", "doctor", *command[1:]]))
            run("pns run recipes/smoke.yaml")


if __name__ == "__main__":
    main(Path(sys.argv[1]), resolve="--resolve" in sys.argv[2:])
