"""A Ray that does not come up is said in a sentence; its workers run at normal priority."""

import os

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
