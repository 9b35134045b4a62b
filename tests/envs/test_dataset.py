"""Dataset rows: every form loads, and every malformed row is refused with file, line and field."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from conjoint.envs.sources.dataset import DatasetSource
from conjoint.envs.types import ConjointError
from conjoint.rewards.instructions import reward as instructions
from conjoint.rewards.math import reward as math_reward

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

TRL_TEXT = {"prompt": "2+2?", "answer": "4", "level": 1}
TRL_CHAT = {
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}],
    "solution": "so \\boxed{4}",
}
VERL = {
    "data_source": "x/y",
    "prompt": [{"role": "user", "content": "2+2?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 3},
}
GSM8K = {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}


CHECKS = {
    "math": math_reward.validate_reference,
    "instruction": instructions.validate_reference,
}


def write(folder: Path, rows: list[Any], ending: str = ".jsonl") -> Path:
    path = folder / f"rows{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, kind: str = "math", suffix: str = "") -> DatasetSource:
    return DatasetSource(path, kind, suffix=suffix, validate=CHECKS.get(kind))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("row", [TRL_TEXT, TRL_CHAT, VERL, GSM8K])
def test_each_form_gives_the_same_task(tmp_path: Path, row: dict, ending: str) -> None:
    source = load(write(tmp_path, [row, row], ending), suffix="Put it in \\boxed{}.")
    task = source.task(1)
    assert len(source) == 2 and source.kind == task.kind == "math"
    assert math_reward.reference_answer(task.reference) == "4"
    assert task.prompt == "2+2?\nPut it in \\boxed{}."
    assert "4" not in json.dumps(task.messages)


def test_further_columns_are_meta(tmp_path: Path) -> None:
    assert load(write(tmp_path, [TRL_TEXT])).task(0).meta == {"level": 1}
    meta = load(write(tmp_path, [VERL])).task(0).meta
    assert meta == {
        "data_source": "x/y",
        "ability": "math",
        "split": "train",
        "index": 3,
        "conversational": True,
    }


def test_instruction_checks_survive_both_file_forms(tmp_path: Path) -> None:
    checks = [{"name": "case", "style": "lower"}, {"name": "includes", "keyword": "sea"}]
    rows = [{"prompt": "Write.", "reference": {"checks": checks}}]
    for ending in (".jsonl", ".parquet"):
        reference = load(write(tmp_path, rows, ending), "instruction").task(0).reference
        instructions.validate_reference(reference)


def test_open_rows_need_no_reference(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "Tell me of the sea."}])
    assert DatasetSource(path, "open").task(0).reference is None


def test_a_kind_of_ones_own_with_a_verifier_needs_what_the_verifier_needs(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "1+1?", "answer": "2"}, {"prompt": "2+2?", "answer": None}])
    check = math_reward.validate_reference
    with pytest.raises(ConjointError, match=r"line 2: field 'answer' is missing; kind 'algebra'"):
        DatasetSource(path, "algebra", validate=check)


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "\r\n\r\n".join(json.dumps(TRL_TEXT) for _ in range(2))
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert len(load(path)) == 2


def test_gsm8k_itself_loads() -> None:
    path = SHARED / "gsm8k_test.jsonl"
    if not path.exists():
        pytest.skip("gsm8k_test.jsonl is not beside this checkout")
    source = load(path)
    assert len(source) == 1319 and source.task(0).reference == "18"


NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "2+2?"}, "field 'prompt' is missing; expected TRL's form"),
        ({"prompt": None, "answer": "4"}, "field 'prompt' is null"),
        ({"question": None, "answer": "#### 4"}, "field 'question' is null"),
        ({"prompt": "", "answer": "4"}, "field 'prompt' is empty"),
        ({"prompt": 5, "answer": "4"}, "field 'prompt' is a number; expected text or a list"),
        ({"prompt": [], "answer": "4"}, "field 'prompt' is an empty list"),
        ({"prompt": ["2+2?"], "answer": "4"}, r"field 'prompt\[0\]' is text"),
        (
            {"prompt": [{"role": "me", "content": "x"}], "answer": "4"},
            r"prompt\[0\]\.role' is 'me'",
        ),
        ({"prompt": [{"role": [], "content": "x"}], "answer": "4"}, r"prompt\[0\]\.role'"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "4"},
            r"field 'prompt\[0\]\.content' is a list; expected text",
        ),
        (
            {"prompt": [{"role": "assistant", "content": "x"}], "answer": "4"},
            "ends with a message of role 'assistant'; expected user",
        ),
        ({"prompt": "2+2?"}, "field 'answer' is missing; kind 'math' needs"),
        ({"prompt": "2+2?", "answer": None}, "is missing; kind 'math' needs"),
        ({"prompt": "2+2?", "answer": NAN}, "field 'answer' is nan"),
        ({"prompt": "2+2?", "answer": " "}, "field 'answer' is empty"),
        ({"prompt": "2+2?", "answer": True}, "field 'answer': expected text or a number"),
        ({"prompt": "2+2?", "answer": "None"}, "field 'answer': 'None' is not an answer"),
        ({"prompt": "2+2?", "answer": ["4"]}, "field 'answer': expected text or a number"),
        ({"prompt": "\ud800", "answer": "4"}, "unpaired surrogate"),
        (
            {"question": "2+2?", "answer": "It is 4"},
            "field 'answer' does not end in a line '#### n'",
        ),
        ({"question": "2+2?", "answer": "####  "}, "does not end in a line"),
        ({"question": "2+2?"}, "field 'answer' is null"),
        ({**VERL, "reward_model": "rule"}, "field 'reward_model' is text; expected an object"),
        ({**VERL, "reward_model": {}}, "field 'reward_model.ground_truth' is missing"),
        ({**VERL, "prompt": None}, "field 'prompt' is null"),
        ({**VERL, "extra_info": 3}, "field 'extra_info' is a number"),
        (["2+2?", "4"], "a list instead of a JSON object"),
        (None, "null instead of a JSON object"),
    ],
)
def test_a_malformed_row_is_refused_with_file_line_and_field(
    tmp_path: Path, row: Any, says: str
) -> None:
    path = write(tmp_path, [TRL_TEXT, row])
    with pytest.raises(ConjointError, match=says) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} line 2: ") and "\n" not in message


def test_a_bad_parquet_row_is_named_by_its_row(tmp_path: Path) -> None:
    path = write(
        tmp_path, [{"prompt": "a", "answer": "1"}, {"prompt": None, "answer": "2"}], ".parquet"
    )
    with pytest.raises(ConjointError, match="row 2: field 'prompt' is null"):
        load(path)


def test_an_instruction_reference_is_checked_by_its_kind(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "Write.", "reference": {"checks": [{"name": "rhymes"}]}}])
    with pytest.raises(ConjointError, match="line 1: field 'reference': check 1 has the name"):
        load(path, "instruction")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"a,b", "holds no rows"),
        ("rows", b"{}", "expected .jsonl, .json, .csv or .parquet"),
        ("rows.jsonl", b"", "holds no rows"),
        ("rows.jsonl", b"\n \n", "holds no rows"),
        ("rows.jsonl", b'{"prompt": "a", "answer": "1"}\n{"prompt": ', "line 2: invalid JSON"),
        ("rows.jsonl", b"[" * 100_000, "line 1: invalid JSON"),
        ("rows.jsonl", b'{"prompt": ' + b"1" * 5_000 + b"}", "line 1: invalid JSON"),
        ("rows.jsonl", b'{"prompt": "caf\xe9"}', "line 1: byte 16 is not UTF-8"),
        ("rows.parquet", b"no parquet at all", "not a readable parquet file"),
        ("rows.parquet", b"", "not a readable parquet file"),
    ],
)
def test_a_file_that_is_not_one_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConjointError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConjointError, match="there is no file"):
        load(tmp_path / "no.jsonl")
    with pytest.raises(ConjointError, match="is a folder"):
        load(tmp_path)


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "verl, nested columns as JSON text": (
        {
            "data_source": "x/y",
            "prompt": json.dumps(MESSAGES),
            "reward_model": json.dumps({"style": "rule", "ground_truth": "4"}),
            "extra_info": json.dumps({"index": 3}),
        },
        {"data_source": "x/y", "index": 3},
    ),
    "SkyRL": (
        {
            "data_source": "x/y",
            "prompt": MESSAGES,
            "env_class": "gsm8k",
            "reward_spec": {"method": "rule", "ground_truth": "4"},
            "extra_info": {"index": 3},
        },
        {"data_source": "x/y", "env_class": "gsm8k", "index": 3},
    ),
    "slime": (
        {"prompt": MESSAGES, "label": "4", "metadata": {"level": 1}},
        {"metadata": {"level": 1}},
    ),
    "slime, its own default key": ({"input": "2+2?", "label": "4"}, {}),
    "verifiers": (
        {"question": "2+2?", "answer": "4", "info": '{"level": 1}', "task": "sums"},
        {"info": {"level": 1}, "task": "sums"},
    ),
    "verifiers, bare": ({"question": "2+2?", "answer": "4"}, {}),
    "verifiers, messages": (
        {"prompt": MESSAGES, "answer": "4", "info": {}, "example_id": 0},
        {"info": {}, "example_id": 0},
    ),
    "open-instruct": (
        {"messages": MESSAGES, "ground_truth": "4", "dataset": "gsm8k"},
        {"dataset": "gsm8k"},
    ),
    "open-instruct, lists and the demonstration": (
        {
            "messages": [*MESSAGES, {"role": "assistant", "content": "It is 4."}],
            "ground_truth": ["4"],
            "dataset": ["math"],
        },
        {"dataset": ["math"]},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet"])
def test_rows_of_other_trainers_load(tmp_path: Path, form: str, ending: str) -> None:
    row, meta = FORMS[form]
    if ending.startswith(".csv"):  # a table holds what is nested as JSON text
        row = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
        meta = {k: v if k in ("info", "metadata", "index") else row[k] for k, v in meta.items()}
        row = {k: v.strip('["]') if k == "ground_truth" else v for k, v in row.items()}
    if ending == ".parquet" and {} in row.values():
        pytest.skip("a parquet file has no empty objects")
    source = load(table(tmp_path / f"rows{ending}", [row, row]))
    task = source.task(1)
    assert len(source) == 2 and task.reference == "4" and task.prompt == "2+2?"
    conversational = task.meta.get("conversational", False)
    assert conversational == (len(task.messages) == 2)
    assert {k: v for k, v in task.meta.items() if k != "conversational"} == meta


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the form that the ending of the path names."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    text = io.StringIO()
    if ".csv" in path.name:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.write(json.dumps(rows, indent=1))
        if ".jsonl" in path.name:
            text = io.StringIO("".join(json.dumps(row) + "\n" for row in rows))
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("text", ["[1, 2] is a list. Sum it.", '[{"role": "user"', "[]", "[3]"])
def test_a_prompt_that_begins_with_a_bracket_stays_text(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, [{"prompt": text, "answer": "4"}])).task(0).prompt == text


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": '[{"role": "robot", "content": "x"}]', "answer": "4"}, r"prompt\[0\].role' is"),
        ({"messages": [], "ground_truth": "4"}, "field 'messages' is an empty list"),
        ({"prompt": "2+2?", "reward_spec": {"method": "rule"}}, "'reward_spec.ground_truth' is"),
        ({"prompt": "2+2?", "label": True}, "field 'label'"),
        ({"messages": [{"role": "assistant", "content": "4"}], "answer": "4"}, "expected user"),
    ],
)
def test_a_malformed_row_of_another_trainer_is_refused(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(ConjointError, match=says):
        load(write(tmp_path, [TRL_TEXT, row]))
