"""What a person sees while stages run."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from pns import display
from pns.commands import export, tables
from pns.commands.common import console
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


HOSTILE = ("[/x]", "[pns]", "[bold]m", ":smile:", "[link=http://a]b[/link]")


def on_paper(screen: Console) -> io.StringIO:
    screen.file = io.StringIO()
    return screen.file


@pytest.mark.parametrize("name", HOSTILE)
def test_a_console_of_a_command_reads_no_markup(name: str) -> None:
    screen = console()
    out = on_paper(screen)
    table = Table(name, title=f"title {name}")
    table.add_row(name)
    screen.print(table, name)
    assert out.getvalue().count(name) == 4


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_users_stand_in_tables_and_bars_as_they_are(name: str) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(tables.shares(f"overlap with {name}", ["", name]))
    assert out.getvalue().count(name) == 2
    bars = Console(file=io.StringIO(), force_terminal=True, width=100)
    out = on_paper(bars)
    with tables.progress(bars, f"reading {name}") as step:
        step(1, 3)
    with Display(bars) as shown:
        shown.stage(name)
        shown.bars.refresh()
    assert f"reading {name}" in out.getvalue()
    assert name in out.getvalue().rpartition("reading")[2]


def test_each_part_of_a_command_has_a_name_and_a_pace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    screen = Console(file=io.StringIO(), width=100)
    out = on_paper(screen)
    with tables.progress(screen, "auditing") as step:
        for part, seconds in (("part 1 of 2: length, \x1b[31mred", 8.0), ("part 2 of 2: transformer, red", 40.0)):
            for done in range(3):
                step(done, 5, part)
                now[0] += seconds
    assert out.getvalue().splitlines() == [
        "part 1 of 2: length, \N{REPLACEMENT CHARACTER}[31mred: 2/5, 0.1/s, 0:24 left (0:16)",
        "part 2 of 2: transformer, red: 1/5, 0.0/s, 2:40 left (0:40)",
        "part 2 of 2: transformer, red: 2/5, 0.0/s, 2:00 left (1:20)",
    ]


@pytest.mark.parametrize(("name", "shown"), [("\x1b[31mred", "\N{REPLACEMENT CHARACTER}[31mred "), ("m" * 90, "mmmmm")])
def test_a_bar_begins_again_under_the_name_of_each_part(name: str, shown: str) -> None:
    out = io.StringIO()
    with tables.progress(Console(file=out, force_terminal=True, color_system=None, width=80), "auditing") as step:
        for done in range(6):
            step(done, 5, "part 1 of 2: ngrams")
        for done in (0, 1):
            step(done, 3, f"part 2 of 2: length, {name}")
    last = out.getvalue().rpartition("part ")[2]
    assert last.startswith(f"2 of 2: length, {shown}")
    assert "1/3" in last
    assert " left" in last, "a long name leaves room for it"


def test_the_commands_have_no_other_console() -> None:
    source = Path(display.__file__).parent
    made = [p.relative_to(source) for p in source.rglob("*.py") if re.search(r"\bConsole\(", p.read_text())]
    assert made == [Path("commands/common.py")]


def test_method_names_of_a_file_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"rows": 2, "copies": 0, "responses": 2, "labelled": 0, "by": {}, "undecided": {}}
    figures |= {"position": {"quartiles": None, "fifths": [0] * 5}}
    export._tell({**figures, "methods": dict.fromkeys(HOSTILE, figures)}, None, as_json=False)
    said = capsys.readouterr().out
    assert all(name in said for name in HOSTILE if len(name) < 20)
    assert "\\[" not in said
