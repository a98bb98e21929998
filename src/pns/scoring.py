"""Verify or score every row of a file: batch by batch into a journal, so that the same command goes on after a stop.

The whole file is read once before anything is written, so what is wrong with it is told at once, and the same bytes
come out whether or not the work was interrupted. (Source: ours.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pns.errors import UserError
from pns.items import Item
from pns.journal import Journal, changed
from pns.parts.base import unnamed_server
from pns.recipe import RewardPart
from pns.records import Rubric, Scores, Verdict
from pns.rewards.callables import source_of
from pns.rewards.composite import Composite
from pns.rewards.reward_model import FILE as CALIBRATION_FILE
from pns.rewards.unscored import RETRIED, Unscored
from pns.run import file_hash
from pns.verify import Verifier

VERSION = 2
"""Raised when the meaning of an output row changes; an unfinished file of another version is not gone on with."""

Work = Callable[[Sequence[Item]], list[dict[str, Any]]]
Row = dict[str, Any]


def run_items(
    found: Iterator[Item],
    work: Work,
    journal: Journal,
    *,
    total: int,
    schema: Callable[[], Any],
    see: Callable[[Row], None],
    progress: Callable[[int, int], None],
) -> None:
    """Do `work` on all items that the journal does not have, and publish its file.

    Args:
        found: all items, `total` of them; those that are done already are passed over.
        work: a row for each item of a batch, in order. What it raises stops the run; whole batches stay.
        schema: makes the Arrow schema of a row; called for Parquet alone.
        see: called with every row, those of an earlier run included.
        progress: called with (rows done, total).
    """
    if not journal.finished:
        journal.begin()
    seen = 0
    try:
        for row in journal.rows():
            seen += 1
            see(row)
    except (KeyError, TypeError, ValueError, AttributeError):  # rows of ours have all keys, with values of their kinds
        raise changed(journal.out if journal.finished else journal.partial, seen) from None
    if journal.finished and seen != total:
        raise changed(journal.out)
    if journal.finished:
        return
    progress(journal.done, total)
    rest = islice(found, journal.done, None)
    while batch := list(islice(rest, journal.batch)):
        rows = [
            _head(journal.done + i, item) | row for i, (item, row) in enumerate(zip(batch, work(batch), strict=True), 1)
        ]
        journal.append(rows)
        for row in rows:
            see(row)
        progress(journal.done, total)
    if journal.done != total:
        raise UserError("the input changed while it was read", remedy="run the same command again")
    journal.publish(schema() if journal.out.suffix == ".parquet" else None)


def _head(row: int, item: Item) -> Row:
    return {
        "row": row, "line": item.line, "id": item.id, "problem_id": item.problem.id, "label": item.label,
        "gold": item.problem.answer,
    }  # fmt: skip


def verifying(verifier: Verifier, extracted: bool) -> Work:
    """The work of `pns verify`: a verdict on each item's answer (`extracted`), or on its whole text."""

    def work(batch: Sequence[Item]) -> list[Row]:
        problems = [item.problem for item in batch]
        if extracted:
            verdicts = verifier.check_problems(problems, [item.answer for item in batch])
        else:
            verdicts = verifier.verify_problems(problems, [item.text for item in batch])
        return [verdict.model_dump(mode="json") for verdict in verdicts]

    return work


def scoring(composite: Composite, *, all_terms: bool = False, column: ColumnScorer | None = None) -> Work:
    """The work of `pns score`: the composite of each item.

    A batch in which more than `reward.max_unscored` of the responses are unscored for a cause that can be mended
    (RETRIED) is not written: StageStopped, so that the same command tries it again.

    Args:
        all_terms: compute M and C also where a gate has closed. The score does not change.
        column: the reward model, where its scores are a column of the file.
    """

    def work(batch: Sequence[Item]) -> list[Row]:
        scores: list[Scores | None] = [None] * len(batch)
        for places in [range(len(batch))] if column is None else _rounds(batch):
            some = [batch[i] for i in places]
            if column is not None:
                column.hold(some)
            given = composite([i.problem for i in some], [i.text for i in some], [i.finish for i in some])
            if all_terms:
                given = with_all_terms(composite, some, given)
            for i, score in zip(places, given, strict=True):
                scores[i] = score
        done = [score for score in scores if score is not None]
        # A score that the file does not have will not be there on the next try either.
        causes = RETRIED if column is None else tuple(cause for cause in RETRIED if cause != "reward_model")
        Unscored(composite.part.max_unscored, len(done), causes).add(done)
        return [score.model_dump(mode="json") for score in done]

    return work


