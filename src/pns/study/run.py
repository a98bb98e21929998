"""A study from tuning to its page: tune, write the protocol, open the test split, ablate, report."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pns.display import Display
from pns.errors import UserError
from pns.run import Run, read_json, write_json
from pns.scheduler import Done, Task, published, run_tasks
from pns.study import protocol as protocols
from pns.study.cells import Cell, Recipes, add_cell, cells
from pns.study.graph import Graph
from pns.study.plan import Share, plan
from pns.study.spec import Study
from pns.study.tuning import Trials, add_tuning, choose, read_trials, settings_for

PHASES = ("tuning", "protocol", "test", "ablations", "report")


@dataclass
class Work:
    """A study's tasks and what is known of them."""

    recipes: Recipes
    graph: Graph = field(default_factory=Graph)
    trials: Trials = field(default_factory=dict)
    done: Done = field(default_factory=dict)
    chosen: dict[str, Any] | None = None
    scores: dict[int, str] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """What it was told."""
        return self.recipes.study

    def look(self, run: Run) -> None:
        """Find out which tasks are done."""
        for name, task in self.graph.tasks.items():
            if name not in self.done and (state := published(run, task)) is not None:
                self.done[name] = state


def begin(recipes: Recipes, run: Run) -> Work:
    """The study's tuning as tasks, with what is done of them; the settings, where tuning is over."""
    work = Work(recipes)
    work.trials = add_tuning(work.graph, recipes)
    work.look(run)
    if all(name in work.done for name in work.graph.tasks):
        work.chosen = choose(work.study, read_trials(run, work.graph.tasks, work.trials))
    return work


def cell_tasks(work: Work, *, ablations: bool) -> dict[tuple[str, int], str]:
    """(cell, seed) -> the task that scores it, seed by seed; the ablations with what runs on their seeds alone, or the rest.

    Before settings are chosen the first combination of each grid stands in for them: good enough for a plan.
    """
    study, out = work.study, dict[tuple[str, int], str]()
    some = set(study.ablations.controls)
    mine = [c for c in cells(study).values() if (c.switch is not None or c.model in some) == ablations]
    for seed in study.seeds:
        for cell in mine:
            if seed in cell.seeds:
                settings = _stand_in(work, cell) if work.chosen is None else settings_for(work.chosen, cell)
                out[cell.name, seed] = add_cell(work.graph, work.recipes, cell, seed, settings)
        work.scores[seed] = work.graph.add(work.recipes.of(seed), "scores")
    return out


def _stand_in(work: Work, cell: Cell) -> dict[str, Any]:
    if cell.objective is None:
        return {}
    tried = work.trials.get((cell.objective, work.study.tuning.held_on)) or next(iter(work.trials.values()))
    return dict(tried[0][0])


def planned(work: Work, run: Run) -> list[Share]:
    """What each phase has still to do."""
    tuning = list(work.graph.tasks)
    test, more = (cell_tasks(work, ablations=a) for a in (False, True))
    work.look(run)
    tasks = work.graph.tasks
    phases = {
        "tuning": tuning,
        "test": _upstream(tasks, [*test.values(), *work.scores.values()]),
        "ablations": _upstream(tasks, more.values()),
    }
    return plan(phases, tasks, work.done)


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
    recipes: Recipes, run: Run, display: Display, *, until: str, jobs: int, committed: Path | None = None
) -> None:
    """Run a study up to a phase. What is done is not done again; every task is durable by itself.

    Raises:
        UserError: also where the protocol is not the one that the test split was opened under, or was committed.
        StageStopped, StageFailed, KeyboardInterrupt: the same command goes on from there.
    """
    with run.lock():
        work = begin(recipes, run)
        run_tasks(work.graph.tasks, list(work.graph.tasks), work.done, run, display, jobs=jobs)
        trials = read_trials(run, work.graph.tasks, work.trials)
        work.chosen = choose(recipes.study, trials)
        write_json(run.folder / "tuning.json", {"trials": trials, "chosen": work.chosen})
        if until == "tuning":
            return
        frozen = protocols.protocol_of(recipes, work.chosen, trials)
        if committed is not None:
            protocols.check_committed(committed, frozen)
        path = protocols.freeze(run, frozen)
        display.note(f"protocol {frozen['fingerprint']}: {path}")
        if until == "protocol":
            return
        protocols.open_test(run, frozen)
        for ablations in (False, True):
            if ablations and until == "test":
                break
            found = cell_tasks(work, ablations=ablations)
            work.look(run)
            wanted = _upstream(work.graph.tasks, [*found.values(), *work.scores.values()])
            run_tasks(work.graph.tasks, wanted, work.done, run, display, jobs=jobs)


def finished(recipes: Recipes, run: Run) -> tuple[Work, dict[str, Any], dict[tuple[str, int], str]]:
    """For the report: the work, the frozen protocol, and (cell, seed) -> task of what is scored by now.

    Raises UserError where tuning is not over or no cell is done.
    """
    path = run.folder / protocols.FILE
    work = begin(recipes, run)
    if work.chosen is None or not path.is_file():
        raise UserError(
            "tuning is not over, so there is nothing to report", file=run.folder, remedy="`pns study STUDY`"
        )
    found = cell_tasks(work, ablations=False) | cell_tasks(work, ablations=True)
    work.look(run)
    scored = {at: name for at, name in found.items() if name in work.done}
    if not any(cell != "policy" for cell, _ in scored):
        raise UserError("no cell is done yet", file=run.folder, remedy="`pns study STUDY` goes on with it")
    return work, read_json(path), scored


def tidy(recipes: Recipes, run: Run) -> list[str]:
    """Remove the folders of results that the study no longer has a task for. Returns their names."""
    work = begin(recipes, run)
    if work.chosen is None:
        return []
    for ablations in (False, True):
        cell_tasks(work, ablations=ablations)
    gone = [p for p in run.stages.iterdir() if p.name.removesuffix(".work") not in work.graph.tasks]
    for path in gone:
        shutil.rmtree(path)
    return sorted(p.name for p in gone)
