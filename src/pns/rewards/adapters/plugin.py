"""What the rewards for verl and OpenRLHF share: settings, one composite a process, and what "unscored" becomes there.

Both load a function by its name and give it nothing of ours, so settings come as keyword arguments (verl's
`reward_kwargs`) or from the environment: PNS_REWARD_RECIPE, PNS_REWARD_OVERRIDES (separated by white space) and
PNS_ON_UNSCORED. (Source: ours.)
"""

from __future__ import annotations

import atexit
import math
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pns.errors import UserError
from pns.recipe import RewardPart
from pns.recipe_files import load_reward
from pns.records import Gate, Scores
from pns.rewards.adapters.batching import Batcher
from pns.rewards.build import build_composite

RECIPE, OVERRIDES, ON_UNSCORED = "PNS_REWARD_RECIPE", "PNS_REWARD_OVERRIDES", "PNS_ON_UNSCORED"


class RewardAborted(BaseException):
    """Training must stop: a response could not be scored, or the reward cannot be set up. `str(error)` says why.

    No Exception on purpose: OpenRLHF catches every Exception of a reward function and goes on with another reward, and
    verl's rate-limited manager turns it into a reward of 0.
    """


@dataclass(frozen=True)
class Settings:
    """Where the reward comes from, and what an unscored response gets: `abort`, or a stated penalty."""

    recipe: str
    overrides: tuple[str, ...] = ()
    on_unscored: Literal["abort"] | float = "abort"

    @classmethod
    def of(
        cls,
        recipe: str | None = None,
        overrides: str | Sequence[str] | None = None,
        on_unscored: str | float | None = None,
    ) -> Settings:
        """The arguments, and the environment for those that are None. Raises UserError where they make no sense."""
        path = recipe or os.environ.get(RECIPE)
        if not path:
            raise UserError(
                "no recipe", field=RECIPE, remedy=f"export {RECIPE}=my/reward.yaml, or give `recipe` in reward_kwargs"
            )
        changes = os.environ.get(OVERRIDES, "") if overrides is None else overrides
        words = changes.split() if isinstance(changes, str) else [str(change) for change in changes]
        return cls(str(path), tuple(words), _on_unscored(on_unscored))


def _on_unscored(given: str | float | None) -> Literal["abort"] | float:
    value = os.environ.get(ON_UNSCORED, "abort") if given is None else given
    if value == "abort":
        return "abort"
    try:
        penalty = float(value)
    except (TypeError, ValueError):
        penalty = math.nan
    if not math.isfinite(penalty):
        raise UserError(
            f"{str(value)[:40]!r} is neither `abort` nor a number", field=ON_UNSCORED, remedy="write abort, or e.g. -1"
        )
    return penalty


RECENT = 200
"""So many of the last responses of this process are looked at by `Watch`."""


class Watch:
    """Of the last responses of one reward, how many had no score. Past `most` of them it gives up, for good.

    For a trainer that takes an abort as one failed response, leaves that out of its group and goes on, as verl's does: a judge
    that is down must stop it all the same.

    Args:
        most: the share of the last `RECENT` responses that may be unscored, 0..1.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._unscored: deque[bool] = deque(maxlen=RECENT)
        self._gave_up: str | None = None

    def check(self) -> None:
        """Raises RewardAborted where it has given up."""
        if self._gave_up is not None:
            raise RewardAborted(self._gave_up)

    def see(self, scores: Scores) -> None:
        """Count one more response. Raises RewardAborted as `check`."""
        self.check()
        self._unscored.append(scores.score is None)
        count = sum(self._unscored)
        if count > self._most * RECENT:
            self._gave_up = (
                f"{count} of the last {len(self._unscored)} responses could not be scored, the last one for "
                f"{scores.unscored_cause}: more than reward.max_unscored ({self._most:.0%} of {RECENT}); {_MEND}"
            )
            self.check()


_MEND = f"mend the cause and resume from the last checkpoint, or set {ON_UNSCORED} (verl: reward_kwargs.on_unscored) to a penalty"

_made: dict[tuple[str, tuple[str, ...]], Batcher] = {}
_making = threading.Lock()


def batcher(settings: Settings) -> Batcher:
    """The reward of these settings, made at its first use in this process. Raises UserError as `load_reward`."""
    key = settings.recipe, settings.overrides
    with _making:
        if key not in _made:
            made = Batcher(build_composite(load_reward(settings.recipe, list(settings.overrides))))
            atexit.register(made.close)
            _made[key] = made
        return _made[key]


def needs_text(made: Batcher) -> bool:
    """Whether the reward reads more of a problem than its gold answer."""
    return made.composite.reward_model is not None or made.composite.judge is not None


def as_numbers(scores: Scores, part: RewardPart, on_unscored: Literal["abort"] | float) -> dict[str, float]:
    """A score and its breakdown under fixed keys, all numbers, for trainers that average whatever they are given.

    `score`; `acc`: 1 for a decidedly correct answer; `credit_inversion`, `credit_reward_model`, `credit_judge`: what
    each term adds to the score (the three add up to it where all gates are open, and are 0 where one closed);
    `gate_*`: 1 for the gate that decided. Raises RewardAborted for an unscored response where the setting says so.
    """
    score = scores.score
    if score is None and on_unscored == "abort":
        raise RewardAborted(f"a response could not be scored ({scores.unscored_cause}); {_MEND}")
    open_ = scores.gate == "scored"
    m, c = scores.reward_model, scores.rubric
    return {
        "score": float(on_unscored) if score is None else score,
        "acc": float(scores.gate == "correct"),
        "credit_inversion": part.weight_inversion if open_ else 0.0,
        "credit_reward_model": part.weight_reward_model * m if open_ and m is not None else 0.0,
        "credit_judge": part.weight_judge * c.value if open_ and c is not None else 0.0,
        **{f"gate_{gate}": float(scores.gate == gate) for gate in get_args(Gate)},
    }
