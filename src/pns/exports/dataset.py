"""A data set in a folder of its own: data files, a card, what LLaMA-Factory wants to know; there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import pns
from pns.errors import UserError
from pns.exports.forms import CARD, INFO, JSONL, PARQUET, Rows
from pns.run import UNFINISHED, check_writable, replacing, write_atomic

OURS = {JSONL, PARQUET, CARD, INFO}
_NAME = re.compile(r"\w[\w.-]{0,99}")


def check_name(name: str) -> None:
    """Whether trainers can call a data set so: LLaMA-Factory splits its list at commas. Raises UserError."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:40]!r} is no name for a data set", field="--name", remedy="letters, digits, `_`, `-` and `.`"
        )


def check_folder(out: Path, force: bool) -> None:
    """Whether a data set can be published there. With `force` one of ours may be replaced, and nothing else.

    Raises UserError.
    """
    above = next((path for path in out.resolve().parents if path.exists()), out)
    if out.exists() and not out.is_dir():
        raise UserError("this is a file", file=out, field="--out", remedy="name a folder: the data set gets one")
    if not above.is_dir():
        raise UserError("this is a file, and no folder", file=above, field="--out", remedy="name another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError("this folder cannot be written", file=above, field="--out", remedy="name another folder")
    there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    other = [name for name in there if name not in OURS]
    if other:
        shown = ", ".join(other[:3])
        raise UserError(f"this folder holds other files ({shown})", file=out, field="--out", remedy="name a new folder")
    if there and not force:
        raise UserError("is there already", file=out, field="--out", remedy="--force replaces it")


def check_info(path: Path) -> None:
    """Whether LLaMA-Factory opens a file of this name, and whether it can be written. Raises UserError."""
    if path.name != INFO:
        raise UserError(
            f"LLaMA-Factory opens {INFO} alone",
            file=path,
            field="--dataset-info",
            remedy="name its data/dataset_info.json",
        )
    check_writable(path, "--dataset-info")


def publish(out: Path, files: Mapping[str, Rows | str]) -> None:
    """Write files (rows, or text) into a folder, which appears with all of them, or stays as it was. Those above it are made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=UNFINISHED))
    try:
        for name, content in files.items():
            if isinstance(content, str):
                write_atomic(work / name, content)
            elif name == PARQUET:
                with replacing(work / name) as part:
                    pq.write_table(pa.Table.from_pylist(content, schema=_schema(content)), part, compression="zstd")
            else:
                lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in content)
                write_atomic(work / name, "".join(lines))
        work.chmod(0o755)
        _swap(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, out: Path) -> None:
    """Move a folder to its place; what was there goes, or is put back where that fails."""
    if not out.exists():
        work.replace(out)
        return
    old = work.with_name(f"{work.name}-old")
    out.replace(old)
    try:
        work.replace(out)
    except BaseException:
        old.replace(out)
        raise
    shutil.rmtree(old)


def _schema(rows: Rows) -> Any:
    """The inferred types, with text where a column of optional fields is empty throughout."""
    import pyarrow as pa

    schema = pa.Table.from_pylist(rows).schema
    for i, column in enumerate(schema):
        if pa.types.is_struct(column.type):
            fields = [_typed(column.type.field(k)) for k in range(column.type.num_fields)]
            schema = schema.set(i, pa.field(column.name, pa.struct(fields)))
    return schema


def _typed(column: Any) -> Any:
    import pyarrow as pa

    if column.name == "tolerance":
        return pa.field(column.name, pa.float64())
    return pa.field(column.name, pa.string()) if pa.types.is_null(column.type) else column


def merged_info(path: Path, name: str, entry: Mapping[str, Any], data: Path, force: bool) -> str:
    """LLaMA-Factory's `dataset_info.json` at `path` with an entry more; all others, and their order, stay.

    Args:
        data: the data file; it is named as seen from the folder of `path`.
        force: replace an entry of that name that says something else.
    Raises UserError for a file that is no such list, and for an entry that is there.
    """
    known: Any = {}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"not valid JSON ({error})", file=path, field="--dataset-info", remedy="mend it, or name another"
            ) from None
        if not isinstance(known, dict) or not all(isinstance(value, dict) for value in known.values()):
            raise UserError(
                "not a list of data sets by name", file=path, field="--dataset-info",
                remedy="name LLaMA-Factory's data/dataset_info.json",
            )  # fmt: skip
    here = os.path.relpath(data.resolve(), path.resolve().parent)
    new = {"file_name": Path(here).as_posix(), **entry}
    if name in known and known[name] != new and not force:
        raise UserError(
            f"has another entry {name!r} already", file=path, field="--name",
            remedy="choose another name, or --force replaces it",
        )  # fmt: skip
    return json.dumps({**known, name: new}, indent=2, ensure_ascii=False) + "\n"


def card(
    title: str,
    facts: Mapping[str, str],
    counts: Mapping[str, int],
    use: str,
    files: Sequence[str],
    notes: Sequence[str],
) -> str:
    """The README.md of a data set, with the header by which the hub's loader finds its file.

    Args:
        facts: from which run or file, method, regime, gates.
        use: the lines that load it.
    """
    data = PARQUET if PARQUET in files else JSONL
    head = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": data}]}]}
    rows = [*facts.items(), *((name, f"{n:,}") for name, n in counts.items())]
    table = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)
    said = "".join(f"\n{_cell(note)}\n" for note in notes)
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n# {_cell(title)}\n\nWritten by pns {pns.__version__} "
        f"(`pns export`).\n\n| | |\n|---|---|\n{table}\n{said}\nHow it is loaded:\n\n```\n{use}\n```\n\n"
        "The licences of the problems, and the terms of the models that wrote the responses, apply to this data.\n"
    )


def _cell(text: str) -> str:
    """Text of anybody's as one line that opens no cell, tag or code."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`|<>*_\[\]])", r"\\\1", plain)


def publish_with_info(out: Path, files: Mapping[str, Rows | str], path: Path, content: str) -> None:
    """`publish`, and the merged `dataset_info.json` elsewhere, with the mode that it had. It is written first, and moved to
    its place last: where either cannot be written, both stay as they were.
    """
    mode = None
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode & 0o777
    with replacing(path) as part:
        part.write_text(content, encoding="utf-8")
        publish(out, files)
    if mode is not None:
        path.chmod(mode)
