"""Runs the stages of a recipe in a run directory: what is done is not done again, what can run side by side does."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import pns
from pns import fingerprints, pipeline
from pns.display import Display
from pns.errors import UserError
from pns.launch import Launcher
from pns.named import check_named
from pns.recipe import Recipe
from pns.run import Run, check_of_recipe, read_json, write_atomic, write_json
from pns.scheduler import Done, Task, lock_of, published, run_tasks
from pns.worker import wait_for_left_over


@dataclass
class _Plan:
    tasks: Mapping[str, Task]
    wanted: set[str]
    done: Done = field(default_factory=dict)


def execute(
    recipe: Recipe,
    run: Run,
    display: Display,
    *,
    until: Iterable[str] = (),
    again: Iterable[str] = (),
    only: Iterable[str] = (),
    command: list[str],
    launcher: Launcher | None = None,
) -> dict[str, Any]:
    """Run what is not done yet, and return {stage: stage.json} of the wanted stages.

    Args:
        until: stop after these stages (and what they need); all of them when empty.
        again: run these, and what depends on them, though they are done.
        only: run these alone; what they need must be done.
        launcher: of trainings in several processes; None: each in one.

    Raises:
        UserError, StageStopped, StageFailed. KeyboardInterrupt leaves a run that the same command goes on with.
    """
    nodes = pipeline.stages(recipe)
    with run.lock():
        plan = check(recipe, run, until=until, again=again, only=only)
        labels = pipeline.labels(nodes)
        _relabel(run, labels)
        plan.tasks = _placed(plan.tasks, labels)
        if plan.wanted == set(nodes):
            for name in _drop_foreign(run, labels):
                display.note(f"removed the result of {name}: this recipe has no such stage")
        _save_manifest(run, recipe, plan, command)
        write_atomic(run.folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        begun = time.monotonic()
        try:
            run_tasks(plan.tasks, plan.wanted, plan.done, run, display, jobs=recipe.runtime.jobs, launcher=launcher)
        finally:
            run.update_manifest(
                wall_seconds=round(run.manifest().get("wall_seconds", 0.0) + time.monotonic() - begun, 3)
            )
            _save_manifest(run, recipe, plan, command)
        if "report" in plan.done and "report" in plan.wanted:
            _page(run, plan)
    return {name: plan.done[name] for name in nodes if name in plan.wanted and name in plan.done}


def check(
    recipe: Recipe, run: Run, *, until: Iterable[str] = (), again: Iterable[str] = (), only: Iterable[str] = ()
) -> _Plan:
    """What `execute` has to do, by what lies in the run now, which may not be there yet. Nothing is changed.

    Raises UserError for a stage that is not there, that needs others first, or that is asked for and ruled out at once, and
    for an engine, a reward model, its calibration or a writer that is named and not here.
    """
    nodes = pipeline.stages(recipe)
    end, repeated, single = (pipeline.resolve(names, nodes) for names in (until, again, only))
    wanted = pipeline.wanted(nodes, until, only)
    if repeated and not wanted & set(repeated):
        raise UserError(
            f"{repeated[0]} is to run again, and is none of the stages up to {end[-1]}", field="--from",
            remedy="leave out --until, or --from",
        )  # fmt: skip
    stale = pipeline.downstream(repeated, nodes)
    plan = _Plan(_placed(tasks_of(recipe, nodes), _lying(run, pipeline.labels(nodes))), wanted)
    for name, task in plan.tasks.items():
        state = published(run, task)
        if state is not None and not (name in stale and name in wanted):
            plan.done[name] = state
    _check_inputs(run, plan, single)
    check_named((plan.tasks[name].stage, recipe) for name in wanted - set(plan.done))
    return plan


def tasks_of(
    recipe: Recipe, nodes: Mapping[str, pipeline.Stage], marks: Mapping[str, str] | None = None
) -> dict[str, Task]:
    """The stages of a recipe as tasks, each in its own folder of the run.

    Args:
        marks: their fingerprints, where they are known; one that is missing is nobody's.
    """
    marks = fingerprints.of_stages(recipe, nodes) if marks is None else marks
    labels = pipeline.labels(nodes)
    return {
        n: Task(s, recipe, marks.get(n, ""), labels[n], {m: m for m in s.needs}, {m: labels[m] for m in s.needs})
        for n, s in nodes.items()
    }


def _check_inputs(run: Run, plan: _Plan, single: list[str]) -> None:
    if not single:
        return
    nodes = {name: task.stage for name, task in plan.tasks.items()}
    # Behind one that must be made again nobody knows yet what will be; what is gone has left no question open.
    stale = pipeline.downstream([n for n, t in plan.tasks.items() if n not in plan.done and run.state(t.label)], nodes)
    for name in single:
        missing = [n for n in nodes[name].needs if n not in single and (n in stale or n not in plan.done)]
        if missing:
            raise UserError(
                f"stage {name} needs {', '.join(missing)}, not done with this recipe",
                remedy=f"`pns run RECIPE --until {missing[-1]} --run-dir {run.folder}` first, with the same keys",
            )
    for name in single:
        plan.done.pop(name, None)


def _placed(tasks: Mapping[str, Task], labels: Mapping[str, str]) -> dict[str, Task]:
    """The tasks in folders of these names."""
    return {n: replace(t, label=labels[n], sources={m: labels[m] for m in t.needs}) for n, t in tasks.items()}


def _numbered(run: Run) -> list[tuple[Path, str]]:
    """(folder, stage) of all that the run's own recipes left; a study whose stages lie beside them numbers none."""
    if not run.stages.is_dir():
        return []
    found = [(path, *path.stem.partition("-")[::2]) for path in sorted(run.stages.iterdir())]
    return [(path, name) for path, number, name in found if number.isdigit()]


