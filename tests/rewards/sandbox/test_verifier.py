"""The verifier profile: what evaluates a model's text may read its packages and reach nothing."""

import asyncio
import os
import socket
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conjoint.rewards.killable import DeadlinePassed, FunctionRaised, PoolUnavailable, WorkerDied
from conjoint.rewards.sandbox.base import SandboxUnavailable
from conjoint.rewards.sandbox.inside import calls
from conjoint.rewards.sandbox.local.verifier import VerifierPool
from tests.rewards.sandbox.conftest import CANARY_SOCKET


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def pool(request: pytest.FixtureRequest) -> Iterator[VerifierPool]:
    pool = VerifierPool("tried", deadline_s=60.0, isolation=request.param)
    try:
        asyncio.run(pool.start())
    except SandboxUnavailable as error:
        pytest.skip(f"no {request.param} tier here: {error}")
    yield pool
    pool.close()


def run(pool: VerifierPool, source: str, deadline_s: float = 60.0) -> str:
    return pool.call_blocking(calls.attempt, source, deadline_s=deadline_s)


def test_plain_data_goes_in_and_out(pool: VerifierPool) -> None:
    assert run(pool, "print('a' + chr(0x1f642) + chr(0xd800))") == "a\U0001f642\ud800"
    assert pool.started and pool.tier in ("namespaces", "landlock")


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "os.listdir('/root')",
        "open(HOST, 'w').write('x')",
        "open(PACKAGES + '/sbx_planted.py', 'w')",
        "os.mkdir(PACKAGES + '/sbx_planted')",
        "os.symlink('/etc', PACKAGES + '/sbx_planted')",
        "os.fork()",
        "os.posix_spawn('/bin/sh', ['sh', '-c', 'id'], {})",
        "__import__('subprocess').run(['id'], check=True)",
        "1 / (os.system('touch ' + HOST) == 0)",
        "os.execv('/bin/sh', ['sh'])",
        "socket.create_connection(('127.0.0.1', PORT), 2)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
        "socket.socket(socket.AF_UNIX).connect(chr(0) + CANARY)",
        "os.kill(os.getppid(), 9) if os.getppid() > 1 else os.kill(1, 9)",
        "os.setuid(0); 1 / (os.geteuid() == 0 and os.access('/etc/shadow', os.R_OK))",
        "__import__('ctypes').CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 or 1 / 0",
    ],
)
def test_every_door_but_the_packages_is_shut(
    pool: VerifierPool, attempt: str, tmp_path: Path, blocked: Callable[[str], str]
) -> None:
    host = tmp_path / "sbx_pwn"
    tmp_path.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {
            "HOST": str(host),
            "PORT": server.getsockname()[1],
            "CANARY": CANARY_SOCKET,
            "PACKAGES": sysconfig.get_path("purelib"),
        }
        head = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        assert run(pool, head + blocked(attempt)) == "BLOCKED"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not host.exists()
    assert not list(Path(names["PACKAGES"]).glob("sbx_planted*"))


def test_installed_packages_are_there_to_be_read(pool: VerifierPool) -> None:
    source = "import pluggy, sys\nprint(str(pluggy.__version__ > '0' and 'rl' not in sys.modules))"
    assert run(pool, source) == "True"


def test_no_secret_comes_along(pool: VerifierPool) -> None:
    assert os.environ["SBX_CANARY"] == "canary-5b1"
    source = (
        "import os, gc\nheld = [str(dict(os.environ))]\n"
        "held += [o for o in gc.get_objects() if type(o) is str]\n"
        "print(str(any('canary-' + '5b1' in text for text in held)))"
    )
    assert run(pool, source) == "False"


def test_a_call_that_hangs_is_killed_and_the_next_one_answered(pool: VerifierPool) -> None:
    for hang in ("while True: pass", "import time\ntime.sleep(1e6)", "10 ** 10 ** 10 ** 10"):
        with pytest.raises(DeadlinePassed):
            run(pool, hang, deadline_s=0.5)
    assert run(pool, "print('there')") == "there"


def test_what_a_call_changes_is_gone_with_it(pool: VerifierPool) -> None:
    run(pool, "import json, builtins\njson.loads = json.dumps = builtins.len = None")
    run(pool, "open('left', 'w').write('x')")
    source = "import os, json\nprint(json.dumps(os.path.exists('left')) * len('x'))"
    assert run(pool, source) == "false"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise KeyError('x')", FunctionRaised),
        ("raise SystemExit(0)", FunctionRaised),
        ("bytearray(8 << 30)", FunctionRaised),
        ("import os\nos._exit(0)", WorkerDied),
        ("import os\nos.kill(os.getpid(), 11)", WorkerDied),
        ("import os\nos.write(3, b'gibberish' + bytes([10]))\nos._exit(0)", WorkerDied),
        ("import os\nos.write(3, b'[' * 100_000)\nos._exit(0)", WorkerDied),
        ("import os\nwhile True: os.write(3, b'x' * 65536)", WorkerDied),
    ],
)
def test_a_call_that_gives_no_answer_is_an_error_and_never_a_value(
    pool: VerifierPool, source: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(pool, source)


def test_arguments_must_be_json_and_functions_named(pool: VerifierPool) -> None:
    with pytest.raises(PoolUnavailable, match="JSON"):
        pool.call_blocking(calls.attempt, {1, 2})
    with pytest.raises(PoolUnavailable, match="names"):
        pool.call_blocking(lambda: None)


def test_without_a_tier_nothing_runs_and_the_hint_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def refuse(jail: object, tier: str, *_: object) -> None:
        tried.append(tier)
        raise SandboxUnavailable({tier: "unshare: EPERM"}, "Use another machine.")

    monkeypatch.setattr("conjoint.rewards.sandbox.local.jail.LocalJail._proved_worker", refuse)
    pool = VerifierPool("refused", deadline_s=1.0)
    try:
        for _ in range(3):
            with pytest.raises(PoolUnavailable, match=r"EPERM.*Use another machine"):
                pool.call_blocking(calls.attempt, "print('ran')")
        assert len(tried) == 1, "refused for good, not tried again at every call"
    finally:
        pool.close()


def test_a_killed_zygote_is_replaced_and_its_call_made_again() -> None:
    pool = VerifierPool("replaced", deadline_s=60.0)
    try:
        assert run(pool, "print('1')") == "1"
        assert pool._jail is not None
        for worker in list(pool._jail._workers):
            worker.process.kill()
        assert run(pool, "print('2')") == "2"
    finally:
        pool.close()


def test_closing_answers_the_calls_that_wait() -> None:
    pool = VerifierPool("closed", deadline_s=60.0)

    async def go() -> list[object]:
        await pool.start()
        waiting = [
            asyncio.create_task(pool.call(calls.attempt, "import time\ntime.sleep(50)"))
            for _ in range(3)
        ]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pool.close)
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(go())
    assert all(isinstance(r, (PoolUnavailable, asyncio.CancelledError)) for r in results)
    assert not pool.started
