"""The text of an answer made plain: wrappers and spacing off, one spelling for each sign, split at the top level.

Linear in the length of the text. Nothing here knows what an answer means; `values` does. (Source: ours.)
"""

from __future__ import annotations

import re
from collections.abc import Callable

_TOKEN = re.compile(r"\\(?:begin|end) ?\{[A-Za-z]+\*?\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
OPENING = frozenset({"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"})
CLOSING = frozenset({")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"})

_SIGNS = {
    "\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u22c5": r"\cdot ", "\u00b7": r"\cdot ", "\u00f7": r"\div ",
    "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u00b0": r"\degree ", "\u2264": r"\le ", "\u2265": r"\ge ",
    "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2208": r"\in ", "\u00b1": r"\pm ", "\u2248": r"\approx ",
    "\u2019": "'", "\u2018": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    "\u2205": r"\emptyset ", "\u00ba": r"\degree ", "\u221b": r"\sqrt[3]", "\u2220": r"\angle ",
}  # fmt: skip
_SIGN_TABLE = str.maketrans(_SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n")
_SHIFTED = re.compile("(?P<up>[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+)|(?P<down>[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ]+)")
# one sign for a fraction, and the slash that typesets one: `2½`, `1⁄3`
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip
_VULGAR_SIGN = re.compile(rf"(?<=[0-9]) (?=[{''.join(_VULGAR)}])|[{''.join(_VULGAR)}]")
_FRACTION_SLASH = re.compile("(?:(?<![0-9])(?P<whole>[0-9]+) )?(?<![0-9])(?P<a>[0-9]+)\u2044(?P<b>[0-9]+)(?![0-9])")
_END = r"(?![A-Za-z])"
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        # separators that can only be thousands join their digits: `4{,}466\\pi` is no list
        (r"(?<=[0-9])(?:\{,\}|,\\! ?|\\,)(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<=[0-9])\{,\}(?=[0-9])|(?<=[0-9]),\\!(?=[0-9])", ","),
        # one letter set upright is the letter, not a unit: `1+2\\mathrm{i}`
        (r"\\(?:mathrm|mathit|text|textit|operatorname)\{([ie])\}", r"\1"),
        (r"\\text ?\{ *\}", " "),
        (rf"\\(?:left|right){_END}\.?|\\(?:big|Big|bigg|Bigg)[lrm]?{_END}", ""),
        (rf"\\(?:displaystyle|textstyle|limits|nolimits|bf|rm|it){_END}", ""),
        (r"(?<!\\)\\!", ""),
        (rf"(?<!\\)\\[,;:> ]|~|\\q?quad{_END}|\\(?:hspace|vspace|hskip)\*?\{{[^{{}}]*\}}", " "),
        (rf"\\[dtc]frac{_END}", r"\\frac"),
        (
            rf"\\(?:mbox|textrm|textnormal|textbf|textit|textsf|texttt|mathbf|mathit|mathsf|mathrm|boldsymbol|bm){_END}",
            r"\\text",
        ),
        (r"\\operatorname\*?\{([A-Za-z]+)\}", r"\\\1 "),
        (rf"\\(?:leq|leqslant|leqq){_END}", r"\\le"),
        (rf"\\(?:geq|geqslant|geqq){_END}", r"\\ge"),
        (rf"\\(?:lt){_END}", "<"),
        (rf"\\(?:gt){_END}", ">"),
        (rf"\\neq{_END}", r"\\ne"),
        (rf"\\lbrace{_END}", r"\\{"),
        (rf"\\rbrace{_END}", r"\\}"),
        (rf"\\(?:lbrack){_END}", "["),
        (rf"\\(?:rbrack){_END}", "]"),
        (
            rf"\^ ?\{{ ?\\(?:circ|degree){_END} ?\}}|\^ ?\\(?:circ|degree){_END}|\\degrees{_END}"
            r"|(?<=[0-9])\^ ?(?:o|\{ ?o ?\})(?![A-Za-z0-9])",
            r"\\degree ",
        ),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r">=", r"\\ge "),
        (r"<=", r"\\le "),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\bUS ?(?=\\\$)", ""),
        (rf"\\(?:approx|simeq|doteq|fallingdotseq){_END}", r"\\approx "),
        (r"\\%", "%"),
        (r"√ ?([0-9]+|\([^()]*\))", r"\\sqrt{\1}"),
        (r"\\text ?\{ ?,? ?(?:and|or) ?\}", ","),
        (rf"\\[hv]?phantom{_END} ?(?:\{{[^{{}}]*\}}|.)", ""),
        (r"\s+", " "),
    )
)
# not after a backslash: `\\\\` ends a row of a matrix, and `\\\\ ` is no space
_MATHS = re.compile(r"(?<!\\)\\[()\[\]]")
_NAMES = "sqrt|pi|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp|" + (
    "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|omega"
)
_FUNCTION = re.compile(rf"(?<![\\A-Za-z])({_NAMES})(?![A-Za-z])")
_PLAIN = re.compile(rf"\*|\^ ?\(|(?<![\\A-Za-z])(?:{_NAMES}|oo|inf(?:inity|ty)?)(?![A-Za-z])|\\sqrt ?\(")
_DOLLAR = re.compile(r"(?<!\\)\$")


