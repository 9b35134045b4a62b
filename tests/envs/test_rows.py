"""One reader of rows: whichever key names a file, the same file is read or refused the same way."""

import datetime
import decimal
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from conjoint.envs.sources.dataset import DatasetSource
from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import ConjointError
from conjoint.rl.algo.ptx import read_rows as read_ptx
from conjoint.rl.nano.preferences import Asked, read_pairs, read_preferences
from conjoint.rollouts.renderer import Renderer
from conjoint.scripts.bench.config import BenchConfig
from conjoint.scripts.bench.learner.random_groups import lengths
from conjoint.scripts.data.decontaminate import DecontaminateConfig, decontaminate
from conjoint.scripts.eval.suites import read_suite
from conjoint.scripts.grade.rows import read_rows as read_grade
from conjoint.scripts.main import app
from conjoint.scripts.rubric.agree import read_verdicts
from conjoint.scripts.rubric.shared.rows import read_answers, read_prompts

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

ROW: dict[str, Any] = {
    "prompt": "What is 1+1?",
    "question": "What is 1+1?",
    "answer": "#### 2",
    "text": "Two.",
    "kind": "open",
    "response": "It is 2.",
    "chosen": "It is 2.",
    "rejected": "No.",
    "task": "sum",
    "response_a": "It is 2.",
    "response_b": "No.",
    "winner": "A",
}
"""A row that every reader takes."""
LINE = json.dumps(ROW).encode() + b"\n"
LIST = b"[" + LINE.rstrip() + b"]"
CSV = "\r\n".join((",".join(ROW), ",".join(ROW.values()), "")).encode()
"""The row as a table."""


def with_field(value: str) -> bytes:
    """The row with one more field, whose value is JSON text."""
    return LINE.rstrip()[:-1] + b', "more": ' + value.encode() + b"}\n"


def against(path: Path) -> None:
    with TemporaryDirectory() as folder:
        source, output = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        source.write_bytes(LINE)
        try:
            decontaminate(
                DecontaminateConfig(input=str(source), output=str(output), against=[str(path)])
            )
        except ConjointError:
            assert not output.exists()
            raise


READERS: dict[str, Callable[[Path], Any]] = {
    "tasks.KIND.path": lambda path: DatasetSource(path, "open"),
    "ptx.source": lambda path: list(read_ptx(path)),
    "eval": lambda path: read_suite("gsm8k", path),
    "eval.pairs": lambda path: read_pairs(str(path), "eval.pairs"),
    "sft.preferences.path": lambda path: read_preferences(str(path), Asked(), 0),
    "grade": lambda path: read_grade(str(path)),
    "rubric prompts": lambda path: read_prompts(str(path), None),
    "rubric answers": lambda path: read_answers(str(path), None),
    "rubric against": lambda path: read_verdicts(str(path)),
    "data against": against,
    "bench.rows": lambda path: lengths(BenchConfig(rows=str(path)), Path("model"), 0),
}


class Words:
    """A renderer whose tokens are characters."""

    def prompt(self, messages: list[Any]) -> list[int]:
        return [0] * len(messages[0]["content"])

    def encode(self, text: str) -> list[int]:
        return [0] * len(text)


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Renderer, "load", lambda *_: Words())


def parquet(rows: list[dict[str, Any]], **columns: pa.Array) -> bytes:
    table = pa.Table.from_pylist(rows)
    for name, values in columns.items():
        table = table.append_column(name, values)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


