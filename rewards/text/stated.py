"""A final answer that is stated in a sentence, without a box: `The answer is $\\frac34$.`

Read in English, Spanish and Chinese. The last sentence states an answer where it has one formula,
or one number, and nothing that denies it. Words that follow the number come with it (`12
thousand`), and so does the arithmetic before an equals sign (`41 = 42`): whether they are true is
for the reward.
"""

import re

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。\uff01\uff1f])")
_STATED = re.compile(
    r"\b(?:answer|solution|result)s?(?: is| are|:| equals)"
    r"|(?:答案|结果|结论)(?:应该)?(?:是|为|\uff1a|:)|答[:\uff1a]|(?:故|应)选[:\uff1a]?"
    r"|\b(?:respuesta|soluci[oó]n|resultado)(?: final| correcta)*(?: es|:)",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\$\$([^$]+)\$\$|(?<![\\$])\$([^$]+)(?<!\\)\$(?![0-9])|\\\((.+?)\\\)|\\\[(.+?)\\\]"
)
_DENIED = re.compile(
    r"\b(?:not|never|cannot|neither|nor|wrong|incorrect|unknown|less than|more than|at least"
    r"|at most|no es|nunca|menos de|más de)\b|n't\b|n\u2019t\b|不|没有|至少|至多|超过|少于",
    re.IGNORECASE,
)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))"
_LETTER = r"[^\W0-9\u4e00-\u9fff]"
_NUMBER = re.compile(
    rf"(?<!{_LETTER})(?<![A-Za-z]\()(?<![0-9.,^/*√\\{{\[|<>])[-+\u2212]?{_DIGITS}"
    rf"(?: [0-9]+/[0-9]+|/[0-9]+)?(?!{_LETTER}|[.,]?[0-9]|[\^/*({{\[|\\])"
)
_WHOLE = re.compile(
    r"[-+\u2212]?(?:\\?\$|[€£¥])?[0-9](?:[0-9.,]*[0-9])?(?: [0-9]+/[0-9]+|/[0-9]+)?\s?"
    r"(?:\\?[%°$€£¥])?(?:\s?[^\W\d_]++(?: [^\W\d_]++){0,3})?"
)
_FORMULA = re.compile(
    r"(?:[-+*/^=().,\[\]{}<>≤≥√π%°$:;|0-9\s\u2212]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])"
    r"|\b(?:and|or|sqrt|pi)\b|[和或、及])+"
)
_FUNCTION = re.compile(
    r"\b(?:log|ln|lg|sin|cos|tan|exp|sqrt|root|factorial|squared|cubed|power|base|mod"
    r"|modulo|ra[ií]z)\b|根号|平方根|次方",
    re.IGNORECASE,
)
_HOPE = re.compile(r"\s*I hope (?:it|this) is correct\.?$")
_FOLLOWING = re.compile(r"\s?(\\?%|[\u4e00-\u9fff]+|[^\W\d_]+(?: [^\W\d_]+)?)")
_SENTENCE_GOES_ON = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "in",
        "for",
        "because",
        "since",
        "so",
        "as",
        "which",
        "that",
        "of",
        "each",
        "left",
        "total",
        "altogether",
        "when",
        "if",
        "by",
        "with",
        "from",
        "at",
        "on",
        "the",
        "a",
        "an",
        "after",
        "before",
        "this",
        "he",
        "she",
        "they",
        "we",
        "it",
        "es",
        "son",
        "en",
        "para",
        "porque",
        "que",
        "de",
        "del",
        "el",
        "la",
        "los",
        "las",
        "y",
        "there",
    ]
)
_ARITHMETIC = re.compile(r"[0-9.,+\-*/\u00d7÷·()%^ $\u2212]|[A-Za-z]")
_TOKEN = re.compile(r"[^\W0-9_]+|.", re.DOTALL)
_COMMA = re.compile(r",(?![0-9]{3}(?![0-9]))")
_WORKED = re.compile(r"<<[^<>]*>>")
"""GSM8K's notes of a calculator."""
_MAX_SENTENCE = 2_000
_MAX_WORDS = 60


def stated_answer(text: str) -> tuple[str | None, str]:
    """(answer, "") of the last sentence of `text`, or (None, the reason why there is none)."""
    lines = [line for line in text.splitlines() if line.strip(" \t*_")]
    if not lines:
        return None, "there is no answer outside the thinking"
    line = lines[-1].replace("**", "").replace("__", "").strip()[-2 * _MAX_SENTENCE :]
    sentences = [s for s in _SENTENCE.split(_HOPE.sub("", line)) if s.strip()]
    sentence = sentences[-1] if sentences else ""
    if len(sentence) > _MAX_SENTENCE:
        return None, "the last sentence is too long to hold one plain number"
    sentence = _WORKED.sub("", sentence)
    marks = list(_STATED.finditer(sentence))
    claim = sentence[marks[-1].end() :] if marks else sentence
    claim = claim.strip().lstrip(":\uff1a ").rstrip(".!。\uff01 ")
    if _DENIED.search(sentence if marks else claim):
        return None, "the last sentence denies something"
    formulas = list(_MATH.finditer(claim))
    if formulas:
        return _one_formula(claim, formulas)
    whole = _WHOLE.fullmatch(claim) or _FORMULA.fullmatch(claim)
    if marks and claim and (whole or not re.search("[0-9]", claim)):
        return (claim, "") if len(claim) <= _MAX_WORDS else (None, "no short answer and no box")
    return _one_number(claim)


def _one_formula(claim: str, formulas: list[re.Match[str]]) -> tuple[str | None, str]:
    outside = _MATH.sub(" ", claim)
    contents = {next(g for g in match.groups() if g) for match in formulas}
    if len(contents) > 1 or re.search(r"[0-9]", outside):
        return None, f"{len(contents)} formulas in the last sentence and no box"
    return f"{contents.pop()}{_words_behind(claim[formulas[-1].end() :])}", ""


def _one_number(claim: str) -> tuple[str | None, str]:
    head, equals, tail = claim.rpartition("=")
    if _FUNCTION.search(claim):
        return None, "a function of a number in the last sentence and no box"
    numbers = list(_NUMBER.finditer(tail))
    written = re.findall(r"[0-9]+(?:[.,/ ]?[0-9]+)*", tail)
    if len({n.group() for n in numbers}) != 1 or len(written) != len(numbers):
        return None, f"{len(numbers) or 'no'} plain numbers in the last sentence and no box"
    answer = f"{numbers[-1].group()}{_words_behind(tail[numbers[-1].end() :])}"
    return f"{_arithmetic(head)} = {answer}" if equals and _arithmetic(head) else answer, ""


def _words_behind(rest: str) -> str:
    """The words that belong to a number; "" where the sentence goes on without them."""
    following = _FOLLOWING.match(rest)
    if following is None:
        return ""
    word, *more = following[1].split()
    if word.lower() in _SENTENCE_GOES_ON:
        return ""
    kept = [word, *(w for w in more if w.lower() not in _SENTENCE_GOES_ON)]
    return "%" if word.endswith("%") else f" {' '.join(kept)}"


def _arithmetic(head: str) -> str:
    """The formula at the end of `head`: numbers, signs and single letters up to the last word."""
    tokens = _TOKEN.findall(head)
    start = len(tokens)
    while start and _ARITHMETIC.fullmatch(tokens[start - 1]):
        start -= 1
    found = _COMMA.split("".join(tokens[start:]).replace("$", ""))[-1].strip(" .,")
    found = re.sub("^(?:a|A|I) (?=[0-9(])", "", found)
    return found if re.match("[-\u2212]?[A-Za-z0-9(]", found) else ""
