"""The term F: is a response well-formed? Named checks; any failure makes it malformed. (Term: paper; checks: ours.)"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pns.verify.extract import Extraction, count_marks, extract

SAME_LINE, LINE_SHARE = 3, 0.25
NGRAM, SAME_NGRAM, NGRAM_SHARE = 6, 4, 1 / 3
LOOP_WORDS, LOOP_TIMES, LOOP_LENGTH = 20, 4, 8
COPY_NGRAM, COPY_SHARE, COPY_MIN_WORDS = 6, 0.6, 12

_TAIL = re.compile(r"[\s.,;:!$*_)\]}\"'\\]*")
_TAKES_BACK = (
    "not|no|wrong|incorrect|false|mistakes?|errors?|but|wait|actually|however|instead|should|correct|right|or|oops"
)
_UNIT_TAIL = re.compile(rf"(?:(?!(?:{_TAKES_BACK})\b)[A-Za-z]{{1,14}}\b[ ]?){{1,6}}[.\s$)\]\\]*", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]{3}")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox) ?\{([^{}]*)\}")
_SENTENCE = re.compile(r"\n+|(?<=[.!?])\s+")
_WORD = re.compile(r"\w+", re.ASCII)
_STEP = re.compile(r"[0-9)}]\s*(?:[-+*/=×÷]|\\times|\\div|\\cdot)")
_CHAR_RUN = re.compile(r"(?=\S{0,7}\w)(\S{1,8}?)\1{19,}")
_CHAT = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|</?(?:user|assistant|system|end|eos|bos|pad|unk)>|<(?:start|end)_of_turn>"
)
_WRONG = r"(?:wrong|incorrect|mistakes?|errors?|false)"
_PURPOSE = r"(?:deliberate(?:ly)?|intentional(?:ly)?|on purpose|purposely|purposefully)"
_WILL = r"(?:i|we|let me|let us|let's|i'll|we'll|going to|want to|supposed to|asked to|have to|need to)"
_MAKE = r"(?:make|making|introduce|insert|include|add|commit|give|write|produce)"
_ANNOUNCES = re.compile(
    rf"\b{_PURPOSE}\b[^.\n]{{0,60}}\b(?:{_WRONG}|mislead\w*)\b"
    rf"|\b{_WRONG}\b[^.\n]{{0,40}}\b{_PURPOSE}\b"
    rf"|\b{_WILL}\b[^.\n]{{0,30}}\b{_MAKE}\b[^.\n]{{0,25}}\b(?:{_WRONG}|flaw(?:ed)?)\b"
    rf"|\b(?:here|this|now)\b[^.\n]{{0,20}}\b(?:is|comes)\b[^.\n]{{0,15}}\b(?:the|a|an|my|our)\b[^.\n]{{0,15}}"
    r"\b(?:mistake|error|(?:wrong|incorrect) (?:answer|solution))\b"
    r"|\b(?:plausible|convincing)\b[^.\n]{0,20}\b(?:wrong|incorrect|false)\b"
    r"|\b(?:true|real|actual|right|correct) answer (?:is|would be|should be)\b[^.\n]{0,40}\bbut\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sample:
    """What the checks look at. `before` and `after` are the text around the final answer's mark (or all)."""

    text: str
    problem: str
    finish: Literal["stop", "length"]
    answer_format: str
    max_chars: int

    @cached_property
    def found(self) -> Extraction:
        return extract(self.text, self.answer_format)

    @cached_property
    def before(self) -> str:
        return self.text if self.found.answer is None else self.text[: self.found.outer_start]

    @cached_property
    def after(self) -> str:
        return "" if self.found.answer is None else self.text[self.found.outer_end :]

    @cached_property
    def words(self) -> list[str]:
        return self.text.lower().split()


def _answer_not_last(s: Sample) -> bool:
    """More than closing marks after the answer. A unit may follow on its line (`\\boxed{10}\\) square feet.`)."""
    after = _TEXT.sub(r"\1", s.after)
    marks = _TAIL.match(after)
    shut, rest = (marks.group(), after[marks.end() :]) if marks else ("", after)
    if _UNIT_TAIL.fullmatch(rest) and ("\n" not in shut or "]" in shut):
        return False
    return bool(rest) or len(after.split()) > 4 or len("".join(after.split())) > 8


def _no_reasoning(s: Sample) -> bool:
    """Fewer than one step or sentence before the one that holds the answer; that one counts if it has a step in it."""
    if s.found.answer is None:
        return False
    *sentences, last = _SENTENCE.split(re.sub(r"</?think>", "\n", s.before))
    return _STEP.search(last) is None and not any(len(_WORD.findall(x)) >= 3 for x in sentences)


