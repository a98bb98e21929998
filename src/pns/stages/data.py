"""Problems: the training splits and the benchmarks, disjoint and checked."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pns.errors import UserError
from pns.problems import embedded
from pns.problems.contamination import Overlap, Rule, drop_overlap
from pns.problems.families import BENCHMARKS, LIMIT
from pns.problems.files import to_boxed
from pns.problems.registry import load
from pns.problems.splits import assign, check_disjoint
from pns.recipe import SPLITS
from pns.records import AnswerKind, Problem, write_parquet
from pns.run import write_json
from pns.stages.context import Context
from pns.verify import Verifier
from pns.verify.extract import extract

LOG = logging.getLogger(__name__)

LOOKED_AT = 1000
"""Solutions whose final answers are verified, at most: hard ones take seconds, and what is wrong with a file shows in many rows."""

Groups = dict[str, list[Problem]]


def make_problems(context: Context) -> None:
    """Write `<split>.parquet` and `benchmark-<name>.parquet` for each, and summary.json with their sizes."""
    part = context.recipe.problems
    build = _embedded if part.source == "embedded" else _from_files
    splits, benchmarks, notes, contradicting = build(context)
    check_disjoint({**splits, "the benchmarks": [p for rows in benchmarks.values() for p in rows]})
    groups = {**splits, **{f"benchmark-{name}": rows for name, rows in benchmarks.items()}}
    for number, (name, rows) in enumerate(groups.items(), 1):
        write_parquet(context.out / f"{name}.parquet", rows)
        context.progress(number, len(groups))
    misread = sum("misreading" in p.meta for p in splits["sft"]) / max(1, len(splits["sft"]))
    write_json(
        context.out / "summary.json",
        {
            "sizes": {name: len(rows) for name, rows in groups.items()},
            "benchmarks": list(benchmarks),
            "misread_share": misread,
            "largest_number": LIMIT if part.source == "embedded" else None,
            "notes": notes,
            # Only where there are any: the digest of good data, on which later stages rest, is what it was.
            **({"solutions": contradicting} if contradicting else {}),
        },
    )


def _embedded(context: Context) -> tuple[Groups, Groups, list[str], dict[str, int]]:
    part, seed = context.recipe.problems, context.recipe.seed
    splits = {
        name: embedded.training_problems(
            name, getattr(part.splits, name), seed, part.misread_share if name == "sft" else 0.0, part.more_events
        )
        for name in SPLITS
    }
    benchmarks = {
        name: embedded.benchmark_problems(name, part.benchmark_size, seed, part.more_events) for name in BENCHMARKS
    }
    unknown = embedded.words([p.problem for rows in benchmarks.values() for p in rows]) - embedded.words(
        [p.problem for p in splits["sft"]]
    )
    notes = []
    if unknown:
        notes.append(
            f"{len(unknown)} tokens of the benchmarks do not occur in the SFT problems: {sorted(unknown)[:10]}"
        )
    return splits, benchmarks, notes, {}


def _from_files(context: Context) -> tuple[Groups, Groups, list[str], dict[str, int]]:
    part = context.recipe.problems
    notes: list[str] = []
    pool = _pool(part.train_file or (), notes)
    with context.verifier() as verifier:
        benchmarks = {
            name: _usable(_read(path, part.benchmark_size, notes), verifier.decidable, name, notes)
            for name, path in part.benchmarks.items()
        }
        pool, overlap = drop_overlap(pool, benchmarks)
        notes += _overlap_notes(overlap)
        pool = _usable(pool, verifier.decidable, "train_file", notes)
        splits = assign(pool, part.splits.model_dump(), context.recipe.seed)
        contradicting = _contradicting(splits["sft"], verifier, notes)
        if contradicting:
            LOG.warning("%s", notes[-1])
            context.note(notes[-1])
    if splits["sft"]:
        splits["sft"] = _with_solutions(splits["sft"], notes)
    return splits, benchmarks, notes, contradicting


def _pool(files: Sequence[Path], notes: list[str]) -> list[Problem]:
    """All problems of the training files. Raises UserError where an id stands in two: rows are known by it."""
    pool: list[Problem] = []
    seen: dict[str, Path] = {}
    for file in files:
        rows = _read(file, None, notes)
        for p in rows:
            if seen.setdefault(p.id, file) is not file:
                raise UserError(
                    f"the id {p.id!r} stands in {seen[p.id]} too",
                    file=file,
                    field="problems.train_file",
                    remedy="give the problems of one of the files other ids",
                )
        pool += rows
    return pool


def _read(source: Path, limit: int | None, notes: list[str]) -> list[Problem]:
    loaded = load(source, limit=limit)
    notes += loaded.notes
    return loaded.problems


def _overlap_notes(found: Sequence[Overlap]) -> list[str]:
    """What was left out of the training pool, for each benchmark that it overlaps with."""
    notes = []
    for name in dict.fromkeys(pair.benchmark for pair in found):
        pairs = [pair for pair in found if pair.benchmark == name]
        ids = list(dict.fromkeys(pair.train.id for pair in pairs))
        same = len({pair.train.id for pair in pairs if pair.rule == "text"})
        notes.append(
            f"{len(ids)} training problems overlap with {name} and were left out ({same} have the same text, the others "
            f"half or more of a problem's words in runs of {Rule().n}): {ids[:5]}"
        )
    return notes


def _usable(
    rows: Sequence[Problem],
    decidable: Callable[[str, AnswerKind | None], bool],
    name: str,
    notes: list[str],
) -> list[Problem]:
    """Problems whose gold answer can be decided; the others are left out beforehand and counted (method.md)."""
    kept = [p for p in rows if decidable(p.answer, p.kind)]
    if len(kept) < len(rows):
        notes.append(f"{name}: {len(rows) - len(kept)} problems left out, their gold answer cannot be decided")
    if not kept:
        raise UserError(f"no usable problem in {name}", field="problems", remedy="check the answers in its file")
    return kept


def _contradicting(rows: Sequence[Problem], verifier: Verifier, notes: list[str]) -> dict[str, int]:
    """How the final answers of reference solutions compare with the gold ones, where any is decidedly another; else empty.

    SFT would learn from such a solution. One that marks no final answer is not looked at, nor are more than LOOKED_AT.
    """
    ends = [(p, _final_answer(p.solution or "")) for p in rows]
    looked = [(p, answer) for p, answer in ends if answer is not None][:LOOKED_AT]
    verdicts = verifier.check_problems([p for p, _ in looked], [answer for _, answer in looked])
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    if not outcomes["wrong"]:
        return {}
    wrong = [p.id for (p, _), verdict in zip(looked, verdicts, strict=True) if verdict.outcome == "wrong"]
    undecided = f", {outcomes['undecided']} are undecided" if outcomes["undecided"] else ""
    notes.append(
        f"sft: {len(wrong)} of the {len(looked)} solutions that were looked at end in another answer than the gold one, and SFT "
        f"learns from them{undecided}: {wrong[:5]}"
    )
    return {"looked_at": len(looked), **{name: outcomes[name] for name in ("correct", "wrong", "undecided")}}


def _final_answer(solution: str) -> str | None:
    """What a reference solution says last, in its box or behind `####`."""
    return extract(solution, "boxed" if "\\boxed" in solution else "gsm8k").answer


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
