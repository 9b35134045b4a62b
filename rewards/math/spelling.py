r"""One spelling for answers that only look different.

Owns what may be changed in an answer's text without changing what it means: characters (full-width
forms, superscripts, Greek letters, mathematical signs), wrappers around the whole, spacing, and
LaTeX commands that are other names of the same sign. What carries meaning stays.
"""

import re
import unicodedata

_SIGNS = {
    "\u2212": "-", "\u2013": "-", "\u00d7": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/",
    "∞": "\\infty ", "°": "^{\\circ}", "√": "\\sqrt ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ",
    "⩽": "\\le ", "⩾": "\\ge ", "≦": "\\le ", "≧": "\\ge ", "\u222a": "\\cup ", "∩": "\\cap ",
    "±": "\\pm ", "∓": "\\mp ", "≈": "\\approx ", "≡": "\\equiv ", "∈": "\\in ", "∉": "\\notin ",
    "∅": "\\emptyset ", "⌀": "\\emptyset ", "\u211d": "\\mathbb{R}", "\u2124": "\\mathbb{Z}",
    "\u2216": "\\setminus ",
    "→": "\\to ", "∠": "\\angle ", "∧": "\\land ", "\u2228": "\\lor ", "\u2032": "'", "\u2019": "'",
    "。": ".", "、": ",", "\u2236": ":", "\t": " ", "\n": " ", "\r": " ", "\u2044": "/",
}  # fmt: skip
_GREEK = dict(
    zip(
        "αβγδεζηθκλμνξρστφχψωΔΓΩΣΦΨΛΘπ",
        [
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "kappa",
            "lambda",
            "mu",
            "nu",
            "xi",
            "rho",
            "sigma",
            "tau",
            "phi",
            "chi",
            "psi",
            "omega",
            "Delta",
            "Gamma",
            "Omega",
            "Sigma",
            "Phi",
            "Psi",
            "Lambda",
            "Theta",
            "pi",
        ],
        strict=True,
    )
)
_CHARACTERS = str.maketrans(
    _SIGNS
    | {letter: f"\\{name} " for letter, name in _GREEK.items()}
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {"\u3000": " "}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED_RUN, _LOWERED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn")
_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|(?:quad|qquad|enspace|thinspace|space|displaystyle|textstyle|limits"
    r"|hfill|left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])|hspace\*?\s*\{[^{}]*\}|(?:text)?color\s*\{[^{}]*\}|hline(?![A-Za-z]))|~"
)
_EMPTY_FENCE = re.compile(r"\\(?:left|right)\s*\.")
_THIN = re.compile(r"\\!|(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")
_BRACED_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))")
_FACES = "boldsymbol|bm|mathbf|mathbold|mathit|mathsf|mathnormal|textsf|emph|underline"
_WHOLE = re.compile(
    rf"(?:\\(?:{_FACES}|text|textbf|textit|textrm|textnormal|mathrm|mbox|hbox|tag\*?)\s*|"
    r"(?=\{))\{(?:\\(?:bf|rm|it|sf|bfseries|displaystyle)(?![A-Za-z]))?"
)
_FACE_OF_DIGITS = re.compile(rf"\\(?:{_FACES}|mathrm|textbf)\s*\{{([^{{}}A-Za-z\\]*)\}}")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"))
_INNER_MATH = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$(?![0-9])")
_SAME_COMMANDS = {
    "leq": "\\le", "leqslant": "\\le", "leqq": "\\le", "geq": "\\ge", "geqslant": "\\ge",
    "geqq": "\\ge", "lt": "<", "gt": ">", "neq": "\\ne", "varnothing": "\\emptyset",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "colon": ":", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "div": "/", "ast": "*",
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "dbinom": "\\binom",
    "tbinom": "\\binom", "degree": "^{\\circ}", "degrees": "^{\\circ}", "rightarrow": "\\to",
    "vee": "\\lor", "wedge": "\\land", "sen": "\\sin", "tg": "\\tan", "ctg": "\\cot",
    "arctg": "\\arctan", "arcsen": "\\arcsin", "R": "\\mathbb{R}", "Reals": "\\mathbb{R}",
    "Z": "\\mathbb{Z}", "N": "\\mathbb{N}", "Q": "\\mathbb{Q}", "bf": "", "rm": "", "sf": "",
    "longrightarrow": "\\to", "cr": "\\\\", "euro": "€", "pounds": "£", "yen": "¥",
}  # fmt: skip
_COMMAND = re.compile(r"(?<!\\)\\([A-Za-z]+)")
_OPERATOR = re.compile(
    r"\\(?:operatorname|mathrm|text)\*?\s*\{\s*(sin|sen|cos|tan|tg|cot|sec|csc|ln|log|lg|exp|arcsin"
    r"|arcsen|arccos|arctan|arctg|sinh|cosh|tanh)\s*\}"
)
_PLAIN_NAMES = re.compile(
    r"(?<![\\A-Za-z{])(sqrt|pi|sin|cos|tan|ln|log|infinity|infty|infinito)(?![A-Za-z])"
)
_PLAIN_RELATIONS = (
    (re.compile(r"\\not\s*="), "\\ne "), (re.compile(r"\\not\s*\\in(?![a-z])"), "\\notin "),
    (re.compile(r"<=|=<"), "\\le "), (re.compile(r">="), "\\ge "), (re.compile(r"!="), "\\ne "),
    (re.compile(r"=="), "="), (re.compile(r"&lt;"), "<"), (re.compile(r"&gt;"), ">"),
    (re.compile(r"(?<=[A-Za-z0-9)\]}])\*\*(?=[0-9(A-Za-z{-])"), "^"),
)  # fmt: skip
_DEGREES = re.compile(r"(?:\{\s*\})?\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})")
_BASE_WORD = re.compile(
    r"(?<![0-9A-Za-z\\])([0-9][0-9A-Z]*)\s*"
    r"(?:\\text\s*\{\s*\(?\s*(?:in )?base\s*\}?|\(?\s*(?:in )?base)"
    r"[ -]*([0-9]{1,2})\s*[)}]{0,2}"
)
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
          "eight": "8", "nine": "9", "ten": "10", "twelve": "12", "sixteen": "16"}  # fmt: skip
