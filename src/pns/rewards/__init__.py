"""One file a term; `composite` joins them. Loads no torch: the reward model imports it when one is made."""

from __future__ import annotations

from pns.rewards.composite import Composite
from pns.rewards.format import CHECKS, format_failures
from pns.rewards.inversion import inversion
from pns.rewards.reward_model import Calibration, RewardModel
from pns.rewards.steps import find_steps, judge_steps

__all__ = [
    "CHECKS",
    "Calibration",
    "Composite",
    "RewardModel",
    "find_steps",
    "format_failures",
    "inversion",
    "judge_steps",
]
