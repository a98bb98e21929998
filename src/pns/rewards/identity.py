"""Which reward model a calibration belongs to: another model's median and scale would shift every M. (Source: ours.)"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

BLOCK, BLOCKS = 1 << 20, 256
# Older models keep the chat template in tokenizer_config.json; another tokenizer makes other scores.
_READ = ("config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")  # what trainers leave beside a model


class ModelMark(BaseModel):
    """What identifies a reward model; None: it has no such thing, or it was not known.

    Attributes:
        kind: `transformers`, `vllm`, `sglang`, or a Python callable.
        path: directory or hub id of the model; at a server, of its tokenizer.
        name: the model's name at its server.
        revision: the hub's commit.
        digest: of a local directory's configuration, tokenizer and weights (see `digest_of_model`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    digest: str | None = None

    def same(self, other: ModelMark) -> bool:
        """Whether both mean one model. A local directory may move: its digest counts, not its path."""
        if self.digest is not None or other.digest is not None:
            return self.digest == other.digest
        mine, yours = self.model_dump(), other.model_dump()
        if self.name is not None or other.name is not None:  # a server's model; the tokenizer's path may move
            mine["path"] = yours["path"] = None
        if self.revision is None or other.revision is None:
            mine["revision"] = yours["revision"] = None
        return mine == yours

    def __str__(self) -> str:
        said = [self.kind, *(part for part in (self.name, self.path) if part is not None)]
        if self.revision is not None:
            said.append(f"revision {self.revision[:12]}")
        if self.digest is not None:
            said.append(f"digest {self.digest[:12]}")
        return ", ".join(said)


def digest_of_model(folder: str | Path) -> str | None:
    """sha256 of a local model: its configuration, tokenizer, chat template and weights; None for what is no directory.

    Of a file of more than 256 MiB, its size and 256 blocks of 1 MiB, evenly spread: training changes nearly every block,
    and a large model need not be read whole at each start.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    found = [p for p in folder.iterdir() if p.name in _READ or (p.suffix in _WEIGHTS and p.name not in _NO_WEIGHTS)]
    digest = hashlib.sha256()
    for path in sorted(p for p in found if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            for start in _starts(size):
                stream.seek(start)
                digest.update(stream.read(BLOCK))
    return digest.hexdigest()


def _starts(size: int) -> list[int]:
    """Where the blocks begin: all of them, or 256 with the first and the last among them."""
    if size <= BLOCKS * BLOCK:
        return list(range(0, size, BLOCK))
    return [i * (size - BLOCK) // (BLOCKS - 1) for i in range(BLOCKS)]
