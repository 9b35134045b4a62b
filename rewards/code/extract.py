"""Which text of a response is the program: the last block that can be one.

Owns fenced blocks (also in lists and quotes) and their rank: by the language tag, by the name that
the tests call, by what a script must do. Whether a block parses is found out in the jail, where it
is compiled anyway: a policy's text is never parsed here. All of it is linear in the response.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from conjoint.rewards.text.channels import final_channel

_PREFIX = r"[ \t]*(?:>[ \t]?|(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)*"
_OPENING = re.compile(rf"({_PREFIX})(```+(?=[^`]*$)|~~~+)(.*)")
_CLOSING = re.compile(r"(?:>[ \t]?|[ \t])*(```+|~~~+)[ \t\r]*")
_TAG = re.compile(r"[\s{.]*([A-Za-z0-9_+#-]*)")
_TAGS = {
    "python": {"python", "python3", "py", "py3", "python2", "pypy", "pypy3", "sage"},
    "cpp": {"cpp", "c++", "cc", "cxx", "c", "hpp", "h"},
    "bash": {"bash", "sh", "shell", "zsh", "ksh"},
}
"""Language -> the tags of its blocks. A block without a tag may be of any language."""
_OUTPUT = re.compile(r"\bprint\b|\bwrite(?:lines)?\b|\bpprint\b|\bexit\b")
_INPUT = re.compile(r"\binput\b|\bstdin\b|\bfileinput\b|\bopen[ \t]*\(|\bread(?:lines?)?\b")
_MAIN = re.compile(r"\bmain[ \t\r\n]{0,9}\(")
_PROMPT = re.compile(r"[ \t]*(?:>>>|In \[[0-9]+\]:|\$[ \t])")
_USE = re.compile(
    r"[ \t]*(?:\$[ \t]+)?(?:chmod\b|g\+\+|gcc\b|make\b|(?:bash|sh|source|python3?)[ \t]+[^-\s]|\./"
    r"|(?:echo|printf|cat)\b[^|]*\|[ \t]*(?:bash|sh|\./))"
)
_COMMAND = re.compile(r"\b(?:echo|printf|cat|awk|sed|tr|bc|dc|sort|head|tail|expr|seq|wc|rev)\b")
_MOST = 8
"""Blocks of one rank that are tried."""


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    text: str


def extract_programs(response: str, language: str, tests: Mapping[str, Any]) -> list[str]:
    """What may be the program, best first; never empty. Of several that are as good by their look
    the later is better, and the first that parses should be taken.

    A last fence that is never closed (a truncated answer) opens a block up to the end. Without a
    block that looks like the program, the whole text is one if it does, else the last block.
    """
    text = final_channel(response)
    blocks = _blocks(text)
    fits = _fitness(language, tests)
    if not blocks:
        return [text]
    ranks = [(fits(block.text), _tag_rank(block.tag, language)) for block in blocks]
    best = max(ranks)
    chosen = [b.text for b, rank in zip(blocks, ranks, strict=True) if rank == best]
    # A bare program may show blocks in a docstring.
    whole = [text] if fits(text) > best[0] else []
    return [*whole, *chosen[: -_MOST - 1 : -1]]


def _tag_rank(tag: str, language: str) -> int:
    if not tag:
        # Output looks like a shell script more than like a program of the others.
        return 1 if language == "bash" else 2
    return 2 if tag in _TAGS[language] else 0


def _fitness(language: str, tests: Mapping[str, Any]) -> Callable[[str], int]:
    """How much a text looks like the program that the tests ask for."""
    if language == "cpp":
        return lambda text: bool(_MAIN.search(text))
    if language == "bash":
        return _bash_fitness
    if entry := tests.get("entry"):
        return _defines(entry)
    reads = any(case["input"].strip() for case in tests.get("cases", ()))

    def fits(text: str) -> int:
        if _PROMPT.match(text) or not _OUTPUT.search(text):
            return 0
        return 2 if reads and _INPUT.search(text) else 1

    return fits if tests else lambda text: 0


def _bash_fitness(text: str) -> int:
    lines = [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    if all(map(_USE.match, lines)):
        return 0
    return 2 if any(map(_COMMAND.search, lines)) else 1


def _defines(entry: str) -> Callable[[str], int]:
    name = re.escape(entry.rpartition(".")[2])
    defined = re.compile(
        rf"^[ \t]*(?:(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b|{name}[ \t]*(?::[^=\n]*)?=(?!=))",
        re.MULTILINE,
    )
    return lambda text: bool(defined.search(text))


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    opened, lines = None, []
    for line in re.split(r"(?<=\n)", text):
        if opened is None:
            opened, lines = _OPENING.match(line.rstrip("\r\n")), []
        elif _closes(opened, line):
            blocks.append(_block(opened, lines))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        blocks.append(_block(opened, lines))
    return blocks


def _closes(opened: re.Match[str], line: str) -> bool:
    closing = _CLOSING.fullmatch(line.rstrip("\r\n"))
    if closing is None:
        return False
    mark, wanted = closing.group(1), opened.group(2)
    indented = closing.start(1) - len(opened.group(1))
    # A fence that stands further in belongs to the program: a docstring may show one.
    return mark[0] == wanted[0] and len(mark) >= len(wanted) and indented <= 3


def _block(opened: re.Match[str], lines: list[str]) -> _Block:
    prefix, _, info = opened.groups()
    if ">" in prefix:
        lines = [re.sub(r"[ \t]*>[ \t]?", "", line, count=1) for line in lines]
        prefix = prefix.replace(">", "")
    margins = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    margin = min([len(prefix), *margins]) if lines else 0
    tag = _TAG.match(info)
    body = "".join(line[margin:] if line.strip() else line.lstrip(" \t") for line in lines)
    return _Block(tag.group(1).lower() if tag else "", body)
