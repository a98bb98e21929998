"""From candidate negatives to at most one a problem: gate, de-duplicate, rank; then pairs in two regimes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pns.recipe import NegativesPart
from pns.records import Pair, Problem, Response


def accepted(response: Response, part: NegativesPart, m_floor: float | None, *, plausible: bool) -> bool:
    """Is this a usable negative? Well-formed and decidably wrong always; with `plausible` also M and C above their gates.

    An unscored response is never accepted: it was not judged.
    """
    scores = response.scores
    if scores is None or scores.gate != "scored":
        return False
    if not plausible:
        return True
    if m_floor is not None and (scores.reward_model is None or scores.reward_model < m_floor):
        return False
    return scores.rubric is None or scores.rubric.total >= part.min_rubric


def pick(
    candidates: Sequence[Response], part: NegativesPart, m_floor: float | None, *, plausible: bool, how: str, seed: int
) -> dict[str, Response]:
    """One negative for each problem that has an accepted one. Texts that repeat within a problem count once.

    `how`: `likely` takes the highest policy log-probability a token, `best` the highest score, `reward` the highest
    reward-model score, `random` any.
    Ties go to the lower index, so that the choice does not depend on the order of rows.
    """
    by_problem: dict[str, dict[str, Response]] = {}
    for response in sorted(candidates, key=lambda r: (r.problem_id, r.index)):
        if accepted(response, part, m_floor, plausible=plausible):
            by_problem.setdefault(response.problem_id, {}).setdefault(response.text.strip(), response)
    rng = random.Random(seed)
    out = {}
    for identity, distinct in sorted(by_problem.items()):
        rows = list(distinct.values())
        if how == "random":
            out[identity] = rng.choice(rows)
        elif how == "best":
            out[identity] = max(rows, key=lambda r: r.scores.score if r.scores and r.scores.score is not None else -9.0)
        elif how == "reward":
            out[identity] = max(rows, key=_reward)
        else:
            out[identity] = max(rows, key=_likelihood)
    return out


def _reward(response: Response) -> float:
    raw = response.scores.reward_raw if response.scores is not None else None
    return float("-inf") if raw is None else raw


def _likelihood(response: Response) -> float:
    if response.policy_logp is None or not response.n_tokens:
        return float("-inf")
    return response.policy_logp / response.n_tokens


def matched_ids(
    chosen: Mapping[str, Response], negatives: Mapping[str, Mapping[str, Response]], most: int, seed: int
) -> list[str]:
    """The problems for which every method has a negative, at most `most`, drawn by seed, in a fixed order."""
    common = set(chosen).intersection(*(set(n) for n in negatives.values()))
    return draw(common, most, seed)


def draw(ids: set[str], most: int, seed: int) -> list[str]:
    """At most `most` of the ids, drawn by seed, sorted."""
    ordered = sorted(ids)
    return sorted(random.Random(seed).sample(ordered, min(most, len(ordered))))


def build_pairs(
    method: str,
    ids: Sequence[str],
    problems: Mapping[str, Problem],
    chosen: Mapping[str, Response],
    negatives: Mapping[str, Response],
) -> list[Pair]:
    """Pairs of one method on the given problems, which must have both sides."""
    out = []
    for identity in ids:
        right, wrong = chosen[identity], negatives[identity]
        out.append(
            Pair(
                problem_id=identity,
                method=method,
                prompt=problems[identity].problem,
                chosen=right.text,
                rejected=wrong.text,
                chosen_source="reference" if right.source == "reference" else "policy",
                chosen_answer=problems[identity].answer,
                rejected_answer=wrong.verdict.answer if wrong.verdict else None,
                chosen_logp=right.policy_logp,
                rejected_logp=wrong.policy_logp,
                chosen_tokens=right.n_tokens,
                rejected_tokens=wrong.n_tokens,
                scores=wrong.scores,
            )
        )
    return out
