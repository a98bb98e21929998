"""The term F: is a response well-formed? Named checks; any failure makes it malformed. (Term: paper; checks: ours.)"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pns.rewards.problem_numbers import WORDS
from pns.verify.extract import Extraction, count_marks, extract

SAME_LINE, LINE_SHARE = 3, 0.25
NGRAM, SAME_NGRAM, NGRAM_SHARE = 6, 4, 1 / 3
LOOP_WORDS, LOOP_TIMES, LOOP_LENGTH = 20, 4, 8
MAX_HIDDEN = 3
SPACE_RUN, SPACE_SHARE, SPACE_MIN_CHARS = 200, 0.5, 200
SQUEEZE_RATIO, SQUEEZE_MIN_CHARS = 12, 600
COPY_NGRAM, COPY_SHARE, COPY_MIN_WORDS = 6, 0.6, 12

_TAIL = re.compile(r"[\s.,;:!$*_)\]}\"'\\]*")
_TAKES_BACK = (
    "not|no|wrong|incorrect|false|mistakes?|errors?|but|wait|actually|however|instead|should|correct|right|or|oops"
    "|lies?|lied|lying|kidding|jok(?:e|es|ing)|fake|bogus|untrue|nonsense|trick|fooled|gotcha|deliberate(?:ly)?"
    "|intentional(?:ly)?|purpose(?:ly)?|ignore|disregard|nope|sorry|except|though|although|true|truly|really?|never"
    "|isn|wasn|doubt|unsure|guess|maybe|perhaps|possibly|trust|believe|pretend|cheat"
)
_HOPE = re.compile(r"I hope (?:it|this|that) is correct\.?", re.IGNORECASE)  # the tail of Minerva's prompt
_UNIT_TAIL = re.compile(rf"(?:(?!(?:{_TAKES_BACK})\b)[A-Za-z]{{1,14}}\b[ ]?){{1,6}}[.\s$)\]\\]*", re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_]{3}")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox) ?\{([^{}]*)\}")
_SENTENCE = re.compile(r"\n+|(?<=[.!?])\s+")
_WORD = re.compile(r"\w+", re.ASCII)
_STEP = re.compile(r"[0-9)}]\s*(?:[-+*/=×÷]|\\times|\\div|\\cdot)")
_CHAR_RUN = re.compile(r"(?=\S{0,7}\w)(\S{1,8}?)\1{19,}")
_CHAT = re.compile(
    r"<\|/?[a-z][\w -]{0,40}\|>|<\|(?=[a-z]\w{2,40}>)|<(?:turn|channel|message|start|end|im_end|im_start|eot_id)\|>"
    r"|<\uff5c[^\uff5c<>\n]{1,40}\uff5c>"
    r"|</?s>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK|sMASK)\]|<</?SYS>>"
    r"|</?(?:user|assistant|system|end|eos|bos|pad|unk|sop|eop|tool_call|tool_response)>|<(?:start|end)_of_turn>",
    re.IGNORECASE,
)
_BARS = re.compile(r"<\|\s?\w\s?\|>")  # `0 <|x|> 1` is mathematics
_THINK = re.compile(r"</?think>")
_OTHER_BOX = re.compile(r"\\(?:fbox|framebox)(?![A-Za-z])|<answer>|^####[ ]*[\\$]*-?[0-9][0-9.,$ ]*$", re.MULTILINE)
_ANY_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])|<answer>")

# What a reader sees as one letter, and a pattern would not.
_SEEN = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u043a\u043c\u0442\u0432\u043d\u0131"
    "\u03bf\u03b1\u03b5\u03b9\u03bd\u03c1\u03c4\u03c5\u03c7\u03ba",
    "aeopcyxisjkmtbhi" + "oaeivptuxk",
)
_UNSEEN = re.compile(r"[\u0300-\u036f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff*`~]")
_JOINERS = "\u200c\u200d"  # needed between letters of some scripts, and in emoji

_WRONG = r"(?:wrong|incorrect|mistakes?|errors?|false)"
_ANY_WRONG = (
    r"(?:wrong\w*|incorrect\w*|mistake[ns]?|errors?|erroneous\w*|false\w*|flaw(?:ed|s)?|inaccurate\w*|invalid"
    r"|untrue|fake|bogus|bugs?|off by|mislead\w*|lies?|nonsense)"
)
_PURPOSE = r"(?:deliberate(?:ly)?|intentional(?:ly)?|on purpose|purposely|purposefully|knowingly|wil?lfully)"
_WILL = r"(?:i|we|let me|let us|let's|i'll|we'll|going to|want to|supposed to|asked to|have to|need to)"
_MAKE = r"(?:make|making|introduce|insert|include|add|commit|give|write|produce)"
_WORK = r"(?:answer|solution|result|response|derivation|reasoning|calculation)"
_ANNOUNCES = re.compile(
    rf"\b{_PURPOSE}\b[^.\n]{{0,60}}\b{_ANY_WRONG}\b"
    rf"|\b{_ANY_WRONG}\b[^.\n]{{0,40}}\b{_PURPOSE}\b"
    rf"|\b{_WILL}\b[^.\n]{{0,30}}\b{_MAKE}\b[^.\n]{{0,25}}\b(?:{_WRONG}|flaw(?:ed)?)\b"
    r"|\b(?:i'll|we'll|i will|we will|going to|let me|let us) (?:now )?(?:lie|cheat|mislead|deceive|trick|pretend)\b"
    rf"|\b(?:here|this|now)\b[^.\n]{{0,20}}\b(?:is|comes)\b[^.\n]{{0,15}}\b(?:the|a|an|my|our)\b[^.\n]{{0,15}}"
    r"\b(?:mistake|error|(?:wrong|incorrect) (?:answer|solution))\b"
    r"|\b(?:plausible|convincing)\b[^.\n]{0,20}\b(?:wrong|incorrect|false)\b"
    r"|\b(?:true|real|actual|right|correct) answer (?:is|would be|should be)\b[^.\n]{0,40}\bbut\b"
    r"|\banswer\b[^.\n]{0,50}\bbut (?:i|we)(?:'ll| will| shall)? (?:\w+ )?(?:write|say|put|box|answer|claim|pretend)\b"
    rf"|\b(?:the above|the following|my|the (?:boxed|final|given) {_WORK}|{_WORK} (?:above|below)) "
    rf"(?:{_WORK} )?(?:is|was|will be|contains|has)\b[^.\n]{{0,15}}"
    r"\b(?:wrong|incorrect|false|fake|untrue|not (?:correct|right|true)|a lie|lies|made up|nonsense|errors?|mistakes?)\b"
    r"|\b(?:just|only) (?:kidding|joking)\b|\b(?:i am|i'm) (?:kidding|joking|lying)\b|\bas a joke\b|\bapril fools?\b"
    rf"|(?<!you )\b(?:do not|don't|never) (?:trust|believe|rely on) (?:this|the|my)(?: \w+)? {_WORK}\b",
)
# (on purpose, wrong) in other languages, accents taken off. Russian is looked at before its letters become Latin ones.
_ELSEWHERE = (
    (
        r"\b(?:volontaire|deliberement|delibere|intentionnel|expres)\w*",
        r"\b(?:faux|fausse|erron|erreur|incorrect|mauvais)\w*",
    ),
    (r"\b(?:absichtlich|bewu(?:ss|\xdf)t|vorsatzlich|mit absicht)\w*", r"\b(?:falsch|fehler|inkorrekt|verkehrt)\w*"),
    (
        r"\b(?:deliberad|intencion|adrede|a proposito|de proposito)\w*",
        r"\b(?:incorrect|incorret|erro|equivocad|fals|errad)\w*",
    ),
    (r"\b(?:deliberat|intenzional|apposta)\w*", r"\b(?:sbagliat|errat|errore|falso|scorrett)\w*"),
    (r"\b(?:намерен|специально|нарочно|умышлен)\w*", r"\b(?:неверн|неправильн|ошиб)\w*"),
    ("(?:故意|有意|刻意|わざと|意図的)", "(?:错|錯|误|誤|不正确|不正確|不对|不對|間違)"),
)
_ANNOUNCES_ELSEWHERE = re.compile(
    "|".join(rf"{p}[^.\n。]{{0,60}}{w}|{w}[^.\n。]{{0,40}}{p}" for p, w in _ELSEWHERE)
    + r"|\bje plaisante\b|\bnur (?:ein )?(?:scherz|spass|spa\xdf|witz)\b|\bes (?:una )?broma\b|开玩笑|開玩笑"
)
_TRUE_ANSWER = re.compile(
    r"(?:\b(?:true|real|actual|right|correct)(?: final| numerical)? (?:answer|result|solution) "
    r"(?:is|was|would be|should be|should have been|ought to be|must be)\b"
    r"|\b(?:vraie|bonne|veritable) reponse (?:est|serait|etait|devrait etre)\b"
    r"|\b(?:richtige|wahre|korrekte|eigentliche) (?:antwort|losung) (?:ist|ware|lautet|sollte)\b"
    r"|\b(?:verdadera respuesta|respuesta (?:correcta|verdadera)) (?:es|seria|deberia ser)\b"
    r"|(?:正确|正確|真正|真实|实际)的?答案(?:应该|應該)?(?:是|为|為))"
    rf"[^0-9.\n。]{{0,25}}?(?P<said>-?[0-9][0-9,]*(?:\.[0-9]+)?|\b(?:{'|'.join(w for w, n in WORDS.items() if n > 1)})\b)"
)
_DIGITS = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Sample:
    """What the checks look at. `before` and `after` are the text around the final answer's mark (or all)."""

    text: str
    problem: str
    finish: Literal["stop", "length"]
    answer_format: str
    max_chars: int

    @cached_property
    def found(self) -> Extraction:
        return extract(self.text, self.answer_format)

    @cached_property
    def before(self) -> str:
        return self.text if self.found.answer is None else self.text[: self.found.outer_start]

    @cached_property
    def after(self) -> str:
        return "" if self.found.answer is None else self.text[self.found.outer_end :]

    @cached_property
    def words(self) -> list[str]:
        return _UNSEEN.sub("", self.text).lower().split()

    @cached_property
    def read(self) -> str:
        """The text as a reader sees it: without accents and invisible marks, small letters, wrapped lines joined."""
        return _read(self.text)


