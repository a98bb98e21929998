"""`pns audit negatives` through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from e2e.conftest import Micro
from pns.cli import app
from pns.records import Pair, Response, Verdict, write_parquet

pytestmark = pytest.mark.e2e


def rows(n: int, method: str, opening: str = "We add.") -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for i in range(n):
        a, b = i + 2, 3 * i + 1
        text = f"\n{a} + {b} = {a + b}\nThe answer is "
        row = {"prompt": f"Mia has {a} apples and finds {b}. How many?", "answer": a + b, "method": method}
        sides = {"chosen": f"We add.{text}\\boxed{{{a + b}}}.", "rejected": f"{opening}{text}\\boxed{{{a + b + 1}}}."}
        out.append(row | sides)
    return out


def write(path: Path, *found: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["audit", "negatives", *map(str, words)])
    return done.exit_code, done.output


CHEAP = ("--detector", "length", "--detector", "ngrams")


def test_figures_page_and_rows(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.jsonl", *rows(15, "flip"), *rows(15, "rejection", "A silly thing, at length, by chance.")
    )
    out = tmp_path / "made" / "audit"
    code, said = run(file, "--method", "method", "--gold", "answer", "--out", out, *CHEAP)
    assert code == 0, said
    assert "AUC, n-grams" in said
    assert "rejection: told from chosen by" in said
    found = json.loads((out / "audit.json").read_text())
    assert found["methods"]["flip"]["truth"]["rejected"] == {"wrong": 15}
    assert found["methods"]["rejection"]["detectors"]["ngrams"]["auc"] == 1.0
    assert len((out / "pairs.jsonl").read_text().splitlines()) == 30
    assert "<!doctype html>" in (out / "index.html").read_text()
    code, said = run(file, "--out", out, *CHEAP)
    assert (code, "audit.json is there already" in said) == (2, True), said
    code, said = run(file, "--out", out, "--force", "--limit", "20", *CHEAP)
    assert code == 0, said
    assert json.loads((out / "audit.json").read_text())["methods"]["pairs"]["pairs"] == 20


def test_the_bar_says_which_detector_is_asked_about_which_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    @contextmanager
    def recorded(screen: Any, what: str) -> Iterator[Any]:
        yield lambda *said: told.append(said)

    monkeypatch.setattr("pns.commands.tables.progress", recorded)
    file = write(tmp_path / "p.jsonl", *rows(12, "flip"), *rows(12, "rejection", "At length."))
    code, said = run(file, "--method", "method", "--folds", "2", "--out", tmp_path / "a", *CHEAP)
    assert code == 0, said
    assert told[:4] == [(n, 2, "part 1 of 7: length, flip") for n in (0, 1, 2)] + [(0, 2, "part 2 of 7: ngrams, flip")]
    assert list(dict.fromkeys(part for _, _, part in told))[2:] == [
        "part 3 of 7: length, rejection",
        "part 4 of 7: ngrams, rejection",
        "part 5 of 7: reading steps",
        "part 6 of 7: first wrong steps",
        "part 7 of 7: figures",
    ]


def test_a_baseline_stands_beside(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", *rows(12, "x"))
    other = write(tmp_path / "r.jsonl", *rows(12, "x", "A silly thing, at length, by chance."))
    code, said = run(file, "--baseline", other, "--out", tmp_path / "a", *CHEAP)
    assert code == 0, said
    assert "pairs: " in said
    assert "Harder to tell than rejection samples" in said
    both = write(tmp_path / "b.jsonl", *rows(12, "rejection"))
    code, said = run(both, "--method", "method", "--baseline", other, "--out", tmp_path / "b", *CHEAP)
    assert (code, "`rejection` itself" in said) == (2, True), said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--method", "metod"), "did you mean `method`?"),
        (("--recipe", "recipes/reward.yaml"), "names no reward model"),
        (("--out", "p.jsonl"), "this is a file"),
        (("--limit", "5"), "has pairs for 5 problems"),
    ],
)
def test_bad_input_is_told_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str], expected: str
) -> None:
    root = Path(__file__).parents[2]
    write(tmp_path / "p.jsonl", *rows(12, "x"))
    monkeypatch.chdir(tmp_path)
    given = [str(root / word) if word.startswith("recipes/") else word for word in words]
    code, said = run("p.jsonl", *([] if "--out" in words else ["--out", "audit"]), *CHEAP, *given)
    assert (code, expected in said) == (2, True), said
    assert not (tmp_path / "audit").exists()


def test_a_small_transformer_sees_what_is_in_the_words(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = write(tmp_path / "p.jsonl", *rows(40, "x", "Perhaps one could guess a number here, who knows."))
    code, said = run(file, "--out", tmp_path / "a", "--detector", "transformer", "--folds", "2")
    assert code == 0, said
    found = json.loads((tmp_path / "a" / "audit.json").read_text())["methods"]["pairs"]["detectors"]
    assert list(found) == ["transformer"]
    assert found["transformer"]["auc"] > 0.9


def test_pairs_of_a_stage_are_compared_with_the_correct_rollouts_that_they_were_made_from(tmp_path: Path) -> None:
    """Of a study with two seeds; without the rollouts, and elsewhere, there are the chosen sides alone."""
    stages = tmp_path / "stages"
    gold = rows(12, "pns")
    for seed, outcome in (("s1", "correct"), ("s2", "wrong")):
        stage, rollouts = stages / f"{seed}-pairs-aa", stages / f"{seed}-rollouts-pairs-bb"
        for folder, state in (
            (stage, {"name": "pairs", "inputs": {"rollouts-pairs": seed}, "digest": "x"}),
            (rollouts, {"name": "rollouts-pairs", "inputs": {}, "digest": seed}),
        ):
            folder.mkdir(parents=True)
            (folder / "stage.json").write_text(json.dumps(state))
        made, drawn = [], []
        for i, row in enumerate(gold):
            side = {key: row[key] for key in ("prompt", "chosen", "rejected", "method")}
            made.append(Pair(problem_id=str(i), chosen_answer=str(row["answer"]), **side))
            for n, said in enumerate((outcome, "wrong", "undecided")):
                verdict = Verdict(outcome=said, reason="")
                drawn.append(Response(problem_id=str(i), text=f"{n}", index=n, source="policy", verdict=verdict))
        write_parquet(stage / "matched-pns.parquet", made)
        write_parquet(rollouts / "responses.parquet", drawn)

    def nearest(file: Path) -> Any:
        code, said = run(
            file, "--gold", "chosen_answer", "--out", tmp_path / "audit", "--force", "--detector", "length"
        )
        assert code == 0, said
        assert ("nearest correct response" in said) != ("nearest chosen response" in said)
        return json.loads((tmp_path / "audit" / "audit.json").read_text())["methods"]["pairs"]["nearest"]

    file = stages / "s1-pairs-aa" / "matched-pns.parquet"
    assert nearest(file) == {"chosen": 1, "rollouts": 1}
    assert nearest(stages / "s2-pairs-aa" / "matched-pns.parquet") == {"chosen": 1, "rollouts": 0}, "none is correct"
    assert nearest(Path(shutil.copy(file, tmp_path))) == {"chosen": 1, "rollouts": 0}
    shutil.rmtree(stages / "s1-rollouts-pairs-bb")
    assert nearest(file) == {"chosen": 1, "rollouts": 0}


@pytest.mark.slow
@pytest.mark.xdist_group("e2e")
def test_a_run(smoke: Micro, own: Micro, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    code, said = run(smoke.folder, "--out", out, *CHEAP)
    assert code == 0, said
    found = json.loads((out / "audit.json").read_text())
    assert set(found["methods"]) == {"rejection", "flip", "corruption", "pns"}
    assert found["settings"]["regime"] == "matched"
    assert found["settings"]["reward model"] == "the run's audit model"
    for method in found["methods"].values():
        assert method["detectors"]["reward_model"]["auc"] is not None
        assert set(method["truth"]["rejected"]) == {"wrong"}, "by the run's own gold answers"
        assert method["first_error"]["with_gold"] == method["pairs"]
        assert method["nearest"]["rollouts"] > 0, "the run's correct rollouts"
    page = (out / "index.html").read_text()
    assert "audit model" in page
    assert str(smoke.folder.parent) not in page
    code, said = run(smoke.folder, "--out", tmp_path / "own", "--regime", "own", *CHEAP)
    assert code == 0, said
    for words, told in (
        (("--method", "method"), "--method: names a column of a file"),
        (("--baseline", smoke.folder / "x.jsonl"), "--baseline: is for files"),
    ):
        code, said = run(smoke.folder, "--out", tmp_path / "no", *words)
        assert code == 2
        assert told in said
    for stage in own.run.stages.glob("*-pairs"):
        for path in stage.glob("*.parquet"):
            path.unlink()
    code, said = run(own.folder, "--out", tmp_path / "no")
    assert code == 2
    assert "this run has no pairs" in said
    assert "finish the run" in said
    assert not (tmp_path / "no").exists()


def test_a_regime_is_for_runs(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", *rows(15, "flip"))
    code, said = run(file, "--out", tmp_path / "a", "--regime", "own")
    assert code == 2
    assert "--regime: is for runs" in said
