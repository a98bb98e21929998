"""What a stage's result depends on, as one fingerprint: its part of the recipe, the files that it reads, and what it needs.

Old results stay good: a key that came later counts only where it says something new.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pns.extras import package_folder
from pns.negatives.prompted import load_prompt, own_file
from pns.parts.base import unnamed_server
from pns.parts.engine import EnginePart, engine_marks
from pns.parts.uses import UsesPart
from pns.pipeline import SAMPLE, Stage
from pns.problems.registry import identity
from pns.recipe import GENERATED, Recipe
from pns.rewards.callables import source_of
from pns.rewards.version import RULES
from pns.run import file_hash, fingerprint
from pns.verify.version import VERIFIER

# What of a part says how a server is reached and how much work it may get. It changes no result of a named model.
_REACH = frozenset({"server", "cache", "max_calls", "max_total_tokens", "verify_workers", "generator_url"})

# Keys that change no result either, but once stood in fingerprints: each counts as this, its default, whatever it says.
_AS_DEFAULT: dict[str, Any] = {"max_unscored": 0.05, "url": None, "gpu_memory_utilization": 0.3}

# Keys that came later than results which are still good: they count where they say something else than this.
_LATER: dict[str, Any] = {
    "more_events": 0, "processes": 1, "vllm": None, "train_dtype": "float32", "sampler": "auto",
    "start": "policy", "format_gate": True, "accuracy_gate": True, "calibrated": True,
    "per_problem": 1, "near_duplicate": 0.0, "length_ratio": None,
    "base": None, "system_prompt": None, "gradient_accumulation": 1, "k_of": {}, "max_model_len": None,
    "lora": False, "compiled": False, "ray_readers": 0, "control": None, "chosen_by": "policy", "args": {},
    "others": [],
}  # fmt: skip

# Parts that came later than protocols which still hold.
_AFTER_PROTOCOLS: dict[str, Any] = {
    "uses": UsesPart().model_dump(mode="json"), "engine": EnginePart().model_dump(mode="json"),
}  # fmt: skip

# Of `runtime` what says how the work is done on a machine, and changes no result.
_MACHINE = frozenset({"jobs", "checkpoint_every", "gradient_checkpointing", "report_to"})

# Stages that read problems, and none of those that rounds share out (`recipe.SHARED_AMONG_ROUNDS`).
_NO_ROUNDS = ("policy:sft", "policy:rlvr", "evaluate:evaluate", "evaluate:dev", "evaluate:test")


def of_stages(recipe: Recipe, nodes: Mapping[str, Stage]) -> dict[str, str]:
    """The fingerprint of every stage: name, version, seed, its part of the recipe, input files, and what it needs."""
    data = recipe.model_dump(mode="json")
    files = input_hashes(recipe)
    out: dict[str, str] = {}
    for name, stage in nodes.items():
        out[name] = mark_of(stage, data, files.get(name, {}), [out[n] for n in stage.needs])
    return out


def mark_of(stage: Stage, data: Mapping[str, Any], files: Mapping[str, str], needs: list[str]) -> str:
    """The fingerprint of one stage.

    Args:
        data: the recipe as JSON-able values.
        files: hashes of the files that the stage reads besides (see `input_hashes`).
        needs: fingerprints of what it needs, in its order.
    """
    part = _parts(data, stage.keys)
    # A recipe of one round says nothing about rounds, and its results stay what they were.
    if data["round"]["of"] > 1 and "problems" in stage.needs and stage.call not in _NO_ROUNDS:
        part["round"] = data["round"]
    return fingerprint(
        name=stage.name, version=stage.version, seed=data["seed"], args=stage.args, part=part, files=files, needs=needs
    )


def _parts(data: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """A stage's part of the recipe; where verdicts or scores enter it, the version of what gives them."""
    found = {key: _dig(data, key) for key in sorted(set(keys))}
    if "generator" in found:  # what other generators have otherwise is a key of those whom it concerns
        found["generator"] = {k: v for k, v in found["generator"].items() if k != "others"}
    engine = engine_marks(found.pop(SAMPLE)) if SAMPLE in found else None
    part = {key: _without_reach(value) for key, value in found.items() if not _is_later(key.split(".")[-1], value)}
    if engine is not None:  # the default says nothing, so that results of before there were others stay good
        part[SAMPLE] = engine
    if any(key.split(".")[0] == "reward" for key in keys):
        part["verifier"] = VERIFIER
    if {"reward", "reward.max_chars"} & set(keys):
        part["rules"] = RULES
    return part


