"""Sample problems in fixed shards that are durable one by one: a resume does only the shards in flight again.

A shard is a fixed slice of the problems with a seed from its number, so neither a resume nor the number of workers
changes the samples, as far as the engine promises it (`Engine.deterministic`). While one shard is verified and scored,
the next one is drawn already. In memory are the shards that the engine has under way, one drawn ahead, and those that are
scored; what a pool of engines draws beyond that waits on disk, and outlives the driver (see `pns.sampling.spool`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pns.recipe import SamplePart
from pns.records import Problem, Response, read_jsonl, to_jsonl
from pns.run import seed_of, write_atomic
from pns.sampling.engine import Engine
from pns.sampling.jobs import Drawn, Job, Pool, ahead, each
from pns.sampling.prompts import controlled
from pns.sampling.spool import kept, spooled

Finish = Callable[[Sequence[Problem], list[Response]], list[Response]]


@dataclass(frozen=True)
class Draw:
    """`part.n` responses for each problem.

    Attributes:
        folder: where the shards lie (JSONL); complete ones are read, not drawn again.
        seed: that the shards' own come from.
        source: of the responses.
        control: text behind each problem (see `pns.sampling.prompts.controlled`).
    """

    problems: Sequence[Problem]
    part: SamplePart
    folder: Path
    seed: int
    source: str
    control: str | None = None

    @property
    def shards(self) -> range:
        """The first problem of each shard."""
        return range(0, len(self.problems), self._size)

    @property
    def responses(self) -> int:
        """How many there will be."""
        return len(self.problems) * self.part.n

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:05d}.jsonl"

    def waiting(self, number: int) -> Path:
        """The file of a shard that is drawn and not scored yet."""
        return self.folder / f"{number:05d}.drawn.json"

    def chunk(self, number: int) -> Sequence[Problem]:
        """The problems of a shard."""
        return self.problems[number * self._size : (number + 1) * self._size]

    def job(self, number: int) -> Job:
        """What draws a shard."""
        part = self.part
        return Job(
            [controlled(p.problem, self.control) for p in self.chunk(number)],
            n=part.n,
            temperature=part.temperature,
            top_p=part.top_p,
            max_new_tokens=part.max_new_tokens,
            seed=seed_of(self.seed, f"shard/{number}"),
        )

    def finished(self) -> list[Path]:
        """The files of the shards that are there."""
        return [path for number in range(len(self.shards)) if (path := self.path(number)).is_file()]

    def rows(self) -> Iterator[Response]:
        """The finished responses, by problem, then by index; one shard in memory at a time."""
        for number in range(len(self.shards)):
            yield from read_jsonl(self.path(number), Response)

    @property
    def _size(self) -> int:
        return max(1, self.part.batch_size // self.part.n)


def sample(
    engine: AbstractContextManager[Engine],
    draws: Sequence[Draw],
    finish: Finish,
    progress: Callable[[int, int], None],
    *,
    at_once: int = 1,
    check: Callable[[list[Response]], None] = lambda rows: None,
) -> None:
    """Do the shards of all draws that are not there yet; then `Draw.rows` reads them.

    Args:
        engine: is entered, and so made, only where there is something to draw.
        finish: fills in verdicts, scores, log-probabilities for one shard: (problem of each response, responses).
        progress: called with (responses done, responses in all).
        at_once: shards that `finish` works on at a time, above 1 each in a thread of its own. They are written in order.
        check: called, in order, with the finished rows of a shard before it is written; what it raises stops the work.
    """
    every = [(draw, number) for draw in draws for number in range(len(draw.shards))]
    todo: list[tuple[Draw, int]] = []
    for draw, number in every:
        if draw.path(number).is_file():
            draw.waiting(number).unlink(missing_ok=True)  # the driver may have ended between writing the one and this
        else:
            todo.append((draw, number))
    total = sum(draw.responses for draw in draws)
    done = total - sum(len(draw.chunk(number)) * draw.part.n for draw, number in todo)
    if done:
        progress(done, total)
    if not todo:
        return
    with engine as made, drawing(made, todo) as drawn:

        def finished(found: tuple[int, Drawn]) -> tuple[int, list[Response]]:
            place, completions = found
            draw, number = todo[place]
            by_row = [p for p in draw.chunk(number) for _ in range(draw.part.n)]
            return place, finish(by_row, _responses(draw, number, completions, made.name))

        for place, rows in each(finished, drawn, at_once):
            draw, number = todo[place]
            check(rows)
            write_atomic(draw.path(number), to_jsonl(rows))
            draw.waiting(number).unlink(missing_ok=True)
            done += len(rows)
            progress(done, total)


@contextmanager
def drawing(engine: Engine, todo: Sequence[tuple[Draw, int]]) -> Iterator[Iterator[tuple[int, Drawn]]]:
    """(place, completions) of all these shards; from one engine in order, of which a thread draws one ahead."""
    if not isinstance(engine, Pool):
        yield ahead((place, engine.generate(draw.job(number))) for place, (draw, number) in enumerate(todo))
        return
    waiting = [draw.waiting(number) for draw, number in todo]
    ready = [place for place, (draw, n) in enumerate(todo) if kept(waiting[place], len(draw.chunk(n)), draw.part.n)]
    rest = sorted(set(range(len(todo))) - set(ready))
    jobs = [draw.job(number) for draw, number in (todo[place] for place in rest)]

    def rows() -> Generator[tuple[int, Drawn]]:
        for i, completions in engine.generate_all(jobs):
            yield rest[i], completions

    with spooled(rows(), waiting.__getitem__, ready) as found:
        yield found


def _responses(draw: Draw, number: int, drawn: Drawn, model: str) -> list[Response]:
    part = draw.part
    how = {"temperature": part.temperature, "top_p": part.top_p, "max_new_tokens": part.max_new_tokens}
    return [
        Response(
            problem_id=problem.id,
            text=completion.text,
            index=index,
            source=draw.source,
            model=model,
            sampling=how,
            finish=completion.finish,
            n_tokens=completion.n_tokens,
        )
        for problem, completions in zip(draw.chunk(number), drawn, strict=True)
        for index, completion in enumerate(completions)
    ]
