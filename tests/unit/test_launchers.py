"""What is said of several processes before any of them starts: configurations, samplers, fingerprints, shares."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pns import fingerprints, pipeline
from pns.errors import UserError
from pns.launch import TRAININGS, Launcher, check_launcher
from pns.processes import is_main, loading_device, own_device, world_size
from pns.recipe_files import load_recipe
from pns.training.batches import check_batches, divided, rows_of

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "recipes" / "smoke.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_reads_our_configurations(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    assert found.num_processes == {"one_gpu": 1, "two_cpus": 2, "two_nodes": 16}.get(path.stem, 8)
    kinds = {"one_gpu": "NO", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "two_cpus": "MULTI_CPU"}
    kind = kinds.get(path.stem, "FSDP")
    assert str(found.distributed_type).rpartition(".")[2] == kind
    assert f"recipes/accelerate/{path.name}" in path.read_text(encoding="utf-8") or path.stem == "two_nodes"


def test_every_training_is_launched_and_nothing_else() -> None:
    recipe, _ = load_recipe(SMOKE, ["references=[rlvr_more, nsr, w_reinforce]"])
    calls = {stage.call for stage in pipeline.stages(recipe).values()}
    others = {"data", "evaluate", "negatives", "samples", "summary"}
    for call in calls:
        started = call.partition(":")[0] not in others and call not in ("policy:make_start", "policy:rollouts")
        assert (call in TRAININGS) == started, call


@pytest.mark.parametrize(
    ("name", "active", "launcher", "taken"),
    [
        ("rlvr", ["reward_model"], Launcher("accelerate"), True),
        ("rlvr", ["rollouts-pairs"], Launcher("accelerate"), False),
        ("rollouts-pairs", ["rlvr"], Launcher("accelerate"), False),
        ("rlvr", ["reward_model"], Launcher("ray"), False),
        ("rlvr", ["reward_model"], None, False),
    ],
)
def test_a_training_waits_for_the_port(name: str, active: list[str], launcher: Launcher | None, taken: bool) -> None:
    from pns.scheduler import Task, _taken

    recipe, _ = load_recipe(SMOKE, ["runtime.device=cuda", "runtime.processes=2"])
    tasks = {n: Task(stage, recipe, "", n, {}) for n, stage in pipeline.stages(recipe).items()}
    assert _taken(tasks[name], launcher, [tasks[n] for n in active]) == taken


def marks(*overrides: str) -> dict[str, str]:
    recipe, _ = load_recipe(SMOKE, list(overrides))
    return fingerprints.of_stages(recipe, pipeline.stages(recipe))


def test_processes_change_trainings_and_what_rests_on_them() -> None:
    one, two = marks(), marks("runtime.processes=2")
    assert {name for name in one if one[name] == two[name]} == {"problems", "start"}
    cuda = marks("runtime.device=cuda")
    sampled = marks("runtime.device=cuda", "runtime.vllm={mode: colocate}")
    assert cuda["sft"] == sampled["sft"]
    assert cuda["rlvr"] != sampled["rlvr"]


def test_how_grpo_samples() -> None:
    from pns.training.grpo import _sampler

    def sampler(*overrides: str) -> dict[str, Any]:
        return _sampler(load_recipe(SMOKE, list(overrides))[0].runtime, lambda: 77)

    assert sampler() == {"cache_implementation": "static"}
    served = sampler("runtime.device=cuda", "runtime.jobs=1", "runtime.vllm={mode: server, url: 'http://host:8000'}")
    assert served == {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://host:8000"}
    from trl import GRPOConfig

    fields = set(GRPOConfig.__dataclass_fields__)
    inside = sampler("runtime.device=cuda", "runtime.vllm={mode: colocate, tensor_parallel: 2}")
    assert set(served) | set(inside) <= fields, "names of TRL's own"
    assert inside["vllm_tensor_parallel_size"] == 2
    assert inside["vllm_max_model_length"] == 77, "not all positions that the model has"
    told = sampler("runtime.device=cuda", "runtime.vllm={mode: colocate, max_model_len: 512}")
    assert told["vllm_max_model_length"] == 512


def test_the_longest_prompt_of_a_grpo_training_is_that_of_the_chat_template() -> None:
    from pns.records import Problem
    from pns.training.grpo import _longest
    from pns.training.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    rows = [Problem(id=str(i), problem=text, answer="1") for i, text in enumerate(("How many?", "1 2 3 " * 9, "3?"))]
    told = [
        len(
            tokenizer.apply_chat_template([{"role": "user", "content": p.problem}], add_generation_prompt=True)[
                "input_ids"
            ]
        )
        for p in rows
    ]
    assert _longest(tokenizer, rows) == max(told) == told[1]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("runtime.vllm={mode: server}", "mode: server needs url"),
        ("runtime.vllm={mode: colocate, url: a}", "mode: server needs url"),
        ("runtime.vllm={}", "vllm needs device: cuda"),
    ],
)
def test_vllm_in_grpo_is_refused_where_it_cannot_be(override: str, words: str) -> None:
    device = "cpu" if "cuda" in words else "cuda"
    with pytest.raises(UserError, match=words):
        load_recipe(SMOKE, [f"runtime.device={device}", override])


SERVER = ("runtime.device=cuda", "runtime.vllm={mode: server, url: 'http://a'}")
BASE = "generator.base={path: b}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["runtime.jobs=2"], "generator and rlvr_more may train side by side"),
        (["runtime.jobs=2", "references=[]"], ""),
        (["runtime.jobs=2", "negatives.methods=[rejection]"], ""),
        (["runtime.jobs=1"], ""),
        (["runtime.jobs=1", BASE], "start a second one with that model and name it in generator_url"),
        (["runtime.jobs=1", BASE, "runtime.vllm.generator_url=http://b"], ""),
        (["runtime.jobs=1", BASE, "negatives.methods=[rejection]"], ""),
        (["runtime.jobs=1", "runtime.vllm.generator_url=http://b"], "says nothing without generator.base"),
        (["runtime.jobs=1", BASE, "runtime.vllm.generator_url=http://a"], "that of a second server"),
        (["runtime.jobs=1", "runtime.vllm={generator_url: 'http://b'}"], "that of a second server"),
    ],
)
def test_a_server_samples_for_one_training_at_a_time_and_for_one_model(overrides: list[str], words: str) -> None:
    if words:
        with pytest.raises(UserError, match=words):
            load_recipe(SMOKE, [*SERVER, *overrides])
    else:
        load_recipe(SMOKE, [*SERVER, *overrides])


def test_a_generator_of_the_policys_model_needs_no_second_server() -> None:
    file = ROOT / "recipes" / "paper" / "qwen2.5-7b.yaml"
    assert load_recipe(file, SERVER[1:])[0].generator.base is not None, "the same model in other weights"


def test_a_generator_of_another_base_samples_with_its_own_server() -> None:
    from pns.stages.policy import runtime_from

    given = load_recipe(SMOKE, [*SERVER, "runtime.jobs=1", BASE, "runtime.vllm.generator_url=http://b"])[0].runtime
    urls = [found.url for start in ("sft", "start-generator") if (found := runtime_from(given, start).vllm)]
    assert urls == ["http://a", "http://b"]


def test_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (world_size(), is_main()) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert (world_size(), is_main()) == (4, False)


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(24, 24, 1, (24, 1)), (24, 6, 1, (6, 4)), (24, 24, 2, (12, 1)), (24, 6, 2, (6, 2)), (24, 6, 8, (3, 1)),
     (512, 4, 8, (4, 16)), (512, 4, 64, (4, 2)), (64, 2, 64, (1, 1))],
)  # fmt: skip
def test_a_step_is_divided_among_processes_and_a_pass_is_one_process_s(
    batch: int, micro: int, processes: int, expected: tuple[int, int]
) -> None:
    assert divided(batch, micro, "sft", processes) == expected
    assert processes * expected[0] * expected[1] == batch


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "words"),
    [(6, 6, 4, "a batch of 6 rows cannot be divided among 4 processes \\(sft\\)"),
     (64, 4, 128, "a batch of 64 rows cannot be divided among 128 processes"),
     (24, 6, 3, "8 rows of each of 3 processes cannot be divided into passes of 6 \\(sft\\)")],
)  # fmt: skip
def test_a_division_that_does_not_come_out_even_is_refused(batch: int, micro: int, processes: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        divided(batch, micro, "sft", processes)
    assert caught.value.field == "runtime.processes"
    assert caught.value.remedy


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "paper").glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("processes", [1, 8, 16, 64])
def test_the_paper_recipes_train_in_so_many_processes(
    path: Path, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pns.training.common import arguments
    from pns.training.grpo import grpo_arguments

    monkeypatch.setenv("WORLD_SIZE", str(processes))
    recipe, _ = load_recipe(path, [f"runtime.processes={processes}"])
    check_launcher(recipe, Launcher("accelerate"))
    for part in (recipe.rlvr, recipe.generator):
        told = grpo_arguments(tmp_path, part, recipe.runtime, 0, lambda: 77)
        rows, passes = told["per_device_train_batch_size"], told["gradient_accumulation_steps"]
        assert processes * rows * passes == part.prompts_per_step * part.num_generations
        assert rows == part.micro_batch == 4, "what a GPU holds"
        # TRL draws rows x processes x steps_per_generation completions at once: whole groups, for one update.
        assert told["steps_per_generation"] == passes
        assert processes * rows * told["steps_per_generation"] % told["num_generations"] == 0
    for other in (recipe.reward_model, recipe.align):
        batch, micro = rows_of(other)
        told = arguments(tmp_path, recipe.runtime, name="x", batch=batch, micro=micro, seed=0, steps=1)
        rows, passes = told["per_device_train_batch_size"], told["gradient_accumulation_steps"]
        assert processes * rows * passes == batch == 64
        assert rows == min(micro, 64 // processes), "and what it need not hold where there are more of them"


def test_processes_that_cannot_divide_a_batch_are_refused_before_anything_starts() -> None:
    words = r"a batch of 64 rows cannot be divided among 128 processes \(reward_model\)"
    recipe, _ = load_recipe(ROOT / "recipes" / "paper" / "qwen2.5-7b.yaml", ["runtime.processes=128"])
    with pytest.raises(UserError, match=words):
        check_launcher(recipe, Launcher("accelerate"))
    three, _ = load_recipe(SMOKE, ["sft.batch_size=3", "sft.steps=1"])
    with pytest.raises(UserError, match=r"\(sft\)"):
        check_batches(three, 2)
    check_batches(three, 1)


def launched(monkeypatch: pytest.MonkeyPatch, *, local_rank: int | None, ray: str | None = None) -> None:
    for name, value in {"LOCAL_RANK": local_rank, "ACCELERATE_TORCH_DEVICE": ray}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(value))


def test_each_launched_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, local_rank=None)
    assert [own_device(d) for d in ("cpu", "cuda")] == [loading_device(d) for d in ("cpu", "cuda")] == ["cpu", "cuda"]
    launched(monkeypatch, local_rank=3)
    assert [own_device(d) for d in ("cpu", "cuda")] == ["cpu", "cuda:3"]
    assert [loading_device(d) for d in ("cpu", "cuda")] == ["cpu", "cpu"]
    launched(monkeypatch, local_rank=3, ray="cuda:0")
    assert own_device("cuda") == "cuda:0", "Ray Train may show a process its own GPU alone"


@pytest.mark.parametrize(("local_rank", "trained", "scoring"), [(None, "cuda", "cuda"), (5, "cpu", "cuda:5")])
def test_the_loaders_of_trainings_put_models_there(
    local_rank: int | None, trained: str, scoring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pns.records import Pair
    from pns.stages import align, context, engines, models, policy, uses
    from pns.training import preference

    launched(monkeypatch, local_rank=local_rank)
    found: dict[str, list[Any]] = {"load": [], "score": [], "engine": [], "reference": []}

    def load(path: Any, device: str = "cpu", dtype: str = "auto") -> str:
        found["load"].append(device)
        return f"model {len(found['load'])}"

    def score(path: Any, *, device: str = "cpu", passes: Any = None) -> Any:
        assert passes is None
        found["score"].append(device)
        return SimpleNamespace(score=None, mark=None, score_fitting=None)

    class Trainer:
        def __init__(self, **how: Any) -> None:
            found["reference"].append(how["ref_model"])

    class Engine:
        def __init__(self, path: Any, *, device: str, passes: Any) -> None:
            assert passes is None
            found["engine"].append(device)
            raise LookupError

    nothing = lambda *_, **__: None  # noqa: E731
    for module in (preference, policy, align):
        monkeypatch.setattr(module, "load_causal", load)
        monkeypatch.setattr(module, "load_tokenizer", nothing)
    for module, name in ((preference, "check_lengths"), (preference, "train"), (policy, "train_sft"), (align, "train_sft"),
                         (models, "grpo"), (uses, "grpo"), (policy, "end_ids"),
                         (models, "composite_reward"), (uses, "scored_reward")):  # fmt: skip
        monkeypatch.setattr(module, name, nothing)
    monkeypatch.setattr(context, "RewardModel", score)
    for module in (uses, context):
        monkeypatch.setattr(module, "Calibration", SimpleNamespace(load=lambda _: SimpleNamespace()))
    monkeypatch.setattr(engines, "TransformersEngine", Engine)
    built: list[Any] = []

    def build(part: Any, *_: Any, **__: Any) -> Any:
        built.append(part)
        return nullcontext()

    monkeypatch.setattr(context, "build_composite", build)
    monkeypatch.setitem(preference._BUILD, "dpo", lambda *_: (Trainer, None, [{"x": 1}]))
    pairs = [Pair(problem_id="a", method="x", prompt="1", chosen="2", rejected="3")]
    monkeypatch.setattr(align, "_pairs", lambda *_: pairs)

    recipe, _ = load_recipe(SMOKE, ["runtime.device=cuda", "sft.steps=1", "reward.calibrated=true"])
    inputs = dict.fromkeys(("start", "sft", "rlvr", "reward_model", "problems", "judge"), tmp_path)
    here = context.Context(recipe, "x", tmp_path, inputs, nothing)
    monkeypatch.setattr(context.Context, "problems", lambda *_: [])
    preference.train_preference(
        tmp_path, pairs, tmp_path, part=recipe.align, runtime=recipe.runtime, seed=0, progress=nothing
    )
    policy.sft(here)
    align.sft_chosen(here)
    assert found["load"] == [trained] * 4
    assert found["reference"] == ["model 2"]
    models.generator(here)
    uses.rl(here, "judge")
    with pytest.raises(TypeError):  # the scorer that is not there
        models.score(here, [], [])
    assert found["score"] == [scoring] * 3
    with pytest.raises(LookupError):
        align._after(here, pairs)
    assert found["engine"] == [scoring]
    named = "{kind: transformers, path: x, device: cuda, calibration: y}"
    other, _ = load_recipe(SMOKE, ["runtime.device=cuda", f"reward.reward_model={named}"])
    models.generator(context.Context(other, "x", tmp_path, inputs, nothing))
    assert built[-1].reward_model.device == scoring


def test_a_named_model_computes_where_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pns.stages import context

    lent: list[Any] = []
    monkeypatch.setattr(context, "build_composite", lambda *_, readers=None, **__: lent.append(readers))
    named = "{kind: transformers, path: x, device: cuda, calibration: y}"
    recipe, _ = load_recipe(SMOKE, ["runtime.device=cuda", f"reward.reward_model={named}"])
    for device in ("cpu", "cuda"):
        readers: Any = SimpleNamespace(device=device)
        context.Context(recipe, "x", tmp_path, {}, lambda *_: None, readers).composite()
    assert lent == [None, readers], "readers elsewhere are not for it"


class Zero3:
    """What transformers asks of a DeepSpeed configuration."""

    config: dict[str, Any] = {}  # noqa: RUF012

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def zero3() -> Any:
    """ZeRO-3 is on, as after a training under DeepSpeed."""
    from transformers.integrations import deepspeed

    told = Zero3()  # transformers keeps a weak reference
    deepspeed.set_hf_deepspeed_config(told)
    assert deepspeed.is_deepspeed_zero3_enabled()
    yield told
    deepspeed.unset_hf_deepspeed_config()


@pytest.mark.usefixtures("zero3")
@pytest.mark.parametrize("rank", [0, 1])
def test_behind_a_training_no_model_is_divided_among_processes_that_have_ended(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that had ended before, and one process of a group of one."""
    from torch import distributed
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from pns.processes import OtherProcess
    from pns.training import common

    monkeypatch.setenv("RANK", str(rank))
    (tmp_path / common.TRAINED).touch()
    (tmp_path / common.METRICS).write_text('{"loss": 1.0}\n')
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        if rank == 0:
            assert common.train(None, tmp_path, lambda *_: None) == [{"loss": 1.0}]
        else:
            with pytest.raises(OtherProcess):
                common.train(None, tmp_path, lambda *_: None)
        assert not distributed.is_initialized()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    assert not is_deepspeed_zero3_enabled()


@pytest.mark.usefixtures("zero3")
def test_adapters_are_merged_into_a_base_that_the_first_process_loads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from pns.training import common

    def load(adapter: Path, *, dtype: str) -> Any:
        return SimpleNamespace(merge_and_unload=is_deepspeed_zero3_enabled)

    peft = SimpleNamespace(AutoPeftModelForCausalLM=SimpleNamespace(from_pretrained=load))
    monkeypatch.setitem(sys.modules, "peft", peft)
    assert common._merged(None, tmp_path, whole=False) is False, "not divided"


def test_weights_are_trained_in_float32_on_a_gpu_and_as_they_are_on_a_cpu() -> None:
    from pns.training.common import train_dtype

    def dtype(*overrides: str) -> str:
        return train_dtype(load_recipe(SMOKE, list(overrides))[0].runtime)

    assert dtype() == "auto"
    assert dtype("runtime.device=cuda") == "float32"
    assert dtype("runtime.device=cuda", "runtime.train_dtype=bfloat16") == "bfloat16"
    half = marks("runtime.device=cuda", "runtime.train_dtype=bfloat16")
    assert half["sft"] != marks("runtime.device=cuda")["sft"]
