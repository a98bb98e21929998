"""`pns iterate`: iterated PNS, round by round."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pns.commands.common import BUG, console, errors, fail, overrides_argument, ready, say
from pns.commands.launchers import LauncherConfig, LauncherOption, Launchers
from pns.errors import UserError

if TYPE_CHECKING:
    from pns.study.rounds import IteratedMethod


class Iterated(StrEnum):
    """See `pns.study.rounds.IteratedMethod`."""

    pns = "pns"
    rejection = "rejection"
    sft_chosen = "sft_chosen"
    sft_pns = "sft_pns"


def iterate(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE", show_default=False)],
    overrides: Annotated[list[str] | None, overrides_argument("align.beta=0.2")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    method: Annotated[
        list[Iterated] | None,
        typer.Option(
            help="pns; rejection: the same rounds with the policy's own mistakes; sft_pns, sft_chosen: with the chosen side "
            "of pns's, of rejection's pairs alone. Give it again for several: the first is compared with the others. Default: pns.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Several, e.g. 1,2,3; each runs its own. Default: the recipe's.", show_default=False),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Where it lives. Default: runs/<recipe name>-rounds.", show_default=False),
    ] = None,
    launcher: LauncherOption = Launchers.none,
    launcher_config: LauncherConfig = None,
) -> None:
    """Rounds of PNS: train the generator against the policy as it stands, align the policy, refresh the reward model.

    From the second round on the reward model also learns from the last round's negatives. Every round has problems of its
    own: the recipe's splits reward, generator and pairs are sizes of one round. Methods begin with the same policy. What is
    done is not done again.

    Examples:

      pns iterate recipes/embedded.yaml --rounds 3

      pns iterate recipes/embedded.yaml --seeds 1,2,3

      pns iterate recipes/embedded.yaml --method pns --method rejection

      pns iterate recipes/embedded.yaml --method pns --method sft_pns
    """
    with errors():
        from pns.display import Display
        from pns.launch import launcher_of
        from pns.pipeline import stages
        from pns.recipe_files import load_recipe
        from pns.report.rounds import build_rounds_page, contrasts_table, rounds_tables, warned
        from pns.run import Run
        from pns.scheduler import StageFailed
        from pns.study.iterate import execute
        from pns.study.spec import repeated

        starter = launcher_of(launcher.value, launcher_config)
        found, sources = load_recipe(recipe, overrides or [])
        _check_own([key for key, source in sources.items() if source == "override"], several=seeds is not None)
        if found.round.of != 1:
            raise UserError("rounds are counted by the command", field="round", remedy="leave it out, and use --rounds")
        many = [found.seed] if seeds is None else _seeds(seeds)
        methods: list[IteratedMethod] = [one.value for one in method or [Iterated.pns]]
        if twice := repeated(methods):
            raise UserError(f"{twice} stands there twice", field="--method", remedy="leave one of them out")
        folder = run_dir or Path("runs") / f"{found.name}-rounds"
        ready(found, folder, starter, stages(found).values())
        run = Run.create(folder, "resume", "rounds")
        try:
            with Display(console()) as display:
                results = execute(found, run, display, seeds=many, rounds=rounds, methods=methods, launcher=starter)
        except StageFailed as error:
            fail(str(error), BUG)
        for table in (*rounds_tables(results), *contrasts_table(results)):
            console().print(table)
        if line := warned(results):
            say(line)
        say(f"report: {build_rounds_page(results, run.folder / 'report')}")


_OWN = {
    "negatives.methods": "leave it out, and use --method",
    "negatives.mixture": "leave it out: no method of rounds mixes",
    "pairs.regimes": "leave it out: rounds train on all that a method serves (own)",
    "references": "leave it out: the references are no rounds; `pns run` trains them",
}
"""Keys of a recipe that the command sets, and what to do instead."""


def _check_own(given: list[str], *, several: bool) -> None:
    """Raises UserError where the command line sets what the command sets itself, which would change nothing."""
    for key in given:
        named = next((own for own in _OWN if f"{key}.".startswith(f"{own}.")), None)
        if named is not None:
            raise UserError("the command sets this itself", file="override", field=key, remedy=_OWN[named])
    if several and "seed" in given:
        raise UserError(
            "--seeds names the seeds already", file="override", field="seed", remedy="leave one of them out"
        )


def _seeds(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"{text!r} is no list of whole numbers", field="--seeds", remedy="write --seeds 1,2,3"
        ) from None
    if len(set(found)) != len(found) or min(found) < 0:
        raise UserError(f"{text!r} repeats a seed, or has one below 0", field="--seeds", remedy="write --seeds 1,2,3")
    return found
