"""A rollout worker's three processes without Ray and vLLM, to kill and stop for real.

`python stand_in.py actor` starts a core, which starts a worker and a segment of shared memory that
both map. Lines of JSON go in and out. As in vLLM, the core waits for the worker in every step of
what it runs, and answers a ping between two steps. `StandIn` is the driver's side: a Ray handle.
"""

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

STEPS, STEP_S = 40, 0.01


def below(role: str, *args: str, **how: Any) -> "subprocess.Popen[Any]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-u", __file__, role, *args], stdin=pipe, stdout=pipe, **how
    )


def actor() -> None:
    """Passes lines on, and says when the core is gone."""
    core = below("core")
    assert core.stdin and core.stdout
    targets = {0: core.stdin.fileno(), core.stdout.fileno(): 1}
    while True:
        for source in select.select(list(targets), [], [])[0]:
            data = os.read(source, 65536)
            if not data and source == 0:
                return
            if not data:
                os.write(1, b'{"gone": true}\n')
                time.sleep(1000)
            try:
                os.write(targets[source], data)
            except BrokenPipeError:
                continue  # the next read says so


def core() -> None:
    memory = SharedMemory(create=True, size=4096)
    resource_tracker.unregister(memory._name, "shared_memory")  # type: ignore[attr-defined]
    worker = below("worker", memory.name)
    assert worker.stdin and worker.stdout
    running: list[dict[str, Any]] = []

    def ask_worker() -> None:
        assert worker.stdin and worker.stdout
        worker.stdin.write(b"step\n")
        worker.stdin.flush()
        if not worker.stdout.readline():
            sys.exit(1)

    ask_worker()
    while True:
        while select.select([0], [], [], 0 if running else None)[0]:
            call = json.loads(read_line(0))
            if call["method"] == "sample":
                running.append({"id": call["id"], "seeds": call["args"], "left": STEPS})
                continue
            if call["method"] == "ping" and call["args"]:
                ask_worker()
            print(json.dumps({"id": call["id"], "answer": None}), flush=True)
        if running:
            ask_worker()
        for one in running:
            one["left"] -= 1
            if not one["left"]:
                print(json.dumps({"id": one["id"], "answer": one["seeds"]}), flush=True)
        running = [one for one in running if one["left"]]


def worker(name: str) -> None:
    memory = SharedMemory(name)
    resource_tracker.unregister(memory._name, "shared_memory")  # type: ignore[attr-defined]
    for _ in sys.stdin:
        time.sleep(STEP_S)
        print("done", flush=True)


def read_line(descriptor: int) -> bytes:
    """Unbuffered, so that select sees what is left."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return line


class StandIn:
    """`handle.call.remote(method, ...)` to a process; what it raises is what Ray's would."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._waits: dict[int, asyncio.Future[Any]] = {}
        self._dead = False
        self.process = below("actor", env=os.environ | environment)
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def call(self) -> "StandIn":
        return self

    def remote(self, method: str, *args: Any) -> "asyncio.Future[Any]":
        wait = self._loop.create_future()
        number = len(self._waits)
        self._waits[number] = wait
        plain = [request.seed for request in args[0]] if method == "sample" else args[0]
        line = json.dumps({"id": number, "method": method, "args": plain})
        assert self.process.stdin
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._dead = True
        if self._dead:
            self._lose({})
        return wait

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            answer = json.loads(line)
            then = self._lose if "gone" in answer else self._answered
            self._loop.call_soon_threadsafe(then, answer)
        self.process.wait()
        self._loop.call_soon_threadsafe(self._lose, {})

    def _answered(self, answer: dict[str, Any]) -> None:
        wait = self._waits[answer["id"]]
        if not wait.done():
            wait.set_result(answer["answer"])

    def _lose(self, answer: dict[str, Any]) -> None:
        from ray.exceptions import RayActorError

        from conjoint.rollouts.engine.actor import EngineGone

        self._dead = True
        error = EngineGone("the core is gone") if answer else RayActorError(error_msg="killed")
        for wait in self._waits.values():
            if not wait.done():
                wait.set_exception(error)


if __name__ == "__main__":
    {"actor": actor, "core": core, "worker": worker}[sys.argv[1]](*sys.argv[2:])
