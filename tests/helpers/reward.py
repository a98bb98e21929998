"""A reward model that needs no model, and real responses to score with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from helpers.data import rows
from pns.records import Problem, Rubric
from pns.rewards import Calibration
from pns.rewards.identity import ModelMark
from pns.run import file_hash

KIND = "helpers.reward:scores"


def scores(problems: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """A number from -3 to 3 that depends on problem and text alone; none for one response in 25."""
    out: list[float | None] = []
    for problem, text in zip(problems, texts, strict=True):
        drawn = int.from_bytes(hashlib.sha256(f"{problem}\0{text}".encode()).digest()[:4], "big")
        out.append(None if drawn % 25 == 0 else drawn / 2**32 * 6 - 3)
    return out


def real_responses() -> list[tuple[Problem, str]]:
    """500 model solutions: 200 of MATH problems, and 300 of GSM8K problems, most of them wrong, their answer in a box."""
    math = [row for i, row in enumerate(rows("cot_labels/math_cot_100x8.jsonl")) if i % 4 == 0]
    every = rows("cot_labels/gsm8k_model_solutions.jsonl")
    school = [*(row for row in every if row["final_answer"] is None), *every[::17]][:300]  # no answer: undecided
    problems = {row["id"]: row["problem"] for row in rows("math/gsm8k.test.jsonl")}
    return [
        *((Problem(id=r["id"], problem=r["problem"], answer=r["answer"]), r["response"]) for r in math),
        *(
            (
                Problem(id=r["id"], problem=problems[r["problem_id"]], answer=r["answer"]),
                "\n".join(r["steps"]) + f"\nThe answer is \\boxed{{{r['final_answer']}}}",
            )
            for r in school
        ),
    ]


def write_recipe(folder: Path) -> Path:
    """A recipe whose reward uses `scores`, with its calibration beside it."""
    mark = ModelMark(kind=KIND, digest=file_hash(Path(__file__)))
    Calibration.fit([i / 50 for i in range(-50, 51)], mark).save(folder / "calibration")
    part = {"reward_model": {"kind": KIND, "calibration": str(folder / "calibration")}}
    path = folder / "reward.yaml"
    path.write_text(yaml.safe_dump({"name": "parity", "reward": part}))
    return path


def down(problem: str, response: str, answer: str | None) -> Rubric:
    """A judge that is not there."""
    raise ConnectionError("judge is down")
