"""Problem sets by name: the table against the data folder's README, local files, and the hub's layout."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pns import fingerprints
from pns.errors import UserError
from pns.problems import hub
from pns.problems.contamination import repeats, text_key
from pns.problems.forms import asdiv, latex, olympiad, tolerance_of, unit_of
from pns.problems.registry import BENCHMARKS, SETS, ProblemSet, find, identity, load, local_file
from pns.recipe_files import load_recipe
from pns.records import Problem, to_jsonl
from pns.verify.check import decide

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
ALL = pytest.mark.parametrize("name", SETS)


@pytest.fixture(scope="module")
def data() -> Path:
    """The data folder."""
    given = os.environ.get("PNS_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "math").is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    return folder


@pytest.fixture(scope="module")
def local(data: Path) -> Callable[[str], list[Problem]]:
    """The problems of a set from its local file, each read once."""
    known: dict[str, list[Problem]] = {}

    def read(name: str) -> list[Problem]:
        if name not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PNS_DATA", str(data))
                known[name] = load(name, origin="local").problems
        return known[name]

    return read


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place without a data folder."""
    monkeypatch.delenv("PNS_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@ALL
def test_every_line_of_the_table_is_whole(name: str) -> None:
    entry = SETS[name]
    assert entry.name == name
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert re.fullmatch(r"[0-9a-f]{40}", entry.hub.revision)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub.id)
    assert (entry.role == "training") == name.endswith("-train")
    assert entry.licence
    assert not set(entry.kinds) - {"math", "text", "choice"}


def test_the_seven_benchmarks_and_the_other_sets() -> None:
    assert BENCHMARKS == ("gsm8k", "math500", "aime24", "aime25", "amc23", "minerva-math", "olympiadbench")
    assert set(SETS) - set(BENCHMARKS) == {"svamp", "asdiv", "mawps", "gsm8k-train", "math-train"}
    assert all(SETS[name].role == "benchmark" for name in BENCHMARKS)


@ALL
def test_files_are_those_of_the_data_readme(data: Path, name: str) -> None:
    entry = SETS[name]
    row = next(line for line in (data / "README.md").read_text().splitlines() if line.startswith(f"| `{entry.file}`"))
    _, _, rows, _, licence, sha256, _ = (cell.strip() for cell in row.split("|"))
    assert (int(rows), sha256.strip("`")) == (entry.rows, entry.sha256)
    assert "MIT" in licence
    assert "MIT" in entry.licence


@ALL
def test_every_set_has_its_rows_kinds_and_answers(local: Callable[[str], list[Problem]], name: str) -> None:
    entry, problems = SETS[name], local(name)
    assert len(problems) == entry.rows
    assert len({p.id for p in problems}) == entry.rows
    assert {p.kind for p in problems} == set(entry.kinds)
    for p in problems:
        verdict = decide(p.answer, p.answer, tolerance=p.tolerance, unit=p.unit, kind=p.kind)
        assert verdict is None or verdict.outcome == "correct", p


def test_known_faults_and_forms_are_there(local: Callable[[str], list[Problem]]) -> None:
    bench = {p.id: p for p in local("olympiadbench")}
    assert {p.id: p.tolerance for p in bench.values() if p.tolerance is not None} == {"olympiadbench-2592": 0.1}
    units = {p.id.rpartition("-")[2]: p.unit for p in bench.values() if p.unit is not None}
    assert units == {"1760": "degrees", "2253": "minute", "2334": "km", "2419": "cm^2", "2426": "km/h",
                     "2444": "min", "2522": "minutes", "2592": "%"}  # fmt: skip
    assert bench["olympiadbench-2045"].answer == "t(0,4]"
    assert sum(bool(p.meta.get("statement_corrected")) for p in bench.values()) == 15
    filled = {p.id for p in local("math-train") if p.meta.get("answer_filled")}
    assert filled == {"train/number_theory/7115.json", "train/number_theory/7117.json"}
    assert sum(len(group.ids) - 1 for group in repeats(local("math-train"))) == 4
    words = [p for p in local("asdiv") if p.kind == "text"]
    assert len(words) == 122
    assert all(p.unit is None for p in words)
    assert Counter(p.unit for p in local("asdiv")).most_common(2)[1] == ("dollars", 178)
    assert all(re.fullmatch(r"-?\d+", p.answer) for name in ("aime24", "aime25", "amc23") for p in local(name))


