"""Functions of the user's own, named `my.module:name`: a judge, a reward model, a locator of errors."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from pathlib import Path
from typing import Any

from pns.errors import UserError


def load_callable(path: str, field: str) -> Any:
    """The object behind `my.module:name`. Raises UserError where there is none, or its module does not import."""
    module, _, name = path.partition(":")
    try:
        if not module or not name:
            raise ImportError("a module and a name are needed")
        found = getattr(importlib.import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's module may do anything when it is imported, `sys.exit` included
        raise UserError(
            f"cannot load {path!r} ({type(error).__name__}: {error}{_place(error)})", field=field,
            remedy="write my.module:name, have it on PYTHONPATH, and see that it imports",
        ) from None  # fmt: skip
    if not callable(found) and not hasattr(found, "judge") and not hasattr(found, "score"):
        raise UserError(f"{path!r} is not callable", field=field, remedy="name a function")
    return found


def _place(error: BaseException) -> str:
    """Where in a user's module it was raised; a syntax error tells that itself."""
    if isinstance(error, SyntaxError) or error.__traceback__ is None:
        return ""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        "" if last.filename.startswith("<frozen") or last.filename == __file__ else f", {last.filename}:{last.lineno}"
    )


def source_of(path: str) -> Path | None:
    """The file of the module behind `my.module:name`, without importing it; None for what has no such file."""
    try:
        spec = importlib.util.find_spec(path.partition(":")[0])
    except Exception:  # of a parent package, which is imported for it
        return None
    found = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return found if found is not None and found.is_file() else None
