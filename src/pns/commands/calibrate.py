"""`pns calibrate`: median and scale of a reward model on correct responses, which its scores are measured by."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.common import STARTS_ANEW, STOPPED, column_option, console, errors, fail, overrides_argument, say
from pns.errors import UserError

BATCHES, FEWEST, FEW = 4, 4, 100


def calibrate(
    file: Annotated[
        Path,
        typer.Argument(
            help=".jsonl, .csv, .tsv or .parquet, one correct response a row.", metavar="FILE", show_default=False
        ),
    ],
    recipe: Annotated[
        Path,
        typer.Option(help="Recipe with reward.reward_model: a whole one, or one with only `reward`.",
                     metavar="RECIPE", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for calibration.json; the recipe's reward.reward_model.calibration.",
                     metavar="FOLDER", show_default=False),
    ],
    overrides: Annotated[list[str] | None, overrides_argument("reward.reward_model.device=cuda")] = None,
    problem: Annotated[str, column_option("Problem texts. Default: problem.")] = "problem",
    response: Annotated[str, column_option("Responses. Default: response.")] = "response",
    label: Annotated[str | None, column_option("True or false: whether it is correct. Only the true ones are used.")] = None,
) -> None:  # fmt: skip
    """Median and scale of a reward model on correct responses, so that M = 0.5 means as good as the middle one.

    Give correct responses to problems that the reward model was not trained on. An existing calibration is replaced.

    Examples:

      pns calibrate correct.jsonl --recipe mine.yaml --out my-calibration

      pns calibrate a.parquet --recipe mine.yaml --out calib --label correct
    """
    with errors(STARTS_ANEW):
        _calibrate(file, recipe, overrides or [], _Columns(problem, response, label), out)


@dataclass(frozen=True)
class _Columns:
    problem: str
    response: str
    label: str | None


@dataclass
class _Counts:
    """Rows of the file: all, those used (labelled correct, or all), and used ones that got no score."""

    rows: int = 0
    used: int = 0
    unscored: int = 0


def _calibrate(path: Path, recipe: Path, overrides: list[str], columns: _Columns, out: Path) -> None:
    from pns.recipe_files import load_reward
    from pns.rewards.build import build_scorer, close_scorer, mark_of
    from pns.rewards.reward_model import FILE, Calibration

    source = load_reward(recipe, overrides).reward_model
    if source is None:
        raise UserError(
            "the recipe names no reward model", file=recipe, field="reward.reward_model",
            remedy="add one, e.g. reward_model: {kind: transformers, path: path/to/model}",
        )  # fmt: skip
    _check_out(out)
    counts = _survey(path, columns)
    replaced = (out / FILE).exists()
    scorer = build_scorer(source)
    try:
        found = Calibration.fit(_scores(path, columns, scorer, counts, source), mark_of(source, scorer))
    finally:
        close_scorer(scorer)
    written = found.save(out)
    _show(found, counts, labelled=columns.label is not None)
    say(f"output: {written}" + (" (replaced)" if replaced else ""))


def _check_out(out: Path) -> None:
    """Whether the folder is there or can be made: that is told before anything is scored."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError("this is a file", file=there, field="--out", remedy="name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError("this folder cannot be written to", file=there, field="--out", remedy="name another folder")


def _survey(path: Path, columns: _Columns) -> _Counts:
    """Read the whole file once: what is wrong with it is told before a model is loaded."""
    from pns.commands.files import OPTIONS
    from pns.items import Columns, check_columns

    check_columns(path, Columns(problem=columns.problem, response=columns.response, label=columns.label), OPTIONS)
    counts = _Counts()
    for row in _rows(path, columns):
        counts.rows += 1
        counts.used += row is not None
    if counts.used < FEWEST:
        raise UserError(
            f"{counts.used} correct responses, and a calibration needs {FEWEST} at the least", file=path,
            field=columns.label, remedy="give more of them; some hundreds make good quantiles",
        )  # fmt: skip
    return counts


def _rows(path: Path, columns: _Columns) -> Iterator[tuple[str, str] | None]:
    """Problem and response of each row; None for one that is not labelled correct."""
    from pns.rows import filled, flag, read_rows

    names = [name for name in (columns.problem, columns.response, columns.label) if name is not None]
    for row in read_rows(path, list(dict.fromkeys(names))):
        correct = columns.label is None or flag(row, columns.label)
        yield (filled(row, columns.problem), filled(row, columns.response)) if correct else None


def _scores(path: Path, columns: _Columns, scorer: Any, counts: _Counts, source: Any) -> list[float]:
    """Scores of the rows that got one, in order; the others are counted."""
    from pns.commands.tables import progress
    from pns.rewards.composite import every_score

    out: list[float] = []
    size = source.batch_size * max(BATCHES, source.server.concurrency if source.server is not None else 0)
    rest = (row for row in _rows(path, columns) if row is not None)
    done = 0
    with progress(console(), "scoring") as bar:
        bar(0, counts.used)
        while batch := list(islice(rest, size)):
            try:
                given = every_score(scorer, [problem for problem, _ in batch], [text for _, text in batch])
            except UserError:
                raise
            except Exception as error:  # a server, or a function of the user's own: nothing of it is ours to mend
                fail(
                    f"stopped: the reward model failed on responses {done + 1} to {done + len(batch)}: "
                    f"{type(error).__name__}: {error}\n  -> mend the cause, and run the same command again",
                    STOPPED,
                )
            fine = [score for score in given if score is not None and math.isfinite(score)]
            counts.unscored += len(batch) - len(fine)
            out += fine
            done += len(batch)
            bar(done, counts.used)
    if len(out) < FEWEST:
        raise UserError(
            f"the reward model gave {len(out)} of {counts.used} responses a score", file=path,
            field="reward.reward_model", remedy="are they too long for it? A function's None and nan are no scores",
        )  # fmt: skip
    return out


def _show(found: Any, counts: _Counts, *, labelled: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from pns.rewards.reward_model import MIN_SCALE

    screen = console()
    table = Table(title="calibration", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = [("responses", str(found.n)), ("median", f"{found.median:.4f}"), ("scale", f"{found.scale:.4f}")]
    rows += [(f"M at quantile {q}", f"{found.quantiles[q]:.3f}") for q in ("0.05", "0.25", "0.50", "0.75", "0.95")]
    for what, value in rows:
        table.add_row(Text(what), Text(value))
    screen.print(table, highlight=False)
    if labelled:
        say(f"{counts.rows - counts.used} of {counts.rows} rows are not labelled correct, and were left out")
    if counts.unscored:
        say(f"{counts.unscored} of {counts.used} responses got no score, and were left out")
    if found.scale <= MIN_SCALE:
        say("the scores do not differ: M will be 0, 0.5 or 1, and nothing between")
    if found.n < FEW:
        say(f"few responses: quantiles of {found.n} are rough")
    say(f"model: {found.model}")
