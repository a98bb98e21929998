"""A run's directory: fingerprints, atomic publication, lock, manifest.

    runs/<name>/{recipe.yaml, manifest.json, lock, logs/<stage>.log, stages/<nn>-<stage>/..., report/}

A stage works in `stages/<nn>-<stage>.work` and is published by one rename; its `stage.json` is written last, so a
directory with one is complete. An earlier result stays in place until the new one is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pns.errors import UserError

RUN_VERSION = 1
# In a stage's folder: what a judge behind a server has cost.
JUDGE_SPENT = "judge-spent.json"
# Files that hold times, paths or costs; a stage's digest must not depend on them.
VOLATILE = ("stage.json", "work.json", JUDGE_SPENT)
# In the folder of a study or of rounds: what it was told.
STUDY = "study.yaml"
Kind = Literal["run", "study", "rounds"]
# What a kind of folder is called, and the option that names one.
_KINDS: dict[Kind, tuple[str, str]] = {
    "run": ("a run", "--run-dir"), "study": ("a study", "--study-dir"), "rounds": ("rounds", "--run-dir"),
}  # fmt: skip
# Begins the names of files that are being written; a kill leaves them behind.
UNFINISHED = ".unfinished-"
# What mends a damaged file of a run.
AGAIN = "delete the stage's folder and run again"
_ELSEWHERE = "another folder (--run-dir; of a study --study-dir)"


def check_writable(out: Path, field: str | None = None) -> None:
    """Whether a file can be written there, by a rename: told before any work is done.

    Raises UserError for a directory, for what is there and no plain file, and for a folder that is missing or shut.
    """
    if out.is_dir():
        raise UserError("this is a directory", file=out, field=field, remedy="name a file inside it")
    if out.exists() and not out.is_file():
        raise UserError("this is no plain file", file=out, field=field, remedy="name another")
    if not out.parent.is_dir():
        raise UserError("no such folder", file=out.parent, field=field, remedy="make it, or name another")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError("this folder cannot be written", file=out.parent, field=field, remedy="name another folder")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside its place; it is moved there when the block ends well, and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk has no name
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never half of it."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, broken: str = AGAIN) -> Any:
    """Read a JSON file of the run. Raises UserError when it is missing or broken.

    Args:
        broken: what mends a broken one.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "no such file", file=path, remedy="is this a run directory? `pns show RUN` looks at one"
        ) from None
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", file=path, remedy=broken) from None


def fingerprint(**parts: Any) -> str:
    """A short hash of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_of(seed: int, name: str) -> int:
    """The seed of a named part of a run, 0..2**31-1, split from the recipe's one seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big") % 2**31


def file_hash(path: Path) -> str:
    """sha256 of a file. Raises UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", file=path, remedy="check the path in the recipe"
        ) from None
    return digest.hexdigest()


def digest_of(folder: Path) -> str:
    """sha256 over the names and bytes of all files of a published stage, times and paths left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in VOLATILE):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + file_hash(path).encode() + b"\n")
    return digest.hexdigest()


def folder_kind(folder: Path) -> Kind | None:
    """Whose folder this is, by what was told in it; None where nothing has begun there."""
    if (folder / STUDY).is_file():
        told = (folder / STUDY).read_text(encoding="utf-8", errors="replace")
        return "rounds" if re.search(r"^rounds:", told, re.MULTILINE) else "study"
    return "run" if (folder / "recipe.yaml").is_file() else None


def check_of_recipe(folder: Path, remedy: str) -> None:
    """Raises UserError for the folder of a study, or of rounds, which has many of what a run of one recipe has once."""
    if folder_kind(folder) in ("study", "rounds"):
        raise UserError("this is the folder of a study, or of rounds, and no run", file=folder, remedy=remedy)


def check_folder(folder: Path, kind: Kind) -> None:
    """Raises UserError for a folder of another kind: its stages would be taken for foreign ones, its report be replaced."""
    there = folder_kind(folder)
    if there not in (None, kind):
        (found, _), (wanted, option) = _KINDS[there], _KINDS[kind]
        raise UserError(
            f"this is the folder of {found}, and not of {wanted}", file=folder, remedy=f"choose another {option}"
        )


