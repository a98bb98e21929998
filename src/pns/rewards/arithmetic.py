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
MAX_GROUP, MAX_DEPTH, LINE = 300, 4, 300

_COMMA = r"(?:,(?:\\!)?|\{,\}|\\,)"  # 1,000 and LaTeX's 1,\!000  1{,}000  1\,000
# Digits are bounded: Python refuses to read thousands of them, and a product of such numbers takes long.
_NUMBER = (
    rf"[0-9]{{1,3}}(?:{_COMMA}[0-9]{{3}}){{1,8}}(?![0-9]|{_COMMA}[0-9]{{3}})(?:\.[0-9]{{1,40}})?"
    r"|[0-9]{1,15}(?:\.[0-9]{1,40})?|\.[0-9]{1,40}"
)
_TOKEN = re.compile(
    rf"""(?P<number>(?:\\?(?P<money>[$€£])\s{{0,200}})?
        (?:(?P<whole>[0-9]{{1,6}})[ ](?P<above>[0-9]{{1,3}})/(?P<below>[0-9]{{1,3}})(?![0-9./])
          |(?P<digits>(?(money)[0-9]{{1,3}}(?:[ ][0-9]{{3}})+(?![0-9])|(?!))|{_NUMBER})
            (?![0-9]|\.[0-9]{{41}}|\.?\\overline|(?:,[0-9]{{3}}){{9}}))
        (?P<more>\.\.\.|…|\\l?dots(?![a-z]))?(?P<percent>\s?\\?%|[ ]per\s?cent(?![a-z]))?)
    |(?P<long>[0-9][0-9,]*)
    |(?P<spoils>\\sqrt[ ]?\[[^\[\]\n]{{0,9}}\]|\\[dt]?binom[ ]?(?:\{{[^{{}}\n]{{0,40}}\}}[ ]?){{2}})
    |(?P<frac>\\[dtc]?frac(?![a-z]))
    |(?P<op>\\times(?![a-z])|\\cdot(?![a-z])|\\div(?![a-z])|[-+*/×·÷−–])
    |(?P<equals>=|≈|\\approx(?![a-z]))
    |(?P<left>\()|(?P<right>\))
    |(?P<skip>\\text\{{|\\boxed\{{|\\\$|\$|\\[()\[\],;:! ]|&|[{{}}]|[ \t]+
        |\\\\(?=\s*[=&])|\n(?=[ \t]*(?:=|&|\\approx|≈))|(?:(?<=[0-9)}} ][-+])|(?<=cdot)|(?<=times))\n)
    |(?P<word>[A-Za-z]+(?:['’][a-z]+)?)
    |(?P<other>.|\n)""",
    re.VERBOSE | re.DOTALL,
)
_SEPARATOR = re.compile(r"[^0-9.]")
_FORMULA = re.compile(r"[A-Za-z,;:][ \n]{1,3}(?:\$|\\[(\[])[ ]?(?:\\boxed\{)?$")
_MARK = re.compile(r"<<([^<>\n]{1,200})>>")
_BULLET = re.compile(r"^[ \t]*[-*•][ \t]", re.MULTILINE)
# Words that begin another clause. What stands between one and the next equal sign is not the number before it.
_CLAUSE = frozenset(
    {"and", "or", "so", "then", "but", "thus", "hence", "where", "because", "since", "if", "when", "while", "therefore"}
)
_OPS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"}


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
    kind: str  # number, op, =, (, ), unit, cut, poison
    start: int
    end: int
    value: Fraction = Fraction(0)
    text: str = ""
    places: int = 0
    percent: bool = False
    more: bool = False  # `0.333...`
    sign: bool = False  # an operator that opens a formula: `\\(3\\) and \\(-4\\)`


@dataclass(frozen=True, slots=True)
class _Side:
    value: Fraction | None
    numbers: tuple[_Token, ...]
    operators: tuple[str, ...]
    start: int
    end: int
    opens: bool = False  # a bracket at its begin that closes elsewhere
    shuts: bool = False  # a bracket at its end that was opened elsewhere
    about: bool = False  # `≈` stands before it


