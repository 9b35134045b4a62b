"""The one reader of rows: JSONL and parquet files as dicts, each with its line or row number.

What cannot be read is said in one sentence with the file and the line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conjoint.envs.types import ConjointError


def open_rows(path: Path) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    """("line" or "row", the rows). Raises ConjointError where the file is not one of the kinds."""
    if not path.exists():
        raise ConjointError(f"there is no file {path}; give a .jsonl or .parquet file of rows.")
    if not path.is_file():
        raise ConjointError(f"{path} is a folder; give one .jsonl or .parquet file of rows.")
    readers = {".jsonl": ("line", _read_jsonl), ".parquet": ("row", _read_parquet)}
    if path.suffix.lower() not in readers:
        raise ConjointError(f"{path} has the ending '{path.suffix}'; expected .jsonl or .parquet.")
    where, read = readers[path.suffix.lower()]
    return where, read(path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in _lines(path):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ConjointError(
                f"{path} line {number}: byte {error.start + 1} is not UTF-8; save it as UTF-8."
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConjointError(
                f"{path} line {number}: invalid JSON ({_json_problem(error)}); expected one object "
                "a line."
            ) from error
        if not isinstance(row, dict):
            raise ConjointError(
                f"{path} line {number}: {json_type(row)} instead of a JSON object; expected one "
                "object a line."
            )
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) without a byte-order mark; one line is in memory at a time."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise ConjointError(f"{path} cannot be read: {error.strerror}.") from error


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConjointError(f"{path} is not a readable parquet file: {reason}.") from error


def json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
