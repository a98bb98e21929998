"""What the vLLM engine asks of vLLM, held against the sources of vLLM 0.31.0 (read in its wheel); nothing of vLLM runs.

That is the newest release in the range of the extra `vllm`, and the one of docker/constraints-cuda.txt.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pns.errors import StageStopped, UserError
from pns.parts.engine import VLLM_ARGS, EnginePart, EngineServerPart, VllmPart
from pns.run import seed_of
from pns.sampling import vllm as ours
from pns.sampling.jobs import Job, ahead
from pns.sampling.prompts import end_ids
from pns.sampling.ray import _gpus as gpus_of_actor

# The keywords of `vllm.LLM`: those that it names, and fields of EngineArgs that it passes on.
LLM_KEYS = {
    "model", "runner", "convert", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code",
    "tensor_parallel_size", "dtype", "quantization", "revision", "tokenizer_revision", "chat_template", "seed",
    "gpu_memory_utilization", "cpu_offload_gb", "enforce_eager", "hf_overrides", "kv_cache_memory_bytes",
    "max_model_len", "enable_prefix_caching", "enable_lora", "max_lora_rank", "max_loras", "max_num_seqs",
}  # fmt: skip
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class VLLMValidationError(Exception):
    """What vLLM 0.31 raises for a request; no ValueError."""


def check(holds: bool, message: str) -> None:
    if not holds:
        raise VLLMValidationError(message)


@dataclass
class SamplingParams:
    """The fields of vLLM's that matter here, with its defaults and its checks."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    detokenize: bool = True
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        check(1 <= self.n <= 16384, "n")
        check(0 <= self.temperature <= 2, f"temperature must be in [0, 2], got {self.temperature}.")
        check(0 < self.top_p <= 1, "top_p")
        check(self.top_k >= -1, "top_k")
        check(self.max_tokens is None or self.max_tokens >= 1, "max_tokens")
        check(self.temperature > 0 or self.n == 1, "n must be 1 when using greedy sampling")
        assert self.seed is None or -1 < self.seed < 2**63, "-1 would be no seed; torch takes 64 bits"
        assert self.stop_token_ids is None or isinstance(self.stop_token_ids, list)


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1
        assert self.lora_path


@dataclass
class Fake:
    """A module `vllm`; `write` gives the token ids and the end of output k of a prompt."""

    write: Callable[[list[int], int], tuple[list[int], str]] = lambda ids, k: ([5, 6, 2], "stop")
    made: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[list[Any], list[SamplingParams], Any]] = field(default_factory=list)
    fails: Exception | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Fake:
        fake = self

        class LLM:
            def __init__(self, model: str, **kwargs: Any) -> None:
                assert set(kwargs) <= LLM_KEYS
                assert kwargs.get("max_lora_rank", 16) in RANKS
                if fake.fails is not None:
                    raise fake.fails
                fake.made.append({"model": model, **kwargs})

            def generate(
                self, prompts: Sequence[Any], sampling_params: Sequence[SamplingParams] | None = None, *,
                use_tqdm: bool = True, lora_request: Any = None, priority: Any = None,
                tokenization_kwargs: Any = None, mm_processor_kwargs: Any = None,
            ) -> list[Any]:  # fmt: skip
                assert sampling_params is not None
                assert len(sampling_params) == len(prompts)
                if any(len(p["prompt_token_ids"]) > 40 for p in prompts):
                    raise VLLMValidationError("The decoder prompt is longer than the maximum model length")
                fake.calls.append((list(prompts), list(sampling_params), lora_request))
                return [
                    SimpleNamespace(outputs=[
                        SimpleNamespace(index=k, text="", token_ids=tuple(ids), finish_reason=end)
                        for k in range(params.n) for ids, end in [fake.write(prompt["prompt_token_ids"], k)]
                    ])
                    for prompt, params in zip(prompts, sampling_params, strict=True)
                ]  # fmt: skip

        names: dict[str, dict[str, Any]] = {
            "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
            "vllm.exceptions": {"VLLMValidationError": VLLMValidationError},
            "vllm.lora": {},
            "vllm.lora.request": {"LoRARequest": LoRARequest},
        }
        for name, there in names.items():
            module = ModuleType(name)
            vars(module).update(there)
            monkeypatch.setitem(sys.modules, name, module)
        return self


class Tokenizer:
    """One token a letter; `<end>` is 2, padding 0."""

    eos_token_id, pad_token_id, chat_template = 2, 0, "x"

    def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
        assert how == {"add_generation_prompt": True, "tokenize": False}
        return f"U{messages[0]['content']}A"

    def __call__(self, texts: list[str], *, add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[ord(c) for c in text] for text in texts]}

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return "".join(f"<{i}>" for i in ids)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(ours, "load_tokenizer", lambda path: Tokenizer())
    monkeypatch.setattr(ours, "model_end_ids", lambda model, tokenizer: end_ids(tokenizer, [2, 3]))
    return Fake().install(monkeypatch)


