"""How plausible are the rejected sides of preference data? Figures for any data set, by method. (Source: ours.)

`method.md` calls a negative plausible when a detector cannot tell it from a correct response. No detector is the last
word: 0.5 means that *this* one cannot tell, and a weak one gives 0.5 for everything. So each AUC stands beside that of
rejection samples, and beside what the steps themselves say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from pns.evaluation.detectors import FOLDS, Fit, Floats, cross_validated
from pns.evaluation.metrics import grouped_auc, grouped_mean, quartiles
from pns.evaluation.negative_rows import Negative
from pns.evaluation.preferences import Preference
from pns.evaluation.step_labels import label_by_rules
from pns.evaluation.texts import any_answer, split_steps
from pns.records import Outcome, Problem
from pns.rewards.arithmetic import find_steps
from pns.rewards.composite import Scorer, every_score
from pns.rewards.format import CHECKS, Sample
from pns.rewards.steps import judge_steps
from pns.verify import Verifier

NEAR = 0.1
"""Normalised edit distance in words up to which two responses are near-duplicates."""
COMPARED, LONGEST = 16, 2000
"""Correct responses that a rejected one is compared with, and words of each that are looked at."""

REWARD, STEPS, ANSWERS = "reward model", "reading steps", "verifying answers"
ERRORS, FIGURES = "first wrong steps", "figures"
"""What an audit does beside asking detectors."""

Progress = Callable[[str, int, int], None]
"""Told (one of `parts`, done, total): folds, texts, pairs, sides or methods, each part from 0 on."""
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Audit:
    """How to audit.

    Attributes:
        detectors: name -> how it learns; each is cross-validated over problems.
        reward_model: scores both sides raw, in any unit; it learns nothing here.
        verifier: for the gold answers, where the pairs have them.
        correct: prompt -> correct responses that a rejected one is compared with beside the chosen ones in the data.
        folds: of the cross-validation. samples: of the bootstrap. seed: of both.
    """

    detectors: Mapping[str, Fit] = field(default_factory=dict)
    reward_model: Scorer | None = None
    verifier: Verifier | None = None
    correct: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folds: int = FOLDS
    samples: int = 2000
    seed: int = 0


def audit_pairs(
    pairs: Sequence[Preference], how: Audit, progress: Progress = lambda what, done, total: None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of each method, and what was found of each pair, in the order of `pairs`.

    Returns:
        method -> figures: `detectors` (AUC of chosen above rejected in 0..1, share of pairs that are ranked so,
        each with a 95 % interval over problems), `consistent`, `first_error` (see `_errors`), `first_wrong_step` (`found`:
        the share with a false arithmetic statement, `quartiles`: where the first one stands), `edit_distance`
        (to the nearest correct response of the problem), `nearest` (how many were compared a problem, in the mean: `chosen`
        ones in the data, and further `rollouts`, those of `how.correct`; at most 16 together), `divergence`, `length_ratio`,
        `answers` (`distinct_a_problem`: different texts, of the problems that have any; with gold answers the decidably wrong
        ones alone), `leaks`, `duplicates`, and `truth` where there are gold answers. Shares are in 0..1, distances of words in
        0..1 (0: the same text), positions in 0..1 (0: the first step).
    """
    scores = _detected(pairs, how, progress)
    rows = _each(pairs, how.correct, partial(progress, STEPS))
    for i, row in enumerate(rows):
        row["scores"] = {
            name: [float(a[i]), float(b[i])] for name, (a, b) in scores.items() if np.isfinite(a[i] + b[i])
        }
    if how.verifier is not None:
        for row, truth in zip(rows, _truth(pairs, how.verifier, partial(progress, ANSWERS)), strict=True):
            row["truth"] = truth
    for row, label in zip(rows, _first_errors(pairs, rows, partial(progress, ERRORS)), strict=True):
        row |= label
    out: dict[str, Any] = {}
    places = _places(pairs)
    for method, at in places.items():
        progress(FIGURES, len(out), len(places))
        some = [pairs[i] for i in at]
        figures = _figures(some, [rows[i] for i in at])
        figures["detectors"] = {
            name: found for name, (a, b) in scores.items() if (found := _detector(some, a[at], b[at], how)) is not None
        }
        out[method] = figures
    progress(FIGURES, len(out), len(places))
    return out, rows


