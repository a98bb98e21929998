"""Prompts for language models: Jinja files with a version in their name, or a user's own; and texts as data in them.

Rendered in a sandbox, with no name but those that are handed in. (Source: ours.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pns.errors import UserError

MAX_BYTES = 100_000
ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)

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


def names(package: str) -> list[str]:
    """The prompts in the folder `prompts` of a package."""
    folder = resources.files(package) / "prompts"
    return sorted(f.name.removesuffix(".jinja") for f in folder.iterdir() if f.name.endswith(".jinja"))


def read_prompt(name: str, package: str, field: str) -> tuple[str, Path | None]:
    """The text of a prompt of the package by its name, or of a file; and that file.

    Raises UserError: no such name or file, not UTF-8, too long.
    """
    if name in names(package):
        return (resources.files(package) / "prompts" / f"{name}.jinja").read_text(encoding="utf-8"), None
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"no prompt and no file {name!r}",
            field=field,
            remedy=f"one of {', '.join(names(package))}, or a path to your own",
        )
    try:
        data = path.read_bytes()
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error.reason})", file=path, remedy="save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", file=path) from None
    if len(data) > MAX_BYTES:
        raise UserError(f"longer than {MAX_BYTES} bytes", file=path, remedy="shorten the prompt")
    return text, path


def check_placeholders(text: str, path: Path, known: Sequence[str], needed: Sequence[str]) -> set[str]:
    """The placeholders that a user's prompt uses. Raises UserError: broken syntax, one that is unknown or missing."""
    try:
        used = meta.find_undeclared_variables(ENVIRONMENT.parse(text))
    except TemplateSyntaxError as error:
        raise UserError(
            f"not a Jinja template: {error.message}", file=path, line=error.lineno, remedy="mend the syntax"
        ) from None
    unknown, missing = sorted(used - set(known)), [name for name in needed if name not in used]
    if unknown:
        raise UserError(
            f"unknown placeholder {{{{ {unknown[0]} }}}}", file=path, remedy=f"there are only {', '.join(known)}"
        )
    if missing:
        raise UserError(
            f"no {{{{ {missing[0]} }}}}", file=path, remedy=f"write {{{{ {missing[0]} }}}} where it belongs"
        )
    return used