def test_repeats_of_mawps_are_those_of_the_notes(local: Callable[[str], list[Problem]]) -> None:
    groups = repeats(local("mawps"))
    assert sum(len(group.ids) - 1 for group in groups) == 214
    assert {(g.ids, g.answers) for g in groups if g.conflict} == {
        (("mawps-244", "mawps-1215"), ("65057", "64013")),
        (("mawps-479", "mawps-1005"), ("6", "30")),
    }
    assert "214 rows" in " ".join(SETS["mawps"].notes)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-1", 0.1), ("0.01", 0.01), ("$1e-1$", 0.1), ("1e-1,1e-1", 0.1), ("1e-1,1e-2", None), ("", None), (None, None),
     ("0", None), ("-1", None), ("nan", None), ("inf", None), ("1e-1;2", None), (True, None), (0.5, 0.5)],
)  # fmt: skip
def test_tolerances(text: object, value: float | None) -> None:
    assert tolerance_of(text) == value


@pytest.mark.parametrize(
    ("text", "unit"),
    [("$cm^2$", "cm^2"), (r"^{\circ}", "degrees"), (r"$^\circ$", "degrees"), (r"\mathrm{~km}", "km"), ("%", "%"),
     ("", None), (None, None), ("$ $", None)],
)  # fmt: skip
def test_units(text: object, unit: str | None) -> None:
    assert unit_of(text) == unit


@pytest.mark.parametrize(
    ("answer", "raw", "kind", "unit"),
    [("9", "9 (apples)", "math", "apples"), ("-1/3", "-(1/3)", "math", None), ("5/2", "5/2", "math", None),
     ("3:4", "3:4", "text", None), ("3:30 p.m.", "3:30 p.m.", "text", None), ("Ted", "Ted", "text", None),
     ("6th", "6th", "text", None), ("7", "7 ()", "math", None)],
)  # fmt: skip
def test_asdiv_forms(answer: str, raw: str, kind: str, unit: str | None) -> None:
    found = asdiv(Problem(id="a", problem="q", answer=answer, meta={"answer_raw": raw}))
    assert (found.kind, found.unit) == (kind, unit)


def test_what_a_row_says_itself_stands() -> None:
    own = Problem(
        id="a", problem="q", answer=r"\text{(C)}", kind="math", tolerance=0.0, meta={"error": "1", "unit": "km"}
    )
    assert olympiad(own) == own.model_copy(update={"unit": "km"})
    kinds = [
        latex(Problem(id="a", problem="q", answer=a)).kind for a in (r"\text{(C)}", r"\text{east}", r"\text{A, B}")
    ]
    assert kinds == ["choice", "text", "math"]


