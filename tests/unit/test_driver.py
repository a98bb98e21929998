"""Which stages are made again, what is kept of a run whose recipe has changed, and that old processes are waited for.

The workers are replaced: each writes one file, which says how often its stage was made, or nothing of that.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pns import driver, launched, pipeline, scheduler
from pns.display import Display
from pns.errors import UserError
from pns.recipe import Recipe
from pns.recipe_files import load_recipe
from pns.rewards.reward_model import Calibration
from pns.run import Run, read_json, write_json
from pns.scheduler import published
from pns.worker import Job, held, launched_lock

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"


class Workers:
    """In place of the server that forks them.

    Attributes:
        exact: a stage that is made again has the same bytes.
        stop: the stage before which the run is interrupted.
        said: by the last command.
    """

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.exact, self.stop, self.said = True, "", ""
        self.ever: Counter[str] = Counter()

    def Pipe(self, duplex: bool) -> Any:
        return multiprocessing.Pipe(duplex)

    def Process(self, target: Any, args: tuple[Job, Any], name: str) -> Any:
        job, pipe = args
        if job.stage.name == self.stop:
            raise KeyboardInterrupt
        self.made[job.stage.name] += 1
        self.ever[job.stage.name] += 1
        write_json(job.out / "made.json", 1 if self.exact else self.ever[job.stage.name])
        pipe.send(("done", {"seconds": 0.0, "peak_memory_bytes": 0}))
        return Ended()


class Ended:
    exitcode = 0

    def start(self) -> None: ...
    def join(self) -> None: ...
    def kill(self) -> None: ...


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    found = Workers()
    monkeypatch.setattr(scheduler, "server", lambda: found)
    monkeypatch.setattr(driver, "_page", lambda *_: None)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "fail")


def recipe(*overrides: str) -> Recipe:
    return load_recipe(SMOKE, overrides)[0]


def go(run: Run, workers: Workers, told: Recipe | None = None, *, stop: str = "", **how: Any) -> set[str]:
    """The stages that a command makes, to its end or until it is interrupted."""
    workers.made.clear()
    workers.stop = stop
    screen = io.StringIO()
    try:
        driver.execute(told or recipe(), run, Display(Console(file=screen, width=200)), command=[], **how)
        assert not stop
    except KeyboardInterrupt:
        assert stop
    workers.said = screen.getvalue()
    return set(workers.made)


def behind(*names: str) -> set[str]:
    return pipeline.downstream(names, pipeline.stages(recipe()))


def fits(run: Run) -> bool:
    """Whether every stage was made from the inputs that are there."""
    tasks = driver.tasks_of(recipe(), pipeline.stages(recipe()))
    states = {name: run.state(task.label) for name, task in tasks.items()}
    return all(
        state is not None and {n: states[n]["digest"] for n in tasks[name].needs} == state["inputs"]  # type: ignore[index]
        for name, state in states.items()
    )


ALL = set(pipeline.stages(recipe()))


def test_what_is_done_is_not_done_again(run: Run, workers: Workers) -> None:
    assert go(run, workers) == ALL
    assert fits(run)
    assert go(run, workers) == set()
    assert f"{len(ALL)} of {len(ALL)} stages are done already" in workers.said
    assert {row["state"] for row in driver.state_rows(run)} == {"done"}


@pytest.mark.parametrize("exact", [True, False])
def test_an_interrupted_from_is_gone_on_with_by_the_plain_command(run: Run, workers: Workers, exact: bool) -> None:
    workers.exact = exact
    go(run, workers)
    again = go(run, workers, again=["rlvr"], stop="generator")
    assert {"rlvr", "rollouts-pairs", "reward_model"} <= again < behind("rlvr")
    stale = {row["name"] for row in driver.state_rows(run) if row["state"] != "done"}
    assert ("evaluate-policy" in stale) != exact
    rest = go(run, workers)
    # On a CPU they came out the same, and nothing behind them is touched.
    assert rest == (set() if exact else behind("rlvr") - again)
    assert fits(run)
    assert go(run, workers) == set()


def test_what_is_behind_a_stage_that_came_out_otherwise_is_made_again(run: Run, workers: Workers) -> None:
    go(run, workers)
    sft = run.published(pipeline.labels(pipeline.stages(recipe()))["sft"])
    sft.rename(run.folder / "away")
    assert go(run, workers) == {"sft"}, "the same bytes"
    (run.folder / "away").rename(sft.with_name(f"{sft.name}.old"))
    sft.rename(run.folder / "away")
    workers.exact = False
    assert go(run, workers) == behind("sft")
    assert fits(run)
    assert "evaluate-sft: what it is made from has changed" in workers.said
    assert f"[{len(ALL)}/{len(ALL)}] report done" in workers.said


def test_results_of_before_inputs_were_written_down_count(run: Run, workers: Workers) -> None:
    workers.exact = False
    go(run, workers)
    for path in run.stages.glob("*/stage.json"):
        write_json(path, {k: v for k, v in read_json(path).items() if k != "inputs"})
    assert go(run, workers) == set()
    assert go(run, workers, only=["rlvr"]) == {"rlvr"}
    assert go(run, workers) == set()


def test_one_stage_needs_inputs_that_fit(run: Run, workers: Workers) -> None:
    workers.exact = False
    go(run, workers)
    assert go(run, workers, only=["rlvr"]) == {"rlvr"}
    with pytest.raises(UserError, match=r"stage align-pns-matched needs pairs, not done"):
        go(run, workers, only=["align-pns-matched"])
    assert go(run, workers) == behind("rlvr") - {"rlvr"}
    run.published(pipeline.labels(pipeline.stages(recipe()))["sft"]).rename(run.folder / "away")
    assert go(run, workers, only=["align-pns-matched"]) == {"align-pns-matched"}, (
        "what is gone long since is not missed"
    )


def test_a_group_may_hold_what_others_of_it_need(run: Run, workers: Workers) -> None:
    told = recipe("negatives.methods=[rejection, pns, fill]")
    group = {"negatives-rejection", "negatives-pns", "negatives-fill"}
    go(run, workers, told, until=["samples-pns", "rollouts-pairs"])
    assert go(run, workers, told, only=["negatives"]) == group
    assert go(run, workers, told, only=["negatives"]) == group
    with pytest.raises(UserError, match="stage pairs needs"):
        go(run, workers, recipe("negatives.methods=[flip]"), only=["pairs"])


FEWER = "negatives.methods=[rejection]"


def lying(run: Run) -> set[str]:
    return {path.name for path in run.stages.iterdir()}


def test_a_refused_command_leaves_a_run_as_it_was(run: Run, workers: Workers) -> None:
    """Also the numbers of its stages, and its recipe: what reads the run finds its results by them."""
    go(run, workers)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"}
    with pytest.raises(UserError, match=r"stage evaluate-rejection needs problems, .*not done"):
        go(run, workers, recipe(FEWER, "seed=5"), only=["evaluate-rejection"])
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != "lock"}


PROMPTED = "negatives.methods=[rejection, prompted]"
NAMED = {
    "reward.reward_model.calibration": ("reward.reward_model={kind: transformers, path: a/b}",),
    "calibration.json": ("reward.reward_model={kind: transformers, path: a/b, calibration: %s}",),
    "reward.reward_model.path": ("reward.reward_model={kind: transformers, path: ./none, calibration: %s}",),
    "negatives.prompted.model": (PROMPTED, "negatives.prompted={writer: model, model: ./none}"),
    "negatives.prompted.revision": (PROMPTED, "negatives.prompted={writer: model, model: %s, revision: main}"),
}


@pytest.mark.parametrize("named", NAMED)
def test_what_a_late_stage_is_to_read_is_missed_before_the_first(
    named: str, run: Run, workers: Workers, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    if named.endswith(".path"):
        Calibration.fit([0.0, 1.0, 2.0]).save(there)
    with pytest.raises(UserError) as caught:
        go(run, workers, recipe(*(key.replace("%s", str(there)) for key in NAMED[named])))
    assert named in str(caught.value)
    assert not workers.made


def test_only_stages_that_read_it_miss_it(run: Run, workers: Workers) -> None:
    unnamed = recipe(PROMPTED, "negatives.prompted={writer: model, model: ./none}")
    assert go(run, workers, unnamed, until=["rlvr"]) == {"start", "problems", "sft", "rlvr"}


def test_only_a_whole_run_removes_what_its_recipe_does_not_have(run: Run, workers: Workers) -> None:
    (run.stages / "s1-sft-ab").mkdir()  # of a study that shares the stages of this run
    go(run, workers)
    fewer = recipe(FEWER)
    gone = ALL - set(pipeline.stages(fewer))
    rejection = {"pairs", "audit", "report"}
    assert go(run, workers, fewer, until=["problems"]) == set()
    assert go(run, workers, fewer, only=["evaluate-policy"]) == {"evaluate-policy"}, "found by its other number"
    assert "removed" not in workers.said
    assert gone < {name.partition("-")[2] for name in lying(run)}
    assert go(run, workers) == set(), "the other recipe finds all of it"
    assert lying(run) == {"s1-sft-ab", *pipeline.labels(pipeline.stages(recipe())).values()}
    assert rejection <= go(run, workers, fewer)
    assert workers.said.count("this recipe has no such stage") == len(gone)
    assert lying(run) == {"s1-sft-ab", *pipeline.labels(pipeline.stages(fewer)).values()}


def test_what_is_stale_is_refused_to_those_who_read_it(
    run: Run, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(run, workers)
    noted = run.manifest()["stages"]
    run.update_manifest(stages={})  # as in a run that was killed
    driver.check_current(run, "pairs")
    run.update_manifest(stages=noted)
    with monkeypatch.context() as gone:
        gone.delattr(driver.fingerprints, "input_hashes")  # no file that the recipe reads is there any more
        for name in ALL:
            driver.check_current(run, name)
    go(run, workers, recipe("seed=9"), until=["start"])
    driver.check_current(run, "start")
    with pytest.raises(UserError, match="the result of stage pairs is stale") as caught:
        driver.check_current(run, "pairs")
    assert f"`pns run RECIPE --run-dir {run.folder}`" in (caught.value.remedy or "")
    assert go(run, workers) == {"start"}
    go(run, workers, recipe(FEWER), until=["start"])
    with pytest.raises(UserError, match="the result of stage negatives-flip is stale"):
        driver.check_current(run, "negatives-flip")
    go(run, workers)
    workers.exact = False
    go(run, workers, only=["rlvr"])
    with pytest.raises(UserError, match="the result of stage report is stale"):
        driver.check_current(run, "report")  # it is far behind, and still of what was there


def test_to_run_again_what_is_not_to_run_is_a_contradiction(run: Run, workers: Workers) -> None:
    go(run, workers)
    with pytest.raises(UserError, match=r"--from: align-\S+ is to run again, and is none of the stages up to problems"):
        go(run, workers, until=["problems"], again=["align"])
    assert go(run, workers, until=["align-pns-matched"], again=["align"]) == {"align-pns-matched"}


def test_work_on_other_inputs_is_not_gone_on_with(run: Run) -> None:
    (run.begin("03-sft", "m", {"start": "a"}) / "shard").touch()
    assert (run.begin("03-sft", "m", {"start": "a"}) / "shard").is_file()
    assert not (run.begin("03-sft", "m", {"start": "b"}) / "shard").exists()
    write_json(run.work("03-sft") / "work.json", {"fingerprint": "m"})  # of before inputs were written down
    (run.work("03-sft") / "shard").touch()
    assert (run.begin("03-sft", "m", {"start": "c"}) / "shard").is_file()


def test_a_stage_whose_number_changes_keeps_its_unfinished_work(run: Run) -> None:
    before, after = (
        pipeline.labels(pipeline.stages(recipe(*more)))
        for more in ([], ["negatives.methods=[rejection, flip, corruption, prefix, pns]"])
    )
    assert before["rlvr_more"] != after["rlvr_more"]
    (run.begin(before["rlvr_more"], "m") / "checkpoints").mkdir()
    run.begin(before["negatives-flip"], "m")
    run.publish(before["negatives-flip"], {"fingerprint": "m"})
    run.published("30-nsr.old").mkdir()
    run.begin("31-nsr", "m")
    driver._relabel(run, after)
    assert driver._drop_foreign(run, after) == []
    assert {p.name for p in run.stages.iterdir()} == {f"{after['rlvr_more']}.work", after["negatives-flip"]}
    assert (run.work(after["rlvr_more"]) / "checkpoints").is_dir()


# Old processes.


def test_a_folder_is_cleared_only_when_old_processes_have_left_it(run: Run, workers: Workers) -> None:
    """Also of another recipe: the first process of a launched training writes on for a second."""
    label = pipeline.labels(pipeline.stages(recipe()))["sft"]
    go(run, workers, until=["start"])
    (run.begin(label, "another recipe's") / "model").mkdir()
    lock = launched_lock(scheduler.lock_of(run, "sft"))
    left = threading.Event()
    seen: list[bool] = []

    def old() -> None:
        with held(lock):
            left.wait(20)
            seen.append((run.work(label) / "model").is_dir())

    thread = threading.Thread(target=old)
    thread.start()
    while not lock.exists():
        time.sleep(0.01)
    threading.Timer(0.5, left.set).start()
    go(run, workers, until=["sft"])
    thread.join()
    assert seen == [True]
    assert published(run, driver.tasks_of(recipe(), pipeline.stages(recipe()))["sft"]) is not None


def test_a_worker_that_nobody_reaps_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(child.pid).create_time()
    assert not launched._gone(child.pid, created)
    assert launched._gone(child.pid, created - 100), "another process with its number"
    os.kill(child.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.01)
    assert launched._gone(child.pid, created)
    child.wait()
    assert launched._gone(child.pid, created)
