"""Rows of a user's file, JSONL, CSV or Parquet, one at a time: bounded in memory, each fault told with its place.

Files are untrusted. A line, a cell and a Parquet row group have a size limit, JSON and CSV are read strictly, and only
the columns that were asked for are looked at. (Limits and rules: ours.)
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pns.errors import UserError

MAX_LINE = 16 << 20
"""Bytes of one line (JSONL), one record (CSV) or one cell (Parquet)."""
MAX_ROW_GROUP = 4 << 30
"""Uncompressed bytes of one column in one row group of a Parquet file."""
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")

_PARQUET_BATCH = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `line` is its 1-based line in the file (where a CSV record begins); in a Parquet file its row."""

    file: Path
    line: int
    values: dict[str, Any]

    def error(self, message: str, field: str, remedy: str) -> UserError:
        """A fault of this row."""
        return UserError(message, file=self.file, line=self.line, field=field, remedy=remedy)


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a file in order, blank lines skipped, each with all of `columns` (a cell may be None).

    Args:
        path: `.jsonl`, `.ndjson` (UTF-8, one object a line), `.csv`, `.tsv` (UTF-8, with a header), `.parquet`, `.pq`.
        columns: what each row must have. In CSV an empty cell is None.

    Raises:
        UserError: missing or unreadable file, unknown suffix, no rows, a column that is not there (with the nearest
            one), broken JSON or CSV, a ragged CSV row, text that is not UTF-8, a line or cell beyond the limits.
    """
    path = Path(path)
    reader = _READERS[_kind(path)]
    empty = True
    with _told(path):
        for row in reader(path, columns):
            empty = False
            yield row
    if empty:
        raise UserError("no rows in this file", file=path, remedy="give one with at least one row")


def column_names(path: str | Path) -> list[str]:
    """The columns of a file: of the header or schema; in JSONL, of the first row. Raises as `read_rows`."""
    path = Path(path)
    kind = _kind(path)
    with _told(path):
        if kind == "parquet":
            with _parquet(path) as file:
                return list(file.schema_arrow.names)
        if kind == "csv":
            for _, record in _csv_records(path):
                return record
        for row in read_rows(path, ()) if kind == "jsonl" else ():
            return list(row.values)
    raise UserError("no rows in this file", file=path, remedy="give one with at least one row")


def jsonl_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a JSONL file, whatever its suffix and keys; there may be none. Raises UserError as `read_rows`."""
    path = Path(path)
    with _told(path):
        yield from _jsonl(path, ())


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says about a file that cannot be read, in our words."""
    try:
        yield
    except FileNotFoundError:
        raise UserError("no such file", file=path, remedy=_nearby(path)) from None
    except IsADirectoryError:
        raise UserError("this is a directory", file=path, remedy="name a file inside it") from None
    except PermissionError:
        raise UserError("this file cannot be read", file=path, remedy="check its permissions") from None


def text(row: Row, column: str, join: str = "\n") -> str | None:
    """A cell as text. A number becomes its shortest text (72.0 -> "72"), a list of texts is joined; null is None.

    Half a surrogate pair, which no UTF-8 file can hold, becomes U+FFFD. Raises UserError for anything else.
    """
    value = row.values[column]
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = join.join(value)
    if value is None or isinstance(value, str):
        return value if value is None else _whole(value)
    if isinstance(value, int) and not isinstance(value, bool):  # it may be too large for a float
        return str(value)
    if not isinstance(value, float) or not math.isfinite(value):
        raise row.error(f"{_called(value)}, and text is needed", column, "write it as text")
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)


def message(row: Row, column: str, role: str) -> str | None:
    """A cell that is text, or a conversation: the content of its last message of `role`; null, or none there, is None.

    Conversations are lists of {role, content}, as trainers take them. Raises UserError for anything else.
    """
    value = row.values[column]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return text(row, column)
    for turn in reversed(value):
        content = turn.get("content")
        if not isinstance(content, str) or not isinstance(turn.get("role"), str):
            raise row.error("a message has no role and content", column, 'write [{"role": ..., "content": ...}, ...]')
        if turn["role"] == role:
            return _whole(content)
    return None


def _whole(text: str) -> str:
    """Half a surrogate pair becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def filled(row: Row, column: str, join: str = "\n") -> str:
    """A cell as text that is not blank. Raises UserError where it is null or blank, too."""
    found = text(row, column, join)
    if found is None or not found.strip():
        raise row.error("missing", column, "fill it, or remove the row")
    return found


