"""What else negatives are good for, besides preference training of the policy: settings of the trainings behind it."""

from __future__ import annotations

from pydantic import Field

from pns.parts.base import Part


class StepVerifierPart(Part):
    """A classifier of steps, trained on responses with their first wrong step."""

    steps: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=1, description="responses")
    learning_rate: float = Field(3e-4, gt=0)
    max_length: int = Field(192, ge=8, description="tokens; a response that is longer is an error, never dropped")


class RewardModelRlPart(Part):
    """RL of the policy on a reward model alone, with the problems and the budget of the generator's training."""

    beta: float = Field(0.05, ge=0, description="KL coefficient to the policy")
    learning_rate: float | None = Field(None, gt=0, description="default that of rlvr")


class UsesPart(Part):
    """Read by `uses` of a study alone; a run trains none of these."""

    step_verifier: StepVerifierPart = StepVerifierPart()
    rl: RewardModelRlPart = RewardModelRlPart()
    calibration_responses: int = Field(
        2000, ge=10, description="held-out responses, and as many to fit on, whose scores are mapped to probabilities"
    )
