"""GRPO's own samplers: a copy of the weights draws what TRL draws with the weights themselves, and is as new as they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType

from helpers.small import save_small_model
from pns.errors import UserError
from pns.launch import Launcher, check_launcher
from pns.parts.engine import EnginePart, engine_marks
from pns.problems import embedded
from pns.recipe import GrpoPart, RuntimePart
from pns.recipe_files import load_recipe
from pns.run import digest_of
from pns.sampling.compiled import CompiledDecoder, padded
from pns.sampling.engine import TransformersEngine
from pns.sampling.jobs import Job
from pns.sampling.make import make_engine
from pns.stages import engines
from pns.stages.engines import scorer
from pns.training import sampler
from pns.training.grpo import _sampler, train_grpo

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
PROBLEMS = embedded.training_problems("pairs", 24, 0)
PART = GrpoPart(
    steps=3, prompts_per_step=2, num_generations=4, learning_rate=1e-2, beta=0.1, max_new_tokens=40, micro_batch=4
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own generation config would sample otherwise than the training says, and ends with any of several tokens."""
    folder = save_small_model(tmp_path_factory.mktemp("start"))
    config = json.loads((folder / "generation_config.json").read_text())
    own = {"do_sample": True, "top_k": 1, "top_p": 0.5, "eos_token_id": [config["eos_token_id"], *range(20, 32)]}
    (folder / "generation_config.json").write_text(json.dumps(config | own))
    return folder


