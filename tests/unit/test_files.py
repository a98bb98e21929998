"""Problems from files, and their splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pns.errors import UserError
from pns.problems.files import Columns, load_problems, read_statements, to_boxed
from pns.problems.splits import assign, check_disjoint, normalise
from pns.records import Problem, to_jsonl, write_parquet

ROW = {"id": "a", "problem": "What is 1 + 1?", "answer": "2"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def pool(count: int, prefix: str = "p") -> list[Problem]:
    return [Problem(id=f"{prefix}{i}", problem=f"What is {i} plus {i}?", answer=str(2 * i)) for i in range(count)]


def test_reads_all_fields_in_file_order(tmp_path: Path) -> None:
    full = {
        **ROW, "id": "b", "solution": "1 + 1 = 2", "subject": "sums", "level": 3, "meta": {"unit": "apples"},
        "kind": "math", "tolerance": 0.5, "unit": "apples",
    }  # fmt: skip
    path = write(tmp_path / "p.jsonl", full, "", {**ROW, "solution": None})
    first, second = load_problems(path)
    assert first.model_dump() == full
    assert (second.id, second.solution, second.meta) == ("a", None, {})


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", ROW, {**ROW, "id": "b"}, "{broken")
    assert [p.id for p in load_problems(path, limit=2)] == ["a", "b"]
    with pytest.raises(UserError, match=r"p\.jsonl:3"):
        load_problems(path)
    with pytest.raises(ValueError, match="limit"):
        load_problems(path, limit=0)


@pytest.mark.parametrize(
    ("number", "text"),
    [(72, "72"), (72.0, "72"), (0.5, "0.5"), (-3, "-3"), (10**30, "1" + "0" * 30), (10**400, "1" + "0" * 400)],
)
def test_a_number_as_answer_becomes_text(tmp_path: Path, number: float, text: str) -> None:
    assert load_problems(write(tmp_path / "p.jsonl", {**ROW, "answer": number}))[0].answer == text


def test_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode())
    assert load_problems(path)[0].id == "a"


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ("{not json", None, "not valid JSON"),
        ("[1]", None, "not a JSON object"),
        ('{"id": "z", "problem": "q", "answer": NaN}', "answer", "must be text"),
        ('{"id": "z", "problem": "q", "answer": "1", "meta": {"a": NaN}}', "meta", "NaN"),
        ('{"id": "z", "problem": "q", "answer": "1", "answer": "2"}', None, "stands twice"),
        (
            '{"id": "z", "problem": "q", "answer": "1", "meta": ' + "[" * 100000 + "]" * 100000 + "}",
            None,
            "nested too deep",
        ),
        ('{"id": "z", "problem": "q", "answer": 1e999}', "answer", "must be text"),
        ('{"id": "z", "problem": "q", "answer": ' + "9" * 5000 + "}", None, "more than 4,300 digits"),
        ('{"id": "z", "problem": "q", "answer": "1", "tolerance": ' + "9" * 400 + "}", "tolerance", "must be a"),
        ({**ROW, "id": "z", "answer": True}, "answer", "must be text"),
        ({**ROW, "id": "z", "answer": " \t"}, "answer", "empty"),
        ({**ROW, "id": "z", "problem": ""}, "problem", "empty"),
        ({**ROW, "id": " "}, "id", "empty"),
        ({"id": "z", "problem": "q"}, "answer", "required"),
        ({**ROW, "id": 7}, "id", "must be text"),
        ({**ROW, "id": "z", "anwser": "2"}, "anwser", "did you mean `answer`"),
        ({**ROW, "id": "z", "rm_score": 2}, "rm_score", "`meta`"),
        ({**ROW, "answer": "3"}, "id", "already the id of line 1"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path: Path, row: Any, field: str | None, words: str) -> None:
    path = write(tmp_path / "p.jsonl", ROW, "", row)
    with pytest.raises(UserError) as caught:
        load_problems(path)
    error = caught.value
    assert (error.file, error.line, error.field) == (path, 3, field)
    assert words in str(error)
    assert error.remedy


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"id": "é"}'.encode("latin-1"))
    (tmp_path / "empty.jsonl").write_text("\n \n")
    for name, words in [("none.jsonl", "no such file"), ("latin.jsonl", "UTF-8"), ("empty.jsonl", "no problems")]:
        with pytest.raises(UserError, match=words) as caught:
            load_problems(tmp_path / name)
        assert caught.value.file == tmp_path / name
        assert caught.value.remedy
    with pytest.raises(UserError, match="directory"):
        load_problems(tmp_path)


def test_parquet_of_our_own_gives_the_same_problems_back(tmp_path: Path) -> None:
    rows = [
        Problem(
            id="a", problem="Half of 9?", answer="4.5", level=2, meta={"k": [1]}, kind="math", tolerance=0.1, unit="kg"
        ),
        Problem(id="b", problem="Who?", answer="Ada", solution="Ada.", subject="people", level="hard", kind="text"),
    ]
    write_parquet(tmp_path / "p.parquet", rows)
    assert load_problems(tmp_path / "p.parquet") == rows
    assert load_problems(tmp_path / "p.parquet", limit=1) == rows[:1]


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('question,gold,url,tolerance\nHow many?,7.0,x,\n"Where, then?",here,y,0.5\n')
    named = Columns(problem="question", answer="gold")
    first, second = load_problems(path, columns=named)
    assert (first.id, first.problem, first.answer, first.tolerance) == ("row-2", "How many?", "7.0", None)
    assert (second.id, second.answer, second.tolerance) == ("row-3", "here", 0.5)
    assert [p.id for p in load_problems(path, columns=Columns(id="url", problem="question", answer="gold"))] == [
        "x",
        "y",
    ]
    lines = write(tmp_path / "p.jsonl", {"q": "1 + 1?", "a": 2.0, "other": {}})
    assert load_problems(lines, columns=Columns(problem="q", answer="a"))[0].answer == "2"


def test_columns_of_our_own_jsonl_and_of_others_with_meta(tmp_path: Path) -> None:
    ours = [
        Problem(id="a", problem="1 + 1?", answer="2", meta={"k": [1.5, None]}),
        Problem(id="b", problem="2?", answer="2"),
    ]
    path = tmp_path / "p.jsonl"
    path.write_text(to_jsonl(ours))
    assert load_problems(path, columns=Columns(answer="answer")) == ours
    row = {"q": "1 + 1?", "id": "a", "answer": "2"}
    for meta, want in (({"a": {"b": 1}}, {"a": {"b": 1}}), ('{"a": 1}', {"a": 1}), (None, {})):
        lines = write(tmp_path / "q.jsonl", {**row, "meta": meta})
        assert load_problems(lines, columns=Columns(problem="q"))[0].meta == want
    for bad, words in (("[1]", "a list"), ('{"a": NaN}', "NaN"), ('{"a": [1e999]}', "NaN"),
                       ('"{\\"a\\": 1e999}"', "NaN")):  # fmt: skip
        lines = write(tmp_path / "q.jsonl", '{"q": "1 + 1?", "id": "a", "answer": "2", "meta": ' + bad + "}")
        with pytest.raises(UserError, match=words) as caught:
            load_problems(lines, columns=Columns(problem="q"))
        assert (caught.value.line, caught.value.field) == (1, "meta")


@pytest.mark.parametrize(
    ("text", "columns", "field", "words"),
    [
        ("id,problem,answr\n1,q,2\n", Columns(), "answer", "did you mean `answr`"),
        ("id,problem,answer,url\n1,q,2,x\n", Columns(), "url", "unknown key"),
        ("q,answer\nx,2\n", Columns(problem="qq"), "qq", "--problem-column"),
        ("q,answer\nx,2\n", Columns(answer="answer"), "problem", "--problem-column"),
        ("id,problem,answer\n1,q,\n", Columns(), "answer", "missing"),
        ("id,problem,answer\n1,q,2\n1,r,3\n", Columns(), "id", "already the id of line 2"),
        ("id,problem,answer,kind\n1,q,2,number\n", Columns(), "kind", "math, text, choice"),
        ("id,problem,answer,tolerance\n1,q,2,-1\n", Columns(), "tolerance", "must be at least 0"),
        ("id,problem,answer,meta\n1,q,2,[]\n", Columns(), "meta", "JSON object"),
    ],
)
def test_bad_tables_name_their_column(tmp_path: Path, text: str, columns: Columns, field: str, words: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_problems(path, columns=columns)
    assert (caught.value.file, caught.value.field) == (path, field)
    assert words in str(caught.value)
    assert caught.value.remedy


def test_statements_need_no_answer_and_no_id(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "How many?"}, "", {"prompt": "Where?"})
    found = list(read_statements(path, Columns(problem="prompt")))
    assert [tuple(row) for row in found] == [("row-1", "How many?", None), ("row-3", "Where?", None)]
    full = write(tmp_path / "q.jsonl", ROW, {**ROW, "answer": 3})
    assert [tuple(row) for row in read_statements(full)] == [("a", ROW["problem"], "2"), ("a", ROW["problem"], "3")]
    with pytest.raises(UserError, match="--problem-column"):
        list(read_statements(path))


def test_to_boxed_turns_a_gsm8k_solution_into_a_target() -> None:
    text = "Natalia sold 48/2 = <<48/2=24>>24 clips  in May.\n\n She paid $<<0.2*50=10>>10. \n#### 72"
    target = to_boxed(Problem(id="a", problem="q", answer="72", solution=text))
    assert target == "Natalia sold 48/2 = 24 clips in May.\nShe paid $10.\nThe answer is \\boxed{72}"


@pytest.mark.parametrize(
    ("solution", "kept"),
    [
        ("So $x = \\boxed{\\frac{1}{2}}$.", True),
        ("First \\boxed{3}, then\n\n  \\boxed {4}.", True),
        ("There are $\\boxed{}$ primes.", False),
        ("First \\boxed{3}, then \\boxed 4.", False),
        (None, False),
        ("  ", False),
    ],
)
def test_to_boxed_keeps_a_boxed_solution_or_gives_none(solution: str | None, kept: bool) -> None:
    target = to_boxed(Problem(id="a", problem="q", answer="72", solution=solution))
    assert target == (solution if kept else None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many  apples ?", "how many apples"),
        ("She said “Stop!”", 'she said "stop"'),
        ("It costs $1,200.", "It costs 1200"),
        ("Tom, who has twenty-five", "Tom who has twenty five"),
        ("Find $x$.", "Find x:"),
    ],
)
def test_normalise_sees_through_writing(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3.5 kg", "35 kg"), ("x + 1", "x - 1"), ("1/2", "12"), ("a(b+c)", "ab+c"), ("-3", "3"), ("(1,2)", "(12)")],
)
def test_normalise_keeps_what_changes_the_answer(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text(st.sampled_from("aB1 0.,-'?!$\"\nÉß:"), max_size=30) | st.text(max_size=30))
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.permutations(range(12)), st.integers(0, 2**31 - 1))
def test_assign_is_disjoint_and_blind_to_file_order(order: list[int], seed: int) -> None:
    problems = [*pool(10), Problem(id="q3", problem="what is 3 plus 3", answer="6"), pool(1, "z")[0]]
    sizes = {"a": 4, "b": 3, "none": 0, "c": 3}
    splits = assign([problems[i] for i in order], sizes, seed)
    assert splits == assign(problems, sizes, seed)
    assert {name: len(rows) for name, rows in splits.items()} == sizes
    check_disjoint(splits)
    assert {p.id for rows in splits.values() for p in rows} == {f"p{i}" for i in range(10)}


def test_assign_depends_on_the_seed_and_larger_last_split_moves_nothing() -> None:
    problems = pool(40)
    small, large = (assign(problems, {"a": 10, "b": size}, 0) for size in (5, 30))
    assert small["a"] == large["a"]
    assert small["b"] == large["b"][:5]
    assert small["a"] != assign(problems, {"a": 10}, 1)["a"]


def test_too_few_problems_is_a_user_error_with_counts() -> None:
    with pytest.raises(UserError, match=r"need 6 problems \(a 4, b 2\).* 5 different ones \(5 repeats"):
        assign([*pool(5), *pool(5, "again")], {"a": 4, "b": 2}, 0)


def test_check_disjoint_names_both_ids() -> None:
    check_disjoint({"a": pool(3) + pool(3, "again")})
    with pytest.raises(RuntimeError, match=r"'y2' of test is also problem 'p2' of train"):
        check_disjoint({"train": pool(3), "test": pool(3, "y")[2:]})
