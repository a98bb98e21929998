"""What every command shares: exit codes, errors as one message, the console."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any, NoReturn

import typer

from pns.errors import StageStopped, UserError

BAD_INPUT, BUG, STOPPED, INTERRUPTED = 2, 1, 3, 130


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """One message and an exit code for what users can mend; tracebacks are for bugs of ours only."""
    try:
        yield
    except UserError as error:
        fail(f"error: {error}", BAD_INPUT)
    except StageStopped as error:
        fail(f"stopped: {error}\n  -> mend the cause; the same command goes on from there", STOPPED)
    except KeyboardInterrupt:
        fail("\nInterrupted. Nothing is lost: the same command goes on from the last checkpoint or shard.", INTERRUPTED)
    except OSError as error:
        remedy = _MENDABLE.get(error.errno or 0)
        if remedy is None:
            raise
        fail(f"error: {error.filename or 'output'}: {error.strerror}\n  -> {remedy}", BAD_INPUT)


_FREE = "free some space and run the same command again: it goes on where it stopped"
_ELSEWHERE = "write to another folder, or mend the permissions"
_MENDABLE = {errno.ENOSPC: _FREE, errno.EDQUOT: _FREE, errno.EACCES: _ELSEWHERE, errno.EROFS: _ELSEWHERE}


def console() -> Any:
    """A console; into a file or a pipe it is wide enough for our tables."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, 120))


def fail(message: str, code: int) -> NoReturn:
    # A message may quote a file, a model or a server: their control characters must not steer the terminal.
    safe = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in message)
    typer.echo(safe, err=True)
    raise typer.Exit(code)