def find_steps(text: str) -> list[Statement]:
    """Statements in order of appearance; only the first 20,000 characters are read."""
    text = text[:MAX_CHARS]
    plain = _BULLET.sub(lambda m: ";" * len(m.group()), _MARK.sub(lambda m: " " * len(m.group()), text))
    shown = list(_statements(plain, 0))
    found: list[Statement] = []
    first = 0  # statements stand in order, and none overlaps another
    for mark in _MARK.finditer(text):
        while first < len(shown) and shown[first].end < mark.start():
            found.append(shown[first])
            first += 1
        around = first < len(shown) and shown[first].start <= mark.start()
        inside = list(_statements(mark[1], mark.start() + 2))
        if inside:
            said = text[max(0, mark.start() - LINE) : mark.start()].rpartition("\n")[2]
            found.append(_marked(inside, shown[first] if around else None, mark, said))
            first += around
    return sorted([*found, *shown[first:]], key=lambda s: s.start)


def _marked(inside: list[Statement], shown: Statement | None, mark: re.Match[str], said: str) -> Statement:
    """A calculator mark and the statement that its reader sees around it, as one: both must be right, and agree.

    `said` is the line before the mark. Where all numbers of either stand in the other, the sum around it was misread
    (`10 2-legged animals * 2 = <<10*2=20>>20`), and the mark alone is believed.
    """
    statement, right = inside[0], all(s.right for s in inside)
    if shown is None:
        return replace(statement, right=right, end=mark.end())
    # `25% = <<.25*100=25>>25%`: the mark leaves the sign out
    result = shown.result * 100 if shown.percent and not statement.percent else shown.result
    gap = abs(result - statement.result)
    agree = gap < Fraction(1, 100) and gap * 10 <= abs(statement.result)
    if not agree:
        result = shown.result
    if not shown.right:  # a right mark beside another sum is not a right step
        numbers = set(statement.operands)
        line = {t.value for t in _tokens(said, 0) if t.kind == "number"}
        right = right and numbers <= line and set(shown.operands) <= numbers
    return replace(statement, result=result, right=right and agree, start=shown.start, end=mark.end())


def _statements(text: str, offset: int) -> Iterator[Statement]:
    for run in _runs(text):
        chain: list[_Side] = []
        for i, part in enumerate(run):
            sides = _sides(part[1:] if i else part)
            if i and sides:
                sides[0] = replace(sides[0], about=part[0].text == "≈")
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
        # `gcd(12, 3 * 5) = 3` and `(1 + 1, 2) = (2, 2)` speak of more than the numbers beside the equal sign
        if any(a.shuts or b.opens for a, b in pairwise(known)):
            continue
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
    last = b.numbers[0] if len(b.numbers) == 1 else None
    return any(a.value == v or (last is not None and _rounded(a.value, v, last, b.about)) for v in readings)


def _rounded(exact: Fraction, shown: Fraction, token: _Token, about: bool) -> bool:
    """Whether a number is the exact value rounded to 2 or more places, and still near it: 1/300 is not 0.00.

    After `≈`, and before `...`, fewer places will do.
    """
    near = abs(exact - shown) * (20 if about else 10) <= abs(exact)
    if token.places >= 9 and abs(exact - shown) * 10**9 <= abs(exact):
        return True  # a calculator's 14.999999999999998
    return near and (token.places >= 2 or token.more or about) and rounds_to(exact, shown, token.places)


def _runs(text: str) -> Iterator[list[list[_Token]]]:
    """Runs of tokens between breaks (full stops, colons, line ends), each split at its equal signs, which begin their parts."""
    run: list[list[_Token]] = [[]]
    for token in _tokens(text, 0):
        if token.kind == "break":
            if len(run) > 1:
                yield run
            run = [[]]
        elif token.kind == "=":
            run.append([token])
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
            yield _number(m, start, end)
        elif m["long"] or m["spoils"]:
            yield _Token("poison", start, end)
        elif m["frac"]:
            made, at = _fraction(text, at, m.start(), offset, depth)
            yield from made
        elif m["op"]:
            yield _Token("op", start, end, text=_OPS.get(m["op"], m["op"]), sign=_opens_formula(text, m.start()))
        elif m["equals"]:
            yield _Token("=", start, end, text="=" if m["equals"] == "=" else "≈")
        elif m["left"] or m["right"]:
            yield _Token(m.group(), start, end)
        elif m["word"]:
            yield _word(m["word"], text, m.start(), start, end)
        elif kind == "other":
            poison = m.group() in "^_!√\\|<>"
            yield _Token("poison" if poison else "break", start, end)


