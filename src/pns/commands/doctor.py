"""`pns doctor`: what is installed, what is missing for a recipe, and the command that mends it."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import pns
from pns.commands.common import BUG, STARTS_ANEW, console, errors, fail, overrides_argument, say
from pns.commands.launchers import LauncherConfig, LauncherOption, Launchers
from pns.errors import UserError

if TYPE_CHECKING:
    from pns.doctor.examine import Finding, Report
    from pns.doctor.needs import Asked


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="Recipe or study (YAML). Without one: the environment alone.", metavar="RECIPE", show_default=False
        ),
    ] = None,
    overrides: Annotated[list[str] | None, overrides_argument("runtime.device=cuda")] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Where it is to run. Default: runs/<recipe name>.", show_default=False),
    ] = None,
    launcher: LauncherOption = Launchers.none,
    launcher_config: LauncherConfig = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read versions alone: no library is imported, and no GPU looked for.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """What is installed, what a recipe needs beside it, and the command that mends each gap.

    Exit code 0: the recipe can run; 1: something that it needs is missing. Nothing is changed. Libraries are imported in a
    process of their own, so a broken one is told and breaks nothing.

    Examples:

      pns doctor

      pns doctor recipes/embedded.yaml

      pns doctor recipes/embedded.yaml runtime.device=cuda

      pns doctor recipes/embedded.yaml --launcher ray

      pns doctor studies/embedded.yaml --quick

      pns doctor recipes/embedded.yaml --json
    """
    with errors(STARTS_ANEW):
        try:
            from pns.doctor.examine import examine
        except ImportError as error:
            fail(f"error: this command itself needs {error.name}: {error}\n  -> pip install {error.name}", BUG)
        asked, unread = _asked(recipe, overrides or [], launcher, launcher_config)
        report = examine(
            asked, run_dir or Path("runs") / (asked.name if asked else ""), imports=not quick, unread=unread
        )
        if as_json:
            typer.echo(json.dumps(report.as_json(), indent=1))
        else:
            _print(report, recipe)
    if not report.ok:
        raise typer.Exit(BUG)


def _asked(
    recipe: Path | None, overrides: list[str], launcher: Launchers, config: Path | None
) -> tuple[Asked | None, str | None]:
    """What the recipe needs; or why it cannot be read, where a library that reading takes does not import."""
    if recipe is None:
        if launcher is not Launchers.none or config is not None:
            raise UserError("without a recipe nothing is launched", field="--launcher", remedy="name one")
        return None, None
    try:
        from pns.doctor.needs import load
        from pns.launch import launcher_of

        return load(recipe, overrides, launcher_of(launcher.value, config, installed=False)), None
    except ImportError as error:
        return None, str(error)


def _print(report: Report, recipe: Path | None) -> None:
    say(f"pns {pns.__version__}, Python {platform.python_version()} at {sys.executable}")
    _machine(report)
    _libraries(report)
    if recipe is None:
        _beside(report)
    _findings(report, recipe)
    if recipe is None:
        say(f"The core is {'in order' if report.ok else 'not in order'}. `pns doctor RECIPE` says what a recipe needs.")
    else:
        tried = "" if report.environment.imports else ", as far as versions tell"
        say(f"{recipe} {f'can run{tried}' if report.ok else 'cannot run yet'}")


def _machine(report: Report) -> None:
    one, imports = report.machine, report.environment.imports
    seen = "not looked for (--quick)" if imports is None else "none" if not imports.gpus else ""
    gpus = [
        f"{g['name']}, {_gib(g['memory'])}, {_gib(g['free'])} free" for g in (imports.gpus or [] if imports else [])
    ]
    driver = "" if gpus or not one.driver else f"; the driver lists {', '.join(one.driver)}"
    say(
        f"cores {one.cores}, memory {_gib(one.memory)} ({_gib(one.memory_free)} free), open files {_files(one.open_files)}"
    )
    say(f"disk  {_gib(one.disk_free)} free at {one.disk}{'' if one.writable else ', which cannot be written'}")
    say(f"GPU   {'; '.join(gpus) or seen}{driver}")
    say(f"data  {one.data or one.data_problem}")


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _files(limit: int | None) -> str:
    return "without limit" if limit is None else str(limit)


def _libraries(report: Report) -> None:
    """The extras with their packages, and the versions that will do; of a recipe those that it needs."""
    from rich.table import Table
    from rich.text import Text

    from pns.doctor.packages import install_command

    env = report.environment
    table = Table()
    for column in ("extra", "installed (needed)", "state", "brings it"):
        table.add_column(column)
    for extra in report.extras:
        libs = env.wanted[extra]
        there = [f"{lib.name} {lib.version} ({lib.wants or 'any'})" for lib in libs if lib.version is not None]
        wrong = "\n".join(env.troubles(extra))
        brings = Text(install_command({extra}) if wrong else "")
        table.add_row(extra, Text(", ".join(there)), Text(wrong or "complete"), brings)
    console().print(table)


def _beside(report: Report) -> None:
    env = report.environment
    there = [f"{name} {found}" for name, found in env.others.items() if found]
    say(f"Other trainers and servers here: {', '.join(there) or 'none'}.")
    if env.apart:
        from pns.doctor.apart import READ_ON

        say(f"In environments of their own (docs/install.md; their newest releases on {READ_ON}):")
        for name, against in env.apart.items():
            say(f"  {name} wants {', '.join(against)}")


def _findings(report: Report, recipe: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    said = [f for f in report.findings if report.asked is not None or f.state != "ok"]
    if said:
        table = Table(title=f"{recipe} needs" if recipe else None, title_justify="left")
        for column in ("what", "asked for by", "", "found"):
            table.add_column(column)
        for f in said:
            table.add_row(Text(f.what), Text(f.why), Text(f.state), Text(f.said))
        console().print(table)
    _mends("To mend:", [f for f in said if f.state == "lacking"])
    _mends("As you like:", [f for f in said if f.state == "note"])


def _mends(title: str, findings: list[Finding]) -> None:
    lines = [f"{f.what}: {line}" for f in findings if f.mend for line in f.mend.splitlines()]
    if lines:
        say("\n  ".join([title, *dict.fromkeys(lines)]))