def parts(pairs: Sequence[Preference], how: Audit) -> list[str]:
    """What `audit_pairs` does, in this order."""
    asked = [_asked(name, method) for method in _places(pairs) for name in how.detectors]
    scored = [] if how.reward_model is None else [REWARD]
    verified = [] if how.verifier is None else [ANSWERS]
    return [*asked, *scored, STEPS, *verified, ERRORS, FIGURES]


def _asked(detector: str, method: str) -> str:
    return f"{detector}, {method}"


def _places(pairs: Sequence[Preference]) -> dict[str, list[int]]:
    """The places of each method's pairs, methods in the order in which they come."""
    out: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        out.setdefault(pair.method, []).append(i)
    return out


def _detected(pairs: Sequence[Preference], how: Audit, progress: Progress) -> dict[str, tuple[Floats, Floats]]:
    """Scores of both sides by each detector, which learns on the pairs of one method at a time."""
    out = {name: (np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)) for name in how.detectors}
    for method, at in _places(pairs).items():
        rows = [pairs[i] for i in at]
        for name, fit in how.detectors.items():
            step = partial(progress, _asked(name, method))
            chosen, rejected = cross_validated(rows, fit, folds=how.folds, seed=how.seed, progress=step)
            out[name][0][at], out[name][1][at] = chosen, rejected
    if how.reward_model is not None:
        out["reward_model"] = _rewarded(pairs, how.reward_model, partial(progress, REWARD))
    return out


def _rewarded(pairs: Sequence[Preference], model: Scorer, step: Step) -> tuple[Floats, Floats]:
    """Raw scores of both sides; each distinct text is read once. What has no score is nan."""
    wanted = list(dict.fromkeys((p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)))
    known: dict[tuple[str, str], float] = {}
    step(0, len(wanted))
    for start in range(0, len(wanted), 64):
        some = wanted[start : start + 64]
        given = every_score(model, [prompt for prompt, _ in some], [text for _, text in some])
        known |= {key: np.nan if score is None else float(score) for key, score in zip(some, given, strict=True)}
        step(start + len(some), len(wanted))
    return (
        np.array([known[p.prompt, p.chosen] for p in pairs]),
        np.array([known[p.prompt, p.rejected] for p in pairs]),
    )


def _detector(pairs: Sequence[Preference], chosen: Floats, rejected: Floats, how: Audit) -> dict[str, Any] | None:
    """AUC over the distinct texts, and the share of pairs in which chosen has the higher score (ties one half)."""
    there = [int(i) for i in np.flatnonzero(np.isfinite(chosen + rejected))]
    if not there:
        return None
    sides: dict[tuple[str, str, bool], float] = {}
    for i in there:
        sides[pairs[i].prompt, pairs[i].chosen, True] = float(chosen[i])
        sides[pairs[i].prompt, pairs[i].rejected, False] = float(rejected[i])
    auc = grouped_auc(
        list(sides.values()), [right for _, _, right in sides], [prompt for prompt, _, _ in sides],
        samples=how.samples, seed=how.seed,
    )  # fmt: skip
    wins = np.where(chosen > rejected, 1.0, np.where(chosen < rejected, 0.0, 0.5))[there]
    share, ci = grouped_mean(wins, [pairs[i].prompt for i in there], samples=how.samples, seed=how.seed)
    if auc is None:
        return None
    return {
        "auc": auc["auc"], "ci95": list(auc["ci95"]), "separable": share, "separable_ci95": list(ci),
        "n": len(there), "missing": len(pairs) - len(there),
    }  # fmt: skip


