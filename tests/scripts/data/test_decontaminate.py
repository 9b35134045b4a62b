"""Overlap with evaluation sets: planted rows are found, others stay, in order and unchanged."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conjoint.envs.types import ConjointError
from conjoint.scripts.data import decontaminate as tool

QUESTION = (
    "A farmer has seventeen sheep and buys four more at the market on Monday; how many sheep does "
    "the farmer own on Tuesday morning?"
)
OTHER = (
    "Two trains leave the same town at noon in opposite directions at forty and sixty kilometres "
    "an hour; how far apart are they at two o'clock?"
)
SHORT = "What is nine times eight?"


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clean(tmp_path: Path, rows: list[Any], *overrides: str) -> list[Any]:
    source = write(tmp_path / "in.jsonl", rows)
    before = source.read_bytes()
    output = tmp_path / "out.jsonl"
    assert tool.run([f"input={source}", f"output={output}", *overrides]) == 0
    assert source.read_bytes() == before
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return write(tmp_path / "eval.jsonl", [{"question": QUESTION, "id": 1}, {"question": SHORT}])


@pytest.mark.parametrize(
    "planted",
    [
        QUESTION,
        QUESTION.upper().replace(" ", "  \n"),
        f"Solve this. {QUESTION} Think first.",
        QUESTION.replace(",", "").replace(";", " --"),
        # The run of words may stand anywhere in either text.
        "A woman " + " ".join(QUESTION.split()[6:19]) + " today?",
        SHORT.upper(),
    ],
)
def test_a_planted_row_is_dropped_whatever_case_spacing_and_surroundings(
    tmp_path: Path, evaluation: Path, planted: str
):
    kept = clean(tmp_path, [{"prompt": planted}, {"prompt": OTHER}], f"against={evaluation}")
    assert kept == [{"prompt": OTHER}]


@pytest.mark.parametrize(
    "honest",
    [
        OTHER,
        " ".join(QUESTION.split()[6:18]),  # twelve words
        f"{SHORT} And what is nine times nine?",  # a short text counts only as a whole
    ],
)
def test_a_row_that_shares_less_stays(tmp_path: Path, evaluation: Path, honest: str):
    assert clean(tmp_path, [{"prompt": honest}], f"against={evaluation}") == [{"prompt": honest}]


def test_n_sets_the_length_of_a_run(tmp_path: Path, evaluation: Path):
    row = {"prompt": " ".join(QUESTION.split()[6:18])}
    assert clean(tmp_path, [row, {"prompt": OTHER}], f"against={evaluation}", "n=12") == [
        {"prompt": OTHER}
    ]


def test_answers_solutions_and_messages_are_compared_too(tmp_path: Path, evaluation: Path):
    rows = [
        {"prompt": "Say it.", "answer": QUESTION},
        {"prompt": [{"role": "user", "content": QUESTION}], "answer": "21"},
        {"prompt": "Say it.", "reference": {"deep": [{"er": QUESTION}]}},
        {"prompt": OTHER, "answer": "200", "extra": {"a": 1}},
    ]
    assert clean(tmp_path, rows, f"against={evaluation}") == rows[3:]


def test_every_form_of_evaluation_set_and_the_summary_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = [f"{word} {QUESTION[::-1]} {word}" for word in ("one", "two", "three", "four")]
    sets = {name: tmp_path / f"set.{name}" for name in ("json", "jsonl.gz", "parquet", "jsonl")}
    sets["json"].write_text(json.dumps([{"prompt": texts[0]}, {"tests": ["x", 1, None]}]))
    with gzip.open(sets["jsonl.gz"], "wt") as file:
        file.write(json.dumps({"prompt": texts[1]}) + "\n\n")
    pq.write_table(pa.table({"prompt": [texts[2]], "n": [3]}), sets["parquet"])
    write(sets["jsonl"], [{"question": OTHER}])
    rows = [{"prompt": text} for text in texts[:3]] + [{"prompt": "Nothing of the kind."}]
    rows += [{"prompt": f"{OTHER} {texts[0]}"}]
    against = ",".join(map(str, sets.values()))
    # All texts share the reversed question, so n is long enough to need the words around it.
    n = len(tool.words_of(texts[0]))
    assert clean(tmp_path, rows, f"against={against}", f"n={n}") == [rows[3]]
    said = capsys.readouterr().out
    assert "rows in: 5\ndropped: 4\n  overlap with an evaluation set: 4\n" in said
    assert "\nkept: 1 -> " in said
    # The last row overlaps with two sets.
    for name, count in {"json": 2, "jsonl.gz": 1, "parquet": 1, "jsonl": 1}.items():
        assert f"with {sets[name]}: {count}\n" in said


def test_parquet_rows_are_read(tmp_path: Path, evaluation: Path):
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": [QUESTION, OTHER], "answer": ["21", "200"]}), source)
    output = tmp_path / "out.jsonl"
    tool.run([f"input={source}", f"output={output}", f"against={evaluation}"])
    assert json.loads(output.read_text()) == {"prompt": OTHER, "answer": "200"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a b"}\n{"prompt": \n', "in.jsonl line 2: invalid JSON"),
        ('{"prompt": "a b"}\n\n{"text": "x"}\n', "in.jsonl line 3: field 'prompt' is missing"),
    ],
)
def test_a_malformed_row_is_named_and_nothing_is_written(
    tmp_path: Path, evaluation: Path, content: str, words: str
):
    (tmp_path / "in.jsonl").write_text(content)
    output = tmp_path / "out.jsonl"
    with pytest.raises(ConjointError, match=words):
        tool.run([f"input={tmp_path / 'in.jsonl'}", f"output={output}", f"against={evaluation}"])
    assert not output.exists() and not list(tmp_path.glob(".out*"))


def test_a_broken_evaluation_set_is_named_with_its_line(tmp_path: Path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"a": "b"}\n{"a": \n')
    with pytest.raises(ConjointError, match=r"bad\.jsonl line 2: invalid JSON"):
        clean(tmp_path, [{"prompt": OTHER}], f"against={bad}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": "in.jsonl"}, "exists already and is not overwritten"),
        ({"output": "nowhere/out.jsonl"}, "there is no folder"),
        ({"output": "out.parquet"}, r"output=FILE \(.jsonl\)"),
        ({"input": ""}, "give input=FILE"),
        ({"against": "[]"}, "give against="),
        ({"against": "none.jsonl"}, "there is no file none.jsonl"),
        ({"n": "3"}, "n=3 must be at least 4"),
        ({"m": "3"}, "unknown config key m"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", [{"prompt": OTHER}])
    write(tmp_path / "eval.jsonl", [{"prompt": OTHER}])
    keys = {"input": "in.jsonl", "output": "out.jsonl", "against": "eval.jsonl", **changes}
    with pytest.raises(ConjointError, match=words):
        tool.run([f"{key}={value}" for key, value in keys.items()])


DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the public test sets are not here")
def test_public_sets_are_clean_of_each_other_and_found_in_themselves(tmp_path: Path):
    """GSM8K's test split does not hold its training rows; a planted test question is found."""
    train = [json.loads(line) for line in (DATA / "gsm8k_train.jsonl").read_text().splitlines()]
    test = [json.loads(line) for line in (DATA / "gsm8k_test.jsonl").read_text().splitlines()]
    rows = [*train[:1500], *({"question": row["question"], "answer": "#### 1"} for row in test[:9])]
    kept = clean(tmp_path, rows, f"against={DATA / 'gsm8k_test.jsonl'}")
    assert len(kept) >= 1450 and not {row["question"] for row in test} & {
        row["question"] for row in kept
    }
