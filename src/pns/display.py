"""What a person sees while stages run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

QUIET_SECONDS = 15.0


class _Rate(ProgressColumn):
    """Things a second, and the time left at that rate."""

    def render(self, task: Task) -> Text:
        return Text(pace(task.completed, task.total or 0, task.elapsed or 0.0), style="cyan")


def pace(done: float, total: float, seconds: float) -> str:
    """`12.3/s, 0:45 left`, or nothing before there is anything to say."""
    if done <= 0 or seconds <= 0 or total <= 0:
        return ""
    rate = done / seconds
    return f"{rate:.1f}/s, {clock((total - done) / rate)} left"


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


def hours(seconds: float) -> str:
    """Seconds as `1 h 05 min`, or `5 min` below an hour."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


class Display:
    """Used as a context manager around `driver.execute`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self.tasks: dict[str, TaskID] = {}
        self.state: dict[str, tuple[int, int, float]] = {}
        self.said: dict[str, float] = {}
        self.total = self.count = 0
        self.begun = time.monotonic()
        self.left: Callable[[], float | None] | None = None
        """Seconds to wait for the rest, by whoever can tell; said with every stage that ends."""

    def __enter__(self) -> Display:
        if self.live:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.bars.stop()

    def begin(self, total: int, done: int) -> None:
        """`done` of `total` stages are done already."""
        self.total, self.count = total, done
        if done:
            self._line(f"{done} of {total} stages are done already")

    def again(self, name: str) -> None:
        """A stage that was counted as done is made again after all."""
        self.count -= 1
        self._line(f"{name}: what it is made from has changed")

    def note(self, text: str) -> None:
        """Something that a person should know."""
        self._line(text)

    def stage(self, name: str) -> None:
        """A stage has started."""
        if self.live:
            self.tasks[name] = self.bars.add_task(name, total=None)
        else:
            self._line(f"[{self.count + 1}/{self.total}] {name} ...")
        self.state[name] = (0, 0, time.monotonic())
        self.said[name] = time.monotonic()

    def progress(self, name: str, done: int, total: int) -> None:
        """A stage is at `done` of `total`."""
        _, _, begun = self.state[name]
        self.state[name] = (done, total, begun)
        if self.live:
            self.bars.update(self.tasks[name], completed=done, total=total)

    def tick(self) -> None:
        """Off a terminal: a line for each running stage now and then."""
        if self.live:
            return
        now = time.monotonic()
        for name, (done, total, begun) in self.state.items():
            if now - self.said[name] >= QUIET_SECONDS and total:
                self.said[name] = now
                self._line(f"    {name}: {done}/{total}, {pace(done, total, now - begun)}")

    def finished(self, name: str, seconds: float) -> None:
        """A stage is published."""
        self.count += 1
        del self.state[name]
        if self.live:
            self.bars.remove_task(self.tasks.pop(name))
        left = self.left() if self.left is not None else None
        rest = "" if left is None else f", about {hours(left)} left"
        self._line(
            f"[{self.count}/{self.total}] {name} done in {clock(seconds)} (run {clock(time.monotonic() - self.begun)}{rest})"
        )

    def _line(self, text: str) -> None:
        self.console.print(Text(text), highlight=False)
