"""Peak memory of `pns score`, of selection, of rollouts and of evaluation, for synthetic rows in growing number.

    python benchmarks/memory.py [--rows 100000 1000000] [--out FILE]

Each step runs in a process of its own (a stage in a copy of one that has imported the libraries), whose peak resident memory is
what is reported, and the stage's own seconds: `score` is the command itself, on
four responses a problem, one of them wrong in each way; `select` picks the negatives of the scored rows; `rollouts` and
`evaluate` are the stages, 64 responses a problem, with an engine that writes them at once, a verifier that looks at their
numbers and no log-probabilities; `rejection` draws the wrong ones of the rollouts. What grows with the rows would show as a
ratio above 1; a problem itself, and the one response chosen for it, are in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
RECIPE = "reward: {judge: steps}\n"

# Run with `python -c CODE ARGUMENTS`; they print their own peak memory (KiB on Linux, bytes on macOS).
PEAK = """
import resource, sys
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""
SCORE = """
import sys
from pns.cli import app
try:
    app(["score", sys.argv[1], "--recipe", sys.argv[2], "--out", sys.argv[3], "--json", "--batch", "512"])
except SystemExit as end:
    assert not end.code, end.code
"""
SELECT = """
import json, sys
from pathlib import Path
from pns.negatives.selection import select_to
from pns.negatives.yields import yield_of
from pns.recipe import NegativesPart
from pns.records import Response, Scores
def rows():
    with open(sys.argv[1], encoding="utf-8") as scored, open(sys.argv[2], encoding="utf-8") as given:
        for i, (row, response) in enumerate(zip(map(json.loads, scored), map(json.loads, given))):
            scores = Scores.model_validate({k: row[k] for k in Scores.model_fields})
            yield Response(
                problem_id=f"p{(i // 4 * 7919) % 1000003}", text=response["response"], index=i % 4, source="pns", n_tokens=40,
                policy_logp=-20.0 - i % 17, sampling={"generator_logp": -18.0}, verdict=scores.verdict, scores=scores,
            )
found = select_to(Path(sys.argv[3]), rows(), NegativesPart(), None, plausible=True, how="likely", seed=0)
assert found["problems_served"] > 0
assert yield_of(rows, floor=0.0, min_rubric=9)["wrong"] > 0
"""

STAGES = """
import json, os, resource, sys, time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from pns.recipe import EvaluatePart, NegativesPart, PairsPart, RewardPart, SamplePart
from pns.records import Problem, Verdict
from pns.run import write_json
from pns.sampling.prompts import Completion
from pns.stages import evaluate, negatives, policy
from pns.stages.context import Context
rows, out = int(sys.argv[1]), Path(sys.argv[2])
TEXT = "Ada adds the two numbers, and has as many plums as they are together.\\n"
class Engine:
    name, deterministic = "written", True
    def generate(self, job):
        return [[Completion(f"{TEXT}\\\\boxed{{{i}}}", 40, "stop") for i in range(job.n)] for _ in job.problems]
    def log_probabilities(self, problems, texts, ended=None):
        return [(-20.0, 40)] * len(texts)
class Verifier:
    def verify_problems(self, problems, texts):
        right = (f"boxed{{{p.answer}}}" in t for p, t in zip(problems, texts))
        return [Verdict(outcome="correct" if r else "wrong", answer="1") for r in right]
class Here(Context):
    def problems(self, split):
        return [Problem(id=f"p{i}", problem=f"How many plums at stall {i}?", answer=str(i % 64)) for i in range(rows // 64)]
    def verifier(self):
        return nullcontext(Verifier())
for module in (policy, evaluate):
    module.scorer = lambda *_: Engine()
evaluate.sampler = policy.engines.sampler = lambda *_: nullcontext(Engine())
recipe = SimpleNamespace(
    seed=0, rollouts=SamplePart(n=64), reward=RewardPart(), pairs=PairsPart(n=1, min_pairs=1), negatives=NegativesPart(),
    evaluate=EvaluatePart(k=64),
)
out.mkdir(exist_ok=True)
def run(step):
    here = Here(recipe, step, out, {"rollouts-pairs": out, "problems": out}, lambda *_: None)
    if step == "rollouts":
        policy.rollouts(here, "pairs")
    elif step == "rejection":
        found = negatives._wrong_rollouts(here, SimpleNamespace(failures=lambda *_: ()), "rejection")
        assert len(found) >= rows // 64
    else:
        write_json(out / "summary.json", {"benchmarks": ["one"]})
        evaluate.evaluate(here, "policy")
# Each in a copy of this process, which has imported the libraries: what they take is in every peak.
for step in sys.argv[3:]:
    child = os.fork()
    if not child:
        begin = time.perf_counter()
        run(step)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"bytes": peak, "seconds": round(time.perf_counter() - begin, 1)}), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, step
"""
IN_STAGES = ("rollouts", "rejection", "evaluate")
STEPS = ("score", "select", *IN_STAGES)


def write_rows(path: Path, rows: int) -> None:
    """Four responses to each problem: right, wrong in its last step, wrong without steps, and not to be read."""
    with path.open("w", encoding="utf-8") as out:
        for i in range(rows // 4):
            a, b = 10 + i % 89, 3 + i % 7
            problem = f"Ada has {a} plums and buys {b} at stall {i}. How many plums has she?"
            for text in (
                f"Step 1: {a} + {b} = {a + b}\nThe answer is \\boxed{{{a + b}}}",
                f"Step 1: {a} + {b} = {a + b + 1}\nThe answer is \\boxed{{{a + b + 1}}}",
                f"The answer is \\boxed{{{a + b + 2}}}",
                "I do not know",
            ):
                out.write(json.dumps({"problem": problem, "answer": str(a + b), "response": text}) + "\n")


def output(code: str, *arguments: str) -> list[str]:
    """The lines that a process prints which runs the code."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()


def child(code: str, *arguments: str) -> dict[str, float]:
    """Peak bytes and seconds of a process that runs the code."""
    begin = time.perf_counter()
    lines = output(code + PEAK, *arguments)
    return {"bytes": float(lines[-1]), "seconds": round(time.perf_counter() - begin, 1)}


def measure(rows: int, folder: Path, before: str = "") -> dict[str, Any]:
    """Peaks of all STEPS at this many rows. `before`: code that the processes run first."""
    given, scored, recipe = (folder / name for name in ("given.jsonl", "scored.jsonl", "reward.yaml"))
    write_rows(given, rows)
    recipe.write_text(RECIPE)
    score = child(before + SCORE, str(given), str(recipe), str(scored))
    select = child(before + SELECT, str(scored), str(given), str(folder / "negatives.parquet"))
    found = output(before + STAGES, str(rows), str(folder / "stage"), *IN_STAGES)[-len(IN_STAGES) :]
    return {"rows": rows, "score": score, "select": select, **dict(zip(IN_STAGES, map(json.loads, found), strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = []
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(rows, Path(folder)))
        for step in STEPS:
            one, first = found[-1][step], found[0][step]
            ratio = one["bytes"] / first["bytes"]
            print(
                f"{step}, {rows} rows: {one['bytes'] / 1e6:.0f} MB peak ({ratio:.2f}), {one['seconds']:.0f} s",
                flush=True,
            )
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
