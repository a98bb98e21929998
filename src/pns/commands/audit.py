"""`pns audit`: how good is what we score with?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.audit_negatives import negatives
from pns.commands.common import check_output, console, errors
from pns.errors import StageStopped, UserError

app = typer.Typer(no_args_is_help=True, help="How good is what we score with?")

SAMPLES = 2000
BATCH = 64
KEPT = "Nothing is written. A judge behind a server has kept its verdicts in its cache; else the work starts anew."


@app.callback()
def _audit() -> None:
    """How good is what we score with?"""


app.command("negatives")(negatives)


@app.command()
def judge(
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Take the judge of this recipe's `reward` part, e.g. one behind a server.",
            metavar="RECIPE",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Overrides of the recipe, e.g. reward.judge_server.max_calls=100.",
            metavar="[KEY=VALUE ...]",
            show_default=False,
        ),
    ] = None,
    function: Annotated[
        str | None,
        typer.Option(
            help="Your own judge: my.module:name, (problem, response, answer) -> Rubric.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    first_error: Annotated[
        str | None,
        typer.Option(
            help="Your own locator: my.module:name, (problem, steps) -> index of the first wrong step, -1 or None.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    locate: Annotated[
        bool, typer.Option("--locate", help="Ask the server of --recipe for the first wrong step, not for a rubric.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="The rules by which `pns export steps` labels, without a chosen response.")
    ] = False,
    any_false: Annotated[bool, typer.Option("--any-false", help="With --labels: as in `pns export steps`.")] = False,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="ProcessBench files, or a folder of them. Default: $PNS_DATA/processbench.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only this many chains of each file, drawn by --seed.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and of the intervals.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write all figures and every reading here, .json.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Run a chain-of-thought evaluator over human step labels (ProcessBench). Default: the step checker.

    F1 is the benchmark's: the harmonic mean of the accuracy on chains with an error (the very step must be named) and
    on chains without one. A judge that gives a rubric locates no step: it has an AUC of its total, and no F1. For one
    that does, the table also says in how many chains it names a wrong step, and how often that is the right one. Every
    figure has a 95 % interval over problems. A judge behind a server keeps its verdicts in its cache, so the same
    command goes on after an interruption. One that fails on every chain of a batch stops it, with exit code 3.

    Examples:

      pns audit judge

      pns audit judge --recipe recipes/reward.yaml --limit 100 --out judge.json

      pns audit judge --first-error my.module:locate --data chains.jsonl

      pns audit judge --labels
    """
    with errors(KEPT):
        if out is not None:
            check_output(out, (".json",), force, "--out")
        if any_false and not labels:
            raise UserError("is for the rules of --labels", field="--any-false", remedy="add --labels, or leave it out")
        found = _evaluator(
            recipe, overrides or [], function, first_error, locate=locate, labels=labels, any_false=any_false
        )
        _audit_judge(*found, data, limit, seed, out)


def _audit_judge(
    name: str, evaluator: Any, data: list[Path] | None, limit: int | None, seed: int, out: Path | None
) -> None:
    from pns.commands.tables import progress
    from pns.evaluation.processbench import batches, evaluate, load_chains

    files = _files(data)
    subsets = {path.stem: load_chains(path) for path in files}
    if len(subsets) < len(files):
        raise UserError("two files have the same name", field="--data", remedy="give each subset a name of its own")
    if limit is not None:
        rng = random.Random(seed)
        subsets = {s: rng.sample(chains, min(limit, len(chains))) for s, chains in subsets.items()}
    screen, results, readings = console(), {}, {}
    total, done = sum(map(len, subsets.values())), 0
    try:
        with progress(screen, "judging") as step:
            for subset, chains in subsets.items():
                found = []
                for batch in batches(chains, BATCH):
                    found += read_batch(evaluator, batch)
                    done += len(batch)
                    step(done, total)
                readings[subset] = [
                    {"id": c.id, "label": c.label, "total": r.total, "first_error": r.first_error, "cause": r.cause}
                    for c, r in zip(chains, found, strict=True)
                ]
                results[subset] = evaluate(chains, found, locates=evaluator.locates, samples=SAMPLES, seed=seed)
    finally:
        close = getattr(getattr(evaluator, "judge", None), "close", None)
        if close is not None:
            close()
    _show(screen, name, results)
    if out is not None:
        from pns.run import write_json

        settings = {"evaluator": name, "limit": limit, "seed": seed, "bootstrap": SAMPLES}
        write_json(out, {"settings": settings, "subsets": results, "readings": readings})
        screen.print(f"written: {out}", highlight=False)


