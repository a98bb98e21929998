"""The stages as the pipeline names them, and what a worker says when something goes wrong."""

from __future__ import annotations

import errno
import importlib
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pns.stages.policy
import pns.worker
from pns import pipeline
from pns.errors import StageStopped, UserError
from pns.pipeline import Stage
from pns.problems import embedded
from pns.recipe_files import load_recipe
from pns.records import Problem, Response, read_parquet, write_parquet
from pns.run import read_json
from pns.sampling.prompts import Completion
from pns.stages.context import Context
from pns.stages.summary import _notes
from pns.worker import Job, work

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"


def test_every_stage_is_a_function_that_takes_its_arguments() -> None:
    for stage in pipeline.stages(load_recipe(SMOKE, ["references=[rlvr_more, nsr, w_reinforce]"])[0]).values():
        module, _, name = stage.call.partition(":")
        function = getattr(importlib.import_module(f"pns.stages.{module}"), name)
        inspect.signature(function).bind(None, *stage.args)
        assert function.__doc__, stage.call


class Reader:
    """Log-probabilities by a tokenizer of its own: 17 tokens a response."""

    def log_probabilities(self, problems: list[str], texts: list[str], ended: Any = None) -> list[tuple[float, int]]:
        return [(-5.0, 17)] * len(texts)


class Writer:
    name, deterministic = "model", True

    def __init__(self, right: bool) -> None:
        self.right = right

    def generate(self, job: Any) -> list[list[Completion]]:
        text = f"Step 1: 1 + 1 = {2 if self.right else 3}\nThe answer is \\boxed{{{2 if self.right else 3}}}"
        return [[Completion(text, 99, "stop")] * job.n for _ in job.problems]


@pytest.mark.parametrize(("sampler", "tokens"), [("generator", 17), ("rlvr", 99)])
def test_who_wrote_the_chosen_side_and_whose_tokens_it_counts(
    sampler: str, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [
        Problem(id=f"p{i}", problem=f"Mia has 1 apple and finds 1. How many? ({i})", answer="2") for i in range(3)
    ]
    (tmp_path / "problems").mkdir()
    write_parquet(tmp_path / "problems" / "pairs.parquet", problems)
    recipe, _ = load_recipe(SMOKE, ["pairs.chosen=policy"])
    inputs = {"problems": tmp_path / "problems", "rlvr": tmp_path, "generator": tmp_path}
    monkeypatch.setattr(pns.stages.policy, "scorer", lambda context, stage: Reader())

    def run(*, right: bool) -> list[Response]:
        out = tmp_path / str(right)
        out.mkdir()
        monkeypatch.setattr(pns.stages.policy.engines, "sampler", lambda *_: nullcontext(Writer(right)))
        pns.stages.policy.rollouts(Context(recipe, "rollouts", out, inputs, lambda *_: None), "pairs", sampler)
        return read_parquet(out / "chosen.parquet", Response)

    rows = run(right=True)
    name = "generator" if sampler == "generator" else "policy"
    assert [(r.source, r.policy_logp, r.n_tokens) for r in rows] == [(name, -5.0, tokens)] * 3
    with pytest.raises(UserError, match=f"rollouts of the {name} on 3 problems") as caught:
        run(right=False)
    assert f"train the {name} longer" in (caught.value.remedy or "")


def chained(cause: Exception) -> Exception:
    """An error that a library raised while it handled another one."""
    try:
        try:
            raise cause
        except Exception:
            raise RuntimeError("cannot save") from None
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),  # as safetensors says it
        (chained(OSError(errno.ENOSPC, "x")), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ValueError("x"), False),
    ],
)
def test_a_full_disk_is_recognised_behind_other_errors(error: Exception, full: bool) -> None:
    assert pns.worker._out_of_space(error) == full


