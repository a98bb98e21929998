"""What `pns verify` and `pns score` share: which column is what, problems of another file, the journal's round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pns.commands.common import console, say
from pns.errors import UserError
from pns.items import Columns, Defaults, Item, Survey, check_columns, items, survey
from pns.journal import Journal
from pns.records import Problem
from pns.rows import column_names
from pns.run import file_hash, fingerprint

OPTIONS = {
    "gold": "--gold", "problem": "--problem", "problem_id": "--problem-id", "response": "--response",
    "answer": "--answer", "id": "--id", "label": "--label", "finish": "--finish", "tolerance": "--tolerance-column",
    "unit": "--unit-column", "kind": "--kind-column", "reward": "--reward-column",
}  # fmt: skip


def problems_by_id(source: str | None) -> dict[str, Problem] | None:
    """Problems of a file, or of a set by its name (`pns problems list`), by id; None for None. Raises UserError as `load`."""
    if source is None:
        return None
    from pns.problems.registry import load

    return {problem.id: problem for problem in load(source).problems}


def id_column(path: Path, given: str | None) -> str | None:
    """The column that names a row in the output: the one given, else `id` where there is one."""
    return given if given is not None else "id" if "id" in column_names(path) else None


class Table:
    """A user's file with the meaning of its columns, read and checked as a whole.

    Args:
        problems: by id, where `columns.problem_id` is set.
    Raises UserError for whatever is wrong with the file, before anything is written.
    """

    def __init__(
        self, path: Path, columns: Columns, problems: dict[str, Problem] | None, defaults: Defaults | None = None
    ) -> None:
        check_columns(path, columns, OPTIONS)
        self.path, self.columns, self.problems, self.defaults = path, columns, problems, defaults
        from pns.commands.tables import progress

        with progress(console(), f"reading {path.name}") as step:
            self.about: Survey = survey(_counted(self.items(), step))

    def items(self) -> Iterator[Item]:
        """All items, in order; each call reads the file anew."""
        return items(self.path, self.columns, self.problems, self.defaults)

    def marks(self) -> dict[str, Any]:
        """For the fingerprint: the bytes of the file, of the problems, and what the columns mean."""
        known = None if self.problems is None else [p.model_dump(mode="json") for p in self.problems.values()]
        return {
            "input file": file_hash(self.path),
            "columns": self.columns.named(),
            "problems": None if known is None else fingerprint(problems=known),
            "defaults": None if self.defaults is None else vars(self.defaults),
        }


def run(
    table: Table,
    journal: Journal,
    work: Callable[[], Any],
    *,
    schema: Callable[[], Any],
    see: Callable[[dict[str, Any]], None],
    what: str,
) -> None:
    """Do the rest of the work, with a bar. `work` makes a context manager that gives the work of a batch."""
    from pns.commands.tables import progress
    from pns.scoring import run_items

    if journal.finished:
        run_items(
            iter(()),
            lambda batch: [],
            journal,
            total=table.about.rows,
            schema=schema,
            see=see,
            progress=lambda *_: None,
        )
        say(f"done already: {journal.out} (--fresh does it again)", err=True)
        return
    try:
        with work() as step, progress(console(), what) as bar:
            run_items(table.items(), step, journal, total=table.about.rows, schema=schema, see=see, progress=bar)
    except KeyboardInterrupt:
        say(f"\n{journal.done} of {table.about.rows} rows are kept in {journal.partial}", err=True)
        if journal.replaces:
            say("leave out --fresh to go on from there", err=True)
        raise


def joined(problems: str | None, problem_id: str | None) -> str | None:
    """The column that points into --problems, `problem_id` unless another is named. Raises UserError for one alone."""
    if problems is None and problem_id is not None:
        raise UserError("points into no file", field="--problem-id", remedy="name the problems: --problems FILE")
    return None if problems is None else problem_id or "problem_id"


def _counted(found: Iterator[Item], step: Callable[[int, int], None]) -> Iterator[Item]:
    for n, item in enumerate(found, 1):
        if n % 1000 == 0:
            step(n, 0)
        yield item
