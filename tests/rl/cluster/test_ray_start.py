"""A Ray that does not come up is said in a sentence; its workers run at normal priority."""

import os
import signal
import subprocess

import pytest
import ray

from conjoint.envs.types import StopRun
from conjoint.rl.cluster.config import ClusterConfig
from conjoint.rl.cluster.ray_start import start_ray


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
    monkeypatch.delenv("RAY_worker_niceness")
    if own is not None:
        monkeypatch.setenv("RAY_worker_niceness", own)
    found: list[dict[str, str]] = []
    monkeypatch.setattr(ray, "init", lambda **_: found.append(dict(os.environ)))
    start_ray(ClusterConfig())
    assert [env["RAY_worker_niceness"] for env in found] == [own or "0"]
