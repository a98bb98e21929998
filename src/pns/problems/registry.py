"""The problem sets that go by a name: a table, and how each becomes Problems.

A set is read from the data folder (`PNS_DATA`, or ../shared/data) where its file is there, else from the hub at a
pinned commit. Wherever a name is taken, the path of a file is taken, too: a name of the table wins, and on the command
line `./gsm8k` is a file. Hub ids and commits are those that public programs pin (each was found in at least two); local files are known
by their sha256.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pns.errors import UserError
from pns.parts.sources import data_root
from pns.problems import forms, hub
from pns.problems.files import Columns, load_problems
from pns.problems.hub import Hub
from pns.records import Problem

Role = Literal["benchmark", "training"]
Origin = Literal["auto", "local", "hub"]


@dataclass(frozen=True)
class ProblemSet:
    """One line of the table.

    Attributes:
        rows: problems in the local file.
        file, sha256: the local file in the data folder, and its only accepted content.
        licence: as stated in the data folder's README; it is no legal advice.
        kinds: the answer kinds that occur.
        fill: sets kind, tolerance and unit of a problem where the source leaves them open.
        notes: faults and peculiarities that are known.
    """

    name: str
    title: str
    role: Role
    rows: int
    file: str
    sha256: str
    licence: str
    kinds: tuple[str, ...]
    fill: Callable[[Problem], Problem]
    hub: Hub
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """Problems, where they came from, and what a person should know about that."""

    problems: list[Problem]
    origin: str
    notes: list[str] = field(default_factory=list)


_MIT = "MIT"
_MAA = "file: MIT; problems by the MAA, no data licence stated"
_OTHER_IDS = "ids are not those of the local file"

SETS: dict[str, ProblemSet] = {
    entry.name: entry
    for entry in (
        ProblemSet(
            "gsm8k", "GSM8K, test", "benchmark", 1319, "math/gsm8k.test.jsonl",
            "2e9a638195f40f7303fb7daaf6adbc8e83d0939ec269e01333e9bc1db48a2990", _MIT, ("math",), forms.number,
            Hub("openai/gsm8k", "main", "test", "740312add88f781978c0658806c59bc2815b9866", 1319, hub.gsm8k("gsm8k-test")),
        ),
        ProblemSet(
            "math500", "MATH-500", "benchmark", 500, "math/math500.test.jsonl",
            "3fe68ca2c1b94f9381a16527afdebf60247d7d364657d11e3d8d8db539cabac3", _MIT, ("choice", "math", "text"),
            forms.latex,
            Hub("HuggingFaceH4/MATH-500", None, "test", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", 500, hub.math500),
        ),
        ProblemSet(
            "aime24", "AIME 2024", "benchmark", 30, "math/aime24.jsonl",
            "0b31fddf48574c4ad01a168aa9e66d0ccc399f5ac0fbe518dbe1c1d0ecdfbbb2",
            "file: MIT; problems by the MAA, solutions from the AoPS wiki, no data licence stated",
            ("math",), forms.number,
            Hub("HuggingFaceH4/aime_2024", None, "train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", 30, hub.aime24),
        ),
        ProblemSet(
            "aime25", "AIME 2025", "benchmark", 30, "math/aime25.jsonl",
            "2192c61c29fb495c0236c6020ec0c7893aaf3e314700ab8a664aca69a9dc1ecc", _MAA, ("math",), forms.number,
            Hub("math-ai/aime25", None, "test", "563bb8404243c5f09de6ec262f2db674fe5bce9b", 30, hub.aime25, _OTHER_IDS),
            notes=("II-3, II-5 and II-6 have their figure as TikZ text.",),
        ),
        ProblemSet(
            "amc23", "AMC 12A and 12B 2023", "benchmark", 40, "math/amc23.jsonl",
            "1279d27bd02b1dc8f63a0ac902e137dfc3a251075656d541211d7dc968665a4d", _MAA, ("math",), forms.number,
            Hub("math-ai/amc23", None, "test", "80815d37005feb82cd7f8fbc6901d5d3eff43057", 40, hub.amc23),
        ),
        ProblemSet(
            "minerva-math", "Minerva Math", "benchmark", 272, "math/minerva_math.jsonl",
            "75e837d9c92a60a664a8a8daa99f853ba170236f7b7401a262f1da79f0cc31b5",
            "file: MIT; MIT OpenCourseWare material, data licence not stated", ("math",), forms.latex,
            Hub("math-ai/minervamath", None, "test", "ee46ddc498933b1977577953250ca5c66be64f96", 272, hub.minerva),
        ),
        ProblemSet(
            "olympiadbench", "OlympiadBench, mathematics, English, text only", "benchmark", 674,
            "math/olympiadbench.jsonl", "6acd76faed8ea9c3c54ceb829a799bf0a974591e9716840b22118400c20e1132",
            "file: MIT; upstream states none", ("math",), forms.olympiad,
            Hub("math-ai/olympiadbench", None, "test", "4faaf1e6ec17d11a4218a9bf4c049ecaf954dd84", 674, hub.olympiadbench),
            notes=(
                "olympiadbench-2045: the answer `t(0,4]` lost its relation sign.",
                "olympiadbench-1760: the answer mixes `$` and a unit.",
                "15 relay problems have the value of T from the 674-row release (meta.statement_corrected).",
                "2644, 2791, 2890 and 2895 are MATH training problems; 2607 and 2794 are, too, in other words.",
                "One row states a tolerance (2592, 0.1); several answers stand in one text, separated by commas.",
            ),
        ),
        ProblemSet(
            "svamp", "SVAMP", "benchmark", 1000, "math/svamp.jsonl",
            "20e086047d02d90ac78dbc36fc6c20e13dbd426d1829f4b9679e38bd7ef5ec88", _MIT, ("math",), forms.number,
            Hub("ChilleD/SVAMP", None, "train+test", "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef", 1000, hub.svamp),
        ),
        ProblemSet(
            "asdiv", "ASDiv", "benchmark", 2215, "math/asdiv.jsonl",
            "2010de22e2d06aa63a23d4b8c5b89c544eeab68baecb0f81eebe124686d53339",
            "file: MIT; upstream README states none; hub card: CC BY-NC 4.0", ("math", "text"), forms.asdiv,
            Hub(
                "EleutherAI/asdiv", "asdiv", "validation", "8f95807222d87b4c688c3c22a6ba2801e1fa03e2", 2215, hub.asdiv,
                "ids are not those of the local file; problems with several answers are left out",
            ),
            notes=("Names, times of day, ratios and ordinals are of kind text.", "243 of its problems stand in MAWPS."),
        ),
        ProblemSet(
            "mawps", "MAWPS", "benchmark", 2065, "math/mawps.jsonl",
            "39c85c3c83b7ce2ae6225d4b69fa85b423aa22ebd1c1b91ef148250849df78ea",
            "file: MIT; upstream not looked up; hub card: MIT", ("math",), forms.number,
            Hub(
                "MU-NLPC/Calc-mawps", "default", "test", "38c10053efeafd20ab6ff4e08c3ec17de26c19b7", 520, hub.mawps,
                "another selection of MAWPS than the local file: figures on the two do not compare",
            ),
            notes=(
                "214 rows repeat an earlier problem. They are kept, since published figures count them; "
                "--distinct keeps the first of each.",
                "Two repeats have another, wrong answer: mawps-1215 (mawps-244: 65057), mawps-1005 (mawps-479: 6).",
            ),
        ),
        ProblemSet(
            "gsm8k-train", "GSM8K, training set", "training", 7473, "math/gsm8k.train.jsonl",
            "1a3d2975cfa726527072a3747a0d518214ddbf60906331686dff8c4c0bad4f91", _MIT, ("math",), forms.number,
            Hub(
                "openai/gsm8k", "main", "train", "740312add88f781978c0658806c59bc2815b9866", 7473,
                hub.gsm8k("gsm8k-train"),
            ),
        ),
        ProblemSet(
            "math-train", "MATH, training set", "training", 7500, "math/math.train.jsonl",
            "75e24b624f95fa33799b3949d7281ca3ebc58628e3cdf517f74e9a9ca7f782a0",
            "MIT (file: Apache-2.0); problems from AoPS competitions", ("choice", "math", "text"), forms.latex,
            Hub(
                "DigitalLearningGmbH/MATH-lighteval", None, "train", "0530c78699ea5e8eb5530600900e1f328b48acad", 7500,
                hub.math_train, _OTHER_IDS,
            ),
            notes=(
                "train/number_theory/7115.json and 7117.json: the official solution has an empty box; "
                "the answer 0 was filled in (meta.answer_filled).",
                "Two rows have no level (`Level ?` at the source). Four rows repeat an earlier problem.",
                "Six problems stand in OlympiadBench, 38 of MATH-500 have a close twin here: `pns problems overlap`.",
            ),
        ),
    )
}  # fmt: skip
BENCHMARKS = ("gsm8k", "math500", "aime24", "aime25", "amc23", "minerva-math", "olympiadbench")
"""The seven of the method."""


def find(name: str | Path) -> ProblemSet | None:
    """The set of this name (case and `_` do not matter), or None: then it is the path of a file."""
    return SETS.get(str(name).casefold().replace("_", "-"))


def data_folder() -> Path | None:
    """The folder with local files: PNS_DATA, or ../shared/data where that exists.

    Raises UserError where PNS_DATA names no folder: going to the hub in its place would hide a slip.
    """
    root = data_root()
    if root is not None and not Path(root).is_dir():
        raise UserError("no such folder", file=root, field="PNS_DATA", remedy="set it to the data folder, or unset it")
    return None if root is None else Path(root)


def local_file(entry: ProblemSet) -> Path | None:
    """The set's file in the data folder, where there is one; its content is not looked at."""
    folder = data_folder()
    path = None if folder is None else folder / entry.file
    return path if path is not None and path.is_file() else None


