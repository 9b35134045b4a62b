"""The one reader of rows: JSONL and parquet files as dicts, each with its line or row number.

A row holds plain JSON values whatever its file: a parquet's dates, times and decimals become text,
and so do bytes that are UTF-8. NaN and infinity stay numbers; who uses a field refuses them. What
cannot be read is said in one sentence that names the file, the line and what to do.
"""

import codecs
import datetime
import decimal
import gzip
import json
import os
import stat
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conjoint.envs.text import MAX_LEVELS
from conjoint.envs.types import ConjointError

_ROWS = (".jsonl", ".parquet")
_PUBLISHED = (*_ROWS, ".json", ".jsonl.gz", ".json.gz")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_AS_TEXT = (decimal.Decimal, datetime.timedelta, uuid.UUID)


def open_rows(
    path: str | Path, *, published: bool = False
) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    """Open a file of rows: the word for their places ("line" or "row") and (number, row) of each.

    Raises ConjointError at once for what is not such a file, and while they are read for a row that
    is wrong, or if there is none. `published` also takes the other forms in which public test sets
    come: one JSON list of objects, and gzip.
    """
    path = Path(os.path.expanduser(path))
    head, ending = _head(path), _ending(path)
    if ending not in (known := _PUBLISHED if published else _ROWS):
        wanted = f"{', '.join(known[:-1])} or {known[-1]}"
        raise ConjointError(f"{path} has the ending '{ending}'; expected {wanted}.")
    if ending == ".parquet":
        return "row", _checked(path, "row", _read_parquet(path))
    if head == _PARQUET:
        raise ConjointError(f"{path} is a parquet file; rename it to end in .parquet.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConjointError(f"{path} is UTF-16 text; save it as UTF-8.")
    if not published:
        if head.startswith(_GZIP):
            raise ConjointError(f"{path} is gzipped; unpack it first.")
        return "line", _checked(path, "line", _parsed_lines(path, _lines(path)))
    data = _unpacked(path)
    if data.lstrip()[:1] == b"[":
        items = _parsed(data, path, 1, "one list of objects, or one object a line")
        return "row", _checked(path, "row", enumerate(items, 1))
    return "line", _checked(path, "line", _parsed_lines(path, enumerate(data.split(b"\n"), 1)))


def _head(path: Path) -> bytes:
    """The first four bytes. Raises ConjointError for what is not a file that can be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(4)
    except FileNotFoundError as error:
        raise ConjointError(
            f"there is no file {path}; give a .jsonl or .parquet file of rows."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise ConjointError(
            f"{path} cannot be read ({reason}); give a file that you may read."
        ) from error
    what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise ConjointError(f"{path} is {what}; give one .jsonl or .parquet file of rows.")


def _ending(path: Path) -> str:
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def _checked(
    path: Path, where: str, values: Iterable[tuple[int, Any]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The values as rows of plain JSON. Raises ConjointError for one that is none, or if there is
    no value at all."""
    number = 0
    for number, value in values:
        if not isinstance(value, dict):
            raise ConjointError(
                f"{path} {where} {number}: {json_type(value)} instead of a JSON object; expected "
                "one object for each row."
            )
        try:
            row = _plain(value, "", 0)
        except ValueError as error:
            raise ConjointError(f"{path} {where} {number}: {error}.") from error
        yield number, row
    if not number:
        raise ConjointError(f"{path} holds no rows; expected one object for each row.")


def _plain(value: Any, field: str, level: int) -> Any:
    """The value as JSON knows it. Raises ValueError naming the field."""
    if value is None or isinstance(value, str | int | float):
        return value
    if level > MAX_LEVELS:
        raise ValueError(f"nested more than {MAX_LEVELS} levels deep; flatten it")
    if isinstance(value, dict):
        dot = f"{field}." if field else ""
        return {k: _plain(item, f"{dot}{k}", level + 1) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{field}[{i}]", level + 1) for i, item in enumerate(value)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, _AS_TEXT):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"field '{field}' is bytes that are no UTF-8 text; leave the column out"
            ) from error
    raise ValueError(
        f"field '{field}' is {type(value).__name__}, which JSON cannot hold; leave the column out"
    )


# -- JSON --------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line); one line is in memory at a time."""
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise ConjointError(f"{path} cannot be read: {error.strerror}.") from error


def _parsed_lines(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Any]]:
    """The lines that are not blank, without a byte-order mark."""
    for number, raw in lines:
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if line.strip():
            yield number, _parsed(line, path, number, "one object a line")


def _unpacked(path: Path) -> bytes:
    """The whole file, unpacked if it is gzipped, without a byte-order mark."""
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data.startswith(_GZIP) else data
    except (OSError, EOFError, zlib.error) as error:
        raise ConjointError(f"{path} cannot be unpacked ({error}); get the file again.") from error
    return text.removeprefix(codecs.BOM_UTF8)


def _parsed(raw: bytes, path: Path, line: int, wanted: str) -> Any:
    """The JSON value in `raw`, which begins at `line`. Raises ConjointError naming the place."""
    try:
        return json.loads(raw.rstrip().decode("utf-8"))
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        byte = error.start - raw.rfind(b"\n", 0, error.start)
        raise ConjointError(
            f"{path} line {line}: byte {byte} is not UTF-8; save it as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        line += error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0
        raise ConjointError(
            f"{path} line {line}: invalid JSON ({_json_problem(error)}); expected {wanted}."
        ) from error


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]


def json_type(value: Any) -> str:
    """The type of a value in the words of JSON, for an error message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


# -- parquet -----------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    # The last three: a value that Python has no form of, such as a date after the year 9999.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        after = f" after row {number}" if number else ""
        raise ConjointError(
            f"{path} is not a readable parquet file{after} ({reason}); write it again."
        ) from error