def _number(m: re.Match[str], start: int, end: int) -> _Token:
    percent, more = bool(m["percent"]), bool(m["more"])
    if m["whole"]:
        above, below = int(m["above"]), int(m["below"])
        if not 0 < above < below:  # `7 10/5`: two numbers, or none
            return _Token("poison", start, end)
        return _Token("number", start, end, int(m["whole"]) + Fraction(above, below), percent=percent)
    digits = _SEPARATOR.sub("", m["digits"])
    value = Fraction(digits) / (100 if percent else 1)
    return _Token("number", start, end, value, places=len(digits.partition(".")[2]), percent=percent, more=more)


def _opens_formula(text: str, at: int) -> bool:
    """Whether the operator at `at` is the sign of a formula of its own: `a slope of $-14/14`, not `$5 -$3`."""
    return _FORMULA.search(text, max(0, at - 16), at) is not None


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
    if word.lower() == "of" and re.search(r"(?:%|per\s?cent)\s$", text[max(0, at - 10) : at]):
        return _Token("op", start, end, text="*")
    if word.lower() in ("remainder", "mod", "modulo") or (word == "R" and before[-1:] in " 0123456789"):
        return _Token("poison", start, end)  # 18 / 4 = 4 remainder 2: the result is not all of it
    if word in ("a", "A", "I") and (re.match(r"\s?[-+*/=^_()]", after) or re.search(r"[-+*/=(^]\s?$", before)):
        return _Token("poison", start, end)
    if word.lower() in _CLAUSE and before[-1:].isspace():
        return _Token("cut", start, end)
    if 2 <= len(word) <= 3 and word.isupper() and before[-1:] not in ("", " ", "\n", "(", "{"):
        return _Token("poison", start, end)  # the line AB: `66/BC`, `$AB=8$`
    attached = at > 0 and (text[at - 1].isdigit() or text[at - 1] in "\\)}")
    if (len(word) == 1 and word not in "aAI") or (attached and len(word) < 3 and text[at - 1] != ")"):
        return _Token("poison", start, end)
    return _Token("poison" if at > 0 and text[at - 1] == "\\" else "unit", start, end, text=word)


def _sides(tokens: list[_Token]) -> list[_Side]:
    """The expressions that follow one another between two equal signs: `7 so 7 + 5` holds `7` and `7 + 5`."""
    pieces: list[list[_Token]] = [[]]
    for i, token in enumerate(tokens):
        piece = pieces[-1]
        following = tokens[i + 1] if i + 1 < len(tokens) else None
        if token.kind == "cut":
            pieces.append([_Token("poison", token.start, token.end, text="cut")])
            continue
        if token.kind == "op" and following is not None and following.kind == "unit":
            # "3 / hour" and "5-day" are units; any other operator before a word has an operand that cannot be read
            if token.text not in "/-" or (following.start != token.end):
                piece.append(_Token("poison", token.start, token.end))
            continue
        if token.kind == "unit":
            piece.append(token)
            continue
        starts = token.kind in ("number", "(") or token.sign
        content = [t for t in piece if t.kind != "unit"]
        if starts and len(content) == 1 and piece is not pieces[0] and piece[0].text == "cut":
            pieces.append([])  # nothing but words since the clause began
        elif starts and content and content[-1].kind in ("number", ")"):
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
    opens = shuts = False
    while tokens and tokens[0].kind == "(" and _depth(tokens) > 0:
        tokens, opens = tokens[1:], True
    while tokens and tokens[-1].kind == ")" and _depth(tokens) < 0:
        tokens, shuts = tokens[:-1], True
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
    return _Side(value, numbers, operators, tokens[0].start, tokens[-1].end, opens, shuts)


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
