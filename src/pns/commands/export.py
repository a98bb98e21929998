"""`pns export`: negatives in the forms that other trainers and benchmarks read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.common import check_output, column_option, console, errors, say
from pns.commands.export_data import pairs, prompts
from pns.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pairs, negatives and prompts in the forms that other trainers and benchmarks read.\n\n"
    "Examples:\n\n"
    "  pns export pairs runs/embedded --to axolotl -o data/pns\n\n"
    "  pns export steps pairs.parquet -o steps.jsonl\n\n"
    "  pns export step-dpo pairs.parquet -o step-dpo.jsonl",
)

KEPT = "Nothing is written. A judge behind a server has kept its verdicts in its cache; else the work starts anew."
FIFTHS = ("first fifth", "second", "third", "fourth", "last fifth")


class StepsTo(StrEnum):
    """The forms of first wrong steps: the benchmark's, and that of trainers of process reward models."""

    processbench = "processbench"
    stepwise = "stepwise"


File = Annotated[
    Path,
    typer.Argument(help=".jsonl, .csv, .tsv or .parquet, one pair or response a row.", metavar="FILE",
                   show_default=False),
]  # fmt: skip
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides of the recipe of --judge.", metavar="[KEY=VALUE ...]", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write, .jsonl.", show_default=False)]
Prompt = Annotated[str | None, column_option("Prompts. Default: prompt, problem, or the user's turn of a side.")]
Chosen = Annotated[
    str | None, column_option("Chosen sides: text, or a conversation. Default: chosen, if there is one.")
]
Rejected = Annotated[str | None, column_option("Rejected sides. Default: rejected, or text (responses of a run).")]
Method = Annotated[str | None, column_option("How the rejected side was made. Default: method or source, if there.")]
Gold = Annotated[str | None, column_option("Gold answers. Default: chosen_answer, if there (pairs of a run).")]
Problems = Annotated[
    str | None,
    typer.Option(help="Problems with gold answers: a file, or a set (`pns problems list`).", metavar="FILE|NAME",
                 show_default=False),
]  # fmt: skip
ProblemId = Annotated[str | None, column_option("Points into --problems. Default: problem_id.")]
Judge = Annotated[
    str | None,
    typer.Option(
        help="Ask a judge about what rules leave undecided: a recipe with a judge behind a server, or your own "
        "my.module:name, (problem, steps) -> index of the first wrong step, -1 or None.",
        metavar="RECIPE|PATH", show_default=False,
    ),
]  # fmt: skip
AnyFalse = Annotated[
    bool,
    typer.Option("--any-false", help="Take the first false statement also behind steps that were not read: more "
                 "labels, more of them too late."),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON in place of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]

app.command()(pairs)
app.command()(prompts)


