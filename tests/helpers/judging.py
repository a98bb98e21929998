"""Judges against a scripted server, ended when the test ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.judge_server import ScriptedServer
from pns.recipe import JudgeServerPart, ServerPart
from pns.rewards.judge import ServerJudge, client

GOOD = "Step 1: 2 + 3 = 5\nThe answer is \\boxed{5}"
Make = Callable[..., ServerJudge]


def part(server: ScriptedServer | str, **options: Any) -> JudgeServerPart:
    """A judge's settings; options of either part may be mixed."""
    url = server if isinstance(server, str) else server.url
    names = ServerPart.model_fields
    talk = ServerPart(url=url, **{k: options.pop(k) for k in list(options) if k in names})
    return JudgeServerPart(server=talk, **{"model": "m", "cache": None, **options})


def texts(n: int) -> tuple[list[str], list[str], list[str | None]]:
    """n different responses to one problem."""
    return ["What is 2 + 3?"] * n, [f"{GOOD} {i}" for i in range(n)], ["5"] * n


def making(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """For a fixture: makes judges with short waits, and ends them."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.002)
    made: list[ServerJudge] = []

    def judge(server: ScriptedServer | str, **options: Any) -> ServerJudge:
        made.append(ServerJudge(part(server, **options)))
        return made[-1]

    yield judge
    for one in made:
        one.close()
    assert not [t for t in threading.enumerate() if t.name == "pns-judge"]
