"""Extraction, the exact check and the pool behind one door."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pns.records import AnswerKind, Problem, Verdict
from pns.verify.check import decide, refuse
from pns.verify.extract import FORMATS, extract
from pns.verify.pool import CheckPool, Item
from pns.verify.reading import read
from pns.verify.values import needs_algebra


def _item(problem: Problem) -> Item:
    return Item(problem.answer, "", problem.tolerance, problem.unit, problem.kind)


class Verifier:
    """Verdicts on whole responses. Workers start only when a check needs algebra. Also a context manager.

    Args:
        answer_format: one of `pns.verify.extract.FORMATS`.
        cpu_seconds, workers: see `CheckPool`.
    Raises ValueError for an unknown format.
    """

    def __init__(self, answer_format: str = "boxed", cpu_seconds: float = 5.0, workers: int = 1) -> None:
        if answer_format not in FORMATS:
            raise ValueError(f"unknown answer format {answer_format!r}; known: {', '.join(FORMATS)}")
        self.answer_format = answer_format
        self.pool = CheckPool(workers, cpu_seconds)

    def verify(self, golds: Sequence[str], texts: Sequence[str]) -> list[Verdict]:
        """One verdict a response, in order; no answer found is undecided, caused by the response, with the reason."""
        return self._whole(texts, [Item(gold, "") for gold in golds])

    def verify_problems(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """Like `verify`, with each problem's own answer kind, tolerance and unit."""
        return self._whole(texts, [_item(p) for p in problems])

    async def averify(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """`verify_problems` in a thread, for programs that run an event loop."""
        return await asyncio.to_thread(self.verify_problems, problems, texts)

    def check(
        self, golds: Sequence[str], answers: Sequence[str | None], *, tolerance: float | None = None
    ) -> list[Verdict]:
        """One verdict for each extracted answer, in order. Raises ValueError when the lengths differ."""
        return self._answers([Item(gold, "", tolerance) for gold in golds], answers)

    def check_problems(self, problems: Sequence[Problem], answers: Sequence[str | None]) -> list[Verdict]:
        """Like `check`, with each problem's own answer kind, tolerance and unit."""
        return self._answers([_item(p) for p in problems], answers)

    def _whole(self, texts: Sequence[str], items: Sequence[Item]) -> list[Verdict]:
        found = [extract(text, self.answer_format) for text in texts]
        verdicts = self._answers(items, [item.answer for item in found])
        return [
            v if f.answer is not None or v.cause == "gold" else v.model_copy(update={"reason": f.reason})
            for f, v in zip(found, verdicts, strict=True)
        ]

    def _answers(self, items: Sequence[Item], answers: Sequence[str | None]) -> list[Verdict]:
        verdicts = [
            decide(i.gold, a, tolerance=i.tolerance, unit=i.unit, kind=i.kind)
            for i, a in zip(items, answers, strict=True)
        ]
        hard = [n for n, verdict in enumerate(verdicts) if verdict is None]
        asked = [items[n]._replace(answer=answers[n] or "") for n in hard]
        slow = dict(zip(hard, self.pool.run(asked), strict=True)) if hard else {}
        return [slow[n] if verdict is None else verdict for n, verdict in enumerate(verdicts)]

    def decidable(self, gold: str, kind: AnswerKind | None = None) -> bool:
        """Whether the gold answer can be decided against: words, numbers and the like can; expressions in it must be
        parsed by algebra and equal themselves. The same text alone is not enough: against an unparsable gold no
        answer could ever be wrong.
        """
        if refuse(gold, gold) is not None or (value := read(gold, kind)) is None:
            return False
        return not needs_algebra(value) or self.pool.run([Item(gold, gold, kind=kind)])[0].outcome == "correct"

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
