"""`pns plan`: what a run will take and what would stop it, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pns.commands.common import BAD_INPUT, console, errors, need_libraries, note_unread, overrides_argument, say
from pns.commands.launchers import LauncherConfig, LauncherOption, Launchers
from pns.errors import UserError
from pns.plan.words import amount, duration, size, two

if TYPE_CHECKING:
    from pns.launch import Launcher
    from pns.plan.check import Check
    from pns.plan.cost import Spread
    from pns.plan.estimate import Estimate, Setting
    from pns.plan.machine import Machine
    from pns.recipe import Recipe

NOTHING = "Nothing is written; the same command starts from the beginning."


class EngineName(StrEnum):
    """How completions are decoded."""

    transformers = "transformers"
    vllm = "vllm"


def plan(
    recipe: Annotated[
        Path | None, typer.Argument(help="Recipe file (YAML).", metavar="RECIPE", show_default=False)
    ] = None,
    overrides: Annotated[list[str] | None, overrides_argument("align.beta=0.2")] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices: GPUs, or processes of one thread on a CPU. Default: runtime.processes.",
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Without --launcher: devices of a node, assumed to share the state of a training. Default: 8.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            help="Of all sampling: static batches (transformers) or continuous batching (vllm). Default: as the recipe says, "
            "`runtime.vllm` in GRPO trainings and `engine` elsewhere.",
            show_default=False,
        ),
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            help="Constants of a machine, from --calibrate. Default: an H100's, or a CPU's with this machine's memory."
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure the machine at hand first; with --machine FILE, write it there."),
    ] = False,
    assume: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Another assumption, e.g. answer_share=0.4.", show_default=False),
    ] = None,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens that the judge reads.", show_default=False)
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens that the judge writes.", show_default=False)
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Where the run would live. Default: runs/<recipe name>.", show_default=False),
    ] = None,
    launcher: LauncherOption = Launchers.none,
    launcher_config: LauncherConfig = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask neither servers nor the hub.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of tables.")] = False,
) -> None:
    """Estimate a run and check what can be checked before it starts. Nothing is trained or downloaded.

    Figures come from a cost model (docs/scale.md) and are given to two digits. Exit code 2: a check failed that
    would stop the run. What could not be checked is said.

    Examples:

      pns plan recipes/embedded.yaml

      pns plan recipes/paper/qwen2.5-7b.yaml --gpus 8

      pns plan recipes/embedded.yaml --calibrate --machine here.json

      pns plan my.yaml --launcher accelerate --launcher-config fsdp2.yaml

      pns plan recipes/paper/qwen2.5-7b.yaml --price-in 0.4 --price-out 1.2
    """
    with errors(NOTHING):
        if (price_in is None) != (price_out is None):
            raise UserError("--price-in and --price-out go together", remedy="give both, or neither")
        if recipe is None and not calibrate:
            raise UserError("no recipe", remedy="name one, or measure this machine with --calibrate")
        if recipe is None:
            _only_measure(machine, as_json)
            return
        from pns.launch import launcher_of
        from pns.pipeline import stages
        from pns.plan.sharing import spread_of
        from pns.recipe_files import load_recipe

        starter = launcher_of(launcher.value, launcher_config)
        told, sources = load_recipe(recipe, overrides or [])
        note_unread(sources, stages(told))
        spread, sharing = spread_of(told, starter, gpus, shard)
        device = _machine(told, machine, calibrate, starter, gpus)
        with_ = _setting(told, device, spread, engine, assume or [], (price_in, price_out))
        place = run_dir or Path("runs") / told.name
        failed = _show(told, with_, sharing, place, starter, gpus, ask=not offline, as_json=as_json)
    if failed:
        raise typer.Exit(BAD_INPUT)


def _only_measure(file: Path | None, as_json: bool) -> None:
    need_libraries()
    import torch

    found = _measured("cuda" if torch.cuda.is_available() else "cpu", file)
    if as_json:
        typer.echo(json.dumps(found.model_dump(), indent=1))
    else:
        say(_machine_lines(found))


def _machine(recipe: Recipe, file: Path | None, measure: bool, launcher: Launcher | None, gpus: int | None) -> Machine:
    from pns.plan.machine import load_machine, usual_machine

    if measure:
        need_libraries()
        return _measured(recipe.runtime.device, file)
    return usual_machine(recipe, launcher, gpus) if file is None else load_machine(file)


def _measured(device: str, file: Path | None) -> Machine:
    from pns.plan.calibrate import calibrate
    from pns.plan.machine import save_machine
    from pns.run import check_writable

    if file is not None:
        check_writable(file, "--machine")
    try:
        found = calibrate(device)
    except RuntimeError as error:
        raise UserError(
            f"this machine cannot be measured: {error}", remedy="plan with --machine FILE from another"
        ) from None
    if file is not None:
        save_machine(found, file)
    return found


def _setting(
    recipe: Recipe, machine: Machine, spread: Spread, engine: EngineName | None, assume: list[str],
    prices: tuple[float | None, float | None],
) -> Setting:  # fmt: skip
    from pns.plan.estimate import Setting
    from pns.plan.models import shapes_of
    from pns.plan.work import assume as assumed

    shapes, _ = shapes_of(recipe)
    continuous = None if engine is None else engine is EngineName.vllm
    return Setting(shapes, machine, spread, assumed(recipe, assume), *prices, continuous)


def _show(
    recipe: Recipe, setting: Setting, sharing: str, run_dir: Path, launcher: Launcher | None, gpus: int | None, *,
    ask: bool, as_json: bool,
) -> bool:  # fmt: skip
    """Print all; whether a check has failed. `sharing`: what is divided of a training, in words."""
    from pns.plan.checks import checks
    from pns.plan.estimate import estimates, totals
    from pns.plan.here import here_checks, main_memory

    found = estimates(recipe, setting)
    results = [
        *checks(recipe, found, setting, run_dir, ask=ask, launcher=launcher),
        *here_checks(recipe, launcher, gpus),
        *main_memory(recipe, found, setting, launcher),
    ]
    whole = totals(found, setting.spread, recipe.runtime.jobs)
    if as_json:
        typer.echo(json.dumps(_data(recipe, setting, sharing, found, results, whole), indent=1))
    else:
        _tables(recipe, setting, sharing, found, results, whole)
    return any(check.state == "failed" for check in results)


def _data(
    recipe: Recipe, setting: Setting, sharing: str, found: list[Estimate], results: list[Check], whole: dict[str, Any]
) -> dict[str, Any]:
    rows = [
        {
            "stage": e.name, "rows": e.work.rows, "decoded_tokens": two(e.work.decoded), "trained_tokens": two(e.work.trained),
            "judge_calls": two(e.work.calls), "judge_price": None if e.price is None else two(e.price),
            "memory_bytes": two(e.memory), "disk_bytes": two(e.disk), "seconds": two(e.total),
            "device_hours": two(e.total * setting.spread.gpus / 3600),
            "seconds_by": {k: two(v) for k, v in e.seconds.items()},
        }
        for e in found
    ]  # fmt: skip
    rounded = {k: two(v) if isinstance(v, int | float) else v for k, v in whole.items() if k != "seconds_by"}
    return {
        "recipe": recipe.name,
        "estimates": "a cost model's, two significant digits (docs/scale.md)",
        "devices": setting.spread.gpus,
        "state_of_trainings": {"divided": setting.spread.divided, "among": setting.spread.sharing, "said": sharing},
        "engine": _engine(recipe, setting, training=False),
        "engine_in_grpo": _engine(recipe, setting, training=True),
        "machine": setting.machine.model_dump(),
        "assumptions": setting.given.model_dump(),
        "parameters": {name: shape.parameters(head=name != "reward_model") for name, shape in setting.shapes.items()},
        "stages": rows,
        "total": {**rounded, "seconds_by": {k: two(v) for k, v in whole["seconds_by"].items()}},
        "checks": [vars(check) for check in results],
    }


def _tables(
    recipe: Recipe, setting: Setting, sharing: str, found: list[Estimate], results: list[Check], whole: dict[str, Any]
) -> None:
    from rich.table import Table
    from rich.text import Text

    device, n = setting.machine.name, setting.spread.gpus
    table = Table(title=f"{recipe.name} on {n} x {device} (estimates)", title_justify="left")
    table.add_column("stage", no_wrap=True, min_width=max(len(e.name) for e in found))
    for column in ("rows", "tokens sampled", "tokens trained", "judge calls", "memory", "time", "device hours"):
        table.add_column(column, justify="right")
    table.add_column("mostly")
    for e in found:
        work = e.work
        table.add_row(
            e.name, f"{work.rows:,}" if work.rows else "", amount(work.decoded), amount(work.trained), amount(work.calls),
            size(e.memory), duration(e.total), amount(e.total * n / 3600), e.bound,
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "all", "", amount(whole["decoded_tokens"]), amount(whole["trained_tokens"]), amount(whole["judge_calls"]),
        size(whole["memory_bytes"]), duration(whole["hours"] * 3600), amount(whole["device_hours"]),
        max(whole["seconds_by"], key=whole["seconds_by"].get),
    )  # fmt: skip
    console().print(table)
    say(_basis(recipe, setting, sharing, whole))
    checks = Table(title="checks", title_justify="left")
    for column in ("check", "", "what"):
        checks.add_column(column)
    for check in results:
        told = check.detail + (f"\n-> {check.remedy}" if check.remedy else "")
        shown = {"failed": "FAILED", "unchecked": "not checked"}.get(check.state, check.state)
        checks.add_row(Text(check.name), shown, Text(told))
    console().print(checks)
    say(_counted([check.state for check in results]))


def _counted(states: Sequence[str]) -> str:
    """The last line: how many checks ended how."""
    hold, failed, unmade = (states.count(state) for state in ("ok", "failed", "unchecked"))
    verb = "check holds" if hold == 1 else "checks hold"
    return f"{hold} {verb}, {failed} failed, {unmade} {'was' if unmade == 1 else 'were'} not made."


def _engine(recipe: Recipe, setting: Setting, *, training: bool) -> str:
    """What decodes, of trainings or of other stages."""
    from pns.plan.work import continuous

    own = continuous(recipe, training=training)
    return (
        EngineName.vllm if (own if setting.continuous is None else setting.continuous) else EngineName.transformers
    ).value


def _basis(recipe: Recipe, setting: Setting, sharing: str, whole: dict[str, Any]) -> str:
    """What the figures rest on, in lines."""
    shapes = {
        name: f"{shape.parameters(head=name != 'reward_model') / 1e9:.3g} B" for name, shape in setting.shapes.items()
    }
    if setting.shapes["policy"].parameters() < 1e8:
        shapes = {name: f"{shape.parameters(head=name != 'reward_model'):,}" for name, shape in setting.shapes.items()}
    words = {"vllm": "continuous batches (vLLM)", "transformers": "static batches (transformers)"}
    engine, grpo = (words[_engine(recipe, setting, training=flag)] for flag in (False, True))
    spent = sorted(whole["seconds_by"].items(), key=lambda kv: -kv[1])
    lines = [
        "Time is of stages one after the other; memory is of one device.",
        *_servers(recipe),
        "Time goes to: " + ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in spent),
        "Parameters: " + ", ".join(f"{name} {count}" for name, count in shapes.items()) + ".",
        f"Trainings: {sharing}.",
        f"Sampling: {engine}; in GRPO trainings {grpo}.",
        f"Disk: {size(whole['disk_bytes'])} in the end, {size(whole['peak_disk_bytes'])} at most with checkpoints.",
    ]
    if whole["judge_price"] is not None:
        lines.append(f"Judge: {amount(whole['judge_calls'])} calls cost {amount(whole['judge_price'])}.")
    elif whole["judge_calls"]:
        lines.append(f"Judge: {amount(whole['judge_calls'])} calls; no price was given (--price-in, --price-out).")
    lines.append("Assumed: " + ", ".join(f"{k}={v:g}" for k, v in setting.given.model_dump().items()) + " (--assume)")
    return "\n".join([*lines, _machine_lines(setting.machine)])


def _servers(recipe: Recipe) -> list[str]:
    """A line on whose devices are not counted, where servers have some of their own."""
    reward, engine, vllm = recipe.reward, recipe.engine.server, recipe.runtime.vllm
    prompted = recipe.negatives.prompted.server if "prompted" in recipe.negatives.sources() else None
    named = {
        "the judge": reward.judge_server,
        "the reward model": None if reward.reward_model is None else reward.reward_model.server,
        "the prompted writer": prompted,
        "the engine": engine if engine is not None and engine.urls else None,
        "GRPO's vLLM": vllm if vllm is not None and vllm.mode == "server" else None,
    }
    apart = [name for name, part in named.items() if part is not None]
    return [f"Device hours leave out the devices of servers: {', '.join(apart)}."] if apart else []


def _machine_lines(machine: Machine) -> str:
    numbers = machine.model_dump(exclude={"name", "source"})
    return f"Machine: {machine.name}. {machine.source}.\n  " + ", ".join(f"{k}={v:g}" for k, v in numbers.items())
