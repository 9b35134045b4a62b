"""What a client may ask for: the bodies of the two routes, checked key by key.

A parameter that cannot be had is refused by name. Those that a run fixes are overridden, and the
answer says which (`Ask.overridden`).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conjoint.envs.types import Message, ToolCall

MAX_CHOICES = 16
Off = Annotated[float, Field(ge=0, le=0)]
"""A number that may only be given as 0."""


class Refusal(Exception):
    """An answer that is an error, in the words and fields of OpenAI's API."""

    def __init__(
        self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StreamOptions(_Strict):
    include_usage: bool = False


class _ResponseFormat(_Strict):
    type: Literal["text"]


class Ask(_Strict):
    """What both routes take."""

    model: str = ""
    """Any name: there is one policy."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] = Field([], max_length=4)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    return_token_ids: bool = False
    presence_penalty: Off = 0
    frequency_penalty: Off = 0
    logit_bias: dict[str, float] = Field({}, max_length=0)
    user: str = ""
    """Names that change no answer: kept nowhere."""
    metadata: dict[str, str] = {}

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def limit(self) -> int | None:
        """The client's own limit of sampled tokens for one answer."""
        return self.max_tokens

    @property
    def overridden(self) -> list[str]:
        """Parameters that the client set and the run fixes."""
        return [name for name in ("temperature", "top_p") if getattr(self, name) is not None]


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Function(_Strict):
    name: str
    arguments: str


class _Call(_Strict):
    id: str
    type: Literal["function"] = "function"
    function: _Function
    index: int = 0
    """Left by clients that put a stream together."""


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] = ""
    tool_calls: list[_Call] = []
    tool_call_id: str = ""
    name: str = ""

    def plain(self) -> Message:
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        # Templates know the older name of the same role.
        role = "system" if self.role == "developer" else self.role
        message = Message(role=role, content=text)
        if self.tool_calls:
            message["tool_calls"] = [
                ToolCall(
                    id=call.id,
                    type="function",
                    function={"name": call.function.name, "arguments": call.function.arguments},
                )
                for call in self.tool_calls
            ]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


class _ToolFunction(_Strict):
    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class _Tool(_Strict):
    type: Literal["function"]
    function: _ToolFunction


A = TypeVar("A", bound=Ask)


class ChatAsk(Ask):
    """POST /v1/chat/completions."""

    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[_Tool] = []
    tool_choice: Literal["auto", "none"] = "auto"
    parallel_tool_calls: Literal[True] = True
    response_format: _ResponseFormat = _ResponseFormat(type="text")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=0)
    store: Literal[False] = False

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def overridden(self) -> list[str]:
        strict = any(tool.function.strict for tool in self.tools)
        return [*super().overridden, *(["tools.strict"] if strict else [])]

    @property
    def dialogue(self) -> list[Message]:
        return [message.plain() for message in self.messages]

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """As the chat template gets them: what the client set, and nothing else."""
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]


class TextAsk(Ask):
    """POST /v1/completions."""

    prompt: str | list[int] = Field(min_length=1)
    max_tokens: int | None = Field(16, ge=1)
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    echo: Literal[False] = False
    best_of: Literal[1] = 1


def read_chat(body: Any) -> ChatAsk:
    """Raises Refusal naming the parameter."""
    ask = _read(ChatAsk, body)
    for i, message in enumerate(ask.messages):
        if (message.role == "tool") != bool(message.tool_call_id):
            raise Refusal(
                "a message has a tool_call_id exactly if its role is tool",
                f"messages[{i}].tool_call_id",
            )
        if message.tool_calls and message.role != "assistant":
            raise Refusal("only an assistant calls tools", f"messages[{i}].tool_calls")
    if ask.max_tokens and ask.max_completion_tokens not in (None, ask.max_tokens):
        raise Refusal("max_tokens and max_completion_tokens differ; give one", "max_tokens")
    return ask


def read_text(body: Any) -> TextAsk:
    """Raises Refusal naming the parameter."""
    return _read(TextAsk, body)


def _read(kind: type[A], body: Any) -> A:
    if not isinstance(body, Mapping):
        raise Refusal("the body must be a JSON object")
    given = _without_nulls(body)
    if "messages" in given:
        given["messages"] = _without_nulls_deep(given["messages"])
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # Of the alternatives of one parameter, the one that fits furthest.
        of_first = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
        first = max(of_first, key=lambda one: len(one["loc"]))
        param = _place(first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refusal(
                f"{param} is not supported here", param, "unsupported_parameter"
            ) from None
        raise Refusal(f"{param}: {first['msg'].lower()}", param) from None


def _without_nulls(given: Mapping[str, Any]) -> dict[str, Any]:
    """Clients write null for what they leave out."""
    return {str(key): value for key, value in given.items() if value is not None}


def _without_nulls_deep(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls_deep(item) for key, item in _without_nulls(value).items()}
    return [_without_nulls_deep(item) for item in value] if isinstance(value, list) else value


def _place(where: Sequence[int | str]) -> str:
    """`messages[0].content`, without the alternatives of a type that pydantic lists too."""
    place = ""
    for part in where:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float"):
            place += f".{part}" if place else part
    return place
