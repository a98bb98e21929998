"""The stage of prompted negatives, on a small model: a scripted server that obeys, errs, fails and comes back."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

from helpers.judge_server import Answer, Request, ScriptedServer
from helpers.reward import KIND, write_recipe
from helpers.small import save_small_model
from pns.errors import StageStopped, UserError
from pns.negatives.rules import flip
from pns.parts.engine import EnginePart
from pns.problems import embedded
from pns.recipe_files import load_recipe
from pns.records import Response, read_parquet, write_parquet
from pns.rewards.judge import client
from pns.rewards.reward_model import Calibration
from pns.sampling.engine import TransformersEngine
from pns.sampling.jobs import Drawn, Job
from pns.sampling.prompts import Completion
from pns.stages.context import Context
from pns.stages.negatives import negatives
from pns.verify import Verifier

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
PROBLEMS = {p.id: p for p in embedded.training_problems("pairs", 6, 0)}
WRONG = {i: str(flip(str(p.solution), random.Random(1), answer_format="boxed", top=None)) for i, p in PROBLEMS.items()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the stage needs: problems (the last one without a chosen response), a policy, calibrations."""
    root = tmp_path_factory.mktemp("inputs")
    out = {name: root / name for name in ("problems", "rlvr", "rollouts-pairs", "reward_model")}
    for folder in out.values():
        folder.mkdir()
    save_small_model(out["rlvr"] / "model")
    write_parquet(out["problems"] / "pairs.parquet", list(PROBLEMS.values()))
    chosen = [
        Response(problem_id=p.id, text=str(p.solution), index=0, source="policy", n_tokens=30)
        for p in list(PROBLEMS.values())[:-1]
    ]
    write_parquet(out["rollouts-pairs"] / "chosen.parquet", chosen)
    Calibration.fit([i / 50 for i in range(-50, 51)]).save(out["reward_model"])
    write_recipe(root)
    return out


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.002)


def context(
    inputs: dict[str, Path], out: Path, *overrides: str, server: ScriptedServer | None = None, **keys: Any
) -> Context:
    """The stage at work; `keys` are those of negatives.prompted."""
    reward = f"{{kind: '{KIND}', calibration: '{inputs['rlvr'].parent / 'calibration'}'}}"
    if server is not None:
        talk = {"url": server.url, "retries": keys.pop("retries", 1), "concurrency": 1}
        keys |= {"writer": "server", "model": "big", "cache": None, "server": talk}
    overrides = (*(f"negatives.prompted.{key}={json.dumps(value)}" for key, value in keys.items()), *overrides)
    given, _ = load_recipe(SMOKE, [f"reward.reward_model={reward}", "negatives.methods=[prompted]", *overrides])
    out.mkdir(exist_ok=True)
    return Context(given, "negatives-prompted", out, inputs, lambda done, total: None)


def rows(out: Path, name: str) -> list[Response]:
    return read_parquet(out / f"{name}.parquet", Response)


def stats(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "stats.json").read_text())
    return found


def asked(request: Request) -> str:
    """The id of the problem that a request is about."""
    (found,) = (i for i, p in PROBLEMS.items() if f"<problem>\n{p.problem}\n</problem>" in request.prompt)
    return found


def obeys(n: int, request: Request) -> Answer:
    return Answer(f"Here you are.\n<solution>\n{WRONG[asked(request)]}\n</solution>")