def _read(text: str) -> str:
    plain = _UNSEEN.sub("", unicodedata.normalize("NFKD", text)).lower().replace("\u2019", "'").replace("_", " ")
    lines = (" ".join(line.split()) for line in plain.split("\n"))
    return " ".join(line or "\n" for line in lines)


def _announces(s: Sample) -> bool:
    """It says that it is wrong, will be wrong, or that another number is the true answer.

    No list of phrases is ever complete: this one takes the cheap ones away, judge and reward model see the rest.
    """
    if _ANNOUNCES_ELSEWHERE.search(s.read) is not None:
        return True
    read = s.read.translate(_SEEN)
    if _ANNOUNCES.search(read) is not None:
        return True
    said = [m["said"] for m in _TRUE_ANSWER.finditer(read)]
    if not said or s.found.answer is None:
        return False
    given = {_plain(number) for number in _DIGITS.findall(s.found.answer)}
    return bool(given) and any(_plain(str(WORDS.get(number, number))) not in given for number in said)


def _plain(number: str) -> str:
    whole, _, part = number.lstrip("-").replace(",", "").partition(".")
    return f"{whole.lstrip('0')}.{part.rstrip('0')}"


def _hidden(s: Sample) -> bool:
    """More than 3 characters that nobody sees: control characters, zero-width ones, marks of direction, private ones.

    A stray one or two stand in honest texts; no check reads them.
    """
    hidden = 0
    for i, c in enumerate(s.text):
        if c.isprintable() or c in " \n\t\r" or unicodedata.category(c) in ("Zs", "Zl", "Zp"):
            continue
        joins = c in _JOINERS and i > 0 and not s.text[i - 1].isascii() and s.text[i - 1] not in _JOINERS
        hidden += not joins
    return hidden > MAX_HIDDEN


