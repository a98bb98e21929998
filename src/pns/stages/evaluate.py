"""Greedy and sampled accuracy of one model on every benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from pns.recipe import SamplePart
from pns.records import Problem, Response, write_parquet
from pns.run import seed_of
from pns.sampling.engine import TransformersEngine
from pns.sampling.shards import sample_shards
from pns.stages.context import Context


def evaluate(context: Context, model_stage: str) -> None:
    """`greedy-<name>.parquet` and `sampled-<name>.parquet` of each benchmark and of `dev`: every response with its verdict.

    `dev` is for choices made while tuning, so that the benchmarks need not be looked at for them. All models answer with
    the same seeds, so that paired differences share their luck.
    """
    part = context.recipe.evaluate
    engine = TransformersEngine(context.model(model_stage), device=context.recipe.runtime.device)
    names: list[str] = context.json("problems", "summary.json")["benchmarks"]
    greedy = SamplePart.model_construct(
        n=1, temperature=0.0, top_p=1.0, max_new_tokens=part.max_new_tokens, batch_size=part.batch_size
    )
    sampled = greedy.model_copy(update={"n": part.k, "temperature": 1.0})
    sets = {"dev": "dev", **{name: f"benchmark-{name}" for name in names}}
    total, done = len(sets) * 2, 0
    with context.verifier() as verifier:

        def finish(rows: Sequence[Problem], responses: list[Response]) -> list[Response]:
            verdicts = verifier.verify_problems(rows, [r.text for r in responses])
            return [r.model_copy(update={"verdict": v}) for r, v in zip(responses, verdicts, strict=True)]

        for name, split in sets.items():
            problems = context.problems(split)
            for kind, how in (("greedy", greedy), ("sampled", sampled)):
                rows = sample_shards(
                    engine,
                    problems,
                    how,
                    context.out / "shards" / f"{kind}-{name}",
                    seed=seed_of(context.recipe.seed, f"evaluate/{kind}/{name}"),
                    source=model_stage,
                    finish=finish,
                    progress=lambda *_: None,
                )
                write_parquet(context.out / f"{kind}-{name}.parquet", rows)
                done += 1
                context.progress(done, total)
