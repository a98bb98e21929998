"""Every command's help: its examples can be pasted from an 80-column terminal, and name options that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import pytest
import typer
from typer.main import get_command

from pns.cli import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ROOT = get_command(app)
ALL = dict(commands(ROOT))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_examples_fit_80_columns_and_name_real_options(path: tuple[str, ...]) -> None:
    command = ALL[path]
    # On a terminal of 80 columns click uses 78.
    help = command.get_help(typer.Context(command, info_name="pns", terminal_width=78, max_content_width=80))
    paragraphs = re.split(r"\n\s*\n", help.partition("Examples:")[2] or help.partition("Example:")[2])
    examples = [p.strip() for p in paragraphs if p.strip().startswith("pns ")]
    if path not in [(), ("audit",)]:
        assert examples, "no example"
    for paragraph in takewhile(lambda p: not p.startswith(("Arguments:", "Options:", "Commands:")), paragraphs):
        *lines, _ = paragraph.rstrip().split("\n")
        for place, line in enumerate(lines, 1):  # it goes on where the shell reads on
            assert line.endswith("\\") or "\n".join(lines[:place]).count("'") % 2, f"wrapped: {paragraph}"
    for example in examples:
        assert "\n" not in example, f"wrapped: {example}"
        words = shlex.split(example)[1:]
        meant = next(ALL[tuple(words[:n])] for n in (2, 1) if tuple(words[:n]) in ALL)
        known = {option for parameter in meant.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
