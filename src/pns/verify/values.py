"""What an answer is: number, text, choice, time, list, tuple, interval, matrix, equation, or an expression for algebra.

`read` takes the text apart at its top level and never computes; what it cannot place stays an `Expr`, which only the
symbolic check can compare. (Source: ours.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from pns.records import AnswerKind
from pns.verify.latex import clean, closes_at_end, depth_of, split_top, strip_outer, tokens
from pns.verify.numbers import Plain, parse_plain
from pns.verify.units import Unit, read_unit
from pns.verify.words import changes, known_word, per_cent, plain_words, scaled

MAX_DEPTH = 12
MAX_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Num:
    """A plain number with the unit behind it, if any. `spoken` is the number before a word like `million`."""

    plain: Plain
    unit: Unit | None = None
    text: str = ""
    spoken: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Words, in the one spelling of `words.plain_words`."""

    words: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice letter. `sure`: written as one, in brackets or as text; a bare letter may be a variable."""

    letter: str
    sure: bool


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in seconds; `half` says whether a.m. or p.m. (or an hour above 12) fixed the half of the day."""

    seconds: int
    half: bool


@dataclass(frozen=True, slots=True)
class Ratio:
    """`3:4`, which may also be a time of day without a half: then `clock` is set."""

    parts: tuple[int, ...]
    clock: Clock | None


