"""Which tests share a process when pytest runs in several (`make check`)."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on engines stay in one process, one after the other: each fills the machine. They wait
    a good deal, so the other tests run beside them."""
    for item in items:
        if item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("engines"))
