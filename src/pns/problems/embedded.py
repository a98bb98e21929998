"""The embedded data: training family, seven benchmarks, splits that are disjoint by construction.

Every story has a signature (numbers and events, not people) whose hash puts it into a bucket; each split owns a range of
buckets and keeps only the stories that fall into it. So no two splits can share a story, whatever their sizes, and a
changed size changes no other split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pns.problems import families
from pns.problems.families import BENCHMARKS, TRAINING_MIX, Story
from pns.records import Problem

# Shares of the 10,000 buckets. Wide for the splits that need many problems.
_RANGES: dict[str, tuple[int, int]] = {
    "sft": (0, 5000),
    "rlvr": (5000, 6000),
    "generator": (6000, 6600),
    "reward": (6600, 7200),
    "audit": (7200, 7800),
    "pairs": (7800, 8600),
    "dev": (8600, 9000),
    "benchmark": (9000, 10_000),
}


def training_problems(split: str, size: int, seed: int, misread_share: float = 0.0, more: int = 0) -> list[Problem]:
    """`size` distinct problems of a split. `misread_share` (0..1) of the solutions carry a misreading.

    `more`: events in every story beyond those of its shape.

    A solution that carries one says so in `meta["misreading"]`, and `meta["target_answer"]` is its boxed answer; `answer`
    is always the right one.
    """
    return [problem for _, problem in training_stories(split, size, seed, misread_share, more)]


def training_stories(
    split: str, size: int, seed: int, misread_share: float = 0.0, more: int = 0
) -> Iterator[tuple[Story, Problem]]:
    """The problems of `training_problems`, each with what it was made of."""
    rng = random.Random(f"{seed}/problems/{split}")
    weights, shapes = zip(*((w, replace(shape, more=more)) for w, shape in TRAINING_MIX), strict=True)
    stories = _distinct(lambda: families.make_story(rng, rng.choices(shapes, weights)[0]), split)
    for i in range(size):
        story = next(stories)
        yield story, _problem(f"{split}-{i:06d}", story, rng, misread_share)


def benchmark_problems(name: str, size: int, seed: int, more: int = 0) -> list[Problem]:
    """`size` distinct problems of one embedded benchmark, none of which has a training problem's signature."""
    return [problem for _, problem in benchmark_stories(name, size, seed, more)]


def benchmark_stories(name: str, size: int, seed: int, more: int = 0) -> Iterator[tuple[Story, Problem]]:
    """The problems of `benchmark_problems`, each with what it was made of."""
    rng = random.Random(f"{seed}/benchmark/{name}")
    stories = _distinct(lambda: families.make_story(rng, replace(BENCHMARKS[name], more=more)), "benchmark")
    for i in range(size):
        story = next(stories)
        yield story, _problem(f"{name}-{i:04d}", story, rng, 0.0)


def _distinct(draw: families.Draw, split: str) -> Iterator[Story]:
    low, high = _RANGES[split]
    seen: set[str] = set()
    while True:
        story = draw()
        if low <= families.bucket(story) < high and story.signature not in seen:
            seen.add(story.signature)
            yield story


def _problem(identity: str, story: Story, rng: random.Random, misread_share: float) -> Problem:
    steps = families.solve(story)
    meta: dict[str, object] = {}
    target = steps
    if rng.random() < misread_share:
        options = families.misreadings(story)
        if options:
            meta["misreading"], target = rng.choice(options)
            meta["target_answer"] = str(target[-1][3])
    return Problem(
        id=identity,
        problem=families.statement(story),
        answer=str(steps[-1][3]),
        solution=families.render(target),
        subject=story.shape,
        level=len(steps),
        meta=meta,
    )


def words(texts: Iterable[str]) -> set[str]:
    """The distinct words, numbers and marks of some texts."""
    return {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)}
