"""`pns doctor` in made-up environments: what is read of one is put in place of `packages.installed`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from typer.testing import CliRunner

from pns.cli import app
from pns.doctor import apart, examine, machine, packages
from pns.doctor.machine import Imports, try_imports
from pns.doctor.needs import load, needs_of, needs_of_reward
from pns.doctor.packages import Installed
from pns.recipe import RewardPart
from pns.recipe_files import load_recipe

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"
SMOLLM2 = ROOT / "recipes" / "smollm2-gsm8k.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def own(editable: bool = False) -> Installed:
    """This package as its pyproject.toml describes it."""
    requires = list(PROJECT["dependencies"])
    for extra, texts in PROJECT["optional-dependencies"].items():
        for text in texts:
            requirement, _, marker = text.partition(";")
            condition = f"({marker.strip()}) and extra == '{extra}'" if marker else f"extra == '{extra}'"
            requires.append(f"{requirement}; {condition}")
    return Installed("0.1.0", tuple(requires), tuple(PROJECT["optional-dependencies"]), editable)


def every_version(extras: tuple[str, ...]) -> dict[str, Installed]:
    """Each requirement of the core and of the extras, installed in the least version that will do."""
    texts = [*PROJECT["dependencies"], *(text for e in extras for text in PROJECT["optional-dependencies"][e])]
    found = {}
    for text in texts:
        name, version = re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", text).groups()  # type: ignore[union-attr]
        found[name] = Installed(version)
    return found


class World:
    """An environment that a test makes up; `tried` is what the imports in it gave."""

    def __init__(self) -> None:
        self.there = {packages.PROJECT: own(), **every_version(("train",))}
        self.tried = Imports({}, [], None)

    def look(self, name: str) -> Installed | None:
        return self.there.get(name)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    monkeypatch.setattr(packages, "installed", made.look)
    monkeypatch.setattr(examine, "try_imports", lambda modules: made.tried)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setenv("PNS_DATA", str(tmp_path))
    return made


def report(*args: str, code: int) -> dict[str, Any]:
    """The JSON of `pns doctor ARGS`, which ends with `code`."""
    done = CliRunner().invoke(app, ["doctor", *args, "--json"])
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] == (code == 0)
    return found


def finding(found: dict[str, Any], what: str) -> dict[str, Any]:
    rows = [row for row in found["findings"] if row["what"] == what]
    assert len(rows) == 1, found["findings"]
    row: dict[str, Any] = rows[0]
    return row


def test_the_least_versions_will_do(world: World) -> None:
    found = report(str(SMOKE), code=0)
    assert finding(found, "extra train")["state"] == finding(found, "the core")["state"] == "ok"
    assert found["asked"] == {"kind": "recipe", "name": "smoke"}
    assert found["extras"]["train"]["complete"]
    assert not found["extras"]["lora"]["complete"]


def test_without_a_recipe_the_core_alone_decides(world: World) -> None:
    world.there = {packages.PROJECT: own(), **every_version(())}
    assert report(code=0)["asked"] is None
    del world.there["sympy"]
    assert finding(report(code=1), "the core")["said"] == "missing: sympy"


def test_one_command_brings_all_that_is_missing(world: World) -> None:
    key = "align.lora={r: 8}"
    lora = finding(report(str(SMOKE), key, code=1), "extra lora")
    assert (lora["why"], lora["state"], lora["said"]) == ("align.lora", "lacking", "missing: peft")
    assert lora["mend"] == "pip install 'plausible-negatives[lora]'"
    del world.there["trl"]
    both = report(str(SMOKE), key, code=1)
    expected = "pip install 'plausible-negatives[lora,train]'"
    assert finding(both, "extra lora")["mend"] == finding(both, "extra train")["mend"] == expected
    world.there[packages.PROJECT] = own(editable=True)
    checkout = finding(report(str(SMOKE), key, code=1), "extra train")["mend"]
    assert checkout == "pip install -c constraints.txt -e '.[lora,train]'"


def test_without_torch_its_cpu_build_is_spoken_of_first(world: World) -> None:
    del world.there["torch"]
    first, then = finding(report(str(SMOKE), code=1), "extra train")["mend"].splitlines()
    assert first.startswith("pip install torch --index-url <PyTorch's CPU wheel index>")
    assert then == "pip install 'plausible-negatives[train]'"


def test_vllm_is_not_held_to_the_pins_of_the_tests(world: World) -> None:
    world.there[packages.PROJECT] = own(editable=True)
    assert packages.install_command({"train", "vllm"}) == "pip install -e '.[train,vllm]'"


def test_an_old_version_is_told_with_the_bound_of_pyproject(world: World) -> None:
    world.there["trl"] = Installed("1.15.0")
    bound = next(text for text in PROJECT["optional-dependencies"]["train"] if text.startswith("trl"))
    said = finding(report(str(SMOKE), code=1), "extra train")["said"]
    assert said == f"trl 1.15.0 will not do, {bound.removeprefix('trl')} is needed"


@pytest.mark.parametrize("version", ["2.13.0+cpu", "2.14.0.dev20261101"])
def test_builds_and_nightlies_will_do(world: World, version: str) -> None:
    world.there["torch"] = Installed(version)
    assert finding(report(str(SMOKE), code=0), "extra train")["state"] == "ok"


def test_half_an_installation_is_told_as_such(world: World) -> None:
    world.there["datasets"] = Installed("")
    row = finding(report(str(SMOKE), code=1), "extra train")
    assert row["said"] == "datasets is damaged: its metadata cannot be read"
    assert row["mend"] == "pip install --force-reinstall 'datasets>=4.7'"


def test_a_library_that_does_not_import_is_told_with_its_error(world: World) -> None:
    world.tried = Imports({"transformers": "OSError: libcudart.so.13 is missing"}, [])
    row = finding(report(str(SMOKE), code=1), "extra train")
    assert row["said"] == "transformers 5 does not import: OSError: libcudart.so.13 is missing"
    assert row["mend"] == "pip install --force-reinstall 'transformers==5'"


def test_a_local_version_is_not_asked_of_pypi(world: World) -> None:
    world.there |= {"torch": Installed("2.13.0+cpu"), "trl": Installed("1.16.0+own")}
    world.tried = Imports({"torch": "OSError: x", "trl": "ImportError: y"}, None)
    first, then = finding(report(str(SMOKE), code=1), "extra train")["mend"].splitlines()
    assert first.startswith("pip install --force-reinstall --no-deps 'torch==2.13.0' --index-url <PyTorch's CPU wheel")
    assert then == "pip install --force-reinstall 'trl==1.16.0'"
    world.there["torch"] = Installed("2.13.0+cu130")
    assert finding(report(str(SMOKE), code=1), "extra train")["mend"] == (
        "pip install --force-reinstall 'torch==2.13.0' 'trl==1.16.0'"
    )


def test_what_an_extra_of_a_library_lacks(world: World) -> None:
    ray = Installed("2.60.0", ("pandas>=2.2.3; extra == 'data'", "tensorboardX; extra == 'train'"), ("data", "train"))
    world.there |= {"ray": ray, "pandas": Installed("2.2.0")}
    trouble = report(code=0)["extras"]["ray"]["packages"][0]["trouble"]
    assert trouble == "ray lacks pandas>=2.2.3"
    world.there |= {"pandas": Installed("3.1.0")}
    workers = ("engine.ray_workers=2", "engine.ray_readers=2")
    assert finding(report(str(SMOKE), *workers, code=0), "extra ray")["state"] == "ok", (
        "workers need nothing of Ray Train"
    )
    launched = finding(report(str(SMOKE), "--launcher", "ray", code=1), "extra ray-train")
    assert (launched["why"], launched["said"]) == ("--launcher", "ray lacks tensorboardX")
    assert launched["mend"] == "pip install 'plausible-negatives[ray-train]'"


def test_the_environment_of_the_tests_has_all_of_ray_that_is_asked_for() -> None:
    pins = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    wanted = [text.partition(";")[0] for text in PROJECT["optional-dependencies"]["dev"]]
    (ray,) = (Requirement(text) for text in wanted if text.startswith("ray"))
    asked = [Requirement(text) for e in ("ray", "ray-train") for text in PROJECT["optional-dependencies"][e]]
    assert set().union(*(r.extras for r in asked)) == ray.extras
    assert {r.specifier for r in asked} == {ray.specifier}
    assert {"pandas", "fsspec", "pyarrow", "requests", "tensorboardx"} <= pins


def test_what_a_launcher_needs(world: World, tmp_path: Path) -> None:
    config = ROOT / "recipes" / "accelerate" / "zero3.yaml"
    options = ("--launcher", "accelerate", "--launcher-config", str(config))
    for asked in (SMOKE, ROOT / "studies" / "embedded.yaml"):
        row = finding(report(str(asked), *options, code=1), "extra deepspeed")
        assert (row["why"], row["said"]) == ("--launcher-config", "missing: deepspeed")
    world.there["deepspeed"] = Installed("0.19.8")
    assert finding(report(str(SMOKE), *options, code=0), "extra deepspeed")["state"] == "ok"
    options = ("--launcher", "accelerate", "--launcher-config", str(config.with_name("fsdp2.yaml")))
    del world.there["deepspeed"]
    assert "extra deepspeed" not in [row["what"] for row in report(str(SMOKE), *options, code=0)["findings"]]
    missing = report(str(SMOKE), "--launcher", "ray", code=1)
    assert finding(missing, "extra ray-train")["said"] == "missing: ray", "told, and not an error"
    reward = tmp_path / "reward.yaml"
    reward.write_text("reward: {}\n")
    for given in (["--launcher", "ray"], [str(reward), "--launcher", "ray"], [str(SMOKE), "--launcher-config", "x"]):
        assert CliRunner().invoke(app, ["doctor", *given]).exit_code == 2, given


def test_packages_that_do_not_fit_are_told_and_keep_nothing_from_running(world: World) -> None:
    world.there |= {
        "transformers": Installed("5.23.0"),
        "verl": Installed(
            "0.9.1", ("transformers<5.11,>=5.5.3", "torch==2.11.0; extra == 'fsdp'", "not a requirement!")
        ),
        "trl": Installed("1.16.0", ("vllm<=0.31.0,>=0.22.0; extra == 'vllm'",), ("vllm",)),
        "vllm": Installed("0.33.0", ("transformers<6",)),
    }
    found = report(str(SMOKE), code=0)
    assert [(row["package"], row["needs"], row["found"], row["extra"]) for row in found["conflicts"]] == [
        ("trl", "vllm<=0.31.0,>=0.22.0", "0.33.0", "vllm"),
        ("verl", "transformers<5.11,>=5.5.3", "5.23.0", None),
    ]
    notes = [row for row in found["findings"] if row["what"] == "conflict"]
    assert {row["state"] for row in notes} == {"note"}
    assert notes[0]["said"] == "trl[vllm] 1.16.0 wants vllm<=0.31.0,>=0.22.0; 0.33.0 is installed"
    assert notes[0]["mend"] == "pip install 'vllm<=0.31.0,>=0.22.0' (docs/install.md)"
    assert notes[1]["mend"] == "an environment of its own for verl (docs/install.md)"


def test_trainers_that_are_not_here_are_held_against_what_is(world: World) -> None:
    world.there |= {"transformers": Installed("5.23.0"), "numpy": Installed("2.4.6")}
    name = f"verl {apart.NEWEST['verl'][0]}"
    assert report(code=0)["apart"][name] == ["transformers!=5.6.0,<5.11,>=5.5.3 (5.23.0 is here)"]
    world.there["transformers"] = Installed("5.10.4")
    assert name not in report(code=0)["apart"]


def test_a_source_tree_that_is_not_installed(world: World) -> None:
    del world.there[packages.PROJECT]
    row = finding(report(str(SMOKE), code=1), "extra train")
    assert "cannot be told" in row["said"]
    assert row["mend"] == "pip install -c constraints.txt -e '.[train]'"


@pytest.mark.parametrize(
    ("torch", "tried", "state", "said", "mend"),
    [
        ("2.13.0+cpu", Imports({}, [], None), "lacking", "torch 2.13.0+cpu is a build for the CPU", "'torch==2.13.0'"),
        ("2.13.0", Imports({}, [], "13.0"), "lacking", "torch is built for CUDA 13.0 and sees no GPU", "device=cpu"),
        ("2.13.0", Imports({"torch": "OSError: x"}, None), "lacking", "torch does not import, so none can be used", ""),
        ("2.13.0", Imports({}, [{"name": "H100", "memory": 80 << 30, "free": 1}], "13.0"), "ok", "H100, 80 GiB", ""),
    ],
)
def test_a_gpu_where_the_recipe_asks_for_one(
    world: World, torch: str, tried: Imports, state: str, said: str, mend: str
) -> None:
    world.there["torch"], world.tried = Installed(torch), tried
    row = finding(report(str(SMOKE), "runtime.device=cuda", code=0 if state == "ok" else 1), "a GPU")
    assert (row["why"], row["state"], row["said"]) == ("runtime.device", state, said)
    assert mend in (row["mend"] or "")


def test_a_gpu_is_not_told_from_versions(world: World) -> None:
    row = finding(report(str(SMOKE), "runtime.device=cuda", "--quick", code=0), "a GPU")
    assert (row["state"], row["said"]) == ("note", "not looked at (--quick)")


def test_quick_does_not_ask_the_driver(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_driver", lambda: ("H100, 80 GiB",))
    assert report(code=0)["machine"]["driver"] == ["H100, 80 GiB"]
    assert report("--quick", code=0)["machine"]["driver"] == []


def test_files_packages_and_variables_that_are_missing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PNS_DATA")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examine, "missing", list)
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge = "{server: {url: 'http://localhost:1/v1', api_key_env: JUDGE_KEY}}"
    keys = ("model.gguf_package=no_such_package", "reward.judge=server", f"reward.judge_server={judge}")
    found = report(str(SMOLLM2), *keys, "runtime.report_to=[trackio]", code=1)
    lacking = {row["what"]: row["mend"] for row in found["findings"] if row["state"] == "lacking"}
    assert lacking["problems $PNS_DATA/math/gsm8k.train.jsonl"] == "set PNS_DATA to the data folder"
    assert lacking["package no_such_package"] == "pip install --no-deps no-such-package"
    assert lacking["package trackio"] == "pip install trackio"
    assert lacking["variable JUDGE_KEY"] == "export JUDGE_KEY=..."
    assert lacking["extra gguf"] == lacking["extra server"] == "pip install 'plausible-negatives[gguf,server]'"
    assert "PNS_DATA" not in os.environ


def test_sets_by_name_come_from_the_data_folder_or_the_hub(world: World, tmp_path: Path) -> None:
    files = ("problems.train_file=gsm8k-train", "problems.benchmarks={gsm8k: gsm8k}")
    keys = (*files, "model={}", "model.gguf_package=null", "model.gguf_file=null")
    found = report(str(SMOLLM2), *keys, code=0)
    assert (finding(found, "problems gsm8k")["state"], "hub" in finding(found, "problems gsm8k")["said"]) == (
        "note",
        True,
    )
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "gsm8k.test.jsonl").touch()
    assert finding(report(str(SMOLLM2), *keys, code=0), "problems gsm8k")["state"] == "ok"


@pytest.mark.parametrize(
    ("overrides", "extra"),
    [
        (["engine.kind=vllm"], "vllm"),
        (["engine.ray_workers=2"], "ray"),
        (["engine.ray_readers=2"], "ray"),
        (["engine.kind=server", "engine.server={urls: ['http://a/v1']}"], "server"),
        (["runtime.device=cuda", "runtime.vllm={}"], "vllm"),
    ],
)
def test_engines_need_their_extras(overrides: list[str], extra: str) -> None:
    plain, other = (needs_of(load_recipe(SMOKE, given)[0]) for given in ([], overrides))
    assert {n.name for n in other if n.kind == "extra"} - {n.name for n in plain} == {extra}


def test_a_function_of_the_users_own(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "reward.judge=doctored_judge:judge"
    assert finding(report(str(SMOKE), key, code=1), "your doctored_judge:judge")["said"] == "its module is not found"
    (tmp_path / "doctored_judge.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    row = finding(report(str(SMOKE), key, code=0), "your doctored_judge:judge")
    assert row["said"] == str(tmp_path / "doctored_judge.py")


def test_disk_and_cores(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("--run-dir", str(tmp_path / "not" / "there"))
    found = report(str(SMOKE), "runtime.jobs=4000", *where, code=0)
    assert finding(found, "disk")["said"].endswith(f"GiB free at {tmp_path}")
    cores = finding(found, "cores")
    assert (cores["state"], cores["why"], cores["mend"]) == (
        "note", "runtime.jobs x runtime.threads", "set runtime.jobs lower",
    )  # fmt: skip
    for keys in (["runtime.jobs=1"], ["runtime.jobs=2"]):
        threads = report(str(SMOKE), *keys, "runtime.threads=4000", *where, code=0)
        assert finding(threads, "cores")["mend"] == "set runtime.threads lower"
    reward = tmp_path / "reward.yaml"
    reward.write_text("reward: {verify_workers: 4000}\n")
    scoring = finding(report(str(reward), code=0), "cores")
    assert (scoring["why"], scoring["mend"]) == ("reward.verify_workers", "set reward.verify_workers lower")
    (tmp_path / "file").touch()
    in_the_way = report(str(SMOKE), "--run-dir", str(tmp_path / "file" / "run"), code=1)
    assert finding(in_the_way, "disk")["said"] == f"{tmp_path / 'file'} cannot be written"
    monkeypatch.setattr(examine, "FREE_DISK", 1 << 60)
    assert finding(report(str(SMOKE), *where, code=1), "disk")["said"].endswith("less than 1 GiB")


def test_ray_and_open_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (1024, 1024))
    assert "open files" not in [row["what"] for row in report(code=0)["findings"]]
    world.there["ray"] = Installed("2.60.0")
    assert finding(report(code=0), "open files")["said"] == "at most 1024; Ray wants 4096 or more"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.yaml"], "no such recipe"),
        ([str(SMOKE), "align.bta=1"], "did you mean `align.beta`?"),
        ([str(ROOT / "studies" / "embedded.yaml"), "seed=1"], "a study takes no overrides"),
    ],
)
def test_bad_input(world: World, args: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["doctor", *args])
    assert done.exit_code == 2
    assert message in done.output


def test_what_a_person_reads(world: World) -> None:
    done = CliRunner().invoke(app, ["doctor", str(SMOKE), "align.lora={r: 8}"])
    assert done.exit_code == 1
    assert "extra lora: pip install 'plausible-negatives[lora]'" in done.output
    assert done.output.rstrip().endswith("smoke.yaml cannot run yet")
    alone = CliRunner().invoke(app, ["doctor"])
    assert alone.exit_code == 0
    assert "docs/install.md" in alone.output


OURS = [p for p in sorted((ROOT / "recipes").glob("**/*.yaml")) if {"accelerate", "verl"}.isdisjoint(p.parts)]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_needs_of_the_recipes_name_extras_that_there_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PNS_DATA", raising=False)
    extras = {need.name for need in load(path, []).needs if need.kind == "extra"}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_needs_by_the_parts_of_a_recipe() -> None:
    def found(*keys: str) -> set[tuple[str, str]]:
        return {(need.kind, need.name) for need in needs_of(load_recipe(SMOKE, keys)[0])}

    assert found() == {("extra", "train")}
    writer = "negatives.prompted={writer: server, server: {url: 'http://localhost:1/v1'}}"
    assert found(writer) == {("extra", "train")}
    assert found(writer, "negatives.methods=[pns, prompted]") == {("extra", "train"), ("extra", "server")}
    engine = "engine={kind: server, server: {urls: ['http://a/v1'], api_key_env: ENGINE_KEY}}"
    assert found(engine) == {("extra", "train"), ("extra", "server"), ("variable", "ENGINE_KEY")}
    own_model = "reward.reward_model={kind: transformers, path: x, device: cuda}"
    assert found(own_model) == {("extra", "train"), ("cuda", "")}


def test_needs_of_the_reward_alone() -> None:
    assert needs_of_reward(RewardPart()) == []
    part = RewardPart.model_validate(
        {"reward_model": {"kind": "vllm", "path": "x", "server": {"url": "http://localhost:1"}}}
    )
    assert {(need.kind, need.name) for need in needs_of_reward(part)} == {("extra", "train"), ("extra", "server")}


def test_a_study_needs_what_any_of_its_cells_needs(tmp_path: Path) -> None:
    study = yaml.safe_load((ROOT / "studies" / "embedded.yaml").read_text(encoding="utf-8"))
    study["recipe"] = str(ROOT / "recipes" / "embedded.yaml")
    study["ablations"]["switches"]["adapters"] = {"set": {"align.lora": {"r": 8}}, "at": ["align-pns-own"]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    asked = load(path, [])
    assert (asked.kind, asked.name) == ("study", "embedded")
    assert {(need.kind, need.name) for need in asked.needs} == {("extra", "train"), ("extra", "lora")}


def test_libraries_that_break_the_process_or_hang_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in {
        "doctored_fine": "print('{}')",
        "doctored_raises": "raise RuntimeError('no driver')",
        "doctored_leaves": "import sys; sys.exit(0)",
        "doctored_dies": "import os; os._exit(9)",
        "doctored_hangs": "import time; time.sleep(60)",
    }.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ["doctored_dies", "doctored_raises", "doctored_fine", "doctored_leaves"]
    assert try_imports(names) == Imports(
        {
            "doctored_dies": "importing it ended the process (exit status 9)",
            "doctored_raises": "RuntimeError: no driver",
            "doctored_leaves": "SystemExit: 0",
        }
    )
    assert try_imports(["doctored_hangs"], seconds=0.5).errors == {"doctored_hangs": "it did not import within 0 s"}


def test_a_library_is_blamed_for_its_own_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five libraries that take 2 s each, but one that never ends, in processes that may take 5 s."""
    asked = []

    def probe(modules: list[str], seconds: float) -> tuple[list[dict[str, Any]], bool, str]:
        asked.append(modules)
        done: list[dict[str, Any]] = []
        for name in modules:
            if name == "hangs" or 2 * (len(done) + 1) > seconds:
                return done, True, "late"
            done.append({"pns_probe": name, "error": None})
        return done, False, ""

    monkeypatch.setattr(machine, "_probe", probe)
    assert try_imports(["a", "b", "c", "hangs", "d"], seconds=5) == Imports({"hangs": "late"})
    assert asked == [["a", "b", "c", "hangs", "d"], ["c"], ["hangs", "d"], ["hangs"], ["d"]]