def _lying(run: Run, labels: Mapping[str, str]) -> dict[str, str]:
    """The label under which each stage's result lies now: by another recipe it may have had another number."""
    found = dict(labels)
    for path, name in _numbered(run):
        if name in labels and not path.suffix and not run.published(labels[name]).exists():
            found[name] = path.name
    return found


def _relabel(run: Run, labels: Mapping[str, str]) -> None:
    """Give results and unfinished work that only changed their number their new label."""
    for path, name in _numbered(run):
        new = run.stages / f"{labels.get(name, path.stem)}{path.suffix}"
        if path.suffix == ".old" or new.exists():
            continue
        if path.suffix == ".work":
            wait_for_left_over(lock_of(run, name))
        path.rename(new)


def _drop_foreign(run: Run, labels: Mapping[str, str]) -> list[str]:
    """Remove results and unfinished work of stages that the recipe does not have, and what a crash left of older results.

    Returns the names of the removed results.
    """
    known, gone = set(labels.values()), []
    for path, name in _numbered(run):
        if path.stem in known and path.suffix != ".old":
            continue
        if path.suffix == ".work":
            wait_for_left_over(lock_of(run, name))
        if not path.suffix:
            gone.append(name)
        shutil.rmtree(path)
    return gone


def _save_manifest(run: Run, recipe: Recipe, plan: _Plan, command: list[str]) -> None:
    old = run.manifest()
    names = ("torch", "transformers", "trl", "datasets", "accelerate", "numpy", "pyarrow", "math-verify")
    run.update_manifest(
        recipe=recipe.name,
        seed=recipe.seed,
        command=command,
        created=old.get("created") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        versions={"pns": pns.__version__, "python": sys.version.split()[0], **_versions(names)},
        inputs=fingerprints.input_hashes(recipe),
        stages={
            name: {k: plan.done[name][k] for k in ("fingerprint", "digest", "seconds", "peak_memory_bytes", "bytes")}
            for name in plan.tasks
            if name in plan.done
        },
    )


def _versions(names: Iterable[str]) -> dict[str, str]:
    out = {}
    for name in names:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "not installed"
    return out


def _page(run: Run, plan: _Plan) -> None:
    """report/results.json and report/index.html from the report stage's result and the times of all stages."""
    if not (run.folder / "report" / "index.html").is_file() or _page_mark(plan) != _mark_of(run):
        render(run, {name: state["seconds"] for name, state in plan.done.items()})
        write_json(run.folder / "report" / "source.json", {"stages": _page_mark(plan)})


