"""Rows of users' files: the same rows from every format, and each fault told with file, line and column."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pns import rows
from pns.errors import UserError
from pns.rows import Row, column_names, filled, flag, number, one_of, read_rows, text

ROWS = [
    {"id": "a", "response": "line one\nline two, with a comma", "label": True},
    {"id": "b", "response": 'a "quoted" word and \\boxed{5}', "label": False},
    {"id": "c", "response": "ünïcode \u2028 and \u0085 inside", "label": True},
]


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    """A file of the kind that its suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(data), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(data[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(data)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data), encoding="utf-8")
    return path


def refused(path: Path, *columns: str) -> UserError:
    with pytest.raises(UserError) as caught:
        list(read_rows(path, columns))
    assert caught.value.file == path
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.csv", "x.tsv", "x.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert column_names(path) == ["id", "response", "label"]
    found = list(read_rows(path, ["id", "response", "label"]))
    assert [(text(r, "id"), text(r, "response"), flag(r, "label")) for r in found] == [tuple(r.values()) for r in ROWS]
    # A CSV record of several lines has the line on which it begins.
    assert [r.line for r in found] == ([2, 4, 5] if name[2:] in ("csv", "tsv") else [1, 2, 3])


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, name: str) -> None:
    error = refused(write(tmp_path / name, ROWS), "id", "respons")
    assert error.field == "respons"
    assert "did you mean `response`?" in (error.remedy or "")
    assert "columns: id, response, label" in (error.remedy or "")


def test_a_later_jsonl_row_without_the_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [*ROWS, {"id": "d", "label": True}])
    error = refused(path, "response")
    assert (error.line, error.field) == (4, "response")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": 1', "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"a": "x\x00y"}', "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8 text (byte 8 of the line"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "nested too deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "a whole number of more than 4,300 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
    ],
    ids=["open", "list", "nul", "latin-1", "deep", "digits", "key twice"],
)
def test_a_broken_jsonl_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    error = refused(path, "a")
    assert (error.line, words in error.message) == (3, True), error


def test_a_huge_line_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.csv"):
        path = tmp_path / name
        with path.open("wb") as stream:
            stream.write(b'{"a": 1}\n' if name == "x.jsonl" else b"a\n")
            stream.truncate(200 << 20)  # a hole in the file: nothing is written
        error = refused(path, "a")
        assert (error.line, "more than 16 MiB" in error.message) == (2, True)


def test_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    for name, data in (("x.jsonl", '{"a": "1"}\r\n\r\n{"a": "2"}\r\n'), ("x.csv", "a,b\r\n1,x\r\n\r\n2,y\r\n")):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + data.encode())
        assert [(r.values["a"], r.line) for r in read_rows(path, ["a"])][1][0] == "2"
        assert column_names(path)[0] == "a"


