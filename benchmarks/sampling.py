"""Speed of the engines: our layer against the bare library under it, and the engines against each other.

    python benchmarks/sampling.py [--repeats 5] [--problems 64] [--n 4] [--sides transformers continuous server ray readers]
        [--out FILE]

A model from scratch (--hidden, --layers) on the embedded problems. Ours and the bare library draw the same completions, in
turn, repeat by repeat; the ratio (ours over bare) of each repeat is given with its median and range, so a machine that
others use adds spread and no bias. Beside the wall clock the ratio of this process's own CPU time, which others disturb less:
for `server` that is the client alone. `server` is `transformers serve` on this machine. `ray` is rows a second for 1
and 2 actors, from the first shard that arrives to the last, so without the start of the actors. `readers`: log-probabilities by 1
and 2 actors against the same call in this process, in turn; both have their model loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from pns.parts.engine import EnginePart, EngineServerPart
from pns.problems import embedded
from pns.readers import Readers
from pns.recipe import ModelPart, SamplePart
from pns.run import seed_of
from pns.sampling.engine import TransformersEngine, user
from pns.sampling.jobs import Job
from pns.sampling.make import make_engine
from pns.sampling.shards import Draw, sample

Side = Callable[[int], int]
SERVE = ("-m", "transformers.cli.transformers", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}")


def save_model(folder: Path, given: argparse.Namespace) -> Path:
    import torch

    from pns.training.common import save_model
    from pns.training.tiny import build_model, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = ModelPart(hidden=given.hidden, layers=given.layers, heads=4, feed_forward=4 * given.hidden)
    save_model(build_model(shape, tokenizer), tokenizer, folder)
    return folder


def compare(name: str, ours: Side, bare: Side, repeats: int, rows: int) -> dict[str, Any]:
    """Each side is called with the number of the repeat and gives how many completions it drew."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    cpu: dict[str, list[float]] = {"ours": [], "bare": []}
    for side in (ours, bare):
        side(0)  # warm: caches, connections
    for repeat in range(repeats):
        sides = [("ours", ours), ("bare", bare)]
        for which, side in sides if repeat % 2 else sides[::-1]:
            begin, used = time.perf_counter(), time.process_time()
            assert side(repeat) == rows
            times[which].append(time.perf_counter() - begin)
            cpu[which].append(time.process_time() - used)
    ratios, cpu_ratios = (sorted(a / b for a, b in zip(t["ours"], t["bare"], strict=True)) for t in (times, cpu))
    return {
        "name": name,
        "cpu_ratio": statistics.median(cpu_ratios),
        "cpu_ratios": [round(r, 3) for r in cpu_ratios],
        "cpu_seconds": statistics.median(cpu["ours"]),
        "bare_cpu_seconds": statistics.median(cpu["bare"]), "ratio": statistics.median(ratios), "ratios": [round(r, 3) for r in ratios],
        "rows_a_second": rows / statistics.median(times["ours"]),
        "bare_rows_a_second": rows / statistics.median(times["bare"]),
    }  # fmt: skip


def transformers_sides(model: Path, given: argparse.Namespace) -> tuple[Side, Side]:
    import torch

    engine, how = TransformersEngine(model), sampling(given)
    tokenizer, net, texts = engine.tokenizer, engine.model, problems(given)

    def ours(repeat: int) -> int:
        return sum(len(ones) for ones in engine.generate(Job(texts, seed=repeat, **how)))

    def bare(repeat: int) -> int:
        torch.manual_seed(repeat)
        chats = [[user(text)] for text in texts]
        batch = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = net.generate(
                **batch, max_new_tokens=given.max_new_tokens, do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
                num_return_sequences=given.n, pad_token_id=tokenizer.pad_token_id, cache_implementation="static",
                disable_compile=True,
            )  # fmt: skip
        return len(tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))

    return ours, bare


