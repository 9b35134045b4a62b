"""Hostile text made safe to quote: hidden characters, chat-template tokens, delimiters."""

import hashlib
import re

# Invisible characters would let an answer show the judge something a reader does not see.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000e-\u001f\u007f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_TEMPLATE_TOKEN = re.compile(
    r"<[|\uff5c]|[|\uff5c]>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|think|tool_call|tool_response|start_of_turn|end_of_turn)>",
    re.IGNORECASE,
)


def visible(text: str) -> str:
    """`text` without the characters that a reader cannot see."""
    return _HIDDEN.sub("", text)


def defuse(text: str) -> str:
    """`text` without hidden characters and with every chat-template token broken by a space."""
    text = visible(text)
    while _TEMPLATE_TOKEN.search(text):  # again, because "<|>" holds two that overlap
        text = _TEMPLATE_TOKEN.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)
    return text


def clip(text: str, max_chars: int | None) -> str:
    """`text`, or its beginning and its end (where a result stands) when it is longer."""
    if max_chars is None or len(text) <= max_chars:
        return text
    gap = " ... "
    head = max(max_chars - len(gap), 0) // 2
    tail = max(max_chars - len(gap) - head, 0)
    return text[:head] + gap + text[len(text) - tail :]


def quote(label: str, text: str, *content: str) -> str:
    """`text` between two marker lines whose code occurs nowhere in `content`."""
    salt = 0
    while True:
        digest = hashlib.sha256("\x1f".join([str(salt), *content]).encode("utf-8", "replace"))
        code = digest.hexdigest()[:12]
        if not any(code in part for part in content):
            return f"[{label} {code} begins]\n{text}\n[{label} {code} ends]"
        salt += 1


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates as escapes: what a policy wrote must not
    steer a terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
