"""What finished cells say: accuracies by problem, read without the texts; all samples in one Parquet file, all negatives in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pns.records import Response, read_table
from pns.run import read_json, replacing
from pns.streams import read_responses

KINDS = ("greedy", "sampled")


def outcomes(path: Path) -> NDArray[np.float64]:
    """(N,) one number a problem: 1 where its response is correct, else 0; the mean over its samples where there are more.

    An undecided verdict counts as not correct, as in every reported accuracy (method.md).
    """
    table = read_table(path, columns=["index", "verdict"])
    right = np.array([bool(v) and v["outcome"] == "correct" for v in table["verdict"].to_pylist()], dtype=np.float64)
    k = int(max(table["index"].to_pylist(), default=0)) + 1
    return np.asarray(right.reshape(-1, k).mean(axis=1))


def benchmarks(folder: Path) -> list[str]:
    """Names of the benchmarks of a run's problems, in its order."""
    return list(read_json(folder / "summary.json")["benchmarks"])


def scores_of(folder: Path, names: Sequence[str]) -> dict[str, list[NDArray[np.float64]]]:
    """kind -> for each benchmark its (N_b,) values."""
    return {kind: [outcomes(folder / f"{kind}-{name}.parquet") for name in names] for kind in KINDS}


def undecided(folder: Path, names: Sequence[str]) -> float:
    """Share of greedy answers that could not be decided, over all benchmarks."""
    found: list[Any] = []
    for name in names:
        found += read_table(folder / f"greedy-{name}.parquet", columns=["verdict"])["verdict"].to_pylist()
    return sum(bool(v) and v["outcome"] == "undecided" for v in found) / max(1, len(found))


def warned(trained: Mapping[int, Path]) -> list[dict[str, Any]]:
    """seed and text of every warning of preference training (`pns.stages.align`). NLL on the chosen side has none to give.

    Args:
        trained: seed -> folder of the training.
    """
    return [
        {"seed": seed, "text": text}
        for seed, folder in trained.items()
        if (folder / "stats.json").is_file()
        for text in read_json(folder / "stats.json")["warnings"]
    ]


SAMPLES = pa.schema(
    [
        ("cell", pa.dictionary(pa.int16(), pa.string())), ("seed", pa.int64()),
        ("benchmark", pa.dictionary(pa.int16(), pa.string())), ("kind", pa.dictionary(pa.int16(), pa.string())),
        ("problem_id", pa.string()), ("index", pa.int32()), ("text", pa.string()), ("n_tokens", pa.int32()),
        ("outcome", pa.dictionary(pa.int16(), pa.string())), ("answer", pa.string()),
    ]
)  # fmt: skip


def write_samples(cells: Iterable[tuple[str, int, Path, Sequence[str]]], out: Path) -> int:
    """Every response of every cell in one file, a row group a cell and seed: memory does not grow with their number.

    Args:
        cells: (cell, seed, folder of its test task, benchmarks).
    Returns:
        rows written.
    """
    rows = 0
    with replacing(out) as part, pq.ParquetWriter(part, SAMPLES, compression="zstd") as writer:
        for cell, seed, folder, names in cells:
            tables = [_samples(cell, seed, folder, name, kind) for name in names for kind in KINDS]
            table = pa.concat_tables(tables).combine_chunks()
            writer.write_table(table)
            rows += table.num_rows
    return rows


NEGATIVES = pa.schema(
    [
        ("method", pa.dictionary(pa.int16(), pa.string())), ("seed", pa.int64()), ("problem_id", pa.string()),
        ("index", pa.int32()), ("text", pa.string()), ("n_tokens", pa.int32()), ("answer", pa.string()),
        ("policy_logp", pa.float64()), ("score", pa.float64()), ("reward_model", pa.float64()), ("judge", pa.float64()),
    ]
)  # fmt: skip
"""A selected negative: `policy_logp` in nats, `score` of the composite, M and C of its reward model and judge in 0..1."""


def write_negatives(selected: Iterable[tuple[str, int, Path]], out: Path) -> int:
    """Every selected negative of every method in one file, a row group a method and seed; what was not scored is null.

    Args:
        selected: (method, seed, folder with its negatives.parquet).
    Returns:
        rows written.
    """
    rows = 0
    with replacing(out) as part, pq.ParquetWriter(part, NEGATIVES, compression="zstd") as writer:
        for method, seed, folder in selected:
            found = [_negative(method, seed, r) for r in read_responses(folder / "negatives.parquet")]
            writer.write_table(pa.Table.from_pylist(found, schema=NEGATIVES))
            rows += len(found)
    return rows


def _negative(method: str, seed: int, r: Response) -> dict[str, Any]:
    scores = r.scores
    return {
        "method": method, "seed": seed, "problem_id": r.problem_id, "index": r.index, "text": r.text,
        "n_tokens": r.n_tokens, "answer": r.verdict and r.verdict.answer, "policy_logp": r.policy_logp,
        "score": scores and scores.score, "reward_model": scores and scores.reward_model,
        "judge": scores and scores.rubric and scores.rubric.value,
    }  # fmt: skip


def _samples(cell: str, seed: int, folder: Path, name: str, kind: str) -> pa.Table:
    found = read_table(
        folder / f"{kind}-{name}.parquet", columns=["problem_id", "index", "text", "n_tokens", "verdict"]
    )
    verdicts = found["verdict"].to_pylist()
    n = found.num_rows
    columns = {
        "cell": [cell] * n, "seed": [seed] * n, "benchmark": [name] * n, "kind": [kind] * n,
        "problem_id": found["problem_id"], "index": found["index"], "text": found["text"], "n_tokens": found["n_tokens"],
        "outcome": [v["outcome"] if v else None for v in verdicts], "answer": [v["answer"] if v else None for v in verdicts],
    }  # fmt: skip
    return pa.table({field.name: _column(columns[field.name], field.type) for field in SAMPLES}, schema=SAMPLES)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.cast(kind).combine_chunks()
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)
