"""Runs tasks in processes of their own, several side by side, and publishes each result whole."""

from __future__ import annotations

import multiprocessing.connection
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pns import gpus
from pns.display import Display
from pns.errors import StageStopped, UserError
from pns.launch import TRAININGS, Launcher
from pns.named import check_named
from pns.pipeline import Stage
from pns.recipe import Recipe
from pns.run import Run
from pns.worker import Job, server, wait_for_left_over, work


class StageFailed(Exception):
    """A bug of ours in a stage: `str(error)` is its traceback."""


@dataclass(frozen=True)
class Task:
    """A stage with all that its result depends on, and where that goes.

    Attributes:
        mark: its fingerprint.
        label: name of its folder under `stages/`.
        needs: input as the stage calls it -> name of the task that makes it.
        sources: input -> name of the folder that it is read from; None: it is that of the task that makes it.
    """

    stage: Stage
    recipe: Recipe
    mark: str
    label: str
    needs: Mapping[str, str]
    sources: Mapping[str, str] | None = None


Done = dict[str, dict[str, Any]]
"""name of a finished task -> its stage.json."""


@dataclass
class _Active:
    process: Any
    pipe: Any
    begun: float
    inputs: Mapping[str, str]
    gpu: str | None


def published(run: Run, task: Task) -> dict[str, Any] | None:
    """stage.json of the task's result, where there is one with its fingerprint, made from the inputs that are there now.

    So what is behind a stage that was made again, and came out otherwise, is not done. Results of before there were
    `inputs` in stage.json, and inputs that are gone, say nothing.
    """
    state = run.state(task.label)
    if state is None or state["fingerprint"] != task.mark:
        return None
    sources = task.needs if task.sources is None else task.sources
    for name, digest in state.get("inputs", {}).items():
        there = run.state(sources[name]) if name in sources else None
        if there is not None and there["digest"] != digest:
            return None
    return state


def lock_of(run: Run, name: str) -> Path:
    """The lock that a task's worker holds."""
    return run.folder / "logs" / f"{name}.lock"


def run_tasks(
    tasks: Mapping[str, Task], wanted: Collection[str], done: Done, run: Run, display: Display, *, jobs: int,
    launcher: Launcher | None = None,
) -> None:  # fmt: skip
    """Run those of the wanted tasks that are not done, each after those that it needs; `done` grows with them.

    Ready ones start in the order of `tasks`. What wanted ones need must be wanted or done. The run must be locked. With a
    `launcher` trainings are several processes (see `pns.launch`), one training at a time where all meet at one port. A done
    one behind one that is not is looked at again when its inputs are there: where they came out otherwise (see `published`)
    it is made again, too.

    Raises:
        UserError (also where a task needs a GPU, or its recipe names something, that is not here), StageStopped, StageFailed.
        Whatever is published by then stays.
    """
    todo = [name for name in tasks if name in wanted and name not in done]
    gpus.check_here(((tasks[name].stage, tasks[name].recipe) for name in todo), launcher)
    check_named((tasks[name].stage, tasks[name].recipe) for name in todo)
    display.begin(total=len(wanted), done=len(wanted) - len(todo))
    if not todo:
        return
    behind = _behind(tasks, wanted, set(todo)) & set(done)
    for name in behind:
        del done[name]
    todo = [name for name in tasks if name in todo or name in behind]
    context = server()
    active: dict[str, _Active] = {}
    try:
        while todo or active:
            for name in list(todo):
                if any(n not in done for n in tasks[name].needs.values()):
                    continue
                if name in behind and (state := published(run, tasks[name])) is not None:
                    todo.remove(name)
                    done[name] = state
                elif len(active) < jobs and not _taken(tasks[name], launcher, [tasks[n] for n in active]):
                    todo.remove(name)
                    if name in behind:
                        display.again(name)
                    gpu = _own_gpu(tasks[name], launcher, active.values()) if jobs > 1 else None
                    active[name] = _start(context, name, tasks, done, run, launcher, gpu)
                    display.stage(name)
            if active:
                _wait(active, tasks, done, run, display)
    finally:
        for one in active.values():
            one.process.kill()
            one.process.join()


