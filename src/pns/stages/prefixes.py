"""Negatives that begin with a correct solution's prefix: by the policy (`prefix`), or by the trained generator (`pns_prefix`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pns.negatives.prefix import wrong_continuations
from pns.recipe import Method
from pns.records import Problem, Response, read_jsonl, to_jsonl
from pns.rewards.composite import Composite
from pns.run import seed_of, write_atomic
from pns.sampling.engine import Completion, Engine, TransformersEngine
from pns.sampling.jobs import Job
from pns.sampling.prompts import controlled
from pns.stages import engines
from pns.stages.context import Context
from pns.stages.engines import scorer


def written(context: Context, composite: Composite, method: Method) -> list[Response]:
    """Wrong continuations of prefixes of the chosen responses, by the policy or by the generator; shards of them are durable
    one by one.
    """
    policy = scorer(context, "rlvr")
    writer = scorer(context, "generator") if method == "pns_prefix" else policy
    # One engine: what a round begins depends on the verdicts of the round before.
    with engines.sampler(context, "generator" if writer is not policy else "rlvr", writer, pool=False) as engine:
        return _shards(context, composite, method, engine, writer, policy)


def _shards(
    context: Context,
    composite: Composite,
    method: Method,
    engine: Engine,
    writer: TransformersEngine,
    policy: TransformersEngine,
) -> list[Response]:
    recipe, part = context.recipe, context.recipe.negatives.prefix
    control = context.control() if writer is not policy else None
    problems = {p.id: p for p in context.problems("pairs")}
    right = context.chosen()
    size, out = max(1, part.batch_size // part.n), list[Response]()
    for number, at in enumerate(range(0, len(right), size)):
        path = context.out / "shards" / f"{number:05d}.jsonl"
        if not path.is_file():
            some = right[at : at + size]
            seed = seed_of(context.seed, f"shard/{number}")

            def go_on(
                asked: Sequence[Problem], prefixes: Sequence[str], temperature: float, turn: int, seed: int = seed
            ) -> list[list[Completion]]:
                statements, mine = [controlled(p.problem, control) for p in asked], seed_of(seed, f"round/{turn}")
                return engine.generate(
                    Job(statements, part.n, temperature, part.top_p, part.max_new_tokens, mine, prefixes)
                )

            rows = wrong_continuations(
                [problems[r.problem_id] for r in some], some, part, go_on, composite.verifier.verify_problems,
                seed=seed, source=method, answer_format=recipe.reward.answer_format,
            )  # fmt: skip
            rows = _with_logps(rows, problems, policy, None if writer is policy else writer, control)
            write_atomic(path, to_jsonl([r.model_copy(update={"model": engine.name}) for r in rows]))
        out.extend(read_jsonl(path, Response))
        context.progress(min(at + size, len(right)), len(right))
    return out


def _with_logps(
    rows: Sequence[Response],
    problems: Mapping[str, Problem],
    policy: TransformersEngine,
    writer: TransformersEngine | None,
    control: str | None,
) -> list[Response]:
    """With log p and tokens under the policy and, where a generator went on, log p of the prefix under the policy and of the
    rest under the generator. So policy over generator, by which `importance` draws, is that of the continuation.
    """
    statements, texts = [problems[r.problem_id].problem for r in rows], [r.text for r in rows]
    base = policy.log_probabilities(statements, texts)
    out = [r.model_copy(update={"policy_logp": lp, "n_tokens": n}) for r, (lp, n) in zip(rows, base, strict=True)]
    if writer is None:
        return out
    begun, open_ = [r.text[: r.sampling["cut"]] for r in rows], [False] * len(rows)
    asked = [controlled(statement, control) for statement in statements]
    whole = writer.log_probabilities(asked, texts)
    first = [policy.log_probabilities(statements, begun, open_), writer.log_probabilities(asked, begun, open_)]
    written = [q - dq + dp for (q, _), (dp, _), (dq, _) in zip(whole, *first, strict=True)]
    return [
        r.model_copy(update={"sampling": {**r.sampling, "generator_logp": round(q, 6)}})
        for r, q in zip(out, written, strict=True)
    ]
