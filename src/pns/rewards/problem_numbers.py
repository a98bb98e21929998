"""The numbers that a problem gives: digits, number words, what `half` or `percent` imply. (Source: ours.)"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
WORDS: dict[str, int] = {word: i for i, word in enumerate(_UNITS.split())}
TENS: dict[str, int] = {
    w: 10 * i
    for i, w in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2)
}
SCALES: dict[str, int] = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
F = Fraction
# What a word lets a solution use, though the number itself is not written.
IMPLIED: dict[str, tuple[Fraction, ...]] = {
    **dict.fromkeys(["half", "halves", "halve", "halved", "halving"], (F(2), F(1, 2))),
    **dict.fromkeys(["twice", "double", "doubles", "doubled", "doubling", "pair", "pairs", "both", "couple"], (F(2),)),
    **dict.fromkeys(["triple", "triples", "tripled", "thrice"], (F(3),)),
    **dict.fromkeys(("third", "thirds"), (F(3), F(1, 3))),
    **dict.fromkeys(("quarter", "quarters"), (F(4), F(1, 4), F(25))),
    **dict.fromkeys(("fourth", "fourths"), (F(4), F(1, 4))),
    **dict.fromkeys(("fifth", "fifths"), (F(5), F(1, 5))),
    **dict.fromkeys(("dozen", "dozens"), (F(12),)),
    **dict.fromkeys(("percent", "percentage", "cents", "cent"), (F(100),)),
    **dict.fromkeys(("average", "mean", "twins", "once"), (F(2),)),
    **dict.fromkeys(("himself", "herself", "themselves", "myself", "another", "single", "alone"), (F(1),)),
    **dict.fromkeys(("week", "weeks", "weekly"), (F(7), F(5))),
    **dict.fromkeys(("day", "days", "daily"), (F(7), F(24))),
    **dict.fromkeys(("hour", "hours", "hourly", "minute", "minutes"), (F(60),)),
    **dict.fromkeys(
        ("year", "years", "yearly", "annual", "annually", "month", "months"), (F(12), F(4), F(52), F(365), F(30))
    ),
    **dict.fromkeys(("foot", "feet", "inch", "inches"), (F(12),)),
    **dict.fromkeys(("yard", "yards"), (F(3),)),
}
_PIECE = re.compile(
    r"(?P<mixed>(?P<whole>[0-9]{1,6}) (?P<above>[0-9]{1,3})/(?P<below>[0-9]{1,3})(?![0-9./]))"
    r"|(?P<digits>[0-9]{1,3}(?:,[0-9]{3}){1,8}(?:\.[0-9]{1,15})?|[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})"
    r"(?P<percent>\s?\\?%)?"
    r"|(?P<word>[A-Za-z]+)"
)


def problem_numbers(problem: str) -> tuple[Counter[Fraction], Counter[Fraction]]:
    """Numbers of a problem, with how often each occurs: (written as digits or words, implied by words, per cents)."""
    written: Counter[Fraction] = Counter()
    implied: Counter[Fraction] = Counter()
    tens: int | None = None
    previous: Fraction | None = None
    for piece in _PIECE.finditer(problem):
        if piece["mixed"]:
            above, below = int(piece["above"]), int(piece["below"])
            written.update(Fraction(int(piece[part])) for part in ("whole", "above", "below"))
            previous, tens = None, None
            if 0 < above < below:
                written[int(piece["whole"]) + Fraction(above, below)] += 1
            continue
        if piece["digits"]:
            value = Fraction(piece["digits"].replace(",", ""))
            written[value] += 1
            if piece["percent"]:
                implied.update(_of_percent(value))
            previous, tens = value, None
            continue
        word = piece["word"].lower()
        if word in SCALES and previous is not None:
            written[previous * SCALES[word]] += 1
        elif word in SCALES:
            written[Fraction(SCALES[word])] += 1
        if word == "percent" and previous is not None:
            implied.update(_of_percent(previous))
        implied.update(IMPLIED.get(word, ()))
        if word in TENS:
            tens, previous = TENS[word], Fraction(TENS[word])
            written[previous] += 1
        elif word in WORDS:
            previous = Fraction(WORDS[word])
            written[previous] += 1
            if tens is not None and 0 < WORDS[word] < 10:
                previous = Fraction(tens + WORDS[word])
                written[previous] += 1
            tens = None
        else:
            previous, tens = (previous, tens) if word == "and" else (None, None)
    return written, implied


def _of_percent(p: Fraction) -> list[Fraction]:
    """Numbers that `p per cent` allows: 100, the share, its complement, the factor of an increase, these times 100."""
    return [Fraction(100), p / 100, 1 - p / 100, 1 + p / 100, 100 - p, 100 + p]