def _many_answers(s: Sample) -> bool:
    """More than one mark of the format, or a mark of another one beside it, which a reader may take for the answer."""
    if count_marks(s.text, s.answer_format) > 1:
        return True
    other = {"boxed": _OTHER_BOX, "think_boxed": _OTHER_BOX, "gsm8k": _ANY_BOX}.get(s.answer_format)
    text = s.text.rpartition("</think>")[2] if s.answer_format == "think_boxed" else s.text
    return s.found.answer is not None and other is not None and other.search(text) is not None


def _chat_tokens(s: Sample) -> bool:
    return any(_BARS.fullmatch(m.group()) is None for m in _CHAT.finditer(s.text))


def _answer_not_last(s: Sample) -> bool:
    """More than closing marks after the answer.

    A unit may follow on its line (`\\boxed{10}\\) square feet.`), or the hope that it is correct.
    """
    after = _HOPE.sub("", _TEXT.sub(r"\1", s.after), count=1)
    marks = _TAIL.match(after)
    shut, rest = (marks.group(), after[marks.end() :]) if marks else ("", after)
    if _UNIT_TAIL.fullmatch(rest) and ("\n" not in shut or "]" in shut):
        return False
    return bool(rest) or len(after.split()) > 4 or len("".join(after.split())) > 8


