"""Negatives with their first wrong steps, as rows of ProcessBench and as pairs of Step-DPO.

ProcessBench (arXiv 2412.06559) has the first wrong step of whole responses, which also trains process reward models.
Step-DPO (arXiv 2406.18629) prefers one step to another behind the same correct steps. How a step is decided: `first_errors`,
a judge (ours); which pairs are made: the paper's form, our conditions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pns.evaluation.first_errors import RIGHT_ANSWER, SHARED, Chosen, Label, common_steps, first_error, numbers_differ
from pns.evaluation.metrics import quartiles
from pns.evaluation.negative_rows import Negative
from pns.evaluation.processbench import Chain, Reading
from pns.evaluation.texts import any_answer, step_spans
from pns.records import Outcome, Problem
from pns.rewards.arithmetic import MAX_CHARS, find_steps
from pns.verify import Verifier

BATCH = 64
TOO_LONG = f"longer than {MAX_CHARS:,} characters"
NONE_SEEN = "the judge finds no wrong step"
PASSED_OVER = "the judge names a step behind a false statement, or none"
Read = Callable[[Sequence[Chain]], Sequence[Reading]]
"""Asks a judge for the first wrong steps of some chains."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Text:
    """A response with its steps. `outcome`: what the verifier says of its answer; None: there is no gold answer."""

    text: str
    spans: tuple[tuple[int, int], ...]
    outcome: Outcome | None

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps without the white space around each."""
        return tuple(self.text[begin:end].strip() for begin, end in self.spans)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A negative, read: both sides, the label, and the first step at which it leaves the chosen one (None: nowhere).

    `diverges_at` (ours) is no label: a response may leave another one with a step that is right.
    """

    negative: Negative
    rejected: Text
    chosen: Text | None
    label: Label
    diverges_at: int | None

    @property
    def response(self) -> tuple[str, str]:
        """Prompt and rejected response: what the label is of."""
        return self.negative.prompt, self.negative.rejected


def label_negatives(
    negatives: Sequence[Negative],
    verifier: Verifier,
    read: Read | None = None,
    *,
    any_false: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Labelled]:
    """Every distinct pair of a negative and its chosen response with its label, in order: by rules, and by a judge what
    they leave undecided.

    A wrong step that the rules find beside one chosen response is the response's own: it holds beside the others, too,
    where they decide nothing. A judge is not asked about responses with a right answer, nor about those longer than the
    step checker reads. What it names behind a false statement is not believed.

    Args:
        read: asks the judge; None: there is none.
        any_false: see `first_error`.
        progress: told (done, total) responses.
    """
    found = label_by_rules(negatives, _outcomes(negatives, verifier), any_false=any_false, progress=progress)
    return found if read is None else _asked(found, read, progress)


def label_by_rules(
    negatives: Sequence[Negative],
    outcomes: Mapping[tuple[str, str], Outcome],
    *,
    any_false: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Labelled]:
    """`label_negatives` without a judge, where the answers of both sides were verified before.

    Args:
        outcomes: what the verifier says, by prompt and text; without an entry there is no gold answer.
        any_false: see `first_error`.
        progress: told (done, total) distinct pairs of a response and its chosen one.
    """
    first: dict[tuple[str, str, str | None], Negative] = {}
    for negative in negatives:
        first.setdefault((negative.prompt, negative.rejected, negative.chosen), negative)
    distinct = list(first.values())
    keys = dict.fromkeys(key for negative in distinct for key in _sides(negative))  # most chosen texts come often
    texts = {key: _text(key[1], outcomes.get(key)) for key in keys}
    found = []
    for done, negative in enumerate(distinct, 1):
        left = texts[negative.prompt, negative.rejected]
        right = None if negative.chosen is None else texts[negative.prompt, negative.chosen]
        found.append(_labelled(negative, left, right, any_false))
        progress(done, len(distinct))
    return _decided_once(found)


def _sides(negative: Negative) -> list[tuple[str, str]]:
    return [(negative.prompt, text) for text in (negative.rejected, negative.chosen) if text is not None]


def _outcomes(negatives: Sequence[Negative], verifier: Verifier) -> dict[tuple[str, str], Outcome]:
    """What the verifier says of each text with a gold answer, by prompt and text; each is verified once."""
    known: dict[tuple[str, str], Problem] = {}
    for negative in negatives:  # a row without a gold answer may have a twin with one
        if negative.gold is not None:
            for key in _sides(negative):
                known.setdefault(key, negative.gold)
    verdicts = verifier.check_problems(list(known.values()), [any_answer(text) for _, text in known])
    return {key: verdict.outcome for key, verdict in zip(known, verdicts, strict=True)}


def _text(text: str, outcome: Outcome | None) -> Text:
    return Text(text, tuple(step_spans(text)) if len(text) <= MAX_CHARS else (), outcome)


