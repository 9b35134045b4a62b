"""The other backends: what a program did is told from what the service did, and nothing leaks.

E2B is the real SDK against a server of its protocol, HTTP a server of SandboxFusion's; both run
programs in our jail.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.sandbox.backend import make_sandbox, unfit
from conjoint.rewards.sandbox.base import (
    Answer,
    E2BConfig,
    Ended,
    HttpConfig,
    Program,
    RemoteConfig,
    Result,
    Sandbox,
    SandboxConfig,
    SandboxError,
    SandboxUnavailable,
)
from conjoint.rewards.sandbox.local.jail import LocalJail
from conjoint.rewards.sandbox.remote import remote
from conjoint.rewards.sandbox.remote.breaker import Breaker
from conjoint.rewards.sandbox.remote.carrier import script
from conjoint.rewards.sandbox.remote.e2b import COMMAND, E2BPlace

from . import servers

BACKENDS = ("e2b", "http")
QUICK = RemoteConfig(request_s=10.0, retries=2, open_after=50)
_UID = 3_900_000_000
"""No other program of this machine has it; a test kills all that do."""


class Client:
    """A backend, the server it talks to, and a loop to run it in."""

    def __init__(self, backend: str, server: servers.Server, url: str) -> None:
        self.backend = backend
        self.server: Any = server
        self.url = url
        self.loop = asyncio.Runner()
        self.sandbox: Any = None

    def open(self, **settings: Any) -> Sandbox:
        self.close()
        settings = {"remote": QUICK, "wall_s": 10.0, "http": HttpConfig([self.url]), **settings}
        self.sandbox = make_sandbox(SandboxConfig(backend=self.backend, **settings))
        self.loop.run(self.sandbox.start())
        self.server.seen.clear()
        return self.sandbox

    def run(self, *programs: Program) -> list[Result]:
        async def all_of_them() -> list[Result]:
            return await asyncio.gather(*map(self.sandbox.run, programs))

        return self.loop.run(all_of_them())

    def script(self, source: str, stdin: bytes = b"") -> Result:
        return self.run(Program(source, stdin))[0]

    def grade(self, response: str, tests: dict[str, Any] | None = None) -> Score:
        task = Task.make("code", "?", {"language": "python", "tests": tests or DOUBLE})
        return self.loop.run(CodeReward(self.sandbox).check(task, response))

    def close(self) -> None:
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            self.loop.run(sandbox.close())


DOUBLE = {
    "type": "function",
    "entry": "f",
    "cases": [{"args": [2], "expected": 4}, {"args": [[1]], "expected": [1, 1]}],
}
STDIO = {"type": "stdio", "cases": [{"input": "21\n", "output": "42\n"}]}
RIGHT = "def f(x):\n    print('thinking', flush=True)\n    return x + x"


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Client]]:
    """Both servers, for the whole file."""
    try:
        asyncio.run(_prove_jail())
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    e2b, fusion = servers.E2B(), servers.Fusion()
    with servers.serving(e2b) as first, servers.serving(fusion) as second:
        yield {"e2b": Client("e2b", e2b, first), "http": Client("http", fusion, second)}


async def _prove_jail() -> None:
    jail = LocalJail(SandboxConfig(workers=1))
    try:
        await jail.start()
    finally:
        await jail.close()


@pytest.fixture
def client(clients: Any, request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    name = getattr(request, "param", "e2b")
    found = clients[name]
    monkeypatch.setenv("E2B_API_KEY", servers.KEY)
    for variable in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        monkeypatch.setenv(variable, clients["e2b"].url)
    yield found
    found.close()
    found.server.faults.clear()


@pytest.fixture
def http(clients: Any) -> Iterator[Client]:
    yield clients["http"]
    clients["http"].close()
    clients["http"].server.faults.clear()


both = pytest.mark.parametrize("client", BACKENDS, indirect=True)


@both
def test_honest_programs_are_paid_and_wrong_ones_are_not(client: Client) -> None:
    assert client.open().tier == client.backend
    assert client.grade(RIGHT).value == 1.0
    assert client.grade("def f(x):\n    return 3 * x").outcome is Outcome.FAIL
    assert client.grade("def g(x):\n    return x + x").value == 0.0
    assert client.grade("def f(x):\n    raise KeyError(x)").outcome is Outcome.ERROR
    assert client.grade("def f(x) return x").outcome is Outcome.ERROR
    assert client.grade("print(2 * int(input()))", STDIO).value == 1.0
    assert client.grade("print(2 + int(input()))", STDIO).outcome is Outcome.FAIL
    # Its status is no evidence, and a wrong one is an error although the output is right.
    assert client.grade("print(2 * int(input()))\nraise SystemExit(3)", STDIO).value == 0.0


@both
@pytest.mark.parametrize(
    "cheat",
    [
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        'print(\'["value", 4]\')\nprint(\'["value", ["list", [1, 1]]]\')',
        "class Any:\n    __eq__ = lambda s, o: True\ndef f(x):\n    return Any()",
        "class Any(int):\n    __eq__ = lambda s, o: True\ndef f(x):\n    return Any()",
        "import sys\nsys.modules['conjoint.rewards.sandbox.codec'].matches = lambda a, b: True\n"
        "def f(x):\n    return 0",
        "def f(x):\n    raise SystemExit(0)",
    ],
)
def test_a_pass_cannot_be_forged(client: Client, cheat: str) -> None:
    client.open()
    assert client.grade(cheat).value == 0.0


@both
def test_a_program_that_runs_too_long_is_a_timeout_and_its_place_still_serves(
    client: Client,
) -> None:
    client.open(wall_s=1.0)
    score = client.grade("def f(x):\n    import time\n    time.sleep(60)")
    assert (score.value, score.outcome) == (0.0, Outcome.TIMEOUT)
    client.open(wall_s=10.0)
    assert client.grade(RIGHT).value == 1.0


@both
def test_a_source_that_no_wire_can_hold_is_the_programs_error(client: Client) -> None:
    client.open()
    for source in ("x = '\ud800'\nprint(ascii(x))", "x = 1\0", "\ufeffprint(1)", ""):
        assert client.script(source).ended in (Ended.FINISHED, Ended.ERROR)
    assert client.script("print(ascii('\\ud800'))").stdout == b"'\\ud800'\n"
    assert "programs" in " ".join(client.sandbox.drain_metrics())


@both
def test_limits_hold_where_the_program_runs(client: Client) -> None:
    client.open(output_kb=4, memory_mb=200, cpu_s=3, scratch_mb=2)
    assert "more than 4 KiB" in client.script("print('x' * 9000)").reason
    assert "MemoryError" in client.script("bytearray(400 << 20)").reason
    assert client.script("open('x', 'wb').write(bytes(5 << 20))").ended is Ended.ERROR
    shown = client.script("import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])")
    assert shown.stdout == b"3\n"


@both
def test_what_the_sent_script_holds_shows_no_expected_value(client: Client) -> None:
    client.open()
    tests = {"type": "function", "entry": "f", "cases": [{"args": [5], "expected": 98765431}]}
    sent: list[str] = []
    keep, self = client.sandbox._place.run, client.sandbox._place
    self.run = lambda program, attempt: (
        sent.append(script(program, client.sandbox.config, replies_on_stdout=True, uid=0))
        or keep(program, attempt)
    )
    assert client.grade("def f(x):\n    return 0", tests).outcome is Outcome.FAIL
    import base64
    import re

    carried = base64.b64decode(re.findall(r"b64decode\('([^']+)'\)", sent[0])[-1])
    assert b"98765431" not in carried and sent[0].isascii()


# Faults of the service.


@both
@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_refusal_that_passes_is_sent_again(client: Client, status: int) -> None:
    client.open()
    where = "write" if client.backend == "e2b" else "run_code"
    client.server.faults[where] = [status, status]
    assert client.grade(RIGHT).value == 1.0
    assert client.server.seen[where] == 3
    assert client.sandbox.drain_metrics()["sandbox/retried"] == 0.0


HTTP_FAULTS: dict[str, Any] = {
    "401": 401,
    "404": 404,
    "429 for good": 429,
    "502 for good": 502,
    "no JSON": "<html>busy</html>",
    "half an answer": '{"status": "Success", "run_result": {"status": "Fini',
    "not an object": "[1]",
    "null": "null",
    "deep": "[" * 100_000,
    "no result": {"status": "Success", "message": ""},
    "its own error": {"status": "SandboxError", "message": "no disk", "run_result": None},
    "error of the run": {
        "status": "Failed",
        "message": "",
        "run_result": {"status": "Error", "stdout": "42", "stderr": "fork failed"},
    },
    "no status": {
        "status": "Success",
        "run_result": {"status": "Finished", "return_code": None, "stdout": "42"},
    },
    "wrong types": {
        "status": "Success",
        "run_result": {"status": "Finished", "return_code": 0, "stdout": 42},
    },
}


@pytest.mark.parametrize("fault", HTTP_FAULTS)
def test_a_fault_of_the_server_is_infra_error_and_never_zero(http: Client, fault: str) -> None:
    http.open(remote=dataclasses.replace(QUICK, retries=0))
    http.server.faults["run_code"] = [HTTP_FAULTS[fault]] * 2
    score = http.grade("print(42)", STDIO)
    assert (score.value, score.outcome) == (None, Outcome.INFRA_ERROR)
    assert http.server.seen["run_code"] == 2
    # The next program finds a sound server.
    assert http.grade("print(2 * int(input()))", STDIO).value == 1.0


def test_one_fault_is_mended_by_the_second_try(http: Client) -> None:
    http.open()
    http.server.faults["run_code"] = ["<html>"]
    assert http.grade(RIGHT).value == 1.0
    assert http.sandbox.drain_metrics()["sandbox/retried"] == 1.0


def test_a_slow_server_is_given_up(http: Client) -> None:
    # wall_s + 10 s for compiling, which the wire format has, would be a long test
    http.open(wall_s=1.0, remote=RemoteConfig(request_s=0.1, retries=0))
    http.sandbox._place._config = dataclasses.replace(
        http.sandbox.config, wall_s=0.2, remote=RemoteConfig(request_s=0.001, retries=0)
    )
    import conjoint.rewards.sandbox.remote.http as module

    compile_s, module._COMPILE_S = module._COMPILE_S, 0
    try:
        http.server.faults["run_code"] = [1.5, 1.5]
        result = http.script("print(1)")
    finally:
        module._COMPILE_S = compile_s
    assert result.ended is Ended.INFRA_ERROR and "no answer within" in result.reason


def test_a_flood_in_the_servers_answer_is_the_programs_doing(http: Client) -> None:
    http.open(output_kb=1)
    huge = {
        "status": "Success",
        "run_result": {"status": "Finished", "return_code": 0, "stdout": "x" * (2 << 20)},
    }
    http.server.faults["run_code"] = [huge]
    assert http.script("print(1)").ended is Ended.ERROR
    assert http.server.seen["run_code"] == 1


def test_the_second_try_goes_to_another_server(http: Client) -> None:
    http.open(http=HttpConfig(["http://127.0.0.1:9", http.url + "/"]), remote=QUICK)
    http.sandbox.drain_metrics()
    for _ in range(2):
        assert http.grade(RIGHT).value == 1.0
    assert http.sandbox.drain_metrics()["sandbox/retried"] == 1.0


@pytest.mark.parametrize(
    ("request_", "faults", "creates"),
    [
        ("write", [401], 1),
        ("write", [404], 1),
        ("run", [404], 1),
        ("run", [429], 1),
        ("run", [502], 1),
        ("run", ["dropped"], 1),
        ("run", ["empty"], 1),
    ],
)
def test_e2b_a_fault_is_mended_in_a_new_sandbox(
    client: Client, request_: str, faults: list[Any], creates: int
) -> None:
    client.open()
    client.server.faults[request_] = faults
    assert client.grade(RIGHT).value == 1.0
    assert client.server.seen["create"] == creates


def test_e2b_a_sandbox_that_is_gone_is_replaced(client: Client) -> None:
    client.open()
    client.server.alive.clear()
    assert client.grade(RIGHT).value == 1.0
    assert client.server.seen["create"] == 1


@pytest.mark.parametrize("fault", [401, 404, 429, 502, "dropped", "empty"])
def test_e2b_a_fault_that_stays_is_infra_error_and_never_zero(client: Client, fault: Any) -> None:
    client.open()
    client.server.faults["run"] = [fault] * 2
    score = client.grade("def f(x):\n    return 0")
    assert (score.value, score.outcome) == (None, Outcome.INFRA_ERROR)
    assert client.grade(RIGHT).value == 1.0
    alive = set(client.server.alive)
    client.close()
    assert alive and not client.server.alive


@pytest.mark.parametrize("status", [429, 500, 503])
def test_e2b_creating_is_tried_again(client: Client, status: int) -> None:
    client.server.faults["create"] = [status, status]
    client.open()
    assert client.grade(RIGHT).value == 1.0


def test_e2b_a_slow_create_holds_up_nobody_else(client: Client) -> None:
    client.open(workers=2)
    client.server.faults["create"] = [2.0]

    async def both_of_them() -> list[str]:
        ended: list[str] = []

        async def one(name: str, seconds: float) -> None:
            await client.sandbox.run(Program(f"import time\ntime.sleep({seconds})"))
            ended.append(name)

        held = asyncio.create_task(one("first", 0.3))
        await asyncio.sleep(0.05)
        await asyncio.gather(held, one("in the slow one", 0.0))
        return ended

    assert client.loop.run(both_of_them()) == ["first", "in the slow one"]
    assert client.server.seen["create"] == 1


def test_e2b_a_create_slower_than_patience_is_refused_at_the_start(client: Client) -> None:
    client.server.faults["create"] = ["never"]
    with pytest.raises(SandboxError, match=r"sandbox.backend=e2b cannot be used: .*time"):
        client.open(remote=RemoteConfig(request_s=0.5, retries=0))


def test_e2b_sandboxes_are_reused_and_all_are_ended(client: Client) -> None:
    client.open(workers=3, e2b=E2BConfig(template="mine", lifetime_s=60))
    assert client.server.bodies[-1]["templateID"] == "mine"
    assert client.server.bodies[-1]["timeout"] == 60
    assert client.server.bodies[-1]["allow_internet_access"] is False
    results = client.run(*(Program(f"print({i})") for i in range(9)))
    assert [r.stdout for r in results] == [f"{i}\n".encode() for i in range(9)]
    assert client.server.seen["create"] <= 2  # and one at the start
    client.close()
    assert not client.server.alive


def test_e2b_a_sandbox_near_its_end_is_replaced(client: Client) -> None:
    client.open(e2b=E2BConfig(lifetime_s=60))
    client.sandbox._place._idle[0].until = 0.0
    assert client.grade(RIGHT).value == 1.0
    assert client.server.seen["create"] == 1


def test_e2b_closing_ends_a_sandbox_under_a_program(client: Client) -> None:
    sandbox = client.open(remote=dataclasses.replace(QUICK, request_s=30.0))

    async def close_meanwhile() -> Result:
        running = asyncio.create_task(sandbox.run(Program("import time\ntime.sleep(1)")))
        await asyncio.sleep(0.3)
        await sandbox.close()
        return await running

    client.loop.run(close_meanwhile())
    assert not client.server.alive


def test_e2b_the_key_is_never_shown(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.server.faults["create"] = [404]
    with pytest.raises(SandboxError) as refused:
        client.open()
    assert "***" in str(refused.value) and servers.KEY not in str(refused.value)
    client.open()
    client.server.faults.update(run=["dropped"], create=[404])
    assert "***" in client.script("print(1)").reason
    assert servers.KEY not in caplog.text


def test_e2b_a_wrong_key_is_refused_at_the_start(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_API_KEY", "e2b_wrong")
    with pytest.raises(SandboxError, match="401") as refused:
        client.open()
    assert "\n" not in str(refused.value) and "e2b_wrong" not in str(refused.value)


def test_a_missing_key_is_refused_when_the_sandbox_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("E2B_API_KEY", "E2B_API_URL", "E2B_DOMAIN", "E2B_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConjointError, match="no E2B_API_KEY in the environment; set it"):
        make_sandbox(SandboxConfig(backend="e2b"))
    # A cluster of one's own may ask for none.
    make_sandbox(SandboxConfig(backend="e2b", e2b=E2BConfig(domain="cluster.example")))
    monkeypatch.setenv("E2B_DOMAIN", "cluster.example")
    make_sandbox(SandboxConfig(backend="e2b"))


def test_e2b_a_domain_reaches_the_sdk() -> None:
    place = E2BPlace(SandboxConfig(backend="e2b", e2b=E2BConfig(domain="cluster.example")))
    from e2b.connection_config import ConnectionConfig

    config = ConnectionConfig(**place._connection())
    assert config.domain == "cluster.example" and config.retries == 0


def test_a_server_that_cannot_be_reached_is_refused_at_the_start(http: Client) -> None:
    with pytest.raises(ConjointError, match="no server is named; set"):
        http.open(http=HttpConfig())
    with pytest.raises(SandboxError, match=r"127.0.0.1:9 could not be reached") as refused:
        http.open(
            http=HttpConfig(["http://me:secret@127.0.0.1:9"]),
            remote=dataclasses.replace(QUICK, retries=0),
        )
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(SandboxError, match="could not be reached"):
        http.open(
            http=HttpConfig(["http://host:port"]), remote=dataclasses.replace(QUICK, retries=0)
        )


def test_e2b_a_cluster_that_cannot_be_reached_is_refused_at_the_start(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("E2B_CONNECTION_RETRIES", "0")
    with pytest.raises(SandboxError, match=r"backend=e2b cannot be used: ") as refused:
        client.open(remote=dataclasses.replace(QUICK, retries=1))
    assert "\n" not in str(refused.value)


def test_a_server_that_runs_programs_wrongly_is_refused_at_the_start(http: Client) -> None:
    run = {"status": "Finished", "return_code": 0, "stdout": "python: not found"}
    http.server.faults["run_code"] = [{"status": "Success", "run_result": run}]
    with pytest.raises(SandboxError, match="did not run a program of ours"):
        http.open()


# What the shell of a sandbox does, with a bash of this machine.


def _by_shell(program: Program, as_root: bool, **limits: Any) -> Result:
    python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")
    if python is None or shutil.which("base64") is None:
        pytest.skip("no python3 or base64 of the system")
    config = SandboxConfig(backend="e2b", **{"wall_s": 20.0, **limits})
    place = E2BPlace(config)
    directory = f"/tmp/conjoint-{uuid.uuid4().hex}"
    os.mkdir(directory, 0o755)
    if not as_root:
        os.chown(directory, 65534, 65534)
    try:
        with open(f"{directory}/program.py", "w") as file:
            file.write(script(program, config, replies_on_stdout=False, uid=_UID))
        with open(f"{directory}/stdin", "wb") as file:
            file.write(program.stdin)
        most = (config.output_kb << 10) + 1
        command = COMMAND.format(directory=directory, wall_s=config.wall_s, uid=_UID, most=most)
        ran = subprocess.run(
            ["/bin/bash", "-c", command],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONHASHSEED": "0"},
            user=None if as_root else 65534,
            timeout=300,
        )
        assert not os.path.exists(directory)
        return place._result(program, ran.stdout)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the shell of a sandbox is root's")


@needs_root
@pytest.mark.parametrize("as_root", [True, False])
def test_e2b_the_shell_reports_output_and_answers(as_root: bool) -> None:
    program = Program(RIGHT, entry="f", calls=[[2], [None]])
    try:
        answers = _by_shell(program, as_root).answers
    except remote.PlaceBroken as broken:  # a container that maps too few users
        pytest.skip(str(broken))
    assert answers[0].wire == 4 and answers[1].raised
    source = "import os, sys\nsys.stdout.buffer.write(b'\\xff\\0\\r\\n' + os.read(0, 9))\n"
    assert _by_shell(Program(source, stdin=b"\xfe\n"), as_root).stdout == b"\xff\0\r\n\xfe\n"
    result = _by_shell(Program("import time\ntime.sleep(60)"), as_root, wall_s=1.0)
    assert result.ended is Ended.TIMEOUT


@needs_root
def test_e2b_a_program_has_a_user_of_its_own_and_leaves_nothing_behind() -> None:
    mark = f"conjoint-left-{uuid.uuid4().hex}"
    source = f"""
