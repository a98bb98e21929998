"""Negatives that a prompted model writes. Shards of them are durable one by one, and so is what they have cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

from pns.errors import StageStopped, UserError
from pns.negatives.prompted import FIELD, MalformedReply, Prompt, Style, Unwritten, load_prompt, parse_reply, styles_of
from pns.recipe import PromptedPart
from pns.records import Gate, Problem, Response, read_jsonl, to_jsonl
from pns.run import read_json, seed_of, write_atomic, write_json
from pns.sampling.engine import Completion, Engine, TransformersEngine
from pns.sampling.jobs import Job
from pns.stages import engines
from pns.stages.context import Context
from pns.training.pretrained import writer_of

if TYPE_CHECKING:
    from pns.sampling.server_writer import ServerWriter

TOO_LONG = "longer than the policy reads"


class Writer(Protocol):
    """Whoever answers prompts: `n` replies to each, in order. `counts` is what that has cost so far, by name."""

    name: str
    counts: dict[str, int]

    def write(self, prompts: Sequence[str], shard: int) -> list[list[Completion | Unwritten]]: ...


class EngineWriter:
    """The recipe's engine. The same seed and shard give the same replies, as far as it promises that."""

    def __init__(self, engine: Engine, part: PromptedPart, seed: int) -> None:
        self.name, self.counts = engine.name, {"completion_tokens": 0}
        self._engine, self._part, self._seed = engine, part, seed

    def write(self, prompts: Sequence[str], shard: int) -> list[list[Completion | Unwritten]]:
        part = self._part
        seed = seed_of(self._seed, f"shard/{shard}")
        drawn = self._engine.generate(Job(prompts, part.n, part.temperature, part.top_p, part.max_new_tokens, seed))
        self.counts["completion_tokens"] += sum(one.n_tokens for ones in drawn for one in ones)
        return [list(ones) for ones in drawn]


@dataclass(frozen=True)
class _Desk:
    """What every shard needs."""

    context: Context
    part: PromptedPart
    prompt: Prompt
    problems: Mapping[str, Problem]
    policy: TransformersEngine
    writer: Writer