@app.command()
def steps(
    file: File,
    out: Out,
    overrides: Overrides = None,
    prompt: Prompt = None,
    chosen: Chosen = None,
    rejected: Rejected = None,
    method: Method = None,
    gold: Gold = None,
    problems: Problems = None,
    problem_id: ProblemId = None,
    judge: Judge = None,
    any_false: AnyFalse = False,
    to: Annotated[
        StepsTo,
        typer.Option(help="`stepwise` has prompt, completions and labels, up to the first wrong step, as TRL documents "
                     "and axolotl trains."),
    ] = StepsTo.processbench,
    with_chosen: Annotated[
        bool,
        typer.Option("--with-chosen", help="Chosen responses, too, as without error (-1): those with no wrong answer "
                     "and no false statement."),
    ] = False,
    details: Annotated[
        Path | None,
        typer.Option(help="Write what was found of every response here, undecided ones too, .jsonl.",
                     show_default=False),
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:  # fmt: skip
    """The first wrong step of each rejected response, in ProcessBench's format: for process reward models and audits.

    Rules decide it, or --judge does. What stays undecided is counted, and not in the file: the format has no place
    for it. `pns audit judge --data OUT.jsonl` reads the file. `--to stepwise` is another format.

    Examples:

      pns export steps pairs.parquet -o steps.jsonl --gold answer

      pns export steps p.jsonl -o s.jsonl --judge recipes/paper/qwen2.5-7b.yaml

      pns export steps negatives.parquet -o s.jsonl --problems gsm8k-train
    """
    with errors(KEPT):
        check_output(out, (".jsonl",), force, "--out")
        if details is not None:
            check_output(details, (".jsonl",), force, "--details")
            if details.resolve() == out.resolve():
                raise UserError("is the output, too", field="--details", remedy="name another file")
        columns = {
            "prompt": prompt, "chosen": chosen, "rejected": rejected, "method": method, "gold": gold,
            "problem_id": problem_id,
        }  # fmt: skip
        with _judge(judge, overrides or []) as read:
            rows, n = _labelled(file, columns, problems, read, any_false=any_false)
            _write_steps(file, out, rows, n, read, to=to, with_chosen=with_chosen, details=details, as_json=as_json)


@app.command("step-dpo")
def step_dpo(
    file: File,
    out: Out,
    overrides: Overrides = None,
    prompt: Prompt = None,
    chosen: Chosen = None,
    rejected: Rejected = None,
    method: Method = None,
    gold: Gold = None,
    problems: Problems = None,
    problem_id: ProblemId = None,
    judge: Judge = None,
    any_false: AnyFalse = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Pairs of steps for Step-DPO: the right and the wrong next step behind the same steps, with what decides it.

    Fields as in the data of Step-DPO, and `decided_by`: a rule, the judge, or `divergence`. The last is a candidate:
    both responses are the same up to there, and their answers are verified correct and wrong.

    Examples:

      pns export step-dpo pairs.parquet -o step-dpo.jsonl --gold answer

      pns export step-dpo pairs.jsonl -o s.jsonl --judge my.module:locate
    """
    with errors(KEPT):
        check_output(out, (".jsonl",), force, "--out")
        columns = {
            "prompt": prompt, "chosen": chosen, "rejected": rejected, "method": method, "gold": gold,
            "problem_id": problem_id,
        }  # fmt: skip
        with _judge(judge, overrides or []) as read:
            rows, n = _labelled(file, columns, problems, read, any_false=any_false)
        _write_pairs(out, rows, n, as_json=as_json)


@contextmanager
def _judge(given: str | None, overrides: list[str]) -> Iterator[Any]:
    """What asks the judge about a batch of chains; None without one."""
    from pns.commands.audit import read_batch
    from pns.evaluation.processbench import Locator, StepJudge
    from pns.recipe_files import load_reward
    from pns.rewards.build import build_locator
    from pns.rewards.callables import load_callable

    own = given is not None and ":" in given and not Path(given).exists()
    if overrides and (given is None or own):
        raise UserError(f"{overrides[0]!r} overrides a recipe, and none is given", remedy="add --judge RECIPE")
    if given is None:
        yield None
        return
    if own:
        yield partial(read_batch, Locator(load_callable(given, "--judge")))
        return
    asked = build_locator(load_reward(Path(given), overrides))
    try:
        yield partial(read_batch, StepJudge(asked))
    finally:
        asked.close()


def _labelled(
    file: Path, columns: dict[str, str | None], problems: str | None, read: Any, *, any_false: bool
) -> tuple[list[Any], int]:
    """The distinct pairs of a file with the labels of their negatives, and how many rows it has."""
    from pns.commands.files import problems_by_id
    from pns.commands.tables import progress
    from pns.evaluation.negative_rows import NegativeColumns, read_negatives
    from pns.evaluation.step_labels import label_negatives
    from pns.verify import Verifier

    if problems is None and columns["problem_id"] is not None:
        raise UserError("points into no file", field="--problem-id", remedy="name the problems: --problems FILE")
    negatives = read_negatives(file, NegativeColumns(**columns), problems_by_id(problems))
    with Verifier() as verifier, progress(console(), "labelling") as bar:
        return label_negatives(negatives, verifier, read, any_false=any_false, progress=bar), len(negatives)


def _write_steps(
    file: Path,
    out: Path,
    rows: Sequence[Any],
    n: int,
    read: Callable[..., Any] | None,
    *,
    to: StepsTo,
    with_chosen: bool,
    details: Path | None,
    as_json: bool,
) -> None:
    from pns.evaluation.step_labels import chosen_chains, rejected_chains, stepwise, summary
    from pns.evaluation.step_labels import details as all_details
    from pns.records import to_jsonl
    from pns.run import write_atomic

    chains = rejected_chains(rows, file.stem)
    figures = summary(rows, n)
    if with_chosen:
        right, left_out = chosen_chains(rows, file.stem, read)
        if not right and not left_out:
            raise UserError(
                "this file has no chosen responses", file=file, field="--with-chosen", remedy="name them: --chosen"
            )
        chains += right
        figures["chosen"] = {"without_error": len(right), "left_out": dict(left_out.most_common())}
    if details is not None:
        _write(details, all_details(rows, file.stem))
    if chains and to == StepsTo.stepwise:
        _write(out, map(stepwise, chains))
    elif chains:
        write_atomic(out, to_jsonl(chains))
    _tell(figures, out if chains else None, as_json)
    if not chains:
        raise UserError(
            "no first wrong step could be decided, so nothing was written", file=out,
            remedy="ask a judge (--judge), or give gold answers (--gold); --details says what is missing",
        )  # fmt: skip


def _write_pairs(out: Path, rows: Sequence[Any], n: int, *, as_json: bool) -> None:
    from collections import Counter

    from pns.evaluation.step_labels import step_pairs, summary

    pairs, left_out = step_pairs(rows)
    figures = summary(rows, n)
    by = Counter(pair["decided_by"] for pair in pairs)
    figures["pairs"] = {"written": len(pairs), "by": dict(by.most_common()), "none": dict(left_out.most_common())}
    if pairs:
        _write(out, pairs)
    _tell(figures, out if pairs else None, as_json)
    if not pairs:
        raise UserError(
            "no pair of steps could be made, so nothing was written", file=out,
            remedy="responses must share their first steps with the chosen one; see the table",
        )  # fmt: skip


def _write(path: Path, rows: Any) -> None:
    from pns.run import write_atomic

    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _tell(figures: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**figures, "output": out and str(out)}, ensure_ascii=True, allow_nan=False))
        return
    screen = console()
    for table in _tables(figures):
        screen.print(table)
    if out is not None:
        say(f"output: {out}")


def _tables(figures: Mapping[str, Any]) -> Iterator[Any]:
    from pns.commands.tables import printable, share, shares

    methods = {"all": figures} | (figures["methods"] if len(figures["methods"]) > 1 else {})
    table = shares("the first wrong step", ["", *(str(printable(name, 20)) for name in methods)])
    every = list(methods.values())
    table.add_row("responses", *(f"{m['responses']:,}" for m in every))
    table.add_row("labelled", *(share(m["labelled"], m["responses"]) for m in every))
    for part, names in (("by", figures["by"]), ("undecided", figures["undecided"])):
        for name in names:
            what = f"  by {name}" if part == "by" else f"  undecided: {name}"
            table.add_row(printable(what, 60), *(f"{m[part].get(name, 0):,}" for m in every))
    for k, name in enumerate(FIFTHS):
        what = f"it stands in the {name}" if k == 0 else f"  {name}"
        table.add_row(what, *(share(m["position"]["fifths"][k], m["labelled"]) for m in every))
    yield table
    if figures["copies"]:
        yield printable(f"{figures['copies']:,} rows repeat another rejected response, and count once")
    for part, title, count, rest in (
        ("pairs", "pairs of steps", "written", "none"), ("chosen", "chosen responses", "without_error", "left_out"),
    ):  # fmt: skip
        if part in figures:
            found = figures[part]
            more = shares(title, ["", "rows" if part == "pairs" else "responses"])
            more.add_row(count.replace("_", " "), f"{found[count]:,}")
            for name, n in found.get("by", {}).items():
                more.add_row(f"  by {name}", f"{n:,}")
            for name, n in found[rest].items():
                more.add_row(printable(f"none: {name}" if part == "pairs" else f"left out: {name}", 70), f"{n:,}")
            yield more
