"""An answer's text as a value: taken apart at its top level, never computed.

What cannot be placed stays an `Expr`, which only the symbolic check can compare. (Source: ours.)
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from pns.records import AnswerKind
from pns.verify.atoms import CHOICE, NAME, TEXT_AROUND, read_number, read_special, read_words, unit_words, with_words
from pns.verify.latex import clean, closes_at_end, depth_of, split_top, strip_outer, tokens
from pns.verify.numbers import Plain
from pns.verify.units import read_unit
from pns.verify.values import MAX_ITEMS, Choice, Expr, Group, Named, Num, Relation, Text, Value
from pns.verify.words import plain_words

MAX_DEPTH = 12
_THOUSANDS = re.compile(r"(?<![0-9.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")
_THOUSANDS_SPACED = re.compile(r"(?<![0-9./])[1-9][0-9]{0,2}(?: ?, ?[0-9]{3})+(?![0-9./])")
_TEXT_UNIT = r"\\text ?\{(?P<t>[^{}]*)\}(?P<p> ?\^ ?(?:\{[1-4]\}|[1-4]))?(?P<more>(?: ?/ ?\\text ?\{[^{}]*\})?)"
_BEHIND = re.compile(rf"(?P<value>.*?[^\\ ]) ?{_TEXT_UNIT}", re.DOTALL)
_POWER_INSIDE = re.compile(r"\^ ?[1-4] ?$")
_DEGREE = re.compile(r"(?P<value>.*?[^\\ ]) ?\\degree ?(?:(?P<scale>[CF])|\\text ?\{ ?(?P<scale2>[CF]) ?\})?")
_ANGLE_INSIDE = re.compile(r"\\degree|\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_CHOICE_FIRST = re.compile(r"\(? ?(?P<letter>[A-J]) ?\)[.:]? *(?P<rest>[^ ].*)", re.DOTALL)
# two words in what is no text otherwise: `10 + John's age`. The parser would make a product of its letters.
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}(?:'s)?\b[^\\{}]*(?<![\\A-Za-z])[A-Za-z]{3,}\b")
_NAME_PAIR = re.compile(r"\( ?[A-Za-z](?: ?, ?[A-Za-z])+ ?\)")
_LABEL = re.compile(r"\\text ?\{[^{}]*[A-Za-z][^{}]*\}")
_RELATIONS = frozenset({"=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx", "\\to", "\\equiv"})
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_MATRIX = re.compile(
    r"\\begin ?\{(?P<env>[bp]?matrix|array)\}(?: ?\{[lcr| ]*\})?(?P<body>.*)\\end ?\{(?P=env)\}", re.DOTALL
)


def read(text: str, kind: AnswerKind | None = None, unit: str | None = None) -> Value | None:
    """An answer's value; None where nothing is left of it, or brackets nest deeper than 12.

    Args:
        kind: `text` and `choice` read as such and nothing else; otherwise the text decides.
        unit: the unit that a number without one has.
    """
    bare = strip_outer(clean(text))
    if not bare or depth_of(bare) > MAX_DEPTH:
        return None
    if kind == "choice":
        first = CHOICE.fullmatch(bare) or _CHOICE_FIRST.fullmatch(TEXT_AROUND.sub(r"\1", bare))
        return Choice(first["letter"], True) if first else Text(plain_words(bare))
    value = _read(bare, texty=bare != clean(text).rstrip(". "))
    if kind == "text" and isinstance(value, Expr | Relation | Named | Group):
        return Text(plain_words(bare))
    return _with_unit(value, unit) if unit and value is not None else value


def joined(text: str) -> str | None:
    """The other reading of a text with commas that may part thousands or members of a list, `1,008\\sqrt6`; or None."""
    cleaned = clean(text)
    return _THOUSANDS.sub(_join, cleaned) if _THOUSANDS.search(cleaned) else None


def other_readings(text: str) -> list[str]:
    """All that a text may say if some of its commas part thousands, `1, 008` included, though that is hardly meant.

    `(1,1,006),(3,331)` has four readings. Of a text with more than three such places only the one with all joined.
    """
    cleaned = clean(text)
    places = list(_THOUSANDS_SPACED.finditer(cleaned))
    out = []
    for chosen in range(1, 2 ** len(places)) if len(places) <= 3 else [-1]:
        parts, end = [], 0
        for n, match in enumerate(places):
            parts += [cleaned[end : match.start()], _join(match) if chosen >> n & 1 else match[0]]
            end = match.end()
        out.append("".join(parts) + cleaned[end:])
    return out


def _join(match: re.Match[str]) -> str:
    return match[0].replace(",", "").replace(" ", "")


def _with_unit(value: Value, unit: str) -> Value:
    behind = strip_outer(clean(unit))
    if isinstance(value, Num) and value.unit is None:
        if behind == "%":
            return Num(replace(value.plain, percent=True), None, value.text)
        return replace(value, unit=read_unit(unit_words(behind)))
    return value


def _read(text: str, texty: bool = False) -> Value | None:
    text = strip_outer(text)
    if not text:
        return None
    return (
        read_number(text)
        or read_special(text, texty)
        or _dressed_number(text)
        or read_words(text)
        or _matrix(text)
        or _several(text)
        or _relation(text)
        or _bracketed(text)
        or _plus_minus(text)
        or _with_words_behind(text)
        or (Text(plain_words(text)) if _PROSE.search(text) else Expr(text))
    )


def _dressed_number(text: str) -> Value | None:
    """A number with a unit in `\\text{}`, before its words are taken for text."""
    dressed = _BEHIND.fullmatch(text)
    return _with_words_behind(text) if dressed and read_number(dressed["value"]) else None


def _matrix(text: str) -> Group | None:
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match["body"]:
        return None
    rows = [row for row in re.split(r"\\\\(?: ?\[[^\[\]]*\])?|\\cr", match["body"]) if row.strip(" \\hline")]
    cells = [[_read(cell) for cell in row.split("&")] for row in rows]
    if not cells or any(len(row) != len(cells[0]) for row in cells) or len(cells) * len(cells[0]) > MAX_ITEMS:
        return None
    items = [cell for row in cells for cell in row if cell is not None]
    if len(items) != len(cells) * len(cells[0]):
        return None
    return Group("matrix", tuple(items), columns=len(cells[0]))


def _several(text: str) -> Group | None:
    """A union, or a list with commas, semicolons, `and` or `or` at the top level."""
    for kind, pieces in (
        ("union", split_top(text, lambda t: t == "\\cup")),
        ("list", split_top(re.sub(r",? (?:and|or) ", ", ", text), lambda t: t in ",;")),
    ):
        parts = [piece for _, piece in pieces if piece]
        if len(pieces) > 1 and 1 <= len(parts) <= MAX_ITEMS:
            items = [_read(part) for part in parts]
            if len(parts) == 1:
                return None if items[0] is None else Group("list", (items[0],))
            flat = _flatten([item for item in items if item is not None], "list")
            return Group("union" if kind == "union" else "list", flat) if len(items) == len(parts) else None
    return None


def _flatten(items: list[Value], kind: str) -> tuple[Value, ...]:
    """`1 \\pm 2, 5` has three members: a list inside a list becomes part of it."""
    out: list[Value] = []
    for item in items:
        inner = item.items if isinstance(item, Group) and item.kind == kind and not item.ends else (item,)
        out += inner
    return tuple(out)


def _relation(text: str) -> Value | None:
    pieces = split_top(text, lambda t: t in _RELATIONS)
    if len(pieces) < 2:
        return None
    sides, signs = [piece for _, piece in pieces], [mark for mark, _ in pieces[1:]]
    if signs == ["\\approx"] and not sides[0]:
        return _read(sides[1])
    if not all(sides):
        return None
    if set(signs) <= {"=", "\\approx"}:
        if NAME.fullmatch(sides[0]) or _LABEL.fullmatch(sides[0]) or _in_order_of_the_alphabet(sides[0]):
            value = _chain(sides[1:])
            return None if value is None else Named(sides[0].replace(" ", ""), value)
        if not any(map(_letters, sides[1:])) and (len(sides) > 2 or not _letters(sides[0])):
            # a first side with letters is what the numbers are for: `x + y = 3 + 5 = 8`
            return _chain(sides[1:] if _letters(sides[0]) else sides)
    if signs == ["\\in"] and NAME.fullmatch(sides[0]):
        return _read(sides[1])
    interval = _inequality(sides, signs)
    if interval is not None:
        return interval
    if len(signs) == 1:
        return Relation(sides[0], signs[0], sides[1])
    return None


def _chain(sides: list[str]) -> Value | None:
    """One value, or several that should be one. An equation among them is none."""
    values = [_read(side) for side in sides]
    found = [v for v in values if v is not None]
    if len(found) != len(sides):
        return None
    return found[0] if len(found) == 1 else Group("chain", tuple(found))


def _letters(text: str) -> bool:
    """Whether names stand in it: `x + y`, but not `\\frac12`."""
    return (
        re.search(r"[A-Za-z]", re.sub(r"\\(?:frac|sqrt|pi|cdot|times|div|degree|text ?\{[^{}]*\})", "", text))
        is not None
    )


def _in_order_of_the_alphabet(text: str) -> bool:
    """`(x, y)` as the name of a pair; the names of `(y, x) = (2, 1)` say that it is another pair than it seems."""
    if not _NAME_PAIR.fullmatch(text):
        return False
    names = re.findall("[A-Za-z]", text)
    return names == sorted(names)


def _inequality(sides: list[str], signs: list[str]) -> Group | None:
    """`x > 2`, `2 < x \\le 5` as the interval that they say."""
    if not set(signs) <= set(_FLIP):
        return None
    if len(signs) == 1 and NAME.fullmatch(sides[1]) and not NAME.fullmatch(sides[0]):
        sides, signs = [sides[1], sides[0]], [_FLIP[signs[0]]]
    if len(signs) == 1 and NAME.fullmatch(sides[0]):
        bound = _read(sides[1])
        if bound is None or isinstance(bound, Group):
            return None
        closed = signs[0] in ("\\le", "\\ge")
        if signs[0] in (">", "\\ge"):
            return Group("tuple", (bound, Expr("\\infty")), ends=("[" if closed else "(") + ")")
        return Group("tuple", (Expr("-\\infty"), bound), ends="(" + ("]" if closed else ")"))
    if len(signs) == 2 and NAME.fullmatch(sides[1]):
        if set(signs) <= {">", "\\ge"}:
            sides, signs = sides[::-1], [_FLIP[s] for s in reversed(signs)]
        if set(signs) <= {"<", "\\le"}:
            low, high = _read(sides[0]), _read(sides[2])
            if low is not None and high is not None:
                ends = ("[" if signs[0] == "\\le" else "(") + ("]" if signs[1] == "\\le" else ")")
                return Group("tuple", (low, high), ends=ends)
    return None


def _bracketed(text: str) -> Value | None:
    """`(1, 2]`, `\\{1, 2\\}`, `(5)`; brackets around one value are dropped, unless they make a set or a function."""
    if text[0] in "+-" and text[1:2] == "(" and closes_at_end(text[1:]):
        inner = _read(text[1:])
        if isinstance(inner, Num) and inner.unit is None:
            value = inner.plain.value if text[0] == "+" else -inner.plain.value
            return Num(replace(inner.plain, value=value), None, text)
        return None
    parts = tokens(text)
    if len(parts) < 3 or parts[0] not in ("(", "[", "\\{", "\\langle") or not closes_at_end(text):
        return None
    left, right = parts[0], parts[-1]
    inside = "".join(parts[1:-1]).strip()
    members = [piece for _, piece in split_top(inside, lambda t: t in ",;")]
    if left == "\\{":
        if inside == "\\emptyset":
            return Expr(text)  # not the empty set, but a set that holds it
        if re.search(r"\\mid|\||:", inside):
            return None
        return _members("set", [member for member in members if member], "")
    if left == "\\langle":
        return _members("tuple", members, "()")
    if len(members) == 1:
        if left + right not in ("()", "[]"):
            return None
        matrix = _matrix(members[0])
        return matrix or (_read(members[0], texty=True) if left == "(" else None)
    ends = left + right
    if ends not in ("()", "[]", "(]", "[)"):
        return None
    found = _members("tuple", members, ends)
    return (_rows(found) or found) if found and ends == "[]" else found


def _rows(group: Group) -> Group | None:
    """`[[1, 2], [3, 4]]` as the matrix that it is in every programming language."""
    rows = [item for item in group.items if isinstance(item, Group) and item.ends == "[]"]
    width = len(rows[0].items) if rows else 0
    if len(rows) < len(group.items) or any(len(row.items) != width for row in rows) or width * len(rows) > MAX_ITEMS:
        return None
    return Group("matrix", tuple(item for row in rows for item in row.items), columns=width)


def _members(kind: Literal["set", "tuple"], members: list[str], ends: str) -> Group | None:
    items = [_read(member) for member in members if member]
    found = [item for item in items if item is not None]
    if len(found) != len(members) or len(found) > MAX_ITEMS:
        return None
    return Group(kind, _flatten(found, "list") if kind == "set" else tuple(found), ends)


def _plus_minus(text: str) -> Value | None:
    if tokens(text).count("\\pm") + tokens(text).count("\\mp") != 1:
        return None
    up, down = (re.sub(r"\\(?:pm|mp)(?![A-Za-z])", sign, text) for sign in "+-")
    first, second = _read(up.removeprefix("+")), _read(down)
    return None if first is None or second is None else Group("list", (first, second))


def _with_words_behind(text: str) -> Value | None:
    """A value with a unit in `\\text{}`, a degree sign, or a choice letter before it."""
    if degree := _DEGREE.fullmatch(text):
        # `\sin 30^\circ` and `30^\circ + 45^\circ` have their degrees inside
        if _ANGLE_INSIDE.search(degree["value"]):
            return None
        return _as_unit(degree["value"], f"degree {degree['scale'] or degree['scale2'] or ''}".strip())
    behind = _BEHIND.fullmatch(text)
    if behind and behind["t"].strip(" .") and not re.search(r"[0-9]", _POWER_INSIDE.sub("", behind["t"])):
        return _as_unit(behind["value"], unit_words(behind["t"] + (behind["p"] or "") + behind["more"]))
    # the letter may stand in `\textbf{}`, its value outside
    choice = _CHOICE_FIRST.fullmatch(TEXT_AROUND.sub(r"\1", text))
    # one letter is enough: `A) A) A)` would be read level by level
    value = _read(choice["rest"]) if choice and not _CHOICE_FIRST.match(choice["rest"]) else None
    return Named(f"({choice['letter']})", value, choice["letter"]) if choice and value is not None else None


def _as_unit(text: str, words: str) -> Value | None:
    value = _read(text)
    unit = read_unit(words)
    if len(words) == 1 and words.isalpha() and not unit.dimension:
        return None  # one letter in `\text{}` that is no unit is a variable set upright
    if isinstance(value, Num) and value.unit is None:
        return with_words(value, words, value.text)
    if isinstance(value, Expr) and value.unit is None:
        # `2\pi \text{ million}`: what the words do to an expression is not worked out
        counted = with_words(Num(Plain(Fraction(1))), words, "")
        plain = isinstance(counted, Num) and not counted.plain.percent and counted.plain.value == 1
        return Expr(value.latex, unit) if plain else Text(plain_words(f"{text} {words}"))
    return None