def written(context: Context) -> list[Response]:
    """Wrong solutions, as far as the writer obeys, to the problems that have a chosen response; not scored yet.

    A failed request costs its candidates. A shard without a single reply stops the stage, unless the budget has ended or
    the server refuses just these prompts while others had replies.

    Returns:
        responses with the policy's log-probability; `sampling` says how they were written.
    Raises UserError for a prompt, model, key or URL that cannot be used, StageStopped where there was no reply.
    """
    part = context.recipe.negatives.prompted
    prompt, problems = load_prompt(part), {p.id: p for p in context.problems("pairs")}
    right = context.chosen()
    policy = engines.reader(context, context.model("rlvr"), batch_size=part.batch_size)
    size, out = max(1, part.batch_size // (part.n * len(styles_of(part)))), list[Response]()
    with _writer(context, policy) as writer:
        desk = _Desk(context, part, prompt, problems, policy, writer)
        for number, at in enumerate(range(0, len(right), size)):
            path = _shards(context) / f"{number:05d}.jsonl"
            if not path.is_file():
                write_atomic(path, to_jsonl(_shard(desk, right[at : at + size], number)))
            out.extend(read_jsonl(path, Response))
            context.progress(min(at + size, len(right)), len(right))
    return out


def account(context: Context, candidates: Sequence[Response]) -> dict[str, Any]:
    """What became of every reply that was asked for, for stats.json.

    `asked` = `replies` + `failed_server` + `failed_budget`, and `replies` = candidates + what `malformed` counts by
    reason; `gates` counts the candidates of each style by what the composite made of them; `spent` is the cost.
    """
    total = _total(context)
    asked, server, budget = (total["counts"][k] for k in ("asked", "failed_server", "failed_budget"))
    gates = {style: dict.fromkeys(get_args(Gate), 0) for style in styles_of(context.recipe.negatives.prompted)}
    for r in candidates:
        gates[r.sampling["style"]][r.scores.gate if r.scores else "unscored"] += 1
    return {
        "asked": asked, "replies": asked - server - budget, "failed_server": server, "failed_budget": budget,
        "malformed": dict(sorted(total["malformed"].items())), "gates": gates,
        "spent": dict(sorted(total["spent"].items())),
    }  # fmt: skip


def _shards(context: Context) -> Path:
    return context.out / "shards"


def _total(context: Context) -> dict[str, Counter[str]]:
    """The counts of all shards; of one that was stopped, what it has cost."""
    total: dict[str, Counter[str]] = {name: Counter() for name in ("counts", "malformed", "spent")}
    for path in sorted(_shards(context).glob("*.json")):
        for name, counts in read_json(path).items():
            total[name].update(counts)
    return total


@contextmanager
def _writer(context: Context, policy: TransformersEngine) -> Iterator[Writer]:
    part = context.recipe.negatives.prompted
    if part.writer == "server":
        with closing(_server_writer(context)) as server:
            yield server
    elif part.writer == "policy":
        # One engine, for shards are asked for one after another: a pool would load its models for each of them.
        with engines.sampler(context, "rlvr", policy, pool=False) as engine:
            yield EngineWriter(engine, part, context.seed)
    else:
        with engines.other_sampler(context, writer_of(part), f"{FIELD}.model") as engine:
            yield EngineWriter(engine, part, context.seed)


def _server_writer(context: Context) -> ServerWriter:
    part = context.recipe.negatives.prompted
    try:
        from pns.sampling.server_writer import ServerWriter
    except ModuleNotFoundError as error:
        raise UserError(
            f"a model behind a server needs {error.name}", field=f"{FIELD}.server",
            remedy='install it: pip install "plausible-negatives[server]"',
        ) from None  # fmt: skip
    spent = _total(context)["spent"]
    return ServerWriter(part, context.seed, (spent["calls"], spent["tokens"]))


def _shard(desk: _Desk, some: Sequence[Response], number: int) -> list[Response]:
    """The solutions in the replies for some problems; what became of all of them is on disk when it returns."""
    part, writer, path = desk.part, desk.writer, _shards(desk.context) / f"{number:05d}.json"
    asks = [(right, style) for right in some for style in styles_of(part)]
    earlier = read_json(path)["spent"] if path.is_file() else {}
    before = dict(writer.counts)
    replies = writer.write([_message(desk, right, style) for right, style in asks], number)
    spent = {k: n - before[k] + earlier.get(k, 0) for k, n in writer.counts.items()}
    flat = [one for ones in replies for one in ones]
    lost = [one for one in flat if isinstance(one, Unwritten) and one.failure != "malformed"]
    if len(lost) == len(flat) and (any(one.again for one in lost) or not _answered(desk.context)):
        write_json(path, {"spent": spent})
        raise StageStopped(f"{writer.name or 'the server'} answered none of {len(flat)} requests: {lost[0].detail}")
    counts, malformed = Counter(asked=len(flat)), Counter[str]()
    rows = []
    for (right, style), ones in zip(asks, replies, strict=True):
        for index, one in enumerate(ones, styles_of(part).index(style) * part.n):
            found = _solution(desk, one, right.problem_id)
            if isinstance(found, Completion):
                rows.append(_response(desk, found, right.problem_id, index, style))
            elif found.failure == "malformed":
                malformed[found.detail] += 1
            else:
                counts[f"failed_{found.failure}"] += 1
    logps = desk.policy.log_probabilities([desk.problems[r.problem_id].problem for r in rows], [r.text for r in rows])
    write_json(path, {"counts": counts, "malformed": malformed, "spent": spent})
    return [r.model_copy(update={"policy_logp": p, "n_tokens": n}) for r, (p, n) in zip(rows, logps, strict=True)]


def _message(desk: _Desk, right: Response, style: Style) -> str:
    solution = right.text if style == "edit" else None
    answer_format = desk.context.recipe.reward.answer_format
    return desk.prompt.render(desk.problems[right.problem_id].problem, solution, answer_format)


def _answered(context: Context) -> bool:
    """Whether any request of the shards so far had a reply."""
    counts = _total(context)["counts"]
    return counts["asked"] > counts["failed_server"] + counts["failed_budget"]


def _solution(desk: _Desk, one: Completion | Unwritten, identity: str) -> Completion | Unwritten:
    """The completion cut to its solution, or why there is none."""
    if isinstance(one, Unwritten):
        return one
    answer_format, most = desk.context.recipe.reward.answer_format, desk.part.max_new_tokens
    try:
        text, finish = parse_reply(one.text, one.finish, answer_format=answer_format, max_tokens=most)
    except MalformedReply as error:
        return Unwritten("malformed", str(error))
    if not desk.policy.fits(desk.problems[identity].problem, text):
        return Unwritten("malformed", TOO_LONG)
    return Completion(text, one.n_tokens, finish)


def _response(desk: _Desk, found: Completion, identity: str, index: int, style: Style) -> Response:
    part, name = desk.part, desk.writer.name
    how = {
        "style": style, "prompt": desk.prompt.version, "writer": part.writer, "temperature": part.temperature,
        "top_p": part.top_p, "max_new_tokens": part.max_new_tokens,
        **({"server_model": name} if part.writer == "server" else {}),
    }  # fmt: skip
    return Response(
        problem_id=identity, text=found.text, index=index, source="prompted", model=name, sampling=how,
        finish=found.finish,
    )  # fmt: skip