@pytest.mark.parametrize(
    ("body", "line", "field", "words"),
    [
        ('a,b\n1,2\n"x\ny",2,3\n', 3, "b", "3 cells, and the header has 2"),
        ("a,b\n1,2\n1\n", 3, "b", "1 cells, and the header has 2"),
        ('a,b\n1,2\n1,"open\n5,6\n', 3, None, "not valid CSV"),
        ('a,b\n1,"x"y\n', 2, None, "not valid CSV"),
        ("a,a\n1,2\n", 1, "a", "two columns of this name"),
        ("a;b\n1;2\n", 1, None, "separated by semicolons"),
    ],
    ids=["long", "short", "open quote", "text after a quote", "twice", "semicolons"],
)
def test_bad_csv_is_named(tmp_path: Path, body: str, line: int, field: str | None, words: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(body)
    error = refused(path, "a")
    assert (error.line, error.field, words in error.message) == (line, field, True), error


def test_an_empty_csv_cell_is_null(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n,2\n")
    assert [r.values for r in read_rows(path, ["a"])] == [{"a": None, "b": "2"}]


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({
        "large": pa.array(["x"], pa.large_string()),
        "dictionary": pa.array(["y"]).dictionary_encode(),
        "whole": pa.array([72], pa.int32()),
        "steps": pa.array([["one", "two"]]),
        "nested": pa.array([{"deep": 1}]),
        "raw": pa.array([b"x"], pa.binary()),
    })  # fmt: skip
    pq.write_table(table, path)
    (row,) = read_rows(path, ["large", "dictionary", "whole", "steps"])
    assert [text(row, name) for name in row.values] == ["x", "y", "72", "one\ntwo"]
    for column, words in (("nested", "struct<deep: int64>"), ("raw", "binary")):
        error = refused(path, column)
        assert (error.field, words in error.message) == (column, True)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 nothing of the kind")
    assert "not a Parquet file" in refused(path, "a").message
    data = [{"a": hashlib.sha256(bytes([i])).hexdigest()} for i in range(250)]
    pq.write_table(pa.Table.from_pylist(data), path, compression="zstd")
    whole = bytearray(path.read_bytes())
    whole[4:3000] = bytes(2996)
    assert len(whole) > 6000
    path.write_bytes(whole)
    assert "row group 1" in refused(path, "a").message


def test_a_huge_parquet_cell_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", [{"a": "x"}, {"a": "y" * 50}])
    monkeypatch.setattr(rows, "MAX_LINE", 40)
    error = refused(path, "a")
    assert (error.line, error.field) == (2, "a")
    monkeypatch.setattr(rows, "MAX_ROW_GROUP", 10)
    assert "row group 1" in refused(path, "a").message


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    write(tmp_path / "samples.jsonl", ROWS)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "header.csv").write_text("a,b\n")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "folder.csv").mkdir()
    assert "did you mean `samples.jsonl`?" in (refused(tmp_path / "sample.jsonl").remedy or "")
    for name, words in (
        ("empty.jsonl", "no rows"), ("header.csv", "no rows"), ("folder.parquet", "a directory"),
        ("folder.csv", "a directory"), ("x.pkl", "'.pkl' is no kind of table"),
    ):  # fmt: skip
        assert words in refused(tmp_path / name).message


def cell(value: Any) -> Row:
    return Row(Path("f.jsonl"), 7, {"c": value})


@pytest.mark.parametrize(
    ("read", "value", "want"),
    [
        (text, "x", "x"), (text, 72.0, "72"), (text, 0.5, "0.5"), (text, 10**30, str(10**30)), (text, None, None),
        (text, 10**400, "1" + "0" * 400), (text, -(10**4000), "-1" + "0" * 4000), (text, 1e300, "1e+300"),
        (text, ["a", "b"], "a\nb"), (text, "half \ud83d pair", "half \ufffd pair"),
        (flag, True, True), (flag, 0, False), (flag, " Yes ", True), (flag, "wrong", False), (flag, None, None),
        (number, "1.5", 1.5), (number, 2, 2.0), (number, None, None), (filled, "x", "x"),
    ],
)  # fmt: skip
def test_cells(read: Callable[[Row, str], Any], value: Any, want: Any) -> None:
    assert read(cell(value), "c") == want


def test_a_number_may_be_nan() -> None:
    assert math.isnan(number(cell(float("nan")), "c") or 0)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (text, {"a": 1}), (text, True), (text, [1]), (text, []), (text, float("inf")), (text, float("nan")), (flag, "maybe"), (flag, 2),
        (flag, []), (number, "x"), (number, True), (number, [1]), (number, 10**400), (filled, None), (filled, " "),
        (lambda r, c: one_of(r, c, ("a", "b")), "d"),
    ],
)  # fmt: skip
def test_a_cell_of_the_wrong_type_is_named(read: Callable[[Row, str], Any], value: Any) -> None:
    with pytest.raises(UserError) as caught:
        read(cell(value), "c")
    assert (caught.value.file, caught.value.line, caught.value.field) == (Path("f.jsonl"), 7, "c")
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_the_columns_of_a_missing_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match="no such file"):
        column_names(tmp_path / f"nowhere.{suffix}")


def test_a_parquet_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    pq.write_table(table, tmp_path / "x.parquet")
    error = refused(tmp_path / "x.parquet", "a")
    assert (error.field, error.message) == ("a", "two columns of this name")


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.parquet.zst"])
def test_a_packed_file_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    assert "unpack" in (refused(tmp_path / name, "a").remedy or "")
