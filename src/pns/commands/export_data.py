"""`pns export pairs` and `pns export prompts`: data sets that other trainers load as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pns.commands.common import STARTS_ANEW, column_option, console, errors, say
from pns.errors import UserError

NOTHING = "nothing is preferred here"


class To(StrEnum):
    """The forms of pairs; their table is `pns.exports.forms.FORMS`."""

    trl = "trl"
    trl_kto = "trl-kto"
    llamafactory = "llamafactory"
    llamafactory_kto = "llamafactory-kto"
    axolotl = "axolotl"
    axolotl_kto = "axolotl-kto"
    openrlhf = "openrlhf"


class PromptsTo(StrEnum):
    """The forms of prompts; their table is `pns.exports.forms.PROMPT_FORMS`."""

    verl = "verl"
    openrlhf = "openrlhf"


class Regime(StrEnum):
    """Which pairs of a run; the list is `pns.parts.negatives.Regime`, which takes 0.2 s to import."""

    matched = "matched"
    own = "own"


Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="Folder of the data set; it is made, and appears whole.", metavar="FOLDER",
                 show_default=False),
]  # fmt: skip
Name = Annotated[
    str | None, typer.Option(help="Name of the data set. Default: that of its folder.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON in place of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a data set that was exported there.")]


def pairs(
    source: Annotated[
        Path,
        typer.Argument(help="A finished run, or pairs: .jsonl, .csv, .tsv or .parquet.", metavar="RUN|FILE",
                       show_default=False),
    ],
    out: Out,
    to: Annotated[To, typer.Option(help="Whose form.", show_default=False)],
    method: Annotated[
        str | None,
        typer.Option(help="Pairs of this method only. Default: a run's `pns`, or its only one; of a file, all.",
                     metavar="METHOD", show_default=False),
    ] = None,
    regime: Annotated[Regime, typer.Option(help="Which pairs of a run.")] = Regime.matched,
    negatives: Annotated[
        bool, typer.Option("--negatives", help="All selected negatives of a run in place of its pairs; forms of KTO.")
    ] = False,
    prompt: Annotated[
        str | None, column_option("Prompts. Default: prompt, problem, question, or the user's turn of a side.")
    ] = None,
    chosen: Annotated[str | None, column_option("Chosen sides: text, or one question and answer as messages.")] = None,
    rejected: Annotated[str | None, column_option("Rejected sides, the same.")] = None,
    name: Name = None,
    dataset_info: Annotated[
        Path | None,
        typer.Option(help="LLaMA-Factory's dataset_info.json that gets the entry. Default: one in the folder.",
                     metavar="FILE", show_default=False),
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:  # fmt: skip
    """Pairs of a run or of a file as a data set for TRL, LLaMA-Factory, axolotl or OpenRLHF, with a card.

    Texts stay as they are, without a chat template. What loads the data set is printed, and stands in its README.md.

    Examples:

      pns export pairs runs/embedded --to trl -o data/pns

      pns export pairs runs/embedded --to axolotl --regime own -o data/pns-own

      pns export pairs pairs.jsonl --to llamafactory -o data/mine

      pns export pairs runs/embedded --to trl-kto --negatives -o data/bad
    """
    with errors(STARTS_ANEW):
        from pns.exports.dataset import check_folder, check_info, check_name, publish, publish_with_info
        from pns.exports.forms import FORMS, INFO

        form, called = FORMS[to.value], name or out.resolve().name
        check_name(called)
        check_folder(out, force)
        if negatives and form.paired:
            raise UserError("negatives alone make no pairs", field="--negatives", remedy="choose a form of KTO: --to")
        if dataset_info is not None and form.entry is None:
            raise UserError("is LLaMA-Factory's", field="--dataset-info", remedy="leave it out, or --to llamafactory")
        if dataset_info is not None and dataset_info.resolve() == out.resolve() / INFO:
            dataset_info = None  # the default
        if dataset_info is not None:
            check_info(dataset_info)
        columns = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        found = _read(source, method, regime.value, negatives, columns)
        if form.paired and any(row.chosen is None for row in found.rows):
            raise UserError("has no chosen side", file=source, field="--chosen", remedy="name it, or a form of KTO")
        if not found.rows:
            raise UserError("both sides are the same in every pair", file=source, remedy=NOTHING)
        files, figures, info = _files(found, form, out, called, dataset_info, force)
        if info is None:
            publish(out, files)
        else:
            publish_with_info(out, files, *info)
        _tell(figures, as_json)


def prompts(
    source: Annotated[
        str,
        typer.Argument(help="A run, a set (`pns problems list`), or a file of problems.", metavar="RUN|NAME|FILE",
                       show_default=False),
    ],
    out: Out,
    to: Annotated[PromptsTo, typer.Option(help="Whose form.", show_default=False)],
    split: Annotated[str, typer.Option(help="Which problems of a run.")] = "generator",
    name: Name = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:  # fmt: skip
    """Problems with gold answers as prompts for reinforcement learning with our reward under verl or OpenRLHF.

    With it a generator is trained there, by reverse RL: recipes/verl, docs/bring-your-own.md.

    Examples:

      pns export prompts gsm8k-train --to verl -o data/gsm8k

      pns export prompts runs/embedded --to openrlhf -o data/prompts
    """
    with errors(STARTS_ANEW):
        from pns.exports.dataset import card, check_folder, check_name, publish
        from pns.exports.forms import CARD, PROMPT_FORMS

        form, called = PROMPT_FORMS[to.value], name or out.resolve().name
        check_name(called)
        check_folder(out, force)
        problems, facts = _problems(source, split)
        counts, use = {"prompts": len(problems)}, form.use(out)
        rows = form.rows(problems, called, "train")
        publish(out, {form.file: rows, CARD: card(called, {"form": form.title} | facts, counts, use, [form.file], [])})
        _tell(counts | {"output": str(out), "use": use}, as_json)


def _read(source: Path, method: str | None, regime: str, negatives: bool, columns: dict[str, str | None]) -> Any:
    from pns.exports.sources import of_file, of_run

    if not source.exists():
        raise UserError("no such file or run", file=source, remedy="check the path; `pns run RECIPE` makes a run")
    if not source.is_dir():
        if negatives:
            raise UserError("is for runs", field="--negatives", remedy="a file without chosen sides needs no option")
        return of_file(source, columns, method)
    named = next((name for name, column in columns.items() if column is not None), None)
    if named is not None:
        raise UserError("names a column of a file", field=f"--{named}", remedy="leave it out for a run")
    return of_run(source, method, regime, negatives=negatives)


def _problems(source: str, split: str) -> tuple[list[Any], dict[str, str]]:
    from pns.exports.sources import run_problems
    from pns.problems.registry import load

    folder = Path(source)
    if folder.is_dir():
        return run_problems(folder, split), {"run": folder.resolve().name, "split": split}
    loaded = load(source)
    for note in loaded.notes:
        say(f"note: {note}", err=True)
    return loaded.problems, {"problems of": folder.name}


def _files(
    found: Any, form: Any, out: Path, name: str, dataset_info: Path | None, force: bool
) -> tuple[dict[str, Any], dict[str, Any], tuple[Path, str] | None]:
    """What is written, what is printed, and what a `dataset_info.json` elsewhere becomes."""
    from pns.exports.dataset import card, merged_info
    from pns.exports.forms import CARD, FORMS, INFO, JSONL, trimmed
    from pns.exports.unpaired import on_both_sides

    rows, same = form.rows(found.rows), found.same
    if form.paired:
        counts = {"pairs": len(rows)}
        same += len(found.rows) - len(rows)  # the same in this form
    else:
        good = sum(row.get("label", row.get("kto_tag")) for row in rows)
        counts = {"desirable": good, "undesirable": len(rows) - good}
    if same:
        counts["left out, both sides the same"] = same
    if not form.paired and (both := on_both_sides(found.rows)):
        counts["left out, chosen and rejected"] = len(both)
    if not rows and form.paired:
        raise UserError("both sides are the same in every pair, but for white space", field="--to", remedy=NOTHING)
    if not rows:
        raise UserError(
            "every response is chosen in one pair and rejected in another", field="--to",
            remedy="a form of pairs keeps them",
        )  # fmt: skip
    notes = []
    if form is FORMS["axolotl"] and (n := trimmed(found.rows)):
        notes.append(
            f"Sides that lost the white space around them: {n:,}. axolotl would not find it under templates that trim."
        )
    use = form.use(dataset_info.parent if dataset_info is not None else out, name)
    facts = {"form": form.title} | found.facts
    files = dict.fromkeys(form.files, rows) | {CARD: card(name, facts, counts, use, form.files, notes)}
    info = None
    if form.entry is not None:
        merged = merged_info(dataset_info or out / INFO, name, form.entry, out / JSONL, force)
        if dataset_info is None:
            files[INFO] = merged
        else:
            info = dataset_info, merged
    return files, counts | {"notes": notes, "output": str(out), "use": use}, info


def _tell(figures: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(figures, ensure_ascii=True, allow_nan=False))
        return
    from pns.commands.tables import shares

    table = shares("data set", ["", "rows"])
    for what, n in figures.items():
        if isinstance(n, int):
            table.add_row(what, f"{n:,}")
    console().print(table)
    for note in figures.get("notes", ()):
        say(f"note: {note}")
    say(f"output: {figures['output']}\n\nHow it is loaded:\n\n{figures['use']}")
