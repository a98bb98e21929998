"""Sampling by Ray actors: the same shards as in one process, also when an actor or the driver is killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from helpers.small import save_small_model
from pns.errors import UserError
from pns.parts.engine import EnginePart
from pns.problems import embedded
from pns.recipe import SamplePart
from pns.records import Problem, Response
from pns.sampling.engine import Engine, TransformersEngine
from pns.sampling.make import make_engine
from pns.sampling.ray import _connect
from pns.sampling.shards import Draw, sample

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 600  # two actors that import torch, on a machine that others use

# By default Ray's workers give way to every other process, and would starve beside tests of other groups.
PROMPT = {"RAY_worker_niceness": "0"}
SHARDS, PART = 10, SamplePart(n=4, max_new_tokens=24, batch_size=16)
PROBLEMS = embedded.training_problems("pairs", SHARDS * 4 - 1, 0)


def draw(folder: Path) -> Draw:
    return Draw(PROBLEMS, PART, folder, seed=5, source="test")


def run(engine: Engine, folder: Path, seen: Callable[[], None] = lambda: None) -> list[int]:
    """Sample the shards that are not there; returns how many responses each of them has."""
    drawn: list[int] = []

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        assert [p.id for p in problems] == [r.problem_id for r in rows]
        drawn.append(len(rows))
        seen()
        return rows

    sample(nullcontext(engine), [draw(folder)], finish, lambda done, total: None)
    return drawn


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pool(model: Path, workers: int = 2) -> Engine:
    return make_engine(model, EnginePart(ray_workers=workers), device="cpu")


def actors() -> list[psutil.Process]:
    """The actors of this machine that draw."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("_Worker" in word and word.startswith("ray::") for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("ray") / "model")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of one process that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("ray") / "whole"
    assert run(TransformersEngine(model), folder) == [16] * (SHARDS - 1) + [12]
    return contents(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**PROMPT, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        assert _connect(2)
        yield
        ray.shutdown()


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1] + "/src", sys.argv[1] + "/tests"]
sys.path.insert(0, sys.argv[1] + "/tests/integration")
import test_ray_engine as own
own.run(own.pool(Path(sys.argv[2])), Path(sys.argv[3]))
"""


def test_a_killed_driver_loses_what_is_in_flight_and_a_resume_gives_the_same_rows(
    model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **PROMPT}
    env.pop("RAY_ADDRESS", None)
    folder = tmp_path / "shards"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(ROOT), str(model), str(folder)], env=env)
    try:
        end = time.monotonic() + LONGEST_SECONDS
        while len(list(folder.glob("*.jsonl"))) < 2:
            assert driver.poll() is None, "it ended too soon"
            assert time.monotonic() < end
            time.sleep(0.01)
        # Two helpers of Ray's own, which hold neither a model nor a file of ours, take longer to notice.
        family = [p for p in psutil.Process(driver.pid).children(recursive=True) if not p.name().endswith("Agent")]
    finally:
        driver.kill()
        driver.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "actors outlived their driver"
    kept = {name: data for name, data in contents(folder).items() if name.endswith(".jsonl")}
    assert 2 <= len(kept) < SHARDS
    assert kept.items() <= whole.items()
    drawn = run(TransformersEngine(model), folder)  # another number of workers: none
    assert len(drawn) == SHARDS - len(kept)
    assert {n: d for n, d in contents(folder).items() if n.endswith(".jsonl")} == whole


def test_a_killed_actor_costs_its_jobs_alone(
    cluster: None, model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        if not killed:
            victim = actors()[0]
            killed.append(victim.pid)
            victim.kill()

    folder = tmp_path / "shards"
    drawn = run(pool(model), folder, kill)
    assert killed
    assert sorted(drawn) == [12] + [16] * (SHARDS - 1), "a shard came twice, or not at all"
    assert contents(folder) == whole
    rows = list(draw(folder).rows())
    assert [(r.problem_id, r.index) for r in rows] == [(p.id, i) for p in PROBLEMS for i in range(4)]


def test_what_an_engine_raises_in_an_actor_reaches_the_driver(cluster: None, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no usable tokenizer"):
        run(pool(tmp_path / "empty", 1), tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
