"""Weights on disk that a broken copy or a full disk has cut: told by the file's name. (Source: ours.)"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pns.errors import UserError
from pns.run import AGAIN


@contextmanager
def whole_weights(folder: str | Path) -> Iterator[None]:
    """Around the loading of a model. Raises UserError where a file of its weights is damaged; libraries do not name it."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(
            f"this file is damaged ({error})", file=_damaged(Path(folder)),
            remedy=f"{AGAIN}; save or fetch a model of your own once more",
        ) from None  # fmt: skip


def _damaged(folder: Path) -> Path:
    """The first file of weights that cannot be opened; the folder where all can."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError:
            return path
    return folder
