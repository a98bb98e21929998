"""Problems of a training set that also stand in a benchmark: the same text, or long runs of the same words.

Two rules (both ours but for the measure, which is that of Tulu 3, arXiv 2411.15124, with GPT-3's n of 13):

- `text`: the texts are equal but for case, white space, punctuation, quotation marks and LaTeX that changes only the
  looks (`x^{2}` and `x^2`, `\\dfrac`, `\\left(`, `\\[ \\]`).
- `ngram`: the share of the benchmark problem's words that lie in an n-gram of words which *one* training problem has,
  too, is at least `share`. A word is a run of letters, a number, or an operator sign. A problem of fewer than n words
  is compared by `text` alone: parts of short problems ("Find the value of x") are everywhere.

One side is held in memory, as hashes of its n-grams; the other is read once, one problem at a time. A pair that hashes
bring together is measured on its words, so a collision cannot make an overlap. An overlap says that texts are alike,
not that a problem is the same: twins with other numbers are found too, and `same_answer` tells most of them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from pns.problems.splits import normalise

MAX_POSTING = 10_000
"""An n-gram of more held problems than this brings no pair together (a phrase that every prompt has)."""

_LOOKS = re.compile(
    r"\\(?:left|right|[Bb]igg?[lr]?|text(?:bf|rm|it)?|math(?:rm|bf|it)|displaystyle|limits|quad|qquad)(?![A-Za-z])"
    r"|\\[][(),;:\\ ]|~"
)
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
_DOTS = re.compile(r"\\[cl]?dots[a-z]?(?![A-Za-z])|\.{3,}")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?|[-+*/=<>^|!%]")
_UNKNOWN = -1


class Item(Protocol):
    """What is compared: a Problem, or anything with these three."""

    @property
    def id(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def answer(self) -> str | None: ...


I = TypeVar("I", bound=Item)  # noqa: E741


@dataclass(frozen=True)
class Rule:
    """How alike is too alike.

    Attributes:
        n: words in an n-gram, 2 or more.
        share: least share of the benchmark problem's words, above 0, at most 1.
        mask_numbers: take all numbers for the same one, which finds problems that were only given other numbers.
    Raises ValueError beyond these bounds.
    """

    n: int = 13
    share: float = 0.5
    mask_numbers: bool = False

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"n must be 2 or more, got {self.n}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True, slots=True)
class Overlap:
    """One pair. `share` (0..1) of the benchmark problem's words; 1 for the same text.

    `same_answer`: whether the gold answers are the same text; None where one has none.
    """

    benchmark: str
    problem: Item
    train: Item
    rule: Literal["text", "ngram"]
    share: float
    same_answer: bool | None


def text_key(text: str) -> str:
    """What is equal for the same text under the rule `text`. Decimal points, signs and brackets stay."""
    return _SPACE.sub("", _tidy(text).replace("{", "").replace("}", ""))


def words_of(text: str, mask_numbers: bool = False) -> list[str]:
    """The words of the rule `ngram`, in order; with `mask_numbers` every number is `#`."""
    found = _WORD.findall(_tidy(text))
    return ["#" if word[0].isdigit() else word for word in found] if mask_numbers else found


def _tidy(text: str) -> str:
    text = text.replace("{,}", ",").replace("\\!", "")
    return normalise(_LOOKS.sub(" ", _DOTS.sub("…", _FRACTION.sub(r"\\frac", text))))


class _Text(NamedTuple):
    item: Item
    key: str
    words: tuple[int, ...]


class _Held:
    """The side in memory: its texts, words as numbers, and which problems have an n-gram (by hash)."""

    def __init__(self, rule: Rule, items: Iterable[Item]) -> None:
        self.rule = rule
        self.texts: list[_Text] = []
        self.numbers: dict[str, int] = {}
        self.by_key: dict[str, list[int]] = {}
        self.by_gram: dict[int, int | list[int]] = {}
        for item in items:
            self._add(item)

    def _add(self, item: Item) -> None:
        words = words_of(item.problem, self.rule.mask_numbers)
        text = _Text(item, text_key(item.problem), tuple(self.numbers.setdefault(w, len(self.numbers)) for w in words))
        at = len(self.texts)
        self.texts.append(text)
        self.by_key.setdefault(text.key, []).append(at)
        for mark in {hash(gram) for gram in grams(text.words, self.rule.n)}:
            before = self.by_gram.get(mark)
            if before is None:
                self.by_gram[mark] = at
            elif isinstance(before, int):
                self.by_gram[mark] = [before, at]
            elif len(before) <= MAX_POSTING:
                before.append(at)

    def read(self, item: Item) -> _Text:
        """An item of the other side; a word that no held text has becomes one that matches nothing."""
        words = words_of(item.problem, self.rule.mask_numbers)
        return _Text(item, text_key(item.problem), tuple(self.numbers.get(w, _UNKNOWN) for w in words))

    def near(self, text: _Text) -> list[int]:
        """Held texts that share an n-gram with this one, in order."""
        found: set[int] = set()
        for gram in grams(text.words, self.rule.n):
            at = self.by_gram.get(hash(gram)) if _UNKNOWN not in gram else None
            if isinstance(at, int):
                found.add(at)
            elif at is not None and len(at) <= MAX_POSTING:
                found.update(at)
        return sorted(found)


def grams(words: Sequence[int], n: int) -> set[tuple[int, ...]]:
    """The distinct n-grams of a text."""
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def covered(words: Sequence[int], others: set[tuple[int, ...]], n: int) -> float:
    """Share of the words, 0..1, that lie in an n-gram which is among `others`; 0 for fewer than n words."""
    count = reach = 0
    for start in range(len(words) - n + 1):
        if tuple(words[start : start + n]) in others:
            count += start + n - max(start, reach)
            reach = start + n
    return count / len(words) if words else 0.0


def overlaps(
    train: Iterable[Item],
    benchmarks: Mapping[str, Iterable[Item]],
    rule: Rule | None = None,
    *,
    hold: Literal["train", "benchmarks"] = "benchmarks",
) -> Iterator[Overlap]:
    """All pairs of a training problem and a benchmark problem that overlap.

    Args:
        train, benchmarks: each is read once.
        hold: the side that is kept in memory; the smaller one. It changes the order of the pairs and nothing else, but
            for what MAX_POSTING says.
    Yields: pairs in the order of the side that is read, one at a time; for each of its problems first by rule `text`.
    """
    rule = rule or Rule()
    if hold == "benchmarks":
        owners = [(name, item) for name, items in benchmarks.items() for item in items]
        held = _Held(rule, (item for _, item in owners))
        for item in train:
            text = held.read(item)
            for at, found, share in _matches(held, text, rule, measure_held=True):
                yield _overlap(owners[at][0], held.texts[at].item, item, found, share)
    else:
        held = _Held(rule, train)
        for name, items in benchmarks.items():
            for item in items:
                text = held.read(item)
                for at, found, share in _matches(held, text, rule, measure_held=False):
                    yield _overlap(name, item, held.texts[at].item, found, share)


def _matches(
    held: _Held, text: _Text, rule: Rule, *, measure_held: bool
) -> Iterator[tuple[int, Literal["text", "ngram"], float]]:
    equal = held.by_key.get(text.key, [])
    for at in equal:
        yield at, "text", 1.0
    mine: set[tuple[int, ...]] | None = None
    for at in held.near(text):
        if at in equal:
            continue
        other = held.texts[at]
        if measure_held:
            mine = grams(text.words, rule.n) if mine is None else mine
            share = covered(other.words, mine, rule.n)
        else:
            share = covered(text.words, grams(other.words, rule.n), rule.n)
        if share >= rule.share:
            yield at, "ngram", share


def _overlap(name: str, problem: Item, train: Item, rule: Literal["text", "ngram"], share: float) -> Overlap:
    same = None
    if problem.answer is not None and train.answer is not None:
        same = text_key(problem.answer) == text_key(train.answer)
    return Overlap(name, problem, train, rule, share, same)


def drop_overlap(
    pool: Sequence[I], benchmarks: Mapping[str, Sequence[Item]], rule: Rule | None = None
) -> tuple[list[I], list[Overlap]]:
    """Take what overlaps with a benchmark out of a training pool.

    Returns: the kept problems in their order, and all pairs in which the others were found.
    """
    found = list(overlaps(pool, benchmarks, rule))
    dropped = {id(pair.train) for pair in found}
    return [item for item in pool if id(item) not in dropped], found


@dataclass(frozen=True)
class Repeat:
    """Problems of one set with the same text, in their order; `conflict`: their answers differ."""

    ids: tuple[str, ...]
    answers: tuple[str | None, ...]

    @property
    def conflict(self) -> bool:
        """Whether the answers are different texts."""
        return len({None if a is None else text_key(a) for a in self.answers}) > 1


def repeats(items: Iterable[Item]) -> list[Repeat]:
    """Problems that stand in a set more than once (rule `text`), in the order of their first."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(text_key(item.problem), []).append(item)
    return [
        Repeat(tuple(i.id for i in group), tuple(i.answer for i in group))
        for group in groups.values()
        if len(group) > 1
    ]


def distinct(items: Iterable[I]) -> list[I]:
    """The first problem of each text (rule `text`)."""
    first: dict[str, I] = {}
    for item in items:
        first.setdefault(text_key(item.problem), item)
    return list(first.values())
