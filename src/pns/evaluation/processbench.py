"""Is a chain-of-thought evaluator any good? Human first-error labels of ProcessBench (arXiv 2412.06559) as the judge.

An evaluator says for each chain of steps how good it is as a whole (the rubric's total, 0..12) and, if it can, which
step is the first wrong one. The benchmark's F1 needs the latter: the harmonic mean of the accuracy on chains with an
error (the very step must be named) and on chains without one. An evaluator that locates nothing has no F1; it has an
area under the curve of its total, and a detection rate at a threshold. Both carry 95 % intervals over *problems*.

An evaluator that has nothing to say about a chain (a judge that failed; a checker that finds nothing to check) is
undecided there. Undecided is counted, and F1 stands twice: with undecided chains as failures, and on the decided alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pns.errors import UserError
from pns.evaluation.first_errors import first_error
from pns.evaluation.metrics import grouped_auc
from pns.records import Outcome, Record, parse_row
from pns.rewards.arithmetic import find_steps
from pns.rewards.judging import Judge, Judgement
from pns.rewards.steps import judge_steps
from pns.rows import Row, jsonl_rows
from pns.verify import extract

THRESHOLD = 9
"""Totals below this count as "an error was seen" in the detection figure: method.md's bound of plausible."""

Locate = Callable[[str, Sequence[str]], int | None]
"""(problem, steps) -> index of the first wrong step, -1 for none, None for "cannot say"."""

_OUTCOME: dict[bool, Outcome] = {True: "correct", False: "wrong"}
_LAST_NUMBER = re.compile(r"[-+]?\$?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?")


class Chain(Record):
    """One row of the benchmark. `label` is the 0-based index of the first wrong step, -1 where all are right."""

    id: str = Field(min_length=1)
    problem: str = Field(min_length=1)
    steps: tuple[str, ...] = Field(min_length=1)
    label: int = Field(ge=-1)
    final_answer_correct: bool | None = None
    generator: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What an evaluator says of one chain: the rubric's total 0..12 and the first wrong step; None: it cannot say.

    `cause` names why a total is missing; `failed`: the evaluator broke, it did not merely find nothing to say.
    """

    total: float | None = None
    first_error: int | None = None
    cause: str | None = None
    failed: bool = False


class Evaluator(Protocol):
    """Reads a batch of chains. `locates` says whether it can name the first wrong step."""

    locates: bool

    def read(self, chains: Sequence[Chain]) -> list[Reading]: ...


def load_chains(path: Path) -> list[Chain]:
    """Rows of a ProcessBench file. Raises UserError naming file, line and field."""
    chains = [_chain(row) for row in jsonl_rows(path)]
    if not chains:
        raise UserError("no rows in this file", file=path, remedy="name a file with one JSON object a line")
    return chains


def _chain(row: Row) -> Chain:
    chain = parse_row(Chain, row)
    if chain.label >= len(chain.steps):
        raise row.error(
            f"label {chain.label} of {chain.id!r}, which has {len(chain.steps)} steps", "label", "mend this row"
        )
    return chain


class StepChecker:
    """The judge that needs no model. The first wrong step is the first that holds a wrong arithmetic statement.

    A chain in which it finds no statement is undecided: there was nothing that it could check.
    """

    locates = True

    def read(self, chains: Sequence[Chain]) -> list[Reading]:
        return [self._one(chain) for chain in chains]

    def _one(self, chain: Chain) -> Reading:
        found = [find_steps(step) for step in chain.steps]
        if not any(found):
            return Reading(cause="no arithmetic statement found")
        wrong = next((i for i, statements in enumerate(found) if any(not s.right for s in statements)), -1)
        text = "\n\n".join(chain.steps)
        return Reading(judge_steps(chain.problem, text, answer_of(chain)).total, wrong)


class Labeller:
    """The rules by which `pns export steps` labels (see `first_errors`). It names a wrong step, or is undecided."""

    locates = True

    def __init__(self, *, any_false: bool = False) -> None:
        self.any_false = any_false

    def read(self, chains: Sequence[Chain]) -> list[Reading]:
        return [self._one(chain) for chain in chains]

    def _one(self, chain: Chain) -> Reading:
        outcome = None if chain.final_answer_correct is None else _OUTCOME[chain.final_answer_correct]
        label = first_error(chain.problem, chain.steps, outcome, any_false=self.any_false)
        return Reading(first_error=label.step, cause=label.why or None)


class Asks(Protocol):
    """Asks a server for first wrong steps; see `pns.rewards.judge.locating`."""

    def locate(self, problems: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Judgement]: ...


class StepJudge:
    """A judge that is asked for the first wrong step. Its total is 12 or 0, as a Locator's."""

    locates = True

    def __init__(self, judge: Asks) -> None:
        self.judge = judge

    def read(self, chains: Sequence[Chain]) -> list[Reading]:
        given = self.judge.locate([c.problem for c in chains], [c.steps for c in chains])
        return [self._one(judgement) for judgement in given]

    def _one(self, judgement: Judgement) -> Reading:
        if judgement.first_error is None:
            return Reading(cause=f"{judgement.failure}: {judgement.detail}", failed=True)
        return _located(judgement.first_error.step)


