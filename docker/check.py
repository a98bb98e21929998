"""Does what a Dockerfile does, without Docker: copies what it copies, and runs its pip lines, in a clean virtual environment.

`make docker-check`. What needs root or the base image (packages of the system, the user) is named and left out. At the end
its command is examined (`pns doctor`) and the smallest recipe runs.
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


def main(dockerfile: Path) -> None:
    """Run it. Raises CalledProcessError for a step that fails."""
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

        command: list[str] = []
        for word, arguments in instructions(dockerfile):
            if word == "COPY":
                _copy(arguments, folder)
            elif word == "RUN" and arguments.startswith("pip "):
                run(arguments)
            elif word == "CMD":
                command = json.loads(arguments)
            elif word == "RUN":
                sys.stdout.write(f"left out: {arguments}\n")
        run(" ".join(["pns", "doctor", *command[1:]]))
        run("pns run recipes/smoke.yaml")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
