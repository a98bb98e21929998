"""A node of the cluster is lost in the middle of sampling: what it had in flight is drawn again, and nothing else."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.ray_workers import LONGEST_SECONDS, NOTES, Ending, Holding, HoldingNothing, begun, until
from helpers.small import save_small_model
from integration.test_ray_engine import PROBLEMS, PROMPT, SHARDS, contents, draw
from pns.errors import StageStopped
from pns.parts.engine import EnginePart
from pns.readers import Readers
from pns.records import Problem, Response
from pns.sampling.engine import Engine, TransformersEngine
from pns.sampling.jobs import Job
from pns.sampling.make import make_engine
from pns.sampling.ray import RayEngine
from pns.sampling.shards import sample

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
JOBS = [Job(["1 + 1"], n=1, temperature=1.0, top_p=1.0, max_new_tokens=1, seed=i) for i in range(4)]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that workers write to; their processes have the environment in which a node is started."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, value in {**PROMPT, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", NOTES: str(folder)}.items():
        monkeypatch.setenv(name, value)
    return folder


@contextmanager
def nodes(head: int, second: int, **head_more: Any) -> Iterator[tuple[Any, Any]]:
    """A cluster of two nodes on this machine with so many CPUs, which RAY_ADDRESS names; and its second node."""
    from ray.cluster_utils import Cluster

    # A folder of its own, and a short path for sockets: in the common one Ray leaves this cluster's address to all others.
    folder = tempfile.mkdtemp(prefix="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False, **head_more}
        )
        try:
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster, cluster.add_node(num_cpus=second)
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def lose(cluster: Any, node: Any, notes: Path) -> None:
    """The node, and with it all actors that have noted something there, before they can do anything more."""
    cluster.remove_node(node, allow_graceful=False)
    pids = {job.pid for job in begun(notes) if job.node == node.node_id}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    until(lambda: all(gone(pid) for pid in pids))


def gone(pid: int) -> bool:
    """Whether the process has ended; where nobody asks for its status it stays as a zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def run(engine: Engine, policy: TransformersEngine, folder: Path) -> list[int]:
    """Sample, with log-probabilities as stages have them; returns how many responses each shard has."""
    drawn: list[int] = []

    def finish(problems: Sequence[Problem], rows: list[Response]) -> list[Response]:
        read = policy.log_probabilities([p.problem for p in problems], [r.text for r in rows])
        drawn.append(len(rows))
        return [row.model_copy(update={"policy_logp": total}) for row, (total, _) in zip(rows, read, strict=True)]

    sample(nullcontext(engine), [draw(folder)], finish, lambda done, total: None)
    return drawn


def test_a_lost_node_costs_what_it_had_in_flight(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pns.sampling.ray._Worker", Holding)
    model, folder = save_small_model(tmp_path / "model"), tmp_path / "shards"
    own = TransformersEngine(model)
    run(own, own, tmp_path / "whole")
    # Ray notices in ten seconds, not fifteen; four tries to reach an actor that is gone take less.
    sooner = {"health_check_period_ms": 2000}
    # On each node: two CPUs for a reader and what may stand beside it, one for a worker.
    with (
        nodes(3, 3, _system_config=sooner) as (cluster, second),
        closing(Readers(EnginePart(ray_readers=2), device="cpu", threads=1)) as readers,
    ):
        policy = TransformersEngine(model, passes=readers.of("causal", str(model)))
        readers.start()
        assert second.node_id in places(readers)
        engine = make_engine(model, EnginePart(ray_workers=2), device="cpu")
        drawn: list[int] = []
        sampling = threading.Thread(target=lambda: drawn.extend(run(engine, policy, folder)), daemon=True)
        sampling.start()
        # Each of the two workers has drawn two shards, which are given out as soon as they are done, and holds a third.
        until(lambda: len(begun(notes)) == 6 and len(list(folder.glob("*.jsonl"))) == 4)
        before, there = begun(notes), {path.name for path in folder.glob("*.jsonl")}
        assert Counter(job.node for job in before) == {cluster.head_node.node_id: 3, second.node_id: 3}
        lose(cluster, second, notes)
        cluster.add_node(num_cpus=3)  # a place for the reader
        (notes / "lost").touch()
        sampling.join(LONGEST_SECONDS)
        assert sorted(drawn) == [12] + [16] * (SHARDS - 1), "a shard came twice, or not at all"
        assert contents(folder) == contents(tmp_path / "whole")
        rows = list(draw(folder).rows())
        assert [(r.problem_id, r.index) for r in rows] == [(p.id, i) for p in PROBLEMS for i in range(4)]
        flight = {
            job.place for job in before if job.node == second.node_id and draw(folder).path(job.place).name not in there
        }
        again = Counter(job.place for job in begun(notes)) - Counter(range(SHARDS))
        assert again == Counter(flight)
        assert len(flight) == 1
        assert second.node_id not in places(readers)

        monkeypatch.setattr("pns.readers.LOST_SECONDS", 0.0)
        with pytest.raises(StageStopped, match="set a smaller engine"):
            policy.log_probabilities(["1 + 1"], ["2"])


def places(readers: Readers) -> set[str]:
    """The nodes that readers have their places on."""
    return set(ray.util.placement_group_table(readers.group)["bundles_to_node_id"].values())


def test_where_no_node_is_left_the_stage_stops(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pns.sampling.ray._Worker", HoldingNothing)
    monkeypatch.setattr("pns.sampling.ray.READY_SECONDS", 1.0)
    monkeypatch.setattr("pns.sampling.ray.LOOK_SECONDS", 0.5)
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}  # that Ray notices it
    with (
        nodes(0, 1, _system_config=soon) as (cluster, second),
        closing(RayEngine(tmp_path, EnginePart(ray_workers=1), device="cpu", stage="", threads=1)) as engine,
    ):
        stopped: list[str] = []

        def work() -> None:
            with pytest.raises(StageStopped) as told:
                list(engine.generate_all(JOBS))
            stopped.append(str(told.value))

        sampling = threading.Thread(target=work, daemon=True)
        sampling.start()
        until(lambda: len(begun(notes)) == 3)
        lose(cluster, second, notes)
        sampling.join(LONGEST_SECONDS)
        assert stopped == [
            "no node of the cluster is large enough for a worker of engine.ray_workers ({'CPU': 1.0})\n  -> start one"
        ]


def test_a_job_that_ends_every_worker_stops_the_stage(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pns.sampling.ray._Worker", Ending)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    part = EnginePart(ray_workers=1)
    with closing(RayEngine(tmp_path, part, device="cpu", stage="", threads=1)) as engine:
        with pytest.raises(StageStopped, match="is lost, and so were those in its place"):
            list(engine.generate_all(JOBS[:1]))
    assert [job.place for job in begun(notes)] == [0] * 5