class RubricJudge:
    """Any Judge. It gives a total and locates nothing."""

    locates = False

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def read(self, chains: Sequence[Chain]) -> list[Reading]:
        given = self.judge.judge(
            [c.problem for c in chains], ["\n\n".join(c.steps) for c in chains], [answer_of(c) for c in chains]
        )
        return [
            Reading(total=j.rubric.total)
            if j.rubric is not None
            else Reading(cause=f"{j.failure}: {j.detail}", failed=True)
            for j in given
        ]


class Locator:
    """A user's function that names the first wrong step. Its total is 12 or 0: no error seen, or one."""

    locates = True

    def __init__(self, function: Locate) -> None:
        self.function = function

    def read(self, chains: Sequence[Chain]) -> list[Reading]:
        return [self._one(chain) for chain in chains]

    def _one(self, chain: Chain) -> Reading:
        try:
            step = self.function(chain.problem, list(chain.steps))
        except (Exception, SystemExit) as error:  # a user's function may raise anything; the chain is then undecided
            return Reading(cause=f"{type(error).__name__}: {error}", failed=True)
        if step is not None and (
            isinstance(step, bool) or not isinstance(step, int) or not -1 <= step < len(chain.steps)
        ):
            return Reading(cause=f"not the index of a step: {step!r}", failed=True)
        return _located(step)


def _located(step: int | None) -> Reading:
    if step is None:
        return Reading(cause="it cannot say")
    return Reading(total=12.0 if step == -1 else 0.0, first_error=step)


def answer_of(chain: Chain) -> str | None:
    """The chain's own final answer: its last box, else the last number of its last step, else None."""
    boxed = extract("\n\n".join(chain.steps)).answer
    if boxed is not None:
        return boxed
    numbers = _LAST_NUMBER.findall(chain.steps[-1])
    return numbers[-1] if numbers else None


def evaluate(
    chains: Sequence[Chain], readings: Sequence[Reading], *, locates: bool, samples: int, seed: int
) -> dict[str, Any]:
    """All figures of one subset; accuracies and shares in 0..1, intervals 95 % over problems.

    Args:
        samples: of the bootstrap, 1 or more.

    Returns:
        n, problems, erroneous, undecided with their causes, `f1` and `f1_decided` (each with accuracy on erroneous and
        on correct chains; None where the evaluator locates nothing), `named` (the chains in which it names a wrong step: how
        many, the share in which it is the labelled one, and how often it is a later or earlier one, or none is wrong),
        `auc` of the total, `detection` at the threshold.
        Figures without a row to stand on are None.
    """
    rows = list(zip(chains, readings, strict=True))
    weights_SP, of_row = _resampled([chain.problem for chain in chains], samples, seed)
    causes: dict[str, int] = {}
    for _, reading in rows:
        if reading.cause is not None:
            causes[reading.cause] = causes.get(reading.cause, 0) + 1
    bad = np.array([chain.label >= 0 for chain in chains])
    out: dict[str, Any] = {
        "n": len(rows), "problems": weights_SP.shape[1], "erroneous": int(bad.sum()),
        "undecided": sum(r.total is None and r.first_error is None for _, r in rows),
        "causes": dict(sorted(causes.items(), key=lambda item: -item[1])),
    }  # fmt: skip
    weights_SN = weights_SP[:, of_row]
    if locates:
        hit = np.array([reading.first_error == chain.label for chain, reading in rows])
        said = np.array([reading.first_error is not None for _, reading in rows])
        out["f1"] = _f1(hit, bad, np.ones(len(rows), dtype=bool), weights_SN)
        out["f1_decided"] = _f1(hit, bad, said, weights_SN)
        out["named"] = _named(chains, readings, hit, weights_SN)
    else:
        out["f1"] = out["f1_decided"] = out["named"] = None
    totals = np.array([np.nan if reading.total is None else reading.total for _, reading in rows])
    known = ~np.isnan(totals)
    problems = [chain.problem for chain, there in zip(chains, known, strict=True) if there]
    # That a chain without an error has the higher total, ties one half.
    auc = grouped_auc(totals[known], ~bad[known], problems, samples=samples, seed=seed)
    out["auc"] = auc and {
        "value": auc["auc"], "ci95": list(auc["ci95"]), "n_correct": auc["n_positive"], "n_erroneous": auc["n_negative"],
    }  # fmt: skip
    out["detection"] = _detection(totals, bad, known, weights_SN)
    return out


