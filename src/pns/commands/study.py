"""`pns study`: tune, write the protocol, test once on fresh seeds, ablate, report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pns.commands.common import BUG, console, errors, fail, ready, say, say_unread
from pns.commands.launchers import LauncherConfig, LauncherOption, Launchers
from pns.errors import UserError

if TYPE_CHECKING:
    from pns.launch import Launcher
    from pns.run import Run
    from pns.study.cells import Recipes


class Until(StrEnum):
    """Where to stop."""

    tuning = "tuning"
    protocol = "protocol"
    test = "test"
    report = "report"


def study(
    file: Annotated[Path, typer.Argument(help="Study file (YAML).", metavar="STUDY", show_default=False)],
    study_dir: Annotated[
        Path | None,
        typer.Option("--study-dir", help="Where the study lives. Default: runs/<study name>.", show_default=False),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="The folder of another study whose stages this one shares: what both need is made once.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        Until,
        typer.Option(
            help="Stop after tuning; after the protocol is written, before the benchmarks are looked at; after the cells "
            "of the comparison, before the ablations; or go on to the report."
        ),
    ] = Until.report,
    protocol: Annotated[
        Path | None,
        typer.Option(
            help="A protocol.json that was committed beforehand: stop if the study's is another.", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Stages side by side. Default: the recipe's runtime.jobs.", show_default=False),
    ] = None,
    launcher: LauncherOption = Launchers.none,
    launcher_config: LauncherConfig = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what there is to do and how long it takes; do nothing.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Run nothing: report on the cells that are done, from a study at work, too."),
    ] = False,
) -> None:
    """Compare methods x objectives x seeds under one protocol: tuned on a development split, tested once.

    Every seed runs its own from SFT on; what cells have in common is made once. What is done is not done again; Ctrl-C
    stops, the same command goes on.

    Examples:

      pns study studies/embedded.yaml --plan

      pns study studies/embedded.yaml --until protocol

      pns study studies/embedded.yaml --protocol protocol.json

      pns study studies/embedded.yaml --report
    """
    with errors():
        from pns.launch import launcher_of
        from pns.pipeline import stages
        from pns.run import Run, check_folder
        from pns.study.cells import Recipes, check_contrasts
        from pns.study.protocol import check_committable
        from pns.study.spec import load_study

        starter = launcher_of(launcher.value, launcher_config)
        told = load_study(file)
        check_contrasts(told, file)
        recipes = Recipes(told, file)
        folder = study_dir or Path("runs") / told.name
        if store is not None:
            Run.open(store)  # it must be one
        check_folder(folder, "study")
        if plan:
            _plan(recipes, Run(folder, store), jobs)
            return
        if report:
            _report(recipes, Run(Run.open(folder).folder, store))
            return
        # Another study's folder may have every stage that computes.
        ready(recipes.base, folder, starter, stages(recipes.base).values() if store is None else ())
        if protocol is not None:
            check_committable(protocol, recipes)  # before hours of tuning
        run = Run(Run.create(folder, "resume", "study").folder, store)
        _plan(recipes, run, jobs)
        _run(recipes, run, until.value, jobs, protocol, starter)
        if until is Until.report or until is Until.test:
            _report(recipes, run)


def _run(
    recipes: Recipes, run: Run, until: str, jobs: int | None, protocol: Path | None, launcher: Launcher | None
) -> None:
    from pns.display import Display
    from pns.scheduler import StageFailed
    from pns.study.run import execute

    try:
        with Display(console()) as display:
            side = jobs or recipes.base.runtime.jobs
            execute(recipes, run, display, until=until, jobs=side, committed=protocol, launcher=launcher)
    except StageFailed as error:
        fail(str(error), BUG)


def _plan(recipes: Recipes, run: Run, jobs: int | None) -> None:
    from rich.table import Table

    from pns.study.run import planned

    side = jobs or recipes.base.runtime.jobs
    found = planned(recipes, run)
    say_unread([f"set.{key}" for key in found.unread], "study")
    shares = found.shares
    table = Table(title=f"{recipes.study.name}: what there is to do", title_justify="left")
    for column in ("phase", "stages", "done", "work left", f"at {side} side by side"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for share in shares:
        table.add_row(
            share.phase,
            str(share.tasks),
            str(share.done),
            _hours(share.seconds_left, share.modelled),
            _hours(share.wall(side), share.modelled),
        )
    walls = [share.wall(side) for share in shares]
    whole = sum(w for w in walls if w is not None) if None not in walls else None
    table.add_row(
        "all",
        str(sum(s.tasks for s in shares)),
        str(sum(s.done for s in shares)),
        "",
        _hours(whole, sum(s.modelled for s in shares)),
    )
    console().print(table)
    say(_basis(shares, recipes.base.runtime.device))
    if any(share.supposed for share in shares):
        say(
            "Tuning is not over: settings of its grids stand for those that it will choose, such as make most stages. Where it "
            "chooses what the recipe says, or the same for several cells, stages coincide and less is to do; where it chooses "
            "other sizes (epochs, samples), times change."
        )


def _basis(shares: list[Any], device: str) -> str:
    from pns.plan.machine import DEFAULTS

    left = sum(share.tasks - share.done for share in shares)
    measured = sum(share.measured for share in shares)
    modelled = sum(share.modelled for share in shares)
    if not left:
        return "All is done."
    if any(share.seconds_left is None for share in shares):
        return (
            "Some times are not known before a stage of each kind has run: the shape of the model is not known here, or another "
            "one writes negatives. Ask again (--plan) when some have."
        )
    if modelled:
        others = left - measured - modelled
        return (
            f"Modelled: times of {modelled} of the {left} that are left are by the cost model of `pns plan` with the defaults of "
            f"{DEFAULTS[device].name} (docs/scale.md), at best right to a factor of two either way; that stages side by "
            "side slow each other is not in them"
            + (f"; {measured} by stages measured here" if measured else "")
            + (f"; {others} by a reference machine" if others else "")
            + "."
        )
    if not measured:
        return "Times from rates of a two-core reference machine: take them as a factor of two either way."
    return f"Times from stages measured here for {measured} of the {left} that are left, from a reference machine for the others."


def _hours(seconds: float | None, modelled: int = 0) -> str:
    from pns.display import hours

    return "unknown" if seconds is None else f"{hours(seconds)}{', modelled' * bool(modelled)}"


def _report(recipes: Recipes, run: Run) -> None:
    from pns.report.console import study_table
    from pns.report.study import warned
    from pns.study.report import write_report

    if not (run.folder / "manifest.json").is_file():
        raise UserError("no such study directory", file=run.folder, remedy="`pns study STUDY` makes it")
    results, page = write_report(recipes, run)
    console().print(study_table(results))
    for line in filter(None, (*results["reading"], warned(results))):
        say(line)
    say(f"report: {page}")
