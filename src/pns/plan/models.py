"""Which models a recipe trains, and their shapes: from the recipe, a local configuration, or the table of known ones."""

from __future__ import annotations

import json
from pathlib import Path

from pns.errors import UserError
from pns.extras import install, package_folder
from pns.plan.shapes import KNOWN, Shape, from_config
from pns.plan.work import Which
from pns.recipe import BasePart, ModelPart, Recipe
from pns.rows import not_json

SCRATCH_VOCABULARY = 297
"""Tokens of the embedded tokenizer (docs/embedded.md)."""


def shapes_of(recipe: Recipe) -> tuple[dict[Which, Shape], dict[Which, str]]:
    """The shapes of policy, generator and reward model, and where each was read.

    Raises UserError for a model whose shape is in no local file and not in the table.
    """
    policy, source = _policy(recipe)
    shapes: dict[Which, Shape] = {"policy": policy, "generator": policy, "reward_model": policy}
    sources: dict[Which, str] = {"policy": source, "generator": "the policy's", "reward_model": "the policy's"}
    bases: dict[Which, BasePart | None] = {"generator": recipe.generator.base, "reward_model": recipe.reward_model.base}
    for name, base in bases.items():
        if base is not None:
            shapes[name], sources[name] = named(base.path, base.revision, f"{name}.base")
    return shapes, sources


def _policy(recipe: Recipe) -> tuple[Shape, str]:
    part = recipe.model
    if part.kind == "scratch":
        shape = Shape(
            part.hidden, part.layers, part.heads, part.heads, part.hidden // part.heads, part.feed_forward,
            SCRATCH_VOCABULARY, part.max_positions, tied=True,
        )  # fmt: skip
        return shape, "the recipe"
    if part.gguf_file is not None:
        return _gguf(part, part.gguf_file)
    return named(str(part.path), part.revision, "model")


def _gguf(part: ModelPart, name: str) -> tuple[Shape, str]:
    """The shape that the header of a GGUF file states."""
    if part.gguf_package is not None:
        folder = package_folder(part.gguf_package)
    else:
        folder = Path(str(part.path))
    file = None if folder is None else folder / name
    if file is None or not file.is_file():
        where = part.gguf_package or part.path
        raise UserError(
            f"no {name} in {where}", field="model.gguf_file", remedy="install the package, or check the name"
        )
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError("reading a GGUF file needs the package `gguf`", file=file, remedy=install("gguf")) from None
    try:
        reader = GGUFReader(file)
        kind = str(reader.fields["general.architecture"].contents())
        keys = {
            "hidden_size": "embedding_length", "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
            "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
            "max_position_embeddings": "context_length",
        }  # fmt: skip
        config = {ours: reader.fields[f"{kind}.{theirs}"].contents() for ours, theirs in keys.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        config["vocab_size"] = int(tensors["token_embd.weight"].shape[1])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"its header is not that of a dense decoder: {error}", file=file, remedy="give another file"
        ) from None
    tied = "output.weight" not in tensors
    return from_config({**config, "model_type": kind, "tie_word_embeddings": tied}, str(file)), str(file)


def named(path: str, revision: str | None, field: str) -> tuple[Shape, str]:
    """The shape of a directory or hub id: its config.json, the library's cache of it, or the table."""
    file = config_file(path, revision)
    if file is not None:
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(not_json(error), file=file, remedy="save the model again") from None
        text = config.get("text_config") or config if isinstance(config, dict) else config
        if not isinstance(text, dict):
            raise UserError("not the configuration of a model", file=file, remedy="save the model again")
        return from_config(text, str(file)), str(file)
    if path in KNOWN:
        return KNOWN[path], "the table of known shapes"
    raise UserError(
        f"the shape of {path!r} is not known: no config.json here, and it is not in the table",
        field=f"{field}.path",
        remedy=f"give a directory with its config.json; known are {', '.join(KNOWN)}",
    )


def config_file(path: str, revision: str | None = None) -> Path | None:
    """config.json of a directory, or of a hub id in the local cache."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        file = folder / "config.json"
        return file if file.is_file() else None
    return cached(path, "config.json", revision)


def cached(repo: str, name: str, revision: str | None = None) -> Path | None:
    """A file of the hub in the local cache, without asking the hub; None where the library is missing, too."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(repo, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
