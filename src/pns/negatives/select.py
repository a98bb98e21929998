"""From candidate negatives to a few a problem: gate, match lengths, rank, de-duplicate; then pairs in two regimes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from rapidfuzz.distance import Levenshtein

from pns.negatives.resample import Likeness
from pns.recipe import NegativesPart
from pns.records import Pair, Problem, Response


def accepted(response: Response, part: NegativesPart, m_floor: float | None, *, plausible: bool) -> bool:
    """Is this a usable negative? Well-formed and decidably wrong always; with `plausible` also M and C above their gates.

    An unscored response is never accepted: it was not judged.
    """
    scores = response.scores
    if scores is None or scores.gate != "scored" or not scores.well_formed:
        return False
    if not plausible:
        return True
    if m_floor is not None and (scores.reward_model is None or scores.reward_model < m_floor):
        return False
    return scores.rubric is None or scores.rubric.total >= part.min_rubric


def picked(
    candidates: Iterable[Response], part: NegativesPart, m_floor: float | None, *, plausible: bool, how: str, seed: int,
    lengths: Mapping[str, int] | None = None, like: Likeness | None = None,
) -> Iterator[tuple[str, list[Response]]]:  # fmt: skip
    """(problem, its best negatives, best first) of each problem that has an accepted one, in order; one at a time.

    Gates first; then what is far from the chosen response in length is left out, and the rest is ranked; near-duplicates
    of a better one are passed over.

    Args:
        candidates: sorted by problem, index and text, so that the choice does not depend on the order of rows.
        how: `likely` ranks by the policy's log-probability a token, which is also hardest for it; `best` by score;
            `reward` by the reward model's score; `proportional` draws in proportion to the score, `importance` to the
            policy's probability over the generator's, `as_rejection` by the weights of `like`, all three without
            replacement; `random` draws any.
        lengths: tokens of the chosen response of each problem, for `part.length_ratio`.
    Ties go to the lower index.
    """
    rng = random.Random(seed)
    for identity, distinct in usable(candidates, part, m_floor, plausible=plausible, lengths=lengths):
        yield identity, spread(_ranked(distinct, how, rng, like), part)


def usable(
    candidates: Iterable[Response], part: NegativesPart, m_floor: float | None, *, plausible: bool,
    lengths: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, list[Response]]]:  # fmt: skip
    """(problem, its accepted candidates of a fitting length, each text once) in order. The arguments are those of `picked`."""
    fit = (r for r in candidates if accepted(r, part, m_floor, plausible=plausible) and _length_fits(r, part, lengths))
    for identity, rows in groupby(fit, key=lambda r: r.problem_id):
        yield identity, list({r.text.strip(): r for r in reversed(list(rows))}.values())[::-1]


def _length_fits(response: Response, part: NegativesPart, lengths: Mapping[str, int] | None) -> bool:
    """Whether its length is within `part.length_ratio` of the chosen response's; unknown lengths pass."""
    if part.length_ratio is None or lengths is None or not response.n_tokens:
        return True
    other = lengths.get(response.problem_id, 0)
    return not other or 1 / part.length_ratio <= response.n_tokens / other <= part.length_ratio


def _ranked(rows: list[Response], how: str, rng: random.Random, like: Likeness | None = None) -> list[Response]:
    if how == "random":
        return rng.sample(rows, len(rows))
    if how in ("proportional", "importance", "as_rejection"):
        # The Gumbel trick: sorted by log weight plus Gumbel noise is drawn by weight, one after the other.
        weigh = {"proportional": _log_score, "importance": _log_ratio}.get(how, _log_weight(like))
        noisy = [(weigh(r) - math.log(-math.log(rng.random() or 1e-12)), r) for r in rows]
        return [r for _, r in sorted(noisy, key=lambda one: -one[0])]
    return sorted(rows, key={"best": _score, "reward": _reward, "likely": _likelihood}[how], reverse=True)


def spread(ranked: Iterable[Response], part: NegativesPart) -> list[Response]:
    """The first `part.per_problem` of them that are no near-duplicates of one before; the same words count once."""
    out: list[Response] = []
    words: list[list[str]] = []
    for response in ranked:
        mine = response.text.split()
        if mine in words or (
            part.near_duplicate
            and any(Levenshtein.normalized_distance(mine, other) <= part.near_duplicate for other in words)
        ):
            continue
        out.append(response)
        words.append(mine)
        if len(out) == part.per_problem:
            break
    return out


def _score(response: Response) -> float:
    return response.scores.score if response.scores is not None and response.scores.score is not None else -9.0


def _log_score(response: Response) -> float:
    return math.log(max(_score(response), 1e-6))


def _log_ratio(response: Response) -> float:
    """log of policy over generator, for what the generator wrote; else the policy's own samples weigh alike."""
    written = response.sampling.get("generator_logp")
    return 0.0 if written is None or response.policy_logp is None else response.policy_logp - float(written)


def _log_weight(like: Likeness | None) -> Callable[[Response], float]:
    """Responses of unknown log-probability are drawn last."""

    def weigh(response: Response) -> float:
        if like is None or response.policy_logp is None:
            return -math.inf
        return math.log(like.weight(response.policy_logp))

    return weigh


def _reward(response: Response) -> float:
    raw = response.scores.reward_raw if response.scores is not None else None
    return float("-inf") if raw is None else raw


def _likelihood(response: Response) -> float:
    if response.policy_logp is None or not response.n_tokens:
        return float("-inf")
    return response.policy_logp / response.n_tokens


Many = Mapping[str, Sequence[Response]]
"""problem id -> its selected negatives, best first."""


def matched_ids(chosen: Mapping[str, Response], negatives: Mapping[str, Many], most: int, seed: int) -> list[str]:
    """The problems for which every method has a negative, at most `most`, drawn by seed, in a fixed order."""
    common = set(chosen).intersection(*(set(n) for n in negatives.values()))
    return draw(common, most, seed)


def places(ids: Sequence[str], counts: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """(problem, which of its negatives) of at most `most` pairs: the first of every problem before anybody's second."""
    every = sorted((rank, identity) for identity in ids for rank in range(counts[identity]))
    return sorted((identity, rank) for rank, identity in every[:most])


def draw(ids: set[str], most: int, seed: int) -> list[str]:
    """At most `most` of the ids, drawn by seed, sorted."""
    ordered = sorted(ids)
    return sorted(random.Random(seed).sample(ordered, min(most, len(ordered))))


def build_pairs(
    method: str,
    at: Sequence[tuple[str, int]],
    problems: Mapping[str, Problem],
    chosen: Mapping[str, Response],
    negatives: Many,
) -> list[Pair]:
    """Pairs of one method at the given places (see `places`), which must have both sides."""
    out = []
    for identity, rank in at:
        right, wrong = chosen[identity], negatives[identity][rank]
        out.append(
            Pair(
                problem_id=identity,
                method=method,
                prompt=problems[identity].problem,
                chosen=right.text,
                rejected=wrong.text,
                chosen_source=right.source if right.source in ("reference", "generator") else "policy",
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