HOW: dict[str, Any] = {"n": 2, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12, "seed": 4}


def test_prompts_are_token_ids_and_every_problem_has_its_seed(fake: Fake, tmp_path: Path) -> None:
    engine = ours.VllmEngine(tmp_path / "model", VllmPart(tensor_parallel=2, max_model_len=99, prefix_caching=False))
    assert fake.made == [
        {
            "model": str(tmp_path / "model"), "tokenizer": str(tmp_path / "model"), "tensor_parallel_size": 2,
            "gpu_memory_utilization": 0.9, "max_model_len": 99, "enable_prefix_caching": False, "seed": 0,
        }
    ]  # fmt: skip
    fake.write = lambda ids, k: ([ids[1], k + 10, *([3, 9] if k else [])], "stop" if k else "length")
    found = engine.generate(Job(["p", "q"], prefixes=["x", "yz"], **HOW))
    assert found == [[(f"<{ord(c)}><10>", 2, "length"), (f"<{ord(c)}><11>", 3, "stop")] for c in "pq"]
    ((prompts, params, lora),) = fake.calls
    assert prompts == [{"prompt_token_ids": [ord(c) for c in text]} for text in ("UpAx", "UqAyz")]
    assert [p.seed for p in params] == [seed_of(4, "problem/0"), seed_of(4, "problem/1")]
    assert {(p.n, p.temperature, p.top_p, p.top_k, p.max_tokens, p.detokenize) for p in params} == {
        (2, 0.7, 0.9, 0, 12, False)
    }
    assert params[0].stop_token_ids == [2, 3]
    assert lora is None
    engine.generate(Job(["p"], **{**HOW, "n": 1, "temperature": 0.0}))
    assert engine.generate(Job([], **HOW)) == []
    engine.close()


def test_several_jobs_are_one_call_and_what_is_asked_is_the_same(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "MOST_TOGETHER", 9)
    fake.write = lambda ids, k: ([ids[1], k + 10, 2], "stop")
    engine = ours.VllmEngine(tmp_path, VllmPart())
    jobs = [Job([f"{c}x", f"{c}y"], **{**HOW, "seed": i}) for i, c in enumerate("abcdefghijk")]
    found = list(engine.generate_all(jobs))
    assert [len(prompts) for prompts, _, _ in fake.calls] == [4, 4, 4, 4, 4, 2]
    together = [
        (prompt, params) for prompts, many, _ in fake.calls for prompt, params in zip(prompts, many, strict=True)
    ]
    fake.calls.clear()
    assert found == [(i, engine.generate(job)) for i, job in enumerate(jobs)]
    alone = [(prompt, params) for prompts, many, _ in fake.calls for prompt, params in zip(prompts, many, strict=True)]
    assert together == alone, "the same prompts with the same seeds"
    fake.calls.clear()
    assert [i for i, _ in engine.generate_all(jobs[:4])] == [0, 1, 2, 3]
    assert len(fake.calls) == 4, "few are not one call, or scoring would wait for all of them"
    fake.calls.clear()
    large = [Job(["p"] * 8, **HOW)] * 5
    assert len(list(engine.generate_all(large))) == len(fake.calls) == 5
    assert list(engine.generate_all([])) == []


