"""Among how many devices a training's state is divided: as its launcher's configuration says, or as assumed where none is named."""

from __future__ import annotations

from pns.accelerated import Divided, divides, division, machines
from pns.errors import UserError
from pns.launch import Launcher
from pns.plan.cost import Spread
from pns.recipe import Recipe

NODE = 8
"""GPUs of a node, where nothing says how many."""

_WHAT: dict[Divided, str] = {
    "everything": "weights, gradients and optimizer states are divided among {}",
    "state": "gradients and optimizer states are divided among {}, and weights are whole",
    "optimizer": "optimizer states are divided among {}, and weights and gradients are whole",
    "nothing": "each device holds everything",
}


def spread_of(recipe: Recipe, launcher: Launcher | None, gpus: int | None, shard: int | None) -> tuple[Spread, str]:
    """The devices of a plan and what they share, and the same in words, with where that is said.

    Args:
        gpus: devices, in place of `runtime.processes`.
        shard: devices of a node that share everything, where no launcher is named.
    Raises UserError where both a launcher and `shard` say what is divided.
    """
    count = recipe.runtime.processes if gpus is None else gpus
    if launcher is None:
        return _assumed(count, shard or NODE, recipe.runtime.device == "cpu")
    if shard is not None:
        raise UserError(
            "beside --launcher its configuration says what is divided", field="--shard", remedy="leave one of the two out"
        )  # fmt: skip
    try:
        node = -(-count // machines(launcher.config)) if launcher.kind == "accelerate" else NODE
        what, among = division(launcher.config, count)
    except UserError:  # the check `launcher` says why
        return Spread(
            count, divided="nothing"
        ), "the configuration is refused, and each device is counted with everything"
    shard = NODE if what == "nothing" else among
    spread = Spread(count, shard, divided=what, node=node, parts=divides(launcher.config))
    by = "there is no --launcher-config (DDP)" if launcher.config is None else f"so says {launcher.config.name}"
    return spread, f"{_words(spread)}: {by}"


def _assumed(count: int, shard: int, on_cpu: bool) -> tuple[Spread, str]:
    if on_cpu:
        return Spread(count, shard, divided="nothing"), f"{_WHAT['nothing']}: on a CPU nothing is divided"
    spread = Spread(count, shard)
    if count == 1:
        return spread, _WHAT["nothing"]
    file = "fsdp2" if count <= shard else "two_nodes"
    return spread, (
        f"{_words(spread)}: assumed, for no --launcher is named; recipes/accelerate/{file}.yaml divides so, and without a "
        "--launcher-config each GPU holds everything"
    )


def _words(spread: Spread) -> str:
    return _WHAT[spread.divided].format(f"{spread.sharing} of {spread.gpus} devices")
