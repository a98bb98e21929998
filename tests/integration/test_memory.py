"""Memory does not grow with the number of rows: peaks of `pns score`, of selection and of stages, in processes of their own.

With bounds made small, so that a few thousand rows are past all of them; `benchmarks/memory.py` goes to a million.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SMALL = """
import pns.sketch, pns.streams
pns.sketch.VALUES = pns.sketch.NAMES = pns.streams.BATCH = 200
pns.streams._CACHE_KIB = 512
"""


def test_peak_memory_is_flat_in_the_number_of_rows(
    tmp_path_factory: pytest.TempPathFactory, benchmark: Callable[[str], Any]
) -> None:
    module = benchmark("memory")
    few, many = (module.measure(rows, tmp_path_factory.mktemp("rows"), SMALL) for rows in (1_000, 8_000))
    for step in module.STEPS:
        # To hold 7,000 more rows, at some 4 kB each, would take 28 MB.
        assert many[step]["bytes"] - few[step]["bytes"] < 12e6, step