def _labelled(negative: Negative, rejected: Text, chosen: Text | None, any_false: bool) -> Labelled:
    if not rejected.spans:
        return Labelled(negative, rejected, chosen, Label(None, why=TOO_LONG), None)
    steps = rejected.steps
    beside = Chosen(chosen.steps, chosen.outcome) if chosen is not None and chosen.spans else None
    label = first_error(negative.prompt, steps, rejected.outcome, beside, any_false=any_false)
    shared = None if beside is None else common_steps(beside.steps, steps)
    leaves = shared is not None and beside is not None and shared < min(len(steps), len(beside.steps))
    return Labelled(negative, rejected, chosen, label, shared if leaves else None)


def _decided_once(found: Sequence[Labelled]) -> list[Labelled]:
    """The same; an undecided row takes the label of the first decided one with the same response."""
    decided: dict[tuple[str, str], Label] = {}
    for row in found:
        if row.label.step is not None:
            decided.setdefault(row.response, row.label)
    return [
        row if row.label.step is not None else replace(row, label=decided.get(row.response, row.label)) for row in found
    ]


def _asked(found: Sequence[Labelled], read: Read, progress: Progress) -> list[Labelled]:
    """The same, with what the judge says of the undecided ones; it is asked once about each response."""
    open_ = [row for row in found if row.label.step is None and row.label.why not in (RIGHT_ANSWER, TOO_LONG)]
    texts = {row.response: row.rejected for row in open_}
    said: dict[tuple[str, str], Reading] = {}
    keys = list(texts)
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        said.update(zip(some, read([chain_of(key[0], texts[key]) for key in some]), strict=True))
        progress(start + len(some), len(keys))
    return [
        replace(row, label=_judged(row.label, said[row.response])) if row.response in said else row for row in found
    ]


def _judged(label: Label, reading: Reading) -> Label:
    step, latest = reading.first_error, label.at_latest
    if step is None:
        said = "the judge failed" if reading.failed else "the judge cannot tell"
        return replace(label, why=f"{said}: {reading.cause}")
    if latest is not None and not 0 <= step <= latest:
        return replace(label, why=PASSED_OVER)
    return Label(step, "judge") if step >= 0 else replace(label, why=NONE_SEEN)


def chain_of(problem: str, text: Text, *, id: str = "-", generator: str | None = None, label: int = -1) -> Chain:
    """A response as a row of ProcessBench. `final_answer_correct` is None where the verifier has not decided it."""
    correct = {"correct": True, "wrong": False}.get(text.outcome or "")
    return Chain(
        id=id, generator=generator, problem=problem, steps=text.steps, final_answer_correct=correct, label=label
    )


def stepwise(chain: Chain) -> dict[str, Any]:
    """A chain as a row of stepwise supervision: steps up to the first wrong one, each with whether it is right."""
    steps = chain.steps if chain.label < 0 else chain.steps[: chain.label + 1]
    return {
        "prompt": chain.problem,
        "completions": list(steps),
        "labels": [i != chain.label for i in range(len(steps))],
    }


def responses(rows: Sequence[Labelled]) -> list[Labelled]:
    """One row of each distinct rejected response, the first that is decided, or the first."""
    out: dict[tuple[str, str], Labelled] = {}
    for row in rows:
        if row.response not in out or (out[row.response].label.step is None and row.label.step is not None):
            out[row.response] = row
    return list(out.values())


def rejected_chains(rows: Sequence[Labelled], name: str) -> list[Chain]:
    """The labelled negatives, each once, as rows of ProcessBench; ids are `<name>-<line>`, `generator` is the method."""
    return [
        chain_of(
            row.negative.prompt, row.rejected, id=f"{name}-{row.negative.line}", generator=row.negative.method,
            label=row.label.step,
        )
        for row in responses(rows) if row.label.step is not None
    ]  # fmt: skip


def chosen_chains(rows: Sequence[Labelled], name: str, read: Read | None = None) -> tuple[list[Chain], Counter[str]]:
    """Distinct chosen responses as rows of ProcessBench with the label -1, and why others were left out, with counts.

    A right answer does not prove its steps. So none is taken with a statement that is false, with an answer that was
    verified and not found correct, or, where a judge is asked, in which it does not see that all steps are right.
    """
    kept: list[Chain] = []
    out: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if row.chosen is None or (row.negative.prompt, row.chosen.text) in seen:
            continue
        seen.add((row.negative.prompt, row.chosen.text))
        why = _unfit(row.chosen)
        if why is not None:
            out[why] += 1
            continue
        mark = f"{name}-{row.negative.line}-chosen"
        kept.append(chain_of(row.negative.prompt, row.chosen, id=mark, generator="chosen"))
    if read is None:
        return kept, out
    passed = []
    for start in range(0, len(kept), BATCH):
        some = kept[start : start + BATCH]
        passed += [chain for chain, said in zip(some, read(some), strict=True) if said.first_error == -1]
    out["the judge does not find all steps right"] += len(kept) - len(passed)
    return passed, +out


def _unfit(chosen: Text) -> str | None:
    if not chosen.spans:
        return TOO_LONG
    if chosen.outcome not in (None, "correct"):
        return "its answer is not verified correct"
    return "a false statement" if _false(chosen.steps) else None


def _false(steps: Sequence[str]) -> bool:
    return any(not statement.right for step in steps for statement in find_steps(step))


