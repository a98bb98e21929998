"""Before a run starts: are the models, prompts, functions and calibrations that a recipe names here, and do answers survive them?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pns.doctor.examine import module_findings
from pns.doctor.needs import Asked, needs_of
from pns.errors import UserError
from pns.negatives.prompted import FIELD as PROMPTED
from pns.negatives.prompted import load_prompt
from pns.plan.check import Check, on_hub, refused, short
from pns.plan.models import cached, config_file
from pns.recipe import ModelPart, Recipe, RewardModelSource
from pns.training.pretrained import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    check_writer,
    find_model,
    models_of,
    tokenizer_of,
    writer_of,
)


def models(recipe: Recipe, ask: bool) -> Iterator[Check]:
    """The models that trainings start from, and whether an answer comes through their tokenizers unharmed."""
    for name, part in models_of(recipe).items():
        found = _model(name, part, ask)
        yield found
        if found.state == "failed":
            yield Check(f"{name}: form", "unchecked", "there is no such model to look at")
        else:
            yield _form(name, part, recipe)


def _model(name: str, part: ModelPart, ask: bool, files: Sequence[str] = WEIGHT_FILES) -> Check:
    """Args: files: of which one in the local cache shows that what is needed of a hub id is here."""
    try:
        source = find_model(part)
    except UserError as error:
        return refused(name, error)
    path = source.options["pretrained_model_name_or_path"]
    if Path(path).is_dir():
        return Check(name, "ok", source.name)
    if any(cached(path, file, part.revision) for file in ([part.gguf_file] if part.gguf_file else files)):
        return Check(name, "ok", f"{path} is in the local cache of the hub")
    return on_hub(name, "model", path, ask, part.revision)


def prompted(recipe: Recipe, ask: bool) -> Iterator[Check]:
    """The prompt for wrong solutions, and another model that writes them."""
    part, name = recipe.negatives.prompted, f"{PROMPTED}.model"
    if "prompted" not in recipe.negatives.sources():
        return
    yield _read(f"{PROMPTED}.prompt", lambda: f"{load_prompt(part).version} is whole")
    if part.writer == "model":
        try:
            check_writer(part, recipe.engine.kind)
        except UserError as error:
            yield refused(name, error)
        else:
            yield _model(name, writer_of(part), ask)


def reward(recipe: Recipe, ask: bool) -> Iterator[Check]:
    """What the reward names beside servers: own functions, a judge's prompt, a reward model and its calibration."""
    for found in module_findings(Asked("recipe", recipe.name, needs_of(recipe), {})):
        ok = found.state == "ok"
        said = f"{found.what}: {found.said}{', which is imported by the run alone' * ok}"
        yield Check(found.why, "ok" if ok else "failed", said, found.mend or "")
    judge, source = recipe.reward.judge_server, recipe.reward.reward_model
    if judge is not None:
        yield _read("reward.judge_server.prompt", lambda: _judges_prompt(judge.prompt))
    if source is not None:
        if source.path is not None:
            yield _scorer(source, source.path, ask)
        yield _read("reward.reward_model.calibration", lambda: _calibrated(source))


def _read(name: str, read: Callable[[], str]) -> Check:
    """What a reader of the run's own says of a file."""
    try:
        return Check(name, "ok", read())
    except UserError as error:
        return refused(name, error)
    except ImportError as error:
        return Check(name, "unchecked", f"{error.name} is not installed")


def _judges_prompt(name: str) -> str:
    from pns.rewards.judge.prompts import load_prompt as load

    return f"{load(name).version} is whole"


def _calibrated(source: RewardModelSource) -> str:
    from pns.rewards.build import calibration_of

    found = calibration_of(source)
    return f"{source.calibration}: of {found.n} responses; whether they are this model's is seen by the run"


