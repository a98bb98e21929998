"""The judge's prompts: files with a version. One comes with pns; a user's own is a path. (Source: ours.)

A prompt is a Jinja template, rendered in a sandbox into one user message (not every chat template knows a system role).
It must hold `{{ problem }}` and `{{ response }}`, and may hold `{{ answer }}` (the response's own final answer) and
`{{ delimiter }}` (the code of the quotation). The first three arrive quoted (see `quote`); there is no other name, so a
prompt cannot ask for the gold answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Template, TemplateError

from pns.errors import UserError
from pns.prompts import ENVIRONMENT, as_data, check_placeholders, read_prompt
from pns.rewards.judge.quote import fresh_code, quote, unquote

NEEDED = ("problem", "response")
KNOWN = (*NEEDED, "answer", "delimiter")
NO_ANSWER = "(none was found)"
_FIELD = "reward.judge_server.prompt"


@dataclass(frozen=True)
class Prompt:
    """A prompt: its version (the name of one of ours, or `file`) and its text."""

    version: str
    text: str

    @cached_property
    def digest(self) -> str:
        """sha256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def _template(self) -> Template:
        return ENVIRONMENT.from_string(self.text)

    def render(self, problem: str, response: str, answer: str | None, code: str | None = None) -> str:
        """The message for one response. A code is drawn where none is given. May raise jinja2.TemplateError."""
        given = {
            "problem": as_data(problem),
            "response": as_data(response),
            "answer": as_data(answer) if answer is not None else NO_ANSWER,
        }
        code = code or fresh_code(given.values())
        quoted = {name: quote(name.upper(), text, code) for name, text in given.items()}
        return self._template.render(**quoted, delimiter=code)


def load_prompt(name: str) -> Prompt:
    """A prompt by its name, or from a file.

    Raises UserError: no such name or file, not UTF-8, too long, broken syntax, a placeholder that is missing or unknown,
    or a quotation that does not come out whole (a filter on it, say).
    """
    text, path = read_prompt(name, "pns.rewards.judge", _FIELD)
    if path is None:
        return Prompt(name, text)
    _check(text, path)
    return Prompt("file", text)


def _check(text: str, path: Path) -> None:
    used = check_placeholders(text, path, KNOWN, NEEDED)
    code = fresh_code([text])
    sample = {"problem": "A problem.\n\nIn 2 lines.", "response": "A response.\n\n1 < 2 & 3", "answer": "x = 4"}
    try:
        prompt = Prompt("file", text).render(**sample, code=code)
        for name in (*NEEDED, *(["answer"] if "answer" in used else [])):
            if unquote(prompt, name.upper(), code) != sample[name]:
                raise ValueError(f"{name.upper()} does not come out as it went in")
    except (TemplateError, ValueError, ArithmeticError, TypeError) as error:
        raise UserError(
            f"does not render: {error}", file=path, remedy="write each placeholder once, without a filter or condition"
        ) from None