def number(row: Row, column: str) -> float | None:
    """A cell as a number; null is None, and NaN stays NaN. Raises UserError for anything else."""
    value = row.values[column]
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise row.error(f"{_called(value)}, and a number is needed", column, "write a number, or null") from None


_FLAGS = {"true": True, "yes": True, "1": True, "1.0": True, "correct": True,
          "false": False, "no": False, "0": False, "0.0": False, "wrong": False, "incorrect": False}  # fmt: skip


def flag(row: Row, column: str) -> bool | None:
    """A cell as true or false: a Boolean, 0 or 1, or a word for one of them; null is None. Raises UserError else."""
    value = row.values[column]
    if value is None:
        return None
    known = _FLAGS.get(str(value).strip().casefold()) if isinstance(value, bool | int | float | str) else None
    if known is None:
        raise row.error(f"{_called(value)}, and true or false is needed", column, "write true, false or null")
    return known


def one_of(row: Row, column: str, allowed: Sequence[str]) -> str | None:
    """A cell that is one of some words; null and blank are None. Raises UserError else."""
    value = row.values[column]
    if value is None or value == "":
        return None
    if value not in allowed:
        raise row.error(f"{_called(value)} is unknown", column, f"known: {', '.join(allowed)}")
    return str(value)


def missing_column(
    column: str, there: Sequence[str], path: Path, line: int | None = None, option: str | None = None
) -> UserError:
    """The error for a column that is not there, with the nearest that is."""
    near = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
    shown = ", ".join(name[:40] for name in there[:20]) + (", ..." if len(there) > 20 else "")
    remedy = (f"did you mean `{near[0]}`? " if near else "") + f"columns: {shown}"
    said = "no such column" if option is None else f"no such column ({option})"
    return UserError(said, file=path, line=line, field=column, remedy=remedy)


def _kind(path: Path) -> str:
    kind = KINDS.get(path.suffix.casefold())
    if kind is None:
        if path.is_dir():
            raise UserError("this is a directory", file=path, remedy="name a file inside it")
        if path.suffix.casefold() in _PACKED:
            raise UserError("a packed file", file=path, remedy="unpack it first")
        known = ", ".join(KINDS)
        raise UserError(f"{path.suffix or 'no suffix'!r} is no kind of table", file=path, remedy=f"known: {known}")
    return kind


def _called(value: Any) -> str:
    names = {bool: "a Boolean", list: "a list", dict: "an object", bytes: "bytes"}
    shown = repr(value) if isinstance(value, str | int | float) else ""
    return names.get(type(value)) or (shown if len(shown) <= 40 else f"{shown[:40]}...") or f"a {type(value).__name__}"


