"""`pns plan`: what fails, what is only not checked, assumptions, machines, and the command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from pns.cli import app
from pns.commands.plan import _counted
from pns.doctor import packages
from pns.doctor.examine import library_findings
from pns.doctor.packages import Library
from pns.errors import UserError
from pns.launch import Launcher
from pns.parts.training import more_steps
from pns.pipeline import stages
from pns.plan import check_models, check_servers, cost
from pns.plan import checks as module
from pns.plan import machine as machine_module
from pns.plan.calibrate import fit
from pns.plan.check import Check
from pns.plan.checks import checks
from pns.plan.cost import Spread
from pns.plan.estimate import Setting, estimates, totals
from pns.plan.machine import CPU, H100, load_machine, save_machine, usual_machine
from pns.plan.models import named, shapes_of
from pns.plan.shapes import Shape
from pns.plan.words import duration, size, two
from pns.plan.work import assume, assumptions, benchmark_rows, longest_generated, work_of
from pns.recipe import ModelPart, Recipe
from pns.recipe_files import load_recipe
from pns.rewards.reward_model import Calibration
from pns.training.tiny import build_tokenizer

RUN = CliRunner()
ROOT = Path(__file__).parents[2] / "recipes"
SMOKE, PAPER = ROOT / "smoke.yaml", ROOT / "paper" / "qwen2.5-7b.yaml"


def setting(recipe: Recipe, machine: Any = H100, gpus: int = 8, **how: Any) -> Setting:
    return Setting(shapes_of(recipe)[0], machine, Spread(gpus), assumptions(recipe), **how)


def paper(*overrides: str) -> Recipe:
    return load_recipe(PAPER, overrides)[0]


def checked(recipe: Recipe, run_dir: Path, *, gpus: int = 8, ask: bool = False, **how: Any) -> dict[str, Check]:
    given = setting(recipe, gpus=gpus, **how)
    return {c.name: c for c in checks(recipe, estimates(recipe, given), given, run_dir, ask=ask)}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data folder, no hub, an empty working directory; and the libraries count as installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("PNS_DATA", raising=False)
    monkeypatch.setattr(module, "missing", lambda modules: [])
    monkeypatch.setattr(module, "library_findings", lambda asked: [])


def test_what_cannot_be_checked_is_said_and_never_passed(tmp_path: Path) -> None:
    found = checked(paper(), tmp_path)
    for name in (
        "problems: gsm8k-train",
        "problems: olympiadbench",
        "model",
        "model: form",
        "reward_model.base",
        "server: judge",
    ):
        assert found[name].state == "unchecked", name
    assert "--offline" in found["model"].detail
    assert found["memory"].state == "ok"


@pytest.mark.parametrize(
    ("overrides", "name", "words"),
    [
        (["problems.train_file=none.jsonl"], "problems: none.jsonl", "no such file"),
        (["problems.benchmarks={b: gsm8q}", "evaluate.k_of={}"], "problems: b", "neither a problem set nor a file"),
        (["problems.splits.pairs=9000"], "splits", "18472 problems are needed, and there are 14973"),
        (["model.path=./nowhere"], "model", "no such directory"),
        (["evaluate.max_new_tokens=40000"], "positions: policy", "40140 tokens of 32768 positions"),
        (["generator.micro_batch=512"], "memory", "generator needs about"),
        (["reward.judge_server.server.url=ftp://x"], "server: judge", "not an http(s) URL"),
        (["reward.judge_server.server.api_key_env=NO_SUCH_KEY"], "server: judge", "NO_SUCH_KEY is not set"),
    ],
)
def test_what_would_stop_the_run_fails_with_a_remedy(
    tmp_path: Path, overrides: list[str], name: str, words: str
) -> None:
    recipe = paper(*overrides)
    if recipe.model.path == "./nowhere":  # its shape is not known either, which the command says before all checks
        with pytest.raises(UserError, match=r"shape of '\./nowhere' is not known"):
            shapes_of(recipe)
        given = setting(paper())
        found = {c.name: c for c in checks(recipe, estimates(recipe, given), given, tmp_path, ask=False)}
    else:
        found = checked(recipe, tmp_path)
    assert found[name].state == "failed"
    assert words in found[name].detail
    assert found[name].remedy


PROMPTED = "negatives.methods=[rejection, prompted]"
HUB_MODEL = "negatives.prompted={writer: model, model: nope/nope}"
NO_JUDGE = "reward.judge_server=null"


@pytest.mark.parametrize(
    ("overrides", "name", "state", "words"),
    [
        ([PROMPTED, "negatives.prompted={writer: model, model: ./nodir}"], "negatives.prompted.model", "failed",
         "./nodir: no such directory"),
        ([PROMPTED, HUB_MODEL, "engine={kind: transformers}"], "negatives.prompted.model", "unchecked", "--offline"),
        ([PROMPTED, HUB_MODEL], "negatives.prompted.model", "failed", "engine.kind=vllm samples from a directory"),
        ([HUB_MODEL], "negatives.prompted.model", None, ""),
        ([PROMPTED], "negatives.prompted.prompt", "ok", "wrong-v1"),
        ([PROMPTED, "negatives.prompted.prompt=./none.txt"], "negatives.prompted.prompt", "failed", "no prompt and"),
        (["reward.judge_server.prompt=./noprompt.txt"], "reward.judge_server.prompt", "failed", "no prompt and"),
        ([], "reward.judge_server.prompt", "ok", "rubric-v1"),
        ([NO_JUDGE, "reward.judge=nomod:fn"], "reward.judge", "failed", "its module is not found"),
        ([NO_JUDGE, "reward.judge=json:loads"], "reward.judge", "ok", "your json:loads"),
        ([NO_JUDGE, "reward.judge=steps"], "reward.judge", None, ""),
        (["reward.reward_model={kind: 'nomod:fn'}"], "reward.reward_model.kind", "failed", "its module is not found"),
        (["reward.reward_model={kind: transformers, path: ./nodir, calibration: ./nocal}"], "reward.reward_model.path",
         "failed", "./nodir: no such directory"),
        (["reward.reward_model={kind: transformers, path: ./nodir, calibration: ./nocal}"],
         "reward.reward_model.calibration", "failed", "nocal/calibration.json: no such file"),
        (["reward.reward_model={kind: transformers, path: nope/nope}"], "reward.reward_model.path", "unchecked", "hub"),
        (["reward.reward_model={kind: transformers, path: nope/nope}"], "reward.reward_model.calibration", "failed",
         "has no calibration"),
        (["reward.reward_model={kind: vllm, path: ./nodir, server: {url: 'http://a'}}"], "reward.reward_model.path",
         "failed", "./nodir: no such directory"),
    ],
)  # fmt: skip
def test_whatever_a_recipe_names_is_looked_at(
    tmp_path: Path, overrides: list[str], name: str, state: str | None, words: str
) -> None:
    found = checked(paper(*overrides), tmp_path).get(name)
    if state is None:
        assert found is None, "the run does not read it"
        return
    assert found is not None
    assert (found.state, words in found.detail) == (state, True), found
    assert bool(found.remedy) == (state == "failed")


def test_a_hub_that_knows_no_such_writer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def on_hub(name: str, kind: str, repo: str, ask: bool, revision: str | None = None) -> Check:
        asked.append(repo)
        return Check(name, "failed", f"the hub has no {repo}", "check the id")

    for one in (module, check_models):
        monkeypatch.setattr(one, "on_hub", on_hub)
    told = ["negatives.prompted={writer: model, model: nope/nope}", PROMPTED, "engine={kind: transformers}"]
    found = checked(load_recipe(SMOKE, told)[0], tmp_path, ask=True)
    assert (asked, found["negatives.prompted.model"].state) == (["nope/nope"], "failed")


def test_a_named_reward_model_is_read_as_the_run_reads_it(tmp_path: Path) -> None:
    """Its directory may hold other weights than those that trainings start from, and its calibration is read."""
    folder = tmp_path / "scorer"
    folder.mkdir()
    (folder / "pytorch_model.bin").touch()

    def found(kind: str = "transformers") -> dict[str, Check]:
        server = ", server: {url: 'http://a'}" if kind == "vllm" else ""
        given = f"reward.reward_model={{kind: {kind}, path: {folder}, calibration: {folder}{server}}}"
        return checked(paper(given), tmp_path)

    assert "no config.json" in found()["reward.reward_model.path"].detail
    assert "no tokenizer that can be read" in found("vllm")["reward.reward_model.path"].detail, (
        "of one at a server it is needed alone"
    )
    (folder / "config.json").write_text("{}")
    build_tokenizer().save_pretrained(folder)
    assert found()["reward.reward_model.path"].state == "ok"
    Calibration.fit([1.0, 2.0]).save(folder)
    said = found()["reward.reward_model.calibration"]
    assert (said.state, "of 2 responses" in said.detail) == ("ok", True)
    (folder / "calibration.json").write_text("{")
    assert found()["reward.reward_model.calibration"].state == "failed"


def test_libraries_are_those_that_the_recipe_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pns doctor` tells them: here peft is missing, and all else is there in a version that will do."""
    monkeypatch.setattr(module, "library_findings", library_findings)

    def look_at(requirement: Any) -> Library:
        state: Any = "missing" if requirement.name in ("peft", "vllm", "deepspeed") else "ok"
        return Library(requirement.name, str(requirement.specifier), None if state == "missing" else "1", state)

    monkeypatch.setattr(packages, "look_at", look_at)
    monkeypatch.setattr(packages, "requirements", lambda: {
        extra: [Requirement(name)] for extra, name in (("core", "typer"), ("train", "torch"), ("lora", "peft"),
                                                       ("server", "httpx2"), ("vllm", "vllm"),
                                                       ("deepspeed", "deepspeed"))
    })  # fmt: skip
    found = checked(paper("align.lora={r: 8}", "runtime.report_to=[wandb]"), tmp_path)
    states = {name.removeprefix("libraries: "): c.state for name, c in found.items() if name.startswith("libraries")}
    package = states.pop("package wandb")
    assert states == {"extra train": "ok", "extra server": "ok", "extra lora": "failed", "extra vllm": "failed"}
    zero3 = Launcher("accelerate", ROOT / "accelerate" / "zero3.yaml")
    given = setting(paper())
    launched = {
        c.name: c for c in checks(paper(), estimates(paper(), given), given, tmp_path, ask=False, launcher=zero3)
    }
    assert launched["libraries: extra deepspeed"].state == "failed"
    assert "deepspeed" in launched["libraries: extra deepspeed"].remedy
    assert package == ("ok" if importlib.util.find_spec("wandb") else "failed")
    assert "lora,vllm" in found["libraries: extra lora"].remedy
    monkeypatch.setattr(packages, "requirements", lambda: {"core": [], "train": [], "server": []})
    assert checked(paper(), tmp_path)["libraries: extra vllm"].state == "unchecked", "older metadata does not know it"
    monkeypatch.setattr(packages, "requirements", lambda: None)
    assert checked(paper(), tmp_path)["libraries"].state == "unchecked"
    monkeypatch.setattr(module, "missing", lambda modules: ["trl"])
    assert checked(paper(), tmp_path)["libraries"].state == "failed"


