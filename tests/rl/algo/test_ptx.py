import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conjoint.envs.types import ConjointError, Message
from conjoint.rl.algo.ptx import PtxConfig, PtxStream, read_rows, render_row

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


def trained_text(row: dict) -> str:
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
        ([1], "a list instead of a JSON object"),
        ({"question": "x"}, "needs `messages`"),
        ({"prompt": "x"}, "`completion` is missing"),
        ({"messages": "x"}, "messages: expected a list"),
        ({"messages": []}, "messages: expected a list"),
        ({"messages": ["x"]}, "message 1 is not an object"),
        ({"messages": [{"role": "user"}]}, "message 1, content"),
        ({"messages": chat("only a question")}, "no assistant message"),
        ({"messages": chat("x", "y")[1:]}, "begin with a user message"),
        ({"text": 3}, "text: expected a text"),
        ({"text": "a\ud800"}, "text: holds an unpaired surrogate"),
        ({"text": "x" * 99}, "more than ptx.max_tokens=50"),
    ],
)
def test_malformed_rows_name_line_and_field(tmp_path: Path, row: object, field: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n" + json.dumps(row) + "\n")
    config = PtxConfig(source=str(path), max_tokens=50)
    with pytest.raises(ConjointError) as error:
        PtxStream(read_rows(path), RENDERER, config, seed=0)
    assert "rows.jsonl line 2" in str(error.value) and field in str(error.value)


def test_broken_json_missing_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(ConjointError, match="line 2: invalid JSON"):
        list(read_rows(path))
    with pytest.raises(ConjointError, match="there is no file"):
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


def test_a_resume_with_other_rows_is_refused() -> None:
    other = PtxStream([("row", {"text": "zz"})], RENDERER, PtxConfig(), 0)
    with pytest.raises(ConjointError, match=r"ptx\.source are not those"):
        other.load_state(stream().state())


def test_config_is_checked() -> None:
    for bad in (
        PtxConfig(weight=-1.0),
        PtxConfig(rows_per_step=0),
        PtxConfig(max_tokens=1),
        PtxConfig(heldout=-1),
        PtxConfig(schedule="steps"),
        PtxConfig(end_weight=0.5),
        PtxConfig(schedule="linear", end_weight=-0.5),
    ):
        with pytest.raises(ConjointError, match="ptx"):
            bad.validate()


def test_weight_schedules() -> None:
    def weights(schedule: str) -> list[float]:
        config = PtxConfig(weight=1.0, schedule=schedule, end_weight=0.2)
        return [config.weight_at(step, 4) for step in range(5)]

    assert weights("constant") == [1.0] * 5
    assert weights("linear") == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert weights("cosine") == pytest.approx([1.0, 0.8828, 0.6, 0.3172, 0.2], abs=1e-4)
    assert PtxConfig(weight=0.0, schedule="linear", end_weight=0.2).enabled
    assert not PtxConfig(weight=0.0).enabled


def rows_of(texts: Sequence[str]) -> list[tuple[str, dict]]:
    return [("row", {"text": text}) for text in texts]


def test_held_out_rows_are_never_trained_whatever_order_seed_and_repeats() -> None:
    texts = [f"{i:03d}" for i in range(100)]
    config = PtxConfig(rows_per_step=10, heldout=8)

    def apart(s: PtxStream) -> set[tuple[int, ...]]:
        return {tuple(row.tokens) for row in s.heldout}

    one = PtxStream(rows_of(texts), RENDERER, config, seed=0)
    two = PtxStream(rows_of([*texts[::-1], *texts]), RENDERER, config, seed=7)
    assert len(one.heldout) == 8 and apart(one) == apart(two)
    for s, epochs in ((one, 2), (two, 2)):
        drawn = {tuple(row.tokens) for _ in range(20 * epochs) for row in s.next()}
        assert len(drawn) == 92 and not drawn & apart(s)


def test_a_small_source_keeps_nine_tenths_of_its_rows() -> None:
    def heldout(count: int) -> int:
        rows = rows_of([f"{i:03d}" for i in range(count)])
        return len(PtxStream(rows, RENDERER, PtxConfig(heldout=32), 0).heldout)

    assert [heldout(n) for n in (1, 9, 10, 40, 512)] == [0, 0, 1, 4, 32]
    assert not PtxStream(rows_of(["ab"] * 20), RENDERER, PtxConfig(), 0).heldout