@dataclass(frozen=True, slots=True)
class Based:
    """Digits with the base as an index, `52_8`."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Expr:
    """Anything that only algebra can compare, as cleaned LaTeX, with the unit behind it."""

    latex: str
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """`x = 5`, `f(x) = ...`: a value with its name. `letter`: of a choice with its value, `(A) 5`."""

    name: str
    value: Value
    letter: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality that is no assignment."""

    left: str
    sign: str
    right: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several values. `ends` holds the two brackets, `columns` the width of a matrix. A chain is one value given several
    times: `2^3 = 8`, `\\sqrt2 \\approx 1.41`.
    """

    kind: Literal["list", "tuple", "set", "union", "matrix", "chain"]
    items: tuple[Value, ...]
    ends: str = ""
    columns: int = 0


Value = Num | Text | Choice | Clock | Ratio | Based | Expr | Named | Relation | Group

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_THOUSANDS = re.compile(r"(?<![0-9.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")
_THOUSANDS_SPACED = re.compile(r"(?<![0-9./])[1-9][0-9]{0,2}(?: ?, ?[0-9]{3})+(?![0-9./])")
_MIXED = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]+) (?:and )?(?P<above>[0-9]+)/(?P<below>[0-9]+)")
_NUMBER = rf"[-+]?(?:\\\$ ?)?[-+]?(?:{_DIGITS}?\.?[0-9]+|{_DIGITS}\.?)(?:/[0-9]+)?"
_FRACTION = r"[-+]?[0-9]*\\frac ?(?:\{[-0-9]+\}|[0-9]) ?(?:\{[0-9]+\}|[0-9])"
_TEXT_UNIT = r"\\text ?\{(?P<t>[^{}]*)\}(?P<p> ?\^ ?(?:\{[1-4]\}|[1-4]))?(?P<more>(?: ?/ ?\\text ?\{[^{}]*\})?)"
_BEHIND = re.compile(rf"(?P<value>.*?[^\\ ]) ?{_TEXT_UNIT}", re.DOTALL)
_WORDS_BEHIND = re.compile(rf"(?P<value>{_NUMBER}|{_FRACTION}) ?(?P<unit>[A-Za-z][A-Za-z.'/ -]*(?:\^ ?\{{?[1-4]\}}?)?)")
_POWER_INSIDE = re.compile(r"\^ ?[1-4] ?$")
_DEGREE = re.compile(r"(?P<value>.*?[^\\ ]) ?\\degree ?(?:(?P<scale>[CF])|\\text ?\{ ?(?P<scale2>[CF]) ?\})?")
_ANGLE_INSIDE = re.compile(r"\\degree|\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_ORDINAL = re.compile(r"([0-9]+) ?(?:\^ ?\{? ?)?(?:\\text ?\{ ?)?(?:st|nd|rd|th)(?: ?\})*")
_CLOCK = re.compile(
    r"(?P<h>[0-9]{1,2}) ?\\?: ?(?P<m>[0-9]{2})(?: ?\\?: ?(?P<s>[0-9]{2}))?"
    r" ?(?:\\text ?\{ ?)?(?P<half>[AaPp]\.? ?[Mm]\.?)?(?: ?\})?"
)
_HOUR = re.compile(r"(?P<h>[0-9]{1,2}) ?(?:\\text ?\{ ?)?(?P<half>[AaPp]\.?[Mm]\.?)(?: ?\})?")
_RATIO = re.compile(r"[0-9]+(?: ?\\?: ?[0-9]+)+")
_BASED = re.compile(r"(?:\\text ?\{ ?)?(?P<digits>-?[0-9A-Z]+) ?\}? ?_ ?\{? ?(?:\\text ?\{)?(?P<base>[0-9]{1,2})\}* ?")
_CURRENCY = {"€": "euro", "£": "pound sterling", "¢": "cent", "₹": "rupee", "¥": "yen"}
_MONEY = re.compile(r"(?P<sign>-?)(?P<before>[€£₹¥])? ?(?P<value>[0-9.,]+) ?(?P<behind>[€£¢₹¥])?")
_CHOICE = re.compile(r"\(? ?(?P<letter>[A-J]) ?\)?")
_CHOICE_FIRST = re.compile(r"\(? ?(?P<letter>[A-J]) ?\)[.:]? *(?P<rest>[^ ].*)", re.DOTALL)
_TEXT_AROUND = re.compile(r"\\text ?\{((?:[^{}]|\{[^{}]*\})*)\}")
_WORDY = re.compile(r"[^\W\d_][\w .,;:!?()&/'\"-]*")
# two words in what is no text otherwise: `10 + John's age`. The parser would make a product of its letters.
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}(?:'s)?\b[^\\{}]*(?<![\\A-Za-z])[A-Za-z]{3,}\b")
_FUNCTION_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp lg sqrt pi min max gcd lcm mod inf "
        "infinity oo alpha beta gamma delta theta phi lambda mu sigma omega det np",
    )
)
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+|\\angle ?[A-Z ]{1,8}|[A-Z]{2,3})'?(?: ?_ ?(?:[A-Za-z0-9]|\{[^{}]{1,12}\}))?"
    r"(?: ?\( ?[A-Za-z](?: ?, ?[A-Za-z])* ?\))?"
)
_NAMED_NUMBER = re.compile(rf"(?P<name>{_NAME.pattern}) ?= ?(?P<value>{_NUMBER})")
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
        first = _CHOICE.fullmatch(bare) or _CHOICE_FIRST.fullmatch(_TEXT_AROUND.sub(r"\1", bare))
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


def needs_algebra(value: Value) -> bool:
    """Whether an expression or equation stands in it, which only the symbolic check can compare."""
    if isinstance(value, Group):
        return any(needs_algebra(item) for item in value.items)
    if isinstance(value, Named):
        return needs_algebra(value.value)
    return isinstance(value, Relation) or (isinstance(value, Expr) and value.latex.strip("+-") != "\\infty")


def _with_unit(value: Value, unit: str) -> Value:
    behind = strip_outer(clean(unit))
    if isinstance(value, Num) and value.unit is None:
        if behind == "%":
            return Num(replace(value.plain, percent=True), None, value.text)
        return replace(value, unit=read_unit(_unit_words(behind)))
    return value


def _read(text: str, texty: bool = False) -> Value | None:
    text = strip_outer(text)
    if not text:
        return None
    return (
        _number(text)
        or _special(text, texty)
        or _words(text)
        or _matrix(text)
        or _several(text)
        or _relation(text)
        or _bracketed(text)
        or _plus_minus(text)
        or _with_words_behind(text)
        or (Text(plain_words(text)) if _PROSE.search(text) else Expr(text))
    )


def _number(text: str) -> Num | None:
    plain = parse_plain(text.replace(" ", "") if not re.search(r"[0-9}],? [0-9{]|[0-9}] ,", text) else text)
    if plain is None and (mixed := _MIXED.fullmatch(text)) and int(mixed["below"]):
        value = int(mixed["whole"]) + Fraction(int(mixed["above"]), int(mixed["below"]))
        plain = Plain(-value if mixed["sign"] == "-" else value)
    if plain is None and (money := _MONEY.fullmatch(text)) and (mark := money["before"] or money["behind"]):
        inner = parse_plain(money["sign"] + money["value"])
        return None if inner is None else Num(inner, read_unit(_CURRENCY[mark]), text)
    if plain is None:
        return None
    return Num(plain, read_unit("dollar") if "\\$" in text else None, text)


def _special(text: str, texty: bool) -> Value | None:
    """Forms with a spelling of their own: numbers with words behind, ordinals, times, ratios, bases, choices."""
    if ordinal := _ORDINAL.fullmatch(text):
        return Num(Plain(Fraction(int(ordinal[1]))), Unit("th"), text)
    if found := _clock(text):
        return found
    if _RATIO.fullmatch(text):
        return Ratio(tuple(int(x) for x in re.findall("[0-9]+", text)), None)
    if (based := _BASED.fullmatch(_unbracketed_base(text))) and 2 <= int(based["base"]) <= 36:
        digits = based["digits"].lstrip("-")
        sign = "-" if based["digits"].startswith("-") else ""
        if all(int(d, 36) < int(based["base"]) for d in digits):
            return Based(sign + (digits.lstrip("0") or "0"), int(based["base"]))
    if choice := _choice(text):
        return Choice(choice.letter, choice.sure or texty)
    if (behind := _WORDS_BEHIND.fullmatch(text)) and _is_unit(behind["unit"]) and (value := _number(behind["value"])):
        return _counted(value, behind["unit"], text)
    if (named := _NAMED_NUMBER.fullmatch(text)) and (value := _number(named["value"])):
        return Named(named["name"].replace(" ", ""), value)
    if (dressed := _BEHIND.fullmatch(text)) and _number(dressed["value"]):
        return _with_words_behind(text)
    return None


def _is_unit(words: str) -> bool:
    """Whether bare words behind a number are its unit. `3xy`, `2 abc` are products: a unit is known, or is long."""
    first, *rest = words.split()
    if _FUNCTION_WORDS & {w.lower() for w in (first, *rest)}:
        return False
    known = bool(read_unit(words).dimension)
    if re.search(r"\b[A-Za-z]\b", first) and not (known and len(words) > 2 and "/" in words):
        return False
    return known or len(first) >= 4 or len("".join(rest)) >= 4


def _counted(value: Num, words: str, text: str) -> Value:
    """A number with the words behind it: a unit, per cent, a word that scales it, or words that make it another one."""
    names = words.lower().replace(".", "").replace("-", " ").split()
    if per_cent(names):
        return Num(replace(value.plain, percent=True), None, text)
    scale, rest = scaled(names)
    power = rest[-1:] in (["squared"], ["cubed"]) and bool(read_unit(" ".join(rest)).dimension)
    if changes(rest[:-1] if power else rest):
        return Text(plain_words(text))
    if scale == 1:
        return Num(value.plain, read_unit(words), text)
    unit = read_unit(" ".join(rest).removeprefix("of ")) if rest else value.unit
    return Num(value.plain.times(scale), unit, text, value.plain.value)


def _unbracketed_base(text: str) -> str:
    """`(1010)_2` and `1{,}010_2` as `1010_2`."""
    text = re.sub(r"^\( ?(-?[0-9A-Z]+) ?\)(?= ?_)", r"\1", text)
    return text.replace(",", "") if re.match(r"-?[0-9]{1,3}(?:,[0-9]{3})+ ?_", text) else text


def _clock(text: str) -> Clock | Ratio | None:
    """A time. Without a.m. or p.m., and up to 12 hours, it may as well be a ratio."""
    match = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    h, m, s = int(part["h"]), int(part.get("m") or 0), int(part.get("s") or 0)
    if h > 24 or m > 59 or s > 59:
        return None
    if part["half"]:
        if not 1 <= h <= 12:
            return None
        return Clock(((h % 12) + 12 * (part["half"][0] in "Pp")) * 3600 + m * 60 + s, True)
    numbers = (h, m) if not part.get("s") else (h, m, s)
    return Ratio(numbers, Clock(h % 24 * 3600 + m * 60 + s, h > 12 or h == 0))


def _choice(text: str) -> Choice | None:
    match = _CHOICE.fullmatch(text)
    return Choice(match["letter"], "(" in text or ")" in text) if match else None


def _words(text: str) -> Value | None:
    """Text, or a list of texts. A word of one or two letters, or a function's name, is mathematics instead."""
    bare = _TEXT_AROUND.sub(r"\1", text)
    if _WORDY.fullmatch(bare) is None or "\\" in bare:
        return None
    plain = text == bare
    longest = max((len(w) for w in re.findall(r"[^\W\d_]+", bare)), default=0)
    if plain and known_word(bare):
        return Text(plain_words(bare))
    if plain and (
        longest < 3 or _FUNCTION_WORDS & set(re.findall(r"[a-z]+", bare.lower())) or re.search(r"[()/]", bare)
    ):
        return None
    if not plain and longest < 2:
        return None
    pieces = [p for p in re.split(r"[,;]| and ", bare) if p.strip()]
    if len(pieces) > 1 and ("," in bare or ";" in bare):
        items = tuple(_choice(p.strip()) or Text(plain_words(p)) for p in pieces[:MAX_ITEMS])
        return Group("list", items)
    return Text(plain_words(bare))


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
        if _NAME.fullmatch(sides[0]) or _LABEL.fullmatch(sides[0]) or _in_order_of_the_alphabet(sides[0]):
            value = _chain(sides[1:])
            return None if value is None else Named(sides[0].replace(" ", ""), value)
        if not any(map(_letters, sides[1:])) and (len(sides) > 2 or not _letters(sides[0])):
            # a first side with letters is what the numbers are for: `x + y = 3 + 5 = 8`
            return _chain(sides[1:] if _letters(sides[0]) else sides)
    if signs == ["\\in"] and _NAME.fullmatch(sides[0]):
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
    if len(signs) == 1 and _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        sides, signs = [sides[1], sides[0]], [_FLIP[signs[0]]]
    if len(signs) == 1 and _NAME.fullmatch(sides[0]):
        bound = _read(sides[1])
        if bound is None or isinstance(bound, Group):
            return None
        closed = signs[0] in ("\\le", "\\ge")
        if signs[0] in (">", "\\ge"):
            return Group("tuple", (bound, Expr("\\infty")), ends=("[" if closed else "(") + ")")
        return Group("tuple", (Expr("-\\infty"), bound), ends="(" + ("]" if closed else ")"))
    if len(signs) == 2 and _NAME.fullmatch(sides[1]):
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
        return _as_unit(behind["value"], _unit_words(behind["t"] + (behind["p"] or "") + behind["more"]))
    # the letter may stand in `\textbf{}`, its value outside
    choice = _CHOICE_FIRST.fullmatch(_TEXT_AROUND.sub(r"\1", text))
    # one letter is enough: `A) A) A)` would be read level by level
    value = _read(choice["rest"]) if choice and not _CHOICE_FIRST.match(choice["rest"]) else None
    return Named(f"({choice['letter']})", value, choice["letter"]) if choice and value is not None else None


def _as_unit(text: str, words: str) -> Value | None:
    value = _read(text)
    unit = read_unit(words)
    if len(words) == 1 and words.isalpha() and not unit.dimension:
        return None  # one letter in `\text{}` that is no unit is a variable set upright
    if isinstance(value, Num) and value.unit is None:
        return _counted(value, words, value.text)
    if isinstance(value, Expr) and value.unit is None:
        # `2\pi \text{ million}`: what the words do to an expression is not worked out
        counted = _counted(Num(Plain(Fraction(1))), words, "")
        plain = isinstance(counted, Num) and not counted.plain.percent and counted.plain.value == 1
        return Expr(value.latex, unit) if plain else Text(plain_words(f"{text} {words}"))
    return None


def _unit_words(text: str) -> str:
    return _TEXT_AROUND.sub(r"\1", text).replace("\\", "").strip()