import os, time
print(os.getuid(), os.getgroups(), open('own', 'w').write('x'))
for path in ('../stdin', '../stdout', '../new', '/root/x'):
    try:
        open(path, 'w')
        print('wrote', path)
    except PermissionError:
        pass
try:
    os.kill(os.getppid(), 9)
    print('killed the shell')
except PermissionError:
    pass
open('/tmp/{mark}', 'w').write('for the next program')
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
"""
    result = _by_shell(Program(source), as_root=True)
    assert (result.stdout, result.ended) == (f"{_UID} [] 1\n".encode(), Ended.FINISHED)
    assert not os.path.exists(f"/tmp/{mark}")
    deadline = time.monotonic() + 60
    while _alive(_UID):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.01)


def _alive(uid: int) -> bool:
    """Whether a process of this user lives that has not been killed."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as lines:
            status = dict(line.split(":", 1) for line in lines if ":" in line)
            if int(status["Uid"].split()[0]) == uid and "Z" not in status["State"]:
                return True
    return False


def test_e2b_no_report_is_infra_error_but_where_the_program_can_end_the_shell() -> None:
    place = E2BPlace(SandboxConfig(backend="e2b"))
    program = Program("print(1)")
    with pytest.raises(remote.PlaceBroken, match="no report"):
        place._result(program, "")
    assert place._result(program, "0 1000 1000\nMQo=\n\n\n").stdout == b"1\n"
    assert place._result(program, "0 1000 1000\n").ended is Ended.ERROR