def _without_reach(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {k: _AS_DEFAULT.get(k, v) for k, v in value.items() if k not in _REACH and not _is_later(k, v)}
    return {k: _without_reach(v) for k, v in kept.items()} | unnamed_server(value)


def of_protocol(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dumped recipe a protocol holds: without keys that change no result, and without those that came later than
    protocols which still hold, where they say nothing new.
    """
    runtime = {k: v for k, v in recipe.get("runtime", {}).items() if k not in _MACHINE}
    kept = {k: v for k, v in recipe.items() if k not in _AFTER_PROTOCOLS or v != _AFTER_PROTOCOLS[k]}
    found: dict[str, Any] = _without_reach({**kept, "runtime": runtime})
    return found


def _is_later(key: str, value: Any) -> bool:
    return key in _LATER and bool(value == _LATER[key])


def input_hashes(recipe: Recipe) -> dict[str, dict[str, str]]:
    """What every file and problem set that the recipe reads holds, by stage and path or name: its sha256, or the hub's
    commit. Raises UserError when a file is missing.
    """
    part = recipe.problems
    data = [*(part.train_file or ()), *part.benchmarks.values()]
    model: list[Path] = []
    if recipe.model.path is not None:
        model = _model_files(recipe.model.path)
    if recipe.model.gguf_package is not None and recipe.model.gguf_file is not None:
        folder = package_folder(recipe.model.gguf_package)
        if folder is not None and (file := folder / recipe.model.gguf_file).is_file():
            model = [file]
    scoring, methods = _scoring_files(recipe), recipe.negatives.sources()
    every = [
        ("problems", data),
        ("start", model),
        *((name, scoring) for name in recipe.generator.stages),
        *((f"samples-{m}", scoring) for m in GENERATED),
    ]
    for name, base in (("generator", recipe.generator.base), ("reward_model", recipe.reward_model.base)):
        if base is not None:
            every.append((f"start-{name}", _model_files(base.path)))
    every += [(f"negatives-{m}", scoring + (_prompted_files(recipe) if m == "prompted" else [])) for m in methods]
    sets = {p: known for p in data if (known := identity(p)) is not None}
    return {name: {str(p): sets.get(p) or file_hash(Path(p)) for p in paths} for name, paths in every if paths}


def _model_files(path: str) -> list[Path]:
    """What a model directory holds that changes its samples; nothing where the path is a hub id."""
    folder = Path(path)
    kinds = (".safetensors", ".json", ".gguf", ".jinja")
    return sorted(p for p in folder.iterdir() if p.suffix in kinds) if folder.is_dir() else []


def _prompted_files(recipe: Recipe) -> list[Path]:
    """A prompt of the user's own, and the model that is prompted, where it is on this disk."""
    part = recipe.negatives.prompted
    load_prompt(part)  # what is wrong with it is told before hours of work
    own = own_file(part)
    return ([own] if own is not None else []) + (_model_files(str(part.model)) if part.writer == "model" else [])


def _scoring_files(recipe: Recipe) -> list[Path]:
    """Files that change the composite's scores: a judge's own prompt, a user's own functions, another model's calibration."""
    part, found = recipe.reward, []
    if part.judge_server is not None and (prompt := Path(part.judge_server.prompt)).suffix:
        found.append(prompt)
    if part.reward_model is not None and part.reward_model.calibration is not None:
        found.append(part.reward_model.calibration / "calibration.json")
    named = [part.judge, *([part.reward_model.kind] if part.reward_model is not None else [])]
    return found + [file for name in named if ":" in name and (file := source_of(name)) is not None]


def _dig(data: Any, key: str) -> Any:
    for name in key.split("."):
        data = data[int(name) if isinstance(data, list) else name]
    return data
