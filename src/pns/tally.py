"""Counts over output rows of `pns verify` and `pns score`, in bounded memory: what the tables on the terminal say.

Only for labelled rows a few numbers each are kept, since the AUC needs them.
"""

from __future__ import annotations

import heapq
import math
import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pns.records import Rubric
from pns.rewards.steps import NOTHING
from pns.sketch import Names, Sample

if TYPE_CHECKING:
    from pns.evaluation.metrics import Auc

Row = dict[str, Any]
LISTED = 20
"""Rows of a list that are kept; all of them are counted."""
REASONS = 200
"""Different reasons that are told apart; more would be text that responses have chosen."""

_LABELS = {True: "label correct", False: "label wrong", None: "no label"}


@dataclass
class Listing:
    """The first rows of a kind, and how many there are."""

    count: int = 0
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """One more."""
        self.count += 1
        if len(self.rows) < LISTED:
            self.rows.append(row)


@dataclass
class VerdictTally:
    """Outcomes of `pns verify FILE`. `outcomes` maps a label (None: without one) to outcome -> rows.

    `disagree`: labelled correct and decidedly wrong, or labelled wrong and correct. `open`: labelled, and undecided.
    """

    outcomes: dict[bool | None, Counter[str]] = field(default_factory=dict)
    undecided: Counter[tuple[str, str]] = field(default_factory=Counter)
    disagree: Listing = field(default_factory=Listing)
    open: Listing = field(default_factory=Listing)

    def see(self, row: Row) -> None:
        """One output row."""
        label, outcome = row["label"], row["outcome"]
        self.outcomes.setdefault(label, Counter())[outcome] += 1
        if outcome == "undecided":
            _bounded(self.undecided, (str(row["cause"]), str(row["reason"])[:80]))
            if label is not None:
                self.open.add(row)
        elif label is not None and label != (outcome == "correct"):
            self.disagree.add(row)

    def total(self, outcome: str | None = None) -> int:
        """Rows with an outcome, or all."""
        return sum(counts.total() if outcome is None else counts[outcome] for counts in self.outcomes.values())


@dataclass
class Group:
    """The responses of one label: what the reward gave them.

    `paid`: scores above 0; `paid_of`: how many of them each problem has; `nothing_to_check`: the step checker found no
    statement, so its C = 0 says nothing.
    """

    rows: int = 0
    gates: Counter[str] = field(default_factory=Counter)
    unscored: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    paid: Sample = field(default_factory=Sample)
    paid_of: Names = field(default_factory=Names)
    nothing_to_check: int = 0
    total: float = 0.0
    scored: int = 0
    rubric: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in Rubric.model_fields})
    rubric_total: Counter[int] = field(default_factory=Counter)
    m: Sample = field(default_factory=Sample)
    raw: Sample = field(default_factory=Sample)

    def see(self, row: Row) -> None:
        """One output row."""
        self.rows += 1
        self.gates[row["gate"]] += 1
        self.failures.update(row["format_failures"] or ())
        if row["gate"] == "undecided":
            _bounded(self.undecided, str((row["verdict"] or {}).get("reason"))[:80])
        if row["score"] is None:
            self.unscored[row["unscored_by"]] += 1
        else:
            self.scored += 1
            self.total += row["score"]
            if row["score"] > 0:
                self.paid.append(row["score"])
                self.paid_of.add(row["problem_id"])
        self.nothing_to_check += row["judge_text"] == NOTHING
        if row["rubric"] is not None:
            for name, points in row["rubric"].items():
                self.rubric[name][points] += 1
            self.rubric_total[sum(row["rubric"].values())] += 1
        if row["reward_model"] is not None:
            self.m.append(row["reward_model"])
        if row["reward_raw"] is not None:
            self.raw.append(row["reward_raw"])

    @property
    def mean(self) -> float | None:
        """Mean score of the scored responses."""
        return self.total / self.scored if self.scored else None


@dataclass
class ScoreTally:
    """What `pns score` gave, by label, and the rows that a person should look at.

    `paid_correct`: labelled correct and paid; `charged_correct`: labelled correct and below 0; `best`: the highest
    paid of the others; `unscored`: without a score.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    everything: Group = field(default_factory=Group)
    asked: int = 0
    paid_correct: Listing = field(default_factory=Listing)
    charged_correct: Listing = field(default_factory=Listing)
    unscored: Listing = field(default_factory=Listing)
    _labels: list[bool] = field(default_factory=list)
    _problems: list[str] = field(default_factory=list)
    _terms: dict[str, array[float]] = field(default_factory=lambda: {"C": array("d"), "M": array("d")})
    _best: list[tuple[float, int, Row]] = field(default_factory=list)

    def see(self, row: Row) -> None:
        """One output row."""
        label, score = row["label"], row["score"]
        self.groups.setdefault(_LABELS[label], Group()).see(row)
        self.everything.see(row)
        # Inversion is 1 exactly where the gates have left a response for the dear terms.
        self.asked += row["inversion"] == 1
        if label is not None:
            self._labels.append(label)
            self._problems.append(sys.intern(row["problem_id"]))
            self._terms["C"].append(math.nan if row["rubric"] is None else sum(row["rubric"].values()))
            self._terms["M"].append(math.nan if row["reward_model"] is None else row["reward_model"])
        if score is None:
            self.unscored.add(row)
        elif label and score > 0:
            self.paid_correct.add(row)
        elif label and score < 0:
            self.charged_correct.add(row)
        elif score > 0:
            heapq.heappush(self._best, (score, -row["row"], row))
            if len(self._best) > LISTED:
                heapq.heappop(self._best)

    def aucs(self, samples: int = 2000) -> dict[str, Auc]:
        """For C and M: the chance that a response labelled correct has more of it than one labelled wrong.

        Over those that have the term; 95 % intervals over problems. A term that one side lacks is left out.
        """
        import numpy as np

        from pns.evaluation.metrics import grouped_auc

        out = {}
        for name, values in self._terms.items():
            there = np.flatnonzero(~np.isnan(values))
            found = grouped_auc(
                np.asarray(values)[there], np.asarray(self._labels, dtype=bool)[there],
                [self._problems[i] for i in there], samples=samples,
            )  # fmt: skip
            if found is not None:
                out[name] = found
        return out

    def ordered(self) -> dict[str, Group]:
        """All, and by label where there is any: correct, wrong, without one."""
        by_label = {name: self.groups[name] for name in _LABELS.values() if name in self.groups}
        return {"all": self.everything, **(by_label if self.labelled else {})}

    @property
    def best(self) -> list[Row]:
        """The highest paid that are not labelled correct, highest first, then in the order of the file."""
        return [row for _, _, row in sorted(self._best, key=lambda entry: entry[:2], reverse=True)]

    @property
    def labelled(self) -> bool:
        """Whether any row has a label."""
        return set(self.groups) - {_LABELS[None]} != set()


def mean_of(counts: Counter[int]) -> float | None:
    """Mean of counted whole numbers; None without any."""
    n = counts.total()
    return sum(value * times for value, times in counts.items()) / n if n else None


def _bounded(counts: Counter[Any], key: Any) -> None:
    counts[key if key in counts or len(counts) < REASONS else _other(key)] += 1


def _other(key: Any) -> Any:
    return ("", "other reasons") if isinstance(key, tuple) else "other reasons"
