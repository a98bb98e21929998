"""`pns audit negatives`: how plausible are the rejected sides of preference data?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.common import STARTS_ANEW, column_option, console, errors, say
from pns.errors import UserError

FEWEST = 10
"""Problems that each method needs: fewer cannot be cross-validated."""
FILES = ("audit.json", "pairs.jsonl", "index.html")


class Regime(StrEnum):
    """Which pairs of a run."""

    matched = "matched"
    own = "own"


class Detector(StrEnum):
    """What tries to tell rejected from chosen."""

    length = "length"
    ngrams = "ngrams"
    transformer = "transformer"


def negatives(
    file: Annotated[
        Path,
        typer.Argument(
            help="A finished run, or pairs: .jsonl, .csv, .tsv or .parquet, one a row.",
            metavar="RUN|FILE",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the page and the figures; made if need be.", metavar="FOLDER", show_default=False
        ),
    ],
    prompt: Annotated[str, column_option("Prompts. Default: prompt, or the user's turn of chosen.")] = "prompt",
    chosen: Annotated[str, column_option("Chosen sides: text, or a conversation. Default: chosen.")] = "chosen",
    rejected: Annotated[str, column_option("Rejected sides. Default: rejected.")] = "rejected",
    method: Annotated[str | None, column_option("How the rejected side was made; figures are by method.")] = None,
    gold: Annotated[str | None, column_option("Gold answers: both sides are verified against them.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="Rejection-sampled pairs to set beside, same columns; or --method has a `rejection`.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe whose reward.reward_model scores both sides. Default for a run: its audit model.",
            metavar="RECIPE",
            show_default=False,
        ),
    ] = None,
    regime: Annotated[
        Regime | None,
        typer.Option(help="Which pairs of a run. Default: matched ones, where there are any.", show_default=False),
    ] = None,
    detector: Annotated[
        list[Detector] | None,
        typer.Option(help="Ask only these; may be repeated. Default: all that can run.", show_default=False),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the problems in cross-validation.")] = 5,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Only this many pairs of each method, by --seed: on the same problems where methods share them.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, the folds and the intervals.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an audit that is there.")] = False,
) -> None:
    """Can something simple tell the rejected side from the chosen one? For any preference data, by method.

    AUCs of length alone, of n-grams, of a small transformer (these two learn on some problems and are asked about
    others) and of a reward model; where the first wrong step stands if rules decide it, how far a rejected response is
    from the nearest chosen one (of a run or its pairs: from its correct rollouts, too), which answers it gives, what
    leaks, what repeats. 0.5: this detector cannot tell. Below: it is fooled.

    Of a run: the pairs of all its methods, the gold answers of its problems, and its audit model, which selected nothing.

    Examples:

      pns audit negatives runs/embedded --out audit

      pns audit negatives pairs.jsonl --out audit

      pns audit negatives pairs.csv --method method --gold answer --out audit

      pns audit negatives mine.jsonl --baseline rejection.jsonl --out audit
    """
    with errors(STARTS_ANEW):
        _check_out(out, force)
        from pns.evaluation.preferences import PreferenceColumns

        columns = PreferenceColumns(prompt, chosen, rejected, method, gold)
        source: Any = None if recipe is None else _named(recipe)
        told: dict[str, Any] = {"file": file.resolve().name, "baseline": baseline and baseline.name}
        if file.is_dir():
            _no_columns(columns, baseline)
            told["regime"], pairs, correct = _of_run(file, regime and regime.value)
            source = source or _audit_model(file)
            if source is not None and recipe is None:
                told["reward model"] = "the run's audit model"
        elif regime is not None:
            raise UserError("is for runs", field="--regime", remedy="leave it out for a file")
        else:
            pairs, correct = _read(file, baseline, columns)
        pairs = _some(pairs, limit, seed, file)
        figures, rows = _audit(pairs, correct, source, detector, folds, seed)
        _write(out, figures, rows, pairs, {**told, "folds": folds, "limit": limit, "seed": seed})
        _show(figures)
        say(f"output: {out / 'index.html'}")


def _check_out(out: Path, force: bool) -> None:
    from pns.run import check_writable

    if out.exists() and not out.is_dir():
        raise UserError("this is a file", file=out, field="--out", remedy="name a folder")
    there = [name for name in FILES if (out / name).exists()]
    if there and not force:
        raise UserError(f"{there[0]} is there already", file=out, field="--out", remedy="--force replaces it")
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    check_writable(nearest / "index.html", "--out")


def _no_columns(columns: Any, baseline: Path | None) -> None:
    """Raises UserError for options that say nothing of a run."""
    from pns.evaluation.preferences import PreferenceColumns

    usual = PreferenceColumns()
    for name in ("prompt", "chosen", "rejected", "method", "gold"):
        if getattr(columns, name) != getattr(usual, name):
            raise UserError("names a column of a file", field=f"--{name}", remedy="leave it out for a run")
    if baseline is not None:
        raise UserError("is for files", field="--baseline", remedy="leave it out: a run has rejection's pairs, or none")


def _of_run(folder: Path, regime: str | None) -> tuple[str, list[Any], dict[str, list[str]]]:
    """(regime, pairs, correct rollouts by prompt) of a run."""
    from pns.evaluation.preferences import Preference
    from pns.exports.sources import correct_rollouts, open_run, pairs_of_run, pairs_there, run_problems

    found, methods = pairs_of_run(folder, regime)
    gold = {p.id: p.answer for p in run_problems(folder, "pairs")}
    return (
        found,
        [
            Preference(line, pair.prompt, pair.chosen, pair.rejected, method, gold[pair.problem_id])
            for method, pairs in methods.items()
            for line, pair in enumerate(pairs, 1)
        ],
        correct_rollouts(pairs_there(open_run(folder), found).values()),
    )


def _audit_model(folder: Path) -> Any:
    """The source of a run's audit model; None where it has none yet."""
    from pns.driver import check_current
    from pns.exports.sources import open_run
    from pns.parts.reward import RewardModelSource
    from pns.recipe_files import load_recipe

    run = open_run(folder)
    check_current(run, "audit_model")
    there = sorted(path for path in run.stages.glob("[0-9]*-audit_model/model") if not path.parent.suffix)
    if not there:
        say("this run has no audit model yet: no reward model is asked", err=True)
        return None
    device = load_recipe(run.folder / "recipe.yaml")[0].runtime.device
    return RewardModelSource(path=str(there[0]), calibration=there[0].parent, device=device)


