"""Which tests run in one process when pytest has several (`make check`)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.measured import NOTES, Meter

# Several processes share the cores: threads that spin while they wait would take them from others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
COMMANDS = tuple(f"tests/e2e/test_{name}" for name in ("async", "failures", "quickstart", "rubric"))
ENGINES = ("tests/e2e/", "tests/rl/learner/test_group", "tests/rl/cluster/test_private_ray")
JAILS = (
    "tests/rewards/sandbox/",
    "tests/rewards/code/",
    "tests/scripts/data/test_validate",
    "tests/test_docs_data_tools",
    "tests/scripts/grade/",
)

MATRIX = "tests/rewards/sandbox/test_matrix"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file of jails runs late and in any process: engines have started by then."""
    late = [item for item in items if item.nodeid.startswith(MATRIX)]
    rest = [item for item in items if not item.nodeid.startswith(MATRIX)]
    after = [i for i, item in enumerate(rest) if item.nodeid.startswith("tests/scripts/")]
    place = after[0] if after else len(rest)
    items[:] = [*rest[:place], *late, *rest[place:]]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which files share a process. The engines of a session are shared by the tests of the first
    one, and jails come after them: their limits must not meet an engine that starts. Whole commands
    have the second; they and engines wait a good deal, so the other files run beside both. (The
    groups that xdist has for this do nothing with pytest 9.)"""
    from xdist.scheduler import LoadScopeScheduling

    class EnginesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith(COMMANDS):
                return "commands"
            together = file.startswith((*ENGINES, *JAILS)) and not file.startswith(MATRIX)
            return "engines and jails" if together else file

    config.option.loadscopereorder = False  # tests/e2e is collected first, and takes longest
    return EnginesTogether(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which combinations of the sandbox's tests ran, and which this machine does not have."""
    reports = [r for some in terminalreporter.stats.values() for r in some]
    properties = [p for r in reports for p in getattr(r, "user_properties", ())]
    if words := sorted({text for name, text in properties if name == "sandbox"}):
        terminalreporter.section("sandbox: user x tier x mode")
        terminalreporter.write_line("\n".join(words))


def pytest_configure(config: pytest.Config) -> None:
    here = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if here and (folder := os.environ.get(NOTES)):
        config.pluginmanager.register(Measured(folder))


class Measured:
    """Tells tests/measured.py what each file costs; in every process that runs tests."""

    def __init__(self, folder: str) -> None:
        self._meter = Meter(folder)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._meter.lap(nodeid)

    def pytest_sessionfinish(self) -> None:
        self._meter.write()


def with_root() -> str:
    """PYTHONPATH for processes that import tests."""
    return os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="session")
def ray_running() -> Iterator[None]:
    """One Ray for all tests that start engines or ranks in this process."""
    import ray

    from conjoint.rl.cluster.config import ClusterConfig
    from conjoint.rl.cluster.ray_start import start_ray

    # Workers import tests/e2e/faults.py and the actors of tests by name.
    os.environ["PYTHONPATH"] = with_root()
    with pytest.MonkeyPatch.context() as patch:
        # Nobody is there: a Ray of our own is not looked for elsewhere.
        patch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
        start_ray(ClusterConfig())
    yield
    ray.shutdown()