def test_memory_of_stages_side_by_side_is_not_known_on_gpus(tmp_path: Path) -> None:
    assert checked(paper(), tmp_path)["memory"].state == "ok"
    beside = checked(paper("runtime.jobs=2"), tmp_path)["memory"]
    assert (beside.state, "2 stages may run side by side" in beside.detail) == ("unchecked", True)
    assert checked(paper("runtime.jobs=2"), tmp_path, gpus=1)["memory"].state == "failed", "alone it does not fit"
    assert checked(load_recipe(SMOKE, ["runtime.jobs=2"])[0], tmp_path)["memory"].state == "ok", "on a CPU"


LARGE = ("model.hidden=1024", "model.layers=24", "model.feed_forward=4096", "runtime.jobs=1")
"""On a CPU more than the 8 GB of the documented constants."""


def test_on_a_cpu_the_memory_is_that_of_the_machine_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "memory_here", lambda: 24e9)
    file = tmp_path / "m.json"
    save_machine(CPU, file)

    def memory(*words: str) -> tuple[str, str]:
        data = json.loads(RUN.invoke(app, ["plan", str(SMOKE), *LARGE, "--json", *words]).output)
        found = next(c for c in data["checks"] if c["name"] == "memory")
        assert "GPU" not in found["remedy"]
        return found["state"], found["detail"]

    state, said = memory()
    assert (state, "and one has 24 GB" in said) == ("ok", True), said
    state, said = memory("runtime.jobs=2")
    assert (state, "2 stages may run side by side (runtime.jobs), and share it" in said) == ("unchecked", True)
    for constant in (("--machine", str(file)), ("--gpus", "1")):
        state, said = memory(*constant)
        assert (state, "and one has 8 GB" in said) == ("failed", True), "of a machine that is not known"
    monkeypatch.setattr(machine_module, "memory_here", lambda: 9e9)
    assert memory()[0] == "failed"


