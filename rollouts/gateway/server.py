"""The engines as an OpenAI-compatible endpoint on loopback, inside the driver's event loop.

Every session has a path of its own that nobody can guess; there is no other way in. The server
knows HTTP and nothing of tokens: sessions answer (`session.py`).

What it does not protect against: other programs of the same user, who may read this process.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from aiohttp import web

from conjoint.envs.text import MAX_LEVELS, from_json, sound
from conjoint.envs.types import Sampler
from conjoint.rollouts.episode import EpisodeLimits, Pace, unpaced
from conjoint.rollouts.gateway.answers import chat_body, chat_chunks, text_body, text_chunks
from conjoint.rollouts.gateway.parameters import Ask, Refusal, read_chat, read_text
from conjoint.rollouts.gateway.session import Session
from conjoint.rollouts.renderer import Renderer

MODEL = "policy"
MAX_BODY = 16 * 2**20
"""Bytes of one request."""
_HOST = "127.0.0.1"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Serves sessions over one sampler. Start it in the loop in which the sampler lives."""

    def __init__(self, sampler: Sampler, renderer: Renderer) -> None:
        self._sampler = sampler
        self._renderer = renderer
        self._sessions: dict[str, Session] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._in_openai_words])
        app.router.add_get("/s/{secret}/v1/models", self._models)
        app.router.add_get("/s/{secret}/v1/models/{model}", self._model)
        app.router.add_post("/s/{secret}/v1/chat/completions", self._chat)
        app.router.add_post("/s/{secret}/v1/completions", self._text)
        # No access log: paths are secrets.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @contextmanager
    def open(
        self,
        limits: EpisodeLimits,
        seed: int,
        session: str = "",
        pace: Pace = unpaced,
        while_answering: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Iterator[tuple[str, Session]]:
        """(base URL, session) of one episode; the URL leads nowhere afterwards."""
        opened = Session(
            self._sampler, self._renderer, limits, seed, session, pace, while_answering
        )
        secret = secrets.token_urlsafe(32)
        self._sessions[secret] = opened
        try:
            yield f"http://{_HOST}:{self._port}/s/{secret}/v1", opened
        finally:
            self._sessions.pop(secret, None)
            opened.close()

    def _session(self, request: web.Request) -> Session:
        session = self._sessions.get(request.match_info["secret"])
        if session is None:
            raise Refusal("no such session, or it has ended", code="no_session", status=404)
        return session

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        return web.json_response({"object": "list", "data": [_card()]})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._session(request)
        return web.json_response(_card())

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        session, ask = self._session(request), read_chat(await _json(request))
        answer = await session.chat(ask)
        if ask.stream:
            return await _stream(request, ask, chat_chunks(ask, answer, MODEL, self._renderer))
        return _whole(ask, chat_body(ask, answer, MODEL, self._renderer))

    async def _text(self, request: web.Request) -> web.StreamResponse:
        session, ask = self._session(request), read_text(await _json(request))
        answer = await session.complete(ask)
        if ask.stream:
            return await _stream(request, ask, text_chunks(ask, answer, MODEL, self._renderer))
        return _whole(ask, text_body(ask, answer, MODEL, self._renderer))

    @web.middleware
    async def _in_openai_words(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Every failure in the form that clients of OpenAI's API read."""
        try:
            return await handler(request)
        except Refusal as refusal:
            return _error(str(refusal), refusal.status, refusal.param, refusal.code)
        except web.HTTPRequestEntityTooLarge:
            return _error(f"the body has more than {MAX_BODY} bytes", 413, None, "too_large")
        except web.HTTPException as error:
            words = f"{request.method} of this path is not served"
            return _error(words, error.status, None, "not_found")
        except Exception as error:  # the sampler's, or ours: the episode ends with it
            if session := self._sessions.get(request.match_info.get("secret", "")):
                session.fail(error)
            return _error("the engine has failed", 500, None, "engine_failed")


def _card() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": 0, "owned_by": "conjoint"}


async def _json(request: web.Request) -> Any:
    """The body, without text that a tokenizer or a client could not take. Raises Refusal."""
    try:
        return sound(from_json(await request.read()))
    except ValueError:
        raise Refusal(f"the body is not JSON of at most {MAX_LEVELS} levels") from None


def _headers(ask: Ask) -> dict[str, str]:
    names = ", ".join(ask.overridden)
    return {"x-conjoint-overridden": names} if names else {}


def _whole(ask: Ask, body: dict[str, Any]) -> web.Response:
    return web.json_response(body, headers=_headers(ask))


async def _stream(
    request: web.Request, ask: Ask, chunks: Iterator[dict[str, Any]]
) -> web.StreamResponse:
    """Server-sent events. The answer is complete by now; the client reads it in pieces."""
    response = web.StreamResponse(headers=_headers(ask) | {"Cache-Control": "no-cache"})
    response.content_type = "text/event-stream"
    with suppress(ConnectionResetError):  # the client has gone: what it got is recorded
        await response.prepare(request)
        for chunk in chunks:
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    return response


def _error(message: str, status: int, param: str | None, code: str) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    # A client that tries again would sample a second answer, or meet the same refusal.
    return web.json_response(body, status=status, headers={"x-should-retry": "false"})
