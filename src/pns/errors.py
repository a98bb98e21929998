"""Errors that are the user's to mend: one message, the place, the remedy, exit code 2."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Bad input. `str(error)` is one readable message: what is wrong, where, and what mends it.

    Args:
        message: what is wrong, in one sentence.
        file, line, field: where (a path, a 1-based line, a key); any may be missing.
        remedy: what the user can do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.field, self.remedy = message, file, line, field, remedy
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        key = "" if field is None else f"{field}: "
        fix = "" if remedy is None else f"\n  -> {remedy}"
        super().__init__(f"{where}{key}{message}{fix}")


class StageStopped(Exception):
    """A stage stopped on purpose and can be resumed (a judge that is down, an interrupt); `str(error)` is the cause."""