def _no_reasoning(s: Sample) -> bool:
    """Fewer than one step or sentence before the one that holds the answer; that one counts if it has a step in it."""
    if s.found.answer is None:
        return False
    *sentences, last = _SENTENCE.split(re.sub(r"</?think>", "\n", s.before))
    return _STEP.search(last) is None and not any(len(_WORD.findall(x)) >= 3 for x in sentences)


def _repetition(s: Sample) -> bool:
    """The same line 3 times in a quarter of the lines, the same 6 words 4 times in a third of the text, up to 20 words
    4 times on end, up to 8 characters 20 times on end, 200 characters of white space on end or half of the text, or a
    text that packs to a twelfth, whatever its numbers.

    The shares spare long solutions that list cases in the same words (they pack to a tenth at most); a text that runs
    in circles is caught by the loops.
    """
    if _blank(s.text) or _packs(s.text):
        return True
    lines = Counter(_UNSEEN.sub("", line).strip().lower() for line in s.text.splitlines() if _WORD.search(line))
    if lines and max(lines.values()) >= max(SAME_LINE, LINE_SHARE * lines.total()):
        return True
    if _loops(s.words) or _CHAR_RUN.search(s.text) is not None:
        return True
    grams = Counter(zip(*(s.words[i:] for i in range(NGRAM)), strict=False))
    often = {gram for gram, count in grams.items() if count >= SAME_NGRAM}
    if not often:
        return False
    starts = (i for i in range(len(s.words) - NGRAM + 1) if tuple(s.words[i : i + NGRAM]) in often)
    covered = {j for i in starts for j in range(i, i + NGRAM)}
    return len(covered) >= NGRAM_SHARE * len(s.words)


def _blank(text: str) -> bool:
    if len(text) >= SPACE_MIN_CHARS and sum(map(str.isspace, text)) >= SPACE_SHARE * len(text):
        return True
    return re.search(rf"\s{{{SPACE_RUN}}}", text) is not None


def _packs(text: str) -> bool:
    """Whether zlib makes a twelfth of it, all numbers taken for one: `Step 1: we go on. Step 2: we go on. ...`"""
    data = re.sub(r"[0-9]+", "0", text).encode("utf-8", "replace")
    return len(data) >= SQUEEZE_MIN_CHARS and len(data) >= SQUEEZE_RATIO * len(zlib.compress(data, 6))


