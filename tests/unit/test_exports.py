"""Pairs and prompts as other trainers read them: forms, texts that survive, files that are whole or not there."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from pns.cli import app
from pns.commands.export_data import PromptsTo, Regime, To
from pns.errors import UserError
from pns.evaluation.processbench import Chain
from pns.evaluation.step_labels import stepwise
from pns.exports import dataset
from pns.exports.forms import FORMS, PROMPT_FORMS
from pns.exports.sources import Preference, _gates
from pns.exports.unpaired import labelled
from pns.parts import negatives
from pns.recipe_files import load_recipe
from pns.rewards.reward_model import Calibration
from pns.run import Run

ODD = 'Äpfel «2»\u2028 \u0085\r\n\ttab \\frac{1}{2} <|im_end|> </s> 🍎 "x" {y}'
PAIRS: list[dict[str, Any]] = [
    {"prompt": ODD, "chosen": f"gut {ODD}.", "rejected": f"schlecht {ODD}.", "method": "pns"},
    {
        "prompt": [{"role": "user", "content": "Q2"}],
        "chosen": [{"role": "user", "content": "Q2"}, {"role": "assistant", "content": " A\n"}],
        "rejected": [{"role": "assistant", "content": "B"}],
        "method": "flip",
    },
    {"prompt": "Q3", "chosen": "same", "rejected": "same", "method": "flip"},
]  # fmt: skip


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def export(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["export", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", *PAIRS)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRED: dict[str, Any] = {
    "trl": lambda p, c, r: {"prompt": user(p), "chosen": assistant(c), "rejected": assistant(r)},
    "openrlhf": lambda p, c, r: {"prompt": user(p), "chosen": assistant(c), "rejected": assistant(r)},
    "llamafactory": lambda p, c, r: {"instruction": p, "input": "", "chosen": c, "rejected": r},
    "axolotl": lambda p, c, r: {
        "messages": user(p), "chosen": assistant(c.strip())[0], "rejected": assistant(r.strip())[0]
    },
}  # fmt: skip
UNPAIRED: dict[str, Any] = {
    "trl-kto": lambda p, text, label: {"prompt": user(p), "completion": assistant(text), "label": label},
    "llamafactory-kto": lambda p, text, label: {"instruction": p, "input": "", "output": text, "kto_tag": label},
    "axolotl-kto": lambda p, text, label: {"prompt": p, "completion": text, "label": label},
}


def test_every_form_can_be_asked_for_and_is_checked_here() -> None:
    assert [to.value for to in To] == list(FORMS)
    assert [to.value for to in PromptsTo] == list(PROMPT_FORMS)
    assert set(FORMS) == set(PAIRED) | set(UNPAIRED)
    assert tuple(regime.value for regime in Regime) == get_args(negatives.Regime)


@pytest.mark.parametrize("to", PAIRED)
def test_pairs_have_the_form_of_their_trainer(to: str, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = json.loads(export("pairs", file, "--to", to, "-o", out, "--json"))
    assert (said["pairs"], said["left out, both sides the same"]) == (2, 1)
    sides = [(ODD, f"gut {ODD}.", f"schlecht {ODD}."), ("Q2", " A\n", "B")]
    assert read(out) == [PAIRED[to](*side) for side in sides]
    assert bool(said["notes"]) == (to == "axolotl"), "white space is taken off for axolotl alone"


@pytest.mark.parametrize("to", PAIRED)
def test_sides_that_are_the_same_in_a_form_are_no_pair_of_it(to: str, tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "a "}, {"prompt": "q2", "chosen": "a ", "rejected": "b"}]
    words = ("--to", to, "--json", "--force", "-o", tmp_path / "out")
    said = json.loads(export("pairs", write(tmp_path / "p.jsonl", *rows), *words))
    trims = to == "axolotl"
    assert (said["pairs"], said.get("left out, both sides the same", 0)) == ((1, 1) if trims else (2, 0))
    assert read(tmp_path / "out") == [PAIRED[to](*row.values()) for row in rows[trims:]]
    assert "around them: 1." in "".join(said["notes"]) or not trims, "of the pairs that are there"
    if trims:
        said_of_one = export("pairs", write(tmp_path / "q.jsonl", rows[0]), *words, code=2)
        assert "the same in every pair, but for white space" in said_of_one


@pytest.mark.parametrize("to", UNPAIRED)
def test_unpaired_rows_have_the_form_of_their_trainer(to: str, file: Path, tmp_path: Path) -> None:
    said = json.loads(export("pairs", file, "--to", to, "-o", tmp_path / "out", "--json"))
    assert (said["desirable"], said["undesirable"]) == (2, 2)
    rows = [(ODD, f"gut {ODD}.", True), ("Q2", "B", False), (ODD, f"schlecht {ODD}.", False), ("Q2", " A\n", True)]
    assert read(tmp_path / "out") == [UNPAIRED[to](*row) for row in rows]


def test_parquet_says_the_same_as_jsonl(file: Path, tmp_path: Path) -> None:
    export("pairs", file, "--to", "trl", "-o", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "train.parquet").to_pylist() == read(tmp_path / "out")


def crossed(prompts: int, bad: int, good: int = 1) -> list[Preference]:
    """As a run gives them: sorted by problem."""
    chosen = range(good) if good else [None]
    return [
        Preference(f"q{i}", f"bad {i} {k}", None if c is None else f"good {i} {c}")
        for i in range(prompts) for k in range(bad) for c in chosen
    ]  # fmt: skip


@pytest.mark.parametrize("prompts", [3, 4, 7, 10, 32])
@pytest.mark.parametrize(("bad", "good"), [(1, 1), (2, 1), (4, 1), (8, 1), (3, 2), (4, 4), (2, 0), (4, 0)])
def test_a_row_never_follows_one_of_the_same_prompt(prompts: int, bad: int, good: int) -> None:
    """KTO's KL term takes a prompt with the response of the row before."""
    rows = labelled(crossed(prompts, bad, good))
    assert len(set(rows)) == len(rows) == prompts * (bad + good), "a response stands once, however many pairs have it"
    assert sum(label for *_, label in rows) == prompts * good
    assert all(a[0] != b[0] for a, b in pairwise(rows))
    if good:
        window = 2 * math.ceil(bad / good) + 1
        mixed = [any(label for *_, label in rows[i : i + window]) for i in range(len(rows) - window + 1)]
        assert all(mixed), "no batch is all of one kind"