def test_import_names_are_those_of_the_packages_here() -> None:
    extras = [texts for extra, texts in PROJECT["optional-dependencies"].items() if extra != "dev"]
    for text in [*PROJECT["dependencies"], *(text for texts in extras for text in texts)]:
        name = re.split(r"[\[><=;]", text)[0]
        if packages.installed(name) is not None:
            assert importlib.util.find_spec(examine.module_of(name)) is not None, name


def test_install_page_states_what_the_command_states() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert apart.READ_ON in page
    assert set(apart.NEWEST) >= set(examine.OTHERS)
    for name, (version, _) in apart.NEWEST.items():
        assert re.search(rf"\b{name}\b[^\n]*{re.escape(version)}", page, re.IGNORECASE), name
    for extra in PROJECT["optional-dependencies"]:
        assert f"| `{extra}` |" in page, extra


@pytest.mark.slow
def test_the_command_itself() -> None:
    """In this environment, whose libraries are imported for it."""
    done = subprocess.run(
        [sys.executable, "-m", "pns", "doctor", "recipes/embedded.yaml", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {row["what"] for row in found["findings"]} >= {"the core", "extra train", "disk"}
    torch = next(lib for lib in found["extras"]["train"]["packages"] if lib["name"] == "torch")
    assert torch["version"] == packages.installed("torch").version  # type: ignore[union-attr]
    assert isinstance(found["gpus"], list)