def trained(start: Path, out: Path, runtime: RuntimePart) -> list[list[list[int]]]:
    seen: list[list[list[int]]] = []

    def short(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        seen.append(completion_ids)
        return [-float(len(ids)) - sum(ids) % 7 for ids in completion_ids]

    torch.set_num_threads(1)
    train_grpo(start, PROBLEMS, short, out, part=PART, runtime=runtime, seed=1, progress=lambda *_: None)
    return seen


def test_a_copy_draws_what_trl_draws_and_trains_the_same_model(start: Path, tmp_path: Path) -> None:
    theirs = trained(start, tmp_path / "trl", RuntimePart(sampler="trl"))
    ours = trained(start, tmp_path / "copy", RuntimePart(sampler="copy"))
    assert ours == theirs
    assert len({str(step) for step in theirs}) == PART.steps
    assert len({tuple(ids) for ids in theirs[0]}) > 2  # it is sampled, not the likeliest token
    assert len({len(ids) for step in theirs for ids in step}) > 2  # some end, others do not
    assert digest_of(tmp_path / "copy" / "model") == digest_of(tmp_path / "trl" / "model")


def test_the_copy_has_the_newest_weights_at_every_draw(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[torch.Tensor] = []
    newest = sampler.CopySampler._newest

    def watched(self: Any, trainer: Any) -> Any:
        model = newest(self, trainer)
        assert model is not trainer.model
        for own, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
            assert torch.equal(own, theirs)
        heads.append(next(model.parameters()).clone())
        return model

    monkeypatch.setattr(sampler.CopySampler, "_newest", watched)
    trained(start, tmp_path / "out", RuntimePart(sampler="copy"))
    assert len(heads) == PART.steps
    assert not torch.equal(heads[0], heads[-1])


def test_padding_to_one_length_and_one_cache_for_all_draws_change_no_sample(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `compiled` does beside compiling, which a CPU does not do."""
    theirs = trained(start, tmp_path / "trl", RuntimePart(sampler="trl"))
    made = sampler.CopySampler.__init__
    caches = watched_caches(monkeypatch)

    def compiled(self: Any, start: Path, *, prompt_tokens: int, compiled: bool) -> None:
        made(self, start, prompt_tokens=prompt_tokens + 5, compiled=True)

    monkeypatch.setattr(sampler.CopySampler, "__init__", compiled)
    ours = trained(start, tmp_path / "one", RuntimePart(sampler="copy"))
    assert ours[0] == theirs[0]  # later steps may differ in the last bit of a sum
    assert len(caches) == PART.steps
    assert len({id(cache) for cache in caches}) == 1


def watched_caches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `CompiledDecoder` decodes with, call by call."""
    caches: list[Any] = []
    emptied = CompiledDecoder._emptied

    def watched(self: Any, shape: tuple[int, int]) -> Any:
        caches.append(emptied(self, shape))
        return caches[-1]

    monkeypatch.setattr(CompiledDecoder, "_emptied", watched)
    return caches


def test_a_compiled_engine_draws_what_the_plain_one_does(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = watched_caches(monkeypatch)
    plain, compiled = TransformersEngine(start), TransformersEngine(start, compiled=True)
    asked = [p.problem for p in PROBLEMS]
    jobs = [
        Job(asked[:4], n=3, temperature=1.0, top_p=0.9, max_new_tokens=9, seed=1),
        Job(asked[4:8], n=3, temperature=1.0, top_p=0.9, max_new_tokens=9, seed=2),
        Job(asked[8:9], n=1, temperature=0.0, top_p=1.0, max_new_tokens=9, seed=3),
        Job(asked[4:8], n=3, temperature=1.0, top_p=0.9, max_new_tokens=9, seed=2),
    ]
    ours = [compiled.generate(job) for job in jobs]
    assert ours == [plain.generate(job) for job in jobs]
    assert ours[0] != ours[1] == ours[3]
    assert len({completion.text for row in ours[0] for completion in row}) > 2
    assert caches[0] is caches[1]  # one shape, one cache
    assert len({id(cache) for cache in caches}) == 3


@pytest.mark.parametrize(("longest", "whole"), [(1, 64), (64, 64), (65, 128)])
def test_prompts_are_padded_to_whole_pages(longest: int, whole: int) -> None:
    assert padded(longest) == whole


@pytest.mark.parametrize(
    ("row", "end", "kept"),
    [
        ([5, 6, 2, 0, 0], 2, [5, 6, 2]),
        ([5, 6, 7], 2, [5, 6, 7]),
        ([2, 2, 2], [2], [2]),
        ([5, 3, 2, 0], [2, 3], [5, 3]),
        ([5, 0, 0, 0], [0], [5, 0]),
        ([], 2, []),
    ],
)
def test_a_completion_ends_with_its_first_end_token(row: list[int], end: Any, kept: list[int]) -> None:
    assert sampler._to_end(row, end) == kept


def fake(kind: DistributedType, zero: int = 3) -> Any:
    plugin = SimpleNamespace(zero_stage=zero)
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(accelerator=SimpleNamespace(distributed_type=kind, state=state), rollout_func=None)


@pytest.mark.parametrize(
    ("kind", "zero", "device", "how"),
    [
        (DistributedType.NO, 0, "cpu", None),
        (DistributedType.NO, 0, "cuda", False),
        (DistributedType.MULTI_GPU, 0, "cuda", False),
        (DistributedType.FSDP, 0, "cuda", None),
        (DistributedType.DEEPSPEED, 1, "cuda", False),
        (DistributedType.DEEPSPEED, 2, "cuda", False),
        (DistributedType.DEEPSPEED, 3, "cuda", None),
    ],
)
def test_by_itself_a_copy_is_made_on_gpus_that_hold_a_whole_model(
    kind: DistributedType, zero: int, device: Any, how: bool | None
) -> None:
    trainer = fake(kind, zero)
    sampler.set_sampler(trainer, RuntimePart(device=device), Path("start"), lambda: 9)
    made = trainer.rollout_func
    assert (None if made is None else made.compiled) is how


def test_a_copy_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"runtime\.sampler: copy needs a whole model in each process"):
        sampler.set_sampler(
            fake(DistributedType.FSDP), RuntimePart(device="cuda", sampler="copy"), Path("start"), lambda: 9
        )
    with pytest.raises(UserError, match="FSDP or ZeRO-3 divides it"):
        sampler.set_sampler(
            fake(DistributedType.DEEPSPEED), RuntimePart(device="cuda", sampler="copy"), Path("s"), lambda: 9
        )
    whole = fake(DistributedType.DEEPSPEED, zero=2)
    sampler.set_sampler(whole, RuntimePart(device="cuda", sampler="copy"), Path("start"), lambda: 9)
    assert whole.rollout_func is not None
    trainer = fake(DistributedType.FSDP)
    sampler.set_sampler(trainer, RuntimePart(device="cuda", sampler="trl"), Path("start"), lambda: 9)
    assert trainer.rollout_func is None


@pytest.mark.parametrize(("name", "refused"), [("fsdp2", True), ("zero3", True), ("zero2", False), ("one_gpu", False)])
def test_a_copy_is_refused_before_anything_is_trained(name: str, refused: bool) -> None:
    processes = 1 if name == "one_gpu" else 8
    settings = ["runtime.device=cuda", "runtime.sampler=copy", f"runtime.processes={processes}"]
    recipe, _ = load_recipe(SMOKE.with_name("paper") / "qwen2.5-7b.yaml", [*settings, "runtime.vllm=null"])
    launcher = Launcher("accelerate", SMOKE.parent / "accelerate" / f"{name}.yaml")
    if refused:
        with pytest.raises(UserError, match="copy needs a whole model in each process"):
            check_launcher(recipe, launcher)
    else:
        check_launcher(recipe, launcher)


def test_what_samples_and_scores_with_one_model_decodes_as_the_recipe_says(start: Path) -> None:
    """Rollouts and the generator's samples: one model in memory for both."""
    for overrides, compiled in (([], False), (["runtime.device=cuda", "engine.compiled=true"], True)):
        recipe, _ = load_recipe(SMOKE, overrides)
        context: Any = SimpleNamespace(recipe=recipe, model=lambda stage: start, readers=None)
        own = scorer(context, "rlvr")
        with engines.sampler(context, "rlvr", own) as engine:
            assert engine is own
        assert own.compiled is compiled
        assert own.deterministic is not compiled


def test_a_cache_that_the_model_names_is_no_second_one(start: Path) -> None:
    plain, compiled = TransformersEngine(start), TransformersEngine(start, compiled=True)
    compiled.model.generation_config.cache_implementation = "static"
    job = Job([PROBLEMS[0].problem], n=2, temperature=1.0, top_p=1.0, max_new_tokens=6, seed=1)
    assert compiled.generate(job) == plain.generate(job)


def test_the_recipe_refuses_samplers_that_say_nothing() -> None:
    with pytest.raises(ValueError, match="needs device: cuda"):
        RuntimePart(sampler="compiled")
    with pytest.raises(ValueError, match="leave one of the two out"):
        RuntimePart.model_validate({"device": "cuda", "vllm": {}, "sampler": "copy"})
    assert RuntimePart(device="cuda", sampler="compiled").sampler == "compiled"


def test_the_recipe_refuses_a_compiled_engine_where_nothing_compiles() -> None:
    with pytest.raises(UserError, match=r"engine\.compiled needs runtime\.device: cuda"):
        load_recipe(SMOKE, ["engine.compiled=true"])
    with pytest.raises(UserError, match="without continuous_batching"):
        load_recipe(SMOKE, ["engine.compiled=true", "engine.continuous_batching=true", "runtime.device=cuda"])
    recipe, _ = load_recipe(SMOKE, ["engine.compiled=true", "runtime.device=cuda"])
    engine = make_engine("nowhere", recipe.engine, device="cuda", loaded=(None, SimpleNamespace()))
    assert isinstance(engine, TransformersEngine)
    assert engine.compiled
    assert engine_marks(recipe.engine.model_dump(mode="json")) == {"compiled": True}
    assert engine_marks(EnginePart().model_dump(mode="json")) is None


def test_a_gpu_gets_no_static_cache_of_trl(tmp_path: Path) -> None:
    """It has the dtype of the weights, float32, and is given bfloat16: seen on an H100."""
    for device, cache in (("cpu", "static"), ("cuda", None)):
        told = _sampler(RuntimePart(device=device), lambda: 9)
        assert told.get("cache_implementation") == cache