def test_uneven_prompts_are_kept_apart_as_far_as_can_be() -> None:
    uneven = [Preference("q", f"bad {k}") for k in range(4)] + [Preference(f"q{i}", "bad") for i in range(3)]
    assert [prompt == "q" for prompt, *_ in labelled(uneven)] == [True, False] * 3 + [True]
    assert len(labelled(crossed(1, 4))) == 5, "one prompt alone: nothing is lost"


def test_a_response_on_both_sides_has_no_label(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "chosen": "a", "rejected": "b"}, {"prompt": "Q", "chosen": "b", "rejected": "c"},
        {"prompt": "R", "chosen": "c", "rejected": "a"},
    ]  # fmt: skip
    file = write(tmp_path / "pairs.jsonl", *rows)
    said = json.loads(export("pairs", file, "--to", "trl-kto", "-o", tmp_path / "out", "--json"))
    assert (said["desirable"], said["undesirable"], said["left out, chosen and rejected"]) == (2, 2, 1)
    assert "| left out, chosen and rejected | 1 |" in (tmp_path / "out" / "README.md").read_text()
    found = {
        (row["prompt"][0]["content"], row["completion"][0]["content"], row["label"]) for row in read(tmp_path / "out")
    }
    assert found == {("Q", "a", True), ("Q", "c", False), ("R", "c", True), ("R", "a", False)}
    assert json.loads(export("pairs", file, "--to", "trl", "-o", tmp_path / "two", "--json"))["pairs"] == 3
    turned = write(tmp_path / "turned.jsonl", rows[0], {"prompt": "Q", "chosen": "b", "rejected": "a"})
    assert "every response" in export("pairs", turned, "--to", "trl-kto", "-o", tmp_path / "three", code=2)
    assert not (tmp_path / "three").exists()


