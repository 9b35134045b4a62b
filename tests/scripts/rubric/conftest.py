"""A scripted judge behind an OpenAI-compatible endpoint, so that the commands run as users run
them."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from conjoint.rewards.judge.prompt import verdict_text
from conjoint.rl.run.folder import read_jsonl
from conjoint.scripts.main import app
from tests.fakes import quoted

Reply = Callable[[str], str]
"""(prompt) -> the model's reply."""


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "m"}, {"id": "other"}]})

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sent.append(sent)
        try:
            reply = self.server.reply(sent["messages"][-1]["content"])
        except ConnectionError as error:
            return self._send(400, {"error": {"message": str(error)}})
        message = {"role": "assistant", "content": reply}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        body = {"id": "1", "object": "chat.completion", "choices": choices, "usage": usage}
        self._send(200, body)

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class Bench:
    """`conjoint rubric` in a folder, with the scripted model at `url`."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server, self.folder = server, folder
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"

    @property
    def sent(self) -> list[dict[str, Any]]:
        return self._server.sent

    def model(self, reply: Reply) -> None:
        self._server.reply = reply
        self._server.sent.clear()

    def run(self, *words: str, judge: bool = True) -> Any:
        keys = [f"judge.endpoint={self.url}", "judge.endpoint_model=m"] if judge else []
        return CliRunner().invoke(app, ["rubric", *words, *keys])

    def write(self, rows: list[Any], name: str = "rows.jsonl") -> str:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    def verdicts(self, folder: str) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / folder / "verdicts.jsonl")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.sent, server.reply, server.daemon_threads = [], lambda prompt: "", True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield Bench(server, tmp_path)
    server.shutdown()
    server.server_close()


def prefers(key: Callable[[str], float], template: str = "full", why: str = "") -> Reply:
    """A judge that prefers the answer with the higher key and says why; on a question about one
    criterion it says yes where the key is above 0."""

    def reply(prompt: str) -> str:
        if "[ANSWER" in prompt:
            yes = "yes" if key(quoted(prompt, "ANSWER")) > 0 else "no"
            said = json.dumps({"reason": why or "so", "verdict": yes})
            return said if template == "full" else yes
        a, b = key(quoted(prompt, "A")), key(quoted(prompt, "B"))
        winner = "tie" if a == b else "A" if a > b else "B"
        return verdict_text(winner, template, {"spanish": why or "because"})

    return reply


def answers_in_turn(*texts: str, judge: Reply) -> Reply:
    """A policy that gives the texts in turn to each prompt, and judges where it is asked to; which
    of some calls at once is first is left to chance."""
    given: Counter[str] = Counter()
    lock = threading.Lock()

    def reply(prompt: str) -> str:
        if "between marker" in prompt:
            return judge(prompt)
        with lock:
            given[prompt] += 1
            return texts[(given[prompt] - 1) % len(texts)]

    return reply