def _page_mark(plan: _Plan) -> str:
    return str(plan.done["report"]["digest"])


def _mark_of(run: Run) -> str | None:
    path = run.folder / "report" / "source.json"
    return str(read_json(path)["stages"]) if path.is_file() else None


def render(run: Run, seconds: Mapping[str, float]) -> Path:
    """Build the page of a finished run. Raises UserError when the report stage is not done."""
    from pns.records import Pair, read_parquet
    from pns.report.build import build_report

    folder = next(run.stages.glob("*-report"), None)
    if folder is None or not (folder / "results.json").is_file():
        raise UserError(
            "this run has no results yet", file=run.folder, remedy="`pns run RECIPE` to the end, then again"
        )
    results = read_json(folder / "results.json")
    results["created"] = run.manifest().get("created")
    results["seconds"] = dict(seconds)
    results["total_seconds"] = round(sum(seconds.values()), 3)
    results["wall_seconds"] = run.manifest().get("wall_seconds")
    out = run.folder / "report"
    write_json(out / "results.json", results)
    pairs = read_parquet(folder / "examples.parquet", Pair)
    text = (run.folder / "recipe.yaml").read_text(encoding="utf-8")
    return build_report(results, pairs, text, out, examples=len(pairs))


def check_current(run: Run, name: str) -> None:
    """Whether a stage's result, if there is one, is of the recipe in the run's folder and of the results that it rests on.

    What the last command noted is believed: the files that the recipe reads, models among them, need not be there any more.
    A run that is at work, or was killed, has not noted all; only then they are read.

    Raises UserError where a command with other keys has left it behind: what is said of it by that recipe would be false.
    """
    recipe = _recipe_of(run)
    nodes = pipeline.stages(recipe)
    if name in nodes:
        noted = {n: str(state.get("fingerprint")) for n, state in run.manifest().get("stages", {}).items()}
        if not _stale(run, tasks_of(recipe, nodes, noted), name) or not _stale(run, tasks_of(recipe, nodes), name):
            return
    raise UserError(
        f"the result of stage {name} is stale: made by another recipe than the run's recipe.yaml, or from other results than "
        "those that are there", file=run.folder,
        remedy=f"`pns run RECIPE --run-dir {run.folder}` mends it, with the keys that you mean; `pns show {run.folder}` lists "
        "what is stale",
    )  # fmt: skip


def _stale(run: Run, tasks: Mapping[str, Task], name: str) -> bool:
    """Whether a stage that has a result, or one that it rests on, is not done by these tasks; what is gone is not missed."""
    if run.state(tasks[name].label) is None:
        return False
    rests = pipeline.upstream([name], {n: task.stage for n, task in tasks.items()})
    return any(run.state(tasks[n].label) is not None and published(run, tasks[n]) is None for n in rests)


def _recipe_of(run: Run) -> Recipe:
    """The recipe of the last command. Raises UserError for a folder of a study, and for a run that has none yet."""
    from pns.recipe_files import parse_recipe

    path = run.folder / "recipe.yaml"
    check_of_recipe(
        run.folder, "`pns study STUDY --plan` says what is done of it; `pns iterate` goes on with its rounds"
    )
    if not path.is_file():
        raise UserError("this run has not begun (no recipe.yaml)", file=run.folder, remedy="`pns run RECIPE` begins it")
    return parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8")), path)


def state_rows(run: Run) -> list[dict[str, Any]]:
    """For `pns show`: what is on disk of each stage of the run's recipe."""
    recipe = _recipe_of(run)
    rows = []
    for name, task in tasks_of(recipe, pipeline.stages(recipe)).items():
        state, partial = run.state(task.label), run.work(task.label).is_dir()
        kind = "done" if published(run, task) is not None else "stale" if state is not None else "waiting"
        rows.append({"name": name, "state": "interrupted" if partial and kind != "done" else kind, **(state or {})})
    return rows
