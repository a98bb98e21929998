"""A Ray Data pool of actors, each with an engine of its own; on this machine, or on the cluster that RAY_ADDRESS names.

One job is one block, so a lost actor or node costs the jobs that it was at, and those whose completions were still there;
its actors start again where there is room, and draw them again. Which actor draws a job changes nothing where the engine
is deterministic: a job has its own seed. `ray.data.llm` is not used: it gives one completion a row, and batches rows
across jobs. (Source: ours.)
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pns.cluster import Told, connect, given, has_place, told
from pns.errors import StageStopped, UserError
from pns.extras import install
from pns.parts.engine import EnginePart
from pns.readers import READY_SECONDS, SHARE, Readers
from pns.sampling.jobs import Drawn, Job, completions

_TRIES = 4
PATIENCE_SECONDS = 900
"""For all actors to have their engines, where readers share GPUs with them."""
LOOK_SECONDS = 5.0
"""Between looks at whether a node is left that could hold an actor."""
_FIELD = "engine.ray_workers"


class RayEngine:
    """`part.ray_workers` actors with an engine of `part.kind` each. They start when the first jobs come.

    Args:
        path: model directory, which every node must see under this path.
        threads: OpenMP threads of an actor, as in a stage's own process: they change floating-point sums.
        readers: of the same stage. They start first, one to a GPU, and leave room beside each for one of these actors.
    Raises UserError where Ray is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        part: EnginePart,
        *,
        device: str,
        stage: str,
        threads: int,
        readers: Readers | None = None,
    ) -> None:
        self.name = Path(path).name
        self.deterministic = part.kind == "transformers" and not (part.continuous_batching or part.compiled)
        if part.vllm is not None:
            self.deterministic = part.vllm.batch_invariant
        self._workers = part.ray_workers
        local = part.model_copy(update={"ray_workers": 0})
        self._told = {
            "path": str(path),
            "part": local.model_dump_json(),
            "device": device,
            "stage": stage,
            "threads": threads,
        }
        self._gpus: float = _gpus(part, device)
        self._where: dict[str, Any] = {}
        self._place: Mapping[str, float] = {"CPU": 1.0, "GPU": self._gpus}
        if readers is not None:
            readers.start()
            self._gpus *= 1 - SHARE
            self._where = {"scheduling_strategy": readers.place()}
            self._place = readers.group.bundle_specs[0]
        self._ours = _connect(self._workers)

    def generate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Drawn]]:
        """(place of the job, its completions), as they are done.

        Raises what an actor's engine raised, and StageStopped where actors are lost again and again, or no node is left that
        could hold one.
        """
        import ray.data

        if not jobs:
            return
        if self._where:
            # A reader loads its models once something is drawn: not while vLLM measures what memory is left to it.
            ray.data.DataContext.get_current().wait_for_min_actors_s = PATIENCE_SECONDS
        rows = [{"place": i, "job": job.to_json()} for i, job in enumerate(jobs)]
        names: list[str] = []

        def named() -> dict[str, str]:  # Ray Data gives no handles, by which to end them
            names.append(f"pns-{uuid.uuid4()}")
            return {"name": names[-1]}

        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(self._workers, len(rows))),
            fn_constructor_kwargs=self._told,
            num_cpus=1,
            num_gpus=self._gpus,
            **self._where,
            ray_remote_args_fn=named,
            max_restarts=_TRIES,
            max_task_retries=-1,  # restarts are the bound: each attempt to reach a node that is gone is a try
        )
        with self._watched(names):
            # Fetched ahead, a finished shard would be given out when the next one comes: a killed driver would lose it, too.
            for batch in done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for place, found in zip(batch["place"], batch["found"], strict=True):
                    yield int(place), completions(given(json.loads(found)))

    def generate(self, job: Job) -> Drawn:
        """One job by one actor, which loads its model for it: `generate_all` is the way to draw many."""
        ((_, drawn),) = self.generate_all([job])
        return drawn

    @contextmanager
    def _watched(self, names: Iterable[str]) -> Iterator[None]:
        """Where no node is left that could hold an actor, Ray waits without end. Here that has one: the actors are ended."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        over, small = threading.Event(), threading.Event()

        def watch() -> None:
            seen = time.monotonic()
            while not over.wait(LOOK_SECONDS):
                if has_place(self._place):
                    seen = time.monotonic()
                elif time.monotonic() - seen > READY_SECONDS:
                    small.set()
                    for name in list(names):
                        with suppress(ValueError):  # it is gone
                            ray.kill(ray.get_actor(name))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        except (RayActorError, GetTimeoutError) as lost:
            if getattr(lost, "actor_init_failed", False):
                raise
            needed = {name: amount for name, amount in self._place.items() if amount}
            why = f"a worker of {_FIELD} is lost, and so were those in its place: {lost}"
            if small.is_set():
                why = f"no node of the cluster is large enough for a worker of {_FIELD} ({needed})\n  -> start one"
            raise StageStopped(why) from None
        finally:
            over.set()
            watcher.join()

    def close(self) -> None:
        """Let go of the cluster, and end it where it was started for this engine."""
        import ray

        if self._ours:
            ray.shutdown()
            self._ours = False


class _Worker:
    """An actor. What the user can mend is told, and not raised (see `pns.cluster.told`)."""

    def __init__(self, path: str, part: str, device: str, stage: str, threads: int) -> None:
        self._path, self._part = path, EnginePart.model_validate_json(part)
        self._device, self._stage, self._threads = device, stage, threads
        self._engine = told(self._made)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"place": batch["place"], "found": [json.dumps(self._draw(str(text))) for text in batch["job"]]}

    def _draw(self, text: str) -> Told:
        failed, engine = self._engine
        return self._engine if failed is not None else told(lambda: engine.generate(Job.from_json(text)))

    def _made(self) -> Any:
        import torch

        from pns.sampling.make import make_engine

        torch.set_num_threads(self._threads)
        return make_engine(self._path, self._part, device=self._device, stage=self._stage)


def _gpus(part: EnginePart, device: str) -> int:
    """Of one actor."""
    if part.kind == "vllm":
        return part.vllm.tensor_parallel if part.vllm is not None else 1
    return 1 if part.kind == "transformers" and device == "cuda" else 0


def _connect(workers: int) -> bool:
    """Connect to the cluster that RAY_ADDRESS names, or start one here; whether it is ours to end."""
    try:
        import ray.data
    except ImportError as error:
        raise UserError(
            f"engine.ray_workers needs {error.name}", field="engine.ray_workers",
            remedy=f"install it: {install('ray')}; or set engine.ray_workers=0",
        ) from None  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    return connect(workers + 1, "engine.ray_workers")  # Ray Data has tasks of its own