def _each(pairs: Sequence[Preference], more: Mapping[str, Sequence[str]], step: Step) -> list[dict[str, Any]]:
    """What each pair says by itself, and beside the correct responses to its prompt: chosen ones, and `more`."""
    correct: dict[str, dict[tuple[str, ...], None]] = {}
    _add(correct, ((pair.prompt, pair.chosen) for pair in pairs))
    chosen = {prompt: len(known) for prompt, known in correct.items()}
    _add(correct, ((prompt, text) for prompt in chosen for text in more.get(prompt, ())))
    out: list[dict[str, Any]] = []
    for pair in pairs:
        step(len(out), len(pairs))
        words = _words(pair.rejected)
        distance, nearest = min((_distance(words, other), other) for other in correct[pair.prompt])
        out.append(
            {
                "line": pair.line, "method": pair.method, "edit_distance": distance,
                "compared": {"chosen": chosen[pair.prompt], "rollouts": len(correct[pair.prompt]) - chosen[pair.prompt]},
                "divergence": _common(words, nearest) / max(1, len(words)),
                "length_ratio": len(words) / max(1, len(_words(pair.chosen))),
                # A false statement need not be the first wrong step, see `first_error`. The key is that of older results.
                "first_wrong_step": first_false_statement(pair.rejected),
                "answer": any_answer(pair.rejected),
                **{f"{side}_{what}": value
                   for side in ("chosen", "rejected")
                   for what, value in _checked(pair.prompt, getattr(pair, side)).items()},
            }
        )  # fmt: skip
    step(len(out), len(pairs))
    return out


def _add(known: dict[str, dict[tuple[str, ...], None]], texts: Iterable[tuple[str, str]]) -> None:
    """Adds words of responses to those known of their prompt, each once and at most COMPARED of them."""
    for prompt, text in texts:
        mine = known.setdefault(prompt, {})
        if len(mine) < COMPARED:
            mine[tuple(_words(text))] = None


def _checked(prompt: str, text: str) -> dict[str, Any]:
    """Whether all steps hold (None: there is nothing to check), and whether it announces that it errs."""
    steps = find_steps(text)
    total = judge_steps(prompt, text, any_answer(text)).total if steps else None
    sample = Sample(text, prompt, "stop", "boxed", len(text))
    return {"consistent": None if total is None else total == 12, "leak": CHECKS["announces_error"](sample)}


def first_false_statement(text: str) -> float | None:
    """Where the first step with a false arithmetic statement stands, 0 (first) .. 1 (last); None where none is found."""
    steps = split_steps(text)
    for i, step in enumerate(steps):
        if any(not statement.right for statement in find_steps(step)):
            return _position(i, len(steps))
    return None


def _position(step: int, steps: int) -> float:
    return step / max(1, steps - 1)


def _first_errors(
    pairs: Sequence[Preference], rows: Sequence[Mapping[str, Any]], step: Step
) -> list[dict[str, float | str | None]]:
    """Where the first wrong step of each rejected response stands, by the rules of `first_errors`, and who decided it or
    why nobody did. The chosen response stands beside, and what the verifier says of both, where there is a gold answer.
    """
    outcomes: dict[tuple[str, str], Outcome] = {}
    for pair, row in zip(pairs, rows, strict=True):
        for side, outcome in row.get("truth", {}).items():
            outcomes.setdefault((pair.prompt, getattr(pair, side)), outcome)
    negatives = [Negative(p.line, p.prompt, p.rejected, p.method, p.chosen) for p in pairs]
    total = len({(n.prompt, n.rejected, n.chosen) for n in negatives})
    step(0, total)
    found = {(*r.response, r.negative.chosen): r for r in label_by_rules(negatives, outcomes, progress=step)}
    out: list[dict[str, float | str | None]] = []
    for negative in negatives:
        one = found[negative.prompt, negative.rejected, negative.chosen]
        at = None if one.label.step is None else _position(one.label.step, len(one.rejected.spans))
        out.append({"first_error": at, "decided_by": one.label.by, "undecided_why": one.label.why or None})
    return out


def _words(text: str) -> list[str]:
    return text.split()[:LONGEST]


