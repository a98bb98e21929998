"""Wrong solutions that a prompted model writes: prompts out, replies in. No engine and no server in here.

Two styles: `ask` for a plausible wrong solution to a problem (ours), and `edit` a correct solution into one (RISE, arXiv
2410.06638; the kinds of mistakes that the shipped prompt names are the paper's: a number replaced, two terms swapped, a
step left out).

The rule for replies, in full. A think block is taken off first: everything up to the last `</think>` (not where the
answer format is `think_boxed`). If the rest holds `<solution>` or `</solution>`, it must hold each once and in this order,
and the solution is what stands between them. Else the solution is all of it. One code fence around all of the solution
is taken off. It is neither empty nor longer than MAX_CHARS_A_TOKEN characters for each token that was asked for. Nothing
else is cut or mended: an announced error in a solution is for the composite to see. A reply that is none is malformed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from jinja2 import Template, TemplateError

from pns.errors import UserError
from pns.prompts import ENVIRONMENT, as_data, check_placeholders, names, read_prompt
from pns.recipe import PromptedPart

Style = Literal["ask", "edit"]
Finish = Literal["stop", "length"]

PACKAGE = "pns.negatives"
FIELD = "negatives.prompted"
KNOWN = ("problem", "solution", "answer_form")
MAX_CHARS_A_TOKEN = 12

# Dots, for a small model copies any number that stands there.
ANSWER_FORMS = {
    "boxed": "End with the final answer in \\boxed{}, as in: The answer is \\boxed{...}. Use \\boxed once, and write "
    "nothing after it.",
    "gsm8k": "End with a line that holds #### and the final answer, as in: #### ...",
    "answer_tag": "End with the final answer between tags, as in: <answer>...</answer>. Write nothing after it.",
    "think_boxed": "Write the reasoning between <think> and </think>, and after it the final answer in \\boxed{}, as in: "
    "The answer is \\boxed{...}. Use \\boxed once, and write nothing after it.",
}
"""How a prompt asks for the final answer, by `reward.answer_format`."""

_TAGS = re.compile(r"<(?=/?(?:problem|correct_solution|solution)>)", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


class MalformedReply(ValueError):
    """A reply that holds no solution; `str(error)` says why, in a few words of ours that quote nothing of it."""


class Unwritten(NamedTuple):
    """A reply that was not to be had, in place of a completion.

    `failure` is `server` (unreachable, error status, time-out), `budget` (not asked) or `malformed` (a reply without
    text); `again` says whether it may be had another time.
    """

    failure: Literal["server", "budget", "malformed"]
    detail: str
    again: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt for wrong solutions. `version` is the name of one of ours, or `file:` and the beginning of its sha256."""

    version: str
    text: str

    @cached_property
    def _template(self) -> Template:
        return ENVIRONMENT.from_string(self.text)

    def render(self, problem: str, solution: str | None, answer_format: str) -> str:
        """The message for one problem; with a correct solution it asks to edit that.

        Chat-template marks and the tags of the prompt are broken by a space in both texts, so neither ends its quotation.
        Raises UserError where the template breaks on them.
        """
        given = {"problem": quoted(problem), "solution": quoted(solution or "")}
        try:
            return self._template.render(**given, answer_form=ANSWER_FORMS[answer_format])
        except (TemplateError, ValueError, ArithmeticError, TypeError) as error:
            raise UserError(f"does not render: {error}", field=f"{FIELD}.prompt", remedy="mend the prompt") from None


def quoted(text: str) -> str:
    """A text as it stands in a prompt, see `Prompt.render`."""
    return _TAGS.sub("< ", as_data(text))


def styles_of(part: PromptedPart) -> tuple[Style, ...]:
    """The styles of a recipe, in the order of their candidates."""
    return ("ask", "edit") if part.style == "both" else (part.style,)


def own_file(part: PromptedPart) -> Path | None:
    """The user's own file that holds the prompt, or None where it is one of ours."""
    return None if part.prompt in names(PACKAGE) else Path(part.prompt)


def load_prompt(part: PromptedPart) -> Prompt:
    """The prompt of a recipe.

    Raises UserError: no such name or file, not UTF-8, too long, broken syntax, a placeholder that is missing or unknown,
    or a text that does not come out as it went in (a filter on it, say, or a style that the prompt does not serve).
    """
    text, path = read_prompt(part.prompt, PACKAGE, f"{FIELD}.prompt")
    if path is None:
        return Prompt(part.prompt, text)
    needed = ("problem", "solution") if "edit" in styles_of(part) else ("problem",)
    check_placeholders(text, path, KNOWN, needed)
    prompt = Prompt(f"file:{hashlib.sha256(text.encode()).hexdigest()[:12]}", text)
    _check(prompt, path, styles_of(part))
    return prompt


def _check(prompt: Prompt, path: Path, styles: Sequence[Style]) -> None:
    problem, solution = "A problem.\n\nIn 2 lines, 1 < 2 & 3.", "A solution.\n\nIn 2 lines, 4 > 3 & 2."
    for style in styles:
        message = prompt.render(problem, solution if style == "edit" else None, "boxed")
        if problem not in message or (style == "edit" and solution not in message):
            raise UserError(
                f"with style {style} a text does not come out as it went in", file=path,
                remedy="write {{ problem }} without a filter or condition, and {{ solution }} inside {% if solution %}",
            )  # fmt: skip


def parse_reply(text: str, finish: Finish, *, answer_format: str, max_tokens: int) -> tuple[str, Finish]:
    """The solution in a reply, by the rule at the head of this module, and how it ends.

    A reply that was cut short after its closing tag holds a whole solution, so its finish is `stop`.
    Raises MalformedReply.
    """
    body = text if answer_format == "think_boxed" else _without_thoughts(text)
    opened, closed = body.count("<solution>"), body.count("</solution>")
    if opened or closed:
        _, _, rest = body.partition("<solution>")
        body, _, _ = rest.partition("</solution>")
        if (opened, closed) != (1, 1) or "</solution>" not in rest:
            raise MalformedReply("not one pair of solution tags")
        finish = "stop"
    body = body.strip()
    fence = _FENCE.fullmatch(body)
    if fence is not None and "```" not in fence[1]:
        body = fence[1].strip()
    if not body:
        raise MalformedReply("empty")
    if len(body) > MAX_CHARS_A_TOKEN * max_tokens:
        raise MalformedReply("longer than was asked for")
    return body, finish


def _without_thoughts(text: str) -> str:
    if "</think>" in text:
        return text.rpartition("</think>")[2]
    if text.lstrip().startswith("<think>"):
        raise MalformedReply("a think block that never closes")
    return text
