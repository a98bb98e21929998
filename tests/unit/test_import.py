"""What may load no torch does not: looked at in the loaded modules, never on the clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "vllm", "ray")


def loaded(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has after running `code`."""
    tail = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import pns",
        "import pns.records, pns.recipe, pns.run, pns.pipeline, pns.driver, pns.worker, pns.display",
        "import pns.verify, pns.rewards, pns.rewards.composite, pns.rewards.adapters.trl",
        "import pns.problems.embedded, pns.problems.files, pns.negatives.rules, pns.negatives.select",
        "import pns.sampling.make, pns.sampling.ray, pns.sampling.vllm, pns.sampling.server, pns.sampling.continuous",
        "import pns.sampling.engine, pns.sampling.shards, pns.streams, pns.evaluation.metrics, pns.report.build",
        "from typer.testing import CliRunner\nimport pns.cli\n"
        "for words in (['--help'], ['run', '--help'], ['--version']):\n"
        "    assert CliRunner().invoke(pns.cli.app, words).exit_code == 0",
        "from pathlib import Path\nfrom pns.doctor.examine import examine\nexamine(None, Path('runs'), imports=False)",
    ],
    ids=["package", "flow", "rewards", "data", "engines", "rooms", "help", "doctor"],
)
def test_no_heavy_library_is_loaded(code: str) -> None:
    found = loaded(code)
    assert "pns" in found
    assert not found & set(HEAVY)


def test_help_loads_neither_the_rooms_nor_what_they_need() -> None:
    code = "from typer.testing import CliRunner\nimport pns.cli\nCliRunner().invoke(pns.cli.app, ['--help'])"
    assert not loaded(code) & {"numpy", "sympy", "pyarrow", "sklearn", "matplotlib", "scipy", "math_verify"}
