"""Procedural word problems: statements in plain English, exact answers, step-by-step solutions (ours).

A problem is a *story*: a start value, events that change it, sentences that must be ignored, and a question. Its solution
is a chain of `Step i: a + b = c` lines and a final `\\boxed{}`. Whole numbers from 0 to 99 only, because the embedded
tokenizer has one token a number. A *misreading* is a wrong derivation that a careless reader could write: its arithmetic
is right and its box is its last result, only the reading is wrong.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

LIMIT = 99  # the largest number a story or its solution may hold

NAMES = [
    "Mia",
    "Tom",
    "Ana",
    "Ben",
    "Zoe",
    "Max",
    "Eva",
    "Leo",
    "Ida",
    "Sam",
    "Nora",
    "Paul",
    "Rosa",
    "Finn",
    "Lena",
    "Hugo",
]
OBJECTS = ["apples", "pears", "coins", "cards", "books", "pens", "stones", "shells", "stamps", "beads", "nuts", "plums"]

# Pairings of name and object that training never shows; the `pairings` benchmark has nothing else.
_HELD_OUT = frozenset(
    (name, OBJECTS[(2 * i + shift) % len(OBJECTS)]) for i, name in enumerate(NAMES) for shift in (0, 5)
)

# kind -> (operator, sentence templates). {a} the owner, {b} another person, {v} a number, {o} the object.
EVENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gain": ("+", ("{a} finds {v} {o}.", "{a} buys {v} {o}.")),
    "receive": ("+", ("{b} gives {v} {o} to {a}.",)),
    "give": ("-", ("{a} gives {v} {o} to {b}.",)),
    "lose": ("-", ("{a} loses {v} {o}.", "{a} sells {v} {o}.")),
    "double": ("*", ("the number of {o} doubles.",)),
    "halve": ("/", ("the number of {o} halves.",)),
}
# Event i opens with MARKERS[i]; sentences to be ignored have none. A statement may tell the events in another order.
MARKERS = ("First", "Then", "Next", "Last")


@dataclass(frozen=True)
class Event:
    """One change of the quantity: `operator` with `value` (2 for double and halve)."""

    kind: str
    operator: str
    value: int
    sentence: str


@dataclass(frozen=True)
class Story:
    """What a problem is made of. `shape` is `chain` (one quantity followed) or `compare` (two quantities)."""

    shape: str
    start: int
    events: tuple[Event, ...]
    distractors: tuple[tuple[int, int, str], ...]  # (position before event i, value, sentence)
    owner: str
    object: str
    opening: str
    question: str
    order: tuple[int, ...]  # in which order the statement tells the events
    other_start: int | None = None

    @property
    def signature(self) -> str:
        """What makes two stories the same problem: numbers and events, whoever the people are."""
        events = [(e.kind, e.value) for e in self.events]
        return repr((self.shape, self.start, events, [d[:2] for d in self.distractors], self.order))


@dataclass(frozen=True)
class Shape:
    """What stories of a benchmark look like; the defaults are the training family's core."""

    events: tuple[int, int] = (2, 2)
    low: int = 2
    high: int = 50
    value_high: int = 12
    distractors: tuple[int, ...] = (0, 1)
    reordered: bool = False
    compare: bool = False
    held_out_pairing: bool = False
    more: int = 0  # events beyond these, for larger models


CORE = Shape()
BENCHMARKS: dict[str, Shape] = {
    "in_distribution": CORE,
    "longer": replace(CORE, events=(3, 3)),
    "larger": replace(CORE, low=40, high=LIMIT, value_high=20),
    "distractors": replace(CORE, distractors=(2,)),
    "reordered": replace(CORE, reordered=True),
    "pairings": replace(CORE, held_out_pairing=True),
    "compared": replace(CORE, compare=True),
}
# Training shows a little of every shift, so that each token and form is known and none is practised enough to be easy.
TRAINING_MIX: tuple[tuple[float, Shape], ...] = (
    (0.58, CORE),
    (0.12, BENCHMARKS["longer"]),
    (0.08, BENCHMARKS["larger"]),
    (0.06, BENCHMARKS["distractors"]),
    (0.08, BENCHMARKS["reordered"]),
    (0.08, BENCHMARKS["compared"]),
)


Draw = Callable[[], Story]


def bucket(story: Story) -> int:
    """A number in 0..9999 that depends on the story's signature alone; splits own ranges of it."""
    return int.from_bytes(hashlib.sha256(story.signature.encode()).digest()[:4], "big") % 10_000


def make_story(rng: random.Random, shape: Shape) -> Story:
    """Draw one story of the given shape; every intermediate result lies in 0..LIMIT."""
    while True:
        story = _try_story(rng, shape)
        if story is not None:
            return story


