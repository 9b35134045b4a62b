"""What a reader sees of a text once it is rendered: Markdown and HTML can hide words.

Nothing is rendered: what would not show is cut out, and all else stays as it is written, so that
checks of bullets, dividers and brackets still find theirs. Linear in the text.
"""

import html
import re
import unicodedata
from collections.abc import Iterator

from conjoint.rewards.text.quoting import visible

_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>[A-Za-z][\w:-]*+)(?P<attributes>(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+')*+)>"
    r"|<[?!][^<>]*+>"
)
_HIDING = re.compile(
    r"(?:^|[\s\"'/])(?:style|hidden|aria-hidden|color|bgcolor|size|width|height)(?![\w-])",
    re.IGNORECASE,
)
"""Attributes by which an element may be invisible: which of their values do that is a long list."""
_UNSEEN_NAMES = (
    "script style template noscript head title datalist object iframe audio video canvas"
)
_BLOCK_NAMES = "br hr p div li ul ol dd dt tr td th table h1 h2 h3 h4 h5 h6"
_VOID_NAMES = "area base br col embed hr img input link meta source track wbr"
_UNSEEN = frozenset(_UNSEEN_NAMES.split())
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_VOID = frozenset(_VOID_NAMES.split())
_DEFINITION = re.compile(
    r"^[ ]{0,3}\[(?!\^)[^\[\]\n]++\]:[^\S\n]*+\n?[^\S\n]*+(?:<[^<>\n]*+>|[^\s<]\S*+)"
    r"(?:[^\S\n]*+\n?[^\S\n]*+(?:\"[^\"]*+\"|'[^']*+'|\([^()]*+\)))?[^\S\n]*+$",
    re.MULTILINE,
)
_BRACKET = re.compile(r"\\.|\[|\](?P<target>\((?:[^()]++|\([^()]*+\))*+\)|\[[^\[\]\n]*+\])?")
_FENCE = re.compile(r"^([^\S\n]{0,3}(?:```+|~~~+))[^\n`]*+$", re.MULTILINE)
_PHANTOM = re.compile(r"\\[hv]?phantom\s*+\{[^{}]*+\}")


def readable(text: str, links: bool = False) -> str:
    """`text` without what its reader would not see: comments, tags, elements that may be hidden,
    definitions of links, addresses and titles of links (unless `links`), pictures with their
    descriptions, names of code blocks, invisible characters. Composed letters (NFC)."""
    text = _without_comments(text)
    text = _without_elements(text)
    text = _DEFINITION.sub("", text)
    text = "".join(_without_targets(text, links))
    text = _PHANTOM.sub("", _FENCE.sub(r"\1", text))
    return unicodedata.normalize("NFC", visible(html.unescape(text)))


def _without_comments(text: str) -> str:
    before, *comments = text.split("<!--")
    return before + "".join(comment.partition("-->")[2] for comment in comments)


def _without_elements(text: str) -> str:
    """Without tags, and without what stands in an element that may be hidden; where that one is not
    closed, without all that follows. <<Titles>> are no tags."""
    kept: list[str] = []
    place, hidden, depth = 0, "", 0
    for tag in _TAG.finditer(text):
        if text[tag.start() - 1 : tag.start()] == "<" and text[tag.end() : tag.end() + 1] == ">":
            continue
        name, closes = (tag["name"] or "").lower(), bool(tag["end"])
        if hidden:
            if name == hidden and not (tag["attributes"] or "").endswith("/"):
                depth += -1 if closes else 1
            if not depth:
                hidden, place = "", tag.end()
            continue
        kept += (text[place : tag.start()], "\n" if name in _BLOCKS else "")
        place = tag.end()
        unseen = name in _UNSEEN or bool(_HIDING.search(tag["attributes"] or ""))
        if unseen and not closes and name not in _VOID:
            hidden, depth = name, 1
    return "".join(kept) + ("" if hidden else text[place:])


def _without_targets(text: str, links: bool) -> Iterator[str]:
    """Without the pictures, and without the targets of links: [a name](its target)."""
    cuts: list[tuple[int, int]] = []
    opened: list[int] = []
    for bracket in _BRACKET.finditer(text):
        if bracket.group()[0] == "[":
            opened.append(bracket.start())
        elif bracket.group()[0] == "]" and opened:
            start = opened.pop()
            if not bracket["target"]:
                continue
            if start and text[start - 1] == "!":
                while cuts and cuts[-1][0] >= start:
                    cuts.pop()
                cuts.append((start - 1, bracket.end()))
            elif not links:
                cuts.append((bracket.start() + 1, bracket.end()))
    place = 0
    for start, end in cuts:
        yield text[place:start]
        place = max(place, end)
    yield text[place:]
