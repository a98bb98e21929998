"""What a stage is given: its part of the world, nothing of the order in which stages run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pns.processes import own_device
from pns.readers import Readers
from pns.recipe import SHARED_AMONG_ROUNDS, Recipe
from pns.records import Problem, Response, read_parquet
from pns.rewards.build import build_composite, calibration_of
from pns.rewards.composite import Composite
from pns.rewards.reward_model import Calibration, FittingScorer, RewardModel
from pns.run import JUDGE_SPENT, read_json, seed_of
from pns.verify import Verifier

CONTROL = "control.json"


def _nobody(text: str) -> None:
    """Takes a note where nobody listens."""


@dataclass(frozen=True)
class Context:
    """One stage at work.

    Attributes:
        out: the folder to write to; files of an interrupted attempt with the same fingerprint are still there.
        inputs: published folders of the stages it needs, by name.
        progress: call with (done, total).
        note: call with what a person should know while the run goes on.
        readers: actors that compute log-probabilities and scores; None: the stage does, on its own device.
    """

    recipe: Recipe
    name: str
    out: Path
    inputs: Mapping[str, Path]
    progress: Callable[[int, int], None]
    readers: Readers | None = None
    note: Callable[[str], None] = _nobody

    @property
    def seed(self) -> int:
        """This stage's seed, split from the recipe's by name."""
        return seed_of(self.recipe.seed, self.name)

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split (of this round, where the split is shared among rounds), or of `benchmark-<name>`."""
        rows = read_parquet(self.inputs["problems"] / f"{split}.parquet", Problem)
        part = self.recipe.round
        if split not in SHARED_AMONG_ROUNDS or part.of == 1:
            return rows
        size = len(rows) // part.of
        return rows[(part.number - 1) * size : part.number * size]

    def chosen(self) -> list[Response]:
        """The chosen response of each problem of `pairs` that has one: of the policy, or as `pairs.chosen_by` says."""
        made_by = self.inputs.get("rollouts-generator") or self.inputs["rollouts-pairs"]
        return read_parquet(made_by / "chosen.parquet", Response)

    def control(self) -> str | None:
        """The text that asks this run's generator for a mistake; None where its problems alone do. It lies beside the model."""
        path = self.inputs["generator"] / CONTROL
        return str(read_json(path)["control"]) if path.is_file() else None

    def model(self, stage: str) -> Path:
        """The model directory that a stage published."""
        return self.inputs[stage] / "model"

    def json(self, stage: str, name: str) -> Any:
        """A JSON file that a stage published."""
        return read_json(self.inputs[stage] / name)

    def verifier(self) -> Verifier:
        """The verifier of the recipe's answer format."""
        reward = self.recipe.reward
        return Verifier(reward.answer_format, cpu_seconds=reward.cpu_seconds, workers=reward.verify_workers)

    def composite(self) -> Composite:
        """The one composite reward, with the run's reward model and its calibration where the recipe names no other.

        Close it: a judge or reward model behind a server holds connections.
        """
        part, verifier, spent = self.recipe.reward, self.verifier(), self.out / JUDGE_SPENT
        if part.reward_model is not None:
            named = part.reward_model.model_copy(update={"device": own_device(part.reward_model.device)})
            same = self.readers is not None and part.reward_model.device == self.readers.device
            part = part.model_copy(update={"reward_model": named})
            return build_composite(part, verifier, spent=spent, readers=self.readers if same else None)
        model = self.reward_model(self.model("reward_model"))
        return build_composite(part, verifier, (FittingScorer(model), self.calibration()), spent)

    def reward_model(self, path: Path) -> RewardModel:
        """The scorer over a reward model's directory."""
        passes = None if self.readers is None else self.readers.of("reward", str(path))
        return RewardModel(path, device=own_device(self.recipe.runtime.device), passes=passes)

    def calibration(self) -> Calibration:
        """That of the run's reward model, as the recipe wants it."""
        found = Calibration.load(self.inputs["reward_model"])
        return found if self.recipe.reward.calibrated else found.undone()

    def calibration_of_m(self) -> Calibration:
        """That of the model whose M the composite gives: the one that the recipe names, else the run's own."""
        named = self.recipe.reward.reward_model
        return self.calibration() if named is None else calibration_of(named)