def _distance(left: Sequence[str], right: Sequence[str]) -> float:
    return float(Levenshtein.normalized_distance(left, right))


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """How many words they share from the beginning."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _truth(pairs: Sequence[Preference], verifier: Verifier, step: Step) -> list[dict[str, str]]:
    """What the verifier says of both sides, for the pairs with a gold answer."""
    asked = [i for i, pair in enumerate(pairs) if pair.gold]
    problems = [Problem(id=str(i), problem=pairs[i].prompt, answer=str(pairs[i].gold)) for i in asked]
    out: list[dict[str, str]] = [{} for _ in pairs]
    for n, side in enumerate(("chosen", "rejected")):
        step(n, 2)
        answers = [any_answer(getattr(pairs[i], side)) for i in asked]
        for i, verdict in zip(asked, verifier.check_problems(problems, answers), strict=True):
            out[i][side] = verdict.outcome
    step(2, 2)
    return out


def _figures(pairs: Sequence[Preference], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    told = [row["truth"] for row in rows if row.get("truth")]
    answers: dict[str, set[str]] = {}
    for pair, row in zip(pairs, rows, strict=True):
        # A right answer, or one that nobody can decide, is no way to be wrong.
        if row["answer"] is not None and (not told or row.get("truth", {}).get("rejected") == "wrong"):
            answers.setdefault(pair.prompt, set()).add(row["answer"])
    counted = Counter(row["answer"] for row in rows if row["answer"] is not None)
    false = [row["first_wrong_step"] for row in rows if row["first_wrong_step"] is not None]
    out = {
        "pairs": len(pairs),
        "problems": len({pair.prompt for pair in pairs}),
        "consistent": {side: _share_of(row[f"{side}_consistent"] for row in rows) for side in ("chosen", "rejected")},
        "first_error": _errors(rows),
        "first_wrong_step": {"found": len(false) / len(rows), "quartiles": quartiles(false)},
        **{name: {"quartiles": quartiles([row[name] for row in rows])}
           for name in ("edit_distance", "divergence", "length_ratio")},
        "nearest": _nearest(pairs, rows),
        "answers": {
            "none": sum(row["answer"] is None for row in rows) / len(rows),
            "distinct_a_problem": sum(map(len, answers.values())) / len(answers) if answers else None,
            "most_common": counted.most_common(1)[0][0] if counted else None,
            "most_common_share": counted.most_common(1)[0][1] / len(rows) if counted else None,
        },
        "leaks": {side: sum(row[f"{side}_leak"] for row in rows) for side in ("chosen", "rejected")},
        "duplicates": _duplicates(pairs),
    }  # fmt: skip
    if told:
        out["truth"] = {side: dict(Counter(truth[side] for truth in told)) for side in ("chosen", "rejected")}
    return out


def _nearest(pairs: Sequence[Preference], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """With how many correct responses a rejected one is compared, in the mean over problems."""
    by_problem = {pair.prompt: row["compared"] for pair, row in zip(pairs, rows, strict=True)}
    return {kind: sum(n[kind] for n in by_problem.values()) / len(by_problem) for kind in ("chosen", "rollouts")}


def _errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first wrong steps that rules decide: how many `decided` and `undecided`, the `share` decided in 0..1, `quartiles` of
    their positions (None without any), how many `by` each rule, `why` the others are undecided, and `with_gold`: pairs with a
    gold answer. Without one only a false statement decides.
    """
    where = [row["first_error"] for row in rows if row["first_error"] is not None]
    return {
        "decided": len(where), "undecided": len(rows) - len(where), "share": len(where) / len(rows),
        "quartiles": quartiles(where),
        "by": dict(Counter(row["decided_by"] for row in rows if row["decided_by"] is not None).most_common()),
        "why": dict(Counter(row["undecided_why"] for row in rows if row["undecided_why"] is not None).most_common()),
        "with_gold": sum(bool(row.get("truth")) for row in rows),
    }  # fmt: skip


def _share_of(values: Any) -> dict[str, Any]:
    """Share of the true among those that are known, and how many are not."""
    every = list(values)
    known = [value for value in every if value is not None]
    return {"share": sum(known) / len(known) if known else None, "nothing_to_check": len(every) - len(known)}


def _duplicates(pairs: Sequence[Preference]) -> dict[str, int]:
    """Rejected responses that repeat an earlier one: word for word anywhere, or nearly, to the same prompt."""
    seen: set[str] = set()
    kept: dict[str, list[list[str]]] = {}
    exact = near = 0
    for pair in pairs:
        key, words = " ".join(pair.rejected.split()), _words(pair.rejected)
        mine = kept.setdefault(pair.prompt, [])
        if key in seen:
            exact += 1
        elif any(_distance(words, other) <= NEAR for other in mine):
            near += 1
        elif len(mine) < COMPARED:
            mine.append(words)
        seen.add(key)
    return {"exact": exact, "near": near}