@pytest.mark.parametrize(
    ("code", "overdue", "ending"),
    [
        (0, False, Ended.FINISHED),
        (1, False, Ended.ERROR),
        (137, False, Ended.ERROR),
        (-9, False, Ended.ERROR),
        (152, False, Ended.TIMEOUT),
        (-24, False, Ended.TIMEOUT),
        (0, True, Ended.TIMEOUT),
    ],
)
def test_how_a_status_is_read(code: int, overdue: bool, ending: Ended) -> None:
    result = remote.ended(
        Program(""),
        SandboxConfig(),
        "http",
        code=code,
        overdue=overdue,
        stdout=b"",
        stderr=b"",
        replies=b"",
        wall_s=0.0,
    )
    assert result.ended is ending


# The queue, the breaker, the choice.


class FakePlace:
    name = "fake"

    def __init__(self) -> None:
        self.broken = False
        self.attempts: list[int] = []
        self.running = self.most = 0

    def check(self) -> None:
        return

    async def run(self, program: Program, attempt: int) -> Result:
        self.attempts.append(attempt)
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(200):
            await asyncio.sleep(0)
        self.running -= 1
        if self.broken:
            raise remote.PlaceBroken("down")
        answers = (Answer(wire=["list", [12, 144]]),) if program.entry else ()
        return Result(Ended.FINISHED, answers=answers)

    async def close(self) -> None:
        return


