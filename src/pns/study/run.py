"""A study from tuning to its page: tune, write the protocol, open the test split, ablate, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pns.display import Display
from pns.errors import UserError
from pns.launch import Launcher
from pns.pipeline import unread
from pns.run import STUDY, Run, read_json, write_atomic, write_json
from pns.scheduler import Done, Task, published, run_tasks
from pns.study import protocol as protocols
from pns.study.cells import Recipes, Tuned, add_cell, add_extras, cells
from pns.study.graph import Graph, check_side_by_side
from pns.study.plan import Share, plan
from pns.study.spec import Study
from pns.study.tuning import STEPS, Step, Trial, add_step, choose, read_trials, stand_in


@dataclass
class Work:
    """A study's tasks and what is known of them.

    Attributes:
        tuned: what tuning found by now; `open_step` is the first step that is not over, None when all are.
    """

    recipes: Recipes
    graph: Graph = field(default_factory=Graph)
    done: Done = field(default_factory=dict)
    tuned: Tuned = field(default_factory=Tuned)
    trials: list[Trial] = field(default_factory=list)
    open_step: Step | None = "held"
    extras: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """What it was told."""
        return self.recipes.study

    def look(self, run: Run) -> None:
        """Find out which tasks are done."""
        for name, task in self.graph.tasks.items():
            if name not in self.done and (state := published(run, task)) is not None:
                self.done[name] = state


def tune(work: Work, run: Run, go: Callable[[list[str]], None] | None = None) -> None:
    """Add the steps of tuning one after the other and take what they found.

    Args:
        go: does the tasks that it is given. Without it, the first step that is not over ends the tuning.
    """
    for step in STEPS:
        before = set(work.graph.tasks)
        tried = add_step(work.graph, work.recipes, step, work.tuned)
        work.look(run)
        todo = [name for name in work.graph.tasks if name not in before]
        if go is not None:
            go(todo)
        work.open_step = step
        if any(name not in work.done for name in todo):
            return
        if not work.study.tuning.seeds:  # each grid has one combination
            work.tuned = stand_in(work.recipes, work.tuned, step, tried)
            continue
        found = read_trials(run, work.graph.tasks, step, tried)
        work.trials += found
        work.tuned = choose(work.study, work.tuned, step, found)
    work.open_step = None


def cell_tasks(work: Work, *, ablations: bool) -> dict[tuple[str, int], str]:
    """(cell, seed) -> the task that scores it, seed by seed; the ablations with what runs on their seeds alone, or the rest.

    A plan gives settings that stand for what tuning has not chosen yet (`_suppose`).
    """
    study, out = work.study, dict[tuple[str, int], str]()
    some = set(study.ablations.controls)
    mine = [c for c in cells(study).values() if (c.switch is not None or c.model in some) == ablations]
    for seed in study.seeds:
        for cell in mine:
            if seed in cell.seeds:
                align = work.tuned.of(cell)
                out[cell.name, seed] = add_cell(work.graph, work.recipes, cell, seed, work.tuned, align)
        work.extras[seed] = add_extras(work.graph, work.recipes, seed, work.tuned)
    return out


def _every_extra(work: Work) -> list[str]:
    return [task for found in work.extras.values() for task in found.values()]


@dataclass(frozen=True)
class Planned:
    """What there is to do in each phase, and which keys of the study's `set` no stage of it reads."""

    shares: list[Share]
    unread: list[str]


def planned(recipes: Recipes, run: Run) -> Planned:
    """What each phase has still to do. What tuning has not chosen yet is stood for by combinations of its grids (`Share.supposed`):
    the number of trials is known; which of their stages will coincide is not, so they are counted as if few did.
    """
    work = Work(recipes)
    tune(work, run)
    supposed = _suppose(work)
    tuning = list(work.graph.tasks)
    test, more = (cell_tasks(work, ablations=a) for a in (False, True))
    work.look(run)
    tasks = work.graph.tasks
    phases = {
        "tuning": tuning,
        "test": _upstream(tasks, [*test.values(), *_every_extra(work)]),
        "ablations": _upstream(tasks, more.values()),
    }
    shares = [replace(share, supposed=supposed) for share in plan(phases, tasks, work.done)]
    return Planned(shares, unread(recipes.study.set, {name: task.stage for name, task in tasks.items()}))