def _nearby(path: Path) -> str:
    try:
        there = sorted(p.name for p in path.parent.iterdir() if p.suffix.casefold() in KINDS)
    except OSError:
        return "check the path"
    near = difflib.get_close_matches(path.name, there, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else "check the path"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their ends, as text. Split at line feeds only: other line ends may stand inside a JSON string."""
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                raise UserError(
                    f"a line of more than {MAX_LINE >> 20} MiB", file=path, line=number,
                    remedy="is this the right file? One row a line",
                )  # fmt: skip
            try:
                # utf-8-sig: spreadsheets and editors put a byte-order mark in front.
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"not UTF-8 text (byte {error.start + 1} of the line: {error.reason})", file=path, line=number,
                    remedy="save it as UTF-8",
                ) from None  # fmt: skip
            yield number, line


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `object_pairs_hook`. Raises ValueError for a key that stands twice, of which the last would win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return found


def not_json(error: ValueError | RecursionError, *, one_line: bool = False) -> str:
    """What `json.loads` found, in words.

    Args:
        one_line: of a text that is one line of a file, and has no line of its own to count.
    """
    if isinstance(error, RecursionError):
        return "not valid JSON (nested too deep)"
    if str(error).startswith("Exceeds the limit"):  # of Python, on reading whole numbers; JSON itself has none
        return f"a whole number of more than {sys.get_int_max_str_digits():,} digits"
    if one_line and isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg}, character {error.pos + 1})"
    return f"not valid JSON ({error})"


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=distinct_keys)
        except (ValueError, RecursionError) as error:
            told = not_json(error, one_line=True)
            raise UserError(told, file=path, line=number, remedy="mend or remove this line") from None
        if not isinstance(values, dict):
            raise UserError("not a JSON object", file=path, line=number, remedy='write {"column": value, ...}')
        for column in columns:
            if column not in values:
                raise missing_column(column, list(values), path, number)
        yield Row(path, number, values)


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Records of a CSV file with the line on which each begins; the first is the header."""
    csv.field_size_limit(MAX_LINE)
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for last, line in _lines(path):  # noqa: B007 - the number of the line that the reader has reached
            yield line

    reader = csv.reader(lines(), delimiter="\t" if path.suffix.casefold() == ".tsv" else ",", strict=True)
    while True:
        begun = last + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"not valid CSV ({error})",
                file=path,
                line=begun,
                remedy="is a quotation mark open? Double those inside",
            ) from None
        if record:
            yield begun, record


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    records = _csv_records(path)
    line, header = next(records, (1, []))
    if len(header) == 1 and ";" in header[0] and columns:
        raise UserError(
            "its columns seem to be separated by semicolons", file=path, line=line, remedy="separate them by commas"
        )
    for column in columns:
        if column not in header:
            raise missing_column(column, header, path, line)
        if header.count(column) > 1:
            raise UserError("two columns of this name", file=path, line=line, field=column, remedy="rename one")
    for line, record in records:
        if len(record) != len(header):
            raise UserError(
                f"{len(record)} cells, and the header has {len(header)}", file=path, line=line,
                field=header[min(len(record), len(header) - 1)],
                remedy="mend this row; put text with commas into quotation marks",
            )  # fmt: skip
        yield Row(path, line, {name: cell or None for name, cell in zip(header, record, strict=True)})


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise IsADirectoryError
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise UserError(
            f"not a Parquet file ({str(error)[:200]})", file=path, remedy="write it again, or check its suffix"
        ) from None


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa

    with _parquet(path) as file:
        schema = file.schema_arrow
        for column in columns:
            if column not in schema.names:
                raise missing_column(column, schema.names, path)
            if schema.names.count(column) > 1:
                raise UserError("two columns of this name", file=path, field=column, remedy="rename one")
            if not _plain(schema.field(column).type):
                raise UserError(
                    f"the type {schema.field(column).type} is no text, number or Boolean", file=path, field=column,
                    remedy="write this column as text",
                )  # fmt: skip
        _bound_row_groups(file, path, columns)
        number = 0
        wanted = list(dict.fromkeys(columns)) or schema.names[:1]
        for group in range(file.num_row_groups):
            try:
                for batch in file.iter_batches(_PARQUET_BATCH, row_groups=[group], columns=wanted):
                    for values in batch.to_pylist():
                        number += 1
                        yield _bounded(Row(path, number, values))
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise UserError(
                    f"row group {group + 1}, after row {number}: {str(error)[:200]}", file=path,
                    remedy="write the file again",
                ) from None  # fmt: skip


def _plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_type
        if types.is_struct(inner):  # a conversation
            return {"role", "content"} <= {inner.field(i).name for i in range(inner.num_fields)}
        return bool(types.is_string(inner) or types.is_large_string(inner))
    tests = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating,
             types.is_null)  # fmt: skip
    return any(test(kind) for test in tests)


def _bound_row_groups(file: Any, path: Path, columns: Sequence[str]) -> None:
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        for index in range(about.num_columns):
            chunk = about.column(index)
            if chunk.path_in_schema.split(".")[0] in columns and chunk.total_uncompressed_size > MAX_ROW_GROUP:
                raise UserError(
                    f"row group {group + 1} holds more than {MAX_ROW_GROUP >> 30} GiB of it", file=path,
                    field=chunk.path_in_schema, remedy="write the file in smaller row groups",
                )  # fmt: skip


def _bounded(row: Row) -> Row:
    for name, value in row.values.items():
        if isinstance(value, str) and len(value) > MAX_LINE:
            raise row.error(f"a cell of more than {MAX_LINE >> 20} MiB", name, "is this the right file?")
    return row


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet_rows,
}