_BASE_SUBSCRIPT = re.compile(r"_\s*\{?\s*(?:\\text\s*\{)?\s*([a-z]+)\s*\}?\s*\}?")
_WORDS = {"empty set": "\\emptyset", "the empty set": "\\emptyset", "\\{\\}": "\\emptyset",
          "\\{ \\}": "\\emptyset", "dne": "does not exist", "空集": "\\emptyset",
          "conjunto vacío": "\\emptyset", "infinity": "\\infty",
          "infinito": "\\infty", "无穷大": "\\infty", "-infinity": "-\\infty"}  # fmt: skip


def clean(answer: str) -> str | None:
    """The answer in the one spelling; None for invisible characters."""
    if _PLAIN_NUMBER.fullmatch(answer):
        return answer
    text = _VULGAR.sub(_fraction, answer)
    text = _RAISED_RUN.sub(lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = text.translate(_CHARACTERS)
    if any(unicodedata.category(c) in _HIDDEN for c in text if not c.isascii() or c < " "):
        return None
    if "\x7f" in text:
        return None
    text = unwrap(text)
    text = _BRACED_COMMA.sub("", _THIN.sub("", text))
    text = _OPERATOR.sub(r"\\\1 ", _FACE_OF_DIGITS.sub(r"\1", text))
    text = _PLAIN_NAMES.sub(lambda m: f"\\{_plain(m[1])} ", text)
    text = _COMMAND.sub(_same_command, _SPACING.sub(" ", _EMPTY_FENCE.sub(" ", text)))
    for pattern, sign in _PLAIN_RELATIONS:
        text = pattern.sub(lambda _, sign=sign: sign, text)
    text = _DEGREES.sub(lambda _: "^{\\circ}", text).replace("\\%", "%")
    text = _BASE_SUBSCRIPT.sub(lambda m: f"_{{{_BASES[m[1]]}}}" if m[1] in _BASES else m[0], text)
    text = _BASE_WORD.sub(r"\1_{\2}", text)
    text = " ".join(unwrap(text).split())
    return _WORDS.get(text.lower(), text)


def unwrap(text: str) -> str:
    """Without what stands around the whole: dollar signs, braces, type faces, final stops."""
    text = text.strip()
    for _ in range(4):
        before = text
        for opening, closing in _WRAPPERS:
            size = len(opening) + len(closing)
            if len(text) > size and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        while text.endswith((".", ",", ";", "\\\\")) and not text.endswith(("\\,", "\\;", "..")):
            text = text[: -2 if text.endswith("\\\\") else -1].strip()
        text = _inside(text).strip()
        if text == before:
            break
    return _INNER_MATH.sub(r"\1", text)


def _inside(text: str) -> str:
    """The content of one group or type face that holds the whole text."""
    match = _WHOLE.match(text)
    if match is None or not text.endswith("}"):
        return text
    depth, index = 1, match.group().index("{") + 1
    while index < len(text) and depth:
        if text[index] == "\\":
            index += 2
            continue
        depth += (text[index] == "{") - (text[index] == "}")
        index += 1
    return text[match.end() : -1] if index == len(text) and not depth else text


def _fraction(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match[0]).split("\u2044")
    return f"\\frac{{{top}}}{{{bottom or '0'}}}"


def _plain(name: str) -> str:
    return "infty" if name in ("infinity", "infinito") else name


def _same_command(match: re.Match[str]) -> str:
    same = _SAME_COMMANDS.get(match[1])
    if same is None:
        return match[0]
    return f"{same} " if same[-1:].isalpha() else same
