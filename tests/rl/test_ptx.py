import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl.ptx import PtxConfig, PtxStream, read_rows, render_row
from rl.types import ConjointError, Message

END = 1


class CharRenderer:
    """A letter a token; `<u>text\\1<a>` like a real template."""

    stop_ids = (END,)

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def dialogue(self, messages: Sequence[Message]) -> list[int]:
        return [t for m in messages for t in (*self._open(m["role"]), *map(ord, m["content"]), END)]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return [*self.dialogue(messages), *self._open("assistant")]

    def _open(self, role: str) -> list[int]:
        return self.encode(f"<{role[0]}>")


RENDERER = CharRenderer()


def trained_text(row: object) -> str:
    rendered = render_row(row, RENDERER, "here", 1000)
    assert len(rendered.tokens) == len(rendered.trained)
    return "".join(chr(t) for t, on in zip(rendered.tokens, rendered.trained, strict=True) if on)


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": chat("hi", "yes", "more", "no")}, "yes\1no\1"),
        ({"text": "abc"}, "bc\1"),
        ({"prompt": "2+2=", "completion": "4"}, "4\1"),
        ({"prompt": chat("hi", "old", "again"), "completion": chat("", "new")[1:]}, "new\1"),
        ({"prompt": chat("hi"), "completion": "plain"}, "plain\1"),
    ],
)
def test_each_row_form_trains_the_right_tokens(row: dict, expected: str) -> None:
    assert trained_text(row) == expected


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([1], "expected an object"),
        ({"question": "x"}, "needs `messages`"),
        ({"prompt": "x"}, "`completion` is missing"),
        ({"messages": "x"}, "messages: expected a list"),
        ({"messages": []}, "messages: expected a list"),
        ({"messages": ["x"]}, "message 1 is not an object"),
        ({"messages": [{"role": "user"}]}, "message 1, content"),
        ({"messages": chat("only a question")}, "no assistant message"),
        ({"messages": chat("x", "y")[1:]}, "begin with a user message"),
        ({"text": 3}, "text: expected a text"),
        ({"text": "x" * 99}, "more than ptx.max_tokens=50"),
    ],
)
def test_malformed_rows_name_line_and_field(tmp_path: Path, row: object, field: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n" + json.dumps(row) + "\n")
    config = PtxConfig(source=str(path), max_tokens=50)
    with pytest.raises(ConjointError) as error:
        PtxStream(read_rows(path), RENDERER, config, seed=0)
    assert "rows.jsonl, line 2" in str(error.value) and field in str(error.value)


def test_broken_json_missing_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ConjointError, match="line 2: not JSON"):
        list(read_rows(path))
    with pytest.raises(ConjointError, match="is not a file"):
        list(read_rows(tmp_path / "absent.jsonl"))
    path.write_text("\n")
    with pytest.raises(ConjointError, match="holds no rows"):
        PtxStream(read_rows(path), RENDERER, PtxConfig(), seed=0)


def test_parquet_rows_load(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [chat("q", "a"), None], "text": [None, "abc"]}), path)
    assert [trained_text(row) for _, row in read_rows(path)] == ["a\1", "bc\1"]


def stream(seed: int = 0, per_step: int = 3) -> PtxStream:
    rows = [("row", {"text": f"{i:02d}"}) for i in range(7)]
    return PtxStream(rows, RENDERER, PtxConfig(rows_per_step=per_step), seed)


def test_every_row_once_an_epoch_and_reshuffled() -> None:
    s = stream(per_step=7)
    first, second = ([tuple(r.tokens) for r in s.next()] for _ in range(2))
    assert len(set(first)) == 7 and set(first) == set(second) and first != second
    assert first != [tuple(r.tokens) for r in stream(seed=1, per_step=7).next()]


def test_state_resumes_across_an_epoch_boundary() -> None:
    a = stream()
    for _ in range(3):
        a.next()
    b = stream()
    b.load_state(a.state())
    assert [b.next() for _ in range(4)] == [a.next() for _ in range(4)]


def test_config_is_checked() -> None:
    for bad in (PtxConfig(weight=-1.0), PtxConfig(rows_per_step=0), PtxConfig(max_tokens=1)):
        with pytest.raises(ConjointError, match="ptx"):
            bad.validate()