def read_batch(evaluator: Any, batch: Any) -> Any:
    """Readings of a batch. StageStopped where it failed on all of it: figures of none would say nothing."""
    found = evaluator.read(batch)
    failed = [reading.cause for reading in found if reading.failed]
    if len(failed) == len(found):
        raise StageStopped(f"the evaluator failed on all of {len(found)} chains: {failed[0]}")
    return found


def _evaluator(
    recipe: Path | None,
    overrides: list[str],
    function: str | None,
    first_error: str | None,
    *,
    locate: bool,
    labels: bool,
    any_false: bool,
) -> tuple[str, Any]:
    from pns.evaluation.processbench import Labeller, Locator, RubricJudge, StepChecker, StepJudge
    from pns.rewards.build import build_judge, build_locator
    from pns.rewards.callables import load_callable
    from pns.rewards.composite import as_judge

    given = [
        name
        for name, value in (
            ("--recipe", recipe), ("--function", function), ("--first-error", first_error), ("--labels", labels),
        )
        if value
    ]  # fmt: skip
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other", remedy="name one evaluator")
    if overrides and recipe is None:
        raise UserError(f"{overrides[0]!r} overrides a recipe, and none is given", remedy="add --recipe RECIPE")
    if locate and recipe is None:
        raise UserError("there is no server to ask", field="--locate", remedy="add --recipe RECIPE")
    if labels:
        return "labels" + " (any false statement)" * any_false, Labeller(any_false=any_false)
    if first_error is not None:
        return first_error, Locator(load_callable(first_error, "--first-error"))
    if function is not None:
        return function, RubricJudge(_need(as_judge(load_callable(function, "--function"))))
    if recipe is None:
        return "steps", StepChecker()
    from pns.recipe_files import load_reward

    part = load_reward(recipe, overrides)
    if locate:
        return f"first-error-v1 ({recipe})", StepJudge(build_locator(part))
    if part.judge == "steps":
        return "steps", StepChecker()
    return f"{part.judge} ({recipe})", RubricJudge(_need(as_judge(build_judge(part))))


def _need(judge: Any) -> Any:
    if judge is None:
        raise UserError("this recipe has no judge", field="reward.judge", remedy="reward.judge=steps, or server")
    return judge


def _files(data: list[Path] | None) -> list[Path]:
    if not data:
        from pns.recipe import expand

        try:
            data = [Path(expand("$PNS_DATA/processbench"))]
        except ValueError as error:
            raise UserError(str(error), field="--data", remedy="set PNS_DATA, or give --data FILE or FOLDER") from None
    files: list[Path] = []
    for path in data:
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise UserError("no .jsonl file in this folder", file=path, field="--data", remedy="name the files")
        files += inside
    return files


def _show(screen: Any, name: str, results: dict[str, Any]) -> None:
    from pns.commands.tables import printable, shares

    table = shares(f"Evaluator: {printable(name)}", ["", *(str(printable(subset, 20)) for subset in results)])
    every = list(results.values())
    for what in ("n", "erroneous", "undecided"):
        table.add_row("chains" if what == "n" else what, *(f"{r[what]:,}" for r in every))
    table.add_row("F1", *(_f1(r["f1"]) for r in every))
    table.add_row("F1 of the decided", *(_f1(r["f1_decided"]) for r in every))
    if any(r["named"] for r in every):
        table.add_row("named a step", *(f"{r['named']['n']:,}" for r in every))
        table.add_row("the right one", *(_figure(r["named"]["exact"], percent=True) for r in every))
    table.add_row("AUC", *(_figure(r["auc"]) for r in every))
    for what, title in (("found", "found"), ("false_alarms", "false alarms")):
        table.add_row(title, *(_figure(r["detection"][what], percent=True) for r in every))
    screen.print(table)
    threshold = next(iter(results.values()))["detection"]["threshold"]
    screen.print(
        "AUC: of the rubric's total. found, false alarms: chains with and without an error whose total is below "
        f"{threshold} of 12. Undecided chains count as failures in F1, and are left out of the rest. Brackets: 95 % "
        "over problems.",
        highlight=False,
    )  # fmt: skip
    for subset, r in results.items():
        for cause, count in list(r["causes"].items())[:3]:
            screen.print(printable(f"  {subset}: {count:,} undecided: {cause}"))


def _f1(value: dict[str, Any] | None) -> str:
    return "locates no step" if value is None else _figure(value["f1"], percent=True)


def _figure(value: dict[str, Any] | None, *, percent: bool = False) -> str:
    if value is None:
        return "-"
    low, high = value["ci95"]
    if percent:
        return f"{100 * value['value']:.1f} %\n[{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value['value']:.3f}\n[{low:.3f}, {high:.3f}]"