def test_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "memory_here", lambda: 24e9)
    two = load_recipe(SMOKE, ["runtime.processes=2"])[0]
    apart = Launcher("accelerate", ROOT / "accelerate" / "two_cpus.yaml")
    found = [usual_machine(two, launcher, None) for launcher in (Launcher("accelerate"), apart, Launcher("ray"))]
    assert [m.memory_gb for m in found] == [12, 24, CPU.memory_gb], "Ray places them on machines that are not known"
    assert found[0].source.endswith("; memory is that of this machine shared by 2 processes")
    assert usual_machine(paper(), None, None) == H100


def test_wider_passes_are_advised_where_they_fit_and_gain(tmp_path: Path) -> None:
    small = "model.path=Qwen/Qwen2.5-0.5B-Instruct", "runtime.gradient_checkpointing=false", "runtime.vllm=null"

    def advice(*overrides: str, **how: Any) -> str | None:
        found = checked(paper(*small, *overrides), tmp_path, gpus=1, **how).get("passes")
        assert found is None or found.state == "advice"
        return None if found is None else found.detail

    said = advice("align.gradient_accumulation=32")
    assert said is not None
    key = next(word for word in said.split() if word.startswith("align.gradient_accumulation="))
    value = int(key.partition("=")[2])
    assert value < 32

    def training(overrides: list[str]) -> tuple[float, float]:
        recipe = paper(*small, *overrides)
        worst = max(
            (e for e in estimates(recipe, setting(recipe, gpus=1)) if e.name.startswith("align")),
            key=lambda e: e.memory,
        )
        return worst.memory, worst.seconds["train"]

    memory, seconds = training([key])
    assert memory <= 0.9 * 80e9
    assert seconds < 0.9 * training(["align.gradient_accumulation=32"])[1]
    assert training([f"align.gradient_accumulation={value // 2}"])[0] > 0.9 * 80e9, "the widest that fits"
    assert f"{key} takes about {size(memory)}" in said
    assert "align" not in str(advice(key)), "nothing wider fits"
    assert "align" not in str(advice("align.gradient_accumulation=32", "runtime.jobs=16")), "so many share the GPU"
    assert "passes" not in checked(load_recipe(SMOKE, ["align.gradient_accumulation=2"])[0], tmp_path), "on a CPU"
    more = str(
        advice(
            "rlvr.micro_batch=null",
            "generator.micro_batch=1",
            "references=[rlvr_more]",
            "generator.base.path=Qwen/Qwen2.5-0.5B-Instruct",
        )
    )
    assert "generator.micro_batch=" in more
    assert "rlvr.micro_batch=" not in more, "`rlvr_more` has the generator's passes"


def test_a_copy_that_samples_stays_on_the_gpu_of_a_training() -> None:
    def memory(*overrides: str, gpus: int = 1) -> float:
        recipe = paper("runtime.vllm=null", "rlvr.max_new_tokens=16", "rlvr.micro_batch=null", *overrides)
        return {e.name: e for e in estimates(recipe, setting(recipe, gpus=gpus))}["rlvr"].memory

    shape = shapes_of(paper())[0]["policy"]
    weights = 2 * shape.parameters()
    assert memory() - memory("runtime.sampler=trl") == pytest.approx(weights)
    recipe = paper()
    rows = recipe.rlvr.prompts_per_step * recipe.rlvr.num_generations
    cache = rows * (assumptions(recipe).prompt_tokens + 16) * shape.kv_bytes(2)
    assert memory("runtime.sampler=compiled") - memory() == pytest.approx(cache), "its cache stays, too"
    assert memory(gpus=8) == memory("runtime.sampler=trl", gpus=8), "divided weights are sampled by TRL itself"


def test_compiled_decoding_is_planned_as_faster() -> None:
    static = ("engine={kind: transformers}", "runtime.vllm=null")
    for key, stage, other in (
        ("engine.compiled=true", "samples-pns", "rlvr"),
        ("runtime.sampler=compiled", "rlvr", "samples-pns"),
    ):
        assert decode(stage, *static, key) < decode(stage, *static)
        assert decode(other, *static, key) == decode(other, *static)


def test_one_gpu_has_no_room_for_the_optimizer(tmp_path: Path) -> None:
    assert checked(paper(), tmp_path, gpus=1)["memory"].state == "failed"


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10**9

    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Usage)
    found = checked(paper(), tmp_path / "deep" / "run")["disk"]
    assert found.state == "failed"
    assert str(tmp_path) in found.detail