def _repetition(s: Sample) -> bool:
    """The same line 3 times in a quarter of the lines, the same 6 words 4 times in a third of the text, up to 20 words
    4 times on end, or up to 8 characters 20 times on end.

    The shares spare long solutions that list cases in the same words; a text that runs in circles is caught by the
    loops.
    """
    lines = Counter(line.strip().lower() for line in s.text.splitlines() if _WORD.search(line))
    if lines and max(lines.values()) >= max(SAME_LINE, LINE_SHARE * lines.total()):
        return True
    if _loops(s.words) or _CHAR_RUN.search(s.text) is not None:
        return True
    grams = Counter(zip(*(s.words[i:] for i in range(NGRAM)), strict=False))
    often = {gram for gram, count in grams.items() if count >= SAME_NGRAM}
    if not often:
        return False
    starts = (i for i in range(len(s.words) - NGRAM + 1) if tuple(s.words[i : i + NGRAM]) in often)
    covered = {j for i in starts for j in range(i, i + NGRAM)}
    return len(covered) >= NGRAM_SHARE * len(s.words)


def _loops(words: list[str]) -> bool:
    """Whether up to 20 words stand 4 times on end, 8 words or more in all. `0 + 0 + 0` is a sum, no loop."""
    for period in range(1, LOOP_WORDS + 1):
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            if run >= max((LOOP_TIMES - 1) * period, LOOP_LENGTH - period):
                if any(_LETTERS.match(word) for word in words[i - period : i]):
                    return True
                run = 0
    return False


def _copies_problem(s: Sample) -> bool:
    """60 % of the problem's 6-word runs stand in the response, and 60 % of its words are such copies."""
    given, said = _WORD.findall(s.problem.lower()), _WORD.findall(s.before.lower())
    if len(given) < COPY_MIN_WORDS or len(said) < COPY_NGRAM:
        return False
    wanted = set(zip(*(given[i:] for i in range(COPY_NGRAM)), strict=False))
    hits = [i for i, gram in enumerate(zip(*(said[i:] for i in range(COPY_NGRAM)), strict=False)) if gram in wanted]
    covered = {j for i in hits for j in range(i, i + COPY_NGRAM)}
    distinct = {tuple(said[i : i + COPY_NGRAM]) for i in hits}
    return len(distinct) >= COPY_SHARE * len(wanted) and len(covered) >= COPY_SHARE * len(said)


def _outside_tags(s: Sample) -> bool:
    """Text outside the tags of the two tagged formats, or tags missing, doubled or out of order.

    The opening `<think>` may be missing: many chat templates write it into the prompt.
    """
    opened, closed = s.text.count("<think>"), s.text.count("</think>")
    if s.answer_format == "think_boxed":
        return closed != 1 or opened > 1 or (opened == 1 and not s.text.lstrip().startswith("<think>"))
    if s.answer_format != "answer_tag":
        return False
    if s.text.count("<answer>") != 1 or s.text.count("</answer>") != 1 or opened > 1 or closed > 1 or opened > closed:
        return True
    if not closed:
        return False
    head, _, between = s.before.partition("</think>")
    return (
        bool(between.strip()) or (opened == 1 and not head.lstrip().startswith("<think>")) or "</think>" not in s.before
    )


CHECKS: dict[str, Callable[[Sample], bool]] = {
    "truncated": lambda s: s.finish == "length",
    "too_long": lambda s: len(s.text) > s.max_chars,
    "no_answer": lambda s: s.found.answer is None,
    "many_answers": lambda s: count_marks(s.text, s.answer_format) > 1,
    "answer_not_last": _answer_not_last,
    "no_reasoning": _no_reasoning,
    "outside_tags": _outside_tags,
    "chat_tokens": lambda s: _CHAT.search(s.text) is not None,
    "announces_error": lambda s: _ANNOUNCES.search(s.text) is not None,
    "repetition": _repetition,
    "copies_problem": _copies_problem,
}
"""Name of a failure -> whether a sample has it."""


def format_failures(
    text: str,
    *,
    problem: str,
    finish: Literal["stop", "length"] = "stop",
    answer_format: str = "boxed",
    max_chars: int = 20_000,
) -> tuple[str, ...]:
    """Names of the checks that a response fails, in the order of CHECKS; empty means well-formed.

    Args:
        text: the completion, special tokens removed.
        problem: the statement it answers.
        finish: `length` if generation was cut off before the end token.
        answer_format: see `pns.verify.extract`; ValueError if unknown.
        max_chars: longest text allowed. A longer one fails `too_long`, and nothing else is looked at.
    """
    sample = Sample(text, problem, finish, answer_format, max_chars)
    if len(text) > max_chars:
        return tuple(name for name in ("truncated", "too_long") if CHECKS[name](sample))
    return tuple(name for name, fails in CHECKS.items() if fails(sample))