def test_the_next_call_goes_on_while_the_jobs_of_one_are_scored(fake: Fake, tmp_path: Path) -> None:
    second = threading.Event()

    def write(ids: list[int], k: int) -> tuple[list[int], str]:
        if ids[1] == ord("b"):
            second.set()
        return [5, 2], "stop"

    fake.write = write
    jobs = [Job([c], **HOW) for c in "aaaaaaaabbbbbbbb"]  # four calls of four
    found = ahead(ours.VllmEngine(tmp_path, VllmPart()).generate_all(jobs))
    assert [next(found)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert second.wait(20), "the third call waits for the jobs of the second"
    assert [i for i, _ in found] == list(range(5, 16))


def test_a_request_that_was_given_up_is_no_completion(fake: Fake, tmp_path: Path) -> None:
    engine = ours.VllmEngine(tmp_path, VllmPart())
    fake.write = lambda ids, k: ([5], "abort")
    with pytest.raises(StageStopped, match="abort"):
        engine.generate(Job(["p"], **HOW))


def test_a_prompt_that_is_too_long_is_told(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vLLM refuses a prompt.*longer than the maximum model length") as caught:
        ours.VllmEngine(tmp_path, VllmPart()).generate(Job(["p" * 50], **HOW))
    assert "max_model_len" in str(caught.value.remedy)


def test_a_temperature_that_vllm_does_not_take_is_told(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.vllm: vLLM refuses .*temperature must be in \[0, 2\], got 2\.5"):
        ours.VllmEngine(tmp_path, VllmPart()).generate(Job(["p"], **{**HOW, "temperature": 2.5}))


def stage(folder: Path, config: str) -> Path:
    """What a stage with align.lora publishes; the model directory."""
    for name in ("model", "adapter", "base"):
        (folder / name).mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "adapter" / "adapter_config.json").write_text(config)
    return folder / "model"


@pytest.mark.parametrize(("rank", "most"), [(1, 1), (9, 16), (32, 32), (300, 320)])
def test_an_adapter_goes_with_every_request_and_its_base_is_loaded(
    fake: Fake, tmp_path: Path, rank: int, most: int
) -> None:
    base = str(tmp_path / "base")
    model = stage(tmp_path, json.dumps({"base_model_name_or_path": base, "r": rank}))
    engine = ours.VllmEngine(model, VllmPart(lora=True))
    assert (fake.made[0]["model"], fake.made[0]["tokenizer"]) == (base, str(model))
    assert (fake.made[0]["enable_lora"], fake.made[0]["max_lora_rank"]) == (True, most)
    engine.generate(Job(["p"], **HOW))
    assert fake.calls[0][2] == LoRARequest("model", 1, str(tmp_path / "adapter"))


def test_without_the_key_or_an_adapter_the_model_itself_is_loaded(fake: Fake, tmp_path: Path) -> None:
    model = stage(tmp_path, "{")
    ours.VllmEngine(model, VllmPart())
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    (tmp_path / "adapter").rmdir()
    ours.VllmEngine(model, VllmPart(lora=True))
    assert [("enable_lora" in made, made["model"]) for made in fake.made] == [(False, str(model))] * 2


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"r": 4}', '{"base_model_name_or_path": "b", "r": 9999}',
        '{"base_model_name_or_path": "moved/base", "r": 4}',
    ],
)  # fmt: skip
def test_a_broken_adapter_is_told(fake: Fake, tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        ours.VllmEngine(stage(tmp_path, text), VllmPart(lora=True))
    assert not fake.made


def test_batch_invariance_is_a_promise_of_the_same_samples(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    assert not ours.VllmEngine(tmp_path, VllmPart()).deterministic
    assert ours.os.environ["VLLM_BATCH_INVARIANT"] == "0"
    assert ours.VllmEngine(tmp_path, VllmPart(batch_invariant=True)).deterministic
    assert ours.os.environ["VLLM_BATCH_INVARIANT"] == "1"


def test_what_vllm_says_when_it_cannot_load_is_told(fake: Fake, tmp_path: Path) -> None:
    fake.fails = ValueError("No available memory for the cache blocks")
    with pytest.raises(UserError, match="No available memory"):
        ours.VllmEngine(tmp_path, VllmPart())


@pytest.mark.parametrize(
    ("kind", "device", "split", "gpus"),
    [
        ("vllm", "cuda", None, 1),
        ("vllm", "cuda", 4, 4),
        ("transformers", "cuda", None, 1),
        ("transformers", "cpu", None, 0),
    ],
)
def test_a_ray_actor_has_as_many_gpus_as_its_model_is_split_over(
    kind: Any, device: str, split: int | None, gpus: int
) -> None:
    part = EnginePart(kind=kind, ray_workers=2, vllm=None if split is None else VllmPart(tensor_parallel=split))
    assert gpus_of_actor(part, device) == gpus


def test_a_ray_actor_of_a_server_has_no_gpu() -> None:
    served = EngineServerPart(urls=("http://localhost:8000/v1",))
    assert gpus_of_actor(EnginePart(kind="server", ray_workers=2, server=served), "cuda") == 0


def test_without_vllm_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"engine\.kind: vLLM cannot be imported") as caught:
        ours.VllmEngine(tmp_path, VllmPart())
    assert "pip install vllm" in str(caught.value.remedy)


def test_further_arguments_reach_vllm(fake: Fake, tmp_path: Path) -> None:
    ours.VllmEngine(tmp_path, VllmPart(args={"max_num_seqs": 512, "enforce_eager": True}))
    assert (fake.made[0]["max_num_seqs"], fake.made[0]["enforce_eager"]) == (512, True)
    ours.VllmEngine(tmp_path, VllmPart())
    assert "max_num_seqs" not in fake.made[1]
    fake.fails = TypeError("EngineArgs.__init__() got an unexpected keyword argument 'max_seqs'")
    with pytest.raises(UserError, match=r"unexpected keyword argument 'max_seqs'.*\n.*other args"):
        ours.VllmEngine(tmp_path, VllmPart(args={"max_num_seqs": 512}))


@pytest.mark.parametrize("name", ["model", "max_model_len", "data_parallel_size"])
def test_arguments_that_other_keys_say_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is said by another key"):
        VllmPart(args={name: 1})


def test_every_argument_that_the_engine_gives_is_refused_as_a_further_one(fake: Fake, tmp_path: Path) -> None:
    ours.VllmEngine(tmp_path, VllmPart())
    assert set(fake.made[0]) <= VLLM_ARGS
