"""Answers as OpenAI's API writes them, whole or as a stream.

Token ids are named as vLLM names them: `token_ids` of a choice, `prompt_token_ids` of the answer
(of the choice in /v1/completions).
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from conjoint.rollouts.gateway.parameters import Ask, ChatAsk, TextAsk
from conjoint.rollouts.gateway.session import Answer, Choice
from conjoint.rollouts.renderer import Renderer

_PIECE = 64
"""Characters of one piece of a stream."""


def chat_body(ask: ChatAsk, answer: Answer, model: str, renderer: Renderer) -> dict[str, Any]:
    """The whole answer of /v1/chat/completions."""
    choices = []
    for i, choice in enumerate(answer.choices):
        message: dict[str, Any] = {"role": "assistant", "content": _content(choice)}
        if choice.tool_calls:
            message["tool_calls"] = choice.tool_calls
        choices.append(
            {
                "index": i,
                "message": message,
                "logprobs": _chat_logprobs(ask, choice, renderer),
                "finish_reason": choice.finish,
            }
            | _token_ids(ask, choice)
        )
    body = _head("chat.completion", model) | {"choices": choices, "usage": _usage(answer)}
    return body | ({"prompt_token_ids": answer.prompt} if ask.return_token_ids else {})


def chat_chunks(
    ask: ChatAsk, answer: Answer, model: str, renderer: Renderer
) -> Iterator[dict[str, Any]]:
    """The same as a stream. Log-probs and token ids come with the first piece of each choice."""
    head = _head("chat.completion.chunk", model)
    for i, choice in enumerate(answer.choices):
        top = {"prompt_token_ids": answer.prompt} if ask.return_token_ids and i == 0 else {}
        facts = {"logprobs": _chat_logprobs(ask, choice, renderer)} | _token_ids(ask, choice)
        yield head | top | _delta(i, {"role": "assistant", "content": ""}, facts=facts)
        for piece in _pieces(choice.text):
            yield head | _delta(i, {"content": piece})
        if choice.tool_calls:
            calls = [{"index": k, **call} for k, call in enumerate(choice.tool_calls)]
            yield head | _delta(i, {"tool_calls": calls})
        yield head | _delta(i, {}, choice.finish)
    if ask.stream_options.include_usage:
        yield head | {"choices": [], "usage": _usage(answer)}


def text_body(ask: TextAsk, answer: Answer, model: str, renderer: Renderer) -> dict[str, Any]:
    """The whole answer of /v1/completions."""
    choices = [
        _text_choice(ask, answer, i, choice.text, choice.finish)
        | {"logprobs": _text_logprobs(ask, choice, renderer)}
        for i, choice in enumerate(answer.choices)
    ]
    return _head("text_completion", model) | {"choices": choices, "usage": _usage(answer)}


def text_chunks(
    ask: TextAsk, answer: Answer, model: str, renderer: Renderer
) -> Iterator[dict[str, Any]]:
    """The same as a stream."""
    head = _head("text_completion", model)
    for i, choice in enumerate(answer.choices):
        facts = {"logprobs": _text_logprobs(ask, choice, renderer)}
        yield head | {"choices": [_text_choice(ask, answer, i, "", None) | facts]}
        for piece in _pieces(choice.text):
            delta = {"index": i, "text": piece, "finish_reason": None}
            yield head | {"choices": [delta]}
        yield head | {"choices": [{"index": i, "text": "", "finish_reason": choice.finish}]}
    if ask.stream_options.include_usage:
        yield head | {"choices": [], "usage": _usage(answer)}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"{'cmpl' if kind == 'text_completion' else 'chatcmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def _delta(
    index: int,
    delta: dict[str, Any],
    finish: str | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish, **facts}]}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]


def _content(choice: Choice) -> str | None:
    return None if choice.tool_calls and not choice.text else choice.text


def _usage(answer: Answer) -> dict[str, int]:
    prompt, sampled = len(answer.prompt), sum(len(c.tokens) for c in answer.choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
    }


def _token_ids(ask: Ask, choice: Choice) -> dict[str, Any]:
    return {"token_ids": choice.tokens} if ask.return_token_ids else {}


def _text_choice(
    ask: TextAsk, answer: Answer, index: int, text: str, finish: str | None
) -> dict[str, Any]:
    ids = _token_ids(ask, answer.choices[index])
    if ids:
        ids["prompt_token_ids"] = answer.prompt
    return {"index": index, "text": text, "finish_reason": finish} | ids


def _chat_logprobs(ask: ChatAsk, choice: Choice, renderer: Renderer) -> dict[str, Any] | None:
    if not ask.logprobs:
        return None
    content = []
    for token, logprob in zip(choice.tokens, choice.logprobs, strict=True):
        text = renderer.token_text(token)
        content.append(
            {
                "token": text,
                "logprob": logprob,
                "bytes": list(text.encode()),
                "top_logprobs": [],
            }
        )
    return {"content": content, "refusal": None}


def _text_logprobs(ask: TextAsk, choice: Choice, renderer: Renderer) -> dict[str, Any] | None:
    if ask.logprobs is None:
        return None
    texts = [renderer.token_text(token) for token in choice.tokens]
    offsets = list(accumulate(map(len, texts), initial=0))[:-1]
    return {
        "tokens": texts,
        "token_logprobs": choice.logprobs,
        "top_logprobs": None,
        "text_offset": offsets,
    }
