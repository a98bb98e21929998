"""A small study, and results of its tasks as if they had run: enough for all that reads them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pns.records import Response, Rubric, Scores, Verdict, write_parquet
from pns.run import Run, write_json
from pns.scheduler import Task
from pns.study.cells import Recipes
from pns.study.spec import load_study

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "name": "small",
    "recipe": str(ROOT / "recipes" / "smoke.yaml"),
    "seeds": [1, 2, 3],
    "methods": ["rejection", "pns"],
    "objectives": {"dpo": {}},
    "tuning": {"seeds": [11], "grid": {"align.learning_rate": [1e-5, 2e-5], "align.beta": [0.1, 0.2]}},
}
BENCHMARKS = ("one", "two")


def study_file(folder: Path, **changes: Any) -> Path:
    """SMALL with changes, as a file."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False), encoding="utf-8")
    return path


def recipes(folder: Path, **changes: Any) -> Recipes:
    """SMALL with changes, read as the command does."""
    path = study_file(folder, **changes)
    return Recipes(load_study(path), path)


Accuracy = Callable[[Task, str], float]
"""(a scoring task, greedy or sampled) -> share of right answers."""


def pretend(run: Run, tasks: Mapping[str, Task], accuracy: Accuracy, *, problems: int = 40) -> None:
    """Publish a result for every task that has none, in the files that a study reads. The run must exist.

    The problems of a seed that are easy are easy for every model, so that differences are paired.
    """
    for task in tasks.values():
        if run.published(task.label).is_dir():
            continue
        out = run.begin(task.label, task.mark)
        _write(out, task, accuracy, problems)
        run.publish(task.label, {"name": task.stage.name, "fingerprint": task.mark, "seconds": 2.0})


def _write(out: Path, task: Task, accuracy: Accuracy, problems: int) -> None:
    name = task.stage.name
    if name == "problems":
        write_json(out / "summary.json", {"benchmarks": list(BENCHMARKS)})
    elif task.stage.call in ("evaluate:dev", "evaluate:test"):
        sets = ("dev",) if task.stage.call == "evaluate:dev" else BENCHMARKS
        for kind, k in (("greedy", 1), ("sampled", 2)):
            for which in sets:
                write_parquet(out / f"{kind}-{which}.parquet", _answers(task, which, kind, k, accuracy, problems))
        write_json(out / "kl.json", {"kl": 0.0 if "rlvr" in name else 0.1})
    elif name == "pairs":
        method_stats = {"n": 20, "coverage": 0.5, "separated_before": 0.7, "chosen_logp": -1.0, "rejected_logp": -3.0}
        methods, regimes = task.recipe.negatives.methods, task.recipe.pairs.regimes
        write_json(out / "stats.json", {f"{r}-{m}": method_stats for r in regimes for m in methods})
    elif task.stage.call == "align:align":
        shifts = {"separated_after": 0.8, "chosen_logp_shift": 0.1, "rejected_logp_shift": -0.5}
        write_json(out / "stats.json", {**shifts, "warnings": []})
    else:
        _upstream(out, name)


def _upstream(out: Path, name: str) -> None:
    if name.startswith("negatives-"):
        made = {"candidates": 9, "problems_served": 3}
        yields = {"n": 9, "wrong": 0.6, "plausible": 0.4, "kl_to_policy": 1.0, "fully_consistent": None}
        write_json(out / "stats.json", {**made, **(yields if name == "negatives-pns" else {})})
        write_parquet(out / "negatives.parquet", _negatives(3 if name == "negatives-pns" else 1))
    elif name == "generator":
        gates = {"composite/scored": 0.5, "composite/correct": 0.3, "composite/malformed": 0.2}
        rows = [{"step": i, "reward": 0.1 * i, **gates} for i in (1, 2, 3)]
        (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif name.startswith("reward_model"):
        write_json(out / "worth.json", {"pair_accuracy": 0.6, "best_of_8": 0.5, "mean_of_8": 0.5, "oracle_of_8": 0.8})
        write_json(out / "hard.json", {"before": {"auc": 0.4}, "after": {"auc": 0.6}})
    elif name.startswith("step_verifier"):
        f1 = {"value": 0.6 if name.endswith("pns") else 0.4, "ci95": [0.1, 0.9]}
        shares = {"f1": f1, "accuracy_erroneous": f1, "accuracy_correct": f1}
        write_json(out / "verifier.json", {"held_out": {"f1": shares, "auc": {"value": 0.7, "ci95": [0.6, 0.8]}}})
    elif name.startswith("calibration"):
        figures = ("brier", "log_loss", "ece", "accuracy", "auc")
        fits = {"fitted_on_pairs": dict.fromkeys(figures, 0.2), "fitted_on_policy": dict.fromkeys(figures, 0.1)}
        none = {"fitted_on_pairs": None, "fitted_on_policy": None}
        write_json(out / "probabilities.json", {"judge": none, "reward_model": fits, "both": fits})
    elif name == "scores":
        write_json(out / "scores.json", {"correct": [1.0, 2.0], "pns": [0.5, 1.5], "rejection": [-1.0, 0.0]})
    else:
        (out / "empty").touch()


def _negatives(full: int) -> list[Response]:
    """Four that were judged, so many of them with full marks, and one that was not."""
    marks = [3] * full + [1] * (4 - full)
    rubrics = [Rubric(relevance=3, coherence=3, completeness=3, consistency=last) for last in marks]
    return [
        Response(
            problem_id=f"n{i}", text="1", index=0, source="x", n_tokens=1,
            scores=Scores(gate="scored", score=0.5, well_formed=True, rubric=rubric),
        )
        for i, rubric in enumerate([*rubrics, None])
    ]  # fmt: skip


def _answers(task: Task, which: str, kind: str, k: int, accuracy: Accuracy, problems: int) -> list[Response]:
    share = accuracy(task, kind)
    digest = hashlib.sha256(f"{task.recipe.seed}/{which}/{kind}".encode()).digest()
    luck = random.Random(digest)
    rows = []
    for i in range(problems):
        for index in range(k):
            right = luck.random() < share
            verdict = Verdict(outcome="correct" if right else "wrong", answer="1" if right else "2")
            rows.append(
                Response(
                    problem_id=f"{which}-{i}", text="<b>1</b>", index=index, source="x", verdict=verdict, n_tokens=3
                )
            )
    return rows
