"""Disjoint splits of problems from files.

Two problems count as one when their normalised texts are equal. Normalising errs towards counting two as one: that
costs a problem, the other error costs a clean comparison. Rules ours.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from pns.errors import UserError
from pns.records import Problem

_QUOTES_AND_DOLLARS = re.compile("[\"'`´‘’“”«»$]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_SENTENCE_MARKS = re.compile(r"[.;:!?]+(?=\s|$)")


def normalise(text: str) -> str:
    """The text by which problems are compared: lower case, single spaces, no sentence marks, quotes or dollar signs.

    Decimal points, fractions, signs and brackets stay, so "3.5" and "35", or "x + 1" and "x - 1", remain different.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    text = _QUOTES_AND_DOLLARS.sub("", text)
    text = _THOUSANDS.sub("", text).replace(",", " ")
    text = _HYPHEN.sub(" ", text)
    return " ".join(_SENTENCE_MARKS.sub("", text).split())


def assign(problems: Sequence[Problem], sizes: Mapping[str, int], seed: int) -> dict[str, list[Problem]]:
    """Put problems into splits that are disjoint by construction.

    Problems are ordered by a hash of the seed and their normalised text; each split takes the next ones, in the order
    of `sizes`. So the order of the file changes nothing, and a larger last split leaves the others as they are. Of
    problems with the same normalised text the one with the smallest id is kept.

    Args:
        problems: the pool.
        sizes: split name -> number of problems, 0 or more.
        seed: any integer.

    Returns:
        split name -> problems, exactly `sizes[name]` of them.

    Raises:
        UserError: the pool has fewer different problems than the splits need.
    """
    distinct: dict[str, Problem] = {}
    for problem in problems:
        key = normalise(problem.problem)
        if key not in distinct or problem.id < distinct[key].id:
            distinct[key] = problem
    need = sum(sizes.values())
    if need > len(distinct):
        wanted = ", ".join(f"{name} {size}" for name, size in sizes.items())
        repeats = len(problems) - len(distinct)
        raise UserError(
            f"the splits need {need} problems ({wanted}) and there are {len(distinct)} different ones"
            + (f" ({repeats} repeats left out)" if repeats else ""),
            field="problems.splits",
            remedy="make the splits smaller, or give a larger file",
        )
    ordered = [distinct[key] for key in sorted(distinct, key=lambda key: _rank(key, seed))]
    splits: dict[str, list[Problem]] = {}
    start = 0
    for name, size in sizes.items():
        splits[name] = ordered[start : start + size]
        start += size
    return splits


def check_disjoint(groups: Mapping[str, Sequence[Problem]]) -> None:
    """Make sure that no problem occurs in two groups (repeats within one group are allowed).

    Raises:
        RuntimeError: naming the two ids and their groups. It is a fault of the program, not of the user's input.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, problems in groups.items():
        for problem in problems:
            group, other = seen.setdefault(normalise(problem.problem), (name, problem.id))
            if group != name:
                raise RuntimeError(f"problem {problem.id!r} of {name} is also problem {other!r} of {group}")


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode()).digest()
