"""`pns study` and `pns iterate` before anything runs: their launcher, and settings that would change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pns.cli import app
from pns.launch import Launcher
from pns.study import iterate, run

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"


class Enough(BaseException):
    """Nothing is run."""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A study whose recipe has two processes."""
    monkeypatch.chdir(tmp_path)
    told = {
        "name": "two", "recipe": str(SMOKE), "set": {"runtime.processes": 2}, "seeds": [1], "methods": ["rejection"],
        "objectives": {"dpo": {}}, "tuning": {"seeds": [11], "grid": {"align.learning_rate": [1.0e-5, 2.0e-5]}},
        "primary": [["rejection", "policy"]],
    }  # fmt: skip
    Path("two.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return ["study", "two.yaml"]


@pytest.mark.parametrize("kind", ["study", "iterate"])
@pytest.mark.usefixtures("command")
def test_the_launcher_reaches_the_scheduler(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def scheduled(*_: Any, launcher: Launcher | None, **__: Any) -> None:
        given.append(launcher)
        raise Enough

    for module in (run, iterate):
        monkeypatch.setattr(module, "run_tasks", scheduled)
    words = ["study", "two.yaml"] if kind == "study" else ["iterate", str(SMOKE), "runtime.processes=2"]
    with pytest.raises(Enough):
        CliRunner().invoke(app, [*words, "--launcher", "accelerate"])
    assert given == [Launcher("accelerate")]


def test_processes_need_somebody_to_start_them(command: list[str]) -> None:
    for words in (command, ["iterate", str(SMOKE), "runtime.processes=2"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "2 processes need somebody to start them" in done.output
    assert not Path("runs").exists()


@pytest.mark.usefixtures("command")
def test_settings_that_no_stage_of_a_study_reads_are_named() -> None:
    told = yaml.safe_load(Path("two.yaml").read_text(encoding="utf-8"))
    told["set"] = {"negatives.prefix.n": 2, "align.beta": 0.3, "uses.calibration_responses": 30}
    Path("two.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    done = CliRunner().invoke(app, ["study", "two.yaml", "--plan"])
    assert done.exit_code == 0, done.output
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: set.{key} changes nothing: no stage of this study reads it"
        for key in ("negatives.prefix.n", "uses.calibration_responses")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "1,2", "seed=4"], "override: seed: --seeds names the seeds already\n  -> leave one of them out"),
        (["negatives.methods=[flip]"], "override: negatives.methods: the command sets this itself\n  -> leave it out, and use --method"),
        (["pairs.regimes=[matched]"], "rounds train on all that a method serves (own)"),
        (["references=[nsr]"], "`pns run` trains them"),
        (["--method", "pns", "--method", "pns"], "--method: pns stands there twice\n  -> leave one of them out"),
    ],
)  # fmt: skip
def test_what_rounds_would_not_read_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["iterate", str(SMOKE), *words])
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert not Path("runs").exists()
