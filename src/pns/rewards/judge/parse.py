"""What is believed of a judge's reply: one JSON object with the four integers, and nothing else. (Source: ours.)

The rule, in full. A reply is at most MAX_CHARS long. If it does not start with `{` or a code fence, a think block is
taken off first: everything up to the last `</think>`. What is left must be, apart from white space, one JSON object, or
one code fence with one JSON object in it. Free text before or after is malformed: an object in the middle of a text may
be one that the judge quotes from the response, so none is ever searched for. The object has exactly the keys
`relevance`, `coherence`, `completeness`, `consistency`, each an integer 0..3 (`3.0`, `"3"` and `true` are not), and may
have `reason`, a text. A key that comes twice, NaN, or any other value is malformed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pns.records import Rubric

MAX_CHARS = 20_000
DIMENSIONS = ("relevance", "coherence", "completeness", "consistency")

# `reason` comes first, so that a model writes its reasons before it commits itself to numbers. It is required here and
# optional to the parser: strict modes want every property required. No length or range keywords: some servers refuse
# them, and an enumeration says the same.
VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, **{d: {"type": "integer", "enum": [0, 1, 2, 3]} for d in DIMENSIONS}},
    "required": ["reason", *DIMENSIONS],
    "additionalProperties": False,
}


class MalformedVerdict(ValueError):
    """A reply that is no verdict; `str(error)` says why, in a few words of ours that quote nothing of it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A believed reply."""

    rubric: Rubric
    reason: str = ""


def parse_verdict(text: str) -> Verdict:
    """The verdict in a judge's reply, by the rule at the head of this module. Raises MalformedVerdict."""
    found = parse_object(text)
    reason = found.pop("reason", "")
    if not isinstance(reason, str):
        raise MalformedVerdict("reason is no text")
    missing = [d for d in DIMENSIONS if d not in found]
    if missing:
        raise MalformedVerdict(f"no {', '.join(missing)}")
    if len(found) > len(DIMENSIONS):
        raise MalformedVerdict("keys that do not belong there")
    for name in DIMENSIONS:
        if type(found[name]) is not int or not 0 <= found[name] <= 3:  # bool is an int to isinstance
            raise MalformedVerdict(f"{name} is no integer from 0 to 3")
    return Verdict(Rubric(**found), reason)


def parse_object(text: str) -> dict[str, Any]:
    """The one JSON object that a reply consists of. Raises MalformedVerdict."""
    if len(text) > MAX_CHARS:
        raise MalformedVerdict(f"longer than {MAX_CHARS} characters")
    body = _unfenced(bare(text))
    if not body:
        raise MalformedVerdict("empty")
    if not body.startswith("{"):
        raise MalformedVerdict("not one JSON object alone")
    try:
        found = json.loads(body, object_pairs_hook=_once, parse_float=_refused, parse_constant=_refused)
    except MalformedVerdict:
        raise
    except (ValueError, RecursionError):
        raise MalformedVerdict("not one JSON object alone") from None
    assert isinstance(found, dict)
    return found


def bare(text: str) -> str:
    """A reply without its think block. Raises MalformedVerdict where that never closes."""
    text = text.strip()
    if text.startswith(("{", "```")):
        return text
    if "</think>" in text:
        return text.rpartition("</think>")[2].strip()
    if text.startswith("<think>"):
        raise MalformedVerdict("a think block that never closes")
    return text


def _unfenced(body: str) -> str:
    """What one code fence around all of a text holds; any other text as it is."""
    first, _, rest = body.partition("\n")
    if first.rstrip() in ("```", "```json") and rest.endswith("```"):
        return rest.removesuffix("```").strip()
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise MalformedVerdict("a key that comes twice")
    return found


def _refused(_: str) -> Any:
    raise MalformedVerdict("a number that is no integer")
