"""The real client against a local server with faults: what is tried again, and what is said."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rollouts.endpoint import EndpointConfig, EndpointError, EndpointPolicy

KEY = "sk-canary-4711"


def completion(text: Any, finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }


class Server(ThreadingHTTPServer):
    """Answers with what `plan` lists, then with a good answer; records what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[tuple[int, Any, float]] = []
        self.requests: list[tuple[dict[str, Any], str]] = []
        self.models = ["m"]
        self.running = self.peak = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.plan:
            status, body, _ = self.server.plan.pop(0)
            return self.send(status, body)
        self.send(200, {"object": "list", "data": [{"id": m} for m in self.server.models]})

    def do_POST(self) -> None:
        server = self.server
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.running += 1
            server.peak = max(server.peak, server.running)
            server.requests.append((sent, self.headers.get("Authorization", "")))
            planned = server.plan.pop(0) if server.plan else (200, completion("good"), 0.02)
        status, body, wait = planned
        time.sleep(wait)
        with server.lock:
            server.running -= 1
        if status:
            self.send(status, body)
        else:
            self.connection.close()

    def send(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status == 429:
            self.send_header("retry-after-ms", "20")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def ask(server: Server, count: int = 1, **settings: Any) -> list[Any]:
    """`count` answers asked for at once; an EndpointError stands for an answer that failed."""
    policy = EndpointPolicy(EndpointConfig(server.url, "m", **settings))
    try:
        return await asyncio.gather(
            *(
                policy.chat(
                    [{"role": "user", "content": "hi"}], max_tokens=9, temperature=0.5, seed=i
                )
                for i in range(count)
            ),
            return_exceptions=True,
        )
    finally:
        await policy.close()


async def test_an_answer_comes_with_its_end_and_its_tokens(server: Server):
    server.plan = [(200, completion("cut", "length"), 0.0)]
    [answer] = await ask(server)
    assert (answer.text, answer.stop_reason) == ("cut", "length")
    assert (answer.tokens, answer.prompt_tokens) == (7, 5)
    sent, _ = server.requests[0]
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["seed"]) == (
        "m",
        9,
        0.5,
        0,
    )


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"error": {"message": "slow down"}}, 0.0),
        (500, b"oops", 0.0),
        (502, b"<html>bad gateway</html>", 0.0),
        (200, b"<html>not json", 0.0),
        (200, {"object": "chat.completion", "choices": []}, 0.0),
        (200, completion(["no", "text"]), 0.0),
        (200, b"[1, 2]", 0.0),
        (200, b"\xff\xfe", 0.0),
        (0, None, 0.0),
    ],
    ids=["429", "500", "502", "html", "no choices", "a list", "an array", "bytes", "dropped"],
)
async def test_one_fault_is_tried_again(server: Server, fault: tuple[int, Any, float]):
    server.plan = [fault]
    [answer] = await ask(server)
    assert answer.text == "good" and len(server.requests) == 2


async def test_a_slow_attempt_is_given_up_and_tried_again(server: Server):
    server.plan = [(200, completion("late"), 1.5)]
    [answer] = await ask(server, timeout_s=0.5)
    assert answer.text == "good"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(500, b"oops", "failed"), (200, b"garbage", "cannot be read"), (200, b"{}", "cannot be read")],
)
async def test_what_stays_broken_is_an_error_of_ours(
    server: Server, status: int, body: bytes, words: str
):
    server.plan = [(status, body, 0.0)] * 9
    [error] = await ask(server, retries=1)
    assert isinstance(error, EndpointError) and words in str(error)
    assert len(server.requests) == 2


async def test_the_deadline_counts_all_attempts(server: Server):
    server.plan = [(200, completion("late"), 0.6)] * 9
    [error] = await ask(server, timeout_s=0.4, deadline_s=0.5, retries=8)
    assert isinstance(error, EndpointError) and "within 0.5 s" in str(error)


async def test_what_trying_again_cannot_mend_is_not_tried_again(server: Server):
    server.plan = [(400, {"error": {"message": "the prompt is too long"}}, 0.0)]
    [error] = await ask(server)
    assert isinstance(error, EndpointError) and "too long" in str(error)
    assert len(server.requests) == 1


async def test_no_more_than_the_limit_are_in_flight(server: Server):
    answers = await ask(server, count=12, concurrency=3)
    assert [a.text for a in answers] == ["good"] * 12
    assert server.peak <= 3


async def test_the_key_is_sent_and_never_said(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    server.plan = [(401, {"error": {"message": f"wrong key: Bearer {KEY}"}}, 0.0)]
    [error] = await ask(server, api_key_env="ENDPOINT_KEY")
    assert server.requests[0][1] == f"Bearer {KEY}"
    assert "wrong key" in str(error) and KEY not in str(error)
    assert error.__cause__ is None
    assert KEY not in repr(EndpointConfig(server.url, "m", api_key_env="ENDPOINT_KEY"))


async def test_a_key_of_another_service_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    await ask(server)
    assert KEY not in server.requests[0][1]


async def checked(server: Server, **settings: Any) -> None:
    policy = EndpointPolicy(EndpointConfig(server.url, "m", timeout_s=3, **settings))
    try:
        await policy.check()
    finally:
        await policy.close()


async def test_check_names_what_the_server_has_instead(server: Server):
    await checked(server)
    server.models = ["other", "third"]
    with pytest.raises(ConjointError, match=r"no model 'm'; it lists other, third"):
        await checked(server)


async def test_check_refuses_a_key_or_a_server_that_is_not_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    server.plan = [(401, {"error": {"message": KEY}}, 0.0)]
    with pytest.raises(ConjointError, match="refuses the key") as caught:
        await checked(server, api_key_env="ENDPOINT_KEY")
    assert KEY not in str(caught.value)
    nowhere = EndpointPolicy(EndpointConfig("http://127.0.0.1:9/v1", "m", timeout_s=3))
    with pytest.raises(ConjointError, match="cannot be used"):
        await nowhere.check()
    await nowhere.close()


async def test_a_server_without_a_list_of_models_is_accepted(server: Server):
    server.plan = [(404, b"{}", 0.0)]
    await checked(server)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"url": "localhost:8000"}, "not an address"),
        ({"model": ""}, "model=NAME"),
        ({"api_key_env": "ENDPOINT_NO_SUCH"}, "ENDPOINT_NO_SUCH"),
        ({"concurrency": 0}, "concurrency"),
        ({"deadline_s": 0.0}, "deadline_s"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changed: dict[str, Any], words: str):
    settings = {"url": "http://127.0.0.1:1/v1", "model": "m", **changed}
    with pytest.raises(ConjointError, match=words):
        EndpointConfig(**settings).validate()
