"""Nobody but this user reaches a Ray of our own: real Ray, and another user who tries.

Whole runs are watched in tests/e2e/test_listeners.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from conjoint.rl.cluster import private_ray
from conjoint.rollouts.engine.belongings import DRIVER_MARK, marked
from tests.listeners import listeners

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_running")]

STRANGER = """
import json, os, socket, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
folder, gcs, token, sockets, environments, *ports = sys.argv[1:]
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
import grpc
from ray._raylet import GcsClient
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
found = {"reached": []}

def attempt(name, how):
    try:
        how()
    except (PermissionError, FileNotFoundError):  # the latter: a process that has ended
        return
    except Exception as error:
        found.setdefault("failed", []).append(f"{name}: {error!r}")
        return
    found["reached"].append(name)

attempt("the folder", lambda: os.listdir(folder))
for path in sockets.split(","):
    attempt(path, lambda: socket.socket(socket.AF_UNIX).connect(path))
for pid in environments.split(","):
    attempt(f"environment of {pid}", lambda: open(f"/proc/{pid}/environ").read())
try:
    found["gcs"] = len(GcsClient(address=gcs).internal_kv_keys(b"", None))
except Exception as error:
    found["gcs"] = type(error).__name__
CALLS = ("CoreWorkerService/PushTask", "NodeManagerService/RequestWorkerLease",
         "ObjectManagerService/Pull", "ReporterService/GetTraceback")

def codes_of(port):
    codes, channel = [], grpc.insecure_channel(f"127.0.0.1:{port}")
    for call in CALLS:
        try:
            channel.unary_unary(f"/ray.rpc.{call}")(b"", timeout=5)
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(error.code().name)
    try:
        request = f"http://127.0.0.1:{port}/get_or_create_runtime_env"
        codes.append(urllib.request.urlopen(request, data=b"", timeout=5).status)
    except urllib.request.HTTPError as error:
        codes.append(error.code)
    except Exception:
        pass
    return codes

with ThreadPoolExecutor(32) as pool:  # some ports speak neither protocol and never answer
    found["ports"] = dict(zip(ports, pool.map(codes_of, ports)))
print(json.dumps(found))
"""
"""What an account without rights finds out. It imports as root, because the interpreter's own files
may be closed to it."""


@ray.remote
class Worker:
    def pid(self) -> int:
        return os.getpid()


def processes() -> list[int]:
    return [os.getpid(), *marked(DRIVER_MARK)]


@pytest.fixture(scope="module")
def worker() -> Worker:
    worker = Worker.options(num_cpus=0, runtime_env={"env_vars": {"ANY": "1"}}).remote()
    ray.get(worker.pid.remote())
    return worker


def session() -> Path:
    return Path(ray._private.worker._global_node.get_session_dir_path())


def test_every_process_listens_on_loopback_alone(worker: Worker):
    found = listeners(processes())
    assert {os.getpid(), ray.get(worker.pid.remote())} <= {listener.pid for listener in found}
    assert len({listener.pid for listener in found}) >= 6, "GCS, raylet and two agents besides"
    assert not [listener for listener in found if listener.beyond_loopback]


def test_the_token_is_in_no_file_and_no_command_line():
    token = private_ray._TOKEN.encode()
    folder = session().parent.parent
    assert folder.parent == Path("/tmp") and folder.stat().st_mode & 0o777 == 0o700
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10 and not [file for file in files if token in file.read_bytes()]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes()]
    assert lines and not [line for line in lines if token in line]
    assert not (Path.home() / ".ray/auth_token").is_file() or (
        token not in (Path.home() / ".ray/auth_token").read_bytes()
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_nothing_and_has_nothing_run(worker: Worker):
    address = ray.get_runtime_context().gcs_address
    sockets = [str(path) for path in (session() / "sockets").iterdir()]
    ports = sorted({str(listener.port) for listener in listeners(processes())})

    def stranger(token: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, str(session().parent.parent), address, token,
             ",".join(sockets), ",".join(map(str, processes())), *ports],
            stdout=subprocess.PIPE, text=True, check=True, timeout=300,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    found = stranger("0" * 64)
    assert found["reached"] == [] and "failed" not in found, found
    assert found["gcs"] == "AuthenticationError"
    asked = {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", 401, 404, 405}
    assert {code for codes in found["ports"].values() for code in codes} <= asked, found
    # The ports of the driver and the worker, two of the raylet and one of each agent.
    refused = [codes for codes in found["ports"].values() if {"UNAUTHENTICATED", 401} & {*codes}]
    assert len(refused) >= 6, found
    assert stranger(private_ray._TOKEN)["gcs"] > 0, "with the token it would have been let in"
