"""Speed of the verifier against math-verify's own parse + verify: the same rows, the same run, the same process.

    python benchmarks/verify.py [--repeats 5] [--out FILE]

Two labelled files of the data folder (PNS_DATA): GSM8K answers, already extracted, and MATH completions, from which each
side extracts the answer itself. Both sides take the rows in turn, repeat by repeat; the ratio of each repeat is printed
with its median. Every row on which the two differ is printed. Then answers a second through the pool, for answers that
need algebra.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from pns.recipe import expand
from pns.verify import Verifier
from pns.verify.check import decide
from pns.verify.pool import Item

Rows = list[dict[str, Any]]


def read(name: str) -> Rows:
    path = Path(expand(f"$PNS_DATA/{name}"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").strip().split("\n")]


def peer(gold: str, text: str) -> bool:
    """math-verify as its README uses it, with its own time-outs."""
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(text)))


def forget() -> None:
    """Empty the caches of both sides, so that a repeat does the work again."""
    from latex2sympy2_extended import latex2sympy2
    from math_verify import parser

    for module in (parser, latex2sympy2):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def compare(
    name: str,
    rows: Rows,
    theirs: Callable[[dict[str, Any]], bool],
    ours: Callable[[Verifier, Rows], list[str]],
    repeats: int,
) -> dict[str, Any]:
    ratios, ours_seconds, theirs_seconds = [], [], []
    for _ in range(repeats):
        forget()
        with Verifier() as verifier:
            verifier.check([r"\sqrt{8}"], [r"2\sqrt{2}"])  # a started worker, as the peer's imports are done too
            begin = time.perf_counter()
            verdicts = ours(verifier, rows)
            ours_seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        said = [theirs(row) for row in rows]
        theirs_seconds.append(time.perf_counter() - begin)
        ratios.append(theirs_seconds[-1] / ours_seconds[-1])
    differing = [
        {"id": r["id"], "gold": r["answer"], "answer": r.get("final_answer", r.get("pred")), "label": r["final_answer_correct"],
         "pns": v, "math_verify": s}
        for r, v, s in zip(rows, verdicts, said, strict=True) if (v == "correct") != s
    ]  # fmt: skip
    labels = [r["final_answer_correct"] for r in rows]
    return {
        "name": name,
        "rows": len(rows),
        "ratio": statistics.median(ratios),
        "ratios": [round(r, 1) for r in sorted(ratios)],
        "pns_seconds": statistics.median(ours_seconds),
        "math_verify_seconds": statistics.median(theirs_seconds),
        "pns_agrees_with_label": sum((v == "correct") == x for v, x in zip(verdicts, labels, strict=True)),
        "math_verify_agrees_with_label": sum(s == x for s, x in zip(said, labels, strict=True)),
        "differing": differing,
    }


def pool_speed(workers: int, repeats: int) -> dict[str, Any]:
    """Answers a second through the pool: golds of MATH train against those of other problems, algebra needed."""
    golds = [r["answer"] for r in read("math/math.train.jsonl")]
    pairs = [(a, b) for a, b in zip(golds, golds[7:], strict=False) if decide(a, b) is None]
    rates = []
    for _ in range(repeats):
        with Verifier(workers=workers) as verifier:
            verifier.pool.run([Item("x", f"{i}x") for i in range(2, 2 + 4 * workers)])
            begin = time.perf_counter()
            verifier.pool.run([Item(a, b) for a, b in pairs])
            rates.append(len(pairs) / (time.perf_counter() - begin))
    return {
        "workers": workers,
        "answers": len(pairs),
        "a_second": statistics.median(rates),
        "all": sorted(map(round, rates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    results = [
        compare(
            "GSM8K answers",
            read("cot_labels/gsm8k_model_solutions.jsonl"),
            lambda r: peer(r["answer"], f"\\boxed{{{r['final_answer'] or ''}}}"),
            lambda v, rows: [
                x.outcome for x in v.check([r["answer"] for r in rows], [r["final_answer"] for r in rows])
            ],
            given.repeats,
        ),
        compare(
            "MATH completions",
            read("cot_labels/math_cot_100x8.jsonl"),
            lambda r: peer(r["answer"], r["response"]),
            lambda v, rows: [x.outcome for x in v.verify([r["answer"] for r in rows], [r["response"] for r in rows])],
            given.repeats,
        ),
    ]
    for r in results:
        print(
            f"{r['name']}: {r['rows']} rows, {r['ratio']:.1f} times as fast as math-verify (repeats: {r['ratios']}); "
            f"{r['pns_seconds']:.2f} s against {r['math_verify_seconds']:.2f} s; labels met: pns "
            f"{r['pns_agrees_with_label']}, math-verify {r['math_verify_agrees_with_label']}; {len(r['differing'])} differ"
        )
        for row in r["differing"]:
            print("   ", json.dumps(row, ensure_ascii=False))
    pool = [pool_speed(workers, given.repeats) for workers in (1, 2)]
    for p in pool:
        print(f"pool, {p['workers']} worker(s): {p['a_second']:.0f} answers a second that need algebra ({p['all']})")
    if given.out:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "command": sys.argv}
        given.out.write_text(json.dumps({"machine": machine, "results": results, "pool": pool}, indent=1) + "\n")


if __name__ == "__main__":
    main()
