"""Extraction, the exact check and the pool behind one door."""

from __future__ import annotations

from collections.abc import Sequence

from pns.records import Problem, Verdict
from pns.verify.check import decide, normalise, refuse
from pns.verify.extract import FORMATS, extract
from pns.verify.numbers import parse_plain
from pns.verify.pool import CheckPool, Item


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
        found = [extract(text, self.answer_format) for text in texts]
        verdicts = self.check(golds, [item.answer for item in found])
        return [
            v if f.answer is not None or v.cause == "gold" else v.model_copy(update={"reason": f.reason})
            for f, v in zip(found, verdicts, strict=True)
        ]

    def verify_problems(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """Like `verify`, with each problem's own answer kind, tolerance and unit."""
        return self.verify([p.answer for p in problems], texts)

    def check(
        self, golds: Sequence[str], answers: Sequence[str | None], *, tolerance: float | None = None
    ) -> list[Verdict]:
        """One verdict for each extracted answer, in order. Raises ValueError when the lengths differ."""
        verdicts = [decide(g, a, tolerance=tolerance) for g, a in zip(golds, answers, strict=True)]
        hard = [i for i, verdict in enumerate(verdicts) if verdict is None]
        items: list[Item] = [(golds[i], answers[i] or "", tolerance) for i in hard]
        slow = dict(zip(hard, self.pool.run(items), strict=True)) if items else {}
        return [slow[i] if verdict is None else verdict for i, verdict in enumerate(verdicts)]

    def decidable(self, gold: str) -> bool:
        """Whether the gold answer can be decided against: a plain number, or parsed by algebra and equal to itself.

        The same text alone is not enough: against an unparsable gold no answer could ever be wrong.
        """
        if refuse(gold, gold) is not None:
            return False
        return parse_plain(normalise(gold)) is not None or self.pool.run([(gold, gold, None)])[0].outcome == "correct"

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
