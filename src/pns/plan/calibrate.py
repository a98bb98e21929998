"""Measures the constants of the cost model on the machine at hand: a matrix product, a memory copy, a small model.

A model is timed at two sizes of batch: the difference gives the rate, what is left is what a pass costs whatever its
size. Each figure is the median of a few repeats. It takes about half a minute on a CPU. Training libraries' own work
beside the model (data, logging, rewards) is not measured here, nor the share of bandwidth in decoding: one row of a model
this small waits for launches, not for memory. (Source: ours.)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from pns.plan.machine import DEFAULTS, Machine
from pns.plan.shapes import Shape

SMALL = {
    "cpu": Shape(96, 3, 8, 8, 12, 256, 297, 256, tied=True),
    "cuda": Shape(1024, 8, 16, 8, 64, 4096, 32000, 2048, tied=True),
}
"""The models that are timed: on a CPU that of recipes/embedded.yaml, on a GPU one of 0.15 billion parameters."""
_ROWS = {"cpu": (8, 64), "cuda": (4, 32)}
_DECODED = {"cpu": (32, 256), "cuda": (8, 64)}
_LENGTH = {"cpu": 60, "cuda": 512}
_PROMPT, _NEW = 4, 24
_REPEATS = 3


def calibrate(device: str) -> Machine:
    """Measure one device (`cuda`), or one thread (`cpu`).

    Raises RuntimeError where torch sees no GPU and one is asked for.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU here")
    base = DEFAULTS[device]
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else threads)
    try:
        product, moved = matmul(device), copy(device)
        model = _model(device)
        shape, length = SMALL[device], _LENGTH[device]
        train_rate, train_fixed = _rate(
            lambda rows: _train_pass(model, device, rows, length), device, _ROWS[device], shape.train_flops(length)
        )
        read_rate, _ = _rate(
            lambda rows: _read_pass(model, device, rows, length), device, _ROWS[device], shape.forward_flops(length)
        )
        per_token = shape.decode_flops(_PROMPT + _NEW)
        decode_rate, decode_fixed = _rate(
            lambda rows: _decode(model, device, rows), device, _DECODED[device], per_token * _NEW
        )
    finally:
        torch.set_num_threads(threads)
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if device == "cuda" else _free_memory()
    return base.model_copy(
        update={
            "name": torch.cuda.get_device_name(0) if device == "cuda" else "one thread of this machine's CPU",
            "source": f"measured by `pns plan --calibrate` on {time.strftime('%Y-%m-%d', time.gmtime())}; link, network, "
            "disk, graph, compiled and fixed times of steps and stages, the share of bandwidth in decoding and what libraries take of "
            "memory are defaults",
            "memory_gb": round(memory, 2),
            "matmul_tflops": _two(product / 1e12),
            "bandwidth_gbs": _two(moved / 1e9),
            "train_share": _two(min(2.0, train_rate / product)),
            "forward_share": _two(min(2.0, read_rate / product)),
            "decode_share": _two(min(2.0, decode_rate / product)),
            "pass_seconds": _two(train_fixed / shape.layers),
            "token_seconds": _two(decode_fixed / _NEW / shape.layers),
            "verify_seconds": _two(_verify()),
        }
    )


def _two(value: float) -> float:
    """Two significant digits: more would be noise."""
    return float(f"{value:.2g}")


def fit(times: tuple[float, float], rows: tuple[int, int], flops: float) -> tuple[float, float]:
    """Operations a second, and seconds whatever the size, from two timings of batches of rows of `flops` operations.

    Where noise makes the larger batch the faster one, all of its time counts as work.
    """
    slope = (times[1] - times[0]) / (rows[1] - rows[0])
    if slope <= 0:
        return rows[1] * flops / times[1], 0.0
    return flops / slope, max(0.0, times[0] - rows[0] * slope)


def _rate(call: Callable[[int], object], device: str, rows: tuple[int, int], flops: float) -> tuple[float, float]:
    found = []
    for size in rows:
        call(size)  # the first one also allocates
        found.append(statistics.median(_timed(lambda size=size: call(size), device) for _ in range(_REPEATS)))  # type: ignore[misc]
    return fit((found[0], found[1]), rows, flops)


def _timed(call: Callable[[], object], device: str, wall: bool = False) -> float:
    """Seconds of one call. On a CPU the process's own, since others may be at work beside it; those of all threads together."""
    import torch

    if device == "cpu" and not wall:
        start = time.process_time()
        call()
        return time.process_time() - start
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul(device: str, *, wall: bool = False) -> float:
    """Operations a second in a square product: float32 on a CPU, bfloat16 on a GPU. See `_timed` for `wall`."""
    import torch

    size = 768 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    _timed(lambda: a @ a, device)
    return 2.0 * size**3 / statistics.median(_timed(lambda: a @ a, device, wall) for _ in range(5))


def copy(device: str, *, wall: bool = False) -> float:
    """Bytes a second read and written in a copy that no cache holds. See `_timed` for `wall`."""
    import torch

    a = torch.zeros((64 if device == "cpu" else 1024) * 1024 * 1024 // 4, dtype=torch.float32, device=device)
    b = torch.empty_like(a)
    _timed(lambda: b.copy_(a), device)
    return 2.0 * a.numel() * 4 / statistics.median(_timed(lambda: b.copy_(a), device, wall) for _ in range(5))


def _model(device: str) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SMALL[device]
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.positions, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(device)
    return model if device == "cpu" else model.to(torch.bfloat16)


def _tokens(device: str, rows: int, length: int) -> Any:
    import torch

    return torch.randint(1, SMALL[device].vocab, (rows, length), device=device)


def _train_pass(model: Any, device: str, rows: int, length: int) -> None:
    ids = _tokens(device, rows, length)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    model.zero_grad()


def _read_pass(model: Any, device: str, rows: int, length: int) -> None:
    import torch

    with torch.inference_mode():
        model.eval()(input_ids=_tokens(device, rows, length))


def _decode(model: Any, device: str, rows: int) -> None:
    import torch

    ids = _tokens(device, rows, _PROMPT)
    with torch.inference_mode():
        model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=_NEW, do_sample=True, top_k=0,
            cache_implementation="static", disable_compile=True,
        )  # fmt: skip


def _verify() -> float:
    """Seconds of one symbolic verification, in the verifier's own process, on answers like those of competitions."""
    from pns.records import Problem
    from pns.verify import Verifier

    golds = [r"\frac{x+1}{2}", "x^2 + 2x + 1", r"2\sqrt{3}+1", r"\frac{\pi}{6}"]
    said = [r"\frac{1}{2}x + 0.5", "(x+1)^2", r"1+\sqrt{12}", r"\frac{\pi}{3}"]
    rows = [Problem(id=str(i), problem="?", answer=gold) for i, gold in enumerate(golds)]
    texts = [f"So it is \\boxed{{{answer}}}" for answer in said]
    times = []
    with Verifier("boxed") as verifier:
        for _ in range(1 + _REPEATS):  # the first one starts the process
            start = time.perf_counter()
            verifier.verify_problems(rows, texts)
            times.append((time.perf_counter() - start) / len(rows))
    return statistics.median(times[1:])


def _free_memory() -> float:
    import psutil

    return float(psutil.virtual_memory().available) / 1e9
