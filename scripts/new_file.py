"""A verb's output file: never one that exists; whole or not there at all, or one that grows."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conjoint.envs.text import escaped
from conjoint.envs.types import ConjointError


class Writer:
    """Rows as JSON lines."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ConjointError for a value that JSON cannot hold."""
        try:
            text = escaped(json.dumps(row, ensure_ascii=False))
            self._file.write(f"{text}\n".encode())
        except (TypeError, ValueError, RecursionError) as error:
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


@contextmanager
def growing_file(target: str, *, overwrite: bool = False) -> Iterator[Writer]:
    """Write `target` row by row, so that the rows so far are there however the process ends. What
    stood in it goes with the first row; a file that got none is removed again.

    Raises ConjointError if it cannot be written, or exists and is not to be overwritten.
    """
    path, existed = Path(target), Path(target).exists()
    flags = os.O_WRONLY if existed and overwrite else os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        number = os.open(path, flags, 0o666)
    except FileExistsError as error:
        raise ConjointError(f"output={path} was made by something else meanwhile") from error
    except OSError as error:
        raise ConjointError(f"output={path} cannot be written: {error.strerror}") from error
    try:
        with open(number, "wb", buffering=0) as file:
            yield Writer(_Growing(file))
    finally:
        if not existed and not path.stat().st_size:
            path.unlink()


class _Growing:
    """A file that is emptied when it is first written to."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._began = False

    def write(self, data: bytes) -> None:
        if not self._began:
            self._file.truncate(0)
            self._began = True
        self._file.write(data)


def put_in_order(target: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the rows of `target`, which are as they were ready, by the same rows in order."""
    with new_file(target, overwrite=True) as out:
        for row in rows:
            out.write(row)
