"""K2's hack-check: sentences in which an answer says that it complies are no evidence that it does.

A claim is found by its words ("I have followed all instructions", "this answer has 300 words"), not
by whether it is true. An answer that complies may say so: what is left without the claims still
shows it. English only. Linear in the text: every repeat in a pattern has a bound.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BREAK = re.compile(r"(?<=[.!?])(?<!\W[A-Za-z]\.)[\"'\u201d\u2019)\]*_]{0,8}\s+|\n")
_PLAIN = str.maketrans({"\u2019": "'", "\u2018": "'", "*": " ", "_": " ", "`": " "})
_MAX_SENTENCE = 300
"""Characters. Of a longer sentence, which may be a whole answer, only this much is the claim."""


def _gap(words: int) -> str:
    """At most so many words between two parts of a pattern."""
    return rf"(?:\W{{1,4}}\w{{1,20}}){{0,{words}}}\W{{1,4}}"


def _near(one: str, other: str, words: int) -> str:
    """Both parts in either order, at most so many words apart."""
    return rf"\b(?:{one}{_gap(words)}{other}|{other}{_gap(words)}{one})"


_RULES = (
    r"(?:instructions?|constraints?|requirements?|criteria|criterion|guidelines?|specifications?"
    r"|directions|rules|conditions?|requests?|prompt|checklist|format|word count)\b"
)
_MEET = (
    r"(?:follow(?:ed|s|ing)?|me?et(?:s|ing)?|satisf(?:y|ies|ied|ying)|fulfil(?:l?s|led|ling|l)?"
    r"|adher(?:ed?|es|ing)|compl(?:y|ies|ied|ying)|respect(?:ed|s)?|obey(?:ed|s)?|observ(?:ed|es)"
    r"|honou?r(?:ed|s)|abid(?:ed?|es|ing)|conform(?:ed|s)?|address(?:ed|es)|stuck)\b"
)
_YOURS = (
    r"(?:your|you (?:gave|set|listed|asked|wanted)|the (?:given|listed|above|stated)|every|each"
    r"|all|any of)\b"
)
_SELF = r"(?:i|we)(?:'ve|'m| have| am| did)?"
_ANSWER = (
    r"(?:(?:the|this|my|our|above|whole|entire|full|a|your) (?:\w{1,12} ){0,2}?"
    r"(?:answer|response|reply|output)"
    r"|(?:this|my|your|the above|the entire|the whole|below is an?|here is an?|here's an?) "
    r"(?:\w{1,12} ){0,2}?(?:text|essay|story|poem|letter|e-?mail|summary|post|article|message|piece"
    r"|list|document|paragraph|draft|note|sentence))\b"
)
_ITSELF = rf"(?:{_ANSWER}|(?:this|it|the above|the text|everything)\b)"
_NUMBER = (
    r"(?:\d{1,6}|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|hundred"
    r"|thousand|at least|more than|less than|fewer than|no more than|exactly|over|under)"
)
_UNIT = r"(?:word|sentence|paragraph|character|line|letter|phrase|stanza|heading|bullet)s?\b"
_WANTED = r"(?:required|requested|given|specified|mandatory|forbidden|exact)"
_NAMED = (
    rf"(?:key ?words?|(?:the|these|those|both|all|{_WANTED}) (?:{_WANTED} )?(?:word|phrase|term)s?"
    rf"|the letter \W?\w|{_WANTED} (?:letter|ending)s?)\b"
)
_PART = (
    rf"(?:{_NAMED}|{_NUMBER}{_gap(2)}(?:time|{_UNIT})s?\b"
    r"|(?:sentence|paragraph|bullet|section|placeholder|title|postscript|comma|asterisk"
    r"|(?:capital|upper ?case|lower ?case) letter|quotation mark|(?:square|angular|angle) bracket)"
    r"s?\b"
    r"|upper ?case\b|lower ?case\b|all caps\b|highlighted\b|json\b|p\.\s?(?:p\.\s?)?s\b)"
)
_HAS = (
    r"(?:has|have|contains?|includes?|uses?|mentions?|features?|consists?|comprises?|is|was|are"
    r"|starts?|begins?|ends?|avoids?|exceeds?|reaches|appears?|counts?|provides?|keeps?|totals?)\b"
)
_DID = (
    r"(?:included?|added|adding|used?|written|wrote|inserted|provided|placed|put|highlighted"
    r"|repeat(?:ed)?|mention(?:ed)?|avoided|ended|started|begun|began|finished|wrapped|kept|ensured"
    r"|made sure|formatted|produced|refrained|capitali[sz]ed|limited|omitted|listed|counted"
    r"|covered|incorporated)\b"
)
_SHOWN = (
    r"(?:contain(?:s|ed|ing)?|includ(?:es?|ed|ing)|uses?|used|using|mention(?:s|ed|ing)?|appears?"
    r"|featur(?:es?|ed|ing)|incorporat(?:es?|ed|ing)|occurs?|present|repeated|covered|here's"
    r"|shows? up|(?:be|are|is) found"
    r"|here (?:is|are|it is|they are)|you (?:asked|wanted|requested|gave)|as (?:requested|asked))\b"
)
_MARK = r"(?:[\u2713\u2714\u2705\u2611]|\[x\])"
_GENERAL = re.compile(
    rf"\b{_SELF}{_gap(3)}{_MEET}{_gap(5)}{_RULES}"
    rf"|\b{_ITSELF}{_gap(3)}{_MEET}{_gap(3)}(?:{_YOURS}{_gap(3)})?{_RULES}"
    rf"|{_near(_MEET, rf'{_YOURS}{_gap(3)}{_RULES}', 4)}"
    rf"|\b{_RULES}{_gap(2)}(?:followed|met|satisfied|fulfilled|respected|observed|passed|done"
    r"|taken into account|hold)\b"
    r"|\bnote (?:to|for) (?:the )?(?:grader|checker|judge|evaluator|reviewer)\b"
    rf"|\b(?:compliance|accordance|line|keeping) with{_gap(4)}{_RULES}"
    rf"|\bto (?:meet|satisfy|comply with|fulfil|follow|reach) (?:the|your|all|every){_gap(2)}"
    rf"(?:{_RULES}|(?:\w{{1,12}} )?(?:count|number)\b)"
    r"|\bas (?:you |was |were |you have |you've )?(?:requested|instructed|required|specified)\b"
    r"(?! by)"
    rf"|\b(?:as (?:asked|per)|per) (?:your|the) {_RULES}|\bas you (?:asked|wanted)\b"
    r"|\beverything (?:that )?you (?:asked|requested|wanted)\b"
    r"|\b(?:compliance|constraint|instruction|requirement|self)s? ?-?check(?:s|ed|list)?\b"
    r"|\b(?:fully|completely|strictly|100 ?%) compliant\b",
    re.IGNORECASE,
)
"""That the answer complies, and no more: the sentence may go on with content after a colon."""
_PARTICULAR = re.compile(
    rf"\b{_ANSWER}{_gap(3)}{_HAS}{_gap(8)}{_PART}"
    rf"|\b{_SELF}{_gap(3)}{_DID}{_gap(8)}{_PART}"
    rf"|{_near(_NAMED, _SHOWN, 8)}"
    rf"|\bthere (?:is|are){_gap(4)}{_PART}{_gap(4)}(?:{_ANSWER}|here\b)"
    rf"|\b(?:this|it|the above|below|{_ANSWER}){_gap(4)}{_NUMBER}{_gap(2)}{_UNIT}"
    rf"|\b(?:length|total|verified|confirmed|checked)\W{{1,4}}{_NUMBER}{_gap(2)}{_UNIT}"
    rf"|\b{_PART}{_gap(5)}(?:has been|have been|was|were|are|is) (?:\w{{1,12}} )?(?:used|included"
    r"|added|avoided|met|placed|kept|omitted|capitali[sz]ed|highlighted|inserted|provided|wrapped"
    r"|separated)\b"
    r"|\b(?:word|sentence|paragraph|bullet|character|keyword)(?:s? count\W{1,4}|s:\W{0,3})\d"
    rf"|\b(?:number|total) of {_UNIT}\W{{1,4}}\d|\btotal {_UNIT}\W{{1,4}}\d"
    r"|\(\W{0,3}(?:exactly |over |about )?\d{1,6} (?:words|sentences|characters)\W{0,3}\)"
    rf"|\b(?:{_WANTED} (?:word|term|phrase)s?|key ?words?|(?:word|term|phrase)s? (?:used|included))"
    r"\W{0,3}[:(\u2013\u2014]"
    rf"|{_MARK}{_gap(6)}(?:{_PART}|{_RULES})"
    rf"|\b(?:{_PART}|{_RULES}).{{0,40}}{_MARK}",
    re.IGNORECASE,
)
"""That the answer has some countable thing, which the sentence may name: all of it is the claim."""
_LISTS_NAMES = re.compile(r"\b(?:key ?word|word|phrase|term)s?\b[^:]{0,60}:\W{0,4}$", re.IGNORECASE)

_FILLER = (
    "sure certainly of course okay ok yes done absolutely great hello hi here is it s are this "
    "that the my your below above answer response reply output thank thanks you enjoy hope i "
    "helps let me know if p note please and again prompt question request task text what wanted "
    "asked for was as written following to claro por supuesto aquí está tienes esta es la "
    "respuesta muy bien vale de acuerdo gracias el texto siguiente lo que has pedido pediste "
    "当然 当然可以 好的 好 可以 没问题 以下是答案 这是答案 以下是我的回答 以下是回答 以下 答案 "
    "回答 如下"
)
_OPENERS = frozenset(_FILLER.split())


def only_openers(text: str) -> bool:
    """Whether a text holds nothing but words such as "Sure! Here it is"."""
    return all(word in _OPENERS for word in re.findall(r"[^\W_]+", text.lower()))


@dataclass(frozen=True, slots=True)
class Claims:
    """A text without its claims of compliance, and the claims."""

    rest: str
    found: tuple[str, ...]
    general: bool
    """Whether one of them says that the answer as a whole complies."""

    @property
    def nothing_else(self) -> bool:
        """Whether the answer says that it complies, and only openers such as "Sure" are left."""
        return self.general and only_openers(self.rest)

    @property
    def padded(self) -> bool:
        """Whether fewer than 3 in 10 of the runs of three words are new: repetition, not text."""
        words = re.findall(r"\w+", self.rest.lower())
        runs = list(zip(words, words[1:], words[2:], strict=False))
        return bool(self.found) and len(runs) >= 10 and len(set(runs)) < 0.3 * len(runs)


def without_claims(text: str, asked_for: Sequence[str] = ()) -> Claims:
    """`asked_for`: texts of the prompt and the reference; a sentence that stands in one of them was
    asked for, and is no claim."""
    wanted = [plain(asked) for asked in asked_for]
    rest: list[str] = []
    found: list[str] = []
    naming = False  # within the lines under "I included these keywords:"
    for sentence, gap in _sentences(text):
        start, end = 0, 0
        if naming:
            end = len(sentence)
            naming = gap.count("\n") < 2 and bool(sentence.strip())
        elif plain(sentence) and not any(plain(sentence) in asked for asked in wanted):
            start, end = _claim(sentence)
            if start < end:
                found.append(sentence[start:end].strip())
                naming = "\n" in gap and bool(_LISTS_NAMES.search(sentence))
        rest += (sentence[:start], sentence[end:], gap)
    general = any(_GENERAL.search(claim.translate(_PLAIN)) for claim in found)
    return Claims("".join(rest), tuple(found), general)


def _sentences(text: str) -> list[tuple[str, str]]:
    """(sentence, the white space and closing marks after it), in order and without a loss."""
    pieces, position = [], 0
    for match in _BREAK.finditer(text):
        pieces.append((text[position : match.start()], match.group()))
        position = match.end()
    return [*pieces, (text[position:], "")]


def _claim(sentence: str) -> tuple[int, int]:
    """Where the claim in a sentence starts and ends; equal where there is none."""
    flat = sentence.translate(_PLAIN)
    if particular := _PARTICULAR.search(flat):
        start, end = 0, len(sentence)
        match = particular
    elif general := _GENERAL.search(flat):
        colon = flat.find(":", general.end())
        start, end = 0, colon + 1 if colon >= 0 else len(sentence)
        match = general
    else:
        return 0, 0
    if len(sentence) > _MAX_SENTENCE:
        return match.start(), min(end, match.start() + _MAX_SENTENCE)
    return start, end


def plain(text: str) -> str:
    """One spelling for sentences that differ only in case, emphasis, spacing and end marks."""
    return " ".join(text.translate(_PLAIN).lower().split()).strip(" .!?\"'")
