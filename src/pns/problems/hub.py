"""Problem sets on the Hugging Face hub: where each stands, and its rows as Problems.

A mapping takes a row in the hub's own columns and its index, and returns a Problem, or None for a row that is left
out. No code of a data set is ever run. The columns are those that the data cards state; the mappings are tested on
files in that layout, and could not be tested against the hub itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pns.errors import UserError
from pns.faults import said
from pns.records import Problem

Row = Mapping[str, Any]
Mapper = Callable[[Row, int], Problem | None]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_AIME_URL = re.compile(r"_AIME_(I{1,2})_Problems/Problem_(\d+)")
_AMC_URL = re.compile(r"_AMC_(\d+[AB])_Problems/Problem_(\d+)")
_BRACKETED = re.compile(r"\s*\([^()]*\)\s*$")


@dataclass(frozen=True)
class Hub:
    """A data set on the hub.

    Attributes:
        id, config, split: as `datasets.load_dataset` takes them.
        revision: the commit that is read unless another is given.
        rows: problems that the mapping makes of it, by its data card.
        note: how it differs from the local file.
    """

    id: str
    config: str | None
    split: str
    revision: str
    rows: int
    mapper: Mapper
    note: str = ""


def fetch(hub: Hub, revision: str | None = None) -> tuple[list[Problem], list[str]]:
    """The problems of a data set, through the library's cache, and what a person should know about them.

    Args:
        revision: another commit, branch or tag than the pinned one.

    Raises:
        UserError: the library is missing; the hub, the data set or the revision cannot be reached; a column is
            missing or holds something else than its card says.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{hub.id} stands on the hub, and the library `datasets` is not installed",
            remedy='pip install "plausible-negatives[train]", or set PNS_DATA to a folder with the files',
        ) from None
    commit = revision or hub.revision
    try:
        found = datasets.load_dataset(hub.id, hub.config, split=hub.split, revision=commit)
    except Exception as error:  # a dozen classes of three libraries; none of them is a fault of ours
        cause = " ".join(str(error).split())[:300]
        raise UserError(
            f"{hub.id} at {commit} cannot be read from the hub: {type(error).__name__}: {cause}",
            remedy="check the network (and HF_HUB_OFFLINE), or set PNS_DATA to a folder with the files",
        ) from None
    problems = map_rows(hub, found)
    notes = [] if _COMMIT.fullmatch(commit) else [f"{hub.id}: {commit!r} is no commit, so its rows may change"]
    if len(problems) != hub.rows:
        notes.append(f"{hub.id} at {commit} has {len(problems)} problems, and {hub.rows} were expected")
    return problems, [*notes, hub.note] if hub.note else notes


def map_rows(hub: Hub, rows: Iterator[Row] | Any) -> list[Problem]:
    """Rows in the hub's columns as Problems. Raises UserError naming row and column where they do not fit."""
    problems: list[Problem] = []
    for index, row in enumerate(rows):
        try:
            problem = hub.mapper(row, index)
        except KeyError as error:
            raise UserError(
                f"no such column; there: {', '.join(row)}", file=hub.id, line=index + 1, field=str(error.args[0]),
                remedy="another revision? The pinned one is read without --revision",
            ) from None  # fmt: skip
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                said(first), file=hub.id, line=index + 1, field=".".join(map(str, first["loc"])),
                remedy="this row has no such value; another revision?",
            ) from None  # fmt: skip
        if problem is not None:
            problems.append(problem)
    if not problems:
        raise UserError("no rows", file=hub.id, remedy="another revision?")
    return problems


def gsm8k(prefix: str) -> Mapper:
    """`question`, `answer`: the rationale, `####`, the number. Ids are PREFIX-0, ..."""

    def mapper(row: Row, index: int) -> Problem:
        solution, _, answer = str(row["answer"]).rpartition("####")
        return Problem(
            id=f"{prefix}-{index}",
            problem=row["question"],
            answer=answer.strip().replace(",", ""),
            solution=solution.strip() or None,
        )

    return mapper


def math500(row: Row, index: int) -> Problem:
    """`unique_id`, `problem`, `answer`, `solution`, `subject`, `level`."""
    return Problem(
        id=row["unique_id"],
        problem=row["problem"],
        answer=row["answer"],
        solution=row["solution"],
        subject=row["subject"],
        level=row["level"],
    )


