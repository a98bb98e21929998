"""The command line: parses, calls, prints. `--help` needs none of the heavy libraries."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import pns
from pns.commands.audit import app as audit_app
from pns.commands.calibrate import calibrate
from pns.commands.common import BUG, console, errors, fail, note_unread, overrides_argument, ready, say
from pns.commands.doctor import doctor
from pns.commands.export import app as export_app
from pns.commands.iterate import iterate
from pns.commands.join import join
from pns.commands.launchers import LauncherConfig, LauncherOption, Launchers
from pns.commands.plan import plan
from pns.commands.problems import app as problems_app
from pns.commands.score import score
from pns.commands.serve import serve_reward
from pns.commands.study import study
from pns.commands.verify import SETTINGS, verify
from pns.errors import UserError
from pns.launch import Launcher, launcher_of

app = typer.Typer(
    name="pns",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Plausible negative samples: train a model to write wrong answers that teach, and measure what they teach.\n\n"
    "Examples:\n\n"
    "  pns run recipes/embedded.yaml\n\n"
    "  pns run recipes/embedded.yaml align.beta=0.2 --run-dir runs/beta02\n\n"
    "  pns show runs/embedded\n\n"
    "  pns inspect runs/embedded --method pns --n 3",
)


class OnExisting(StrEnum):
    """What to do with a run directory that is there already."""

    resume = "resume"
    new = "new"
    fail = "fail"


RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE", show_default=False)]
Overrides = Annotated[list[str] | None, overrides_argument("align.beta=0.2 seed=1")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Where the run lives. Default: runs/<recipe name>.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN", show_default=False)]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    until: Annotated[
        str | None,
        typer.Option(help="Stop after this stage (a name or a group, e.g. generator, align).", show_default=False),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Run this stage, and all that depends on it, again. Interrupted, go on without this option.",
            show_default=False,
        ),
    ] = None,
    on_existing: Annotated[
        OnExisting, typer.Option(help="A run directory that exists: go on with it, start beside it, or fail.")
    ] = OnExisting.resume,
    launcher: LauncherOption = Launchers.none,
    launcher_config: LauncherConfig = None,
) -> None:
    """Run a recipe from problems to the report. What is done is not done again; Ctrl-C stops, the same command goes on.

    A changed key runs again what depends on it: the last example runs the alignment and what follows.

    Examples:

      pns run recipes/embedded.yaml

      pns run recipes/embedded.yaml seed=1 --run-dir runs/seed1

      pns run recipes/embedded.yaml --until generator

      pns run recipes/embedded.yaml align.learning_rate=1e-4

      pns run recipes/embedded.yaml runtime.processes=2 --launcher accelerate
    """
    with errors():
        starter = launcher_of(launcher.value, launcher_config)
        _run(
            recipe, overrides or [], run_dir, until=until, again=from_, on_existing=on_existing.value, launcher=starter
        )


@app.command()
def stage(
    name: Annotated[
        str,
        typer.Argument(
            help="Stage or group of stages, e.g. reward_model, negatives, align-pns-matched.", show_default=False
        ),
    ],
    recipe: RecipeArgument,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    launcher: LauncherOption = Launchers.none,
    launcher_config: LauncherConfig = None,
) -> None:
    """Run one stage (again), on the results that its inputs left in the run directory.

    Examples:

      pns stage generator recipes/embedded.yaml

      pns stage negatives-pns recipes/embedded.yaml negatives.select=best
    """
    with errors():
        if not recipe.is_file() and Path(name).is_file():
            raise UserError("the stage stands before the recipe", remedy=f"write `pns stage {recipe} {name}`")
        starter = launcher_of(launcher.value, launcher_config)
        _run(recipe, overrides or [], run_dir, only=name, on_existing="resume", launcher=starter)


def _run(
    recipe_file: Path,
    overrides: list[str],
    run_dir: Path | None,
    *,
    on_existing: str,
    until: str | None = None,
    again: str | None = None,
    only: str | None = None,
    launcher: Launcher | None = None,
) -> None:

    from pns import fingerprints, pipeline
    from pns.display import Display
    from pns.driver import check, execute
    from pns.recipe_files import load_recipe
    from pns.run import Run, read_json
    from pns.scheduler import StageFailed

    recipe, sources = load_recipe(recipe_file, overrides)
    # What can be refused is refused before a run directory is made.
    nodes = pipeline.stages(recipe)
    folder = run_dir or Path("runs") / recipe.name
    stages: dict[str, list[str]] = {
        "until": [until] if until else [], "again": [again] if again else [], "only": [only] if only else [],
    }  # fmt: skip
    if folder.exists():
        pipeline.resolve([name for names in stages.values() for name in names], nodes)
        fingerprints.input_hashes(recipe)
    else:
        check(recipe, Run(folder), **stages)
    asked = pipeline.wanted(nodes, stages["until"], stages["only"])
    ready(recipe, folder, launcher, [nodes[name] for name in nodes if name in asked])
    note_unread(sources, nodes)
    one = Run.create(folder, on_existing)
    screen = console()
    try:
        with Display(screen) as display:
            execute(recipe, one, display, **stages, command=sys.argv[:], launcher=launcher)
    except StageFailed as error:
        fail(str(error), BUG)
    page = one.folder / "report" / "index.html"
    if until is None and only is None and page.is_file():
        from pns.report.console import results_table

        screen.print(results_table(read_json(one.folder / "report" / "results.json")))
        say(f"report: {page}")
    else:
        say(f"run: {one.folder}  (`pns show {one.folder}`)")


@app.command()
def show(run_dir: RunArgument) -> None:
    """State of each stage of a run, with sizes, times and peak memory.

    Example:

      pns show runs/embedded
    """
    with errors():
        from rich.table import Table

        from pns.display import clock
        from pns.driver import state_rows
        from pns.run import Run

        one = Run.open(run_dir)
        table = Table(title=str(run_dir), title_justify="left")
        for column in ("stage", "state", "time", "size", "peak memory", "digest"):
            table.add_column(column, justify="right" if column in ("time", "size", "peak memory") else "left")
        rows = state_rows(one)
        for row in rows:
            known = "seconds" in row
            table.add_row(
                row["name"],
                row["state"],
                clock(row["seconds"]) if known else "",
                _size(row["bytes"]) if known else "",
                _size(row["peak_memory_bytes"]) if known else "",
                row["digest"][:12] if known else "",
            )
        console().print(table)
        total = sum(row.get("seconds", 0.0) for row in rows)
        say(f"{sum(r['state'] == 'done' for r in rows)} of {len(rows)} stages done, {clock(total)} of stage time")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit in ("B", "KiB") else f"{count:.1f} {unit}"
        count /= 1024
    return ""


@app.command()
def inspect(
    run_dir: RunArgument,
    method: Annotated[str, typer.Option(help="One of the run's negatives.methods.")] = "pns",
    n: Annotated[int, typer.Option("--n", min=1, help="How many pairs.")] = 5,
    regime: Annotated[str, typer.Option(help="matched or own.")] = "matched",
) -> None:
    """Pairs of a run: problem, chosen and rejected side by side, the differing steps marked, the scores.

    Example:

      pns inspect runs/embedded --method pns --n 3
    """
    with errors():
        from pns.exports.sources import check_regime, open_run, pairs_there
        from pns.parts.negatives import REGIMES
        from pns.records import Pair, read_parquet
        from pns.report.console import inspect_pairs

        one = open_run(run_dir)
        check_regime(one, regime)
        made = pairs_there(one, regime)
        if method not in made:
            every = [f"{name}-{m}" for name in REGIMES for m in sorted(pairs_there(one, name))]
            there = ", ".join(every) or "none yet: run the pairs stage"
            raise UserError(f"no {regime} pairs of {method!r} in this run", file=run_dir, remedy=f"there: {there}")
        inspect_pairs(read_parquet(made[method], Pair)[:n], console())


@app.command()
def recipe(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """The whole configuration as it will be used, and where each value comes from.

    Example:

      pns recipe recipes/embedded.yaml align.beta=0.2
    """
    with errors():
        from rich.table import Table
        from rich.text import Text

        from pns.recipe_files import load_recipe

        found, sources = load_recipe(recipe, overrides or [])
        data = found.model_dump(mode="json")
        table = Table()
        for column in ("key", "value", "from"):
            table.add_column(column)
        for key, source in sources.items():
            value: Any = data
            for name in key.split("."):
                value = value[name]
            table.add_row(Text(key), Text(value if isinstance(value, str) else json.dumps(value)), Text(source))
        console().print(table)


@app.command()
def report(run_dir: RunArgument) -> None:
    """Build the page of a finished run again.

    Example:

      pns report runs/embedded
    """
    with errors():
        from pns.driver import check_current, render, state_rows
        from pns.run import Run

        one = Run.open(run_dir)
        check_current(one, "report")
        seconds = {row["name"]: row["seconds"] for row in state_rows(one) if "seconds" in row}
        say(f"report: {render(one, seconds)}")


app.command("plan")(plan)
app.command("doctor")(doctor)
app.command("study")(study)
app.command("iterate")(iterate)
app.command("join")(join)
app.command("verify", context_settings=SETTINGS)(verify)
app.command("score")(score)
app.command("calibrate")(calibrate)
app.command("serve-reward")(serve_reward)
app.add_typer(audit_app, name="audit")
app.add_typer(problems_app, name="problems")
app.add_typer(export_app, name="export")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pns {pns.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
