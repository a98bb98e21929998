"""Speed of sampling and scoring side by side: the stage `samples-pns` as it is, against the same stage one after another.

    python benchmarks/pipeline.py RUN [--repeats 5] [--problems 256] [--judge-seconds 0 0.4] [--out FILE]

RUN is a finished run (`make demo` makes runs/embedded). Its generator draws, and its verifier, reward model and a judge score; both
log-probabilities are computed; shards are written: all that the stage does. The judge is behind a server on this machine that answers
each request after so many seconds, as a large model would, and with 0 there is none: the step checker. The peer
draws a shard, scores it, computes its log-probabilities, draws the next. Both give the same rows (checked), in turn, repeat by repeat;
ratios are ours over the peer. `bound` is what any overlap could reach with one thread for each: the longer of drawing and scoring, over
their sum, from the peer's own times; ours may go below it, since log-probabilities are computed beside the scores, and a server judges
several shards at a time. `drawing` is the share of our wall clock in which the engine drew.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from pns.errors import UserError
from pns.recipe import Recipe
from pns.recipe_files import load_recipe
from pns.records import Problem, Response, read_parquet, write_parquet
from pns.run import Run
from pns.sampling import shards
from pns.sampling.engine import Engine, TransformersEngine
from pns.sampling.jobs import Drawn, Job
from pns.stages import samples
from pns.stages.context import Context

MARKS = {"relevance": 3, "coherence": 2, "completeness": 3, "consistency": 1}


class SlowJudge(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that thinks for a while."""

    protocol_version = "HTTP/1.1"
    seconds: ClassVar[float] = 0.0

    def do_GET(self) -> None:
        self._reply({"object": "list", "data": [{"id": "slow", "object": "model"}]})

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        probe = "single word" in asked
        time.sleep(0 if probe else self.seconds)
        text = json.dumps({"code": 17} if probe else {"reason": "It reads well.", **MARKS})
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        self._reply({"object": "chat.completion", "choices": [choice], "usage": usage})

    def _reply(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


class Http(ThreadingHTTPServer):
    """With room for all connections of a batch at once."""

    request_queue_size = 256
    daemon_threads = True


def serve(seconds: float, told: Any) -> None:
    SlowJudge.seconds = seconds
    server = Http(("127.0.0.1", 0), SlowJudge)
    told.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def judge(seconds: float) -> Iterator[list[str]]:
    """Settings of a recipe whose judge takes that long; its server is a process of its own."""
    if not seconds:
        yield ["reward.judge=steps"]
        return
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(seconds, there), daemon=True)
    process.start()
    try:
        part = {"server": {"url": f"http://127.0.0.1:{here.recv()}/v1"}, "cache": None}
        yield ["reward.judge=server", f"reward.judge_server={json.dumps(part)}"]
    finally:
        process.kill()
        process.join()


def context_of(run: Path, recipe: Recipe, problems: int, folder: Path) -> Context:
    """The stage of that run on so many of its problems, in a folder of its own."""
    inputs = {p.name.split("-", 1)[1]: p for p in Run.open(run).stages.glob("[0-9]*-*") if not p.suffix}
    few = folder / "problems"
    few.mkdir(parents=True)
    write_parquet(few / "pairs.parquet", read_parquet(inputs["problems"] / "pairs.parquet", Problem)[:problems])
    out = folder / "out"
    out.mkdir()
    return Context(recipe, "samples-pns", out, inputs | {"problems": few}, lambda *_: None)


@contextmanager
def one_after_another(engine: Engine, todo: Sequence[tuple[shards.Draw, int]]) -> Iterator[Iterator[tuple[int, Drawn]]]:
    yield ((i, engine.generate(draw.job(number))) for i, (draw, number) in enumerate(todo))


def one_at_a_time(work: Callable[[Any], Any], rows: Iterable[Any], most: int) -> Iterator[Any]:
    return map(work, rows)


class AtOnce(ThreadPoolExecutor):
    """Does what it is given in the thread that gives it."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*given, **named))
        return done


def timed(run: Path, recipe: Recipe, given: argparse.Namespace, ours: bool) -> tuple[float, float, list[Response]]:
    """Seconds in all, seconds of drawing, and the rows."""
    drawing, own = 0.0, TransformersEngine.generate

    def clocked(engine: TransformersEngine, job: Job) -> Drawn:
        nonlocal drawing
        begin = time.perf_counter()
        try:
            return own(engine, job)
        finally:
            drawing += time.perf_counter() - begin

    with tempfile.TemporaryDirectory() as folder, ExitStack() as patched:
        context = context_of(run, recipe, given.problems, Path(folder))
        patched.enter_context(patch.object(TransformersEngine, "generate", clocked))
        if not ours:
            patched.enter_context(patch.multiple(shards, drawing=one_after_another, each=one_at_a_time))
            patched.enter_context(patch.object(samples, "ThreadPoolExecutor", AtOnce))
        begin = time.perf_counter()
        samples.samples(context)
        took = time.perf_counter() - begin
        return took, drawing, read_parquet(context.out / "candidates.parquet", Response)


def compare(run: Path, seconds: float, given: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    with judge(seconds) as settings:
        recipe, _ = load_recipe(run / "recipe.yaml", settings)
        timed(run, recipe, given, ours=True)  # warm
        for repeat in range(given.repeats):
            rows = {}
            for side in ("ours", "peer") if repeat % 2 else ("peer", "ours"):
                took, drawing, rows[side] = timed(run, recipe, given, ours=side == "ours")
                times[side].append((took, drawing))
            assert rows["ours"] == rows["peer"], "both sides give the same rows"
    pairs = list(zip(times["ours"], times["peer"], strict=True))
    ratios = [a / b for (a, _), (b, _) in pairs]
    return {
        "judge_seconds": seconds,
        "rows": len(rows["ours"]),
        "judged": sum(r.scores is not None and r.scores.rubric is not None for r in rows["ours"]),
        "ratio": statistics.median(ratios), "ratios": [round(r, 3) for r in sorted(ratios)],
        "bound": statistics.median(max(drawing, took - drawing) / took for took, drawing in times["peer"]),
        "drawing": statistics.median(drawing / took for took, drawing in times["ours"]),
        "peer_drawing": statistics.median(drawing / took for took, drawing in times["peer"]),
        "seconds": statistics.median(took for took, _ in times["ours"]),
        "peer_seconds": statistics.median(took for took, _ in times["peer"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--judge-seconds", type=float, nargs="+", default=[0.0, 0.4])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = []
    try:
        for seconds in given.judge_seconds:
            r = compare(given.run, seconds, given)
            found.append(r)
            print(
                f"judge of {seconds:g} s: ours takes {r['ratio']:.3f} times as long as one after another (repeats: {r['ratios']}); "
                f"bound {r['bound']:.3f}; {r['seconds']:.1f} s against {r['peer_seconds']:.1f} s for {r['rows']} rows, {r['judged']} "
                f"judged; the engine draws in {r['drawing']:.0%} of the time, against {r['peer_drawing']:.0%}", flush=True,
            )  # fmt: skip
    except UserError as error:
        raise SystemExit(str(error)) from None
    if given.out:
        machine = {
            "python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
            "settings": {"repeats": given.repeats, "problems": given.problems},
        }  # fmt: skip
        given.out.write_text(json.dumps({"machine": machine, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