BAD: dict[str, tuple[str, bytes, str]] = {
    "bad byte": ("rows.jsonl", LINE + b'{"text": "caf\xe9"}\n', "line 2: byte 14 is not UTF-8"),
    "UTF-16": ("rows.jsonl", LINE.decode().encode("utf-16"), " is UTF-16 text; save it as UTF-8"),
    "no JSON": ("rows.jsonl", LINE + b'{"text": \n', "line 2: invalid JSON (Expecting value at"),
    "too deep for Python": ("rows.jsonl", LINE + b"[" * 100_000, "line 2: invalid JSON"),
    "too deep for us": ("rows.jsonl", with_field("[" * 400 + "]" * 400), "line 1: nested more"),
    "too many digits": ("rows.jsonl", with_field("1" * 5000), "line 1: invalid JSON (Exceeds"),
    "no object": ("rows.jsonl", LINE + b"\n[1]\n", "line 3: a list instead of a JSON object"),
    "null": ("rows.jsonl", b"null\n", "line 1: null instead of a JSON object"),
    "empty": ("rows.jsonl", b"", " holds no rows"),
    "only a byte-order mark": ("rows.jsonl", b"\xef\xbb\xbf \n\n", " holds no rows"),
    "other ending": ("rows.txt", LINE, " has the ending '.txt'; expected .jsonl"),
    "no ending": ("rows", LINE, " has the ending ''; expected .jsonl"),
    "broken parquet": ("rows.parquet", b"PAR1 broken PAR1", " is not a readable parquet file"),
    "torn parquet": ("rows.parquet", parquet([ROW])[:-20], " is not a readable parquet file"),
    "cells without a name": (
        "rows.csv",
        CSV + b"a,b\n",
        f"line 3: 2 cells for {len(ROW)} columns; quote cells",
    ),
    "a quote in a cell": ("rows.csv", b'a,b\n1,"x"y\n', "line 2: no row of a CSV file ("),
    "a torn cell": ("rows.csv", CSV + b'"x\n\ny', "line 3: no row of a CSV file ("),
    "names twice": ("rows.csv", b"a,a\n1,2\n", "line 1: the columns are 'a', 'a'; expected"),
    "bad byte in a table": ("rows.csv", CSV + b"caf\xe9\n", "line 3: byte 4 is not UTF-8"),
    "a table of names alone": ("rows.csv", CSV.splitlines()[0], " holds no rows"),
    "zipped": ("rows.jsonl.zip", LINE, " has the ending '.zip'; expected .jsonl"),
    "parquet in gzip": ("rows.parquet.gz", gzip.compress(b"PAR1"), " ending '.parquet.gz'"),
    "torn gzip": ("rows.jsonl.gz", gzip.compress(LINE * 99)[:-9], " cannot be unpacked"),
    "no gzip": ("rows.jsonl.gz", b"\x1f\x8b no gzip", " cannot be unpacked"),
    "bad line in gzip": ("rows.jsonl.gz", gzip.compress(LINE + b"\n{"), "line 3: invalid JSON"),
    "empty list": ("rows.json", b"[]", " holds no rows"),
    "no object in a list": ("rows.json", LIST[:-1] + b",\n7]", "row 2: a number instead"),
    "bad list": ("rows.json", b"[\n" + LINE + b",\n{]", "line 4: invalid JSON (Expecting prop"),
    "bad byte in a list": (
        "rows.json",
        LIST[:-1] + b',\n{"a": "\xe9"}]',
        "line 2: byte 8 is not UTF-8",
    ),
    "too deep a list": ("rows.json", b"[" * 100_000, "line 1: invalid JSON (nested too deeply)"),
    "an object on many lines": ("rows.json", json.dumps(ROW, indent=1).encode(), "line 1: invalid"),
    "empty parquet": ("rows.parquet", b"", " is not a readable parquet file"),
    "no parquet": ("rows.parquet", LINE, " is not a readable parquet file"),
    "parquet without rows": (
        "rows.parquet",
        parquet([], prompt=pa.array([], pa.string())),
        " holds no rows",
    ),
    "parquet as JSONL": ("rows.jsonl", parquet([ROW]), " is a parquet file; rename it"),
    "bytes in parquet": (
        "rows.parquet",
        parquet([ROW, ROW], image=pa.array([None, {"png": b"\x89\xff"}])),
        "row 2: field 'image.png' is bytes that are no UTF-8 text",
    ),
    "a date that Python lacks": (
        "rows.parquet",
        parquet([ROW], when=pa.array([2**60], pa.timestamp("us"))),
        " is not a readable parquet file (date value out of range)",
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, reader: str, bad: str) -> None:
    name, content, says = BAD[bad]
    path = tmp_path / name
    path.write_bytes(content)
    assert says in refusal(reader, path)


def refusal(reader: str, path: Path) -> str:
    """The sentence with which the reader refuses the file."""
    with pytest.raises(ConjointError) as caught:
        READERS[reader](path)
    sentence = str(caught.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_in_one_sentence(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no file" in refusal(reader, tmp_path / "none.jsonl")
    assert "there is no file" in refusal(reader, tmp_path / "none.parquet")
    assert "there is no file" in refusal(reader, Path("~nobody-of-this-name/rows.jsonl"))
    assert "File name too long" in refusal(reader, tmp_path / f"{'x' * 300}.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "is a folder" in refusal(reader, tmp_path / "folder.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is not a regular file" in refusal(reader, tmp_path / "pipe.jsonl")
    secret = tmp_path / "secret.parquet"
    secret.write_bytes(parquet([ROW]))

    opened = Path.open

    def denied(path: Path, mode: str = "r", **options: Any) -> Any:
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", denied)  # root may read whatever its mode
    assert "cannot be read (Permission denied)" in refusal(reader, secret)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINE),
        ("rows.JSONL", b"\xef\xbb\xbf" + LINE),
        ("rows.jsonl", b"\xef\xbb\xbf\r\n" + LINE.replace(b"\n", b"\r\n") + b"\r\n"),
        ("rows.jsonl", LINE.rstrip()),
        ("rows.jsonl", with_field("1" * 4000)),
        ("rows.json", LIST),
        ("rows.json", b"\xef\xbb\xbf\n" + LIST),
        ("rows.json", LINE),
        ("rows.jsonl", gzip.compress(LINE)),
        ("rows.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + LINE)),
        ("rows.json.gz", gzip.compress(LIST)),
        ("rows.jsonl.gz", LINE),  # a browser may unpack what it downloads
        ("rows.csv", CSV),
        ("rows.CSV", b"\xef\xbb\xbf" + CSV.rstrip()),
        ("rows.csv.gz", gzip.compress(CSV)),
        ("rows.parquet", parquet([ROW])),
        ("rows.parquet", parquet([{**ROW, "day": datetime.date(2024, 2, 29), "raw": b"text"}])),
    ],
)
def test_what_is_right_is_read(tmp_path: Path, reader: str, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    READERS[reader](tmp_path / name)


def test_a_table_is_text_null_where_it_is_empty(tmp_path: Path) -> None:
    text = 'prompt,answer,level\n"Is ""x, y"" a\nlist?",007,\n\nplain,1e5,' + "z" * 200_000
    (tmp_path / "rows.csv").write_text(text)
    where, rows = open_rows(tmp_path / "rows.csv")
    assert where == "line"
    assert list(rows) == [
        (2, {"prompt": 'Is "x, y" a\nlist?', "answer": "007", "level": None}),
        (5, {"prompt": "plain", "answer": "1e5", "level": "z" * 200_000}),
    ]


def test_parquet_values_become_what_json_holds(tmp_path: Path) -> None:
    columns = {
        "day": pa.array([datetime.date(2024, 2, 29)]),
        "at": pa.array([1], pa.timestamp("us", "UTC")),
        "price": pa.array([decimal.Decimal("4.20")]),
        "raw": pa.array(["Málaga".encode()], pa.binary()),
        "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "deep": pa.array([[{"days": [datetime.date(2024, 3, 1)], "none": None}]]),
    }
    (tmp_path / "rows.parquet").write_bytes(parquet([{"text": "x"}], **columns))
    where, rows = open_rows(tmp_path / "rows.parquet")
    assert where == "row"
    assert list(rows) == [
        (
            1,
            {
                "text": "x",
                "day": "2024-02-29",
                "at": "1970-01-01T00:00:00.000001+00:00",
                "price": "4.20",
                "raw": "Málaga",
                "pairs": [["a", 1]],
                "deep": [{"days": ["2024-03-01"], "none": None}],
            },
        )
    ]


def test_a_row_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINE + b"{broken\n")
    rows = open_rows(str(tmp_path / "rows.jsonl"))[1]
    assert next(rows) == (1, ROW)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '{"a": [NaN]}'])