def _rounds(batch: Sequence[Item]) -> list[list[int]]:
    """Places of the batch, in rounds: the n-th of identical responses to one problem stands in round n."""
    rounds: list[list[int]] = []
    times: Counter[tuple[str, str]] = Counter()
    for i, item in enumerate(batch):
        key = (item.problem.problem, item.text)
        if times[key] == len(rounds):
            rounds.append([])
        rounds[times[key]].append(i)
        times[key] += 1
    return rounds


def with_all_terms(composite: Composite, batch: Sequence[Item], scores: Sequence[Scores]) -> list[Scores]:
    """M and C of the responses that a gate has kept from them; what fails, or is over-long, stays None."""
    longest = composite.part.max_chars
    left = [i for i, s in enumerate(scores) if s.gate not in ("scored", "unscored") and len(batch[i].text) <= longest]
    problems, texts = [batch[i].problem.problem for i in left], [batch[i].text for i in left]
    raws, judgements = composite.terms(problems, texts)
    out = list(scores)
    for i, raw, judgement in zip(left, raws, judgements, strict=True):
        value = raw if isinstance(raw, float | int) else None
        squash = composite.calibration.squash if composite.calibration is not None else None
        out[i] = out[i].model_copy(
            update={
                "reward_raw": value,
                "reward_model": squash(value) if squash is not None and value is not None else None,
                "rubric": judgement.rubric if judgement is not None else None,
                "judge_text": judgement.text if judgement is not None else None,
            }
        )
    return out


class ColumnScorer:
    """A reward model whose raw scores stand in a column of the file.

    It is asked by problem and text, so identical responses to one problem must not be held at the same time: each has
    the score of its own row (see `_rounds`).
    """

    def __init__(self) -> None:
        self._raw: dict[tuple[str, str], float | None] = {}

    def hold(self, batch: Sequence[Item]) -> None:
        """The scores of these responses, which must differ; a call comes before each call of `score`."""
        self._raw = {(item.problem.problem, item.text): item.raw for item in batch}

    def score(self, problems: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        """See `Scorer`."""
        return [self._raw[key] for key in zip(problems, texts, strict=True)]


def reward_marks(part: RewardPart) -> dict[str, Any]:
    """What of the reward part decides the scores, for fingerprints: no server address (but see `unnamed_server`), no key,
    no budget, no cache.
    """
    marks = part.model_dump(mode="json", exclude={"verify_workers", "max_unscored"})
    if part.judge_server is not None:
        marks["judge_server"] = _without(marks["judge_server"], "server", "cache", "max_calls", "max_total_tokens")
        if Path(part.judge_server.prompt).is_file():
            marks["judge_server"]["prompt"] = file_hash(Path(part.judge_server.prompt))
    file = source_of(part.judge) if ":" in part.judge else None
    if file is not None:
        marks["judge"] = f"{part.judge} {file_hash(file)}"
    source = part.reward_model
    if source is not None:
        file = source_of(source.kind) if ":" in source.kind else None
        if file is not None:
            marks["reward_model"]["kind"] = f"{source.kind} {file_hash(file)}"
        marks["reward_model"] = _without(marks["reward_model"], "server", "batch_size", "device")
        if source.calibration is not None:
            marks["reward_model"]["calibration"] = file_hash(source.calibration / CALIBRATION_FILE)
    return marks


def _without(part: Mapping[str, Any], *reach: str) -> dict[str, Any]:
    """A dumped part without the keys that change no score of a named model."""
    return {key: value for key, value in part.items() if key not in reach} | unnamed_server(part)


def verdict_schema() -> Any:
    """Arrow schema of an output row of `pns verify`."""
    import pyarrow as pa

    return pa.schema([*_head_fields(), *verdict_fields()])


def score_schema() -> Any:
    """Arrow schema of an output row of `pns score`."""
    import pyarrow as pa

    words, real = pa.string(), pa.float64()
    kinds: Mapping[str, Any] = {
        "gate": words, "score": real, "well_formed": pa.bool_(), "format_failures": pa.list_(words),
        "inversion": real, "reward_raw": real, "reward_model": real,
        "rubric": pa.struct([(name, pa.int8()) for name in Rubric.model_fields]),
        "judge_text": words, "unscored_by": words, "unscored_cause": words, "verdict": pa.struct(verdict_fields()),
    }  # fmt: skip
    return pa.schema([*_head_fields(), *((name, kinds[name]) for name in Scores.model_fields)])


def _head_fields() -> list[Any]:
    import pyarrow as pa

    words = pa.string()
    kinds = {
        "row": pa.int64(),
        "line": pa.int64(),
        "id": words,
        "problem_id": words,
        "label": pa.bool_(),
        "gold": words,
    }
    return [pa.field(name, kind) for name, kind in kinds.items()]


def verdict_fields() -> list[Any]:
    """Arrow fields of a verdict."""
    import pyarrow as pa

    return [pa.field(name, pa.string()) for name in Verdict.model_fields]
