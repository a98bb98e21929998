"""What can be known before a run starts: files, models, servers, disk, memory, lengths, the answer's form.

Every check says one of three things: it holds, it fails (with what mends it), or it could not be checked and why.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pns.doctor import packages
from pns.doctor.examine import library_findings, module_findings
from pns.doctor.needs import Asked, needs_of
from pns.errors import UserError
from pns.extras import TRAINING, install, missing
from pns.launch import Launcher
from pns.negatives.prompted import FIELD as PROMPTED
from pns.negatives.prompted import load_prompt
from pns.parts.base import ServerPart
from pns.plan.advice import advice
from pns.plan.estimate import Estimate, Setting, totals, vllm_of
from pns.plan.models import cached, config_file
from pns.plan.words import size
from pns.plan.work import Which, longest_generated, rows_of
from pns.problems.registry import check_file, existing, find, local_file
from pns.recipe import GrpoVllmPart, ModelPart, Recipe, RewardModelSource, VllmPart
from pns.training.batches import check_batches
from pns.training.pretrained import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    check_readable,
    find_model,
    models_of,
    tokenizer_of,
    writer_of,
)

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


def checks(
    recipe: Recipe, found: list[Estimate], setting: Setting, run_dir: Path, *, ask: bool, launcher: Launcher | None = None
) -> list[Check]:  # fmt: skip
    """All of them.

    Args:
        found: the estimates, for disk and memory.
        ask: off: neither servers nor the hub are asked, and all that rests on them is unchecked.
        launcher: of the trainings; what it needs is among the libraries.
    """
    every: list[Callable[[], Iterator[Check]]] = [
        lambda: _libraries(recipe, launcher),
        lambda: _problems(recipe, ask),
        lambda: _splits(recipe),
        lambda: _models(recipe, ask),
        lambda: _prompted(recipe, ask),
        lambda: _reward(recipe, ask),
        lambda: _servers(recipe, ask),
        lambda: _lengths(recipe, setting),
        lambda: _batches(recipe, setting),
        lambda: _memory(recipe, found, setting),
        lambda: (Check(name, "advice", text) for name, text in advice(recipe, found, setting)),
        lambda: _shares(recipe, setting),
        lambda: _disk(recipe, found, setting, run_dir),
    ]
    return [check for some in every for check in some()]


def _libraries(recipe: Recipe, launcher: Launcher | None) -> Iterator[Check]:
    """As `pns doctor` tells them from their versions; where it cannot, whether those of every training are there."""
    known, lacking, needs = packages.requirements(), missing(TRAINING), needs_of(recipe, launcher)
    if known is not None:
        untold = {f"extra {need.name}" for need in needs if need.kind == "extra" and need.name not in known}
        for found in library_findings(Asked("recipe", recipe.name, needs, {})):
            state: State = "ok" if found.state == "ok" else "unchecked" if found.what in untold else "failed"
            yield Check(f"libraries: {found.what}", state, f"{found.said} ({found.why})", found.mend or "")
    elif lacking:
        yield Check("libraries", "failed", f"not installed: {', '.join(lacking)}", install("train"))
    else:
        yield Check("libraries", "unchecked", "this package's own metadata, which says what is needed, is not there")


def _problems(recipe: Recipe, ask: bool) -> Iterator[Check]:
    part = recipe.problems
    for name, source in [("training", f) for f in part.train_file or ()] + list(part.benchmarks.items()):
        yield _source(f"problems: {name}" if name != "training" else f"problems: {source}", source, ask)


def _source(name: str, source: Path, ask: bool) -> Check:
    try:
        entry = find(source)
        if entry is None:
            if existing(source).is_file():
                return Check(name, "ok", str(source))
            return Check(name, "failed", f"{source}: no such file", "check the path in the recipe")
        file = local_file(entry)
        if file is not None:
            check_file(entry, file)
            return Check(name, "ok", f"{entry.rows} problems in {file}")
    except UserError as error:
        return _refused(name, error)
    return _on_hub(name, "dataset", entry.hub.id, ask, entry.hub.revision)


def _on_hub(name: str, kind: Literal["dataset", "model"], repo: str, ask: bool, revision: str | None = None) -> Check:
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
        return Check(name, "failed", f"the hub has no {repo}: {_short(error)}", "check the id and revision, or log in")
    except Exception as error:  # proxies and networks fail in a dozen ways; none of them says that the id is wrong
        return Check(name, "unchecked", f"{repo}: no hub here ({type(error).__name__}: {_short(error)})")
    return Check(name, "ok", f"{repo} is on the hub")


def _splits(recipe: Recipe) -> Iterator[Check]:
    part = recipe.problems
    if part.train_file is None:
        return
    need, have = sum(part.splits.model_dump().values()), sum(rows_of(f) for f in part.train_file)
    if have >= 10**9:
        yield Check("splits", "unchecked", f"{need} problems are needed; how many the files hold is read by the run")
    elif need > have:
        yield Check(
            "splits", "failed", f"{need} problems are needed, and there are {have}", "make problems.splits smaller"
        )
    else:
        yield Check(
            "splits", "ok", f"{need} of {have} problems; repeats and overlap with benchmarks are taken out first"
        )


def _models(recipe: Recipe, ask: bool) -> Iterator[Check]:
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
        return _refused(name, error)
    path = source.options["pretrained_model_name_or_path"]
    if Path(path).is_dir():
        return Check(name, "ok", source.name)
    if any(cached(path, file, part.revision) for file in ([part.gguf_file] if part.gguf_file else files)):
        return Check(name, "ok", f"{path} is in the local cache of the hub")
    return _on_hub(name, "model", path, ask, part.revision)


def _refused(name: str, error: UserError) -> Check:
    where = "" if error.file is None else f"{error.file}: "
    return Check(name, "failed", f"{where}{error.message}", error.remedy or "")


def _prompted(recipe: Recipe, ask: bool) -> Iterator[Check]:
    """The prompt for wrong solutions, and another model that writes them."""
    part, name = recipe.negatives.prompted, f"{PROMPTED}.model"
    if "prompted" not in recipe.negatives.sources():
        return
    yield _read(f"{PROMPTED}.prompt", lambda: f"{load_prompt(part).version} is whole")
    if part.writer == "model":
        try:
            check_readable(writer_of(part), recipe.engine.kind)
        except UserError as error:
            yield _refused(name, error)
        else:
            yield _model(name, writer_of(part), ask)


def _reward(recipe: Recipe, ask: bool) -> Iterator[Check]:
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
        return _refused(name, error)
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
        return _refused(label, error) if Path(path).is_dir() else away
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
        return f"its chat template refuses a conversation: {_short(error)}"
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


def _servers(recipe: Recipe, ask: bool) -> Iterator[Check]:
    reward, prompted = recipe.reward, recipe.negatives.prompted
    if reward.judge_server is not None:
        judge = reward.judge_server
        yield _server("judge", judge.server, judge.model, "reward.judge_server.server", "/models", ask)
    if reward.reward_model is not None and reward.reward_model.server is not None:
        scorer = reward.reward_model
        yield _server(
            "reward model", reward.reward_model.server, scorer.name, "reward.reward_model.server", "/v1/models", ask
        )
    if "prompted" in recipe.negatives.sources() and prompted.server is not None:
        yield _server("prompted", prompted.server, prompted.model, "negatives.prompted.server", "/models", ask)
    if recipe.engine.server is not None:
        # What it lists is not held against a name: it serves models that the run has yet to make.
        for url in recipe.engine.server.urls:
            part = ServerPart(url=url, api_key_env=recipe.engine.server.api_key_env)
            yield _alive(f"engine {url}", part, "engine.server", "/models", ask)
    vllm = recipe.runtime.vllm
    for name, at in () if vllm is None else (("GRPO's vLLM", vllm.url), ("the generator's vLLM", vllm.generator_url)):
        if at is not None:
            yield _alive(name, ServerPart(url=at), "runtime.vllm", "/health", ask)


def _server(name: str, part: ServerPart, model: str | None, field: str, path: str, ask: bool) -> Check:
    """Whether a server answers, takes the key, and lists the model."""
    reply = _ask(name, part, field, path, ask)
    return reply if isinstance(reply, Check) else _lists(f"server: {name}", part, model, reply)


def _alive(name: str, part: ServerPart, field: str, path: str, ask: bool) -> Check:
    """Whether a server answers and takes the key, whatever it says."""
    reply = _ask(name, part, field, path, ask)
    if isinstance(reply, Check) and reply.state == "unchecked" and ask:
        return Check(reply.name, "ok", f"{part.url} is there")
    return reply if isinstance(reply, Check) else Check(f"server: {name}", "ok", f"{part.url} answers")


def _ask(name: str, part: ServerPart, field: str, path: str, ask: bool) -> Any:
    """The JSON that a server has at a path; or, as a Check, why there is none: it is unchecked where a server is there."""
    label = f"server: {name}"
    try:
        from pns.rewards.judge.client import Client, ServerFailed
    except ImportError:
        return Check(label, "failed", "the library for servers is missing", install("server"))
    try:
        client = Client(part.model_copy(update={"timeout_seconds": TIMEOUT, "retries": 0}), field)
    except UserError as error:
        return Check(label, "failed", f"{error.field}: {error.message}", error.remedy or "")
    if not ask:
        return Check(label, "unchecked", f"{part.url}: not asked (--offline)")

    async def listed() -> Any:
        try:
            return await client.get(path)
        finally:
            await client.close()

    try:
        reply: Any = asyncio.run(listed())
    except ServerFailed as error:
        if error.status is not None and error.status not in (401, 403):
            return Check(label, "unchecked", f"{part.url} is there, and does not list its models ({error})")
        return Check(label, "failed", f"{part.url}: {error}", "start the server, or mend its URL or key")
    return reply


def _lists(label: str, part: ServerPart, model: str | None, reply: Any) -> Check:
    rows = reply.get("data") if isinstance(reply, dict) else None
    served = [str(row.get("id"))[:80] for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not served:
        return Check(label, "unchecked", f"{part.url} answers, and not with a list of models")
    if model is not None and model not in served:
        return Check(
            label, "failed", f"{part.url} lists {', '.join(served[:5])}, not {model}", "name one of them, or serve it"
        )
    if model is None and len(served) > 1:
        return Check(label, "failed", f"{part.url} lists {len(served)} models", "name one of them in the recipe")
    return Check(label, "ok", f"{part.url} lists {model or served[0]}")


def _lengths(recipe: Recipe, setting: Setting) -> Iterator[Check]:
    """Whether a completion of full length fits behind a usual prompt."""
    longest = {
        "policy": max(recipe.rlvr.max_new_tokens, recipe.rollouts.max_new_tokens, recipe.evaluate.max_new_tokens),
        "generator": max(recipe.generator.max_new_tokens, longest_generated(recipe)),
        "reward_model": max(recipe.generator.max_new_tokens, recipe.rollouts.max_new_tokens),
    }
    for name, new in longest.items():
        shape = setting.shapes[name]  # type: ignore[index]
        need = round(setting.given.prompt_tokens) + new
        detail = f"{need} tokens of {shape.positions} positions"
        if not shape.positions:
            yield Check(f"positions: {name}", "unchecked", "its configuration does not say how many")
        elif need > shape.positions:
            yield Check(f"positions: {name}", "failed", detail, "make max_new_tokens smaller")
        else:
            yield Check(f"positions: {name}", "ok", detail)


def _batches(recipe: Recipe, setting: Setting) -> Iterator[Check]:
    """Whether every training can divide its batch among the devices, as `pns run` asks before it starts."""
    n = setting.spread.gpus
    try:
        check_batches(recipe, n)
    except UserError as error:
        yield Check("batches", "failed", f"{error.field}: {error.message}", error.remedy or "")
    else:
        yield Check("batches", "ok", f"every training can divide its batch among {n} process{'es' * (n > 1)}")


def _memory(recipe: Recipe, found: list[Estimate], setting: Setting) -> Iterator[Check]:
    worst = max(found, key=lambda e: e.memory)
    have = setting.machine.memory_gb * 1e9
    detail = f"{worst.name} needs about {size(worst.memory)} a device, and one has {size(have)}"
    if worst.memory > have:
        several = setting.spread.gpus > 1
        whole = several and setting.spread.divided == "nothing" and worst.work.train is not None
        if recipe.runtime.device == "cpu":
            remedy = "fewer runtime.processes, " if several else ""
        else:
            remedy = "a configuration that divides it (--launcher-config recipes/accelerate/fsdp2.yaml), " * whole
            remedy += "more GPUs (--gpus), "
        remedy += "a larger gradient_accumulation or a smaller micro_batch, "
        remedy += "runtime.gradient_checkpointing=true, "
        remedy += "runtime.vllm.sleep=true, or align.lora" if recipe.runtime.vllm is not None else "or align.lora"
        if worst.work.train is None and vllm_of(recipe, setting, training=False) is not None:
            remedy = (
                "a smaller engine.vllm.gpu_memory_utilization: other models are read beside vLLM; or smaller models"
            )
        yield Check("memory", "failed", detail, remedy)
    elif (jobs := recipe.runtime.jobs) > 1 and (recipe.runtime.device == "cuda" or jobs * worst.memory > have):
        share = "share it"
        if recipe.runtime.device == "cuda":
            share = "share a GPU where there are fewer, or where a launcher or Ray places them"
        detail += f"; {jobs} stages may run side by side (runtime.jobs), and {share}"
        yield Check("memory", "unchecked", detail)
    else:
        yield Check("memory", "ok", detail)


def _shares(recipe: Recipe, setting: Setting) -> Iterator[Check]:
    """Whether vLLM's share of a GPU holds the weights and the keys and values of one row of full length: else it does not start."""
    drawn: list[tuple[Which, int, int]] = [
        ("policy", recipe.rlvr.max_new_tokens, max(recipe.rollouts.max_new_tokens, recipe.evaluate.max_new_tokens))
    ]
    if recipe.trains_generator:
        drawn.append(("generator", recipe.generator.max_new_tokens, longest_generated(recipe)))
    for key, training in (("engine.vllm", False), ("runtime.vllm", True)):
        part = vllm_of(recipe, setting, training=training)
        if part is None:
            continue
        for model, in_grpo, elsewhere in drawn:
            new = in_grpo if training else elsewhere
            yield _share(f"{key}: {model}", key, part, setting, model, round(setting.given.prompt_tokens) + new)