def test_a_number_that_no_checkpoint_holds_is_refused_before_the_run(
    tmp_path: Path, value: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINE + with_field(value))
    with pytest.raises(ConjointError, match="line 2: field 'more' holds nan or inf"):
        DatasetSource(path, "open")


@pytest.mark.parametrize("label", ["NaN", "Infinity", "true", '"high"', "1" * 400])
def test_a_label_that_orders_nothing_is_refused(tmp_path: Path, label: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "x", "response": "y", "label": {label}}}\n')
    with pytest.raises(ConjointError, match=r"line 1: field 'label' is .*; expected a number"):
        read_answers(str(path), None)


@pytest.mark.parametrize("changes", [{"winner": "C"}, {"winner": []}, {"task": None}])
def test_a_verdict_that_is_none_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(LINE + json.dumps({**ROW, **changes}).encode())
    with pytest.raises(ConjointError, match="line 2: expected the fields task, response_a"):
        read_verdicts(str(path))


def test_a_null_field_of_ptx_counts_as_left_out_in_both_forms(tmp_path: Path) -> None:
    row = {"text": "Two.", "messages": None}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "rows.parquet").write_bytes(parquet([row]))
    for name, place in (("rows.jsonl", "line 1"), ("rows.parquet", "row 1")):
        path = tmp_path / name
        assert list(read_ptx(path)) == [(f"{path} {place}", {"text": "Two."})]


