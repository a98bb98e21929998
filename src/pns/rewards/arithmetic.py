"""Find arithmetic statements `a op b [op c ...] = d` in a solution, and check them exactly.

Read: plain text, light LaTeX (`\\times`, `\\div`, `\\cdot`, `\\frac{a}{b}`), calculator marks `<<48/2=24>>` (with the
text around one they are a single statement), money, per cent, commas, decimals, brackets, units after a number (`3
apples + 4 apples`). Not read: powers, roots and letters; a piece that holds one is left out rather than misread.
(Source: ours.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, pairwise

from pns.verify.numbers import rounds_to

MAX_TOKENS = 60
MAX_CHARS = 20_000
MAX_GROUP, MAX_DEPTH = 300, 4

_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15}"
_TOKEN = re.compile(
    rf"""(?P<number>(?:\\?[$€£]\s?)?(?P<digits>{_NUMBER})(?![0-9]|\.?\\overline)(?P<percent>\s?\\?%)?)
    |(?P<frac>\\[dtc]?frac(?![a-z]))
    |(?P<op>\\times(?![a-z])|\\cdot(?![a-z])|\\div(?![a-z])|[-+*/×·÷−])
    |(?P<equals>=|≈|\\approx(?![a-z]))
    |(?P<left>\()|(?P<right>\))
    |(?P<skip>\\text\{{|\\boxed\{{|\\\$|\$|\\[()\[\],;:! ]|&|[{{}}]|[ \t]+
        |\\\\(?=\s*[=&])|\n(?=[ \t]*(?:=|&|\\approx|≈)))
    |(?P<word>[A-Za-z]+(?:['’][a-z]+)?)
    |(?P<other>.|\n)""",
    re.VERBOSE | re.DOTALL,
)
_MARK = re.compile(r"<<([^<>\n]{1,200})>>")
_BULLET = re.compile(r"^[ \t]*[-*•][ \t]", re.MULTILINE)
_OPS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "×": "*", "·": "*", "÷": "/", "−": "-"}


@dataclass(frozen=True, slots=True)
class Statement:
    """One arithmetic statement. `operands` as read (a per cent as its hundredth), in order; `percents` those numbers
    before the division by 100; `right` whether both sides agree exactly, or the result is the value rounded to 2 or
    more places; `percent` whether the result carries a per cent sign."""

    operands: tuple[Fraction, ...]
    operators: tuple[str, ...]
    result: Fraction
    right: bool
    start: int
    end: int
    percents: tuple[Fraction, ...] = ()
    percent: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, op, (, ), unit, poison
    start: int
    end: int
    value: Fraction = Fraction(0)
    text: str = ""
    places: int = 0
    percent: bool = False


@dataclass(frozen=True, slots=True)
class _Side:
    value: Fraction | None
    numbers: tuple[_Token, ...]
    operators: tuple[str, ...]
    start: int
    end: int


def find_steps(text: str) -> list[Statement]:
    """Statements in order of appearance; only the first 20,000 characters are read."""
    text = text[:MAX_CHARS]
    marks = list(_MARK.finditer(text))
    plain = _BULLET.sub(lambda m: ";" * len(m.group()), _MARK.sub(lambda m: " " * len(m.group()), text))
    shown = list(_statements(plain, 0))
    found: list[Statement] = []
    for mark in marks:
        around = [s for s in shown if s.start <= mark.start() <= s.end]
        shown = [s for s in shown if s not in around]
        inside = list(_statements(mark[1], mark.start() + 2))
        for statement in inside[:1]:
            # what the reader sees counts: a right mark beside another written result is not a right step
            last = around[-1].result if around else statement.result
            agree = last == statement.result or abs(last - statement.result) < Fraction(1, 100)
            begin = around[0].start if around else mark.start()
            right = statement.right and agree
            found.append(replace(statement, result=last, right=right, start=begin, end=mark.end()))
        if not inside:
            shown += around
    return sorted([*found, *shown], key=lambda s: s.start)


def _statements(text: str, offset: int) -> Iterator[Statement]:
    for run in _runs(text):
        chain: list[_Side] = []
        for i, part in enumerate(run):
            sides = _sides(part)
            first, last = (sides[0], sides[-1]) if sides else (None, None)
            if i > 0 and first is not None:
                chain.append(first)
            if i > 0 and (first is None or len(sides) > 1 or i == len(run) - 1):
                yield from _close(chain, offset)
                chain = []
            if last is not None and (i == 0 or len(sides) > 1):
                chain = [last]
        # a chain left open here has no right side


def _close(chain: list[_Side], offset: int) -> Iterator[Statement]:
    """Turn a chain of sides `a = b = c` into statements, cut where a side could not be read (`x = 3 + 4 = 7`)."""
    for readable, group in groupby(chain, key=lambda side: side.value is not None):
        known = list(group)
        if readable and len(known) > 1 and known[0].operators:
            yield _statement(known, offset)


def _statement(known: list[_Side], offset: int) -> Statement:
    first, last = known[0], known[-1]
    right = all(_agree(a, b) for a, b in pairwise(known))
    return Statement(
        operands=tuple(t.value for t in first.numbers),
        operators=first.operators,
        result=last.value or Fraction(0),
        right=right,
        start=first.start + offset,
        end=last.end + offset,
        percents=tuple(t.value * 100 for t in first.numbers if t.percent),
        percent=bool(last.numbers and last.numbers[-1].percent),
    )


def _agree(a: _Side, b: _Side) -> bool:
    if a.value is None or b.value is None:
        return False
    readings = [b.value, b.value * 100] if b.numbers and b.numbers[-1].percent else [b.value]
    places = b.numbers[0].places if len(b.numbers) == 1 else 0
    return any(a.value == v or (places >= 2 and rounds_to(a.value, v, places)) for v in readings)


def _runs(text: str) -> Iterator[list[list[_Token]]]:
    """Runs of tokens between breaks (full stops, colons, line ends), each split at its equal signs."""
    run: list[list[_Token]] = [[]]
    for token in _tokens(text, 0):
        if token.kind == "break":
            if len(run) > 1:
                yield run
            run = [[]]
        elif token.kind == "=":
            run.append([])
        else:
            run[-1].append(token)
    if len(run) > 1:
        yield run


def _tokens(text: str, offset: int, depth: int = 0) -> Iterator[_Token]:
    at = 0
    while (m := _TOKEN.match(text, at)) is not None:
        at = m.end()
        start, end = m.start() + offset, m.end() + offset
        kind = m.lastgroup or ""
        if m["number"]:
            digits = m["digits"].replace(",", "")
            value = Fraction(digits) / (100 if m["percent"] else 1)
            places = len(digits.partition(".")[2])
            yield _Token("number", start, end, value, places=places, percent=bool(m["percent"]))
        elif m["frac"]:
            made, at = _fraction(text, at, m.start(), offset, depth)
            yield from made
        elif m["op"]:
            yield _Token("op", start, end, text=_OPS.get(m["op"], m["op"]))
        elif m["equals"]:
            yield _Token("=", start, end)
        elif m["left"] or m["right"]:
            yield _Token(m.group(), start, end)
        elif m["word"]:
            yield _word(m["word"], text, m.start(), start, end)
        elif kind == "other":
            poison = m.group() in "^_!√\\|<>"
            yield _Token("poison" if poison else "break", start, end)


def _fraction(text: str, at: int, begin: int, offset: int, depth: int) -> tuple[list[_Token], int]:
    """The tokens `((above)/(below))` of a `\\frac` whose name ends at `at`, and where the text goes on after it.

    Without two closed groups it spoils its piece: `\\frac12` and the like are not read.
    """
    above = _group(text, at)
    below = _group(text, above[1] + 1) if above else None
    if above is None or below is None or depth >= MAX_DEPTH:
        return [_Token("poison", begin + offset, at + offset)], at
    start, end = begin + offset, below[1] + 1 + offset
    left, right = _Token("(", start, start), _Token(")", end, end)
    inner = [list(_tokens(text[i:j], i + offset, depth + 1)) for i, j in (above, below)]
    return [left, left, *inner[0], right, _Token("op", start, start, text="/"), left, *inner[1], right, right], below[
        1
    ] + 1


def _group(text: str, at: int) -> tuple[int, int] | None:
    """Begin and end of what the brace at `at` (one space before it allowed) encloses; None where it is not closed."""
    at += text[at : at + 1] == " "
    if text[at : at + 1] != "{":
        return None
    depth = 0
    for i in range(at, min(len(text), at + MAX_GROUP)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return at + 1, i
    return None


def _word(word: str, text: str, at: int, start: int, end: int) -> _Token:
    """A word is a unit, a times sign (`3 x 4`), `of` (`20% of 50`), or a letter of algebra, which spoils its piece."""
    before, after = text[max(0, at - 2) : at], text[at + len(word) : at + len(word) + 2]
    if word in ("x", "X") and re.search(r"[0-9)]\s?$", before) and re.match(r"\s?[0-9($\\.]", after):
        return _Token("op", start, end, text="*")
    if word.lower() == "of" and re.search(r"%\s$", before):
        return _Token("op", start, end, text="*")
    if word.lower() in ("remainder", "mod", "modulo") or (word == "R" and before[-1:] in " 0123456789"):
        return _Token("poison", start, end)  # 18 / 4 = 4 remainder 2: the result is not all of it
    if word in ("a", "A", "I") and (re.match(r"\s?[-+*/=^_()]", after) or re.search(r"[-+*/=(^]\s?$", before)):
        return _Token("poison", start, end)
    attached = at > 0 and (text[at - 1].isdigit() or text[at - 1] in "\\)")
    if (len(word) == 1 and word not in "aAI") or (attached and len(word) < 3 and text[at - 1] != ")"):
        return _Token("poison", start, end)
    return _Token("poison" if at > 0 and text[at - 1] == "\\" else "unit", start, end, text=word)


def _sides(tokens: list[_Token]) -> list[_Side]:
    """The expressions that follow one another between two equal signs: `7 so 7 + 5` holds `7` and `7 + 5`."""
    pieces: list[list[_Token]] = [[]]
    for i, token in enumerate(tokens):
        piece = pieces[-1]
        following = tokens[i + 1] if i + 1 < len(tokens) else None
        if token.kind == "op" and following is not None and following.kind == "unit":
            # "3 / hour" and "5-day" are units; any other operator before a word has an operand that cannot be read
            if token.text not in "/-" or (following.start != token.end):
                piece.append(_Token("poison", token.start, token.end))
            continue
        if token.kind == "unit":
            piece.append(token)
            continue
        starts = token.kind in ("number", "(")
        content = [t for t in piece if t.kind != "unit"]
        if starts and content and content[-1].kind in ("number", ")"):
            fraction = token.kind == "(" and token.end == token.start
            touching = token.kind == "(" and piece[-1] is content[-1] and token.start - content[-1].end <= 1
            if (
                touching
                and (fraction or token.start > content[-1].end)
                and (content[-1].kind == "number" or token.start > content[-1].end)
            ):
                # `3\\frac{1}{2}` is a mixed number or a product, `4 (5 - 6)` a product or a remark
                piece.append(_Token("poison", token.start, token.start))
            elif touching and token.start == content[-1].end:
                piece.append(_Token("op", token.start, token.start, text="*"))
            else:
                pieces.append([])
        pieces[-1].append(token)
    sides = [_side(piece) for piece in pieces]
    return [side for side in sides if side is not None]


def _side(piece: list[_Token]) -> _Side | None:
    tokens = [t for t in piece if t.kind != "unit"]
    if len(tokens) > MAX_TOKENS:
        return _Side(None, (), (), tokens[0].start, tokens[-1].end)
    while tokens and tokens[0].kind == "(" and _depth(tokens) > 0:
        tokens = tokens[1:]
    while tokens and tokens[-1].kind == ")" and _depth(tokens) < 0:
        tokens = tokens[:-1]
    if not tokens:
        return None
    numbers = tuple(t for t in tokens if t.kind == "number")
    value = None
    if all(t.kind != "poison" for t in tokens):
        try:
            value, rest = _sum(tokens, 0)
            value = value if rest == len(tokens) else None
        except (ValueError, ZeroDivisionError, IndexError, RecursionError):
            value = None
    binary = (t for before, t in pairwise(tokens) if t.kind == "op" and before.kind in ("number", ")"))
    operators = tuple(t.text for t in binary)
    return _Side(value, numbers, operators, tokens[0].start, tokens[-1].end)


def _depth(tokens: list[_Token]) -> int:
    return sum((t.kind == "(") - (t.kind == ")") for t in tokens)


def _sum(tokens: list[_Token], i: int) -> tuple[Fraction, int]:
    value, i = _product(tokens, i)
    while i < len(tokens) and tokens[i].kind == "op" and tokens[i].text in "+-":
        right, j = _product(tokens, i + 1)
        value = value + right if tokens[i].text == "+" else value - right
        i = j
    return value, i


def _product(tokens: list[_Token], i: int) -> tuple[Fraction, int]:
    value, i = _atom(tokens, i)
    while i < len(tokens) and tokens[i].kind == "op" and tokens[i].text in "*/":
        right, j = _atom(tokens, i + 1)
        value = value * right if tokens[i].text == "*" else value / right
        i = j
    return value, i


def _atom(tokens: list[_Token], i: int) -> tuple[Fraction, int]:
    token = tokens[i]
    if token.kind == "op" and token.text in "+-":
        value, i = _atom(tokens, i + 1)
        return (-value if token.text == "-" else value), i
    if token.kind == "number":
        return token.value, i + 1
    if token.kind == "(":
        value, i = _sum(tokens, i + 1)
        if tokens[i].kind != ")":
            raise ValueError("unbalanced brackets")
        return value, i + 1
    raise ValueError("no operand")
