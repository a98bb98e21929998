"""`pns join`: a further machine takes part in the trainings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pns.commands.common import errors, say
from pns.errors import UserError


def join(
    run_dir: Annotated[
        Path,
        typer.Argument(
            help="The run's directory, at its path on the first machine.", metavar="RUN", show_default=False
        ),
    ],
    launcher_config: Annotated[
        Path,
        typer.Option(
            "--launcher-config", help="accelerate's configuration, as on the first machine.", show_default=False
        ),
    ],
    machine_rank: Annotated[int, typer.Option("--machine-rank", min=1, help="This machine's number.")] = 1,
) -> None:
    """Take part in each training of a run that another machine drives with --launcher accelerate, until that one leaves it.

    Example:

      pns join runs/big --launcher-config recipes/accelerate/two_nodes.yaml
    """
    with errors():
        from pns import elsewhere
        from pns.launch import launcher_of

        launcher_of("accelerate", launcher_config)
        elsewhere.check_rank(launcher_config, machine_rank)
        if not run_dir.is_dir():
            raise UserError(
                "no such run", file=run_dir, remedy="start it on the first machine, on a disk that both see"
            )
        elsewhere.join(run_dir, launcher_config.resolve(), machine_rank, say)