COMMANDS = {
    "tasks": "train --dry-run experiment=quickstart tasks.math.path=FILE",
    "ptx": "train --dry-run experiment=quickstart ptx.source=FILE",
    "pairs": "train --dry-run experiment=quickstart eval.pairs=FILE",
    "preferences": "train --dry-run experiment=quickstart sft.preferences.path=FILE",
    "eval": "eval model=nano suite=gsm8k paths.gsm8k=FILE",
    "grade": "grade reward=math input=FILE output=out.jsonl",
    "probe": "grade --probe reward=math input=FILE",
    "preview": "rubric preview clarity model=nano input=FILE",
    "agree": "rubric agree clarity model=nano input=good.jsonl against=FILE",
    "data": "data guessable input=FILE output=out.jsonl",
    "decontaminate": "data decontaminate input=good.jsonl against=FILE output=out.jsonl",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("bad", ["bad byte", "broken parquet", "other ending", "empty", None])
def test_a_command_says_it_in_one_sentence_with_exit_code_2_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, bad: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, _ = BAD[bad] if bad else ("missing.jsonl", None, "")
    Path("good.jsonl").write_bytes(LINE)
    if content is not None:
        Path(name).write_bytes(content)
    before = sorted(os.listdir())
    done = CliRunner().invoke(app, COMMANDS[command].replace("FILE", name).split())
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert name in done.stderr and sorted(os.listdir()) == before


@pytest.mark.skipif(not DATA.is_dir(), reason="the public files are not beside the checkout")
@pytest.mark.parametrize(
    ("name", "where", "count"),
    [
        ("gsm8k_test.jsonl", "line", 1319),
        ("HumanEval.jsonl.gz", "line", 164),
        ("mbpp_sanitized.json", "row", 427),
        ("ifeval_input_data.jsonl", "line", 541),
    ],
)
def test_public_sets_are_read_whole(name: str, where: str, count: int) -> None:
    found, rows = open_rows(DATA / name)
    assert found == where and [number for number, _ in rows] == list(range(1, count + 1))
