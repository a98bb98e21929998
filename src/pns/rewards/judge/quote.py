"""A text that is quoted as data: between lines with a random code that the text cannot know. (Source: ours.)

The code is 64 random bits, drawn again for every request, and again while it occurs in what is quoted. So nothing that
a response contains, not even the code of an earlier request, ends its quotation.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable


def fresh_code(texts: Iterable[str]) -> str:
    """A random code, 16 hexadecimal digits, that occurs in none of the texts."""
    texts = list(texts)
    while True:
        code = secrets.token_hex(8)
        if not any(code in text for text in texts):
            return code


def quote(name: str, text: str, code: str) -> str:
    """The text between an opening and a closing line that carry the name and the code."""
    return f"<<<BEGIN {name} {code}>>>\n{text}\n<<<END {name} {code}>>>"


def unquote(prompt: str, name: str, code: str) -> str:
    """What is quoted under a name. Raises ValueError unless it is quoted exactly once."""
    begin, end = f"<<<BEGIN {name} {code}>>>\n", f"\n<<<END {name} {code}>>>"
    if prompt.count(begin) != 1 or prompt.count(end) != 1:
        raise ValueError(f"{name} is not quoted exactly once")
    return prompt.partition(begin)[2].partition(end)[0]
