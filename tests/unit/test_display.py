"""What a person sees while stages run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pns import display
from pns.display import Display, clock, hours, pace


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-3, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3725, "62:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(29, "0 min"), (3569, "59 min"), (3571, "1 h 00 min"), (7260, "2 h 01 min")]
)
def test_hours(seconds: float, text: str) -> None:
    assert hours(seconds) == text


def test_pace_says_rate_and_time_left_once_there_is_something_to_say() -> None:
    assert pace(50, 200, 10) == "5.0/s, 0:30 left"
    assert pace(200, 200, 10) == "20.0/s, 0:00 left"
    assert pace(0, 200, 10) == pace(5, 0, 10) == pace(5, 10, 0) == ""


def test_off_a_terminal_each_stage_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with Display(Console(file=out, width=100)) as shown:
        shown.begin(total=3, done=1)
        shown.stage("sft [bold]")
        shown.progress("sft [bold]", 10, 100)
        shown.tick()
        now[0] += display.QUIET_SECONDS
        shown.tick()
        shown.tick()  # not again so soon
        now[0] += 5
        shown.finished("sft [bold]", 20.0)
        shown.tick()
        shown.left = lambda: 3900.0
        shown.stage("rlvr")
        shown.finished("rlvr", 1.0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "1 of 3 stages are done already"
    assert lines[1].startswith("[2/3] sft [bold]")
    assert lines.pop().endswith("rlvr done in 0:01 (run 0:20, about 1 h 05 min left)")
    lines.pop()
    assert lines[2:] == ["    sft [bold]: 10/100, 0.7/s, 2:15 left", "[2/3] sft [bold] done in 0:20 (run 0:20)"]


def test_on_a_terminal_bars_come_and_go() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=100)) as shown:
        shown.begin(total=1, done=0)
        shown.stage("rlvr")
        shown.progress("rlvr", 3, 9)
        shown.bars.refresh()
        shown.finished("rlvr", 1.0)
        assert not shown.bars.tasks
    assert "3/9" in out.getvalue()
    assert "rlvr done in 0:01" in out.getvalue()
