"""Python's cycle collector in the driver, which holds a task and a record for every answer: left as
it is, looking through them all again and again is half of what the driver does."""

import contextlib
import gc
from collections.abc import Iterator

_NEW_OBJECTS = 50_000
"""Before the collector looks at them; Python's own number is 700."""


@contextlib.contextmanager
def collecting_less() -> Iterator[None]:
    """For the length of a run, once what it needs is loaded: none of that is looked at again."""
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()  # or libraries that count their objects at the end speak of leaks