def step_pairs(rows: Sequence[Labelled]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Pairs in the form of Step-DPO's data, and why other rows give none, with counts.

    A row gives a pair where both responses share all steps before the first wrong one. Where no wrong step is decided,
    and the answers are verified correct and wrong, the first step with other numbers is taken if at least one step is
    shared: `decided_by` is then `divergence`, for the step is a candidate.

    Returns:
        rows with `dataset` (the method), `prompt`, `initial_reason_steps` (what both begin with, up to the step's first
        character), `chosen`, `rejected` (one step each), `full_chosen`, `full_rejected` (from that step to the end),
        `answer` (the gold one, or None) and `decided_by`.
    """
    pairs: list[dict[str, Any]] = []
    out: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        by = _decided(row)
        if by is None or row.chosen is None or row.diverges_at is None:
            out[_no_pair(row)] += 1
            continue
        pair = _pair(row, row.chosen, row.diverges_at, by)
        key = tuple(pair[name] for name in ("prompt", "initial_reason_steps", "chosen", "rejected"))
        if key in seen:
            out["the same pair as another row"] += 1
            continue
        seen.add(key)
        pairs.append(pair)
    return pairs, out


def _decided(row: Labelled) -> str | None:
    """What says that the step at which a row leaves its chosen response is wrong; None: nothing, or it is no pair."""
    at, chosen = row.diverges_at, row.chosen
    if at is None or chosen is None or chosen.outcome == "wrong" or _false(chosen.steps[: at + 1]):
        return None
    if row.label.step is not None:
        return row.label.by if row.label.step == at else None
    open_ = row.label.why not in (RIGHT_ANSWER, SHARED, NONE_SEEN, PASSED_OVER)
    verified = (row.rejected.outcome, chosen.outcome) == ("wrong", "correct")
    if open_ and verified and at > 0 and numbers_differ(chosen.steps[at], row.rejected.steps[at]):
        return "divergence"
    return None


def _no_pair(row: Labelled) -> str:
    at, step = row.diverges_at, row.label.step
    if row.chosen is None:
        return "no chosen response"
    if at is None:
        return "one response is the beginning of the other" if row.rejected.spans and row.chosen.spans else TOO_LONG
    if row.chosen.outcome == "wrong":
        return "the chosen answer is wrong"
    if step is not None and step != at:
        return f"it leaves the chosen response {'before' if at < step else 'after'} its first wrong step"
    if _false(row.chosen.steps[: at + 1]):
        return "a false statement in the chosen step, or before it"
    return row.label.why.partition(":")[0]


def _pair(row: Labelled, chosen: Text, at: int, by: str) -> dict[str, Any]:
    (a, b), (c, d) = chosen.spans[at], row.rejected.spans[at]
    negative = row.negative
    return {
        "dataset": negative.method, "prompt": negative.prompt, "initial_reason_steps": chosen.text[:a],
        "chosen": chosen.text[a:b].rstrip(), "rejected": row.rejected.text[c:d].rstrip(),
        "full_chosen": chosen.text[a:].rstrip(), "full_rejected": row.rejected.text[c:].rstrip(),
        "answer": None if negative.gold is None else negative.gold.answer, "decided_by": by,
    }  # fmt: skip


def details(rows: Sequence[Labelled], name: str) -> Iterator[dict[str, Any]]:
    """What was found of every distinct negative, undecided ones too: their `label` is None, and `why` says why."""
    for row in responses(rows):
        label, steps = row.label, row.rejected.steps
        yield {
            "id": f"{name}-{row.negative.line}", "line": row.negative.line, "method": row.negative.method,
            "problem": row.negative.prompt, "steps": list(steps), "label": label.step, "decided_by": label.by,
            "why": label.why or None, "at_latest": label.at_latest, "diverges_at": row.diverges_at,
            "final_answer": row.rejected.outcome,
        }  # fmt: skip


def summary(rows: Sequence[Labelled], read: int) -> dict[str, Any]:
    """Counts of all rows and by method; positions are 0 (the first step) .. 1 (the last).

    Args:
        read: rows of the file, copies of one response included.
    """
    methods: dict[str, list[Labelled]] = {}
    distinct = responses(rows)
    for row in distinct:
        methods.setdefault(row.negative.method, []).append(row)
    return {
        "rows": read, "copies": read - len(distinct), **_counts(distinct),
        "methods": {name: _counts(some) for name, some in methods.items()},
    }  # fmt: skip


def _counts(rows: Sequence[Labelled]) -> dict[str, Any]:
    by = Counter(row.label.by for row in rows if row.label.by is not None)
    why = Counter(row.label.why.partition(":")[0] for row in rows if row.label.step is None)
    places = [row.label.step / max(1, len(row.rejected.spans) - 1) for row in rows if row.label.step is not None]
    return {
        "responses": len(rows), "labelled": len(places), "by": dict(by.most_common()),
        "undecided": dict(why.most_common()),
        "position": {
            "quartiles": quartiles(places), "fifths": [sum(min(4, int(5 * p)) == k for p in places) for k in range(5)]
        },
    }  # fmt: skip
