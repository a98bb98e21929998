"""Step-Controlled DPO (arXiv 2407.00782): wrong continuations of a prefix of a correct solution.

The prefix stays right, so the mistake comes late, after steps that the policy itself finds likely. Rounds rise in
temperature until a problem has a decidedly wrong answer. (Rounds and cut points: ours.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from pns.recipe import PrefixPart
from pns.records import Problem, Response, Verdict
from pns.rewards.arithmetic import find_steps
from pns.sampling.engine import Completion
from pns.verify import extract

_END = re.compile(r"\n+|(?<=[.!?])(?=\s)")

Continue = Callable[[Sequence[Problem], Sequence[str], float, int], list[list[Completion]]]
"""(problems, prefixes, temperature, round) -> `n` continuations of each."""
Verify = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]


def cuts(text: str, answer_format: str = "boxed") -> list[int]:
    """Where a solution may be cut: after a line, a sentence or an arithmetic statement that stands before its answer.

    At least one step stays on either side, so a solution of one step has no place to cut.
    """
    found = extract(text, answer_format)
    end = len(text) if found.answer is None else found.outer_start
    places = {m.end() for m in _END.finditer(text)} | {step.end for step in find_steps(text)}
    return sorted(p for p in places if text[:p].strip() and p < end and _steps(text[:p]) and _steps(text[p:end]))


def _steps(text: str) -> bool:
    """Whether there is a step in it: more than the words that lead to the answer."""
    return bool(find_steps(text)) or len(text.split()) > 8


def cut_at(text: str, place: int) -> str:
    """The prefix. It ends in a line feed or a sign, never in a blank: tokens of most models begin with theirs."""
    return text[:place].rstrip(" \t")


def wrong_continuations(
    problems: Sequence[Problem], chosen: Sequence[Response], part: PrefixPart, go_on: Continue, verify: Verify,
    *, seed: int, source: str = "prefix", answer_format: str = "boxed",
) -> list[Response]:  # fmt: skip
    """All decidedly wrong continuations of the last round that each problem needed; none where no round gave one.

    Args:
        problems, chosen: a correct response of each problem.
        go_on, verify: sample from the policy (or a generator), and decide the whole texts.
        source: the name of the method, which the responses bear.
    Returns:
        responses with their verdict and, under `sampling`, `cut` (characters of the prefix), `temperature`, `round`.
    """
    places = [cuts(right.text, answer_format) for right in chosen]
    open_ = [i for i, found in enumerate(places) if found]
    rng = random.Random(seed)
    out: list[Response] = []
    for number in range(part.rounds):
        if not open_:
            break
        temperature = part.temperature + number * part.rise
        prefixes = [cut_at(chosen[i].text, rng.choice(places[i])) for i in open_]
        some = [problems[i] for i in open_]
        drawn = go_on(some, prefixes, temperature, number)
        rows = [
            Response(
                problem_id=problem.id, text=prefix + one.text, index=index, source=source, finish=one.finish,
                sampling={"cut": len(prefix), "temperature": round(temperature, 6), "round": number},
            )
            for problem, prefix, ones in zip(some, prefixes, drawn, strict=True)
            for index, one in enumerate(ones)
        ]  # fmt: skip
        verdicts = verify([p for p, ones in zip(some, drawn, strict=True) for _ in ones], [r.text for r in rows])
        wrong = [
            r.model_copy(update={"verdict": v}) for r, v in zip(rows, verdicts, strict=True) if v.outcome == "wrong"
        ]
        out += wrong
        served = {r.problem_id for r in wrong}
        open_ = [i for i in open_ if problems[i].id not in served]
    return out