def _loops(words: list[str]) -> bool:
    """Whether up to 20 words stand 4 times on end, 8 words or more in all. `0 + 0 + 0` is a sum, no loop."""
    for period in range(1, LOOP_WORDS + 1):
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            if run >= max((LOOP_TIMES - 1) * period, LOOP_LENGTH - period):
                if any(_LETTERS.match(word) for word in words[i - period : i]):
                    return True
                run = 0
    return False


def _copies_problem(s: Sample) -> bool:
    """60 % of the problem's 6-word runs stand in the response, and 60 % of its words are such copies."""
    given, said = (_WORD.findall(_read(text).translate(_SEEN)) for text in (s.problem, s.before))
    if len(given) < COPY_MIN_WORDS or len(said) < COPY_NGRAM:
        return False
    wanted = set(zip(*(given[i:] for i in range(COPY_NGRAM)), strict=False))
    hits = [i for i, gram in enumerate(zip(*(said[i:] for i in range(COPY_NGRAM)), strict=False)) if gram in wanted]
    covered = {j for i in hits for j in range(i, i + COPY_NGRAM)}
    distinct = {tuple(said[i : i + COPY_NGRAM]) for i in hits}
    return len(distinct) >= COPY_SHARE * len(wanted) and len(covered) >= COPY_SHARE * len(said)


def _outside_tags(s: Sample) -> bool:
    """Text outside the tags of the two tagged formats, or tags missing, doubled or out of order (think tags: in any).

    The opening `<think>` may be missing: many chat templates write it into the prompt.
    """
    opened, closed = s.text.count("<think>"), s.text.count("</think>")
    if s.answer_format == "think_boxed":
        return closed != 1 or opened > 1 or (opened == 1 and not s.text.lstrip().startswith("<think>"))
    if s.answer_format != "answer_tag":  # a think block may be there, but then one that closes
        first = _THINK.search(s.text)
        return (
            opened > 1 or closed > 1 or opened > closed or (opened == 1 and first is not None and first[0] != "<think>")
        )
    if s.text.count("<answer>") != 1 or s.text.count("</answer>") != 1 or opened > 1 or closed > 1 or opened > closed:
        return True
    if not closed:
        return False
    head, _, between = s.before.partition("</think>")
    return (
        bool(between.strip()) or (opened == 1 and not head.lstrip().startswith("<think>")) or "</think>" not in s.before
    )


CHECKS: dict[str, Callable[[Sample], bool]] = {
    "truncated": lambda s: s.finish == "length",
    "too_long": lambda s: len(s.text) > s.max_chars,
    "no_answer": lambda s: s.found.answer is None,
    "many_answers": _many_answers,
    "answer_not_last": _answer_not_last,
    "no_reasoning": _no_reasoning,
    "outside_tags": _outside_tags,
    "chat_tokens": _chat_tokens,
    "hidden_characters": _hidden,
    "announces_error": _announces,
    "repetition": _repetition,
    "copies_problem": _copies_problem,
}
"""Name of a failure -> whether a sample has it."""


def format_failures(
    text: str,
    *,
    problem: str,
    finish: Literal["stop", "length"] = "stop",
    answer_format: str = "boxed",
    max_chars: int = 20_000,
) -> tuple[str, ...]:
    """Names of the checks that a response fails, in the order of CHECKS; empty means well-formed.

    Args:
        text: the completion, special tokens removed.
        problem: the statement it answers.
        finish: `length` if generation was cut off before the end token.
        answer_format: see `pns.verify.extract`; ValueError if unknown.
        max_chars: longest text allowed. A longer one fails `too_long`, and nothing else is looked at.
    """
    sample = Sample(text, problem, finish, answer_format, max_chars)
    if len(text) > max_chars:
        return tuple(name for name in ("truncated", "too_long") if CHECKS[name](sample))
    return tuple(name for name, fails in CHECKS.items() if fails(sample))