def _try_story(rng: random.Random, shape: Shape) -> Story | None:
    owner, obj = _pairing(rng, shape.held_out_pairing)
    others = [n for n in NAMES if n != owner]
    start = rng.randint(shape.low, shape.high)
    value, events = start, []
    other = rng.choice(others)
    other_start = None
    if shape.compare:
        other_start = start
        delta = rng.randint(2, shape.value_high)
        more = rng.random() < 0.5
        value = start + delta if more else start - delta
        word = "more" if more else "fewer"
        events.append(Event(word, "+" if more else "-", delta, f"{owner} has {delta} {word} {obj} than {other}."))
        opening = f"{other} has {start} {obj}."
        if not 1 <= value <= shape.high:
            return None
    else:
        opening = f"{owner} has {start} {obj}."
    count = (1 if shape.compare else rng.randint(*shape.events)) + shape.more
    for _ in range(count):
        event = _event(rng, value, shape, owner, rng.choice(others), obj)
        if event is None:
            return None
        events.append(replace(event, sentence=f"{MARKERS[len(events)]} {event.sentence}"))
        value = apply(event.operator, value, event.value)
    order = list(range(len(events)))
    if shape.reordered:
        while order == sorted(order):
            rng.shuffle(order)
    question = f"How many {obj} does {owner} have now?"
    if shape.compare and rng.random() < 0.5:
        if value + start > LIMIT:
            return None
        question = f"How many {obj} do {owner} and {other} have together?"
    distractors = []
    for _ in range(rng.choice(shape.distractors)):
        position = rng.randint(0, len(events))
        number = rng.randint(2, shape.value_high)
        thing = rng.choice([o for o in OBJECTS if o != obj])
        who = rng.choice(others)
        distractors.append((position, number, f"{who} has {number} {thing}."))
    return Story(
        shape="compare" if shape.compare else "chain",
        start=start,
        events=tuple(events),
        distractors=tuple(sorted(distractors)),
        owner=owner,
        object=obj,
        opening=opening,
        question=question,
        order=tuple(order),
        other_start=other_start if "together" in question else None,
    )


def _pairing(rng: random.Random, held_out: bool) -> tuple[str, str]:
    while True:
        pair = rng.choice(NAMES), rng.choice(OBJECTS)
        if (pair in _HELD_OUT) == held_out:
            return pair


def _event(rng: random.Random, value: int, shape: Shape, owner: str, other: str, obj: str) -> Event | None:
    kind = rng.choices(list(EVENTS), weights=(4, 3, 4, 3, 1, 1))[0]
    operator, sentences = EVENTS[kind]
    number = 2 if operator in "*/" else rng.randint(2, shape.value_high)
    if operator == "/" and value % 2:
        return None
    after = apply(operator, value, number)
    if not 1 <= after <= shape.high:
        return None
    sentence = rng.choice(sentences).format(a=owner, b=other, v=number, o=obj)
    return Event(kind, operator, number, sentence)


def apply(operator: str, left: int, right: int) -> int:
    """Exact whole-number arithmetic; division is only ever asked of even numbers."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left // right


def statement(story: Story) -> str:
    """The problem text."""
    sentences = [story.opening]
    for i in range(len(story.events) + 1):
        sentences += [s for position, _, s in story.distractors if position == i]
        if i < len(story.events):
            sentences.append(story.events[story.order[i]].sentence)
    return " ".join([*sentences, story.question])


Step = tuple[int, str, int, int]


def chain(start: int, moves: list[tuple[str, int]], together: int | None) -> list[Step] | None:
    """Steps (left, operator, right, result) of a derivation, or None where it leaves 0..LIMIT or halves an odd number."""
    value, steps = start, []
    for operator, number in [*moves, *([("+", together)] if together is not None else [])]:
        if operator == "/" and value % 2:
            return None
        after = apply(operator, value, number)
        if not 0 <= after <= LIMIT:
            return None
        steps.append((value, operator, number, after))
        value = after
    return steps or None


def render(steps: list[Step]) -> str:
    """A derivation as text: one line a step, then the boxed answer."""
    lines = [f"Step {i}: {a} {op} {b} = {c}" for i, (a, op, b, c) in enumerate(steps, 1)]
    return "\n".join([*lines, f"The answer is \\boxed{{{steps[-1][3]}}}"])


def solve(story: Story) -> list[Step]:
    """The right derivation."""
    steps = chain(story.start, [(e.operator, e.value) for e in story.events], story.other_start)
    assert steps is not None, "a story's own results lie in range by construction"
    return steps


def misreadings(story: Story) -> list[tuple[str, list[Step]]]:
    """All misreadings of a story whose final answer is wrong: (kind, derivation), in a fixed order."""
    moves = [(e.operator, e.value) for e in story.events]
    found: list[tuple[str, list[tuple[str, int]]]] = []
    for position, number, _ in story.distractors:
        found.append(("distractor_used", [*moves[:position], ("+", number), *moves[position:]]))
    for i, event in enumerate(story.events):
        rest = moves[:i], moves[i + 1 :]
        if event.kind in ("give", "receive"):
            flipped = "+" if event.operator == "-" else "-"
            found.append(("giving_reversed", [*rest[0], (flipped, event.value), *rest[1]]))
        if event.kind == "double":
            found.append(("doubles_as_plus_two", [*rest[0], ("+", 2), *rest[1]]))
        if event.kind == "halve":
            found.append(("halves_as_minus_two", [*rest[0], ("-", 2), *rest[1]]))
        if event.kind in ("more", "fewer"):
            flipped = "+" if event.operator == "-" else "-"
            found.append(("comparison_reversed", [*rest[0], (flipped, event.value), *rest[1]]))
        if len(moves) > 1:
            found.append(("event_skipped", [*rest[0], *rest[1]]))
    right = solve(story)[-1][3]
    out = []
    for kind, wrong in found:
        steps = chain(story.start, wrong, story.other_start)
        if steps is not None and steps[-1][3] != right:
            out.append((kind, steps))
    return out
