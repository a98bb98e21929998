"""Responses in files of any size, in bounded memory: read and written row by row, sorted on disk. (Source: ours.)"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from pns.records import Record, Response, Scores, flat_row, unflat_row, whole_parquet
from pns.run import UNFINISHED

BATCH = 4096
_CACHE_KIB = 16 * 1024


def response_schema() -> Any:
    """Arrow schema of a response as `pns.records.write_parquet` writes it, with every type stated: a batch cannot tell."""
    import pyarrow as pa

    from pns.scoring import score_schema, verdict_fields

    words, whole = pa.string(), pa.int64()
    scores = [field for field in score_schema() if field.name in Scores.model_fields]
    kinds = {
        "problem_id": words, "text": words, "index": whole, "source": words, "model": words, "sampling": words,
        "finish": words, "n_tokens": whole, "policy_logp": pa.float64(), "verdict": pa.struct(verdict_fields()),
        "scores": pa.struct(scores),
    }  # fmt: skip
    return pa.schema([(name, kinds[name]) for name in Response.model_fields])


def write_responses(path: Path, rows: Iterable[Response]) -> int:
    """Write them as Parquet, a batch in memory at a time. Returns how many there were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = response_schema(), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in _batches(rows):
            writer.write_table(pa.Table.from_pylist(some, schema))
            count += len(some)
    return count


def publish(path: Path, rows: Callable[[], Iterable[Record]]) -> None:
    """`pns.records.write_parquet`, a batch in memory at a time: the same schema, and up to BATCH rows the same bytes.

    Args:
        rows: gives the same ones each time. They are gone over twice, for what a column holds is known at their end alone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([])
    for some in _batches(rows()):
        schema = pa.unify_schemas([schema, pa.Table.from_pylist(some).schema], promote_options="permissive")
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in _batches(rows()):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _batches(rows: Iterable[Record]) -> Iterator[Sequence[dict[str, Any]]]:
    """At most BATCH of them at a time, as Parquet keeps them."""
    found = iter(rows)
    while some := list(islice(found, BATCH)):
        yield [flat_row(r.model_dump(mode="json")) for r in some]


def read_responses(path: Path) -> Iterator[Response]:
    """The rows of a Parquet file, a batch in memory at a time. Raises UserError where there is none, or a damaged one."""
    import pyarrow.parquet as pq

    with whole_parquet(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            for row in batch.to_pylist():
                yield Response.model_validate(unflat_row(row))


def by_problem(rows: Iterable[Response], folder: Path) -> Iterator[Response]:
    """The rows sorted by problem id, index and text (as strings of code points), equal ones in the order given.

    Args:
        folder: where a file of them lies meanwhile.
    """
    with (
        tempfile.NamedTemporaryFile(dir=folder, prefix=UNFINISHED) as file,
        closing(sqlite3.connect(file.name)) as base,
    ):
        # The file is thrown away whatever happens, so nothing in it has to be safe.
        base.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB}; PRAGMA temp_store=FILE;"
            "CREATE TABLE found (problem TEXT, place INTEGER, text TEXT, number INTEGER, row TEXT,"
            " PRIMARY KEY (problem, place, text, number)) WITHOUT ROWID"  # sorted as it is filled, in this very file
        )
        marked = ((r.problem_id, r.index, r.text, i, r.model_dump_json()) for i, r in enumerate(rows))
        base.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?)", marked)
        # SQLite compares the bytes of UTF-8, whose order is that of the code points.
        for (row,) in base.execute("SELECT row FROM found ORDER BY problem, place, text, number"):
            yield Response.model_validate_json(row)
