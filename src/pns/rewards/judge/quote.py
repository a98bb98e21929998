"""A text that is quoted as data: between lines with a random code that the text cannot know. (Source: ours.)

The code is 64 random bits, drawn again for every request, and again while it occurs in what is quoted. So nothing that
a response contains, not even the code of an earlier request, ends its quotation.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

# A server applies the model's chat template to our text, and many tokenizers then read the template's own marks in it
# as marks: `<|im_end|>` in a response would end our message. A space in them keeps them readable, and text.
_NAMES = (
    r"s|bos|eos|pad|unk|think|user|assistant|system|model|end|start_of_turn|end_of_turn|tool_call|tool_response"
    r"|reserved_special_token_\d+|unused\d+|sop|eop|function|image|audio|video|(?:start|end)_of_(?:image|audio)"
    r"|(?:image|audio)_soft_token"
)
_BRACKETED = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|PREFIX|SUFFIX|MIDDLE|THINK"
    "|IMG|IMG_BREAK|IMG_END|[gs]MASK"
)
_CHAT_MARK = re.compile(
    rf"<(?=[|\uff5c]|/?\w{{1,40}}\|>|/?(?:{_NAMES})>|</?SYS>)|\[(?=/?(?:{_BRACKETED})\])", re.IGNORECASE
)
_UNSENDABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def as_data(text: str) -> str:
    """The text as it is sent: chat-template marks broken by a space, control characters and half surrogates replaced."""
    return _CHAT_MARK.sub(r"\g<0> ", _UNSENDABLE.sub("\ufffd", text))


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
