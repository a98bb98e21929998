"""Greedy and sampled accuracy of one model on every benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pns.recipe import SamplePart
from pns.records import Problem, Response, write_parquet
from pns.run import seed_of, write_json
from pns.sampling.engine import TransformersEngine
from pns.sampling.shards import sample_shards
from pns.stages.context import Context


def evaluate(context: Context, model_stage: str) -> None:
    """`greedy-<name>.parquet` and `sampled-<name>.parquet` of each benchmark and of `dev`: every response with its verdict.

    `dev` is for choices made while tuning, so that the benchmarks need not be looked at for them. All models answer with
    the same seeds, so that paired differences share their luck.
    """
    _answers(context, model_stage, {"dev": "dev", **_benchmarks(context)})


def dev(context: Context, model_stage: str) -> None:
    """As `evaluate`, of the development split alone; kl.json has the distance to the policy."""
    _spent(context, model_stage, _answers(context, model_stage, {"dev": "dev"}))


def test(context: Context, model_stage: str) -> None:
    """As `evaluate`, of the benchmarks alone; kl.json has the distance to the policy."""
    _spent(context, model_stage, _answers(context, model_stage, _benchmarks(context)))


def _benchmarks(context: Context) -> dict[str, str]:
    names: list[str] = context.json("problems", "summary.json")["benchmarks"]
    return {name: f"benchmark-{name}" for name in names}


def _answers(context: Context, model_stage: str, sets: Mapping[str, str]) -> list[tuple[Problem, Response]]:
    """Answer all sets (name -> split) greedily and sampled. Returns the sampled responses with their problems."""
    part = context.recipe.evaluate
    engine = TransformersEngine(context.model(model_stage), device=context.recipe.runtime.device)
    greedy = SamplePart.model_construct(
        n=1, temperature=0.0, top_p=1.0, max_new_tokens=part.max_new_tokens, batch_size=part.batch_size
    )
    sampled = greedy.model_copy(update={"temperature": 1.0})
    total, done, out = len(sets) * 2, 0, list[tuple[Problem, Response]]()
    with context.verifier() as verifier:

        def finish(rows: Sequence[Problem], responses: list[Response]) -> list[Response]:
            verdicts = verifier.verify_problems(rows, [r.text for r in responses])
            return [r.model_copy(update={"verdict": v}) for r, v in zip(responses, verdicts, strict=True)]

        for name, split in sets.items():
            problems = context.problems(split)
            k = part.samples(name)
            for kind, how in (("greedy", greedy), ("sampled", sampled.model_copy(update={"n": k}))):
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
            out += [(problem, r) for problem, r in zip((p for p in problems for _ in range(k)), rows, strict=True)]
    return out


def _spent(context: Context, model_stage: str, answered: Sequence[tuple[Problem, Response]]) -> None:
    """kl.json: KL from the policy, nats a response, estimated on the model's own samples at temperature 1.

    The mean of log p_model - log p_policy is unbiased, whatever the sign of one sample's. The policy itself spends 0.
    """
    engines = [
        TransformersEngine(context.model(s), device=context.recipe.runtime.device) for s in (model_stage, "rlvr")
    ]
    statements, texts = [p.problem for p, _ in answered], [r.text for _, r in answered]
    own, base = (engine.log_probabilities(statements, texts) for engine in engines)
    gaps = [a - b for (a, _), (b, _) in zip(own, base, strict=True)]
    tokens = sum(n for _, n in own)
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None
    write_json(
        context.out / "kl.json",
        {
            "kl": statistics.fmean(gaps),
            "standard_error": error,
            "kl_a_token": sum(gaps) / max(1, tokens),
            "n": len(gaps),
        },
    )