def continuous_sides(model: Path, given: argparse.Namespace) -> tuple[Side, Side]:
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig

    engine: Any = make_engine(model, EnginePart(continuous_batching=True), device="cpu")
    tokenizer, net, texts, how = engine.tokenizer, engine.model, problems(given), sampling(given)

    def ours(repeat: int) -> int:
        return sum(len(ones) for ones in engine.generate(Job(texts, seed=repeat, **how)))

    def bare(repeat: int) -> int:
        torch.manual_seed(repeat)
        chats = [tokenizer.apply_chat_template([user(t)], add_generation_prompt=True, tokenize=False) for t in texts]
        ids = tokenizer(chats, add_special_tokens=False)["input_ids"]
        config = GenerationConfig(
            do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=given.max_new_tokens,
            num_return_sequences=given.n, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        # The same cache: transformers' own choice on a CPU is most of the machine's memory.
        cache = ContinuousBatchingConfig(**engine._cache(ids, given.n, given.max_new_tokens))
        found = net.generate_batch(ids, generation_config=config, continuous_batching_config=cache)
        return len([tokenizer.decode(one.generated_tokens, skip_special_tokens=True) for one in found.values()])

    return ours, bare


def server_sides(engine: Any, url: str, model: Path, given: argparse.Namespace) -> tuple[Side, Side]:
    import httpx2

    tokenizer, texts, how = engine.tokenizer, problems(given), sampling(given)

    def ours(repeat: int) -> int:
        return sum(len(ones) for ones in engine.generate(Job(texts, seed=repeat, **how)))

    async def ask_all(repeat: int) -> int:
        limits = httpx2.Limits(max_connections=given.concurrency)
        async with httpx2.AsyncClient(limits=limits, timeout=600.0) as http:

            async def ask(prompt: str, seed: int) -> str:
                body = {
                    "model": str(model), "prompt": prompt, "max_tokens": given.max_new_tokens, "temperature": 1.0, "top_p": 1.0,
                    "seed": seed, "generation_config": json.dumps({"do_sample": True, "top_k": 0}),
                }  # fmt: skip
                reply = await http.post(f"{url}/completions", json=body)
                return str(reply.json()["choices"][0]["text"])

            prompts = [
                tokenizer.apply_chat_template([user(t)], add_generation_prompt=True, tokenize=False) for t in texts
            ]
            asks = [ask(p, seed_of(repeat, f"problem/{i}/{k}")) for i, p in enumerate(prompts) for k in range(given.n)]
            return len(await asyncio.gather(*asks))

    return ours, lambda repeat: asyncio.run(ask_all(repeat))


def ray_speed(model: Path, given: argparse.Namespace, workers: int, folder: Path) -> dict[str, Any]:
    """Rows a second from the first shard to the last."""
    part = SamplePart(n=given.n, max_new_tokens=given.max_new_tokens, batch_size=8 * given.n)
    rows = embedded.training_problems("pairs", 8 * given.shards, 0)
    came: list[float] = []
    begin = time.perf_counter()
    with closing(make_engine(model, EnginePart(ray_workers=workers), device="cpu")) as engine:
        sample(
            nullcontext(engine),
            [Draw(rows, part, folder, 0, "b")],
            lambda _, r: r,
            lambda *_: came.append(time.perf_counter()),
        )
    per_shard = 8 * given.n
    return {
        "workers": workers, "rows_a_second": per_shard * (len(came) - 1) / (came[-1] - came[0]),
        "seconds_to_first": came[0] - begin, "rows": per_shard * len(came),
    }  # fmt: skip


def readers_sides(model: Path, given: argparse.Namespace, readers: Readers) -> tuple[Side, Side]:
    elsewhere = TransformersEngine(model, batch_size=32, passes=readers.of("causal", str(model)))
    here = TransformersEngine(model, batch_size=32)
    rows = embedded.training_problems("pairs", 16 * given.problems, 0)
    texts = [p.solution or "" for p in rows]

    def side(engine: TransformersEngine) -> Side:
        return lambda _: len(engine.log_probabilities([p.problem for p in rows], texts))

    return side(elsewhere), side(here)


def problems(given: argparse.Namespace) -> list[str]:
    return [p.problem for p in embedded.training_problems("pairs", given.problems, 0)]


def sampling(given: argparse.Namespace) -> dict[str, Any]:
    return {"n": given.n, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": given.max_new_tokens}


def compared(side: str, model: Path, given: argparse.Namespace) -> dict[str, Any]:
    rows = given.problems * given.n
    if side == "transformers":
        return compare(side, *transformers_sides(model, given), given.repeats, rows)
    if side == "continuous":
        return compare(side, *continuous_sides(model, given), given.repeats, rows)
    part = EngineServerPart(
        start=(sys.executable, *SERVE, "--device", "cpu"), dialect="transformers", concurrency=given.concurrency
    )
    engine: Any = make_engine(model, EnginePart(kind="server", server=part), device="cpu")
    with closing(engine):
        return compare(side, *server_sides(engine, engine._servers.urls[0], model, given), given.repeats, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", default=["transformers", "continuous", "server", "ray", "readers"])
    for name, value in (
        ("repeats", 5), ("problems", 64), ("n", 4), ("max-new-tokens", 32), ("hidden", 96), ("layers", 3), ("concurrency", 16),
        ("shards", 24),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "model", given)
        for side in (s for s in given.sides if s not in ("ray", "readers")):
            r = compared(side, model, given)
            found.append(r)
            print(
                f"{side}: ours takes {r['ratio']:.3f} times as long as the bare library (repeats: {r['ratios']}); "
                f"{r['rows_a_second']:.1f} against {r['bare_rows_a_second']:.1f} completions a second; CPU time {r['cpu_ratio']:.3f} times "
                f"(repeats: {r['cpu_ratios']}; {r['cpu_seconds']:.2f} s against {r['bare_cpu_seconds']:.2f} s)", flush=True,
            )  # fmt: skip
        for workers in (1, 2) if "ray" in given.sides else ():
            r = ray_speed(model, given, workers, Path(folder) / f"ray{workers}")
            found.append(r)
            print(
                f"ray, {workers} actor(s): {r['rows_a_second']:.1f} completions a second ({r['rows']} in all), the first shard "
                f"after {r['seconds_to_first']:.0f} s", flush=True,
            )  # fmt: skip
        for actors in (1, 2) if "readers" in given.sides else ():
            with closing(Readers(EnginePart(ray_readers=actors), device="cpu", threads=1)) as readers:
                sides = readers_sides(model, given, readers)
                r = compare(f"readers {actors}", *sides, given.repeats, 16 * given.problems)
            found.append(r)
            print(
                f"{actors} reader(s): {r['ratio']:.3f} times as long as here (repeats: {r['ratios']}); {r['rows_a_second']:.0f} "
                f"against {r['bare_rows_a_second']:.0f} texts a second", flush=True,
            )  # fmt: skip
    if given.out:
        machine = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "settings": vars(given) | {"out": None},
        }
        given.out.write_text(json.dumps({"machine": machine, "results": found}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