def test_workers_bounds_what_runs_at_once_and_the_wait_is_measured() -> None:
    async def run(workers: int) -> tuple[int, dict[str, float]]:
        place = FakePlace()
        sandbox = remote.RemoteSandbox(SandboxConfig(backend="http", workers=workers), place)
        await asyncio.gather(*(sandbox.run(Program("")) for _ in range(40)))
        return place.most, sandbox.drain_metrics()

    most, metrics = asyncio.run(run(3))
    assert most == 3
    assert metrics["sandbox/programs"] == 40 and metrics["sandbox/queue_s_max"] > 0
    assert asyncio.run(run(0))[0] == 16


def test_a_service_that_fails_again_and_again_rests() -> None:
    async def run() -> None:
        place, now = FakePlace(), [0.0]
        config = SandboxConfig(backend="http", remote=RemoteConfig(open_after=4, open_s=30.0))
        sandbox = remote.RemoteSandbox(config, place)
        await sandbox.start()
        sandbox._breaker._clock = lambda: now[0]
        place.broken, place.attempts = True, []
        for _ in range(5):
            assert (await sandbox.run(Program(""))).ended is Ended.INFRA_ERROR
        assert place.attempts == [0, 1, 0, 1]  # then none was sent
        result = await sandbox.run(Program(""))
        assert "rests (4 failures in a row; tried again in 30 s)" in result.reason
        now[0] = 31.0
        await sandbox.run(Program(""))
        assert place.attempts[4:] == [0]  # one tries, fails, and opens it again
        now[0], place.broken = 62.0, False
        assert (await sandbox.run(Program(""))).ended is Ended.FINISHED
        assert sandbox.drain_metrics()["sandbox/infra_errors"] == 7.0

    asyncio.run(run())