def _share(name: str, key: str, part: VllmPart | GrpoVllmPart, setting: Setting, model: Which, need: int) -> Check:
    """Args: need: tokens of a usual prompt with a completion of full length."""
    shape, width = setting.shapes[model], setting.machine.width
    # A GRPO training asks for its longest prompt and completion; elsewhere vLLM plans for all positions of the model.
    length = part.max_model_len or (need if isinstance(part, GrpoVllmPart) else shape.positions)
    if not length:
        return Check(name, "unchecked", "its configuration does not say how many positions it has")
    if length < need:
        return Check(name, "failed", f"{need} tokens, and max_model_len is {length}", f"a larger {key}.max_model_len")
    if shape.positions and length > shape.positions:
        return Check(
            name, "failed", f"{length} tokens of {shape.positions} positions", f"a smaller {key}.max_model_len"
        )
    weights = width * shape.parameters() / part.tensor_parallel
    row = length * shape.kv_bytes(width) / part.tensor_parallel
    share = part.gpu_memory_utilization * setting.machine.memory_gb * 1e9
    detail = f"weights {size(weights)} and a row of {length} tokens {size(row)}, of vLLM's {size(share)} a device"
    if weights + row > share:
        remedy = f"a smaller {key}.max_model_len, a larger {key}.gpu_memory_utilization, or more {key}.tensor_parallel"
        return Check(name, "failed", detail, remedy)
    return Check(name, "ok", detail)


def _disk(recipe: Recipe, found: list[Estimate], setting: Setting, run_dir: Path) -> Iterator[Check]:
    need = totals(found, setting.spread, recipe.runtime.jobs)["peak_disk_bytes"]
    place = next(p for p in (run_dir.absolute(), *run_dir.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"about {size(need)} are needed at most, and {size(free)} are free at {place}"
    if need > free:
        yield Check("disk", "failed", detail, "free some, or write to another disk (--run-dir)")
    else:
        yield Check("disk", "ok", detail)


def _short(error: Exception) -> str:
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    return text[:160] or type(error).__name__
