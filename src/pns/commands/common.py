"""What every command shares: exit codes, errors as one message, the console."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from pns.errors import StageStopped, UserError
from pns.extras import TRAINING, install, missing
from pns.run import check_writable

if TYPE_CHECKING:
    from pns.launch import Launcher
    from pns.pipeline import Stage
    from pns.recipe import Recipe

BAD_INPUT, BUG, STOPPED, INTERRUPTED = 2, 1, 3, 130
RESUMES = "Nothing is lost: the same command goes on from the last checkpoint or shard."
STARTS_ANEW = "Nothing is written; the same command starts from the beginning."


@contextlib.contextmanager
def errors(interrupted: str = RESUMES) -> Iterator[None]:
    """One message and an exit code for what users can mend; tracebacks are for bugs of ours only.

    Args:
        interrupted: what Ctrl-C has cost, in a sentence.
    """
    try:
        yield
    except UserError as error:
        fail(f"error: {error}", BAD_INPUT)
    except StageStopped as error:
        told = str(error)
        remedy = "" if "\n  -> " in told else "\n  -> mend the cause; the same command goes on from there"
        fail(f"stopped: {told}{remedy}", STOPPED)
    except KeyboardInterrupt:
        fail(f"\nInterrupted. {interrupted}", INTERRUPTED)
    except OSError as error:
        mended = _MENDABLE.get(error.errno or 0)
        if mended is None:
            raise
        goes_on = ": it goes on where it stopped" if mended == _FREE and interrupted == RESUMES else ""
        fail(f"error: {error.filename or 'output'}: {error.strerror}\n  -> {mended}{goes_on}", BAD_INPUT)


_FREE = "free some space and run the same command again"
_ELSEWHERE = "write to another folder, or mend the permissions"
_MENDABLE = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), and run the same command again",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOENT: "it was there, or its folder was, when the command began: put it back, and run the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or write elsewhere",
    errno.EISDIR: "a folder stands where a file is to be written: move it away, or write elsewhere",
    errno.ENAMETOOLONG: "write to a shorter name",
}


def column_option(help: str) -> Any:
    """An option that names a column of the user's file."""
    return typer.Option(help=help, metavar="COLUMN", show_default=False)


def overrides_argument(example: str) -> Any:
    """The rest of a command line: dotted keys of the recipe and their values."""
    return typer.Argument(help=f"Dotted overrides, e.g. {example}.", metavar="[KEY=VALUE ...]", show_default=False)


def console() -> Any:
    """A console; into a file or a pipe it is wide enough for our tables.

    It reads no markup: styles of ours are in `Text`, and `[/x]` in a name of the user's is that name.
    """
    from rich.console import Console

    found = Console(markup=False, emoji=False)
    return found if found.is_terminal else Console(width=max(found.width, 120), markup=False, emoji=False)


def say(message: str, *, err: bool = False) -> None:
    """Print a line. It may quote a file's name, a model or a server: control characters must not steer the terminal."""
    safe = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in message)
    typer.echo(safe, err=err)


def note_unread(sources: Mapping[str, str], nodes: Mapping[str, Stage]) -> None:
    """Say which keys of the command line change nothing: a method that is not chosen reads none of its own.

    Args:
        sources: see `load_recipe`.
    """
    from pns.pipeline import unread

    say_unread(unread([key for key, source in sources.items() if source == "override"], nodes), "recipe")


def say_unread(keys: Iterable[str], of: str) -> None:
    """Say which keys change nothing.

    Args:
        of: what has the stages: a recipe, a study.
    """
    for key in keys:
        say(f"note: {key} changes nothing: no stage of this {of} reads it", err=True)


def fail(message: str, code: int) -> NoReturn:
    """Print why, and end the command."""
    say(message, err=True)
    raise typer.Exit(code)


def check_output(path: Path, suffixes: tuple[str, ...], force: bool, field: str | None = None) -> None:
    """Whether a file of one of the suffixes can be written there. Told before any work is done. Raises UserError."""
    if path.suffix not in suffixes:
        raise UserError(
            f"the output ends in {' or '.join(suffixes)}", file=path, field=field, remedy="change its suffix"
        )
    check_writable(path, field)
    if path.exists() and not force:
        raise UserError("is there already", file=path, field=field, remedy="--force replaces it")


def need_libraries() -> None:
    """Whether what training needs is installed. Raises UserError with the command that installs it."""
    lacking = missing(TRAINING)
    if lacking:
        raise UserError(f"not installed: {', '.join(lacking)}", remedy=f"{install('train')} (see the README for torch)")


def ready(recipe: Recipe, folder: Path, launcher: Launcher | None, stages: Iterable[Stage]) -> None:
    """What a recipe needs on this machine, told before its folder is made. Raises UserError.

    Args:
        stages: those that are run in a new folder: the GPU that they compute on must be here. In a folder that is there
            some may be done, and `run_tasks` asks for the others.
    """
    from pns.gpus import check_here
    from pns.launch import check_launcher
    from pns.training.pretrained import check_models

    need_libraries()
    check_launcher(recipe, launcher)
    if not folder.exists():  # one that is gone on with may have its models already
        check_models(recipe)
        check_here(((stage, recipe) for stage in stages), launcher)