def sha256_of(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_file(entry: ProblemSet, path: Path) -> None:
    """Make sure that a local file is the one that the table knows. Raises UserError naming both sums."""
    found = sha256_of(path)
    if found != entry.sha256:
        raise UserError(
            f"this is not the {entry.name} of the table: its sha256 is {found}, expected {entry.sha256}", file=path,
            remedy="restore the file, or give its path instead of the name to use it as your own",
        )  # fmt: skip


def load_set(entry: ProblemSet, *, origin: Origin = "auto", revision: str | None = None) -> Loaded:
    """The problems of a set, with kind, tolerance and unit filled in.

    Args:
        origin: `auto` is the local file where it is there and no revision is asked for, else the hub.
        revision: of the hub, in place of the pinned commit.

    Raises:
        UserError: the local file is missing (`local`) or another one; the hub cannot be read (see `hub.fetch`).
    """
    path = local_file(entry) if origin == "local" or (origin == "auto" and revision is None) else None
    if path is not None:
        check_file(entry, path)
        return Loaded([entry.fill(p) for p in load_problems(path)], str(path))
    if origin == "local":
        raise UserError(
            f"{entry.name} has no local file ({entry.file} in the data folder)",
            remedy="set PNS_DATA to the folder that has it, or read it from the hub",
        )
    problems, notes = hub.fetch(entry.hub, revision)
    return Loaded([entry.fill(p) for p in problems], f"{entry.hub.id} at {revision or entry.hub.revision}", notes)


def load(
    source: str | Path,
    *,
    columns: Columns | None = None,
    origin: Origin = "auto",
    revision: str | None = None,
    limit: int | None = None,
) -> Loaded:
    """The problems of a set by its name, or of a file by its path.

    Args:
        columns: for a file (see `load_problems`).
        origin, revision: for a set (see `load_set`).
        limit: only the first so many, 1 or more.

    Raises: UserError as `load_set` and `load_problems`; a name that is neither a set nor a file.
    """
    entry = find(source)
    if entry is not None:
        loaded = load_set(entry, origin=origin, revision=revision)
        return Loaded(loaded.problems[:limit], loaded.origin, loaded.notes)
    return Loaded(load_problems(existing(source), columns=columns, limit=limit), str(source))


def existing(source: str | Path) -> Path:
    """A path that is no name of a set. Raises UserError where nothing is there either, with the nearest name."""
    path = Path(source)
    if path.exists() or path.suffix:
        return path  # the reader says what is wrong with it
    near = difflib.get_close_matches(str(source).casefold().replace("_", "-"), SETS, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise UserError(f"{str(source)!r} is neither a problem set nor a file", remedy=f"{hint}Sets: {', '.join(SETS)}")


def identity(source: str | Path) -> str | None:
    """What tells whether a set has changed: its file's sha256, or the hub's id and commit; None for a path."""
    entry = find(source)
    if entry is None:
        return None
    path = local_file(entry)
    return sha256_of(path) if path is not None else f"{entry.hub.id}@{entry.hub.revision}"
