"""What the generators write: samples on problems that they were not trained on, and continuations of correct prefixes, scored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

from pns.recipe import RewardPart
from pns.records import Problem, Response, read_jsonl, to_jsonl, write_parquet
from pns.rewards.composite import Composite
from pns.rewards.unscored import Unscored
from pns.run import seed_of, write_atomic
from pns.sampling.engine import TransformersEngine
from pns.sampling.prompts import controlled
from pns.sampling.shards import Draw, sample
from pns.stages import engines, prefixes
from pns.stages.context import Context
from pns.stages.engines import scorer
from pns.stages.scored import rows_of, scored, with_scores
from pns.streams import write_responses

SCORED_AT_ONCE = 3
"""Shards of samples that are scored at a time where a server scores: it has the next one's requests when one ends."""


def samples(context: Context) -> None:
    """candidates.parquet: samples of the trained generator on problems that it was not trained on, scored, with log p
    under it and the policy.
    """
    draws, policy = _draws(context), scorer(context, "rlvr")
    done, every = 0, sum(draw.responses for draw in draws.values())
    with context.composite() as composite:
        unscored = Unscored(composite.part.max_unscored, every)
        for draw in draws.values():
            _score_again(context, composite, draw, unscored)
        for name, draw in draws.items():
            progress = partial(_behind, context, done, every)
            _from_generator(context, composite, policy, name, draw, unscored, progress)
            done += draw.responses
            if context.readers is not None and len(draws) > 1:
                context.readers.forget(str(context.model(name)))
    write_responses(context.out / "candidates.parquet", _together(draws))


def _draws(context: Context) -> dict[str, Draw]:
    """What each generator samples: the samples of a problem are divided among them, one more for the first ones where they
    cannot be equal.
    """
    part, stages = context.recipe.negatives.sample, context.recipe.generator.stages
    problems, control, out = context.problems("pairs"), context.control(), {}
    for place, name in enumerate(stages):
        n = part.n // len(stages) + (place < part.n % len(stages))
        folder = context.out / ("shards" if not place else f"shards-{place + 1}")
        seed = context.seed if not place else seed_of(context.seed, name)
        out[name] = Draw(problems, part.model_copy(update={"n": n}), folder, seed, "pns", control)
    return out


def _together(draws: Mapping[str, Draw]) -> Iterator[Response]:
    """The responses of all generators, by problem; each has the name of its own where there are several."""
    if len(draws) == 1:
        yield from next(iter(draws.values())).rows()
        return
    grouped = [groupby(draw.rows(), key=lambda r: r.problem_id) for draw in draws.values()]
    for found in zip(*grouped, strict=True):
        index = 0
        for name, (_, rows) in zip(draws, found, strict=True):
            for r in rows:
                yield r.model_copy(update={"index": index, "sampling": {**r.sampling, "generator": name}})
                index += 1


def prefix_samples(context: Context) -> None:
    """candidates.parquet: wrong continuations by the trained generator of prefixes of the chosen responses, scored, with
    log p (see `pns.stages.prefixes`).
    """
    with context.composite() as composite:
        candidates = scored(context, composite, prefixes.written(context, composite, "pns_prefix"))
    write_parquet(context.out / "candidates.parquet", candidates)


def _behind(context: Context, before: int, every: int, done: int, _: int) -> None:
    """Progress of one generator, behind what those before it have done."""
    context.progress(before + done, every)


def _from_generator(
    context: Context, composite: Composite, policy: TransformersEngine, name: str, drawn: Draw, unscored: Unscored,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    """The shards of one generator, the stage of this name."""
    writer, control = scorer(context, name), drawn.control
    computing = threading.Lock()

    def logps(rows: Sequence[Problem], responses: list[Response]) -> list[list[tuple[float, int]]]:
        """Under the generator, as it was asked, and under the policy."""
        texts, statements = [r.text for r in responses], [p.problem for p in rows]
        ended = [r.finish != "length" for r in responses]
        asked = [controlled(statement, control) for statement in statements]
        with computing:  # of one shard at a time, or their memory would grow with the shards
            own = writer.log_probabilities(asked, texts, ended)
            return [own, policy.log_probabilities(statements, texts, ended)]

    def finish(rows: Sequence[Problem], responses: list[Response]) -> list[Response]:
        with ThreadPoolExecutor(1, thread_name_prefix="pns-logps") as beside:  # they need no score
            found = beside.submit(logps, rows, responses)
            judged = with_scores(composite, rows, responses)
            own, base = found.result()
        return [
            r.model_copy(
                update={"policy_logp": p, "n_tokens": n, "sampling": {**r.sampling, "generator_logp": round(q, 6)}}
            )
            for r, (q, _), (p, n) in zip(judged, own, base, strict=True)
        ]

    sample(
        engines.sampler(context, name, writer), [drawn], finish, progress,
        at_once=SCORED_AT_ONCE if _asks_server(composite.part) else 1,
        check=lambda rows: unscored.add(r.scores for r in rows),
    )  # fmt: skip


def _asks_server(part: RewardPart) -> bool:
    """Whether a judge or a reward model behind a server scores, for which the stage only waits."""
    return part.judge_server is not None or (part.reward_model is not None and part.reward_model.server is not None)


def _score_again(context: Context, composite: Composite, drawn: Draw, unscored: Unscored) -> None:
    """What could not be scored of the shards that are there: judge or model may be back when a stage is gone on with.

    All of the shards are counted at once, for workers may have made them in any order.
    """
    problems, fine = rows_of(context), 0
    lost: list[tuple[Path, Response]] = []
    for path in drawn.finished():
        rows = list(read_jsonl(path, Response))
        bad = unscored.among([r.scores for r in rows])
        lost += [(path, rows[i]) for i in bad]
        fine += len(rows) - len(bad)
    again = with_scores(composite, [problems[r.problem_id] for _, r in lost], [r for _, r in lost])
    found = {(path, r.problem_id, r.index): r for (path, _), r in zip(lost, again, strict=True)}
    for path in dict.fromkeys(path for path, _ in lost):
        rows = [found.get((path, r.problem_id, r.index), r) for r in read_jsonl(path, Response)]
        write_atomic(path, to_jsonl(rows))
    unscored.add([*(r.scores for r in again), *[None] * fine])
