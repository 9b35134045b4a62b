"""A verb's output file: never one that exists, whole or not there at all."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conjoint.envs.types import ConjointError


class Writer:
    """Rows as JSON lines."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ConjointError for a value that JSON cannot hold."""
        try:
            text = json.dumps(row, ensure_ascii=False)
            # A lone surrogate, which UTF-8 cannot hold, becomes its JSON escape.
            self._file.write((text + "\n").encode("utf-8", "backslashreplace"))
        except (TypeError, ValueError) as error:
            raise ConjointError(
                f"a row cannot be written as JSON ({error}); drop that column first"
            ) from error


@contextmanager
def new_file(target: str, *, overwrite: bool = False) -> Iterator[Writer]:
    """Write `target`, which appears when the block ends without an error. Raises ConjointError if
    it cannot be made, or another process made it in the meantime and is not to be overwritten."""
    path = Path(target)
    try:
        number, work = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.absolute().parent)
    except OSError as error:
        raise ConjointError(f"output={path} cannot be written: {error.strerror}") from error
    try:
        with open(number, "wb") as file:
            yield Writer(file)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(work, 0o666 & ~mask)
        if overwrite:
            os.replace(work, path)
            return
        try:
            os.link(work, path)  # unlike a rename, it never replaces
        except FileExistsError as error:
            raise ConjointError(f"output={path} was made by something else meanwhile") from error
    finally:
        with suppress(FileNotFoundError):  # renamed
            os.unlink(work)