def test_names_and_paths(no_data: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("Minerva_Math") is SETS["minerva-math"]
    assert find("./aime24") is None
    Path("aime24").write_text(to_jsonl([Problem(id="mine", problem="q", answer="1")]))
    monkeypatch.setenv("PNS_DATA", str(data))
    assert load("aime24", limit=2).problems[1].id == "aime24-I-10"
    assert [p.id for p in load("./aime24").problems] == ["mine"]
    with pytest.raises(UserError, match="neither a problem set nor a file") as caught:
        load("aime 24")
    assert "did you mean `aime24`" in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        load("none.jsonl")


def test_a_file_of_other_content_is_refused_with_both_sums(no_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = no_data / "mine"
    (folder / "math").mkdir(parents=True)
    monkeypatch.setenv("PNS_DATA", str(folder))
    path = folder / SETS["amc23"].file
    path.write_text(to_jsonl([Problem(id="x", problem="q", answer="1")]))
    with pytest.raises(UserError) as caught:
        load("amc23")
    assert SETS["amc23"].sha256 in str(caught.value)
    assert str(identity("amc23")) in str(caught.value)
    assert [p.id for p in load(path).problems] == ["x"]
    with pytest.raises(UserError, match="no local file"):
        load("aime24", origin="local")


def test_recipes_take_names_and_their_content_counts(
    no_data: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("problems.source=jsonl", "problems.misread_share=0", "problems.train_file=gsm8k-train",
                 "problems.benchmarks={b: aime24, c: mine.jsonl}")  # fmt: skip
    Path("mine.jsonl").write_text("x")
    recipe = load_recipe(SMOKE, overrides)[0]
    remote = fingerprints.input_hashes(recipe)["problems"]
    assert remote["gsm8k-train"] == "openai/gsm8k@740312add88f781978c0658806c59bc2815b9866"
    monkeypatch.setenv("PNS_DATA", str(data))
    assert local_file(SETS["aime24"]) is not None
    here = fingerprints.input_hashes(recipe)["problems"]
    assert (here["gsm8k-train"], here["aime24"]) == (SETS["gsm8k-train"].sha256, SETS["aime24"].sha256)
    assert here["mine.jsonl"] == remote["mine.jsonl"]


# For each set rows in the columns of its data card, and what of them must come out.
LAYOUTS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "gsm8k": (
        [{"question": "How many?", "answer": "She has 500*2=<<500*2=1000>>1000.\n#### 1,000"}],
        [{"id": "gsm8k-test-0", "problem": "How many?", "answer": "1000", "kind": "math",
          "solution": "She has 500*2=<<500*2=1000>>1000."}],
    ),
    "gsm8k-train": (
        [{"question": "Why?", "answer": "#### -3"}],
        [{"id": "gsm8k-train-0", "answer": "-3", "solution": None}],
    ),
    "math500": (
        [{"problem": "Which?", "solution": "It is $\\boxed{\\text{(C)}}$.", "answer": "\\text{(C)}", "subject": "Algebra",
          "level": 2, "unique_id": "test/algebra/1.json"}],
        [{"id": "test/algebra/1.json", "answer": "\\text{(C)}", "kind": "choice", "level": 2, "subject": "Algebra"}],
    ),
    "aime24": (
        [{"id": 60, "problem": "Every morning", "solution": "204", "answer": "033",
          "url": "https://artofproblemsolving.com/wiki/index.php/2024_AIME_II_Problems/Problem_4", "year": "2024"}],
        [{"id": "aime24-II-4", "answer": "33", "subject": "AIME II", "level": 4, "kind": "math"}],
    ),
    "aime25": (
        [{"problem": "Find the sum", "answer": "070", "id": "0"}],
        [{"id": "aime25-0", "answer": "70", "solution": None}],
    ),
    "amc23": (
        [{"id": 0, "question": "Cities A and B", "answer": 27.0,
          "url": "https://artofproblemsolving.com/wiki/index.php/2023_AMC_12A_Problems/Problem_1"},
         {"id": 7, "question": "Else", "answer": 0.5, "url": "other"}],
        [{"id": "amc23-12A-1", "answer": "27", "level": 1}, {"id": "amc23-7", "answer": "0.5", "level": None}],
    ),
    "minerva-math": (
        [{"question": "Find the diameter.", "answer": "1.6"}],
        [{"id": "minerva-0", "problem": "Find the diameter.", "answer": "1.6", "kind": "math"}],
    ),
    "olympiadbench": (
        [{"id": 2592, "question": "Determine r.", "solution": ["One.", "Two."], "final_answer": ["$4.2$"], "context": None,
          "image_1": None, "modality": "Text-only", "difficulty": "Competition", "is_multiple_answer": False, "unit": "%",
          "answer_type": "Numerical", "error": "1e-1", "question_type": "Open-ended", "subfield": "Algebra",
          "subject": "Math", "language": "English"},
         {"id": 2, "question": "All n?", "solution": ["So."], "final_answer": ["$1$,$2$"], "context": None,
          "image_1": None, "modality": "Text-only", "difficulty": "Competition", "is_multiple_answer": True, "unit": None,
          "answer_type": "Numerical", "error": None, "question_type": "Open-ended", "subfield": "Geometry",
          "subject": "Math", "language": "English"}],
        [{"id": "olympiadbench-2592", "answer": "4.2", "tolerance": 0.1, "unit": "%", "solution": "One.\n\nTwo.",
          "subject": "Algebra"},
         {"id": "olympiadbench-2", "answer": "$1$,$2$", "tolerance": None, "unit": None,
          "meta": {"answer_type": "Numerical", "is_multiple_answer": True, "unit": None, "error": None}}],
    ),
    "svamp": (
        [{"ID": "chal-777", "Body": "There are 87 oranges ", "Question": "How big is each?", "Equation": "( 290.0 / 2.0 )",
          "Answer": "145.0", "Type": "Common-Division", "question_concat": "x"}],
        [{"id": "svamp-chal-777", "problem": "There are 87 oranges. How big is each?", "answer": "145",
          "subject": "Common-Division"}],
    ),
    "asdiv": (
        [{"body": "Two apples.", "question": "How many?", "solution_type": "Sum", "answer": "2 (apples)", "formula": "2"},
         {"body": "x", "question": "y", "solution_type": "LCM", "answer": "1 (row); 2 (seats)", "formula": ""},
         {"body": "A", "question": "Who?", "solution_type": "Comparison", "answer": "Mrs. Hilt", "formula": ""}],
        [{"id": "asdiv-row-0", "problem": "Two apples. How many?", "answer": "2", "unit": "apples", "kind": "math"},
         {"id": "asdiv-row-2", "answer": "Mrs. Hilt", "kind": "text", "unit": None}],
    ),
    "mawps": (
        [{"id": "mawps__1", "question": "How many acres?", "chain": "x", "result": "64_013", "result_float": 64013.0,
          "equation": "x=1", "expression": "1"}],
        [{"id": "mawps__1", "answer": "64013"}],
    ),
    "math-train": (
        [{"problem": "Find $a$.", "level": "Level 5", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
         {"problem": "How many primes?", "level": "Level ?", "type": "Number Theory", "solution": "There are $\\boxed{}$."},
         {"problem": "Find $b$.", "level": "Level 1", "type": "Algebra", "solution": "So it is $\\boxed 9$."}],
        [{"id": "math-train-0", "answer": "\\frac{1}{2}", "level": 5, "subject": "Algebra", "meta": {}},
         {"answer": "0", "level": None, "meta": {"answer_filled": True}}, {"answer": "9", "level": 1}],
    ),
}  # fmt: skip


@pytest.fixture
def hub_rows(no_data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ProblemSet, list[dict[str, Any]]], list[Any]]:
    """Let `datasets` read rows from a local file where it is asked for a set on the hub; the calls are kept."""
    import datasets

    real = datasets.load_dataset

    def serve(entry: ProblemSet, rows: list[dict[str, Any]]) -> list[Any]:
        path = no_data / f"{entry.name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        calls: list[Any] = []

        def fake(*args: Any, **more: Any) -> Any:
            calls.append((args, more))
            return real("json", data_files=str(path), split="train", cache_dir=str(no_data / "cache"))

        monkeypatch.setattr(datasets, "load_dataset", fake)
        return calls

    return serve


@ALL
def test_rows_in_the_layout_of_the_hub_become_problems(
    hub_rows: Callable[[ProblemSet, list[dict[str, Any]]], list[Any]], name: str
) -> None:
    entry = SETS[name]
    rows, expected = LAYOUTS[name]
    calls = hub_rows(entry, rows)
    loaded = load(name)
    place = entry.hub
    assert calls == [((place.id, place.config), {"split": place.split, "revision": place.revision})]
    got = [p.model_dump() for p in loaded.problems]
    assert [{key: row[key] for key in want} for row, want in zip(got, expected, strict=True)] == expected
    assert loaded.origin == f"{place.id} at {place.revision}"
    assert f"{place.rows} were expected" in loaded.notes[0]
    assert (place.note in loaded.notes) == bool(place.note)


def test_hub_errors_say_what_to_do(
    hub_rows: Callable[[ProblemSet, list[dict[str, Any]]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SETS["gsm8k"]
    hub_rows(entry, [{"question": "q", "solution": "x"}])
    with pytest.raises(UserError, match=r"openai/gsm8k:1: answer: no such column; there: question, solution"):
        load("gsm8k")
    hub_rows(entry, [{"question": "q", "answer": "#### 1"}, {"question": "", "answer": "#### 1"}])
    with pytest.raises(UserError, match=r"openai/gsm8k:2: problem: .*must not be empty"):
        load("gsm8k")
    calls = hub_rows(entry, [{"question": "q", "answer": "#### 1"}])
    assert "'main' is no commit" in load("gsm8k", revision="main").notes[0]
    assert calls[0][1]["revision"] == "main"

    import datasets

    def offline(*args: Any, **more: Any) -> Any:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match="ConnectionError: no network") as caught:
        load("gsm8k")
    assert "PNS_DATA" in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="not installed") as caught:
        load("gsm8k")
    assert "[train]" in str(caught.value)
    assert "PNS_DATA" in str(caught.value)


def test_a_revision_means_the_hub_even_with_a_local_file(
    data: Path, hub_rows: Callable[[ProblemSet, list[dict[str, Any]]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = hub_rows(SETS["gsm8k"], LAYOUTS["gsm8k"][0])
    monkeypatch.setenv("PNS_DATA", str(data))
    assert load("gsm8k", limit=1).origin.endswith("gsm8k.test.jsonl")
    assert not calls
    assert load("gsm8k", revision="0" * 40).origin == f"openai/gsm8k at {'0' * 40}"
    assert load("gsm8k", origin="hub").origin.startswith("openai/gsm8k at 740312a")


def test_hub_rules_give_the_local_answers(local: Callable[[str], list[Problem]]) -> None:
    """The parts of local rows, put back into the hub's layout, through the hub's mapping."""
    for p in local("gsm8k"):
        row = {"question": p.problem, "answer": f"{p.solution}\n#### {p.answer}"}
        found = hub.gsm8k("x")(row, 0)
        assert found is not None
        assert (found.answer, found.solution) == (p.answer, p.solution)
    for p in local("math-train"):
        made = hub.math_train({"problem": p.problem, "level": "", "type": "", "solution": p.solution}, 0)
        assert (made.answer, "answer_filled" in made.meta) == (p.answer, "answer_filled" in p.meta)
    for p in local("asdiv"):
        raw = {"body": p.problem, "question": "", "solution_type": "", "answer": p.meta["answer_raw"]}
        again = hub.asdiv(raw, 0)
        assert again is not None
        assert (asdiv(again).answer, asdiv(again).unit, asdiv(again).kind) == (p.answer, p.unit, p.kind)
    for p in local("olympiadbench"):
        several = p.meta["is_multiple_answer"]
        whole: dict[str, Any] = {**p.meta, "id": 1, "question": p.problem, "solution": [], "subfield": "",
               "final_answer": [p.answer if several else f"${p.answer}$"]}  # fmt: skip
        assert text_key(hub.olympiadbench(whole, 0).answer) == text_key(p.answer)


def test_mapping_an_empty_set_is_an_error() -> None:
    place = SimpleNamespace(id="a/b", mapper=hub.minerva)
    with pytest.raises(UserError, match="no rows"):
        hub.map_rows(place, [])  # type: ignore[arg-type]
