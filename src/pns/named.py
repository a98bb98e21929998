"""What a recipe names beside its own stages: looked at before hours of training, not after them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pns.pipeline import Stage
from pns.recipe import ModelPart, Recipe, RewardModelSource
from pns.sampling.make import check_engine


def check_named(ahead: Iterable[tuple[Stage, Recipe]]) -> None:
    """Looks for what the stages ahead are to read, each recipe once. No hub is asked, and no model is loaded.

    Raises UserError: an engine, a reward model, its calibration or a writer of prompted negatives that is not here.
    """
    found: dict[int, tuple[Recipe, list[Stage]]] = {}
    for stage, recipe in ahead:
        found.setdefault(id(recipe), (recipe, []))[1].append(stage)
    for recipe, stages in found.values():
        keys = {key for stage in stages for key in stage.keys}
        if "engine" in keys:
            check_engine(recipe.engine)
        if "reward" in keys and recipe.reward.reward_model is not None:
            _check_scorer(recipe.reward.reward_model)
        prompted = recipe.negatives.prompted
        if prompted.writer == "model" and any(stage.name == "negatives-prompted" for stage in stages):
            from pns.training.pretrained import check_writer

            check_writer(prompted, recipe.engine.kind)


def _check_scorer(source: RewardModelSource) -> None:
    from pns.rewards.build import calibration_of
    from pns.training.pretrained import as_field, find_model

    calibration_of(source)
    # A directory may hold weights in forms that no training starts from: the model's own reader looks at it.
    if source.path is not None and not Path(source.path).expanduser().is_dir():
        with as_field("reward.reward_model"):
            find_model(ModelPart(kind="pretrained", path=source.path, revision=source.revision))
