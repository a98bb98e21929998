"""Forward passes by Ray actors: log-probabilities and scores of a stage on every GPU of a cluster, in place of one.

The unit is a batch that the caller has put together, so the figures do not depend on the number of actors. An actor loads a
model when it is first asked for it; one that was lost is started again, and asked again. (Source: ours.)
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pns.cluster import Told, connect, given, told
from pns.errors import StageStopped, UserError
from pns.extras import install
from pns.parts.engine import EnginePart

log = logging.getLogger("pns.readers")

READY_SECONDS = 600.0
"""How long a cluster may stay too small, for it may have to start machines; where others have its places there is no end."""
LOST_SECONDS = 1800.0
"""After so long without an answer an actor counts as lost: its node may be gone for good, and its place with it."""
SHARE = 0.4
"""Of a GPU, beside an actor that samples. Two that sample cannot share one."""
_TRIES = 4

Kind = Literal["causal", "reward"]


class Passes(Protocol):
    """The forward passes of one model that is elsewhere."""

    def facts(self) -> dict[str, Any]:
        """What its owner needs to know of it: see `facts` of `TransformersEngine` and `RewardModel`."""
        ...

    def __call__(self, batches: Sequence[Any]) -> Iterator[list[float]]:
        """The figures of each batch, in order."""
        ...


class Readers:
    """`part.ray_readers` actors of one stage; they start when they are first needed. Safe to use from several threads.

    Args:
        threads: OpenMP threads of an actor.
        field: where the user has asked for them, for messages.
    """

    def __init__(self, part: EnginePart, *, device: str, threads: int, field: str = "engine.ray_readers") -> None:
        self._part, self._device, self._threads, self._field = part, device, threads, field
        self._actors: list[Any] = []
        self._asked = 0
        self._ours = self._closed = False
        self.group: Any = None
        self._starting = threading.Lock()

    def start(self) -> None:
        """Start the actors, where that has not been done: before others take the GPUs that they are to share.

        Raises UserError where Ray is missing or not to be reached, or where the cluster has no room for them; StageStopped
        after `close`.
        """
        with self._starting:
            if self._closed:
                raise StageStopped(f"the readers of {self._field} have been closed")
            if not self._actors:
                self._start()

    def of(self, kind: Kind, path: str, **how: Any) -> Passes:
        """The passes of a model. `how`: what its class takes besides its path. Every node must see it under that path."""
        _clear()  # what a training has left cached here would be missing to a reader on the same GPU
        return _Passes(self, kind, {"path": _place(path), **how})

    @property
    def device(self) -> str:
        """Where they compute: cpu or cuda."""
        return self._device

    def place(self) -> Any:
        """Where an actor beside the readers is put: on the first GPU that has room."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return PlacementGroupSchedulingStrategy(self.group)

    def ask(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """What the actors answer to these calls, in their order; all calls are dealt out in turn.

        Raises what an actor's UserError says, and StageStopped where actors are lost again and again, or their nodes for good.
        """
        import ray

        self.start()
        with self._starting:
            actors, first = list(self._actors), self._asked
            self._asked += len(calls)
        if not actors:
            raise StageStopped(f"the readers of {self._field} have been closed")
        waiting = [getattr(actors[(first + i) % len(actors)], method).remote(*given) for i, given in enumerate(calls)]
        for one in waiting:
            try:
                found = ray.get(one, timeout=LOST_SECONDS)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as lost:
                raise StageStopped(
                    f"a reader of {self._field} is lost, and so were those in its place: {lost}\n"
                    f"  -> where the cluster is smaller now, set a smaller {self._field}"
                ) from None
            yield given(found)

    def forget(self, path: str) -> int:
        """Have the actors let go of a model that is asked for no more, so that the next one finds room; how many held it.

        Raises StageStopped where an actor is lost again and again.
        """
        with self._starting:
            started = bool(self._actors)
        return sum(self.ask("forget", [(_place(path),)] * self._part.ray_readers)) if started else 0

    def close(self) -> None:
        """End the actors, and the cluster where it was started for them; they do not start again. Safe to call twice."""
        self._closed = True  # before the lock, which one who waits for places holds
        with self._starting:
            if not self._actors:
                return
            import ray

            for actor in self._actors:
                ray.kill(actor)
            ray.util.remove_placement_group(self.group)
            self._actors, self.group = [], None
            if self._ours:
                ray.shutdown()

    def _start(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                f"{self._field} needs {error.name}",
                field=self._field,
                remedy=f"install it: {install('ray')}; or leave it out",
            ) from None
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # A vLLM in the stage itself must not fork a process that has Ray's threads.
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        part = self._part
        own = float(self._device == "cuda")
        places = max(part.ray_readers, part.ray_workers)
        self._ours = connect(2 * places + 1, self._field)
        # One place for each GPU: a reader each, and room for an actor that samples.
        gpu = 1.0 if own or (part.ray_workers and part.kind == "vllm") else 0.0
        bundle = {"CPU": 2.0, **({"GPU": gpu} if gpu else {})}
        group = ray.util.placement_group([bundle] * places)
        if not self._placed(group, {name: amount * places for name, amount in bundle.items()}):
            ray.util.remove_placement_group(group)
            if self._ours:
                ray.shutdown()
            raise UserError(
                f"the cluster has no room for {places} places of two CPUs{' and a GPU' if gpu else ''} each", field=self._field,
                remedy=f"no more {self._field} and engine.ray_workers than it has GPUs and pairs of CPUs",
            )  # fmt: skip
        share = SHARE if part.ray_workers and part.kind != "server" else 1.0
        self._actors = [
            ray.remote(_Reader)
            .options(
                num_cpus=1, num_gpus=share * own, max_restarts=_TRIES,
                max_task_retries=-1,  # restarts are the bound: each attempt to reach a node that is gone is a try
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            )
            .remote(self._device, self._threads)
            for i in range(part.ray_readers)
        ]  # fmt: skip
        self.group = group

    def _placed(self, group: Any, needed: Mapping[str, float]) -> bool:
        """Wait until the places are there; false where the cluster stays too small for them.

        Other stages may hold places for as long as they run, so a cluster that is large enough is waited for. One of this
        machine alone does not grow.
        """
        import ray

        grows = not self._ours or bool(os.environ.get("RAY_ADDRESS"))
        patience = READY_SECONDS if grows else 0.0
        began, told = time.monotonic(), False
        while not group.wait(timeout_seconds=5):
            found = ray.cluster_resources()
            small = any(found.get(name, 0.0) < amount for name, amount in needed.items())
            if self._closed or (small and time.monotonic() - began > patience):
                return False
            if not told:
                log.warning("%s: waiting for %s of the cluster, which has %s", self._field, dict(needed), found)
                told = True
        return True


def _place(path: str) -> str:
    """Actors have another working directory. What is no directory is a name of the hub."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


@contextmanager
def opened(
    part: EnginePart, *, device: str, threads: int, field: str = "engine.ray_readers"
) -> Iterator[Readers | None]:
    """The readers that a recipe's engine asks for, until the block ends; None where it asks for none. See `Readers`."""
    if not part.ray_readers:
        yield None
        return
    with closing(Readers(part, device=device, threads=threads, field=field)) as readers:
        yield readers


@dataclass(frozen=True)
class _Passes:
    readers: Readers
    kind: Kind
    how: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        (found,) = self.readers.ask("facts", [(self.kind, self.how)])
        known: dict[str, Any] = found
        return known

    def __call__(self, batches: Sequence[Any]) -> Iterator[list[float]]:
        return self.readers.ask("read", [(self.kind, self.how, batch) for batch in batches])


class _Reader:
    """An actor. What the user can mend is told, and not raised (see `pns.cluster.told`)."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._models: dict[tuple[str, ...], Any] = {}

    def facts(self, kind: Kind, how: dict[str, Any]) -> Told:
        return told(lambda: self._model(kind, how).facts())

    def read(self, kind: Kind, how: dict[str, Any], batch: Any) -> Told:
        return told(lambda: self._model(kind, how).one_pass(batch))

    def forget(self, path: str) -> Told:
        kept = {key: model for key, model in self._models.items() if f"path={path}" not in key}
        held, self._models = len(self._models) - len(kept), kept
        _clear()
        return None, held

    def _model(self, kind: Kind, how: dict[str, Any]) -> Any:
        key = (kind, *(f"{name}={value}" for name, value in sorted(how.items())))
        if key not in self._models:
            import torch

            from pns.rewards.reward_model import RewardModel
            from pns.sampling.engine import TransformersEngine

            torch.set_num_threads(self._threads)
            made: Callable[..., Any] = RewardModel if kind == "reward" else TransformersEngine
            self._models[key] = made(**how, device=self._device)
        return self._models[key]


def _clear() -> None:
    """Hand back what is cached of a GPU's memory and used no more."""
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
