"""One output file that is made batch by batch, survives a kill at any moment, and appears whole or not at all.

    OUT.partial        rows so far, JSONL, each batch flushed to disk before the next begins
    OUT.partial.json   what they are made of: a fingerprint and its parts
    OUT                all rows, JSONL or Parquet, put in place by one rename

Every row carries the fingerprint (`run`), so a finished file tells what made it: 16 hexadecimal digits over all parts,
a point, and 4 for each part in the order of their names, so that it can be said which of them changed. (Source: ours.)
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pns.errors import UserError
from pns.run import check_writable, fingerprint, replacing, write_json

SUFFIXES = (".jsonl", ".parquet")
_PARQUET_ROWS = 4096


def output_path(source: Path, out: Path | None, ending: str) -> Path:
    """Where the result goes: `out`, or `SOURCE.<ending>.jsonl` beside the source or in the folder `out`.

    Raises UserError for a suffix that is neither .jsonl nor .parquet, the source itself, or a folder that is missing or
    cannot be written.
    """
    if source.is_dir():
        raise UserError("this is a directory", file=source, remedy="name a file inside it")
    name = f"{source.stem}.{ending}.jsonl"
    if out is None:
        out = source.with_name(name)
    elif out.is_dir():
        out = out / name
    if out.suffix not in SUFFIXES:
        raise UserError("the output ends in .jsonl or .parquet", file=out, field="--out", remedy="change its suffix")
    if out.exists() and out.samefile(source):
        raise UserError("this is the input", file=out, field="--out", remedy="name another file")
    check_writable(out, "--out")
    return out


class Journal:
    """The rows of one output file. Used as a context manager; from `begin` on it holds a lock, while it is open.

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
        self.out, self.parts, self.batch, self.fresh = out, json.loads(json.dumps(parts, default=str)), batch, fresh
        self.mark = _mark(self.parts)
        self.partial = out.with_name(out.name + ".partial")
        self.begun = out.with_name(out.name + ".partial.json")
        self.done = 0
        self.finished = self.replaces = self._keeps = False
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Journal:
        try:
            # Whoever is writing it is told of before the settings are compared: `--fresh` would be bad advice then.
            if self.partial.exists():
                self._lock()
            self._look()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _lock(self) -> None:
        """Open the unfinished file under a lock. Raises UserError when another process holds it."""
        while True:
            stream = self.partial.open("a+b")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held the lock may have put this very file in place between our open and our lock.
                if self.partial.exists() and os.path.samestat(os.fstat(stream.fileno()), self.partial.stat()):
                    self._stream = stream
                    return
            except BlockingIOError:
                stream.close()
                raise UserError(
                    "another process is writing this file", file=self.out,
                    remedy="wait for it, or name another with --out",
                ) from None  # fmt: skip
            stream.close()

    def _look(self) -> None:
        """What is there, and whether it is ours to go on with."""
        begun = None if self.fresh else _read_about(self.begun) if self.partial.is_file() else None
        if begun is not None and begun["run"] != self.mark:
            raise UserError(
                f"an unfinished file of other settings is there ({self._differ(begun)})",
                file=self.partial, remedy="--fresh discards it, --out writes elsewhere",
            )  # fmt: skip
        self._keeps, self.replaces = begun is not None, self.fresh or bool(begun and begun.get("replaces"))
        if not self.out.exists() or self.replaces:
            return
        mark = _mark_of(self.out)
        if mark != self.mark:
            raise UserError(
                f"is there already, made of something else ({_changed_parts(mark, self.mark, self.parts)})",
                file=self.out, remedy="--fresh replaces it, --out writes elsewhere",
            )  # fmt: skip
        self.finished = True

    def _differ(self, about: Mapping[str, Any]) -> str:
        """Which parts another file was made of, in words; of nested parts the keys."""
        old = about.get("parts")
        return f"{', '.join(_differences(old if isinstance(old, dict) else {}, self.parts)) or 'unknown parts'} changed"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are there, in order: of the finished file, or those that are kept of an interrupted one."""
        if self.finished:
            for number, row in _read(self.out):
                if not isinstance(row, dict) or row.get("run") != self.mark:
                    raise changed(self.out, number)
                yield row
        elif self.done:
            with self.partial.open("rb") as stream:
                for _ in range(self.done):
                    yield json.loads(stream.readline())

    def begin(self) -> None:
        """Take the lock, keep the whole batches of an interrupted file, and be ready to append.

        Where another process has finished the file since, `finished` is set, and there is nothing to append.
        Raises UserError when another process holds the lock, or has written a file of other parts.
        """
        if self._stream is None:
            self._lock()
            self._look()
            if self.finished:
                self.partial.unlink()
                return
        if self._stream is None:
            raise AssertionError("`_lock` sets the stream")
        stream = self._stream
        if not self._keeps:
            # What it is made of comes first: a kill in between leaves old rows, whose mark tells them from ours.
            write_json(self.begun, {"run": self.mark, "replaces": self.replaces, "parts": self.parts})
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
        self.begun.unlink(missing_ok=True)
        self.finished = True

    def _write_parquet(self, schema: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = schema.append(pa.field("run", pa.string())).with_metadata({"pns_run": self.mark})
        with replacing(self.out) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
            rows = self.rows()
            while some := list(islice(rows, _PARQUET_ROWS)):
                writer.write_table(pa.Table.from_pylist(some, schema))


def _mark(parts: Mapping[str, Any]) -> str:
    return f"{fingerprint(**parts)}.{''.join(fingerprint(part=parts[key])[:4] for key in sorted(parts))}"


def _changed_parts(old: Any, new: str, parts: Mapping[str, Any]) -> str:
    """Which parts two marks differ in, in words."""
    was = old.rpartition(".")[2] if isinstance(old, str) else ""
    now = new.rpartition(".")[2]
    if len(was) != len(now):
        return "it does not say what"
    found = [key for i, key in enumerate(sorted(parts)) if was[4 * i : 4 * i + 4] != now[4 * i : 4 * i + 4]]
    return f"{', '.join(found) or 'a part'} changed"


def _read_about(path: Path) -> dict[str, Any] | None:
    """What a file is made of; None where there is no telling."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "run" in found else None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], under: str = "") -> list[str]:
    """Dotted keys of the parts that differ."""
    out: list[str] = []
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            out += _differences(was, now, f"{under}{key}.")
        else:
            out.append(under + key)
    return out


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


def changed(out: Path, row: int | None = None) -> UserError:
    """The error for a finished file that is not what was written."""
    return UserError("this finished file was changed", file=out, line=row, remedy="--fresh makes it again")


def _read(out: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a finished file with their numbers from 1."""
    if out.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        done = 0
        try:
            with pq.ParquetFile(out) as file:
                for batch in file.iter_batches(_PARQUET_ROWS):
                    yield from enumerate(batch.to_pylist(), done + 1)
                    done += batch.num_rows
        except (pa.ArrowException, OSError):
            raise changed(out, done + 1) from None
        return
    with out.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                raise changed(out, number) from None
