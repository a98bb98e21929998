"""What a run asks of this machine itself: ports that can be bound, programs that are there, GPUs. Starts nothing."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import Any

from pns.accelerated import MAIN_PORT, configuration, machines
from pns.doctor.machine import memory_here
from pns.errors import UserError
from pns.gpus import key_here, seen
from pns.launch import Launcher, check_launcher
from pns.pipeline import stages
from pns.plan.check import Check
from pns.plan.estimate import Estimate, Setting, loaded_bytes
from pns.plan.words import size
from pns.recipe import Recipe

GROUP_PORT = 51216
"""Where a training waits for TRL's vLLM server, to send it weights (`vllm_group_port`, TRL 1.16)."""


def here_checks(recipe: Recipe, launcher: Launcher | None, gpus: int | None = None) -> Iterator[Check]:
    """Checks of this machine, for a run that is started on it.

    Args:
        gpus: devices that are planned for in place of `runtime.processes`, perhaps of another machine: without a launcher
            it is not asked for one.
    Raises UserError for a configuration that is no YAML.
    """
    runtime = recipe.runtime
    file = None if launcher is None else launcher.config
    config = configuration(file)
    if launcher is not None or (gpus is None and runtime.processes > 1):
        processes = runtime.processes if gpus is None else gpus
        told = recipe.model_copy(update={"runtime": runtime.model_copy(update={"processes": processes})})
        try:
            check_launcher(told, launcher)
        except UserError as error:
            yield Check("launcher", "failed", f"{error.field}: {error.message}", error.remedy or "")
    several = launcher is not None and launcher.kind == "accelerate" and runtime.processes > 1
    if several and (runtime.device == "cuda" or machines(file) > 1) and not config.get("machine_rank"):
        port = config.get("main_process_port")
        yield _port(
            "port: accelerate", MAIN_PORT if port is None else port, "another main_process_port (--launcher-config)"
        )
    if runtime.vllm is not None and runtime.vllm.mode == "server":
        yield _port(
            "port: GRPO's vLLM", GROUP_PORT, "end what listens there: TRL's trainings wait for their server on it"
        )
    if recipe.engine.server is not None and recipe.engine.server.start:
        yield _program(recipe.engine.server.start)
    yield from _gpus(recipe, launcher)


def main_memory(recipe: Recipe, found: list[Estimate], setting: Setting, launcher: Launcher | None) -> Iterator[Check]:
    """Whether this machine's memory holds what the processes that are launched on it load for GPUs."""
    if launcher is None or recipe.runtime.device != "cuda":
        return
    each, name = max((loaded_bytes(e.work, recipe, setting), e.name) for e in found)
    if not each:
        return
    count = -(-setting.spread.gpus // machines(launcher.config))
    if launcher.kind == "ray":
        text = f"{name} loads about {size(each)} for each process, on the machine where Ray places it"
        yield Check("main memory", "unchecked", text)
        return
    have = memory_here()
    detail = f"{name} loads about {size(each)} for each process, {size(count * each)} for {count}, and there are {size(have)}"
    if not seen():
        yield Check("main memory", "unchecked", f"{detail} here, on a machine where torch sees no GPU")
    elif count * each > have:
        remedy = "fewer runtime.processes, or more machines (num_machines of --launcher-config)"
        yield Check("main memory", "failed", detail, remedy)
    else:
        yield Check("main memory", "ok", detail)


def _port(name: str, port: Any, remedy: str) -> Check:
    if port == 0:
        return Check(name, "ok", "a free one is taken at the start")
    try:
        with socket.socket() as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(("", int(port)))
    except (OSError, OverflowError, ValueError, TypeError) as error:
        return Check(name, "failed", f"{str(port)[:20]} cannot be bound here: {error}", remedy)
    return Check(name, "ok", f"{port} is free here")


def _program(command: tuple[str, ...]) -> Check:
    """Whether the program is there; behind `env` and its variables, if these come first. Its port is free when it starts."""
    name = next((word for word in command if word != "env" and "=" not in word), command[0])
    place, label = shutil.which(name), "program: engine.server.start"
    if place is None:
        return Check(label, "failed", f"{name}: no such program", "install it, or give its path")
    return Check(label, "ok", f"{place}; its servers get ports that are free when they start")


def _gpus(recipe: Recipe, launcher: Launcher | None) -> Iterator[Check]:
    """Whether each process that computes on a GPU of this machine has one; where torch sees none, it may be another
    machine that the plan is for.
    """
    keys = [key for stage in stages(recipe).values() if (key := key_here(stage, recipe, launcher)) is not None]
    if not keys:
        if recipe.runtime.device == "cuda":
            yield Check("GPUs", "unchecked", "Ray places all that computes on one, perhaps on other machines")
        return
    processes = 1
    if recipe.runtime.device == "cuda" and (launcher is None or launcher.kind == "accelerate"):
        processes = -(-recipe.runtime.processes // machines(None if launcher is None else launcher.config))
    count = seen()
    want = f"{processes} processes want one each" if processes > 1 else "a process wants one"
    if count is None:
        yield Check("GPUs", "unchecked", "torch is not installed here")
    elif not count:
        yield Check("GPUs", "unchecked", f"{want}, and torch sees none on this machine, which `pns run` would refuse")
    elif processes > count:
        remedy = "fewer runtime.processes, or more machines (num_machines of --launcher-config)"
        yield Check("GPUs", "failed", f"{want}, and torch sees {count}", remedy)
    else:
        yield Check("GPUs", "ok", f"{want}, and torch sees {count}")
