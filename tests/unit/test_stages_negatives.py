"""The stages that make and score negatives, without a model: what stops them, what is drawn, which floor the M gate has."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import reward
from helpers.judge_server import Answer, Request, ScriptedServer
from helpers.judging import part
from helpers.reward import KIND
from pns.errors import StageStopped
from pns.parts.negatives import RULED
from pns.parts.reward import RewardModelSource
from pns.parts.training import GeneratorPart, OtherGenerator
from pns.recipe import NegativesPart, RewardPart, SamplePart
from pns.records import Problem, Response, Scores, Verdict, to_jsonl, write_parquet
from pns.rewards.composite import Composite
from pns.rewards.identity import ModelMark
from pns.rewards.judge import ServerJudge
from pns.rewards.reward_model import Calibration
from pns.rewards.unscored import LEAST, Unscored
from pns.run import JUDGE_SPENT, digest_of, file_hash, read_json, write_json
from pns.sampling.jobs import Drawn, Job
from pns.sampling.prompts import Completion
from pns.stages import negatives as stages
from pns.stages import samples
from pns.stages.context import Context
from pns.streams import read_responses
from pns.verify import Verifier

PROBLEMS = [
    Problem(id=f"p{i}", problem=f"Mia has {i + 3} apples and finds 5. How many does she have now?", answer=str(i + 8))
    for i in range(6)
]
FULL = {"relevance": 3, "coherence": 3, "completeness": 3, "consistency": 3}


def wrong(problem: str, k: int) -> str:
    """A well-formed wrong solution; another one for each k."""
    n = int(problem.split()[2])
    return f"Mia starts with {n} apples.\n{n} + 5 = {n + 6 + k}\nSo she has \\boxed{{{n + 6 + k}}}"


class Engine:
    name, deterministic, drawn = "g", True, 0

    def generate(self, job: Job) -> Drawn:
        Engine.drawn += 1
        return [[Completion(wrong(p, k), 20, "stop") for k in range(job.n)] for p in job.problems]

    def log_probabilities(
        self, problems: Sequence[str], texts: Sequence[str], ended: Sequence[bool] | None = None
    ) -> list[tuple[float, int]]:
        return [(-5.0, 20)] * len(texts)

    def close(self) -> None:
        pass


class Judge:
    """Down for the responses that `down` says so of."""

    def __init__(self) -> None:
        self.asked = 0
        self.down: Any = lambda response: True

    def __call__(self, problem: str, response: str, answer: str | None) -> dict[str, int]:
        self.asked += 1
        if self.down(response):
            raise ConnectionError("the judge is down")
        return FULL


class Here(Context):
    """A stage of PROBLEMS with a judge of the test's."""

    judge: Any = None

    def problems(self, split: str) -> list[Problem]:
        return PROBLEMS

    def composite(self) -> Composite:
        return Composite(self.recipe.reward, Verifier("boxed", cpu_seconds=5, workers=1), judge=self.judge)


