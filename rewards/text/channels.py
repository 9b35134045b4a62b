"""The part of a response that is the answer, where a model writes its thinking beside it."""

import re

_HEADER = re.compile(
    r"<\|channel\|>[ \t]*([a-z]*)[^<\n]{0,200}(?:<\|constrain\|>[^<\n]{0,200})?<\|message\|>"
)
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>")


def final_channel(response: str) -> str:
    """The text after the thinking: of harmony's channels the last `final` one, else what follows
    the last `</think>`. "" if the thinking never ended.

    Linear in the response. Harmony without its special tokens (`analysis...assistantfinal...`) is
    known by its first word.
    """
    if "<|channel|>" in response:
        found = [m for m in _HEADER.finditer(response) if m.group(1) == "final"]
        if not found:
            return ""
        response = response[found[-1].end() :]
        for end in _ENDS:
            response = response.partition(end)[0]
    elif response.lstrip().startswith("analysis") and "assistantfinal" in response:
        response = response.rpartition("assistantfinal")[2]
    return response.rpartition("</think>")[2].partition("<think>")[0]
