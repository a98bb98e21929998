"""`pns score`: the composite reward of every response of a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.common import column_option, console, errors, overrides_argument, say
from pns.errors import UserError

ENDING = "scores"
BATCH, PER_CONNECTION, PASSES_PER_READER = 64, 8, 4


def score(
    file: Annotated[
        Path,
        typer.Argument(help=".jsonl, .csv, .tsv or .parquet, one response a row.", metavar="FILE", show_default=False),
    ],
    recipe: Annotated[
        Path,
        typer.Option(help="Recipe: a whole one, or one with only `reward`.", metavar="RECIPE", show_default=False),
    ],
    overrides: Annotated[list[str] | None, overrides_argument("reward.judge=none")] = None,
    problem: Annotated[str | None, column_option("Problem texts. Default: problem.")] = None,
    gold: Annotated[str | None, column_option("Gold answers. Default: answer.")] = None,
    response: Annotated[str | None, column_option("Responses. Default: response.")] = None,
    finish: Annotated[str | None, column_option("stop, or length where the response was cut off.")] = None,
    label: Annotated[
        str | None, column_option("True or false: whether the source calls it correct. Tables are by label.")
    ] = None,
    problems: Annotated[
        str | None,
        typer.Option(
            help="Problems and gold answers stand here: a file, or a set (`pns problems list`).",
            metavar="FILE|NAME",
            show_default=False,
        ),
    ] = None,
    problem_id: Annotated[str | None, column_option("Points into --problems. Default: problem_id.")] = None,
    id: Annotated[str | None, column_option("Names a row in the output. Default: id, if there is one.")] = None,
    reward_column: Annotated[
        str | None,
        column_option("Raw reward-model scores, in place of a model. Needs --calibration, or --label to fit one."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Folder with calibration.json for --reward-column.", metavar="FOLDER", show_default=False),
    ] = None,
    all_terms: Annotated[
        bool, typer.Option("--all-terms", help="M and C also where a gate has closed: dearer, changes no score.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Output, .jsonl or .parquet, or a folder. Default: FILE.scores.jsonl.", show_default=False),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard an unfinished output, replace a finished one.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Responses scored together; a stop loses fewer. Default: 64, or 8 for each of the judge's requests, or what keeps "
            "readers busy.",
            show_default=False,
        ),
    ] = None,
    ray_readers: Annotated[
        int, typer.Option(min=0, help="Ray actors that run the recipe's reward model, each on a GPU of its own.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """The composite reward of every response: gates, terms, what it pays, and why. One row of output a response.

    Ctrl-C stops, the same command goes on. A judge or reward model that fails on too many responses of a batch
    (reward.max_unscored) stops it as well, with exit code 3; mend the cause and run the same command again.

    Examples:

      pns score samples.jsonl --recipe recipes/reward.yaml

      pns score labelled.jsonl --recipe recipes/reward.yaml --label correct

      pns score a.parquet --problems gsm8k --recipe recipes/reward.yaml
    """
    with errors():
        columns = {
            "problem": problem, "gold": gold, "response": response, "finish": finish, "label": label,
            "problem_id": problem_id, "id": id, "reward": reward_column,
        }  # fmt: skip
        _score(
            file, recipe, overrides or [], columns, problems, calibration,
            all_terms=all_terms, out=out, fresh=fresh, batch=batch, ray_readers=ray_readers, as_json=as_json,
        )  # fmt: skip


def _score(
    path: Path,
    recipe: Path,
    overrides: list[str],
    columns: dict[str, str | None],
    source: str | None,
    calibration: Path | None,
    *,
    all_terms: bool,
    out: Path | None,
    fresh: bool,
    batch: int | None,
    ray_readers: int,
    as_json: bool,
) -> None:
    from pns import __version__
    from pns.commands.files import Table, id_column, joined, problems_by_id, run
    from pns.commands.score_tables import score_tables, summary
    from pns.items import Columns
    from pns.journal import Journal, output_path
    from pns.recipe_files import load_reward
    from pns.rewards.build import build_composite
    from pns.rewards.version import RULES
    from pns.scoring import VERSION, ColumnScorer, reward_marks, score_schema, scoring
    from pns.tally import ScoreTally
    from pns.verify.version import VERIFIER

    part = load_reward(recipe, overrides)
    _reward_column_fits(columns, calibration, part)
    target = output_path(path, out, ENDING) if path.exists() else Path()
    pointer = joined(source, columns["problem_id"])
    for name in ("problem", "gold"):
        if pointer and columns[name]:
            raise UserError("this is in --problems", field=f"--{name}", remedy="leave one of the two out")
    meant = columns | {
        "problem_id": pointer,
        "problem": None if pointer else columns["problem"] or "problem",
        "gold": None if pointer else columns["gold"] or "answer",
        "response": columns["response"] or "response",
        "id": id_column(path, columns["id"]),
    }
    table = Table(path, Columns(**meant), problems_by_id(source))
    squash = _calibration(calibration, table.about, path) if columns["reward"] else None
    marks = {
        "pns": f"{__version__}, rows {VERSION}, verifier {VERIFIER}, rules {RULES}", **table.marks(), "reward": reward_marks(part),
        "calibration": squash and squash.model_dump(mode="json"), "--all-terms": all_terms,
    }  # fmt: skip
    tally = ScoreTally()

    @contextlib.contextmanager
    def work() -> Iterator[Any]:
        column = None if squash is None else ColumnScorer()
        trained = None if column is None or squash is None else (column, squash)
        with (
            _readers(part, ray_readers) as readers,
            build_composite(part, trained=trained, readers=readers) as composite,
        ):
            yield scoring(composite, all_terms=all_terms, column=column)

    with Journal(target, marks, batch=batch or _batch(part, ray_readers), fresh=fresh) as journal:
        run(table, journal, work, schema=score_schema, see=tally.see, what="scoring")
    if as_json:
        typer.echo(json.dumps(summary(tally, str(target)), ensure_ascii=True, allow_nan=False))
        return
    screen = console()
    has_model = squash is not None or part.reward_model is not None
    for shown in score_tables(tally, part, all_terms=all_terms, reward_model=has_model):
        screen.print(shown, highlight=False)
    if squash is not None:
        typer.echo(
            f"calibration: median {squash.median:.3f}, scale {squash.scale:.3f}, of {squash.n} correct responses"
        )
    say(f"output: {target}")


def _reward_column_fits(columns: dict[str, str | None], calibration: Path | None, part: Any) -> None:
    if columns["reward"] is None:
        if calibration is not None:
            raise UserError(
                "is for --reward-column", field="--calibration",
                remedy="that of a model belongs into the recipe: reward.reward_model.calibration",
            )  # fmt: skip
        return
    if part.reward_model is not None:
        raise UserError(
            "the recipe names a reward model, too",
            field="--reward-column",
            remedy="reward.reward_model=null, or no column",
        )
    if calibration is None and columns["label"] is None:
        raise UserError(
            "raw scores need a calibration", field="--reward-column",
            remedy="--calibration FOLDER (`pns calibrate` makes one), or --label to fit it on responses labelled correct",
        )  # fmt: skip


def _calibration(folder: Path | None, about: Any, path: Path) -> Any:
    """The one given, or median and scale of the scores of responses that are labelled correct."""
    from pns.rewards.reward_model import Calibration

    if folder is not None:
        return Calibration.load(folder)
    if not about.raw_correct:
        raise UserError(
            "no response that is labelled correct has a score", file=path, field="--reward-column",
            remedy="check --label, or give --calibration FOLDER",
        )  # fmt: skip
    return Calibration.fit(about.raw_correct)


def _batch(part: Any, readers: int) -> int:
    each = [BATCH]
    if part.judge_server is not None:
        each.append(PER_CONNECTION * part.judge_server.server.concurrency)
    if readers and part.reward_model is not None:
        each.append(PASSES_PER_READER * readers * part.reward_model.batch_size)
    return max(each)


def _readers(part: Any, number: int) -> Any:
    """The context of that many readers; None in it for none."""
    if not number:
        return contextlib.nullcontext()
    from pns.parts.engine import EnginePart
    from pns.readers import opened

    if part.reward_model is None or part.reward_model.kind != "transformers":
        raise UserError(
            "the recipe names no reward model that runs in process", field="--ray-readers",
            remedy="leave it out, or name one: reward.reward_model with kind: transformers",
        )  # fmt: skip
    engine = EnginePart(ray_readers=number)
    return opened(engine, device=part.reward_model.device, threads=1, field="--ray-readers")
