"""Problems: the training splits and the benchmarks, disjoint and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pns.errors import UserError
from pns.problems import embedded
from pns.problems.families import BENCHMARKS, LIMIT
from pns.problems.files import load_problems, to_boxed
from pns.problems.splits import assign, check_disjoint, drop_overlap
from pns.recipe import SPLITS
from pns.records import Problem, write_parquet
from pns.run import write_json
from pns.stages.context import Context

Groups = dict[str, list[Problem]]


def make_problems(context: Context) -> None:
    """Write `<split>.parquet` and `benchmark-<name>.parquet` for each, and summary.json with their sizes."""
    part = context.recipe.problems
    build = _embedded if part.source == "embedded" else _from_files
    splits, benchmarks, notes = build(context)
    check_disjoint({**splits, "the benchmarks": [p for rows in benchmarks.values() for p in rows]})
    groups = {**splits, **{f"benchmark-{name}": rows for name, rows in benchmarks.items()}}
    for number, (name, rows) in enumerate(groups.items(), 1):
        write_parquet(context.out / f"{name}.parquet", rows)
        context.progress(number, len(groups))
    misread = sum("misreading" in p.meta for p in splits["sft"]) / len(splits["sft"])
    write_json(
        context.out / "summary.json",
        {
            "sizes": {name: len(rows) for name, rows in groups.items()},
            "benchmarks": list(benchmarks),
            "misread_share": misread,
            "largest_number": LIMIT if part.source == "embedded" else None,
            "notes": notes,
        },
    )


def _embedded(context: Context) -> tuple[Groups, Groups, list[str]]:
    part, seed = context.recipe.problems, context.recipe.seed
    splits = {
        name: embedded.training_problems(
            name, getattr(part.splits, name), seed, part.misread_share if name == "sft" else 0.0
        )
        for name in SPLITS
    }
    benchmarks = {name: embedded.benchmark_problems(name, part.benchmark_size, seed) for name in BENCHMARKS}
    unknown = embedded.words([p.problem for rows in benchmarks.values() for p in rows]) - embedded.words(
        [p.problem for p in splits["sft"]]
    )
    notes = []
    if unknown:
        notes.append(
            f"{len(unknown)} tokens of the benchmarks do not occur in the SFT problems: {sorted(unknown)[:10]}"
        )
    return splits, benchmarks, notes


def _from_files(context: Context) -> tuple[Groups, Groups, list[str]]:
    part = context.recipe.problems
    assert part.train_file is not None  # the recipe has checked it
    notes: list[str] = []
    pool = load_problems(part.train_file)
    with context.verifier() as verifier:
        benchmarks = {
            name: _usable(load_problems(path, limit=part.benchmark_size), verifier.decidable, name, notes)
            for name, path in part.benchmarks.items()
        }
        pool, overlap = drop_overlap(pool, benchmarks)
        pool = _usable(pool, verifier.decidable, "train_file", notes)
        if overlap:
            notes.append(f"{len(overlap)} training problems also stand in a benchmark and were left out: {overlap[:5]}")
        splits = assign(pool, part.splits.model_dump(), context.recipe.seed)
    splits["sft"] = _with_solutions(splits["sft"], notes)
    return splits, benchmarks, notes


def _usable(rows: Sequence[Problem], decidable: Callable[[str], bool], name: str, notes: list[str]) -> list[Problem]:
    """Problems whose gold answer can be decided; the others are left out beforehand and counted (method.md)."""
    kept = [p for p in rows if decidable(p.answer)]
    if len(kept) < len(rows):
        notes.append(f"{name}: {len(rows) - len(kept)} problems left out, their gold answer cannot be decided")
    if not kept:
        raise UserError(f"no usable problem in {name}", field="problems", remedy="check the answers in its file")
    return kept


def _with_solutions(rows: Sequence[Problem], notes: list[str]) -> list[Problem]:
    kept = [p.model_copy(update={"solution": to_boxed(p)}) for p in rows]
    kept = [p for p in kept if p.solution]
    if len(kept) < len(rows):
        notes.append(f"sft: {len(rows) - len(kept)} problems left out, they have no reference solution")
    if not kept:
        raise UserError(
            "no training problem has a solution", field="problems.train_file", remedy="SFT needs `solution`"
        )
    return kept