def test_negatives_alone_are_undesirable_and_no_pairs(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", {"prompt": "Q", "rejected": "B"})
    export("pairs", file, "--to", "trl-kto", "-o", tmp_path / "out")
    assert read(tmp_path / "out") == [{"prompt": user("Q"), "completion": assistant("B"), "label": False}]
    assert "has no chosen side" in export("pairs", file, "--to", "trl", "-o", tmp_path / "two", code=2)


def test_the_card_says_what_it_is_and_how_it_is_loaded(file: Path, tmp_path: Path) -> None:
    name = write(tmp_path / "a|b<i>.jsonl", {**PAIRS[0], "method": "x|y\n# z"})
    export("pairs", name, "--to", "axolotl", "-o", tmp_path / "out", "--name", "mine")
    head, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n")[1:]
    assert yaml.safe_load(head)["configs"][0]["data_files"] == [{"split": "train", "path": "train.jsonl"}]
    assert "| file | a\\|b\\<i\\>.jsonl |" in text
    assert "| method | x\\|y # z |" in text
    assert "| pairs | 1 |" in text
    snippet = yaml.safe_load(text.split("```")[1])
    assert snippet["datasets"][0]["path"] == str(tmp_path / "out" / "train.jsonl")
    assert snippet["datasets"][0]["type"] == "chat_template.default"


def test_dataset_info_keeps_what_it_has(file: Path, tmp_path: Path) -> None:
    info = tmp_path / "lf" / "dataset_info.json"
    info.parent.mkdir()
    known = {"z": {"hf_hub_url": "a/ü", "folder": "x"}, "a": {"file_name": "a.json", "formatting": "sharegpt"}}
    info.write_text(json.dumps(known), encoding="utf-8")
    words = ("pairs", file, "--to", "llamafactory", "-o", tmp_path / "out", "--dataset-info", info)
    assert f"dataset_dir: {info.parent}" in export(*words)
    found = json.loads(info.read_text(encoding="utf-8"))
    assert list(found) == ["z", "a", "out"]
    assert {k: found[k] for k in known} == known
    assert (info.parent / found["out"]["file_name"]).resolve() == (tmp_path / "out" / "train.jsonl").resolve()
    assert found["out"]["ranking"] is True
    assert not (tmp_path / "out" / "dataset_info.json").exists()
    export(
        "pairs", file, "--to", "llamafactory-kto", "-o", tmp_path / "kto", "--name", "a", "--dataset-info", info, code=2
    )
    assert json.loads(info.read_text(encoding="utf-8")) == found
    assert not (tmp_path / "kto").exists(), "nothing is written where the entry cannot be"


def test_a_data_set_replaced_keeps_the_entries_of_others(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export("pairs", file, "--to", "llamafactory", "-o", out)
    info = json.loads((out / "dataset_info.json").read_text())
    (out / "dataset_info.json").write_text(json.dumps({"other": {"file_name": "o.json"}, **info}))
    export("pairs", file, "--to", "llamafactory", "-o", out, "--force", "--method", "pns")
    assert list(json.loads((out / "dataset_info.json").read_text())) == ["other", "out"]
    assert len(read(out)) == 1


@pytest.mark.parametrize("broken", ["[]", "{", '{"a": 3}', "[" * 5000])
def test_a_broken_dataset_info_is_told_and_left_alone(broken: str, file: Path, tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text(broken)
    said = export("pairs", file, "--to", "llamafactory", "-o", tmp_path / "out", "--dataset-info", info, code=2)
    assert "--dataset-info" in said
    assert (info.read_text(), (tmp_path / "out").exists()) == (broken, False)


@pytest.mark.parametrize(
    ("name", "told"), [("info.json", "opens dataset_info.json alone"), ("dataset_info.json", "directory")]
)
def test_an_info_file_that_cannot_serve_is_told_before_anything_is_written(
    name: str, told: str, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "dataset_info.json").mkdir()
    words = ("pairs", file, "--to", "llamafactory", "-o", tmp_path / "out", "--dataset-info", tmp_path / name)
    assert told in export(*words, code=2).replace("\n", " ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset_info.json", "pairs.jsonl"]


def test_data_set_and_entry_come_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, out = tmp_path / "lf" / "dataset_info.json", tmp_path / "out"
    info.parent.mkdir()
    info.write_text("{}")
    info.chmod(0o600)

    def full(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "publish", full)
        with pytest.raises(OSError, match="No space"):
            dataset.publish_with_info(out, {"train.jsonl": [{"a": 1}]}, info, '{"a": {}}')
        assert (info.read_text(), [p.name for p in info.parent.iterdir()]) == ("{}", ["dataset_info.json"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            dataset.publish_with_info(out, {"train.jsonl": [{"a": 1}]}, info, '{"a": {}}')
    assert not out.exists()
    dataset.publish_with_info(out, {"train.jsonl": [{"a": 1}]}, info, '{"a": {}}')
    assert (info.read_text(), info.stat().st_mode & 0o777, read(out)) == ('{"a": {}}', 0o600, [{"a": 1}])


def test_the_info_file_of_the_folder_itself_may_be_named(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("pairs", file, "--to", "llamafactory", "-o", out, "--dataset-info", out / "dataset_info.json")
    export(*words)
    export(*words, "--force")
    assert list(json.loads((out / "dataset_info.json").read_text())) == ["out"]


def test_prompts_for_verl_and_openrlhf(tmp_path: Path) -> None:
    problems = [{"id": "a", "problem": ODD, "answer": "3"}, {"id": "b", "problem": "Q", "answer": "4", "unit": "cm"}]
    file = write(tmp_path / "problems.jsonl", *problems)
    export("prompts", file, "--to", "verl", "-o", tmp_path / "verl")
    table = pq.read_table(tmp_path / "verl" / "train.parquet")
    rows = table.to_pylist()
    assert rows[0]["prompt"] == user(ODD)
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "3"}
    assert (rows[0]["data_source"], rows[0]["ability"]) == ("verl", "math")
    assert [row["extra_info"]["index"] for row in rows] == [0, 1]
    assert (rows[1]["extra_info"]["unit"], rows[1]["extra_info"]["problem"]) == ("cm", "Q")
    types = {field.name: str(field.type) for field in table.schema.field("extra_info").type}
    assert (types["tolerance"], types["kind"]) == ("double", "string"), "files with and without them can be joined"
    said = export("prompts", file, "--to", "openrlhf", "-o", tmp_path / "rl")
    assert "--data.input_key input --data.label_key label" in said
    first, second = read(tmp_path / "rl")
    assert (first["input"], json.loads(first["label"])) == (ODD, {"answer": "3", "problem": ODD})
    assert json.loads(second["label"]) == {"answer": "4", "problem": "Q", "unit": "cm"}


BAD: dict[str, tuple[Any, list[str], str]] = {
    "two questions": ({**PAIRS[0], "prompt": [*user("a"), *assistant("b"), *user("c")]}, [], "more than one user message"),
    "a system message": ({**PAIRS[0], "prompt": [{"role": "system", "content": "s"}, *user("a")]}, [], "one user message"),
    "a longer side": ({**PAIRS[0], "chosen": [*user("a"), *assistant("b"), *user("c")]}, [], "one question and one answer"),
    "another prompt": ({**PAIRS[0], "chosen": [*user("other"), *assistant("b")]}, [], "another prompt"),
    "a blank side": ({**PAIRS[0], "rejected": " "}, [], "rejected: missing"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, [], "the prompt is missing"),
    "no such column": (PAIRS[0], ["--chosen", "chosn"], "did you mean `chosen`"),
    "no such method": (PAIRS[0], ["--method", "nobody"], "there: pns"),
    "nothing preferred": (PAIRS[2], [], "the same in every pair"),
    "a name with a comma": (PAIRS[0], ["--name", "a,b"], "no name for a data set"),
    "another trainer's list": (PAIRS[0], ["--dataset-info", "d.json"], "LLaMA-Factory's"),
    "negatives of a file": (PAIRS[0], ["--negatives"], "negatives alone make no pairs"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    row, more, message = BAD[name]
    said = export("pairs", write(tmp_path / "p.jsonl", row), "--to", "trl", "-o", tmp_path / "out", *more, code=2)
    assert message in said.replace("\n", " ")
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_folder_with_other_files_is_never_replaced(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("pairs", file, "--to", "trl", "-o", out)
    export(*words)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert "--force" in export(*words, "--method", "pns", code=2)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    (out / "mine.txt").write_text("mine")
    assert "other files (mine.txt)" in export(*words, "--force", code=2)
    assert (out / "mine.txt").read_text() == "mine"


def test_a_failure_leaves_the_old_data_set_and_nothing_half_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export("pairs", file, "--to", "trl", "-o", out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        dataset.publish(out, {"train.parquet": [{"a": 1}], "train.jsonl": [{"a": 1}]})
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "pairs.jsonl"]


def test_the_old_data_set_is_put_back_where_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, move = tmp_path / "out", Path.replace
    dataset.publish(out, {"train.jsonl": [{"a": 1}]})
    moved: list[Path] = []

    def second_fails(self: Path, target: Path) -> Path:
        if self.is_dir():
            moved.append(self)
            if len(moved) == 2:
                raise OSError(5, "Input/output error")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OSError, match="Input/output"):
        dataset.publish(out, {"train.jsonl": [{"a": 2}]})
    assert (read(out), [p.name for p in tmp_path.iterdir()]) == ([{"a": 1}], ["out"])
    dataset.publish(out, {"train.jsonl": [{"a": 2}]})
    assert (read(out), [p.name for p in tmp_path.iterdir()]) == ([{"a": 2}], ["out"])


def test_a_run_that_is_none_is_told(tmp_path: Path) -> None:
    assert "not a run directory" in export("pairs", tmp_path, "--to", "trl", "-o", tmp_path / "out", code=2)
    with pytest.raises(UserError, match="--name"):
        dataset.check_name("")


def test_a_run_of_own_pairs_alone_says_so(tmp_path: Path) -> None:
    pairs = Run.create(tmp_path / "run", "error").stages / "15-pairs"
    pairs.mkdir(parents=True)
    (pairs / "own-pns.parquet").touch()
    for words in (["export", "pairs", "--to", "trl", "-o", str(tmp_path / "out")], ["inspect"]):
        found = CliRunner().invoke(app, [*words, str(tmp_path / "run")])
        assert found.exit_code == 2
        assert "this run has own pairs and no matched ones\n  -> --regime own" in found.output


def test_a_path_that_is_not_there_and_a_study_are_told(tmp_path: Path) -> None:
    words = ("--to", "trl", "-o", tmp_path / "out")
    assert "no such file or run" in export("pairs", tmp_path / "none", *words, code=2)
    assert "no such file or run" in export("pairs", tmp_path / "none.jsonl", *words, code=2)
    (tmp_path / "study.yaml").write_text("name: s\n")
    (tmp_path / "manifest.json").write_text('{"run_version": 1}')
    for said in (
        export("pairs", tmp_path, *words, code=2),
        export("pairs", tmp_path, "--to", "trl-kto", "-o", tmp_path / "out", "--negatives", code=2),
        export("prompts", tmp_path, "--to", "verl", "-o", tmp_path / "out", code=2),
    ):
        assert "the folder of a study" in said.replace("\n", " ")


@pytest.mark.parametrize(("quantile", "told"), [(0, "0.05"), (0.25, "0.25"), (1, "0.95")])
def test_the_card_names_the_quantile_that_the_gate_takes(quantile: float, told: str) -> None:
    recipe = load_recipe(
        Path(__file__).parents[2] / "recipes" / "embedded.yaml", [f"negatives.reward_model_quantile={quantile}"]
    )[0]
    assert f"M at least the {told} quantile of correct responses" in _gates(recipe, "pns")
    calibration = Calibration.fit([i / 100 for i in range(101)])
    assert calibration.quantile(quantile) == calibration.quantile(float(told))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_method_is_only_told_where_every_row_says_it(suffix: str, tmp_path: Path) -> None:
    def card(*values: Any) -> str:
        rows = [{"prompt": "Q", "chosen": "a", "rejected": "b", "source": value} for value in values]
        file = tmp_path / f"pairs.{suffix}"
        if suffix == "jsonl":
            write(file, *({k: v for k, v in row.items() if v is not None} for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), file)
        export("pairs", file, "--to", "trl", "-o", tmp_path / "out", "--force")
        return (tmp_path / "out" / "README.md").read_text(encoding="utf-8")

    assert "| source | b, a |" in card("b", "a", "b")
    assert ", and 2 more |" in card(*(f"s{i}" for i in range(12)))
    for odd in (["a", None], [{"id": 3}, {"id": 4}], [["a"], ["b"]], [3, 4]):
        assert "| source |" not in card(*odd)
    file = tmp_path / f"pairs.{suffix}"
    said = export("pairs", file, "--to", "trl", "-o", tmp_path / "two", "--method", "5", code=2)
    assert "no row has the method" in said, "a number is read as text where it is asked for"


def test_stepwise_rows_end_with_the_first_wrong_step() -> None:
    chain = Chain(id="a", problem="Q", steps=("one", "two", "three"), label=1)
    assert stepwise(chain) == {"prompt": "Q", "completions": ["one", "two"], "labels": [True, False]}
    right = chain.model_copy(update={"label": -1})
    assert stepwise(right)["labels"] == [True, True, True]
