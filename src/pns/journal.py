"""One output file that is made batch by batch, survives a kill at any moment, and appears whole or not at all.

    OUT.partial        rows so far, JSONL, each batch flushed to disk before the next begins
    OUT.partial.json   what they are made of: a fingerprint and its parts
    OUT                all rows, JSONL or Parquet, put in place by one rename

Every row carries the fingerprint (`run`), so a finished file tells what made it. (Source: ours.)
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pns.errors import UserError
from pns.run import UNFINISHED, fingerprint, write_json

SUFFIXES = (".jsonl", ".parquet")
_PARQUET_ROWS = 4096


def output_path(source: Path, out: Path | None, ending: str) -> Path:
    """Where the result goes: `out`, or `SOURCE.<ending>.jsonl` beside the source or in the folder `out`.

    Raises UserError for a suffix that is neither .jsonl nor .parquet, the source itself, or a folder that is missing or
    cannot be written.
    """
    name = f"{source.stem}.{ending}.jsonl"
    if out is None:
        out = source.with_name(name)
    elif out.is_dir():
        out = out / name
    if out.suffix not in SUFFIXES:
        raise UserError("the output ends in .jsonl or .parquet", file=out, field="--out", remedy="change its suffix")
    if out.exists() and out.samefile(source):
        raise UserError("this is the input", file=out, field="--out", remedy="name another file")
    if not out.parent.is_dir():
        raise UserError("no such folder", file=out.parent, field="--out", remedy="make it, or name another")
    if not os.access(out.parent, os.W_OK):
        raise UserError(
            "this folder cannot be written", file=out.parent, field="--out", remedy="name another: --out FOLDER"
        )
    return out


class Journal:
    """The rows of one output file. Used as a context manager; it holds a lock while it is open.

    Args:
        out: the finished file.
        parts: what the rows are made of, JSON-able; they are gone on with only where all of it is the same.
        batch: rows in a batch. What is kept of an interrupted file is a whole number of batches.
        fresh: discard what there is of an interrupted file, and replace a finished one when the new one is complete.
    Attributes:
        finished: the file is complete, and made of these parts.
        done: rows that are there.
        replaces: an older finished file is to be replaced.
    Raises UserError where a file of other parts is there, or another process is writing it.
    """

    def __init__(self, out: Path, parts: Mapping[str, Any], *, batch: int, fresh: bool = False) -> None:
        self.out, self.parts, self.batch = out, json.loads(json.dumps(parts, default=str)), batch
        self.mark = fingerprint(**self.parts)
        self.partial = out.with_name(out.name + ".partial")
        self.about = out.with_name(out.name + ".partial.json")
        self.done = 0
        self.finished = False
        self._stream: BinaryIO | None = None
        begun = None if fresh else _about(self.about, self.partial)
        if begun is not None and begun["run"] != self.mark:
            self._refuse(begun.get("parts"))
        self._keeps, self.replaces = begun is not None, fresh or bool(begun and begun.get("replaces"))
        if out.exists() and not self.replaces:
            if _mark_of(out) != self.mark:
                raise UserError(
                    "is there already, made from another input, recipe or choice of columns", file=out,
                    remedy="--fresh replaces it, --out writes elsewhere",
                )  # fmt: skip
            self.finished = True

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are there, in order: of the finished file, or those that are kept of an interrupted one."""
        if self.finished:
            yield from _read(self.out)
        elif self.done:
            with self.partial.open("rb") as stream:
                for _ in range(self.done):
                    yield json.loads(stream.readline())

    def begin(self) -> None:
        """Take the lock, keep the whole batches of an interrupted file, and be ready to append.

        Raises UserError when another process holds the lock.
        """
        self._stream = stream = self.partial.open("a+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another process is writing this file", file=self.out, remedy="wait for it, or name another with --out"
            ) from None
        if not self._keeps:
            # What it is made of comes first: a kill in between leaves old rows, whose mark tells them from ours.
            write_json(self.about, {"run": self.mark, "replaces": self.replaces, "parts": self.parts})
            stream.truncate(0)
        stream.seek(0)
        self.done, size = _whole_batches(stream, self.mark, self.batch)
        stream.truncate(size)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put a batch down; when this returns, it survives a kill."""
        if self._stream is None:
            raise ValueError("begin comes first")
        lines = (json.dumps({**row, "run": self.mark}, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        self._stream.write("".join(lines).encode("utf-8", "replace"))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.done += len(rows)

    def publish(self, schema: Any = None) -> None:
        """Put the finished file in place. `schema`: the Arrow schema of a row, without `run`; Parquet alone needs it."""
        if self.out.suffix == ".parquet":
            self._write_parquet(schema)
            self.partial.unlink()
        else:
            self.partial.replace(self.out)
        self.about.unlink(missing_ok=True)
        self.finished = True

    def _write_parquet(self, schema: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = schema.append(pa.field("run", pa.string())).with_metadata({"pns_run": self.mark})
        handle, name = tempfile.mkstemp(dir=self.out.parent, prefix=UNFINISHED)
        os.close(handle)
        try:
            with pq.ParquetWriter(name, schema, compression="zstd") as writer:
                rows = self.rows()
                while some := list(islice(rows, _PARQUET_ROWS)):
                    writer.write_table(pa.Table.from_pylist(some, schema))
            with Path(name).open("rb") as stream:
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(self.out)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _refuse(self, parts: Any) -> NoReturn:
        old = parts if isinstance(parts, dict) else {}
        other = sorted(key for key in {*old, *self.parts} if old.get(key) != self.parts.get(key))
        raise UserError(
            f"an unfinished file of other settings is there ({', '.join(other) or 'unknown ones'} changed)",
            file=self.partial, remedy="--fresh discards it, --out writes elsewhere",
        )  # fmt: skip


def _about(path: Path, partial: Path) -> dict[str, Any] | None:
    """What an interrupted file is made of; None where there is none, or no telling."""
    if not partial.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "run" in found else None


def _whole_batches(stream: BinaryIO, mark: str, batch: int) -> tuple[int, int]:
    """Rows and bytes of the complete batches at the head of an interrupted file."""
    rows = size = kept = kept_size = 0
    while line := stream.readline():
        if not line.endswith(b"\n") or _row_mark(line) != mark:
            break
        rows, size = rows + 1, size + len(line)
        if rows % batch == 0:
            kept, kept_size = rows, size
    return kept, kept_size


def _row_mark(line: bytes) -> Any:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("run") if isinstance(row, dict) else None


def _mark_of(out: Path) -> Any:
    """The mark of a finished file; None where it has none."""
    if out.suffix != ".parquet":
        with out.open("rb") as stream:
            return _row_mark(stream.readline(1 << 26))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = (pq.read_schema(out).metadata or {}).get(b"pns_run")
    except (pa.ArrowException, OSError):
        return None
    return None if found is None else found.decode("utf-8", "replace")


def _read(out: Path) -> Iterator[dict[str, Any]]:
    if out.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(out) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                yield from batch.to_pylist()
        return
    with out.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise UserError(
                    "this finished file was changed", file=out, line=number, remedy="--fresh makes it again"
                ) from None
