"""The run directory: fingerprints, atomic writes, publication and what a crash leaves of it, the lock, the digest."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pns.run
from pns.errors import UserError
from pns.run import (
    RUN_VERSION,
    STUDY,
    Kind,
    Run,
    digest_of,
    file_hash,
    fingerprint,
    read_json,
    seed_of,
    write_atomic,
    write_json,
)

LABEL = "03-sft"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "fail")


def made(run: Run, mark: str, text: str) -> dict[str, Any]:
    """A published result with one file."""
    (run.begin(LABEL, mark) / "out.txt").write_text(text)
    run.publish(LABEL, {"fingerprint": mark})
    state = run.state(LABEL)
    assert state is not None
    return state


def test_fingerprints_depend_on_values_and_not_on_order() -> None:
    assert fingerprint(a=1, b={"x": 1, "y": 2}) == fingerprint(b={"y": 2, "x": 1}, a=1)
    assert len({fingerprint(a=1), fingerprint(a=2), fingerprint(a=None), fingerprint(a="1"), fingerprint(b=1)}) == 5


@given(st.integers(0, 2**31 - 1), st.text(max_size=8), st.text(max_size=8))
def test_seeds_are_split_by_name(seed: int, one: str, other: str) -> None:
    assert 0 <= seed_of(seed, one) < 2**31
    assert (seed_of(seed, one) == seed_of(seed, other)) == (one == other)


def test_an_atomic_write_replaces_all_of_a_file_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, "twö")
    assert path.read_text(encoding="utf-8") == "twö"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "three")
    assert path.read_text(encoding="utf-8") == "twö"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_json_is_read_back_and_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [None, "é"]})
    assert list(read_json(path)) == ["b", "a"]
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"b": 1, "a": [None, "é"]}
    path.write_text("{")
    for bad in (path, tmp_path / "none.json"):
        with pytest.raises(UserError) as caught:
            read_json(bad)
        assert caught.value.file == bad
        assert caught.value.remedy


def test_hashing_a_file_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        file_hash(tmp_path / "none")


def test_publishing_shows_the_old_result_until_the_new_one_is_complete(run: Run) -> None:
    first = made(run, "m1", "one")
    work = run.begin(LABEL, "m2")
    (work / "out.txt").write_text("two")
    assert run.state(LABEL) == first
    assert (run.published(LABEL) / "out.txt").read_text() == "one"
    run.publish(LABEL, {"fingerprint": "m2"})
    second = run.state(LABEL)
    assert second is not None
    assert (second["fingerprint"], (run.published(LABEL) / "out.txt").read_text()) == ("m2", "two")
    assert second["digest"] != first["digest"]
    assert [p.name for p in run.stages.iterdir()] == [LABEL]


def test_a_crash_between_the_two_renames_is_mended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made(run, "m1", "one")
    (run.begin(LABEL, "m2") / "out.txt").write_text("two")
    real = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if self == run.work(LABEL):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run.publish(LABEL, {"fingerprint": "m2"})
    monkeypatch.undo()
    assert not run.published(LABEL).exists()
    state = run.state(LABEL)
    assert state is not None
    assert state["fingerprint"] == "m2"
    assert (run.published(LABEL) / "out.txt").read_text() == "two"
    assert not run.work(LABEL).exists()


KILLED = """
import os, sys
from pathlib import Path
from pns.run import write_atomic
os.fsync = lambda _: os.kill(os.getpid(), 9)
write_atomic(Path(sys.argv[1]), "half")
"""


def test_what_a_kill_leaves_of_a_write_is_not_published(run: Run) -> None:
    whole = made(run, "m1", "one")
    env = {**os.environ, "PYTHONPATH": str(Path(pns.run.__file__).parents[1])}
    work = run.begin(LABEL, "m2")
    (work / "shards").mkdir()
    for path in (work / "shards" / "0.jsonl", run.folder / "manifest.json"):
        before = set(path.parent.iterdir())
        assert subprocess.run([sys.executable, "-c", KILLED, str(path)], env=env).returncode == -9
        assert len(set(path.parent.iterdir()) - before) == 1, "the kill came at another moment"
    assert run.manifest() == {"run_version": RUN_VERSION}
    assert made(run, "m2", "one")["digest"] == whole["digest"]
    with run.lock():
        assert {p.name for p in run.folder.iterdir()} == {"manifest.json", "lock", "stages", "logs"}


def test_unfinished_work_is_no_result(run: Run) -> None:
    (run.begin(LABEL, "m1") / "out.txt").write_text("half")
    assert run.state(LABEL) is None
    assert not run.published(LABEL).exists()


def test_work_is_gone_on_with_only_under_the_same_fingerprint(run: Run) -> None:
    (run.begin(LABEL, "m1") / "shard").write_text("x")
    assert (run.begin(LABEL, "m1") / "shard").is_file()
    assert not (run.begin(LABEL, "m2") / "shard").exists()
    (run.work(LABEL) / "shard").write_text("x")
    (run.work(LABEL) / "work.json").write_text("{half")
    assert not (run.begin(LABEL, "m2") / "shard").exists()


def test_the_digest_is_of_names_and_bytes_and_not_of_times(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> Path:
        for file, text in files.items():
            path = tmp_path / name / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / name

    base = digest_of(folder("a", one="1", sub__two="2"))
    assert base == digest_of(folder("b", sub__two="2", one="1"))
    for name in pns.run.VOLATILE:
        (tmp_path / "b" / name).write_text("when and how fast")
    os.utime(tmp_path / "b" / "one", (0, 0))
    assert base == digest_of(tmp_path / "b")
    others = [folder("c", one="1", sub__two="3"), folder("d", one="1", two="2"), folder("e", one="1")]
    assert len({base, *map(digest_of, others)}) == 4


def test_create_resumes_starts_beside_or_fails(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    first = Run.create(folder, "fail")
    first.update_manifest(recipe="a")
    assert Run.create(folder, "resume").manifest()["recipe"] == "a"
    with pytest.raises(UserError, match="this run exists") as caught:
        Run.create(folder, "fail")
    assert "--on-existing" in (caught.value.remedy or "")
    assert [Run.create(folder, "new").folder.name for _ in range(2)] == ["a-2", "a-3"]
    assert first.manifest() == {"run_version": RUN_VERSION, "recipe": "a"}


def test_an_empty_folder_may_become_a_run_and_a_foreign_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", "resume").manifest() == {"run_version": RUN_VERSION}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for how in ("resume", "new", "fail"):
        with pytest.raises(UserError, match="other files"):
            Run.create(foreign, how)
    with pytest.raises(UserError, match="not a run directory"):
        Run.open(foreign)
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]


def begun(folder: Path, kind: Kind) -> Path:
    """A folder in which something of this kind has begun."""
    Run.create(folder, "fail", kind)
    name, text = {
        "run": ("recipe.yaml", "name: a\n"),
        "study": (STUDY, "name: a\nrecipe: a.yaml\nabout: |\n  of\n  rounds: many\n"),
        "rounds": (STUDY, "recipe:\n  name: a\nmethods: [pns]\nrounds: 2\n"),
    }[kind]
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("there", ["run", "study", "rounds"])
@pytest.mark.parametrize("wanted", ["run", "study", "rounds"])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, there: Kind, wanted: Kind) -> None:
    folder = begun(tmp_path / "a", there)
    if there == wanted:
        assert Run.create(folder, "resume", wanted).folder == folder
        return
    with pytest.raises(UserError, match="this is the folder of") as caught:
        Run.create(folder, "resume", wanted)
    assert caught.value.remedy == f"choose another --{'study' if wanted == 'study' else 'run'}-dir"
    assert Run.create(folder, "new", wanted).folder.name == "a-2", "beside it is no harm"


@pytest.mark.parametrize("version", [RUN_VERSION + 1, None, "x"])
def test_a_run_of_another_version_is_refused_and_left_alone(tmp_path: Path, version: object) -> None:
    text = json.dumps({"run_version": version})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="another version of pns") as caught:
        Run.create(tmp_path, "resume")
    assert caught.value.remedy
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"manifest.json": text}


HOLD = """
import sys
from pathlib import Path
from pns.run import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_run(run: Run) -> None:
    source = Path(pns.run.__file__).parents[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"another process works on this run .process {holder.pid}.") as caught:
            with run.lock():
                pytest.fail("two processes held one run")
        assert caught.value.remedy
    finally:
        holder.kill()
        holder.communicate()
    with run.lock():  # the system frees the lock of a killed process
        assert (run.folder / "lock").read_text() == str(os.getpid())
