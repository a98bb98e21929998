"""Responses one by one, each with a label, in an order that suits trainers of KTO. (Source: ours.)"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from pns.exports.sources import Preference

Text = tuple[str, str]
"""Prompt, response."""
_NEAR = 20
"""How many rows are looked through for one with another prompt."""


def on_both_sides(rows: Sequence[Preference]) -> set[Text]:
    """Responses that are chosen in one pair and rejected in another of the same prompt: none of the labels is theirs."""
    chosen = {(row.prompt, row.chosen) for row in rows if row.chosen is not None}
    return chosen & {(row.prompt, row.rejected) for row in rows}


def labelled(rows: Sequence[Preference]) -> list[tuple[str, str, bool]]:
    """(prompt, response, whether it is desirable), each response once, those on both sides left out.

    Trainers of KTO estimate its KL term from a prompt with the response of the row before it, in the order of the file.
    That one must answer another prompt: neighbours have the same only where more than half of the rows have it.
    Labels are mixed evenly, and the two sides of a pair stand far apart.
    """
    both = on_both_sides(rows)
    good = _spread(dict.fromkeys((row.prompt, row.chosen) for row in rows if row.chosen is not None), both)
    bad = _spread(dict.fromkeys((row.prompt, row.rejected) for row in rows), both)
    half = len(bad) // 2
    left = {True: deque(good), False: deque(bad[half:] + bad[:half])}
    sizes = {label: len(side) for label, side in left.items()}
    out: list[tuple[str, str, bool]] = []
    while any(left.values()):
        label, at = _next(left, sizes, out[-1][0] if out else None)
        prompt, text = left[label][at]
        del left[label][at]
        out.insert(_place(out, prompt), (prompt, text, label))
    return out


def _spread(texts: Iterable[Text], without: set[Text]) -> list[Text]:
    """The responses to each prompt evenly over the whole: with as many to each, the first of each, the second, ..."""
    kept = [one for one in texts if one not in without]
    number = Counter(prompt for prompt, _ in kept)
    start = {prompt: (i + 0.5) / len(number) for i, prompt in enumerate(number)}
    placed, seen = [], Counter[str]()
    for prompt, text in kept:
        placed.append(((start[prompt] + seen[prompt]) / number[prompt], (prompt, text)))
        seen[prompt] += 1
    return [one for _, one in sorted(placed, key=lambda p: p[0])]


def _next(left: Mapping[bool, deque[Text]], sizes: Mapping[bool, int], last: str | None) -> tuple[bool, int]:
    """Label and index of the next row: of the label of which a smaller share is placed, if one has another prompt."""
    labels = sorted(
        (label for label, side in left.items() if side),
        key=lambda label: (sizes[label] - len(left[label]) + 0.5) / sizes[label],
    )
    fit = (
        (label, at) for label in labels for at, (prompt, _) in enumerate(islice(left[label], _NEAR)) if prompt != last
    )
    return next(fit, (labels[0], 0))


def _place(out: Sequence[tuple[str, str, bool]], prompt: str) -> int:
    """The last place whose neighbours have other prompts: the end, but for rows that are left over there."""
    near = range(len(out), max(len(out) - _NEAR, -1), -1)
    return next((at for at in near if all(row[0] != prompt for row in out[max(at - 1, 0) : at + 1])), len(out))
