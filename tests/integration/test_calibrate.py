"""`pns plan --calibrate` at tiny sizes: what it measures, and that it says of all else that it is a default."""

from __future__ import annotations

import math

import pytest

from pns.plan import calibrate as module
from pns.plan.machine import CPU, Machine
from pns.plan.shapes import Shape

torch = pytest.importorskip("torch")

MEASURED = {
    "memory_gb", "matmul_tflops", "bandwidth_gbs", "train_share", "forward_share", "decode_share", "pass_seconds",
    "token_seconds", "verify_seconds",
}  # fmt: skip
# Of every other field what the source says of it.
DEFAULT = {
    "process_gb": "what libraries take of memory", "decode_bandwidth_share": "the share of bandwidth in decoding",
    "graph_seconds": "graph", "compiled_seconds": "compiled", "step_seconds": "fixed times of steps",
    "stage_seconds": "stages", "link_gbs": "link",
    "network_gbs": "network", "disk_gbs": "disk",
}  # fmt: skip


@pytest.mark.slow
def test_it_measures_what_it_says_and_names_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SMALL, "cpu", Shape(16, 2, 2, 2, 8, 32, 50, 64, tied=True))
    monkeypatch.setitem(module._ROWS, "cpu", (1, 4))
    monkeypatch.setitem(module._DECODED, "cpu", (1, 4))
    monkeypatch.setitem(module._LENGTH, "cpu", 8)
    monkeypatch.setattr(module, "_REPEATS", 1)
    threads = torch.get_num_threads()
    found = module.calibrate("cpu")
    assert torch.get_num_threads() == threads
    assert Machine.model_validate(found.model_dump()) == found, "all of it in range"
    assert MEASURED | set(DEFAULT) | {"name", "source", "width"} == set(Machine.model_fields)
    for key in MEASURED:
        value = getattr(found, key)
        assert math.isfinite(value)
        assert value > 0 or key in ("pass_seconds", "token_seconds"), key
        assert float(f"{value:.2g}") == value or key == "memory_gb"
    for key, words in DEFAULT.items():
        assert getattr(found, key) == getattr(CPU, key), key
        assert words in found.source, key
