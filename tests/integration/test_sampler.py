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
from pns.parts.engine import EnginePart, engine_marks
from pns.problems import embedded
from pns.recipe import GrpoPart, RuntimePart
from pns.recipe_files import load_recipe
from pns.run import digest_of
from pns.sampling.compiled import CompiledDecoder, padded
from pns.sampling.engine import TransformersEngine
from pns.sampling.jobs import Job
from pns.sampling.make import make_engine
from pns.training import sampler
from pns.training.grpo import _sampler, train_grpo

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
PROBLEMS = embedded.training_problems("pairs", 24, 0)
PART = GrpoPart(
    steps=3, prompts_per_step=2, num_generations=4, learning_rate=1e-2, beta=0.1, max_new_tokens=8, micro_batch=4
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose own generation config would sample otherwise than the training says."""
    folder = save_small_model(tmp_path_factory.mktemp("start"))
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"do_sample": True, "top_k": 1, "top_p": 0.5}))
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


def fake(kind: DistributedType) -> Any:
    return SimpleNamespace(accelerator=SimpleNamespace(distributed_type=kind), rollout_func=None)


@pytest.mark.parametrize(
    ("kind", "device", "how"),
    [
        (DistributedType.NO, "cpu", None),
        (DistributedType.NO, "cuda", False),
        (DistributedType.MULTI_GPU, "cuda", False),
        (DistributedType.FSDP, "cuda", None),
        (DistributedType.DEEPSPEED, "cuda", None),
    ],
)
def test_by_itself_a_copy_is_made_on_gpus_that_hold_a_whole_model(
    kind: DistributedType, device: Any, how: bool | None
) -> None:
    trainer = fake(kind)
    sampler.set_sampler(trainer, RuntimePart(device=device), Path("start"), 9)
    made = trainer.rollout_func
    assert (None if made is None else made.compiled) is how


def test_a_copy_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"runtime\.sampler: copy needs a whole model in each process"):
        sampler.set_sampler(fake(DistributedType.FSDP), RuntimePart(device="cuda", sampler="copy"), Path("start"), 9)
    trainer = fake(DistributedType.FSDP)
    sampler.set_sampler(trainer, RuntimePart(device="cuda", sampler="trl"), Path("start"), 9)
    assert trainer.rollout_func is None


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
