"""The data folder, for tests over real rows; skipped with a reason where it is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def data_folder() -> Path:
    """$PNS_DATA, or ../shared/data beside the repository."""
    given = os.environ.get("PNS_DATA")
    root = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("no data directory: set PNS_DATA")
    return root


def rows(path: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file of the data folder."""
    return [json.loads(line) for line in (data_folder() / path).read_text(encoding="utf-8").strip().split("\n")]
