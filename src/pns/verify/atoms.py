"""Values that have no parts, from their text: numbers with what stands around them, times, ratios, bases, choices, words.

Nothing here takes a text apart; that is `reading`'s. (Source: ours.)
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from pns.verify.numbers import Plain, parse_plain
from pns.verify.units import Unit, read_unit
from pns.verify.values import MAX_ITEMS, Based, Choice, Clock, Group, Named, Num, Ratio, Text, Value
from pns.verify.words import changes, known_word, per_cent, plain_words, scaled

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_MIXED = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]+) (?:and )?(?P<above>[0-9]+)/(?P<below>[0-9]+)")
_NUMBER = rf"[-+]?(?:\\\$ ?)?[-+]?(?:{_DIGITS}?\.?[0-9]+|{_DIGITS}\.?)(?:/[0-9]+)?"
_FRACTION = r"[-+]?[0-9]*\\frac ?(?:\{[-0-9]+\}|[0-9]) ?(?:\{[0-9]+\}|[0-9])"
_WORDS_BEHIND = re.compile(rf"(?P<value>{_NUMBER}|{_FRACTION}) ?(?P<unit>[A-Za-z][A-Za-z.'/ -]*(?:\^ ?\{{?[1-4]\}}?)?)")
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
CHOICE = re.compile(r"\(? ?(?P<letter>[A-J]) ?\)?")
TEXT_AROUND = re.compile(r"\\text ?\{((?:[^{}]|\{[^{}]*\})*)\}")
_WORDY = re.compile(r"[^\W\d_][\w .,;:!?()&/'\"-]*")
_FUNCTION_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp lg sqrt pi min max gcd lcm mod inf "
        "infinity oo alpha beta gamma delta theta phi lambda mu sigma omega det np",
    )
)
NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+|\\angle ?[A-Z ]{1,8}|[A-Z]{2,3})'?(?: ?_ ?(?:[A-Za-z0-9]|\{[^{}]{1,12}\}))?"
    r"(?: ?\( ?[A-Za-z](?: ?, ?[A-Za-z])* ?\))?"
)
_NAMED_NUMBER = re.compile(rf"(?P<name>{NAME.pattern}) ?= ?(?P<value>{_NUMBER})")


def read_number(text: str) -> Num | None:
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


def read_special(text: str, texty: bool) -> Value | None:
    """Forms with a spelling of their own: numbers with bare words behind, ordinals, times, ratios, bases, choices."""
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
    if (
        (behind := _WORDS_BEHIND.fullmatch(text))
        and _is_unit(behind["unit"])
        and (value := read_number(behind["value"]))
    ):
        return with_words(value, behind["unit"], text)
    if (named := _NAMED_NUMBER.fullmatch(text)) and (value := read_number(named["value"])):
        return Named(named["name"].replace(" ", ""), value)
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


def with_words(value: Num, words: str, text: str) -> Value:
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
    match = CHOICE.fullmatch(text)
    return Choice(match["letter"], "(" in text or ")" in text) if match else None


def read_words(text: str) -> Value | None:
    """Text, or a list of texts. A word of one or two letters, or a function's name, is mathematics instead."""
    bare = TEXT_AROUND.sub(r"\1", text)
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


def unit_words(text: str) -> str:
    return TEXT_AROUND.sub(r"\1", text).replace("\\", "").strip()