def context(
    folder: Path, judge: Any, *, told: RewardPart | None = None, others: Sequence[dict[str, Any]] = (), **given: Any
) -> Here:
    generator = GeneratorPart(
        steps=1, prompts_per_step=1, learning_rate=1e-4, others=tuple(OtherGenerator(**one) for one in others)
    )
    recipe: Any = SimpleNamespace(
        negatives=NegativesPart(**given), seed=0, reward=told or RewardPart(), generator=generator
    )
    (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    found = Here(
        recipe,
        "samples-pns",
        folder,
        {"rollouts-pairs": folder / "rollouts", "generator": folder / "generator"},
        lambda *_: None,
    )
    object.__setattr__(found, "judge", judge)
    return found


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    for module in (stages, samples):
        monkeypatch.setattr(module, "scorer", lambda *_: Engine())
    monkeypatch.setattr(samples.engines, "sampler", lambda *_, **__: contextlib.nullcontext(Engine()))
    Engine.drawn = 0
    return Engine


# What stops a stage.


def scores(failed: int, of: int, by: Any = "judge_server") -> list[Scores]:
    bad = Scores(gate="unscored", score=None, well_formed=True, unscored_by=by, unscored_cause="down")
    return [bad] * failed + [Scores(gate="correct", score=0.0, well_formed=True)] * (of - failed)


def test_the_share_is_that_of_all_rows_so_far_and_of_enough_of_them() -> None:
    few = Unscored(0.05, 10_000)
    few.add(scores(1, 4))
    few.add(scores(9, 100))
    with pytest.raises(
        StageStopped, match=r"11 of 108 responses are unscored, and reward\.max_unscored is 0\.05: down"
    ):
        few.add(scores(1, 4))
    assert LEAST * 0.05 == 10
    many = Unscored(0.05, 10_000)
    many.add(scores(0, 1000))
    many.add(scores(50, 50))
    with pytest.raises(StageStopped):
        many.add(scores(3, 3))
    whole = Unscored(0.05, 12)
    with pytest.raises(StageStopped):
        whole.add(scores(1, 4))  # of 12 that there will be, one is more than a twentieth
    Unscored(1, 4).add(scores(4, 4))
    Unscored(0, 4).add(scores(4, 4, "gold"))  # nobody can mend it


def test_a_judge_that_is_down_leaves_no_shard_and_the_same_command_scores(tmp_path: Path) -> None:
    judge = Judge()
    here = context(tmp_path / "out", judge, sample=SamplePart(n=2, batch_size=4))
    with pytest.raises(StageStopped, match=r"4 of 4 responses are unscored.*the judge is down"):
        samples.samples(here)
    assert not list((here.out / "shards").glob("*"))
    assert not (here.out / "candidates.parquet").exists()
    judge.down = lambda response: False
    samples.samples(here)
    found = list(read_responses(here.out / "candidates.parquet"))
    assert Counter(r.scores.gate for r in found if r.scores) == {"scored": 12}


def test_a_failure_among_many_stays_and_is_scored_again_by_a_resume(tmp_path: Path) -> None:
    judge, bad = Judge(), wrong(PROBLEMS[0].problem, 1)
    judge.down = lambda response: response == bad
    here = context(tmp_path / "out", judge, sample=SamplePart(n=4, batch_size=4))
    samples.samples(here)  # one of 24
    (lost,) = [r for r in read_responses(here.out / "candidates.parquet") if r.scores and r.scores.gate == "unscored"]
    assert (lost.text, lost.policy_logp) == (bad, -5.0)
    judge.down, judge.asked, Engine.drawn = (lambda response: False), 0, 0
    (here.out / "shards" / "00005.jsonl").unlink()  # as if it had been interrupted there
    samples.samples(here)
    assert (judge.asked, Engine.drawn) == (1 + 4, 1), "the one that was lost, and the shard that was not there"
    found = list(read_responses(here.out / "candidates.parquet"))
    assert {r.scores.gate for r in found if r.scores} == {"scored"}
    assert next(r for r in found if r.text == bad).policy_logp == -5.0
    # Shards that a judge left unscored when it was down, and nobody stopped.
    judge.down = lambda response: True
    for number in range(6):
        rows = [r.model_copy(update={"scores": lost.scores}) for r in found[4 * number : 4 * number + 4]]
        (here.out / "shards" / f"{number:05d}.jsonl").write_text(to_jsonl(rows))
    with pytest.raises(StageStopped, match="24 of 24"):
        samples.samples(here)
    judge.down = lambda response: False
    samples.samples(here)
    assert {r.scores.gate for r in read_responses(here.out / "candidates.parquet") if r.scores} == {"scored"}
    assert Engine.drawn == 1


@pytest.mark.parametrize("kind", ["server", "function"])
def test_log_probabilities_do_not_wait_for_the_judge(
    tmp_path: Path, kind: str, engine: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge answers for the first shard when its log-probabilities are there; one behind a server, when it has been asked
    about another shard, too.
    """
    computed, other, waited = threading.Event(), threading.Event(), list[bool]()
    own = engine.log_probabilities

    def compute(self: Engine, *given: Any) -> list[tuple[float, int]]:
        computed.set()
        return own(self, *given)

    def function(problem: str, response: str, answer: str | None) -> dict[str, int]:
        waited.append(computed.wait(20))
        return FULL

    def script(n: int, request: Request) -> Answer:
        if PROBLEMS[0].problem in request.prompt:
            waited.append(computed.wait(20) and other.wait(20))
        else:
            other.set()
        return Answer()

    monkeypatch.setattr(engine, "log_probabilities", compute)
    sampled = SamplePart(n=2, batch_size=2)
    if kind == "function":
        samples.samples(context(tmp_path / "out", function, sample=sampled))
    else:
        with ScriptedServer(script) as server:
            told = RewardPart(judge="server", judge_server=part(server.url))
            with ServerJudge(part(server.url)) as judge:
                samples.samples(context(tmp_path / "out", judge, told=told, sample=sampled))
    assert waited
    assert all(waited)
    rows = list(read_responses(tmp_path / "out" / "candidates.parquet"))
    assert [(r.problem_id, r.index) for r in rows] == [(p.id, k) for p in PROBLEMS for k in range(2)]
    assert {(r.policy_logp, r.scores.gate) for r in rows if r.scores} == {(-5.0, "scored")}


def test_several_generators_share_the_samples_of_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its turn with a seed of its own; rows by problem, numbered through, with the name of who wrote them."""
    seeds: dict[str, list[int]] = {}

    class Named(Engine):
        def __init__(self, stage: str) -> None:
            self.name = stage

        def generate(self, job: Job) -> Drawn:
            seeds.setdefault(self.name, []).append(job.seed)
            return super().generate(job)

    monkeypatch.setattr(samples.engines, "sampler", lambda _, stage, *__, **___: contextlib.nullcontext(Named(stage)))
    told: list[tuple[int, int]] = []
    here = context(tmp_path / "out", lambda *_: FULL, others=[{}, {"beta": 0.5}], sample=SamplePart(n=5, batch_size=4))
    object.__setattr__(here, "progress", lambda done, total: told.append((done, total)))
    samples.samples(here)
    rows = list(read_responses(here.out / "candidates.parquet"))
    assert [(r.problem_id, r.index) for r in rows] == [(p.id, k) for p in PROBLEMS for k in range(5)]
    share = ["generator"] * 2 + ["generator-2"] * 2 + ["generator-3"]
    assert [r.sampling["generator"] for r in rows] == share * len(PROBLEMS)
    assert {r.sampling["generator_logp"] for r in rows} == {-5.0}
    assert {name: len(found) for name, found in seeds.items()} == {"generator": 3, "generator-2": 3, "generator-3": 2}
    assert len({seed for found in seeds.values() for seed in found}) == 8, "no two draw with one seed"
    assert told == sorted(told), "progress never goes back"
    assert told[-1] == (30, 30)
    # Interrupted in the second one's: its shard alone is drawn again.
    (here.out / "shards-2" / "00001.jsonl").unlink()
    seeds.clear()
    samples.samples(here)
    assert {name: len(found) for name, found in seeds.items()} == {"generator-2": 1}
    assert list(read_responses(here.out / "candidates.parquet")) == rows


def test_one_generator_alone_says_nothing_of_generators(tmp_path: Path) -> None:
    here = context(tmp_path / "out", lambda *_: FULL, sample=SamplePart(n=2, batch_size=4))
    samples.samples(here)
    assert not any("generator" in r.sampling for r in read_responses(here.out / "candidates.parquet"))


def rollouts(here: Here, *texts: str, finish: Any = "stop") -> None:
    """Wrong rollouts of the first problem."""
    rows = [
        Response(
            problem_id="p0", text=text, index=i, source="policy", finish=finish, n_tokens=20, policy_logp=-5.0,
            verdict=Verdict(outcome="wrong", answer="1"),
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    write_parquet(here.inputs["rollouts-pairs"] / "responses.parquet", rows)
    chosen = Response(problem_id="p0", text="x", index=0, source="policy", n_tokens=20)
    write_parquet(here.inputs["rollouts-pairs"] / "chosen.parquet", [chosen])


def distinct(n: int) -> list[str]:
    return [wrong(PROBLEMS[0].problem, k) for k in range(n)]


def test_every_rule_is_known_as_one() -> None:
    assert tuple(stages.RULES) == RULED


@pytest.mark.parametrize("method", RULED)
def test_a_rule_gives_as_many_as_a_problem_may_have(tmp_path: Path, method: Any) -> None:
    def made(most: int) -> list[list[str]]:
        here = context(tmp_path / f"{most}", lambda *_: FULL, per_problem=most, reward_model_quantile=None)
        write_json(tmp_path / "problems" / "summary.json", {"largest_number": 40})
        object.__setattr__(here, "inputs", {**here.inputs, "problems": tmp_path / "problems"})
        right = [
            Response(
                problem_id=p.id,
                text=f"3 + {i + 4} = {i + 7}\n{i + 7} - 2 = {i + 5}\nSo \\boxed{{{i + 5}}}",
                index=0,
                source="policy",
                n_tokens=20,
            )
            for i, p in enumerate(PROBLEMS)
        ]
        write_parquet(here.inputs["rollouts-pairs"] / "chosen.parquet", right)
        stages.negatives(here, method)
        rows = list(read_responses(here.out / "candidates.parquet"))
        found = {p.id: [r for r in rows if r.problem_id == p.id] for p in PROBLEMS}
        assert all([r.index for r in one] == list(range(len(one))) for one in found.values())
        return [[r.text for r in one] for one in found.values()]

    one, three = made(1), made(3)
    assert [len(texts) for texts in one] == [1] * 6
    assert [len({*texts}) for texts in three] == [3] * 6, "no text twice"
    assert [texts[0] for texts in three] == [texts[0] for texts in one], "the first is what it was"


def test_an_exhausted_budget_stops_a_method_and_names_the_remedy(tmp_path: Path) -> None:
    here = context(tmp_path / "out", Spent())
    rollouts(here, *distinct(3))
    with pytest.raises(StageStopped, match=r"max_calls: 5 is reached\n  -> raise reward\.judge_server\.max_calls"):
        stages.negatives(here, "rejection")
    assert not (here.out / "candidates.parquet").exists()
    kept = context(tmp_path / "out", Spent(), told=RewardPart(max_unscored=1))
    stages.negatives(kept, "rejection")
    assert read_json(here.out / "stats.json") == {"candidates": 2, "problems_served": 0}


class Spent:
    """A judge without a budget."""

    def judge(self, problems: Sequence[str], responses: Sequence[str], answers: Sequence[str | None]) -> list[Any]:
        from pns.rewards.judging import Judgement

        return [Judgement(failure="budget", detail="max_calls: 5 is reached")] * len(problems)


def test_every_attempt_at_a_stage_spends_the_same_budget(tmp_path: Path) -> None:
    Calibration.fit([0.0, 1.0, 2.0, 3.0], ModelMark(kind=KIND, digest=file_hash(Path(reward.__file__)))).save(tmp_path)
    with ScriptedServer() as server:
        source = RewardModelSource(kind=KIND, calibration=tmp_path)
        told = RewardPart(judge="server", judge_server=part(server, max_calls=3), reward_model=source)
        recipe: Any = SimpleNamespace(reward=told)
        for stage, asked in (("one", 3), ("one", 3), ("other", 6)):
            (tmp_path / stage).mkdir(exist_ok=True)
            with Context(recipe, stage, tmp_path / stage, {}, lambda *_: None).composite() as composite:
                composite.terms(["p"] * 4, [f"text {i}" for i in range(4)])
            assert len(server.verdicts) == asked
        before = digest_of(tmp_path / "one")
        (tmp_path / "one" / JUDGE_SPENT).unlink()
        assert digest_of(tmp_path / "one") == before, "what it has cost is no part of the result"


# What `rejection` draws.


def drawn(folder: Path, texts: Sequence[str], method: Any = "rejection", **given: Any) -> list[str]:
    here = context(folder, "none", **given)
    rollouts(here, *texts)
    stages.negatives(here, method)
    return [r.text for r in read_responses(here.out / "candidates.parquet")]


def test_rejection_draws_among_what_could_be_selected(tmp_path: Path) -> None:
    good = distinct(4)
    texts = [*["no box"] * 20, *[good[0]] * 10, f"{good[0]} ", good[1]]
    found = drawn(tmp_path, texts)
    assert sorted(found) == sorted(good[:2]), "neither what is malformed, nor the same words twice"
    assert read_json(tmp_path / "stats.json") == {"candidates": 2, "problems_served": 1}
    assert drawn(tmp_path, ["no box"] * 3) == []


def test_rejection_draws_as_many_as_can_be_selected(tmp_path: Path) -> None:
    good = distinct(6)
    assert len(drawn(tmp_path, good)) == 2
    assert drawn(tmp_path, good) == drawn(tmp_path, good)
    assert len(drawn(tmp_path, good, per_problem=4)) == 4
    assert [r.problem_id for r in read_responses(tmp_path / "negatives.parquet")] == ["p0"] * 4
    assert len(drawn(tmp_path, good, near_duplicate=0.5)) == 2, "with one a problem nothing is passed over"
    for given in ({"per_problem": 2, "near_duplicate": 0.5}, {"length_ratio": 2.0}):
        assert drawn(tmp_path, [*good, good[0], "no box"], **given) == good
    every = [*good, good[0], "no box"]
    assert drawn(tmp_path, every, "rejection_hard") == every


# The floor of the M gate.


def test_the_m_gate_has_the_floor_of_the_model_that_gives_m(tmp_path: Path) -> None:
    own, named = Calibration.fit([i / 10 for i in range(50)]), Calibration.fit([float(i**2) for i in range(50)])
    own.save(tmp_path / "own")
    named.save(tmp_path / "named")
    source = RewardModelSource(kind="my.module:function", calibration=tmp_path / "named")
    floors = []
    for model, q in ((None, 0.25), (source, 0.25), (None, 0.0), (None, None)):
        part = NegativesPart(reward_model_quantile=q)
        recipe: Any = SimpleNamespace(reward=RewardPart(reward_model=model), negatives=part, seed=0)
        inputs = {"reward_model": tmp_path / "own"}
        floors.append(stages._m_floor(Context(recipe, "negatives-pns", tmp_path, inputs, lambda *_: None)))
    assert floors == [own.quantile(0.25), named.quantile(0.25), own.quantile(0.05), None]
    assert floors[0] != floors[1]