def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: Callable[..., Any]) -> tuple[str, Any]:
    """What a worker tells its driver when its stage's function is `function`."""
    recipe, _ = load_recipe(SMOKE)
    stage = Stage("sft", "policy:sft", (), ())
    job = Job(stage, recipe, tmp_path, {}, tmp_path / "log", tmp_path / "lock", 1)
    monkeypatch.setattr(pns.worker, "call", function)
    # The worker owns its process: here the test's output and signals stay what they are.
    monkeypatch.setattr(pns.worker.os, "dup2", lambda *_: None)
    monkeypatch.setattr(pns.worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(pns.worker.sys, "stdout", pns.worker.sys.stdout)
    monkeypatch.setattr(pns.worker.sys, "stderr", pns.worker.sys.stderr)
    ours, theirs = Pipe(duplex=False)
    work(job, theirs)
    message: tuple[str, Any] = ours.recv()
    return message


def raises(error: Exception) -> Callable[..., None]:
    def function(*_: Any) -> None:
        raise error

    return function


def test_a_worker_says_how_its_stage_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind, value = said(monkeypatch, tmp_path, lambda *_: None)
    assert kind == "done"
    assert value["seconds"] >= 0
    assert value["peak_memory_bytes"] > 1e7
    assert said(monkeypatch, tmp_path, raises(UserError("bad", field="a.b"))) == ("user", "a.b: bad")
    assert said(monkeypatch, tmp_path, raises(StageStopped("judge down"))) == ("stopped", "judge down")
    kind, value = said(monkeypatch, tmp_path, raises(OSError(errno.ENOSPC, "No space left")))
    assert kind == "user"
    assert "the disk is full while sft was writing" in value
    kind, value = said(monkeypatch, tmp_path, raises(ZeroDivisionError("oops")))
    assert kind == "bug"
    assert "ZeroDivisionError: oops" in value
    assert (tmp_path / "log").read_text().count("--- sft") == 5


def test_references_differ_in_reward_advantage_and_step_size_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`rlvr_more`, `nsr` and `w_reinforce`: the same start, problems, steps and batches, as many as PNS cost."""
    problems = embedded.training_problems("generator", 160, 0)
    (tmp_path / "problems").mkdir()
    for split, some in (("generator", problems[:64]), ("pairs", problems[64:112]), ("reward", problems[112:])):
        write_parquet(tmp_path / "problems" / f"{split}.parquet", some)
    said = ["no box", f"Step 1: 1 + 1 = 2\nThe answer is \\boxed{{{problems[0].answer}}}"]
    called: list[dict[str, Any]] = []

    def train(start: Path, rows: Any, reward: Any, out: Path, **how: Any) -> None:
        paid = reward(
            prompts=["?"] * 2, completions=said, completion_ids=[[1]] * 2, problem_id=[problems[0].id] * 2
        )  # while the verifier is open
        called.append({"start": start, "rows": rows, "paid": paid, **how})

    monkeypatch.setattr(pns.stages.policy, "train_grpo", train)
    monkeypatch.setattr(pns.stages.policy, "end_ids", lambda *_: {1})
    monkeypatch.setattr(
        "pns.rewards.adapters.trl.format_failures", lambda text, **_: () if "boxed" in text else ("no",)
    )
    recipe, _ = load_recipe(
        SMOKE, ["references=[rlvr_more, nsr, w_reinforce]", "reinforce={learning_rate: 7e-6, positive_weight: 0.2}"]
    )
    nodes = pipeline.stages(recipe)
    inputs = {"problems": tmp_path / "problems", "rlvr": tmp_path / "rlvr"}
    for name in recipe.references:
        (tmp_path / name).mkdir()
        pipeline.call(nodes[name], Context(recipe, name, tmp_path / name, inputs, lambda *_: None))
    more, nsr, weighted = called
    assert [c["positive_weight"] for c in called] == [None, 0.0, 0.2]
    assert [c["part"].learning_rate for c in called] == [recipe.rlvr.learning_rate, 7e-6, 7e-6]
    assert more["paid"] == [0, 1 + recipe.rlvr.format_weight]
    assert nsr["paid"] == weighted["paid"] == [-1, 1]
    same = {"learning_rate": 1.0}
    assert len({c["part"].model_copy(update=same) for c in called}) == 1
    assert [[p.id for p in c["rows"]] for c in called] == [[p.id for p in problems]] * 3
    assert {c["start"] for c in called} == {tmp_path / "rlvr" / "model"}
    splits = recipe.problems.splits
    sampled = splits.pairs * recipe.negatives.sample.n + splits.reward * recipe.rollouts.n
    rows = recipe.generator.prompts_per_step * recipe.generator.num_generations
    steps = recipe.generator.steps + -(-sampled // rows)
    assert {c["part"].steps for c in called} == {steps}
    budgets = [read_json(tmp_path / name / "budget.json") for name in recipe.references]
    assert budgets == [{"steps": steps, "steps_of_pns": steps}] * 3


def test_each_reference_that_fell_short_of_the_budget_is_noted() -> None:
    given = {
        "problems": {"notes": []},
        "rlvr_more": {"steps": 4, "steps_of_pns": 9},
        "nsr": {"steps": 9, "steps_of_pns": 9},
        "w_reinforce": {"steps": 3, "steps_of_pns": 9},
    }
    context: Any = SimpleNamespace(json=lambda stage, _: given[stage])
    for there, short in ((("rlvr_more", "nsr", "w_reinforce"), (4, 3)), (("nsr", "w_reinforce"), (3,)), ((), ())):
        notes = _notes(context, {"benchmarks": {}, "mean": dict.fromkeys(there, 0.5)})
        assert [note.partition(":")[0].split(" ", 1)[1] for note in notes] == [
            f"made {n} of the 9 steps that PNS cost" for n in short
        ]


def test_chosen_sides_that_the_control_cut_are_noted() -> None:
    results: dict[str, Any] = {"benchmarks": {}, "mean": {"sft_chosen": 0.5}}
    given = {"problems": {"notes": []}, "align-sft_chosen": {"warnings": ["cut: 2 of 9"]}}
    for cut, notes in ((True, ["sft_chosen: cut: 2 of 9"]), (False, [])):
        recipe = SimpleNamespace(align=SimpleNamespace(cut=cut))
        context: Any = SimpleNamespace(json=lambda stage, _: given[stage], recipe=recipe)
        assert _notes(context, results) == notes
