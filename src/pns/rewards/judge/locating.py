"""A judge behind a server that is asked for the first wrong step: prompt `first-error-v1`. (Source: ours.)

The task is ProcessBench's (arXiv 2412.06559), its prompt is not. The gold answer is never sent. Each step is a quotation
of its own, so that no step can pretend to be another one. Of a reply the same is believed as of a rubric (see `parse`):
one JSON object, here with exactly `decided` (true or false) and `first_wrong_step` (the index of a step, or -1), and
maybe `reason`. `decided: false` is an answer, and means undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from pns.prompts import ENVIRONMENT, as_data
from pns.recipe import JudgeServerPart
from pns.rewards.judge.parse import MalformedVerdict, parse_object
from pns.rewards.judge.prompts import Prompt
from pns.rewards.judge.quote import fresh_code, quote
from pns.rewards.judge.server import Question, Row, ServerJudge
from pns.rewards.judging import FirstError, Judgement

PROMPT = "first-error-v1"
STEP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "decided": {"type": "boolean"},
        "first_wrong_step": {"type": "integer"},
    },
    "required": ["reason", "decided", "first_wrong_step"],
    "additionalProperties": False,
}


class ServerLocator:
    """Asks a server for the first wrong step. Cache, budget and limits are those of `ServerJudge`.

    Args:
        part: see `JudgeServerPart`; its `prompt` and `steps_gate` are for rubrics, and not used here.
    Raises UserError as `ServerJudge`. Nothing is sent by making one.
    """

    def __init__(self, part: JudgeServerPart) -> None:
        self._judge = ServerJudge(part, _question())
        self.close = self._judge.close

    def locate(self, problems: Sequence[str], steps: Sequence[Sequence[str]]) -> list[Judgement]:
        """One Judgement a response, in order: its `first_error`, or a failure, which is in it and never raised."""
        return self._judge.ask([(problem, tuple(some)) for problem, some in zip(problems, steps, strict=True)])


def parse_first_error(reply: str, steps: int) -> FirstError:
    """What a reply says of a response with so many steps. Raises MalformedVerdict."""
    found = parse_object(reply)
    reason, decided, step = (found.pop(name, None) for name in ("reason", "decided", "first_wrong_step"))
    if found:
        raise MalformedVerdict("keys that do not belong there")
    if reason is not None and not isinstance(reason, str):
        raise MalformedVerdict("reason is no text")
    if not isinstance(decided, bool):
        raise MalformedVerdict("decided is neither true nor false")
    if type(step) is not int or not -1 <= step < steps:  # bool is an int to isinstance
        raise MalformedVerdict("first_wrong_step is no step, and not -1")
    return FirstError(step if decided else None)


def _question() -> Question:
    folder = resources.files("pns.rewards.judge") / "prompts" / "steps"
    text = (folder / f"{PROMPT}.jinja").read_text(encoding="utf-8")
    template = ENVIRONMENT.from_string(text)

    def render(row: Row) -> str:
        problem, steps = as_data(row[0]), [as_data(step) for step in row[1]]
        code = fresh_code([problem, *steps])
        quoted = "\n".join(quote(f"STEP {i}", step, code) for i, step in enumerate(steps))
        return template.render(
            problem=quote("PROBLEM", problem, code), steps=quoted, delimiter=code, last=len(steps) - 1
        )

    def believe(reply: str, row: Row) -> Judgement:
        return Judgement(first_error=parse_first_error(reply, len(row[1])), text=reply)

    return Question(Prompt(PROMPT, text), render, STEP_SCHEMA, believe)
