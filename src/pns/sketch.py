"""Values and names of which there may be any number, in bounded memory: exact up to a bound, and then it is told. (Source: ours.)"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field

VALUES = 50_000
NAMES = 20_000


@dataclass
class Sample:
    """Values, of which all are kept, or from VALUES on a fair sample of that many (reservoir sampling, fixed seed).

    Attributes:
        count: values seen.
        kept: those to take quantiles from; of a sample the error of a quantile is about 0.2 % of its rank.
    """

    count: int = 0
    kept: array[float] = field(default_factory=lambda: array("d"))
    _rng: random.Random = field(default_factory=lambda: random.Random(0))

    def append(self, value: float) -> None:
        """One more."""
        self.count += 1
        if len(self.kept) < VALUES:
            self.kept.append(value)
        elif (place := self._rng.randrange(self.count)) < VALUES:
            self.kept[place] = value

    def __len__(self) -> int:
        return self.count


@dataclass
class Names:
    """How often each name was seen, for the first NAMES different ones.

    Attributes:
        full: there were others, which are not told apart.
    """

    times: dict[str, int] = field(default_factory=dict)
    full: bool = False

    def add(self, name: str) -> None:
        """One more."""
        if name in self.times or len(self.times) < NAMES:
            self.times[name] = self.times.get(name, 0) + 1
        else:
            self.full = True

    def __len__(self) -> int:
        return len(self.times)

    @property
    def most(self) -> int:
        """Of one of them."""
        return max(self.times.values(), default=0)

    def __str__(self) -> str:
        return f"{len(self)} or more" if self.full else str(len(self))