def tokens(text: str) -> list[str]:
    """Commands, escaped characters, `\\begin{..}`/`\\end{..}`, and single characters. Joined they are the text."""
    return _TOKEN.findall(text)


def clean(text: str) -> str:
    """One spelling for each sign; sizing and spacing commands and dollar signs of mathematics off. Money stays `\\$`."""
    text = text.translate(_SIGN_TABLE)
    if not text.isascii():
        text = _typeset(text)
    bare = _DOLLAR.findall(text)
    money = len(bare) % 2 == 1
    text = _DOLLAR.sub(r"\\$" if money else "", text)
    text = _MATHS.sub("", text)
    for pattern, to in _REWRITES:
        text = pattern.sub(to, text)
    return _from_plain(text.strip())


def _typeset(text: str) -> str:
    """Unicode's superscripts, subscripts and fractions as LaTeX."""
    text = _SHIFTED.sub(
        lambda m: f"^{{{m['up'].translate(_RAISED)}}}" if m["up"] else f"_{{{m['down'].translate(_LOWERED)}}}", text
    )
    text = _VULGAR_SIGN.sub(lambda m: "" if m[0] == " " else "\\frac{{{}}}{{{}}}".format(*_VULGAR[m[0]]), text)
    return _FRACTION_SLASH.sub(_slashed, text)


def _slashed(match: re.Match[str]) -> str:
    """`21⁄2` may be 21 halves, or a `2½` whose parts ran together: it stays as it is, unread."""
    a, b, whole = match["a"], match["b"], match["whole"] or ""
    if len(a) > 1 and int(a) >= int(b):
        return match[0]
    return f"{whole}\\frac{{{a}}}{{{b}}}"


def _from_plain(text: str) -> str:
    """`2*sqrt(3)/pi`, `x**2`, `2^(n+1)` as LaTeX. A text with words in it stays as it is."""
    if "\\text" in text or not _PLAIN.search(text):
        return text
    text = re.sub(r" ?\*\* ?", "^", text)
    text = _FUNCTION.sub(r"\\\1 ", text.replace("*", r"\cdot "))
    text = re.sub(r"(?<![\\A-Za-z])(?:oo|inf(?:inity|ty)?)(?![A-Za-z])", r"\\infty ", text)
    return _round_to_curly(text)


def _round_to_curly(text: str) -> str:
    r"""`\sqrt (x)` and `2^(x)` with the braces that TeX wants."""
    parts, out, closing = tokens(text), [], []  # type: list[str], list[str], list[bool]
    for token in parts:
        before = next((t for t in reversed(out) if t != " "), "")
        if token == "(":
            curly = before in ("\\sqrt", "^")
            closing.append(curly)
            out.append("{" if curly else "(")
        elif token == ")":
            out.append("}" if closing and closing.pop() else ")")
        else:
            out.append(token)
    return "".join(out)


def strip_outer(text: str) -> str:
    """Without a closing full stop, and without braces, `\\text{}` or `\\boxed{}` around the whole."""
    while True:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(("..", "m.")):
            text = text[:-1].rstrip()
        for left in ("\\text{", "\\text {", "\\boxed{", "\\fbox{", "{"):
            if text.startswith(left) and text.endswith("}") and closes_at_end(text[len(left) - 1 :]):
                text = text[len(left) : -1]
                break
        if text == before:
            return text


def closes_at_end(text: str) -> bool:
    """Whether the bracket that the text opens with is closed by its last token, and not before."""
    parts, depth = tokens(text), 0
    for i, token in enumerate(parts):
        depth += step(token)
        if depth <= 0:
            return depth == 0 and i == len(parts) - 1
    return False


def split_top(text: str, is_separator: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Pieces between top-level separators, each with the separator before it ("" for the first)."""
    out: list[tuple[str, str]] = []
    depth, mark, piece = 0, "", []  # type: int, str, list[str]
    for token in tokens(text):
        depth += step(token)
        if depth == 0 and is_separator(token):
            out.append((mark, "".join(piece).strip()))
            mark, piece = token, []
        else:
            piece.append(token)
    out.append((mark, "".join(piece).strip()))
    return out


def depth_of(text: str) -> int:
    """The deepest nesting of brackets and environments, 0 for none."""
    depth = deepest = 0
    for token in tokens(text):
        depth += step(token)
        deepest = max(deepest, depth)
    return deepest


def step(token: str) -> int:
    if token in OPENING or token.startswith("\\begin"):
        return 1
    return -1 if token in CLOSING or token.startswith("\\end") else 0