def test_only_one_tries_while_the_breaker_is_half_open() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, clock=lambda: now[0])
    assert breaker.allows()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    now[0] = 10.0
    assert breaker.allows() and not breaker.allows()
    breaker.succeeded()
    assert breaker.allows()


def test_the_local_jail_is_the_default_also_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", servers.KEY)
    assert isinstance(make_sandbox(SandboxConfig()), LocalJail)


@pytest.mark.parametrize("backend", ["local", *BACKENDS])
def test_what_a_backend_cannot_do_is_named_at_load(backend: str) -> None:
    config = SandboxConfig(backend=backend)
    references = [
        ({"language": "python", "tests": {"type": "stdio"}}, ""),
        ({"language": "python", "tests": {"type": "function"}}, ""),
        ({"language": "cpp", "tests": {"type": "stdio"}}, "language 'cpp'"),
        ({"language": "python", "tests": {"type": "asserts"}}, "type 'asserts'"),
    ]
    for reference, refused in references:
        why = unfit(config, reference)
        assert (refused in why and bool(why) == bool(refused)) if backend != "local" else not why


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (SandboxConfig(backend="docker"), "sandbox.backend is 'docker'; expected one of"),
        (RemoteConfig(retries=-1), "sandbox.remote.retries is -1"),
        (RemoteConfig(open_after=0), "sandbox.remote.open_after is 0"),
        (RemoteConfig(request_s=0.0), "sandbox.remote.request_s is 0"),
        (RemoteConfig(open_s=float("inf")), "sandbox.remote.open_s is inf"),
        (E2BConfig(lifetime_s=5), "sandbox.e2b.lifetime_s is 5"),
        (HttpConfig(["localhost:8080"]), "sandbox.http.urls holds 'localhost:8080'"),
    ],
)
def test_wrong_settings_are_named(config: Any, named: str) -> None:
    with pytest.raises(ConjointError, match=named):
        config.validate()
