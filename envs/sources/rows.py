"""The one reader of rows: JSON, CSV and parquet files as dicts, each with its line or row number.

A row holds plain JSON values whatever its file: a parquet's dates, times and decimals become text,
and so do bytes that are UTF-8. The values of a CSV file are text, null where they are empty. NaN
and infinity stay numbers; who uses a field refuses them. What cannot be read is said in one
sentence that names the file, the line and what to do.
"""

import codecs
import csv
import datetime
import decimal
import gzip
import json
import stat
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conjoint.envs.text import MAX_LEVELS
from conjoint.envs.types import ConjointError

_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_LONGEST_CELL = 2**31 - 1
"""Bytes of one cell of a CSV file; csv's own default, 131072, is less than some prompts have."""
_AS_TEXT = (decimal.Decimal, datetime.timedelta, uuid.UUID)


def open_rows(path: str | Path) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    """Open a file of rows: the word for their places ("line" or "row") and (number, row) of each.

    The ending says what the file is: one JSON object a line (.jsonl), the same or one JSON list of
    objects (.json), a table with a line of names (.csv), or .parquet. All but the last may be
    gzipped, with .gz at the end or without. Raises ConjointError at once for what is not such a
    file, and while the rows are read for one that is wrong, or if there is none.
    """
    path = Path(path)
    head, ending = _head(path), _ending(path)
    if ending not in _ENDINGS:
        wanted = f"{', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"
        raise ConjointError(
            f"{path} has the ending '{ending}'; expected {wanted}; the first three may have .gz "
            "behind them."
        )
    if ending == ".parquet":
        return "row", _checked(path, "row", _read_parquet(path))
    packed = head.startswith(_GZIP)
    head = _start(path, packed)
    if head.startswith(_PARQUET):
        raise ConjointError(f"{path} is a parquet file; rename it to end in .parquet.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConjointError(f"{path} is UTF-16 text; save it as UTF-8.")
    lines = _lines(path, packed)
    if ending == ".csv":
        return "line", _checked(path, "line", _read_csv(path, lines))
    if ending == ".json" and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
        items = _parsed(_whole(lines), path, 1, "one list of objects, or one object a line")
        return "row", _checked(path, "row", enumerate(items, 1))
    return "line", _checked(path, "line", _parsed_lines(path, lines))


def _head(path: Path) -> bytes:
    """The first four bytes. Raises ConjointError for what is not a file that can be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(4)
    except FileNotFoundError as error:
        raise ConjointError(
            f"there is no file {path}; give a .jsonl, .json, .csv or .parquet file of rows."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise ConjointError(
            f"{path} cannot be read ({reason}); give a file that you may read."
        ) from error
    what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise ConjointError(f"{path} is {what}; give one file of rows, such as a .jsonl.")


def _ending(path: Path) -> str:
    """The last ending in lower case; that before it where the last is .gz."""
    last = path.suffix.lower()
    if last != ".gz":
        return last
    inner = Path(path.stem).suffix.lower()
    return inner if inner in _ENDINGS[:-1] else inner + last


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


def _lines(path: Path, packed: bool) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of the text, without a byte-order mark; one is in memory at a time."""
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConjointError(f"{path} cannot be unpacked ({error}); get the file again.") from error
    except OSError as error:
        raise ConjointError(f"{path} cannot be read: {error.strerror}.") from error


def _start(path: Path, packed: bool) -> bytes:
    """The text up to the first line that is not blank."""
    head = b""
    for _, line in _lines(path, packed):
        head += line
        if line.strip():
            break
    return head


def _whole(lines: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(line for _, line in lines)


def _parsed_lines(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Any]]:
    """The lines that are not blank."""
    for number, line in lines:
        if line.strip():
            yield number, _parsed(line, path, number, "one object a line")


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


# -- CSV ---------------------------------------------------------------------------------------


def _read_csv(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Any]]:
    """(first line, row) of each record; a cell may hold line breaks. Raises ConjointError."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_decoded(path, lines), strict=True)
    names: list[str] = []
    number = 1
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ConjointError(
                f"{path} line {number}: no row of a CSV file ({error}); quote cells that hold "
                "quotes, commas or line breaks."
            ) from error
        if not cells:
            continue
        if not names:
            names = cells
            if "" in names or len({*names}) < len(names):
                raise ConjointError(
                    f"{path} line {number}: the columns are {', '.join(map(repr, names))}; "
                    "expected a line of different names."
                )
            continue
        if len(cells) != len(names):
            raise ConjointError(
                f"{path} line {number}: {len(cells)} cells for {len(names)} columns; quote cells "
                "that hold commas or line breaks."
            )
        yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _decoded(path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    for number, line in lines:
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConjointError(
                f"{path} line {number}: byte {error.start + 1} is not UTF-8; save it as UTF-8."
            ) from error


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
