"""The cost model against values counted by hand, and what must never happen: more devices, more memory on each."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from pns.errors import UserError
from pns.plan import cost
from pns.plan.cost import Spread
from pns.plan.machine import CPU, H100
from pns.plan.shapes import KNOWN, Shape, from_config
from pns.plan.words import amount, duration, size

QWEN, LLAMA, QWEN3 = (
    KNOWN[n] for n in ("Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-4B")
)
TINY = Shape(hidden=4, layers=2, heads=2, kv_heads=1, head_dim=2, feed_forward=8, vocab=10, positions=16)


def test_parameters_of_known_models_are_those_that_are_published() -> None:
    assert QWEN.parameters() == 7_615_616_512
    assert LLAMA.parameters() == 8_030_261_248
    assert QWEN3.parameters() == 4_022_468_096
    assert KNOWN["Qwen/Qwen2.5-1.5B-Instruct"].parameters() == 1_543_714_304
    assert KNOWN["Qwen/Qwen2.5-0.5B-Instruct"].parameters() == 494_032_768
    assert QWEN.parameters(head=False) == 7_615_616_512 - 152_064 * 3584 + 3584


def test_a_tiny_model_is_counted_by_hand() -> None:
    # q 4x4, k and v 4x2, o 4x4, three of 4x8: 16 + 16 + 16 + 96 = 144 a layer; norms 8 a layer and 4; 40 twice for 10 tokens.
    assert TINY.layer() == 144
    assert TINY.parameters() == 2 * (144 + 8) + 4 + 40 + 40
    assert replace(TINY, tied=True).parameters() == TINY.parameters() - 40
    assert replace(TINY, qkv_bias=True).parameters() == TINY.parameters() + 2 * 8
    assert replace(TINY, qk_norm=True).parameters() == TINY.parameters() + 2 * 4
    assert TINY.active() == 2 * 144 + 40
    # Three tokens: 2 operations a weight, and attention over half of the three: 2 layers x 4 wide x 2 x 3 a token.
    assert TINY.forward_flops(3) == 3 * (2 * 328 + 2 * 2 * 4 * 3)
    assert TINY.train_flops(3) == 3 * TINY.forward_flops(3)
    assert TINY.train_flops(3, again=True) == 4 * TINY.forward_flops(3)
    assert TINY.decode_flops(5) == 2 * 328 + 4 * 2 * 4 * 5
    assert TINY.kv_bytes(2) == 2 * 2 * 1 * 2 * 2
    assert TINY.lora_parameters(3, ("q_proj",)) == 2 * 3 * (4 + 4)
    assert TINY.lora_parameters(1, "all-linear") == 2 * (8 + 6 + 6 + 8 + 12 + 12 + 12)


def test_keys_and_values_of_known_models() -> None:
    assert QWEN.kv_bytes(2) == 57_344  # 2 x 28 layers x 4 heads x 128 x 2 bytes
    assert LLAMA.kv_bytes(2) == 131_072


def test_a_shape_is_read_from_a_configuration() -> None:
    config: dict[str, Any] = {
        "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 32768,
    }  # fmt: skip
    assert from_config(config) == QWEN
    for key, words in (("hidden_size", "hidden_size"), ("vocab_size", "vocab_size")):
        with pytest.raises(UserError, match=words) as caught:
            from_config({k: v for k, v in config.items() if k != key}, "x/config.json")
        assert caught.value.file == "x/config.json"
    for bad in (0, -1, 10**10, 10**400, float("inf"), float("nan"), None, [28], "many"):
        for key in ("num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size"):
            with pytest.raises(UserError, match="no size of a dense decoder"):
                from_config({**config, key: bad})
    with pytest.raises(UserError, match="head_dim"):
        from_config({**config, "num_attention_heads": 4000})
    with pytest.raises(UserError, match="num_key_value_heads"):
        from_config({**config, "num_key_value_heads": -4})
    with pytest.raises(UserError, match="no size of a dense decoder"):
        from_config({**config, "max_position_embeddings": float("inf")})
    assert from_config({**config, "head_dim": None, "num_key_value_heads": 0}).kv_heads == 28
    with pytest.raises(UserError, match="mixture of experts"):
        from_config({**config, "num_experts": 8})


def test_a_decoding_step_is_bound_by_memory_or_by_work() -> None:
    machine = H100
    bandwidth = machine.bandwidth_gbs * 1e9 * machine.decode_bandwidth_share
    one = cost.decode_step(QWEN, machine, 1, 1000, layer_seconds=0)
    assert one == pytest.approx((2 * QWEN.active() + 1000 * 57_344) / bandwidth)
    assert cost.decode_step(QWEN, machine, 1, 1000, layer_seconds=0.001) == pytest.approx(one + 28 * 0.001)
    slow = machine.model_copy(update={"matmul_tflops": 0.001})
    assert cost.decode_step(QWEN, slow, 4, 10, layer_seconds=0) == pytest.approx(
        4 * QWEN.decode_flops(10) / (1e9 * slow.decode_share)
    )


def test_static_batches_decode_until_their_longest_ends_and_continuous_ones_do_not() -> None:
    how: dict[str, Any] = {"rows": 512, "batch": 256, "prompt": 100, "mean": 500, "longest": 2000}
    static = cost.sample_seconds(QWEN, H100, Spread(), **how)
    read = cost.read_seconds(QWEN, H100, Spread(), rows=512, length=100, batch=256)
    assert static == pytest.approx(
        read + 2 * 2000 * cost.decode_step(QWEN, H100, 256, 2100, layer_seconds=H100.token_seconds)
    )
    alone = cost.sample_seconds(QWEN, H100, Spread(), **{**how, "rows": 300})
    assert alone < static, "the last batch is a small one"
    assert cost.sample_seconds(QWEN, H100, Spread(continuous=True), **how, room=56e9) < static / 3
    each = H100.token_seconds - H100.compiled_seconds
    compiled = cost.sample_seconds(QWEN, H100, Spread(compiled=True), **how)
    assert static - compiled == pytest.approx(2 * 2000 * QWEN.layers * each)


def test_the_cache_has_room_for_so_many_rows() -> None:
    assert cost.cache_rows(QWEN, H100, 1000, 10.5 * 57_344_000) == 10
    assert cost.cache_rows(QWEN, H100, 1000, -1e9) == 1
    assert cost.cache_rows(QWEN, H100, 10, 72e9) == cost.AT_ONCE


@pytest.mark.parametrize(
    ("rows", "accumulation", "gpus", "unit", "each"),
    [(64, 1, 1, 1, 64), (64, 16, 1, 1, 4), (64, 16, 8, 1, 4), (64, 16, 64, 1, 1), (64, 16, 512, 1, 1),
     (128, 32, 1, 2, 4), (128, 32, 64, 2, 2)],
)  # fmt: skip
def test_a_step_is_divided_among_passes_and_devices(
    rows: int, accumulation: int, gpus: int, unit: int, each: int
) -> None:
    assert cost.rows_a_pass(rows, accumulation, gpus, unit) == each


def test_a_step_takes_its_operations_at_the_rate_of_the_machine() -> None:
    machine = H100.model_copy(update={"pass_seconds": 0.0, "step_seconds": 0.0})
    how: dict[str, Any] = {"rows": 64, "accumulation": 16, "length": 1000}
    one = cost.step_seconds(QWEN, machine, Spread(), **how)
    assert one == pytest.approx(64 * QWEN.train_flops(1000) / (machine.matmul_tflops * 1e12 * machine.train_share))
    assert cost.step_seconds(QWEN, machine, Spread(8), **how) == pytest.approx(one / 8)
    # 64 rows find no work for more than 64 devices, and gradients still go between the nodes.
    assert cost.step_seconds(QWEN, machine, Spread(512), **how) > cost.step_seconds(QWEN, machine, Spread(64), **how)
    assert cost.step_seconds(QWEN, machine, Spread(), **how, again=True) == pytest.approx(one * 4 / 3)


def test_a_trained_parameter_takes_sixteen_bytes_and_adapters_spare_them() -> None:
    assert cost.state_bytes(QWEN, Spread(), width=2) == 16 * 7_615_616_512
    assert cost.state_bytes(QWEN, Spread(8), width=2) == 2 * 7_615_616_512
    assert cost.state_bytes(QWEN, Spread(64), width=2) == 2 * 7_615_616_512, "nodes repeat it"
    assert cost.state_bytes(QWEN, Spread(), width=2, trained=10) == 2 * 7_615_616_512 + 160
    assert cost.checkpoint_bytes(QWEN) == 3 * 12 * 7_615_616_512
    assert cost.state_bytes(QWEN, Spread(), width=2, stored=2) == 8 * 7_615_616_512
    assert cost.checkpoint_bytes(QWEN, stored=2) == 3 * 6 * 7_615_616_512


@pytest.mark.parametrize("shape", [QWEN, LLAMA, QWEN3, TINY])
@pytest.mark.parametrize("machine", [H100, CPU])
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("trained", [None, 100])
def test_more_devices_never_take_more_memory_each(
    shape: Shape, machine: Any, continuous: bool, trained: int | None
) -> None:
    found = []
    for gpus in (1, 2, 3, 7, 8, 9, 16, 64, 512):
        spread = Spread(gpus, continuous=continuous)
        train = cost.train_bytes(
            shape, machine, spread, rows=512, accumulation=64, length=2000, reference=True, trained=trained
        )
        beside = cost.state_bytes(shape, spread, width=machine.width, trained=trained)
        sample = cost.sample_bytes(shape, machine, spread, rows=512, batch=512, context=2000, beside=beside)
        found.append((train, sample))
    for before, after in itertools.pairwise(found):
        assert after[0] <= before[0]
        assert after[1] <= before[1]


def test_memory_of_a_training_by_hand() -> None:
    got = cost.train_bytes(TINY, CPU, Spread(1, 1), rows=2, accumulation=1, length=3, reference=True)
    weights = TINY.parameters()
    activations = 4 * 2 * (4 * 4 + 2 * 4 + 2 * 2 + 4 * 8)
    assert got == 16 * weights + 4 * weights + 6 * (activations + 10 * 12)


def test_memory_of_sampling_and_reading_by_hand() -> None:
    how: dict[str, Any] = {"rows": 6, "batch": 3, "context": 5.0, "beside": 100.0}
    row, weights = 5 * TINY.kv_bytes(4) + 8 * TINY.vocab, 4 * TINY.parameters()
    assert cost.sample_bytes(TINY, CPU, Spread(1, 1), **how) == 100 + weights + 3 * row
    assert cost.sample_bytes(TINY, CPU, Spread(1, 1), **how, shared=True) == 100 + 3 * row
    assert cost.sample_bytes(TINY, CPU, Spread(1, 1, continuous=True), **how, share=7.0) == 107
    layer = 4 * (2 * 4 + 3 * 8)
    assert cost.read_bytes(TINY, CPU, rows=2, longest=5, head=False) == 2 * 5 * layer
    assert cost.read_bytes(TINY, CPU, rows=2, longest=5) == 2 * 5 * (layer + 10 * 12)
    assert cost.read_bytes(TINY, CPU, rows=1000, longest=5, head=False) == cost.READ_AT_ONCE * 5 * layer
    assert cost.read_bytes(TINY, CPU, rows=1000, longest=1000, head=False) == 2**16 * layer


def test_judges_wait_in_rounds_and_cost_by_the_token() -> None:
    assert cost.judge_seconds(0, 5, 10.0, 4) == 0.0
    assert cost.judge_seconds(100, 1, 10.0, 25) == 40.0
    assert cost.judge_seconds(100, 50, 10.0, 25) == 500.0, "two a round take as long as 25"
    assert cost.judge_cost(1_000_000, 1000, 300, 0.5, 2.0) == pytest.approx(500 + 600)


@pytest.mark.parametrize(
    ("text", "words"),
    [(amount(1_234_567), "1.2 M"), (amount(0), ""), (amount(137), "140"), (amount(0.0123), "0.012"), (amount(999_999), "1 M"),
     (size(37e9), "37 GB"), (size(140), "140 B"), (size(0), "0 B"), (duration(44.9), "45 s"),
     (duration(200), "3.3 min"), (duration(10_000), "2.8 h"), (duration(500_000), "140 h")],
)  # fmt: skip
def test_figures_have_two_digits(text: str, words: str) -> None:
    assert text == words
