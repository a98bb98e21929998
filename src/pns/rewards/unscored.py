"""When too many responses could not be scored: the work stops, so that the same command scores them again. (Source: ours.)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pns.errors import StageStopped
from pns.records import Scores

RETRIED = ("judge_server", "judge_malformed", "judge_budget", "reward_model", "verifier")
"""Causes of an unscored response that are not its own, nor its problem's: a mended judge or model would score it."""

LEAST = 200
"""Rows that a share is taken over at the least, where there will be as many: one failure among the first few says little."""


class Unscored:
    """Counts what could not be scored, and stops the work where that is too much of it.

    Args:
        most: share (0..1) that may stay unscored, `reward.max_unscored`.
        total: responses that there will be in all.
        causes: what counts.
    """

    def __init__(self, most: float, total: int, causes: Sequence[str] = RETRIED) -> None:
        self._most, self._total, self._causes = most, total, causes
        self._seen, self._failed = 0, Counter[tuple[str, str]]()

    def among(self, scores: Sequence[Scores | None]) -> list[int]:
        """Which of them could not be scored."""
        return [i for i, one in enumerate(scores) if one is not None and one.unscored_by in self._causes]

    def add(self, scores: Iterable[Scores | None]) -> None:
        """Count what is durable, or is about to be. Raises StageStopped where the share is too large by now.

        It is taken over all that was seen, or over LEAST (or `total`) where that is more: so it holds for all in the end.
        """
        given = list(scores)
        self._seen += len(given)
        for i in self.among(given):
            one = given[i]
            self._failed[str(one and one.unscored_by), str(one and one.unscored_cause)] += 1
        failed = self._failed.total()
        if failed > self._most * max(self._seen, min(self._total, LEAST)):
            (by, cause), _ = self._failed.most_common(1)[0]
            raise StageStopped(
                f"{failed} of {self._seen} responses are unscored, and reward.max_unscored is {self._most:g}: {cause}"
                f"\n  -> {remedy(by)}; the same command then scores them"
            )


def remedy(by: str) -> str:
    """What mends this cause of unscored responses."""
    if by == "judge_budget":
        return "raise reward.judge_server.max_calls or max_total_tokens, or reward.max_unscored"
    return "mend the cause, or raise reward.max_unscored"