def _clear(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


class Run:
    """One run directory. `create` makes or opens it; `lock` must be held while stages run."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.folder = folder
        self.store = store

    @property
    def stages(self) -> Path:
        """Where stages are published: in the run's own folder, or in that of a run whose stages it shares."""
        return (self.store or self.folder) / "stages"

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run. Raises UserError when it is none, or one of another version."""
        if not (folder / "manifest.json").is_file():
            raise UserError(
                "not a run directory (no manifest.json)",
                file=folder,
                remedy="check the path; `pns run` and `pns study` make one",
            )
        run = cls(folder)
        version = run.manifest().get("run_version")
        if version != RUN_VERSION:
            raise UserError(
                f"this run was made by another version of pns (layout {version}, this is {RUN_VERSION})",
                file=folder,
                remedy=f"use --on-existing new, or {_ELSEWHERE}",
            )
        return run

    @classmethod
    def create(cls, folder: Path, on_existing: str, kind: Kind = "run") -> Run:
        """Make a run directory, or open one that is there: `resume` it, take a `new` name beside it, or `fail`.

        Raises UserError also where the folder is of another kind, or no directory of ours.
        """
        other = f"choose another {_KINDS[kind][1]}"
        if (folder / "manifest.json").exists():
            if on_existing == "fail":
                raise UserError(
                    "this run exists",
                    file=folder,
                    remedy="--on-existing resume goes on with it, `new` starts beside it",
                )
            if on_existing == "resume":
                check_folder(folder, kind)
                return cls.open(folder)
            number = 2
            while (folder.parent / f"{folder.name}-{number}").exists():
                number += 1
            folder = folder.parent / f"{folder.name}-{number}"
        elif folder.exists() and not folder.is_dir():
            raise UserError("this is a file, not a run directory", file=folder, remedy=other)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError("this folder holds other files", file=folder, remedy=other)
        run = cls(folder)
        run.stages.mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        write_json(folder / "manifest.json", {"run_version": RUN_VERSION})
        return run

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands."""
        mended = f'write {{"run_version": {RUN_VERSION}}} into it and run again: stages that are done stay'
        data = read_json(self.folder / "manifest.json", mended)
        return data if isinstance(data, dict) else {}

    def update_manifest(self, **values: Any) -> None:
        """Add or replace keys of the manifest."""
        write_json(self.folder / "manifest.json", {**self.manifest(), "run_version": RUN_VERSION, **values})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run, and the one whose stages it shares. Raises UserError when another process holds one of them; the
        system frees it however a process dies.
        """
        with contextlib.ExitStack() as held:
            for folder in dict.fromkeys([self.folder, self.store or self.folder]):
                held.enter_context(self._hold(folder))
            yield

    @contextmanager
    def _hold(self, folder: Path) -> Iterator[None]:
        path = folder / "lock"
        with path.open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                raise UserError(
                    f"another process works on this run (process {holder})",
                    file=folder,
                    remedy=f"wait for it, stop it, or use {_ELSEWHERE}",
                ) from None
            stream.seek(0)
            stream.truncate()
            stream.write(str(os.getpid()))
            stream.flush()
            _clear(folder.glob(f"{UNFINISHED}*"))
            try:
                yield
            finally:
                stream.truncate(0)  # so that another machine sees that nobody works on it

    def published(self, label: str) -> Path:
        """Where the stage `nn-name` is, or will be, published."""
        return self.stages / label

    def work(self, label: str) -> Path:
        """Where it works until then."""
        return self.stages / f"{label}.work"

    def state(self, label: str) -> dict[str, Any] | None:
        """stage.json of a published stage, or None. Finishes a publication that a crash interrupted between renames."""
        published, work = self.published(label), self.work(label)
        if not published.exists() and (work / "stage.json").is_file():
            work.replace(published)
        path = published / "stage.json"
        return read_json(path) if path.is_file() else None

    def begin(self, label: str, mark: str, inputs: Mapping[str, str] | None = None) -> Path:
        """The work folder for this fingerprint and these inputs (name -> digest): an unfinished one of the same is gone on
        with, others are cleared.
        """
        work, given = self.work(label), dict(inputs or {})
        try:
            there = json.loads((work / "work.json").read_text(encoding="utf-8"))
            same = there.get("fingerprint") == mark and there.get("inputs", given) == given
        except (OSError, ValueError, AttributeError):
            same = False
        if not same:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_json(work / "work.json", {"fingerprint": mark, "inputs": given})
        return work

    def publish(self, label: str, state: Mapping[str, Any]) -> None:
        """Make the work folder the stage's result, in place of an older one."""
        published, work, old = self.published(label), self.work(label), self.stages / f"{label}.old"
        _clear(work.rglob(f"{UNFINISHED}*"))
        size = sum(p.stat().st_size for p in work.rglob("*") if p.is_file())
        write_json(work / "stage.json", {**state, "digest": digest_of(work), "bytes": size})
        shutil.rmtree(old, ignore_errors=True)
        if published.exists():
            published.replace(old)
        work.replace(published)
        shutil.rmtree(old, ignore_errors=True)
