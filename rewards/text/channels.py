"""The part of a response that is the answer, where a model writes its thinking beside it."""

_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>")


def final_channel(response: str) -> str:
    """The text after the thinking: of harmony's channels the last `final` one, else what follows
    the last `</think>`. "" if the thinking never ended.

    Linear in the response. Harmony without its special tokens (`analysis...assistantfinal...`) is
    known by its first word.
    """
    if _CHANNEL in response:
        response = _last_final(response.split(_CHANNEL)[1:])
    elif response.lstrip().startswith("analysis") and "assistantfinal" in response:
        response = response.rpartition("assistantfinal")[2]
    return response.rpartition("</think>")[2].partition("<think>")[0]


def _last_final(channels: list[str]) -> str:
    for channel in reversed(channels):
        header, mark, text = channel.partition(_MESSAGE)
        if mark and header.split("<", 1)[0].strip() == "final":
            for end in _ENDS:
                text = text.partition(end)[0]
            return text
    return ""
