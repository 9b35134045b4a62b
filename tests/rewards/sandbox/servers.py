"""Servers for the tests of the other backends: their protocols are real, what they run is jailed.

Each lives in a thread with a loop and a jail of its own. `faults` holds what goes wrong next, by
request: a status, or a name that the server below knows; each is used once.
"""

import asyncio
import base64
import itertools
import json
import re
import threading
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from e2b.envd.process import process_pb as pb
from e2b.envd.process.process_connect import Process, ProcessASGIApplication
from protobuf import Oneof
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from conjoint.rewards.sandbox.base import Ended, Program, Result, SandboxConfig
from conjoint.rewards.sandbox.local.jail import LocalJail

GONE = "The sandbox was not found"
"""How the proxy in front of the sandboxes says so; the SDK looks for these words."""
KEY = "e2b_0123456789abcdef"


class Server(ABC):
    """What both have in common: a jail, counts of requests, and faults to come."""

    def __init__(self) -> None:
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.seen: Counter[str] = Counter()
        self.bodies: list[Any] = []
        self._jails: dict[float, LocalJail] = {}

    @abstractmethod
    def routes(self) -> list[Any]: ...

    def fault(self, request: str) -> Any:
        self.seen[request] += 1
        waiting = self.faults[request]
        return waiting.pop(0) if waiting else None

    async def run(self, source: str, stdin: bytes, wall_s: float) -> Result:
        if wall_s not in self._jails:
            self._jails[wall_s] = LocalJail(SandboxConfig(wall_s=wall_s, cpu_s=5, workers=2))
        return await self._jails[wall_s].run(Program(source, stdin=stdin))

    async def close(self) -> None:
        for jail in self._jails.values():
            await jail.close()


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """The address of the started server."""
    app = Starlette(routes=server.routes())
    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))

    async def main() -> None:
        try:
            await web.serve()
        finally:
            await server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    while not web.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    finally:
        web.should_exit = True
        thread.join(20)


class Fusion(Server):
    """SandboxFusion's /run_code."""

    def routes(self) -> list[Any]:
        return [Route("/run_code", self.run_code, methods=["POST"])]

    async def run_code(self, request: Request) -> Response:
        fault = self.fault("run_code")
        body = await request.json()
        self.bodies.append(body)
        if isinstance(fault, int):
            return Response("out of order", fault)
        if isinstance(fault, str | bytes | dict):
            return Response(fault if not isinstance(fault, dict) else json.dumps(fault))
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        assert body["language"] == "python"
        result = await self.run(body["code"], body["stdin"].encode(), body["run_timeout"])
        finished = result.ended is not Ended.TIMEOUT
        code = {Ended.FINISHED: 0, Ended.ERROR: 1}.get(result.ended)
        run = {
            "status": "Finished" if finished else "TimeLimitExceeded",
            "execution_time": result.wall_s,
            "return_code": code,
            "stdout": result.stdout.decode(errors="replace"),
            "stderr": result.stderr.decode(errors="replace"),
        }
        status = "Success" if code == 0 else "Failed"
        return JSONResponse({"status": status, "message": "", "run_result": run})