def _scorer(source: RewardModelSource, path: str, ask: bool) -> Check:
    """The reward model that a recipe names, or the tokenizer of one behind a server. Its directory may hold weights in
    forms that no training starts from.
    """
    name, inside = "reward.reward_model.path", source.kind == "transformers"
    if Path(path).is_dir():
        return _read(name, lambda: _scorers_folder(path, inside))
    part = ModelPart(kind="pretrained", path=path, revision=source.revision)
    return _model(name, part, ask, WEIGHT_FILES if inside else TOKENIZER_FILES)


def _scorers_folder(path: str, inside: bool) -> str:
    from pns.rewards.reward_model import chat_tokenizer

    if inside and config_file(path) is None:
        raise UserError("no config.json in this directory", file=path, remedy="save the model with save_pretrained")
    chat_tokenizer(path)
    return path


def _form(name: str, part: ModelPart, recipe: Recipe) -> Check:
    """Whether a well-formed answer comes through the model's template and tokenizer unharmed; none is downloaded."""
    label, source = f"{name}: form", find_model(part)
    path = source.options["pretrained_model_name_or_path"]
    files = [part.gguf_file] if part.gguf_file else TOKENIZER_FILES
    away = Check(label, "unchecked", "its tokenizer is not here; the run looks at it first")
    if not Path(path).is_dir() and not any(cached(path, file, part.revision) for file in files):
        return away
    try:
        tokenizer = tokenizer_of(source, local_files_only=True)
    except ImportError as error:
        return Check(label, "unchecked", f"{error.name} is not installed")
    except UserError as error:
        return refused(label, error) if Path(path).is_dir() else away
    form, reads = recipe.reward.answer_format, name.startswith("reward_model")
    fault = template_fault(tokenizer, form, recipe.model.system_prompt, sampled=not reads)
    if fault is not None:
        return Check(label, "failed", fault, "take an instruct model, or mend its chat template and end token")
    return Check(label, "ok", f"an answer in the form `{form}` survives template and tokenizer")


def template_fault(
    tokenizer: Any, answer_format: str, system_prompt: str | None, *, sampled: bool = True
) -> str | None:
    """What is wrong with a tokenizer for this answer format, in a sentence; None: nothing.

    Looked at: a chat template; that a conversation begins as the prompt that sampling gives (else training teaches what
    sampling never asks; `sampled` off: a model that only reads); that the answer is in it, ends with the end token, comes
    back from the tokenizer, and is well-formed.
    """
    from jinja2 import TemplateError

    from pns.rewards.format import format_failures
    from pns.training.pretrained import with_system_prompt

    if not tokenizer.chat_template:
        return "it has no chat template"
    if system_prompt is not None:
        tokenizer.chat_template = with_system_prompt(str(tokenizer.chat_template), system_prompt)
    answer = "Step 1: 40 + 2 = 42\nThe answer is \\boxed{42}"
    ask = [{"role": "user", "content": "How much are 40 and 2?"}]
    try:
        prompt = tokenizer.apply_chat_template(ask, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template([*ask, {"role": "assistant", "content": answer}], tokenize=False)
    except TemplateError as error:
        return f"its chat template refuses a conversation: {short(error)}"
    if system_prompt is not None and system_prompt.strip() not in prompt:
        return "its chat template takes no system prompt, and the recipe has one"
    if answer not in whole:
        return "its chat template changes the answer"
    before, _, tail = whole.rpartition(answer)
    if sampled and before != prompt:
        return "its chat template begins an answer in training otherwise than the prompt that sampling gives"
    if tokenizer.eos_token is None or not tail.lstrip().startswith(tokenizer.eos_token):
        return f"its chat template ends an answer with {tail.strip()!r}, not with the end token {tokenizer.eos_token!r}"
    back = tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"])
    if back.split() != answer.split():
        return f"its tokenizer gives back {back!r} for {answer!r}"
    failures = format_failures(back, problem=ask[0]["content"], finish="stop", answer_format=answer_format)
    return f"an answer counts as malformed: {', '.join(failures)}" if failures else None
