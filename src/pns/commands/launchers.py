"""Options of every command that trains: who starts its processes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Launchers(StrEnum):
    """Who starts the processes of a training."""

    none = "none"
    accelerate = "accelerate"
    ray = "ray"


LauncherOption = Annotated[
    Launchers,
    typer.Option(
        "--launcher",
        help="Start each training as runtime.processes processes, by accelerate's launcher or by Ray Train.",
    ),
]
LauncherConfig = Annotated[
    Path | None,
    typer.Option(
        "--launcher-config",
        help="accelerate's configuration, such as recipes/accelerate/fsdp2.yaml; how to train is read from it under Ray, too.",
        show_default=False,
    ),
]
