"""What mends a fault is said with it, and fits: files that are none, broken ones, folders of studies, full disks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pns.cli import app
from pns.commands.common import RESUMES, STARTS_ANEW, errors
from pns.errors import StageStopped, UserError
from pns.plan.machine import load_machine
from pns.recipe_files import load_recipe
from pns.rewards.reward_model import chat_tokenizer
from pns.rows import read_rows
from pns.run import STUDY, Run, check_of_recipe, write_atomic
from pns.study.spec import load_study


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: x\nabout: naïve\n".encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"{path}:2: not UTF-8 text\n  -> save it as UTF-8"


def test_a_directory_is_called_one(tmp_path: Path) -> None:
    for load, inside in ((load_recipe, "a recipe"), (load_study, "a study"), (load_machine, "a file")):
        with pytest.raises(UserError) as caught:
            load(tmp_path)
        assert str(caught.value) == f"{tmp_path}: this is a directory\n  -> name {inside} inside it"


def test_a_broken_manifest_is_mended_by_hand(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "fail")
    manifest = run.folder / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(UserError, match="not valid JSON") as caught:
        Run.open(run.folder)
    remedy = caught.value.remedy or ""
    assert "stage's folder" not in remedy
    manifest.write_text(remedy.removeprefix("write ").partition(" into it")[0])
    assert Run.open(run.folder).folder == run.folder


def test_a_busy_folder_names_both_options(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "fail")
    with (
        run.lock(),
        pytest.raises(UserError, match=r"another folder \(--run-dir; of a study --study-dir\)"),
        run.lock(),
    ):
        pass


def test_a_folder_of_a_study_is_no_run(tmp_path: Path) -> None:
    check_of_recipe(tmp_path, "x")
    (tmp_path / STUDY).touch()
    with pytest.raises(UserError, match="folder of a study, or of rounds, and no run\n  -> x"):
        check_of_recipe(tmp_path, "x")


def test_a_reward_model_that_is_not_there_is_not_asked_for_its_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder\n  -> check the path"):
        chat_tokenizer(str(tmp_path / "nope"))
    with pytest.raises(UserError, match="no tokenizer that can be read"):
        chat_tokenizer(str(tmp_path))


def test_a_broken_row_has_one_line_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": \n')
    with pytest.raises(UserError) as caught:
        list(read_rows(path, ("a",)))
    assert (caught.value.line, caught.value.message) == (3, "not valid JSON (Expecting value, character 8)")


def test_a_recipe_before_the_stage_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    smoke = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
    done = CliRunner().invoke(app, ["stage", str(smoke), "generator"])
    assert done.exit_code == 2
    assert done.output == f"error: the stage stands before the recipe\n  -> write `pns stage generator {smoke}`\n"


def said(error: BaseException, capsys: pytest.CaptureFixture[str], interrupted: str = RESUMES) -> str:
    with pytest.raises(typer.Exit), errors(interrupted):
        raise error
    return capsys.readouterr().err


def test_a_stopped_stage_has_one_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(StageStopped("x\n  -> do y"), capsys) == "stopped: x\n  -> do y\n"
    assert said(StageStopped("x"), capsys).count("  -> ") == 1


def test_a_full_disk_names_the_file_and_only_what_resumes_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(tmp_path / "out.jsonl", "x")
    again = "free some space and run the same command again"
    place = f"error: {tmp_path / 'out.jsonl'}: No space left on device\n  -> {again}"
    assert said(caught.value, capsys, STARTS_ANEW) == f"{place}\n"
    assert said(caught.value, capsys) == f"{place}: it goes on where it stopped\n"
