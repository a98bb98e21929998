"""How a step's batch is divided among the processes of a training, and among the passes of each. Torch-free.

A step's batch is the recipe's, whatever the number of processes, and so is the gradient (up to rounding). The rows of a
pass are those of one process, for they are what a GPU holds; with more processes each has fewer passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from pns.errors import UserError
from pns.parts.training import AlignPart, GrpoPart, RewardModelPart, SftPart
from pns.recipe import Recipe


def divided(batch: int, micro: int, name: str, processes: int) -> tuple[int, int]:
    """Rows of one pass of one process, and passes of each process in a step; batch = processes x rows x passes.

    Args:
        batch: rows of an optimizer step, of all processes together.
        micro: rows of a pass at most.
        name: whose batch it is, as the message has it.
    Raises UserError where the division does not come out even.
    """
    each, rest = divmod(batch, processes)
    if rest:
        raise UserError(
            f"a batch of {batch} rows cannot be divided among {processes} processes ({name})",
            field="runtime.processes",
            remedy="choose a batch that the number of processes divides",
        )
    rows = min(micro, each)
    if each % rows:
        raise UserError(
            f"{each} rows of each of {processes} processes cannot be divided into passes of {rows} ({name})",
            field="runtime.processes",
            remedy="choose rows of a pass (micro_batch, or batch_size / gradient_accumulation) that divide them",
        )
    return rows, each // rows


def rows_of(part: SftPart | GrpoPart | RewardModelPart | AlignPart) -> tuple[int, int]:
    """The batch of a step, and the rows of a pass, as `divided` takes them. Of preferences a row is a pair."""
    if isinstance(part, GrpoPart):
        batch = part.prompts_per_step * part.num_generations
        return batch, part.micro_batch or batch
    return part.batch_size, part.batch_size // part.gradient_accumulation


def check_batches(recipe: Recipe, processes: int) -> None:
    """Whether every training of a recipe can divide its batch among so many processes. Raises UserError, as `divided`."""
    for name, part in _trainings(recipe):
        divided(*rows_of(part), name, processes)


def _trainings(recipe: Recipe) -> Iterator[tuple[str, SftPart | GrpoPart | RewardModelPart | AlignPart]]:
    """The parts that say batches; references have the generator's, the `sft_chosen` control that of `align`."""
    if recipe.sft.steps:
        yield "sft", recipe.sft
    yield "rlvr", recipe.rlvr
    yield "reward_model", recipe.reward_model
    if recipe.trains_generator or recipe.references:
        yield "generator", recipe.generator
    yield "align", recipe.align