def test_replies_become_scored_candidates_and_only_wrong_ones_are_selected(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    first, second, third, *_ = PROBLEMS

    def script(n: int, request: Request) -> Answer:
        identity = asked(request)
        edit = "<correct_solution>" in request.prompt
        assert (str(PROBLEMS[identity].solution) in request.prompt) == edit
        right = str(PROBLEMS[identity].solution)
        if identity == first:
            return Answer(right)
        if identity == second:
            return Answer(f"I will make a mistake on purpose.\n{WRONG[identity]}")
        if identity == third:
            return Answer("<solution>" if edit else re.sub(r"\\boxed\{.*?\}", r"\\boxed{what}", right))
        return obeys(n, request) if edit else Answer(WRONG[identity], finish="length" if n % 2 else "stop")

    with ScriptedServer(script) as server:
        negatives(context(inputs, tmp_path / "out", style="both", n=2, server=server), "prompted")
        assert len(server.verdicts) == 5 * 2 * 2, "the problem without a chosen response is not asked about"
    out = tmp_path / "out"
    found, selected = rows(out, "candidates"), rows(out, "negatives")
    told = stats(out)
    assert {r.problem_id for r in selected} == set(list(PROBLEMS)[3:5])
    assert all(r.verdict and r.verdict.outcome == "wrong" and r.scores and r.scores.gate == "scored" for r in selected)
    assert {r.text for r in found if r.problem_id == first} == {PROBLEMS[first].solution}
    assert told["gates"]["edit"] == {"malformed": 2, "undecided": 0, "correct": 2, "scored": 4, "unscored": 0}
    assert told["gates"]["ask"] == {"malformed": 4, "undecided": 2, "correct": 2, "scored": 2, "unscored": 0}
    assert told["malformed"] == {"not one pair of solution tags": 2}
    assert (told["asked"], told["replies"], told["candidates"], told["problems_served"]) == (20, 20, 18, 2)
    assert (told["failed_server"], told["failed_budget"]) == (0, 0)
    assert (told["spent"]["calls"], told["spent"]["tokens"]) == (20, 21 * 120)
    assert Counter(r.problem_id for r in found)[first] == 4
    assert sorted(r.index for r in found if r.problem_id == first) == [0, 1, 2, 3]
    policy = TransformersEngine(inputs["rlvr"] / "model")
    logps = policy.log_probabilities([PROBLEMS[r.problem_id].problem for r in found], [r.text for r in found])
    assert [r.n_tokens for r in found] == [n for _, n in logps]
    assert [r.policy_logp for r in found] == pytest.approx([p for p, _ in logps], abs=1e-3)
    for r in found:
        assert (r.source, r.model) == ("prompted", "big")
        assert r.sampling == {
            "style": "ask" if r.index < 2 else "edit", "prompt": "wrong-v1", "writer": "server", "server_model": "big",
            "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 512,
        }  # fmt: skip


def test_a_stage_goes_on_after_the_shards_that_it_has(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Two problems a shard; the server goes away in the second one."""
    out, few = tmp_path / "out", {"n": 2, "batch_size": 4}
    with ScriptedServer(lambda n, r: obeys(n, r) if n < 4 else Answer(status=500)) as server:
        with pytest.raises(StageStopped, match="big answered none of 4 requests: HTTP 500"):
            negatives(context(inputs, out, **few, server=server), "prompted")
        calls = len(server.verdicts)
        assert calls == 4 + 4 * 2, "each failed request was tried twice"
    assert sorted(p.name for p in (out / "shards").iterdir()) == ["00000.json", "00000.jsonl", "00001.json"]
    assert not (out / "negatives.parquet").exists()
    with ScriptedServer(lambda n, r: Answer(status=503) if n == 1 else obeys(n, r)) as server:
        negatives(context(inputs, out, **few, retries=0, server=server), "prompted")
        assert len(server.verdicts) == 6, "the first shard is not asked for again"
    told = stats(out)
    assert (told["asked"], told["replies"], told["failed_server"], told["candidates"]) == (10, 9, 1, 9)
    assert told["spent"]["calls"] == calls + 6
    assert told["spent"]["probes"] == 2
    assert told["problems_served"] == 5
    before = (out / "stats.json").read_bytes(), (out / "negatives.parquet").read_bytes()
    with ScriptedServer() as server:
        negatives(context(inputs, out, **few, server=server), "prompted")
        assert not server.requests
    assert before == ((out / "stats.json").read_bytes(), (out / "negatives.parquet").read_bytes())
    (out / "shards" / "00002.jsonl").unlink()  # a kill between the two files of a shard: its cost is known, and grows
    with ScriptedServer(obeys) as server:
        negatives(context(inputs, out, **few, server=server), "prompted")
        assert len(server.verdicts) == 2
    again = stats(out)
    assert again["spent"].pop("calls") == told["spent"]["calls"] + 2
    assert {k: again[k] for k in ("asked", "replies", "failed_server")} == {
        k: told[k] for k in ("asked", "replies", "failed_server")
    }


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=500),
        Answer(status=401),
        Answer(status=404),
        Answer(status=400),
        Answer(body=b"?"),
        Answer(drop=True),
    ],
)
def test_without_a_single_reply_the_stage_stops(inputs: dict[str, Path], tmp_path: Path, answer: Answer) -> None:
    with ScriptedServer(lambda n, r: answer) as server:
        with pytest.raises(StageStopped, match="answered none of 20 requests"):
            negatives(context(inputs, tmp_path / "out", server=server), "prompted")
    assert not (tmp_path / "out" / "negatives.parquet").exists()


def test_what_a_server_refuses_alone_does_not_stop_the_stage(inputs: dict[str, Path], tmp_path: Path) -> None:
    third = list(PROBLEMS)[2]

    def script(n: int, request: Request) -> Answer:
        return Answer(status=400) if asked(request) == third else obeys(n, request)

    with ScriptedServer(script) as server:
        negatives(context(inputs, tmp_path / "out", n=1, batch_size=1, server=server), "prompted")
    told = stats(tmp_path / "out")
    assert (told["asked"], told["failed_server"], told["problems_served"]) == (5, 1, 4)


def test_the_budget_holds_over_attempts(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Three requests fail, then the server comes back: two are left of five, and the rest is not asked."""
    out, few = tmp_path / "out", {"n": 1, "batch_size": 1, "max_calls": 5}
    with ScriptedServer(lambda n, r: obeys(n, r) if n < 1 else Answer(status=500)) as server:
        with pytest.raises(StageStopped):
            negatives(context(inputs, out, **few, server=server), "prompted")
        assert len(server.verdicts) == 3
    with ScriptedServer(obeys) as server:
        negatives(context(inputs, out, **few, server=server), "prompted")
        assert len(server.verdicts) == 2
    told = stats(out)
    assert (told["asked"], told["replies"], told["failed_budget"], told["spent"]["calls"]) == (5, 3, 2, 5)
    with ScriptedServer(obeys) as server:
        with pytest.raises(StageStopped, match="max_total_tokens: 1 is reached"):
            negatives(context(inputs, tmp_path / "b", max_total_tokens=1, server=server), "prompted")


def test_a_reply_that_the_policy_cannot_read_is_no_candidate(inputs: dict[str, Path], tmp_path: Path) -> None:
    long = "\n".join(f"Step {i}: {i} + 1 = {i + 1}" for i in range(1, 60)) + "\nThe answer is \\boxed{60}"
    with ScriptedServer(lambda n, r: Answer(long) if n == 0 else obeys(n, r)) as server:
        negatives(context(inputs, tmp_path / "out", n=1, server=server), "prompted")
    assert stats(tmp_path / "out")["malformed"] == {"longer than the policy reads": 1}


def test_the_gates_are_asked_where_the_recipe_says_so(inputs: dict[str, Path], tmp_path: Path) -> None:
    """`flip` leaves the steps at odds with the answer, so the rubric is below 12."""
    served = []
    for name, gate in (("open", "false"), ("shut", "true")):
        with ScriptedServer(obeys) as server:
            made = context(
                inputs, tmp_path / name, "negatives.min_rubric=12", f"negatives.gate_all={gate}", n=1,
                server=server,
            )  # fmt: skip
            negatives(made, "prompted")
        served.append(stats(tmp_path / name)["problems_served"])
    assert served == [5, 0]


def test_a_model_in_this_process_writes_too(inputs: dict[str, Path], tmp_path: Path) -> None:
    """An untrained one writes nonsense, each time the same; it is the policy here, and another model."""
    model = inputs["rlvr"] / "model"
    few: dict[str, Any] = {"n": 2, "batch_size": 8, "max_new_tokens": 6, "style": "both", "temperature": 0.8}
    texts: dict[str, list[tuple[str, int, str]]] = {}
    writers: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {"writer": "model", "model": str(model)}}
    for name, more in writers.items():
        pretrained = "model={kind: pretrained, path: somewhere}"
        made = context(inputs, tmp_path / name, pretrained, **few, **more)
        negatives(made, "prompted")
        found, told = rows(tmp_path / name, "candidates"), stats(tmp_path / name)
        assert len(list((tmp_path / name / "shards").glob("*.jsonl"))) == 3
        assert told["asked"] == told["replies"] == 20
        assert told["candidates"] == len(found) == 20 - sum(told["malformed"].values())
        assert 20 <= told["spent"]["completion_tokens"] <= 20 * 6
        assert {r.sampling["writer"] for r in found} == {more.get("writer", "policy")}
        assert all(r.policy_logp is not None and "server_model" not in r.sampling for r in found)
        texts[name] = [(r.problem_id, r.index, r.text) for r in found]
    assert texts["a"] == texts["b"] == texts["c"]
    nowhere = context(inputs, tmp_path / "d", writer="model", model=str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"negatives\.prompted\.model"):
        negatives(nowhere, "prompted")


class Recorder:
    """An engine that obeys. `made` is what each was made with: path, kind, stage, whether a model was loaded for it."""

    name, deterministic = "recorder", False
    made: ClassVar[list[tuple[Path, str, str, bool]]] = []

    def __init__(self, path: Path, part: EnginePart, *, stage: str, pool: bool, loaded: Any, **more: Any) -> None:
        assert not pool, "shards are asked for one after another"
        Recorder.made.append((Path(path), part.kind, stage, loaded is not None))

    def generate(self, job: Job) -> Drawn:
        assert (job.n, job.temperature, job.prefixes) == (2, 0.7, None)
        wrong = [next(WRONG[i] for i, p in PROBLEMS.items() if p.problem in asked) for asked in job.problems]
        assert all("<solution>" in prompt for prompt in job.problems), "the prompt is the whole message"
        return [[Completion(text, 7, "stop")] * job.n for text in wrong]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "engine",
    [
        "{kind: vllm}",
        "{kind: server, server: {urls: [http://a/v1]}}",
        "{continuous_batching: true}",
        "{kind: vllm, ray_workers: 2}",
    ],
)
def test_the_recipes_engine_writes_for_the_policy_and_for_another_model(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("pns.stages.engines.make_engine", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    policy, other = inputs["rlvr"] / "model", tmp_path / "other"
    save_small_model(other)
    by = ("model={kind: pretrained, path: somewhere}", f"engine={engine}")
    few: dict[str, Any] = {"n": 2, "batch_size": 8, "temperature": 0.7}
    negatives(context(inputs, tmp_path / "a", *by, **few), "prompted")
    negatives(context(inputs, tmp_path / "b", *by, **few, writer="model", model=str(other)), "prompted")
    kind = "transformers" if "continuous" in engine else engine.partition("kind: ")[2].partition(",")[0].strip("}")
    loads = kind == "transformers"
    assert Recorder.made == [(policy, kind, "rlvr", False), (other, kind, "negatives-prompted", loads)]
    for name in ("a", "b"):
        assert {r.text for r in rows(tmp_path / name, "candidates")} <= set(WRONG.values())
        assert stats(tmp_path / name)["problems_served"] == 5
        assert {r.model for r in rows(tmp_path / name, "negatives")} == {"recorder"}
        assert stats(tmp_path / name)["spent"]["completion_tokens"] == 5 * 2 * 7


def test_a_hub_id_is_not_for_engines_that_read_a_directory(inputs: dict[str, Path], tmp_path: Path) -> None:
    made = context(inputs, tmp_path / "out", "engine.kind=vllm", writer="model", model="org/m")
    with pytest.raises(UserError, match="samples from a directory") as caught:
        negatives(made, "prompted")
    assert caught.value.field == "negatives.prompted.model"
    assert "hf download org/m" in str(caught.value.remedy)


def test_the_fixture_is_what_it_says() -> None:
    with Verifier("boxed") as verifier:
        some = list(PROBLEMS.values())
        assert {v.outcome for v in verifier.verify_problems(some, [str(p.solution) for p in some])} == {"correct"}
        assert {v.outcome for v in verifier.verify_problems(some, list(WRONG.values()))} == {"wrong"}
