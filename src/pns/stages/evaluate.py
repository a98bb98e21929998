"""Greedy and sampled accuracy of one model on every benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pns.recipe import SamplePart
from pns.records import Problem, Response
from pns.run import seed_of, write_json
from pns.sampling.shards import Draw, sample
from pns.stages.context import Context
from pns.stages.engines import sampler, scorer
from pns.streams import publish


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


def _answers(context: Context, model_stage: str, sets: Mapping[str, str]) -> list[Draw]:
    """Answer all sets (name -> split) greedily and sampled. Returns what was sampled."""
    part = context.recipe.evaluate
    greedy = SamplePart.model_construct(
        n=1, temperature=0.0, top_p=1.0, max_new_tokens=part.max_new_tokens, batch_size=part.batch_size
    )
    read = {name: context.problems(split) for name, split in sets.items()}
    how = {
        name: {"greedy": greedy, "sampled": greedy.model_copy(update={"n": part.samples(name), "temperature": 1.0})}
        for name in read
    }
    draws = {
        f"{kind}-{name}": Draw(
            problems, drawn, context.out / "shards" / f"{kind}-{name}",
            seed=seed_of(context.recipe.seed, f"evaluate/{kind}/{name}"), source=model_stage,
        )
        for name, problems in read.items() for kind, drawn in how[name].items()
    }  # fmt: skip
    with context.verifier() as verifier:

        def finish(rows: Sequence[Problem], responses: list[Response]) -> list[Response]:
            verdicts = verifier.verify_problems(rows, [r.text for r in responses])
            return [r.model_copy(update={"verdict": v}) for r, v in zip(responses, verdicts, strict=True)]

        # All of them at once, so that engines are started once.
        sample(sampler(context, model_stage), list(draws.values()), finish, context.progress)
    for file, draw in draws.items():
        publish(context.out / f"{file}.parquet", draw.rows)
    return [draw for file, draw in draws.items() if file.startswith("sampled-")]


def _spent(context: Context, model_stage: str, sampled: Sequence[Draw]) -> None:
    """kl.json: KL from the policy, nats a response, estimated on the model's own samples at temperature 1.

    The mean of log p_model - log p_policy is unbiased, whatever the sign of one sample's. The policy itself spends 0.
    """
    statements = [p.problem for draw in sampled for p in draw.problems for _ in range(draw.part.n)]
    # Of all rows at once: which sequences share a batch changes the last digits.
    rows = [(r.text, r.finish != "length") for draw in sampled for r in draw.rows()]
    texts, ended = [text for text, _ in rows], [end for _, end in rows]
    own, base = (scorer(context, s).log_probabilities(statements, texts, ended) for s in (model_stage, "rlvr"))
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
