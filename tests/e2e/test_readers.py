"""Stages of the shared run again, with log-probabilities and scores by Ray actors: the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.conftest import SMOKE, Micro

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

STAGES = {"samples-pns": "candidates.parquet", "audit": "audit.json"}


def test_readers_change_no_byte(here: Any, smoke: Micro) -> None:
    pytest.importorskip("ray")
    run = smoke.copy(here.folder / "run").folder
    engine = ("engine.ray_readers=2", "engine.ray_workers=1")
    output = here(
        "run",
        SMOKE,
        "--run-dir",
        run,
        "--from",
        "samples-pns",
        "--until",
        "audit",
        *engine,
        env={"RAY_worker_niceness": "0"},
    )
    for stage, file in STAGES.items():
        assert f"{stage} done" in output
        again = run / "stages" / smoke.label(stage) / file
        assert again.read_bytes() == (smoke.run.published(smoke.label(stage)) / file).read_bytes()

        log = (run / "logs" / f"{stage}.log").read_text(encoding="utf-8")
        assert "Started a local Ray instance" in log
