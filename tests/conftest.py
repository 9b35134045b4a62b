"""Which tests run in one process when pytest has several (`make check`)."""

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests on engines one after the other in the first process: each fills the machine, but waits
    a good deal, so the other files run beside them in what is left. (The groups that xdist has for
    this do nothing with pytest 9.)"""
    from xdist.scheduler import LoadScopeScheduling

    class EnginesTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "engines" if file.startswith("tests/e2e/") else file

    config.option.loadscopereorder = False  # tests/e2e is collected first, and takes longest
    return EnginesTogether(config, log)