def test_a_server_that_is_not_there_fails_and_one_that_serves_another_model_too(tmp_path: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Lists(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": "small"}]}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Lists)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"reward.judge_server.server.url=http://127.0.0.1:{server.server_port}"

    def judge(*overrides: str) -> Check:
        recipe = paper(*overrides)
        return {c.name: c for c in check_servers.servers(recipe, True)}["server: judge"]

    try:
        assert judge(f"{url}/v1", "reward.judge_server.model=small").state == "ok"
        assert judge(f"{url}/v1", "reward.judge_server.model=null").state == "ok"
        other = judge(f"{url}/v1")
        assert (other.state, "lists small, not Qwen" in other.detail) == ("failed", True)
        lost = judge(url)
        assert (lost.state, "404" in lost.detail) == ("unchecked", True)
    finally:
        server.shutdown()
        server.server_close()
    gone = judge(f"{url}/v1")
    assert (gone.state, "cannot connect" in gone.detail) == ("failed", True)


def test_servers_that_sample_are_asked_whether_they_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Lives(BaseHTTPRequestHandler):
        """/v1/models lists two models; /health has an empty body, as vLLM's has."""

        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": "a"}, {"id": "b"}]}).encode() if self.path == "/v1/models" else b""
            self.send_response(401 if self.headers.get("Authorization") == "Bearer wrong" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Lives)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    given = (
        f"engine={{kind: server, server: {{urls: ['{here}/v1'], api_key_env: PLAN_KEY}}}}",
        f"runtime.vllm={{mode: server, url: '{here}', generator_url: '{here}/'}}",
    )
    names = (f"server: engine {here}/v1", "server: GRPO's vLLM")

    def states(ask: bool = True) -> list[str]:
        found = {c.name: c for c in check_servers.servers(paper(*given), ask)}
        return [found[name].state for name in names]

    try:
        assert states() == ["failed", "ok"], "the key is not set"
        monkeypatch.setenv("PLAN_KEY", "wrong")
        assert states() == ["failed", "ok"]
        monkeypatch.setenv("PLAN_KEY", "right")
        assert states() == ["ok", "ok"]
        other = {c.name: c for c in check_servers.servers(paper(*given), True)}["server: the generator's vLLM"]
        assert other.state == "ok"
        assert states(ask=False) == ["unchecked", "unchecked"]
    finally:
        server.shutdown()
        server.server_close()
    assert states() == ["failed", "failed"]


def test_a_local_model_without_weights_or_tokenizer_fails(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name, missing in (
        ("config.json", "model.safetensors"),
        ("model.safetensors", "tokenizer.json"),
        ("tokenizer.json", ""),
    ):
        (folder / name).write_text("{}")
        found = check_models._model("model", ModelPart(kind="pretrained", path=str(folder)), ask=False)
        assert (found.state, missing in found.detail) == ("failed" if missing else "ok", True)
    with pytest.raises(UserError, match="no size of a dense decoder"):
        named(str(folder), None, "model")
    for text, words in (
        (b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (b"[" * 100_000, "nested too deep"),
        (b"[1]", "not the configuration"), (b'{"text_config": [1]}', "not the configuration"),
        (b'{"text_config": null}', "hidden_size"),
    ):  # fmt: skip
        (folder / "config.json").write_bytes(text)
        with pytest.raises(UserError, match=words):
            named(str(folder), None, "model")


def test_a_gguf_file_states_its_shape(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_embedding_length(8)
    writer.add_block_count(2)
    writer.add_feed_forward_length(16)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(64)
    writer.add_tensor("token_embd.weight", np.zeros((10, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    given = ["model={kind: pretrained, path: .}", "problems.train_file=gsm8k-train", "problems.benchmarks={g: gsm8k}"]
    recipe = load_recipe(ROOT / "smollm2-gsm8k.yaml", [*given, "model.gguf_file=m.gguf"])[0]
    assert shapes_of(recipe)[0]["policy"] == Shape(8, 2, 4, 2, 2, 16, 10, 64, tied=True)
    other = load_recipe(ROOT / "smollm2-gsm8k.yaml", [*given, "model.gguf_file=none.gguf"])[0]
    with pytest.raises(UserError, match=r"no none\.gguf in"):
        shapes_of(other)
    assert check_models._model("model", recipe.model, ask=False).state == "ok", "such a directory needs no config.json"
    missing = check_models._model("model", other.model, ask=False)
    assert (missing.state, missing.remedy) == ("failed", "there: m.gguf")
    forms = [
        dict(vars(c)) for told in (recipe, other) for c in check_models.models(told, False) if c.name == "model: form"
    ]
    assert [form["state"] for form in forms] == ["failed", "unchecked"], "the first file holds no tokenizer"
    assert "tokenizer of `., m.gguf` cannot be loaded" in forms[0]["detail"]


def test_the_form_of_a_model_is_looked_at_with_the_tokenizer_that_the_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GGUF file, too: of an installed package, and of the hub where the cache has it."""
    asked: list[dict[str, Any]] = []

    def tokenizer_of(source: Any, **options: Any) -> Any:
        asked.append({**source.options, **options})
        return build_tokenizer()

    monkeypatch.setattr(check_models, "tokenizer_of", tokenizer_of)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("pns.training.pretrained.package_folder", lambda name: tmp_path)
    monkeypatch.setattr("pns.training.pretrained.missing", lambda modules: [])
    start = {"train_file": "gsm8k-train", "benchmarks": "{g: gsm8k}"}
    given = [f"problems.{key}={value}" for key, value in start.items()]

    def form(model: str) -> Check:
        recipe = load_recipe(ROOT / "smollm2-gsm8k.yaml", [*given, f"model={model}"])[0]
        return {c.name: c for c in check_models.models(recipe, False)}["model: form"]

    assert form("{kind: pretrained, gguf_package: some, gguf_file: m.gguf}").state == "ok"
    of_hub = "{kind: pretrained, path: a/b, gguf_file: m.gguf}"
    assert (form(of_hub).state, len(asked)) == ("unchecked", 1)
    monkeypatch.setattr(check_models, "cached", lambda repo, file, revision: Path(file) if file == "m.gguf" else None)
    assert form(of_hub).state == "ok"
    assert [(o["pretrained_model_name_or_path"], o["gguf_file"]) for o in asked] == [
        (str(tmp_path), "m.gguf"), ("a/b", "m.gguf"),
    ]  # fmt: skip
    assert all(o["local_files_only"] for o in asked), "a plan downloads nothing"


def test_every_stage_of_a_recipe_is_counted() -> None:
    for recipe in (paper(), load_recipe(SMOKE, ["references=[rlvr_more, nsr, w_reinforce]"])[0]):
        given = assumptions(recipe)
        idle = {n for n, s in stages(recipe).items() if not work_of(s, recipe, given).rows}
        assert idle <= {"start", "start-generator", "start-reward_model", "sft", "negatives-pns", "pairs", "report"}


def test_prompted_negatives_are_drawn_by_the_engine_of_the_recipe() -> None:
    methods = "negatives.methods=[rejection, prompted]"
    for engine, expected in (("vllm", True), ("transformers, vllm: null", False)):
        recipe = paper(methods, f"engine={{kind: {engine}}}")
        (drawn,) = work_of(stages(recipe)["negatives-prompted"], recipe, assumptions(recipe)).samples
        assert drawn.continuous is expected


def test_a_generator_with_two_goals_is_counted() -> None:
    both = ("generator.control=err", "pairs.chosen_by=generator")
    recipe, plain = paper(*both, "rollouts.max_new_tokens=3000"), paper()
    found = {name: work_of(stage, recipe, assumptions(recipe)) for name, stage in stages(recipe).items()}
    assert found["generator"].calls == pytest.approx(48 * 64 * 8 * 0.6 / 2), "every other problem is to be solved"
    assert found["generator"].rows == 48 * 64 * 8
    (drawn,) = found["rollouts-generator"].samples
    assert (drawn.model, drawn.rows, found["rollouts-generator"].calls) == ("generator", 4096 * 8, 0)
    alone = paper(*both, "negatives.methods=[rejection]")
    assert [r.sampled_by_generator for r in (plain, recipe, alone)] == [4096 * 8, 4096 * 16, 4096 * 8]
    assert longest_generated(alone) == plain.rollouts.max_new_tokens
    assert longest_generated(paper("negatives.methods=[rejection]")) == 0


def test_further_generators_are_counted() -> None:
    recipe, plain = paper("generator.others=[{steps: 12}, {}]"), paper()
    found = {name: work_of(stage, recipe, assumptions(recipe)) for name, stage in stages(recipe).items()}
    alone = {name: work_of(stage, plain, assumptions(plain)) for name, stage in stages(plain).items()}
    assert [found[name].rows for name in recipe.generator.stages] == [48 * 512, 12 * 512, 48 * 512]
    assert [sample.rows for sample in found["samples-pns"].samples] == [4096 * 8 // 3] * 3
    assert found["samples-pns"].calls == alone["samples-pns"].calls
    steps = [more_steps(r.generator, r.sampled_for_pns) for r in (plain, recipe)]
    assert steps == [48 + 64 + 24, 48 + 64 + 24 + 60], "the reference has the steps of all of them"


def test_rows_and_verdicts_of_the_paper_recipe_by_hand() -> None:
    recipe = paper()
    found = {e.name: e.work for e in estimates(recipe, setting(recipe))}
    assert found["rlvr"].rows == 64 * 64 * 8
    assert found["rollouts-pairs"].rows == 4096 * 8
    assert found["rollouts-pairs"].decoded == 4096 * 8 * 512
    assert found["generator"].calls == pytest.approx(48 * 64 * 8 * 0.6)
    assert found["samples-pns"].calls == pytest.approx(4096 * 8 * 0.6)
    assert found["negatives-rejection"].calls == pytest.approx(2 * 0.45 * 4096)
    for more, calls in (
        (["negatives.per_problem=4", "negatives.near_duplicate=0"], 4 * 0.45 * 4096),
        (["negatives.per_problem=5", "negatives.near_duplicate=0"], 0.25 * 8 * 4096),  # no more than there are
        (["negatives.per_problem=2"], 0.25 * 8 * 4096),  # near-duplicates are passed over
        (["negatives.length_ratio=2"], 0.25 * 8 * 4096),
        (["negatives.gate_all=true"], 0.25 * 8 * 4096),
    ):
        part = paper(*more)
        stage = next(s for s in stages(part).values() if s.name == "negatives-rejection")
        assert work_of(stage, part, assumptions(part)).calls == pytest.approx(calls)
    # rlvr_more: the generator's 48 steps, and 4096 x 8 samples in steps of 512.
    assert found["rlvr_more"].rows == (48 + 64 + 1536 * 8 // 512) * 512  # generator, negatives, reward model
    assert found["align-pns-matched"].trained == 26 * 128 * (140 + 512)
    rows = benchmark_rows(recipe)
    assert rows["gsm8k"] == 1319
    greedy, small = sum(rows.values()) + 256, 30 + 30 + 40
    assert found["evaluate-pns"].rows == greedy + 4 * (greedy - small) + 32 * small


def test_more_gpus_are_faster_until_there_is_no_work_for_them() -> None:
    recipe = paper()
    by: dict[int, Any] = {n: totals(estimates(recipe, setting(recipe, gpus=n)), Spread(n), 1) for n in (8, 64, 512)}
    assert by[64]["hours"] < by[8]["hours"]
    assert by[512]["device_hours"] > 4 * by[64]["device_hours"] > 4 * by[8]["device_hours"]
    assert by[512]["seconds_by"]["judge"] == by[8]["seconds_by"]["judge"], "the judge does not know of them"


def test_the_figures_of_the_page_are_those_of_the_plan() -> None:
    page = (ROOT.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    table = page.partition("| GPUs | hours |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "64", "512"]
    for row in rows:
        gpus = int(row[0])
        recipe = paper(f"engine.ray_workers={gpus}", f"engine.ray_readers={gpus}")
        whole = totals(estimates(recipe, setting(recipe, gpus=gpus)), Spread(gpus), 1)
        assert row[3] == size(whole["memory_bytes"])
        if gpus < 8:
            assert row[1] == "does not fit"
            assert whole["memory_bytes"] > 80e9
            continue
        by = whole["seconds_by"]
        assert row[1:3] == [f"{two(whole['hours']):g}", f"{two(whole['device_hours']):g}"]
        assert row[4:] == [duration(by[kind]) for kind in ("decode", "judge", "train", "read")]
    asleep = [
        (n, paper("runtime.vllm.sleep=true", f"engine.ray_workers={n}", f"engine.ray_readers={n}")) for n in (4, 8)
    ]
    four, eight = (totals(estimates(recipe, setting(recipe, gpus=n)), Spread(n), 1) for n, recipe in asleep)
    said = f"four GPUs then take {two(four['hours']):g} hours and {size(four['memory_bytes'])}, eight {size(eight['memory_bytes'])}."
    assert said in " ".join(page.split())
    assert f"Disk: {size(whole['disk_bytes'])} in the end, {size(whole['peak_disk_bytes'])} at most." in page


def test_grpo_samples_as_runtime_vllm_says_and_other_stages_as_the_engine(tmp_path: Path) -> None:
    static = ("engine={kind: transformers}", "runtime.vllm=null")
    for stage, own, other in (
        ("generator", "runtime.vllm=null", static[0]),
        ("rlvr_more", "runtime.vllm=null", static[0]),
        ("samples-pns", static[0], "runtime.vllm=null"),
    ):
        assert decode(stage, own) > 1.5 * decode(stage)
        assert decode(stage, other) == decode(stage)
        assert decode(stage, *static, continuous=True) == decode(stage)
        assert decode(stage, continuous=False) == decode(stage, *static)


def decode(stage: str, *overrides: str, gpus: int = 8, **how: Any) -> float:
    recipe = paper(*overrides)
    return {e.name: e for e in estimates(recipe, setting(recipe, gpus=gpus, **how))}[stage].seconds["decode"]


def test_samples_of_a_stage_that_does_not_train_are_drawn_by_one_engine_or_by_the_workers() -> None:
    workers = "engine.ray_workers=8"
    for stage in ("samples-pns", "rollouts-pairs", "evaluate-pns"):
        assert decode(stage) == decode(stage, gpus=1) > 3 * decode(stage, workers)
        assert decode(stage, workers, gpus=4) > 1.4 * decode(stage, workers), "no more than there are GPUs"
    assert decode("rlvr") < decode("rlvr", gpus=1), "a training samples on all its GPUs"
    two = ("engine.vllm.tensor_parallel=2", workers)
    assert decode("samples-pns", *two) > 1.5 * decode("samples-pns", workers), "four engines"
    static = ("engine={kind: transformers, ray_workers: 8}", "rollouts.batch_size=128")
    assert decode("rollouts-pairs", *static) == pytest.approx(decode("rollouts-pairs", *static, gpus=1) / 8)


def test_stages_with_one_engine_do_not_know_of_the_workers() -> None:
    for method in ("prefix", "prompted"):
        given = f"negatives.methods=[rejection, {method}]"
        assert decode(f"negatives-{method}", given, "engine.ray_workers=8") == decode(f"negatives-{method}", given)


def test_each_shard_of_a_worker_waits_for_its_own_longest_completion() -> None:
    one = cost.sample_seconds(
        shapes_of(paper())[0]["policy"], H100, Spread(continuous=True), rows=256, batch=256, prompt=140, mean=512,
        longest=2048,
    )  # fmt: skip
    room = ("engine.ray_workers=8", "engine.vllm.gpu_memory_utilization=1")
    shards = 4096 * 8 // 256
    assert decode("rollouts-pairs", *room, "rollouts.batch_size=256") == pytest.approx(shards / 8 * one)
    assert decode("rollouts-pairs", "engine.ray_workers=8", "rollouts.batch_size=32768") > 5 * decode(
        "rollouts-pairs", "engine.ray_workers=8"
    ), "a shard is one worker's"
    # One vLLM takes several shards in a call.
    assert decode("rollouts-pairs", "rollouts.batch_size=256") == pytest.approx(decode("rollouts-pairs"), rel=0.01)
    many = decode("evaluate-pns", "engine.ray_workers=64", gpus=64)
    assert many < decode("evaluate-pns", "engine.ray_workers=8") / 2, "all benchmarks are drawn together"


def test_servers_draw_as_many_as_they_are(tmp_path: Path) -> None:
    one, two = (
        f"engine={{kind: server, server: {{urls: {urls}}}}}" for urls in (["http://a"], ["http://a", "http://b"])
    )
    assert decode("samples-pns", two) < 0.6 * decode("samples-pns", one)
    assert "samples" not in checked(paper(one), tmp_path)


def test_samples_on_fewer_gpus_than_there_are_is_said(tmp_path: Path) -> None:
    def said(*overrides: str, gpus: int = 8) -> str | None:
        found = checked(paper(*overrides), tmp_path, gpus=gpus).get("samples")
        return None if found is None else found.detail

    assert said() == "samples run on one GPU of 8; set engine.ray_workers=8"
    assert said("engine.ray_workers=4") == "samples run on 4 GPUs of 8; set engine.ray_workers=8"
    assert said("engine.vllm.tensor_parallel=2") == "samples run on 2 GPUs of 8; set engine.ray_workers=4"
    assert said("engine.ray_workers=8") is said(gpus=1) is None


def test_readers_divide_what_is_read_by_no_training() -> None:
    def read(stage: str, *overrides: str, gpus: int = 8) -> float:
        recipe = paper(*overrides)
        return {e.name: e for e in estimates(recipe, setting(recipe, gpus=gpus))}[stage].seconds["read"]

    readers = "engine.ray_readers=8"
    for stage in ("rollouts-pairs", "audit"):
        assert read(stage, readers) == pytest.approx(read(stage) / 8, rel=0.03)
    # Of a shard of 256 rows the reward model has three passes, of 2^16 tokens each, and a pass is one reader's.
    few = "negatives.sample.batch_size=256"
    assert read("samples-pns", few) / 8 < read("samples-pns", readers, few) < read("samples-pns", few) / 6
    assert read("samples-pns", readers) == pytest.approx(read("samples-pns") / 8, rel=0.03)
    prefix = "negatives.methods=[rejection, pns_prefix]"
    assert read("samples-pns_prefix", prefix) > 2 * read("negatives-prefix", "negatives.methods=[rejection, prefix]")
    assert read("reward_model", readers) == read("reward_model"), "its processes were launched"
    assert read("generator", readers) == read("generator"), "divided among its processes already"


def test_readers_are_advised_where_reading_takes_a_share_of_all_time(tmp_path: Path) -> None:
    def advice(*overrides: str, gpus: int) -> str | None:
        found = checked(paper(*overrides), tmp_path, gpus=gpus).get("readers")
        assert found is None or found.state == "advice"
        return None if found is None else found.detail

    said = advice(gpus=8)
    assert said is not None
    assert said.startswith("engine.ray_readers=8 reads in 12 min what takes 49 min")
    assert advice("engine.ray_readers=8", gpus=8) is None
    assert advice(gpus=1) is None
    assert advice("engine.vllm.tensor_parallel=2", gpus=8) is None
    assert advice("engine={kind: transformers}", gpus=8) is None, (
        "the models that sample and those that read do not fit"
    )
    assert "readers" not in checked(load_recipe(SMOKE, [])[0], tmp_path), "on a CPU"


def test_memory_counts_what_is_held_beside_a_training() -> None:
    def memory(stage: str, *overrides: str, gpus: int = 8) -> float:
        recipe = paper(*overrides)
        return {e.name: e for e in estimates(recipe, setting(recipe, gpus=gpus))}[stage].memory

    shapes = shapes_of(paper())[0]
    own = "reward.reward_model={kind: vllm, path: x, server: {url: 'http://localhost:1'}}"
    held = memory("generator") - memory("generator", own)
    assert held == pytest.approx(2 * shapes["reward_model"].parameters(head=False)), "the reward model scores each step"
    away = memory("rlvr", "runtime.vllm={mode: server, url: 'http://a'}")
    assert memory("rlvr") - away == pytest.approx(0.3 * 80e9), "vLLM's share"
    assert away < memory("rlvr", "runtime.vllm.sleep=true") < memory("rlvr"), "it is there while samples are drawn"


def test_memory_of_sampling_is_vllms_share_and_the_models_read_beside_it(tmp_path: Path) -> None:
    def memory(stage: str, *overrides: str, **how: Any) -> float:
        recipe = paper(*overrides)
        return {e.name: e for e in estimates(recipe, setting(recipe, **how))}[stage].memory

    shapes = shapes_of(paper())[0]
    policy, generator = (2 * shapes[name].parameters() for name in ("policy", "generator"))
    scorer = 2 * shapes["reward_model"].parameters(head=False)
    reading = cost.read_bytes(shapes["reward_model"], H100, rows=128, longest=2188, head=False)
    logits = cost.read_bytes(shapes["policy"], H100, rows=128, longest=2188)
    share = 0.4 * 80e9
    assert memory("samples-pns") == pytest.approx(1e9 + share + policy + generator + scorer + max(reading, logits))
    assert memory("rollouts-pairs") == pytest.approx(1e9 + share + policy + logits)
    assert memory("rollouts-audit") == pytest.approx(1e9 + share), "nothing is read"
    split = memory("evaluate-pns", "engine.vllm.tensor_parallel=2")
    assert split == pytest.approx(1e9 + share), "the share is of each GPU"
    urls = "engine={kind: server, server: {urls: ['http://a/v1']}}"
    assert memory("evaluate-pns", urls) == 1e9, "it is not on these GPUs"
    two = 2 * scorer + cost.read_bytes(shapes["reward_model"], H100, rows=128, longest=2188, head=False)
    assert memory("audit") == pytest.approx(1e9 + two), "reward model and audit model"
    asleep = memory("rlvr", "runtime.vllm.sleep=true", "rlvr.micro_batch=1")
    assert asleep == pytest.approx(1e9 + 2 * shapes["policy"].parameters() + 0.3 * 80e9), "while it samples"
    found = checked(paper("engine.vllm.gpu_memory_utilization=0.9"), tmp_path)["memory"]
    assert (found.state, "samples-pns" in found.detail) == ("failed", True)
    assert "engine.vllm.gpu_memory_utilization" in found.remedy


@pytest.mark.parametrize(
    ("recipe", "overrides", "name", "state", "words"),
    [
        ("llama-3.1-8b", [], "engine.vllm: policy", "ok", "a row of 8192 tokens 1.1 GB"),
        ("llama-3.1-8b", ["engine.vllm.max_model_len=null"], "engine.vllm: policy", "failed", "131072 tokens 17 GB"),
        ("llama-3.1-8b", ["engine.vllm.tensor_parallel=2", "engine.vllm.max_model_len=null"], "engine.vllm: policy",
         "ok", "weights 8 GB and a row of 131072 tokens 8.6 GB"),
        ("llama-3.1-8b", ["engine.vllm.max_model_len=3000"], "engine.vllm: policy", "failed", "3212 tokens"),
        ("qwen2.5-math-7b", ["engine.vllm.max_model_len=5000"], "engine.vllm: policy", "failed", "4096 positions"),
        ("qwen2.5-7b", [], "engine.vllm: generator", "ok", "of vLLM's 32 GB"),
        ("qwen2.5-7b", ["engine.vllm.gpu_memory_utilization=0.2"], "engine.vllm: generator", "failed", "15 GB"),
        ("qwen2.5-7b", ["runtime.vllm.gpu_memory_utilization=0.19"], "runtime.vllm: policy", "failed", "15 GB"),
        ("llama-3.1-8b", [], "runtime.vllm: policy", "ok", "a row of 8192 tokens 1.1 GB, of vLLM's 24 GB"),
        ("llama-3.1-8b", ["runtime.vllm.max_model_len=131072"], "runtime.vllm: policy", "failed", "131072 tokens 17 GB"),
        ("llama-3.1-8b", ["runtime.vllm.max_model_len=null"], "runtime.vllm: policy", "ok", "a row of 2188 tokens"),
    ],
)  # fmt: skip
def test_vllms_share_holds_the_weights_and_one_row(
    tmp_path: Path, recipe: str, overrides: list[str], name: str, state: str, words: str
) -> None:
    found = checked(load_recipe(ROOT / "paper" / f"{recipe}.yaml", overrides)[0], tmp_path)[name]
    assert (found.state, words in found.detail) == (state, True), found
    assert bool(found.remedy) == (state == "failed")


def test_vllm_that_is_not_on_these_gpus_has_no_share(tmp_path: Path) -> None:
    away = ("engine={kind: server, server: {urls: ['http://a/v1']}}", "runtime.vllm={mode: server, url: 'http://a'}")
    assert not [name for name in checked(paper(*away), tmp_path) if ".vllm: " in name]


def test_the_dtype_of_training_decides_about_its_state_where_that_is_not_shared() -> None:
    def reward_model(gpus: int, dtype: str) -> Any:
        recipe = paper(f"runtime.train_dtype={dtype}")
        return {e.name: e for e in estimates(recipe, setting(recipe, gpus=gpus))}["reward_model"]

    n = shapes_of(paper())[0]["reward_model"].parameters(head=False)
    one, half = (reward_model(1, dtype) for dtype in ("float32", "bfloat16"))
    assert one.memory - half.memory == pytest.approx(8 * n)
    assert (one.scratch, half.scratch) == (3 * 12 * n, 3 * 6 * n)
    assert reward_model(8, "bfloat16").memory == reward_model(8, "float32").memory, "FSDP2 makes it float32"


def test_what_no_training_reads_is_read_on_one_gpu() -> None:
    def read(stage: str, gpus: int) -> float:
        recipe = paper()
        return {e.name: e for e in estimates(recipe, setting(recipe, gpus=gpus))}[stage].seconds["read"]

    for stage in ("samples-pns", "rollouts-pairs", "negatives-rejection", "reward_model", "audit"):
        assert read(stage, 64) == read(stage, 8) == read(stage, 1), stage
    assert read("generator", 64) < read("generator", 8), "each process scores its own completions"
    assert read("align-pns-matched", 8) < read("align-pns-matched", 1), "the reference is read in the training"


def test_a_judge_has_a_price_only_where_one_is_given() -> None:
    recipe = paper()
    assert totals(estimates(recipe, setting(recipe)), Spread(8), 1)["judge_price"] is None
    priced = setting(recipe, price_in=1.0, price_out=2.0)
    whole = totals(estimates(recipe, priced), Spread(8), 1)
    assert whole["judge_price"] == pytest.approx(whole["judge_calls"] * (1400 + 2 * 300) / 1e6)


@pytest.mark.parametrize(
    ("text", "words"),
    [("answer_share", "assumes nothing"), ("tokens=3", "assumes nothing"), ("answer_share=2", "must be at most 1"),
     ("prompt_tokens=x", "prompt_tokens")],
)  # fmt: skip
def test_a_bad_assumption_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        assume(paper(), [text])
    assert (caught.value.field, bool(caught.value.remedy)) == ("--assume", True)


def test_an_assumption_is_taken() -> None:
    assert assume(paper(), ["answer_share=0.5"]).answer_share == 0.5


def test_a_machine_is_read_as_it_was_written_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    save_machine(CPU, file)
    assert load_machine(file) == CPU
    for text, words in (
        ("{", "JSON"),
        ("{}", "required"),
        (json.dumps({**CPU.model_dump(), "memory_gb": -1}), "must be above 0"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            load_machine(file)
    with pytest.raises(UserError, match="no such file"):
        load_machine(tmp_path / "none.json")


def test_two_timings_give_a_rate_and_what_is_fixed() -> None:
    assert fit((3.0, 10.0), (1, 8), 5.0) == (5.0, 2.0)
    assert fit((3.0, 2.0), (1, 8), 5.0) == (20.0, 0.0), "noise: all of the larger batch counts as work"


def test_the_command_prints_stages_and_checks() -> None:
    result = RUN.invoke(app, ["plan", str(SMOKE)])
    assert result.exit_code == 0, result.output
    for words in (
        "generator",
        "mostly",
        "checks hold, 0 failed, 0 were not made",
        "estimates",
        "Assumed: prompt_tokens=33",
    ):
        assert words in result.output
    data = json.loads(RUN.invoke(app, ["plan", str(SMOKE), "--json"]).output)
    assert {row["stage"] for row in data["stages"]} == set(stages(load_recipe(SMOKE)[0]))
    assert all(float(f"{row['seconds']:.2g}") == row["seconds"] for row in data["stages"]), "two digits"


def test_the_last_line_counts_one_as_one() -> None:
    assert _counted(["ok"] * 15 + ["failed", "unchecked"]) == "15 checks hold, 1 failed, 1 was not made."
    assert _counted(["ok"]) == "1 check holds, 0 failed, 0 were not made."


def test_a_full_disk_has_no_byte_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 0

    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Usage)
    assert f"and 0 B are free at {tmp_path}" in checked(paper(), tmp_path)["disk"].detail


def test_devices_of_servers_are_said_not_to_be_counted() -> None:
    said = RUN.invoke(app, ["plan", str(PAPER), "--offline"]).output
    assert "Device hours leave out the devices of servers: the judge." in said
    assert "leave out" not in RUN.invoke(app, ["plan", str(SMOKE)]).output


def test_a_failed_check_is_exit_code_2_and_the_plan_is_printed_all_the_same() -> None:
    result = RUN.invoke(app, ["plan", str(PAPER), "--gpus", "1", "--offline", "--json"])
    assert result.exit_code == 2
    data = json.loads(result.output)
    assert data["parameters"]["policy"] == 7_615_616_512
    assert {c["name"] for c in data["checks"] if c["state"] == "failed"} >= {"memory"}
    assert (data["devices"], data["engine"], data["engine_in_grpo"]) == (1, "vllm", "vllm")


@pytest.mark.parametrize("how", [["runtime.processes=128"], ["--gpus", "128"]])
def test_processes_that_cannot_divide_a_batch_are_told_in_the_words_of_the_run(how: list[str]) -> None:
    result = RUN.invoke(app, ["plan", str(PAPER), "--offline", "--json", *how])
    assert result.exit_code == 2
    failed = {c["name"]: c["detail"] for c in json.loads(result.output)["checks"] if c["state"] == "failed"}
    words = "runtime.processes: a batch of 64 rows cannot be divided among 128 processes (reward_model)"
    assert failed["batches"] == words
    many = json.loads(RUN.invoke(app, ["plan", str(PAPER), "--offline", "--json", "runtime.processes=64"]).output)
    assert {c["name"]: c["state"] for c in many["checks"]}["batches"] == "ok"


def test_devices_are_the_processes_of_the_recipe_where_none_are_given() -> None:
    def devices(*arguments: str) -> int:
        found = json.loads(RUN.invoke(app, ["plan", str(SMOKE), "runtime.processes=2", "--json", *arguments]).output)
        return int(found["devices"])

    assert (devices(), devices("--gpus", "3")) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no recipe"),
        ([str(SMOKE), "--price-in", "1"], "go together"),
        ([str(SMOKE), "align.bata=1"], "unknown key"),
        ([str(SMOKE), "--assume", "x=1"], "assumes nothing"),
        ([str(SMOKE), "--assume", "prompt_tokens=1e308"], "beyond all numbers"),
        ([str(SMOKE), "sft.steps=1" + "0" * 400], "beyond all numbers"),
        ([str(SMOKE), "--gpus", "1" + "0" * 400], "beyond all numbers"),
        ([str(SMOKE), "--machine", "none.json"], "no such file"),
        ([str(PAPER), "model.path=someone/unknown"], "is not known"),
        (["none.yaml"], "no such recipe"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], words: str) -> None:
    result = RUN.invoke(app, ["plan", *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_the_generators_lengths_are_those_of_its_methods(tmp_path: Path) -> None:
    def said(*overrides: str) -> str:
        return checked(paper(*overrides), tmp_path, gpus=8)["positions: generator"].detail

    prefix = ("negatives.methods=[rejection, pns_prefix]", "negatives.prefix.max_new_tokens=3000")
    assert said(*prefix).startswith(f"{140 + 2048 + 3000} tokens"), "with the prefix that it goes on from"
    assert said("negatives.methods=[rejection, pns]", prefix[1]).startswith(f"{140 + 2048} tokens")