def math_train(row: Row, index: int) -> Problem:
    r"""`problem`, `level` (`Level 5`), `type`, `solution`, whose last `\boxed{}` is the answer."""
    from pns.verify.extract import extract  # a neighbour's function, and text alone

    solution = str(row["solution"])
    answer, meta = extract(solution, "boxed").answer, {}
    if answer is None and (bare := re.search(r"\\boxed\s+(\w)\W*$", solution)):
        answer = bare[1]
    if answer is None and re.search(r"\\boxed\{\s*\}", solution):
        # Two problems of number theory, both about primes that do not exist.
        answer, meta = "0", {"answer_filled": True}
    level = re.fullmatch(r"Level (\d)", str(row["level"]))
    return Problem(
        id=f"math-train-{index}",
        problem=row["problem"],
        answer=answer or "",
        solution=solution,
        subject=row["type"],
        level=int(level[1]) if level else None,
        meta=meta,
    )


def aime24(row: Row, index: int) -> Problem:
    """`id`, `problem`, `solution`, `answer` (three digits), `url`, which tells paper and number."""
    found = _AIME_URL.search(str(row["url"]))
    return Problem(
        id=f"aime24-{found[1]}-{found[2]}" if found else f"aime24-{row['id']}",
        problem=row["problem"],
        answer=_number(row["answer"]),
        solution=row["solution"] or None,
        subject=f"AIME {found[1]}" if found else None,
        level=int(found[2]) if found else None,
    )


def aime25(row: Row, index: int) -> Problem:
    """`id`, `problem`, `answer`."""
    return Problem(id=f"aime25-{row['id']}", problem=row["problem"], answer=_number(row["answer"]))


def amc23(row: Row, index: int) -> Problem:
    """`id`, `question`, `answer` (a number), `url`."""
    found = _AMC_URL.search(str(row["url"]))
    return Problem(
        id=f"amc23-{found[1]}-{found[2]}" if found else f"amc23-{row['id']}",
        problem=row["question"],
        answer=_number(row["answer"]),
        subject=f"AMC {found[1]}" if found else None,
        level=int(found[2]) if found else None,
    )


def minerva(row: Row, index: int) -> Problem:
    """`question`, `answer`."""
    return Problem(id=f"minerva-{index}", problem=row["question"], answer=str(row["answer"]).strip())


def olympiadbench(row: Row, index: int) -> Problem:
    """`id`, `question`, `solution` and `final_answer` (lists), `subfield`, and what answers are like, kept in `meta`."""
    several = bool(row["is_multiple_answer"])
    answers = [str(answer).strip() for answer in row["final_answer"]]
    if len(answers) == 1 and not several:
        answers = [answers[0].strip("$").strip()]
    names = ("answer_type", "is_multiple_answer", "unit", "error")
    return Problem(
        id=f"olympiadbench-{row['id']}",
        problem=row["question"],
        answer=", ".join(answers),
        solution="\n\n".join(row["solution"] or ()) or None,
        subject=row["subfield"],
        meta={name: row[name] for name in names},
    )


def svamp(row: Row, index: int) -> Problem:
    """`ID`, `Body` (often without its full stop), `Question`, `Answer`, `Type`."""
    body = str(row["Body"]).strip()
    stop = "" if body.endswith((".", "?", "!", ",")) else "."
    return Problem(
        id=f"svamp-{row['ID']}",
        problem=f"{body}{stop} {str(row['Question']).strip()}",
        answer=_number(row["Answer"]),
        subject=row["Type"],
    )


def asdiv(row: Row, index: int) -> Problem | None:
    """`body`, `question`, `solution_type`, `answer` (`9 (apples)`); rows with several answers (`;`) are left out."""
    raw = str(row["answer"]).strip()
    if ";" in raw:
        return None
    bare = re.sub(r"^-\((.*)\)$", r"-\1", raw) if raw.startswith("-(") else _BRACKETED.sub("", raw)
    return Problem(
        id=f"asdiv-row-{index}",
        problem=f"{str(row['body']).strip()} {str(row['question']).strip()}",
        answer=bare or raw,
        subject=row["solution_type"],
        meta={"answer_raw": raw},
    )


def mawps(row: Row, index: int) -> Problem:
    """`id`, `question`, `result` (digits may be grouped by `_` or `,`)."""
    return Problem(
        id=row["id"], problem=row["question"], answer=str(row["result"]).replace("_", "").replace(",", "").strip()
    )


def _number(value: Any) -> str:
    """A number as its shortest text: 27.0, "27.0" and "027" are "27". Any other text stays as it is."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    whole = math.isfinite(number) and number.is_integer() and abs(number) < 2**53
    return str(int(number)) if whole else text