def _taken(task: Task, launcher: Launcher | None, active: Collection[Task]) -> bool:
    """Whether a training has to wait for another one, at whose end the port is free again."""
    if launcher is None or task.stage.call not in TRAININGS or not launcher.one_port(task.recipe):
        return False
    return any(other.stage.call in TRAININGS for other in active)


def _own_gpu(task: Task, launcher: Launcher | None, active: Collection[_Active]) -> str | None:
    """The GPU that the fewest of the active stages have; None: whichever the stage takes itself."""
    launched = launcher is not None and task.stage.call in TRAININGS
    if not gpus.takes_one(task.recipe, launched=launched):
        return None
    return gpus.least_used(gpus.visible(), [one.gpu for one in active])


def _behind(tasks: Mapping[str, Task], wanted: Collection[str], first: Collection[str]) -> set[str]:
    """The wanted tasks that need one of the first, and those that need them."""
    found = set(first)
    for name, task in tasks.items():
        if name in wanted and any(n in found for n in task.needs.values()):
            found.add(name)
    return found - set(first)


def _start(
    context: Any, name: str, tasks: Mapping[str, Task], done: Done, run: Run, launcher: Launcher | None, gpu: str | None
) -> _Active:
    task, lock = tasks[name], lock_of(run, name)
    inputs = {n: str(done[key]["digest"]) for n, key in task.needs.items()}
    wait_for_left_over(lock)  # before its folder is cleared, or gone on with
    job = Job(
        stage=task.stage,
        recipe=task.recipe,
        out=run.begin(task.label, task.mark, inputs),
        inputs={n: run.published(tasks[key].label) for n, key in task.needs.items()},
        log=run.folder / "logs" / f"{name}.log",
        lock=lock,
        threads=task.recipe.runtime.threads,
        launcher=launcher,
        gpu=gpu,
    )
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, theirs), name=name)
    process.start()
    theirs.close()
    return _Active(process, ours, time.time(), inputs, gpu)


def _wait(active: dict[str, _Active], tasks: Mapping[str, Task], done: Done, run: Run, display: Display) -> None:
    ready = multiprocessing.connection.wait([a.pipe for a in active.values()], timeout=0.5)
    display.tick()
    for name, one in list(active.items()):
        if one.pipe not in ready:
            continue
        try:
            kind, value = one.pipe.recv()
        except EOFError:
            one.process.join()
            raise StageFailed(_died(name, one.process.exitcode, run)) from None
        if kind == "progress":
            display.progress(name, *value)
        elif kind == "note":
            display.note(f"{name}: {value}")
        elif kind == "done":
            one.process.join()
            del active[name]
            done[name] = _publish(run, tasks[name], one, value)
            display.finished(name, done[name]["seconds"])
        elif kind == "user":
            raise UserError(f"stage {name}: {value}")
        elif kind == "stopped":
            raise StageStopped(f"stage {name} stopped: {value}")
        else:
            raise StageFailed(f"stage {name} failed; its log is {run.folder / 'logs' / (name + '.log')}\n{value}")


def _died(name: str, code: int | None, run: Run) -> str:
    why = "killed, perhaps for memory" if code == -9 else f"exit code {code}"
    log = run.folder / "logs" / f"{name}.log"
    return f"the process of stage {name} ended without a word ({why}); its log is {log}. The same command goes on from there."


def _publish(run: Run, task: Task, one: _Active, value: Mapping[str, Any]) -> dict[str, Any]:
    state = {
        "name": task.stage.name,
        "fingerprint": task.mark,
        "version": task.stage.version,
        "inputs": dict(one.inputs),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.begun)),
        "seconds": round(value["seconds"], 3),
        "peak_memory_bytes": value["peak_memory_bytes"],
    }
    run.publish(task.label, state)
    found = run.state(task.label)
    assert found is not None
    return found
