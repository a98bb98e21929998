"""Candidates of any method with their verdicts and scores."""

from __future__ import annotations

from collections.abc import Sequence

from pns.records import Problem, Response
from pns.rewards.composite import Composite
from pns.rewards.unscored import Unscored
from pns.stages.context import Context


def rows_of(context: Context) -> dict[str, Problem]:
    """The problems of `pairs`, by id."""
    return {p.id: p for p in context.problems("pairs")}


def with_scores(composite: Composite, problems: Sequence[Problem], responses: Sequence[Response]) -> list[Response]:
    """The responses, each to its problem, with verdicts and scores; malformed ones, which no score needs, have a verdict, too."""
    scores = composite(problems, [r.text for r in responses], [r.finish for r in responses])
    skipped = [i for i, s in enumerate(scores) if s.verdict is None]  # malformed: the composite did not look further
    late = composite.verifier.verify_problems([problems[i] for i in skipped], [responses[i].text for i in skipped])
    verdicts = {i: s.verdict for i, s in enumerate(scores)} | dict(zip(skipped, late, strict=True))
    return [
        r.model_copy(update={"verdict": verdicts[i], "scores": s})
        for i, (r, s) in enumerate(zip(responses, scores, strict=True))
    ]


def scored(context: Context, composite: Composite, responses: Sequence[Response]) -> list[Response]:
    """All of a method's candidates with their scores. Raises StageStopped where too many of them have none."""
    problems = rows_of(context)
    found = with_scores(composite, [problems[r.problem_id] for r in responses], responses)
    Unscored(composite.part.max_unscored, len(found)).add(r.scores for r in found)
    return found
