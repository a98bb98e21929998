"""A Ray Data pool of actors, each with an engine of its own; on this machine, or on the cluster that RAY_ADDRESS names.

One job is one block, so a lost actor or node costs the jobs that it was at, and Ray gives those to another. Which actor
draws a job changes nothing where the engine is deterministic: a job has its own seed. `ray.data.llm` is not used: it
gives one completion a row, and batches rows across jobs. (Source: ours.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pns.cluster import Told, connect, given, told
from pns.errors import UserError
from pns.extras import install
from pns.parts.engine import EnginePart
from pns.readers import SHARE, Readers
from pns.sampling.jobs import Drawn, Job, completions

_TRIES = 4
PATIENCE_SECONDS = 900
"""For all actors to have their engines, where readers share GPUs with them."""


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
        if readers is not None:
            readers.start()
            self._gpus *= 1 - SHARE
            self._where = {"scheduling_strategy": readers.place()}
        self._ours = _connect(self._workers)

    def generate_all(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Drawn]]:
        """(place of the job, its completions), as they are done. Raises what an actor's engine raised."""
        import ray.data

        if not jobs:
            return
        if self._where:
            # A reader loads its models once something is drawn: not while vLLM measures what memory is left to it.
            ray.data.DataContext.get_current().wait_for_min_actors_s = PATIENCE_SECONDS
        rows = [{"place": i, "job": job.to_json()} for i, job in enumerate(jobs)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(self._workers, len(rows))),
            fn_constructor_kwargs=self._told,
            num_cpus=1,
            num_gpus=self._gpus,
            **self._where,
            max_restarts=_TRIES,
            max_task_retries=-1,  # restarts are the bound: each attempt to reach a node that is gone is a try
        )
        for row in done.iter_rows():
            yield int(row["place"]), completions(given(json.loads(row["found"])))

    def generate(self, job: Job) -> Drawn:
        """One job by one actor, which loads its model for it: `generate_all` is the way to draw many."""
        ((_, drawn),) = self.generate_all([job])
        return drawn

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
