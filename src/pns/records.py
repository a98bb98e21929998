"""The nouns that every room speaks: Problem, Verdict, Scores, Response, Pair. Frozen, typed, one JSON object a row.

Nothing here loads torch. Text fields hold the bare text: a prompt's chat template is applied where a tokenizer is at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pns.errors import UserError
from pns.faults import said
from pns.rows import Row, jsonl_rows
from pns.run import AGAIN

Outcome = Literal["correct", "wrong", "undecided"]
AnswerKind = Literal["math", "text", "choice"]
UnscoredBy = Literal["gold", "verifier", "reward_model", "judge_server", "judge_malformed", "judge_budget"]
Gate = Literal["malformed", "undecided", "correct", "scored", "unscored"]


class Record(BaseModel):
    """Base of all rows: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Record):
    """One question with its gold answer. `solution` is a reference derivation, `subject` the family it came from.

    `kind`, `tolerance` and `unit` say how answers compare (see `pns.verify`): the form of the gold answer where its
    text alone does not tell, the absolute difference up to which numbers are equal, the unit that the gold leaves out.
    """

    id: str = Field(min_length=1)
    problem: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    solution: str | None = None
    subject: str | None = None
    level: int | str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)
    kind: AnswerKind | None = None
    tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    unit: str | None = None


class Verdict(Record):
    """Outcome of comparing an answer with the gold one.

    `wrong` means a *decided* inequality of two parsed answers. `cause` says who made an `undecided` one so:
    `response` (no answer, an unparsable one), `gold` (the reference cannot be parsed) or `system` (time-out of the
    verifier, a dead worker). Only a response-caused one may cost the response anything.
    """

    outcome: Outcome
    reason: str = ""
    answer: str | None = None
    cause: Literal["response", "gold", "system"] | None = None


class Rubric(Record):
    """Chain-of-thought evaluation: four dimensions, each an integer 0..3 (names ours; normalised sum / 12)."""

    relevance: int = Field(ge=0, le=3)
    coherence: int = Field(ge=0, le=3)
    completeness: int = Field(ge=0, le=3)
    consistency: int = Field(ge=0, le=3)

    @property
    def total(self) -> int:
        """Sum of the four dimensions, 0..12."""
        return self.relevance + self.coherence + self.completeness + self.consistency

    @property
    def value(self) -> float:
        """The term C of the composite, 0..1."""
        return self.total / 12


class Scores(Record):
    """The composite reward of one response with its whole breakdown.

    A term that was not computed (a cheaper gate had decided) is None, never 0. `reward_raw` is the reward model's own
    scalar; `reward_model` the term M in (0, 1). `score` is None exactly when `gate` is `unscored`; `unscored_by` then
    says which part failed, and `unscored_cause` how.
    """

    gate: Gate
    score: float | None
    well_formed: bool
    format_failures: tuple[str, ...] = ()
    inversion: float | None = None
    reward_raw: float | None = None
    reward_model: float | None = None
    rubric: Rubric | None = None
    judge_text: str | None = None
    unscored_by: UnscoredBy | None = None
    unscored_cause: str | None = None
    verdict: Verdict | None = None


class Response(Record):
    """One sampled completion with its provenance; verdict, scores and log-probabilities are filled in by later steps.

    `policy_logp` is the sum over completion tokens (nats) of log p under the RL-trained policy, end token included;
    `n_tokens` counts the same tokens. `finish` is `length` when the completion was cut before its end token.
    """

    problem_id: str
    text: str
    index: int
    source: str
    model: str = ""
    sampling: dict[str, Any] = Field(default_factory=dict)
    finish: Literal["stop", "length"] = "stop"
    n_tokens: int = 0
    policy_logp: float | None = None
    verdict: Verdict | None = None
    scores: Scores | None = None


class Pair(Record):
    """A preference pair: a verified-correct response and a verified-wrong one to the same problem."""

    problem_id: str
    method: str
    prompt: str
    chosen: str
    rejected: str
    chosen_source: Literal["policy", "generator", "reference"] = "policy"
    chosen_answer: str | None = None
    rejected_answer: str | None = None
    chosen_logp: float | None = None
    rejected_logp: float | None = None
    chosen_tokens: int = 0
    rejected_tokens: int = 0
    scores: Scores | None = None


R = TypeVar("R", bound=Record)


def parse_row(cls: type[R], row: Row, values: dict[str, Any] | None = None) -> R:
    """A row of a file as a record; `values` in place of its own. Raises UserError naming file, line and field."""
    try:
        return cls.model_validate(row.values if values is None else values)
    except (ValidationError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        field = None if first is None else ".".join(str(p) for p in first["loc"]) or None
        what = "nested too deep" if first is None else said(first)
        raise UserError(
            f"not a {cls.__name__}: {what}", file=row.file, line=row.line, field=field, remedy="mend this row"
        ) from None


def read_jsonl(path: str | Path, cls: type[R]) -> Iterator[R]:
    """Rows of a JSONL file, blank lines skipped. Raises UserError on a missing file or a bad line."""
    for row in jsonl_rows(path):
        yield parse_row(cls, row)


def to_jsonl(rows: Iterable[Record]) -> str:
    """Rows as JSONL text."""
    return "".join(row.model_dump_json() + "\n" for row in rows)


def write_parquet(path: Path, rows: Sequence[Record]) -> None:
    """Publish rows as Parquet. Nested fields keep their structure except free-form dicts, which are stored as JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dicts = [flat_row(row.model_dump(mode="json")) for row in rows]
    pq.write_table(pa.Table.from_pylist(dicts), path, compression="zstd")


@contextmanager
def whole_parquet(path: Path) -> Iterator[None]:
    """Around the reading of a stage's Parquet file. Raises UserError where it is not there, or damaged: cut, most often."""
    import pyarrow as pa

    if not path.is_file():
        raise UserError("no such file", file=path, remedy="run the stage that makes it")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not the reader's
            raise
        raise UserError(f"this file is damaged ({str(error)[:200]})", file=path, remedy=AGAIN) from None


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A stage's Parquet file as an Arrow table, or some columns of it."""
    import pyarrow.parquet as pq

    with whole_parquet(path):
        return pq.read_table(path, columns=None if columns is None else list(columns))


def read_parquet(path: str | Path, cls: type[R]) -> list[R]:
    """Rows of a Parquet file written by `write_parquet`."""
    return [cls.model_validate(unflat_row(row)) for row in read_table(Path(path)).to_pylist()]


_JSON_FIELDS = ("meta", "sampling")


def flat_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row as Parquet keeps it: free-form dicts as JSON text."""
    out = {k: json.dumps(v, sort_keys=True) if k in _JSON_FIELDS else v for k, v in row.items()}
    if "level" in out and out["level"] is not None:
        out["level"] = str(out["level"])
    return out


def unflat_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Parquet as the record's fields."""
    return {k: json.loads(v) if k in _JSON_FIELDS and isinstance(v, str) else v for k, v in row.items()}