def _resampled(groups: Sequence[str], samples: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(S + 1, P) weights of problems, the first row all ones, and the problem of each row."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    p = len(names)
    drawn = np.random.default_rng(seed).multinomial(p, np.full(p, 1 / p), size=samples)
    return np.vstack([np.ones((1, p)), drawn]), np.array([names[g] for g in groups])


def _share(hit: NDArray[np.bool_], among: NDArray[np.bool_], weights_SN: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S + 1,) weighted share of `hit` among rows; nan where a resample has none."""
    total = weights_SN[:, among].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights_SN[:, among & hit].sum(axis=1) / total


def _figure(values_S: NDArray[np.float64]) -> dict[str, Any] | None:
    """The value on all rows, and the interval of the resamples that have one."""
    if not np.isfinite(values_S[0]):
        return None
    drawn = values_S[1:][np.isfinite(values_S[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return {"value": float(values_S[0]), "ci95": [float(low), float(high)]}


def _f1(
    hit: NDArray[np.bool_], bad: NDArray[np.bool_], among: NDArray[np.bool_], weights_SN: NDArray[np.float64]
) -> dict[str, Any]:
    error, right = _share(hit, bad & among, weights_SN), _share(hit, ~bad & among, weights_SN)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(error + right > 0, 2 * error * right / (error + right), 0.0)
    f1[~np.isfinite(error + right)] = np.nan
    return {
        "n": int(among.sum()), "f1": _figure(f1),
        "accuracy_erroneous": _figure(error), "accuracy_correct": _figure(right),
    }  # fmt: skip


def _named(
    chains: Sequence[Chain], readings: Sequence[Reading], hit: NDArray[np.bool_], weights_SN: NDArray[np.float64]
) -> dict[str, Any]:
    at = np.array([-1 if r.first_error is None else r.first_error for r in readings])
    label, there = np.array([chain.label for chain in chains]), at >= 0
    return {
        "n": int(there.sum()), "exact": _figure(_share(hit, there, weights_SN)),
        "late": int((there & (label >= 0) & (at > label)).sum()), "early": int((there & (at < label)).sum()),
        "no_error": int((there & (label < 0)).sum()),
    }  # fmt: skip


def _detection(
    totals: NDArray[np.float64], bad: NDArray[np.bool_], known: NDArray[np.bool_], weights_SN: NDArray[np.float64]
) -> dict[str, Any]:
    flagged = known & (np.nan_to_num(totals, nan=99.0) < THRESHOLD)
    return {
        "threshold": THRESHOLD,
        "found": _figure(_share(flagged, bad & known, weights_SN)),
        "false_alarms": _figure(_share(flagged, ~bad & known, weights_SN)),
    }


def batches(chains: Sequence[Chain], size: int) -> Iterator[Sequence[Chain]]:
    """Consecutive slices of at most `size`."""
    for start in range(0, len(chains), size):
        yield chains[start : start + size]
