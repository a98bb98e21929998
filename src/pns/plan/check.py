"""One result of a check, and what all of them share: words of errors, and what the hub says of an id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pns.errors import UserError

State = Literal["ok", "failed", "unchecked", "advice"]
TIMEOUT = 3.0
"""Seconds that a server or the hub has to answer."""


@dataclass(frozen=True)
class Check:
    """One result. A failed one would stop the run; advice says what would make it faster."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def refused(name: str, error: UserError) -> Check:
    """A failed check of what a reader of the run's own refuses."""
    where = "" if error.file is None else f"{error.file}: "
    return Check(name, "failed", f"{where}{error.message}", error.remedy or "")


def on_hub(name: str, kind: Literal["dataset", "model"], repo: str, ask: bool, revision: str | None = None) -> Check:
    """Whether the hub knows an id."""
    if not ask:
        return Check(name, "unchecked", f"{repo}: the hub was not asked (--offline)")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        return Check(name, "unchecked", f"{repo}: huggingface_hub is not installed")
    try:
        HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=TIMEOUT)
    except OfflineModeIsEnabled:
        return Check(name, "unchecked", f"{repo}: no hub here (HF_HUB_OFFLINE is set)")
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        return Check(name, "failed", f"the hub has no {repo}: {short(error)}", "check the id and revision, or log in")
    except Exception as error:  # proxies and networks fail in a dozen ways; none of them says that the id is wrong
        return Check(name, "unchecked", f"{repo}: no hub here ({type(error).__name__}: {short(error)})")
    return Check(name, "ok", f"{repo} is on the hub")


def short(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    return text[:160] or type(error).__name__