def _suppose(work: Work) -> bool:
    """Add the steps of tuning that rest on one that is not over; returns whether any of them has something to choose."""
    some = False
    for step in STEPS[STEPS.index(work.open_step) :] if work.open_step is not None else ():
        tried = add_step(work.graph, work.recipes, step, work.tuned)
        work.tuned = stand_in(work.recipes, work.tuned, step, tried)
        some = some or len({(objective, model) for objective, model, *_ in tried}) < len(tried)
    return some


def _upstream(tasks: Mapping[str, Task], names: Iterable[str]) -> list[str]:
    """These tasks and all that they need, in the order of the graph."""
    todo, found = list(names), set[str]()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += tasks[name].needs.values()
    return [name for name in tasks if name in found]


def execute(
    recipes: Recipes, run: Run, display: Display, *, until: str, jobs: int, committed: Path | None = None,
    launcher: Launcher | None = None,
) -> None:  # fmt: skip
    """Run a study up to a phase. What is done is not done again; every task is durable by itself.

    Raises:
        UserError: also where the protocol is not the one that the test split was opened under, or was committed.
        StageStopped, StageFailed, KeyboardInterrupt: the same command goes on from there.
    """
    check_side_by_side(recipes.base, jobs)
    with run.lock():
        work = Work(recipes)
        protocols.check_opened(run, recipes)
        told = yaml.safe_dump(recipes.study.model_dump(mode="json"), sort_keys=False)
        write_atomic(run.folder / STUDY, told)

        def go(wanted: list[str]) -> None:
            def left() -> float | None:
                share = plan({"": wanted}, work.graph.tasks, work.done)[0]
                return None if share.modelled else share.wall(jobs)  # too rough for what counts down

            display.left = left
            run_tasks(work.graph.tasks, wanted, work.done, run, display, jobs=jobs, launcher=launcher)

        tune(work, run, go)
        write_json(run.folder / "tuning.json", {"trials": work.trials, "chosen": asdict(work.tuned)})
        if until == "tuning":
            return
        frozen = protocols.protocol_of(recipes, asdict(work.tuned), work.trials)
        if committed is not None:
            protocols.check_committed(committed, frozen)
        path = protocols.freeze(run, frozen)
        display.note(f"protocol {read_json(path)['fingerprint']}: {path}")
        if until == "protocol":
            return
        protocols.open_test(run, frozen)
        for ablations in (False, True):
            if ablations and until == "test":
                break
            found = cell_tasks(work, ablations=ablations)
            work.look(run)
            wanted = _upstream(work.graph.tasks, [*found.values(), *_every_extra(work)])
            if ablations:
                if all(name in work.done for name in wanted):
                    break  # a count of what is done would look like another one of the cells
                display.note("the ablations, with what they rest on")
            go(wanted)


def finished(recipes: Recipes, run: Run) -> tuple[Work, dict[str, Any], dict[tuple[str, int], str]]:
    """For the report: the work, the frozen protocol, and (cell, seed) -> task of what is scored by now.

    Raises UserError where tuning is not over or no cell is done, and where the study is not the one that was tested.
    """
    path = run.folder / protocols.FILE
    protocols.check_opened(run, recipes)
    work = Work(recipes)
    tune(work, run)
    if work.open_step is not None or not path.is_file():
        raise UserError(
            "tuning is not over, so there is nothing to report", file=run.folder, remedy="`pns study STUDY`"
        )
    found = cell_tasks(work, ablations=False) | cell_tasks(work, ablations=True)
    work.look(run)
    scored = {at: name for at, name in found.items() if name in work.done}
    if not any(cell != "policy" for cell, _ in scored):
        raise UserError("no cell is done yet", file=run.folder, remedy="`pns study STUDY` goes on with it")
    return work, read_json(path), scored
