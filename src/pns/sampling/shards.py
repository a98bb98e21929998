"""Sample problems in fixed shards that are durable one by one: a resume does only the shard in flight again.

A shard is a fixed slice of the problems with a seed from its number, so neither a resume nor the number of workers
changes the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pns.recipe import SamplePart
from pns.records import Problem, Response, read_jsonl, to_jsonl
from pns.run import seed_of, write_atomic
from pns.sampling.engine import Completion, Engine

Finish = Callable[[Sequence[Problem], list[Response]], list[Response]]


def sample_shards(
    engine: Engine,
    problems: Sequence[Problem],
    part: SamplePart,
    folder: Path,
    *,
    seed: int,
    source: str,
    finish: Finish,
    progress: Callable[[int, int], None],
) -> list[Response]:
    """Draw `part.n` responses for each problem.

    Args:
        folder: where the shards lie (JSONL); complete ones are read, not drawn again.
        finish: fills in verdicts, scores, log-probabilities for one shard: (problem of each response, responses).
        progress: called with (responses done, responses in all).
    Returns:
        all responses, by problem, then by index.
    """
    size = max(1, part.batch_size // part.n)
    out: list[Response] = []
    for number, at in enumerate(range(0, len(problems), size)):
        path = folder / f"{number:05d}.jsonl"
        if not path.is_file():
            chunk = list(problems[at : at + size])
            drawn = engine.generate(
                [p.problem for p in chunk],
                n=part.n,
                temperature=part.temperature,
                top_p=part.top_p,
                max_new_tokens=part.max_new_tokens,
                seed=seed_of(seed, f"shard/{number}"),
            )
            rows = _responses(chunk, drawn, engine.name, source, part)
            by_row = [p for p in chunk for _ in range(part.n)]
            write_atomic(path, to_jsonl(finish(by_row, rows)))
        out.extend(read_jsonl(path, Response))
        progress(len(out), len(problems) * part.n)
    return out


def _responses(
    chunk: Sequence[Problem], drawn: list[list[Completion]], model: str, source: str, part: SamplePart
) -> list[Response]:
    how = {"temperature": part.temperature, "top_p": part.top_p, "max_new_tokens": part.max_new_tokens}
    return [
        Response(
            problem_id=problem.id,
            text=completion.text,
            index=index,
            source=source,
            model=model,
            sampling=how,
            finish=completion.finish,
            n_tokens=completion.n_tokens,
        )
        for problem, completions in zip(chunk, drawn, strict=True)
        for index, completion in enumerate(completions)
    ]