def _read(file: Path, baseline: Path | None, columns: Any) -> tuple[list[Any], dict[str, list[str]]]:
    """(pairs, correct rollouts by prompt) of a file; rollouts only where a stage of ours made it."""
    from pns.evaluation.preferences import BASELINE, ONE_METHOD, read_preferences
    from pns.exports.sources import correct_rollouts

    pairs = read_preferences(file, columns, ONE_METHOD)
    if baseline is not None:
        if any(pair.method == BASELINE for pair in pairs):
            raise UserError(
                f"the file has pairs of the method `{BASELINE}` itself", field="--baseline", remedy="leave it out"
            )
        from dataclasses import replace

        pairs += read_preferences(baseline, replace(columns, method=None), BASELINE)
    return pairs, correct_rollouts([file] if baseline is None else [file, baseline])


def _some(pairs: list[Any], limit: int | None, seed: int, file: Path) -> list[Any]:
    """All, or those that the limit leaves. Raises UserError where a method has too few."""
    from pns.evaluation.preferences import drawn, enough

    if limit is not None:
        pairs = drawn(pairs, limit, seed)
    enough(pairs, FEWEST, file)
    return pairs


def _audit(
    pairs: list[Any], correct: dict[str, list[str]], source: Any, asked: list[Detector] | None, folds: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from pns.commands.tables import progress
    from pns.evaluation.plausibility import Audit, audit_pairs, parts
    from pns.verify import Verifier

    detectors = _detectors(asked)
    with _reward_model(source) as model, Verifier() as verifier, progress(console(), "auditing") as bar:
        how = Audit(
            detectors=detectors, reward_model=model, verifier=verifier if any(p.gold for p in pairs) else None,
            correct=correct, folds=folds, seed=seed,
        )  # fmt: skip
        names = parts(pairs, how)

        def step(what: str, done: int, total: int) -> None:
            # Parts take milliseconds or minutes, so no pace over all of them is honest: the time left is one part's.
            bar(done, total, f"part {names.index(what) + 1} of {len(names)}: {what}")

        return audit_pairs(pairs, how, step)


def _detectors(asked: list[Detector] | None) -> dict[str, Any]:
    """Those asked for; by default all, the transformer only where torch is installed."""
    import importlib.util

    from pns.evaluation.detectors import fit_length, fit_ngrams

    found: dict[str, Any] = {"length": fit_length, "ngrams": fit_ngrams}
    if asked is None or Detector.transformer in asked:
        if all(importlib.util.find_spec(name) for name in ("torch", "transformers", "tokenizers")):
            from pns.evaluation.transformer_detector import fit_transformer

            found["transformer"] = fit_transformer
        elif asked is not None:
            raise UserError(
                "the transformer needs torch", field="--detector", remedy='pip install "plausible-negatives[train]"'
            )
        else:
            say('without torch, the small transformer is left out: pip install "plausible-negatives[train]"', err=True)
    return found if asked is None else {name: found[name] for name in dict.fromkeys(d.value for d in asked)}


def _named(recipe: Path) -> Any:
    """The reward model of a recipe. Raises UserError where it names none."""
    from pns.recipe_files import load_reward

    source = load_reward(recipe).reward_model
    if source is None:
        raise UserError("this recipe names no reward model", file=recipe, field="reward.reward_model", remedy="add one")
    return source


@contextmanager
def _reward_model(source: Any) -> Iterator[Any]:
    """The scorer of a source, where there is one."""
    if source is None:
        yield None
        return
    from pns.rewards.build import build_scorer, close_scorer

    scorer = build_scorer(source)
    try:
        yield scorer
    finally:
        close_scorer(scorer)


def _write(
    out: Path, figures: dict[str, Any], rows: list[dict[str, Any]], pairs: list[Any], settings: dict[str, Any]
) -> None:
    import json

    from pns.report.audit import build_audit_page
    from pns.run import write_atomic, write_json

    write_json(out / "audit.json", {"settings": settings, "methods": figures})
    write_atomic(out / "pairs.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    build_audit_page(figures, rows, pairs, settings, out)


def _show(figures: dict[str, Any]) -> None:
    from rich.text import Text

    from pns.commands.tables import printable, shares
    from pns.report.audit import figure_rows, verdicts

    table = shares("plausibility of the rejected side", ["", *(str(printable(name, 24)) for name in figures)])
    for name, cells in figure_rows(figures):
        table.add_row(name, *(Text(cell) for cell in cells))
    screen = console()
    screen.print(table)
    for line in verdicts(figures):
        screen.print(printable(line, 2000), highlight=False)