class E2B(Server):
    """E2B's control plane and the daemon of its sandboxes, which share one address here."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[str] = set()
        self.killed: set[str] = set()
        self.files: dict[str, bytes] = {}
        self._numbers = itertools.count()
        self.commands: list[str] = []

    def routes(self) -> list[Any]:
        return [
            Route("/v2/sandboxes", self.create, methods=["POST"]),
            Route("/sandboxes/{id}", self.kill, methods=["DELETE"]),
            Route("/files", self.write, methods=["POST"]),
            Route("/health", self.health),
            Mount("/process.Process", self.process),
        ]

    async def create(self, request: Request) -> Response:
        fault = self.fault("create")
        self.bodies.append(await request.json())
        if request.headers.get("x-api-key") != KEY:
            fault = 401
        if isinstance(fault, int):
            return JSONResponse({"code": fault, "message": f"no, {KEY}"}, fault)
        if fault == "never":
            await asyncio.sleep(3.0)
            return JSONResponse({"code": 500, "message": "no"}, 500)
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        name = f"sandbox{next(self._numbers)}"
        self.alive.add(name)
        return JSONResponse(
            {"templateID": "base", "sandboxID": name, "clientID": "x", "envdVersion": "0.5.7",
             "envdAccessToken": "token"}, 201)  # fmt: skip

    async def kill(self, request: Request) -> Response:
        self.seen["kill"] += 1
        name = request.path_params["id"]
        known = name in self.alive
        self.alive.discard(name)
        self.killed.add(name)
        return Response(status_code=204) if known else JSONResponse({"code": 404}, 404)

    async def health(self, request: Request) -> Response:
        return Response(status_code=204 if self._is_alive(request.headers) else 502)

    def _is_alive(self, headers: Any) -> bool:
        return headers.get("e2b-sandbox-id") in self.alive

    async def write(self, request: Request) -> Response:
        fault = self.fault("write")
        if isinstance(fault, int) or not self._is_alive(request.headers):
            return JSONResponse({"message": "no" if fault else GONE}, fault or 502)
        written = []
        async with request.form() as form:
            for file in form.getlist("file"):
                name = getattr(file, "filename", "")
                self.files[name] = await file.read()  # type: ignore[union-attr]
                written.append({"name": name, "path": name, "type": "file"})
        return JSONResponse(written)

    async def process(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        fault = self.fault("run")
        if isinstance(fault, int) or not self._is_alive(headers):
            body = {"code": "unavailable", "message": "no" if fault else GONE}
            await JSONResponse(body, fault or 502)(scope, receive, send)
            return
        application = ProcessASGIApplication(_Service(self, fault))
        await application({**scope, "root_path": ""}, receive, send)


class _Service(Process):
    """`Start`: the command that this project sends, and nothing else; no shell of the host runs."""

    def __init__(self, server: E2B, fault: Any) -> None:
        self._server = server
        self._fault = fault

    async def start(self, request: Any, _: Any) -> AsyncIterator[Any]:
        command = request.process.args[-1]
        self._server.commands.append(command)
        yield _event("start", pb.ProcessEvent.StartEvent(pid=7))
        if self._fault == "dropped":
            return
        if self._fault == "empty":
            yield _event("end", pb.ProcessEvent.EndEvent(exit_code=0, exited=True))
            return
        report = await self._report(command)
        for at in range(0, len(report), 1000):
            piece = Oneof("stdout", report[at : at + 1000])
            yield _event("data", pb.ProcessEvent.DataEvent(output=piece))
        yield _event("end", pb.ProcessEvent.EndEvent(exit_code=0, exited=True))

    async def _report(self, command: str) -> bytes:
        found = re.search(r"^cd (\S+) .*timeout -s KILL (\S+) ", command, re.DOTALL)
        assert found, command
        directory, wall_s = found[1], float(found[2])
        program = self._server.files.pop(f"{directory}/program.py").decode()
        stdin = self._server.files.pop(f"{directory}/stdin")
        # Our jail has no file for the answers on descriptor 3, so they leave by stderr here.
        source = f"import os\nos.dup2(2, 3)\nexec(compile({program!r}, 'p', 'exec'))"
        result = await self._server.run(source, stdin, wall_s)
        code = {Ended.FINISHED: 0, Ended.TIMEOUT: 137}.get(result.ended, 1)
        lines = result.stderr.splitlines(keepends=True)
        answers = b"".join(line for line in lines if line.startswith(b'["'))
        words = b"".join(line for line in lines if not line.startswith(b'["'))
        parts = (base64.b64encode(part) for part in (result.stdout, answers, words))
        took = int(max(result.wall_s, wall_s if code == 137 else 0) * 1e6)
        return b"\n".join([f"{code} {took} 0".encode(), *parts]) + b"\n"


def _event(kind: str, value: Any) -> Any:
    return pb.StartResponse(event=pb.ProcessEvent(event=Oneof(kind, value)))
