"""A Ray that does not come up is said in a sentence; its workers run at normal priority; what a
Ray of our own and a cluster are told. That it listens to nobody else: test_private_ray.py."""

import os
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants

from conjoint.envs.types import StopRun
from conjoint.rl.cluster.config import ClusterConfig
from conjoint.rl.cluster.private_ray import private_folder
from conjoint.rl.cluster.ray_start import start_ray


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")


@pytest.mark.parametrize(("address", "raised"), [(None, StopRun), ("10.0.0.1:6379", RuntimeError)])
def test_only_a_ray_of_our_own_is_explained(
    monkeypatch: pytest.MonkeyPatch, address: str | None, raised: type[Exception]
):
    def late(**_: object) -> None:
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(raised, match="timed out during startup"):
        start_ray(ClusterConfig(address=address))


def test_what_a_failed_attempt_left_is_gone_before_the_next(monkeypatch: pytest.MonkeyPatch):
    """A raylet that is late ends, and its GCS server stays."""
    left: list[subprocess.Popen[bytes]] = []

    def late_once(**_: object) -> None:
        if left:
            assert left[0].wait(10) == -signal.SIGKILL
            return
        left.append(subprocess.Popen(["sleep", "60"]))
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", late_once)
    start_ray(ClusterConfig())
    assert left[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize("own", [None, "5"])
def test_workers_are_no_background_work_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch, own: str | None
):
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    if own is not None:
        monkeypatch.setenv("RAY_worker_niceness", own)
    found: list[dict[str, str]] = []
    monkeypatch.setattr(ray, "init", lambda **_: found.append(dict(os.environ)))
    start_ray(ClusterConfig())
    assert [env["RAY_worker_niceness"] for env in found] == [own or "0"]


OTHERS = {
    "RAY_ADDRESS": "192.0.2.1:6379",
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN_PATH": "/their/token",
    "RAY_REDIS_ADDRESS": "192.0.2.1:6380",
    "GLOO_SOCKET_IFNAME": "eth0",
    "NCCL_SOCKET_IFNAME": "eth0",
}
"""What an environment may say about some other cluster."""


def told(monkeypatch: pytest.MonkeyPatch, address: str | None) -> tuple[dict, dict[str, str]]:
    """The keys of `ray.init` and the environment it runs in, among OTHERS. "cluster": whether Ray
    believes that there can be one."""
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    found: list[tuple[dict, dict[str, str]]] = []

    def init(**keys: object) -> None:
        found.append(({**keys, "cluster": ray_constants.ENABLE_RAY_CLUSTER}, dict(os.environ)))

    monkeypatch.setattr(ray, "init", init)
    start_ray(ClusterConfig(address=address))
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert {name: os.environ.get(name) for name in OTHERS} == OTHERS
    assert "RAY_AUTH_TOKEN" not in os.environ, "agents inherit the driver's environment"
    return found[0]


@pytest.mark.parametrize("address", [None, "", "local"])
def test_a_ray_of_our_own_hears_nothing_of_other_clusters(
    monkeypatch: pytest.MonkeyPatch, address: str | None
):
    keys, environment = told(monkeypatch, address)
    assert (keys["address"], keys["include_dashboard"], keys["cluster"]) == ("local", False, False)
    assert not {name for name in OTHERS if name.startswith("RAY")} & environment.keys()
    assert len(environment["RAY_AUTH_TOKEN"]) == 64
    assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "lo"
    folder = Path(environment["TMPDIR"])
    assert Path(keys["_temp_dir"]).parent == folder and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_cluster_is_joined_as_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    keys, environment = told(monkeypatch, "auto")
    assert keys["address"] == "auto" and keys["cluster"] and "_temp_dir" not in keys
    assert OTHERS.items() <= environment.items() and "RAY_AUTH_TOKEN" not in environment


def test_a_ray_that_others_could_reach_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    """As one would that understood our switch no longer."""
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.2")
    ended: list[bool] = []
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(StopRun, match=r"listens on 192\.0\.2\.2 and not on 127\.0\.0\.1"):
        start_ray(ClusterConfig())
    assert ended


@pytest.mark.parametrize("long", ["TMPDIR", "RAY_TMPDIR"])
def test_sockets_find_room_where_the_folder_of_the_environment_is_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, long: str
):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv(long, str(tmp_path))
    folder = private_folder()
    assert folder.parent == Path("/tmp")
    folder.rmdir()
