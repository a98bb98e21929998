r"""Fractions with a slash that have two readings: `1/2x` is half of x, or one over two x. (Source: ours.)"""

from __future__ import annotations

import re

from pns.verify.latex import CLOSING, OPENING, step, tokens

_FUNCTIONS = frozenset(
    re.findall(r"\\[a-z]+", r"\sin\cos\tan\cot\sec\csc\arcsin\arccos\arctan\sinh\cosh\tanh\ln\log\exp")
)
_SPACING = frozenset({"\\ ", "\\,", "\\;", "\\:", "\\!"})
_BINARY = frozenset(
    {"\\cdot", "\\times", "\\div", "\\pm", "\\mp", "\\le", "\\ge", "\\ne", "\\approx", "\\in", "\\cup", "\\cap", "\\to", "\\degree",
     "\\text", "\\pmod", "\\bmod", "\\equiv", "\\quad", "\\\\", "\\%", "\\$"}
)  # fmt: skip


def open_slash(text: str) -> bool:
    """Whether something stands behind a fraction with a slash that may belong below it or beside it: `1/2x`."""
    parts = [t for t in tokens(text) if t.strip() and t not in _SPACING]
    return any(t in ("/", "\\div") and _operand_at(parts, _skip_operand(parts, i + 1)) for i, t in enumerate(parts))


def _operand_at(parts: list[str], i: int) -> bool:
    if i >= len(parts):
        return False
    token = parts[i]
    if token in OPENING:
        return token != "\\{"
    if token in CLOSING or token in _BINARY:
        return False
    return token.isalnum() or (token.startswith("\\") and token[1:].isalpha())


def _skip_operand(parts: list[str], i: int) -> int:
    """Behind the number, letter, command or bracket at i, with its arguments and exponent."""
    if i < len(parts) and parts[i] in "+-":
        i += 1
    if i >= len(parts):
        return i
    if parts[i].isdigit() or parts[i] == ".":
        while i < len(parts) and (parts[i].isdigit() or parts[i] == "."):
            i += 1
    elif parts[i] in OPENING:
        i = _skip_bracket(parts, i)
    else:
        command = parts[i]
        i += 1
        while i < len(parts) and command.startswith("\\") and parts[i] in ("{", "["):
            i = _skip_bracket(parts, i)
        if command in _FUNCTIONS:
            while i < len(parts) and parts[i] in ("^", "_"):
                i = _skip_operand(parts, i + 1)
            i = _skip_operand(parts, i)
    while i < len(parts) and parts[i] in ("^", "_", "!"):
        i = i + 1 if parts[i] == "!" else _skip_operand(parts, i + 1)
    return i


def _skip_bracket(parts: list[str], i: int) -> int:
    depth = 0
    while i < len(parts):
        depth += step(parts[i])
        i += 1
        if depth <= 0:
            break
    return i
