"""REINFORCE without a baseline: NSR and W-REINFORCE (arXiv 2506.01347) on TRL's GRPO trainer."""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer


def advantages(rewards_N: torch.Tensor, positive_weight: float) -> torch.Tensor:
    """The rewards themselves, with those above 0 times `positive_weight`; no mean and no deviation of a group in it.

    With rewards 1 and -1 this is the paper's lambda * PSR + NSR: `positive_weight` 0 is NSR, 1 plain REINFORCE.

    Args:
        rewards_N: one a completion; NaN for one that could not be scored, whose advantage is 0.
    """
    weighted_N = torch.where(rewards_N > 0, positive_weight * rewards_N, rewards_N)
    return torch.nan_to_num(weighted_N, nan=0.0)


class ReinforceTrainer(GRPOTrainer):
    """GRPOTrainer with these advantages in place of the group-relative ones, for one reward function.

    All else is GRPO's: sampling, checkpoints, and the loss, which at one update a generation is the policy gradient.
    """

    def __init__(self, *args: Any, positive_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.positive_weight = positive_weight

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        # (rows of all processes, reward functions). TRL returns advantages without the rewards that they come from.
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        # Here the rows still stand as they were scored; TRL shuffles them afterwards.
        batch = super()._generate_and_score_completions(inputs)
        n = len(batch["advantages"])
        first = self.accelerator.process_index * n
        batch["advantages"] = advantages(self._rewards[first : first + n, 0], self.positive_weight)
        return batch
