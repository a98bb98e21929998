"""What kind of mistake a response to an embedded problem makes: a slip, a misreading by its name, or another reading. (Ours.)

The embedded problems are made from stories, so that every careless reading is known. This tells apart what an accuracy
does not: which mistakes a method's negatives show, and which ones a policy makes less often afterwards.
"""

from __future__ import annotations

import re
from itertools import pairwise

from pns.problems.families import Step, Story, apply, misreadings, solve

RIGHT, SLIP, BROKEN, OTHER, STRAY = "right", "slip", "broken", "other_reading", "stray_number"
_STEP = re.compile(r"^Step ([0-9]+): ([0-9]+) ([-+*/]) ([0-9]+) = ([0-9]+)$")
_ANSWER = re.compile(r"^The answer is \\boxed\{([0-9]+)\}$")


def mistake(story: Story, text: str) -> str:
    """The kind of mistake.

    `right`: the right answer, however it was found. `broken`: not in the form of the solutions, or the box is not the last
    result, or a step does not go on from the one before. `slip`: a result is false. Then, by the derivation: the name of a
    misreading (`distractor_used`, `giving_reversed`, `event_skipped`, ...), `stray_number` where a number stands in it that
    the story does not have, else `other_reading`.
    """
    steps, answer = _read(text)
    if answer == solve(story)[-1][3]:
        return RIGHT
    if steps is None or answer != steps[-1][3] or any(a[3] != b[0] for a, b in pairwise(steps)):
        return BROKEN
    if any(op == "/" and (not b or a % b) for a, op, b, _ in steps):
        return SLIP
    if any(apply(op, a, b) != c for a, op, b, c in steps):
        return SLIP
    for kind, derivation in misreadings(story):
        if derivation == steps:
            return kind
    known = {story.start, story.other_start, *(e.value for e in story.events), *(n for _, n, _ in story.distractors)}
    return OTHER if {steps[0][0], *(b for _, _, b, _ in steps)} <= known else STRAY


def _read(text: str) -> tuple[list[Step] | None, int | None]:
    """The steps and the boxed answer; None where the text is not in the form of the solutions."""
    *lines, last = text.strip().split("\n")
    boxed = _ANSWER.fullmatch(last.strip())
    found = [_STEP.fullmatch(line.strip()) for line in lines]
    steps = [(int(m[2]), m[3], int(m[4]), int(m[5])) for m in found if m is not None]
    whole = bool(steps) and len(steps) == len(lines)
    return (steps if whole else None), (None if boxed is None else int(boxed[1]))
