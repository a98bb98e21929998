"""Log-probabilities and scores by Ray actors: the same figures as in one process, also when an actor is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from helpers.small import save_small_model, save_small_reward_model
from integration.test_ray_engine import PROMPT, contents, run
from pns.cli import app
from pns.errors import StageStopped, UserError
from pns.parts.engine import EnginePart
from pns.problems import embedded
from pns.readers import Readers
from pns.rewards.reward_model import RewardModel
from pns.sampling.engine import TransformersEngine
from pns.sampling.make import make_engine

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
PROBLEMS = [p.problem for p in embedded.training_problems("pairs", 24, 0)]
TEXTS = [f"{i} + {i} = {2 * i} " * (1 + i % 5) + f"\\boxed{{{2 * i}}}" for i in range(24)]
ENDED = [bool(i % 3) for i in range(24)]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("readers") / "causal")


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_reward_model(tmp_path_factory.mktemp("readers") / "reward")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**PROMPT, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def readers(environment: None) -> Iterator[Readers]:
    with closing(Readers(EnginePart(ray_readers=2, ray_workers=2), device="cpu", threads=1)) as made:
        yield made
    assert not ray.is_initialized(), "the cluster was started for them"


def test_the_same_figures_as_here_whoever_is_lost_on_the_way(
    readers: Readers, causal: Path, reward: Path, tmp_path: Path
) -> None:
    own = TransformersEngine(causal, batch_size=5)
    elsewhere = TransformersEngine(causal, batch_size=5, passes=readers.of("causal", str(causal)))
    judge = RewardModel(reward, batch_size=5)
    judge_elsewhere = RewardModel(reward, batch_size=5, passes=readers.of("reward", str(reward)))
    expected, scores = own.log_probabilities(PROBLEMS, TEXTS, ENDED), judge.score(PROBLEMS, TEXTS)
    assert len({total for total, _ in expected}) > 5
    found: list[object] = []

    def read() -> None:
        found.append(elsewhere.log_probabilities(PROBLEMS, TEXTS, ENDED))

    beside = threading.Thread(target=read)
    beside.start()
    assert judge_elsewhere.score(PROBLEMS, TEXTS) == scores
    beside.join()
    assert found == [expected]
    assert elsewhere.eos_ids == own.eos_ids
    assert "model" not in vars(elsewhere), "it is loaded here all the same"
    assert readers.forget(str(causal)) == 2
    assert readers.forget(str(causal)) == 0
    assert elsewhere.log_probabilities(PROBLEMS, TEXTS, ENDED) == expected, "it is loaded again"
    assert not hasattr(judge_elsewhere, "model")
    assert judge_elsewhere.facts() == judge.facts()
    assert judge_elsewhere.mark() == judge.mark()
    long = [TEXTS[0], "1 + 1 = 2 " * 2000]
    assert judge_elsewhere.score_fitting(PROBLEMS[:2], long) == judge.score_fitting(PROBLEMS[:2], long)

    # Of this process: other tests may have readers of their own at the same time.
    actors = [p for p in psutil.Process().children(recursive=True) if any("ray::_Reader" in w for w in p.cmdline())]
    assert len(actors) == 2
    actors[0].kill()
    assert elsewhere.log_probabilities(PROBLEMS, TEXTS, ENDED) == expected
    assert judge_elsewhere.score(PROBLEMS, TEXTS) == scores

    # Actors that sample find room beside them.
    part = EnginePart(ray_readers=2, ray_workers=2)
    run(own, tmp_path / "own")
    with closing(make_engine(causal, part, device="cpu", readers=readers)) as engine:
        run(engine, tmp_path / "ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "own")
    assert elsewhere.log_probabilities(PROBLEMS, TEXTS, ENDED) == expected, "the cluster is still theirs"


def test_what_cannot_be_read_reaches_the_driver(readers: Readers, causal: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        RewardModel(causal, passes=readers.of("reward", str(tmp_path / "nothing")))


def test_a_cluster_without_room_is_refused(environment: None) -> None:
    with closing(Readers(EnginePart(ray_readers=2), device="cuda", threads=1)) as readers:
        with pytest.raises(UserError, match="no room for 2 places") as told:
            readers.start()
    assert told.value.field == "engine.ray_readers"
    with pytest.raises(StageStopped, match="have been closed"):
        readers.start()
    assert not ray.is_initialized()


def test_a_file_is_scored_as_without_them(environment: None, reward: Path, tmp_path: Path) -> None:
    rows = [
        {"problem": p, "answer": "5", "response": f"1 + {i} = {1 + i} \\boxed{{{1 + i}}}", "label": i < 6}
        for i, p in enumerate(PROBLEMS)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tmp_path / "reward.yaml"
    model = f"{{kind: transformers, path: {reward}, batch_size: 4, calibration: {tmp_path / 'c'}}}"
    recipe.write_text(f"reward: {{judge: none, reward_model: {model}}}\n", encoding="utf-8")
    calls = [
        ["calibrate", file, "--recipe", recipe, "--out", tmp_path / "c", "--label", "label"],
        ["score", file, "--recipe", recipe, "--out", tmp_path / "own.jsonl"],
        ["score", file, "--recipe", recipe, "--out", tmp_path / "ray.jsonl", "--ray-readers", "2"],
    ]
    for call in calls:
        told = CliRunner().invoke(app, [str(word) for word in call])
        assert told.exit_code == 0, told.output
    assert not ray.is_initialized()
    own, others = ((tmp_path / name).read_text(encoding="utf-8") for name in ("own.jsonl", "ray.jsonl"))
    assert own == others
    scored = [json.loads(line)["reward_raw"] for line in own.splitlines()]
    assert len({score for score in scored if score is not None}) > 5
    recipe.write_text("reward: {judge: none}\n", encoding="utf-8")
    told = CliRunner().invoke(app, [str(word) for word in [*calls[2], "--fresh"]])
    assert told.exit_code == 2
    assert "--ray-readers" in told.output
