"""Preference data: what a row may look like, what is left out, and what the critic is shown."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conjoint.envs.types import ConjointError
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.prompt import parse_verdict
from conjoint.rl.config.compose import load_config
from conjoint.rl.nano import cache as nano_cache
from conjoint.rl.nano.cache import nano_key
from conjoint.rl.nano.preferences import Asked, PreferenceConfig, preference_of, read_preferences
from conjoint.rl.nano.sft import SftConfig, sft_conversations, sft_rows
from conjoint.rl.nano.start_policy import _asked_overrides, _overrides
from conjoint.scripts.sft import run

USER = [{"role": "user", "content": "Name a sea."}]
GOOD, BAD = "The Baltic Sea is one.", "Seas are wet, and I like them."
COMPACT = Asked(JudgeConfig(template="compact"), ("clarity",))
SMALL = SftConfig(
    rows={"math": 40, "code": 40, "instruction": 40, "open": 20},
    judge_rows=40,
    batch_size=4,
)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(n: int, **changes: Any) -> dict[str, Any]:
    """Pairs that differ, the better one naming its number."""
    return {"prompt": f"Name sea {n}.", "chosen": f"{GOOD} {n}", "rejected": BAD, **changes}


def write(folder: Path, rows: list[Any], name: str = "pairs.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def with_file(path: str, **changes: Any) -> SftConfig:
    return replace(SMALL, preferences=PreferenceConfig(path, **changes))


# -- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a sea.", "chosen": GOOD, "rejected": BAD},
        {"prompt": USER, "chosen": said(GOOD), "rejected": said(BAD)},
        {"prompt": "Name a sea.", "chosen": said(GOOD), "rejected": said(BAD), "score": 3},
        {"chosen": USER + said(GOOD), "rejected": USER + said(BAD)},
        {"prompt": None, "chosen": USER + said(GOOD), "rejected": USER + said(BAD)},
        # The prompt once more inside both conversations.
        {"prompt": "Name a sea.", "chosen": USER + said(GOOD), "rejected": USER + said(BAD)},
        {"prompt": USER, "chosen": USER + said(GOOD), "rejected": USER + said(BAD)},
    ],
)
def test_every_form_of_row_is_the_same_pair(row: dict[str, Any]) -> None:
    task, better, worse = preference_of(row)
    assert (list(task.messages), better, worse) == (USER, GOOD, BAD)


def test_a_prompt_of_several_turns_is_what_both_sides_begin_with() -> None:
    system = [{"role": "system", "content": "Be brief."}]
    head = [*system, *USER, *said("The North Sea."), {"role": "user", "content": "Another."}]
    for prompt in ({}, {"prompt": "Another."}, {"prompt": head}):
        row = {**prompt, "chosen": head + said(GOOD), "rejected": head + said(BAD)}
        assert list(preference_of(row)[0].messages) == head


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"chosen": GOOD, "rejected": BAD}, "field 'prompt' is missing"),
        ({"prompt": "Name a sea.", "chosen": GOOD}, "field 'rejected' is missing"),
        (pair(1, chosen=3), "field 'chosen' is 3"),
        (pair(1, rejected=[]), r"field 'rejected' is \[\]"),
        (pair(1, chosen=["x"]), r"field 'chosen\[0\]' is no message"),
        (pair(1, chosen=[{"role": "assistant", "content": None}]), "is no message"),
        (pair(1, chosen=USER), "'chosen' does not end with a message of role assistant"),
        (pair(1, prompt="  "), "the prompt is blank"),
        (pair(1, prompt=said("x")), "the prompt ends with a message of role 'assistant'"),
        (pair(1, chosen="\ud800"), "surrogates not allowed"),
        (
            {"prompt": "Else?", "chosen": USER + said(GOOD), "rejected": USER + said(BAD)},
            "'prompt' is not what 'chosen' and 'rejected' begin with",
        ),
        (
            {"chosen": USER + said(GOOD), "rejected": [*USER, *said("x"), *USER, *said(BAD)]},
            "differ before their last message",
        ),
        (pair(1, rubrics=["nowhere"]), "no rubric 'nowhere'"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(
    row: dict[str, Any], why: str, tmp_path: Path
) -> None:
    path = write(tmp_path, [pair(0), row])
    with pytest.raises(ConjointError, match=why) as error:
        read_preferences(path, COMPACT, 0)
    assert f"sft.preferences.path: {path} line 2: " in str(error.value)


def test_parquet_rows_are_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([pair(0), pair(1)]), path)
    assert [p[1] for p in read_preferences(str(path), COMPACT, 0).pairs] == [
        f"{GOOD} 0",
        f"{GOOD} 1",
    ]
    pq.write_table(pa.Table.from_pylist([pair(0), {"prompt": "x"}]), path)
    with pytest.raises(ConjointError, match=r"pairs.parquet row 2: field 'chosen' is missing"):
        read_preferences(str(path), COMPACT, 0)


def test_pairs_that_no_judge_is_asked_about_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        pair(0),
        pair(1, rejected=f"{GOOD} 1"),
        pair(2, rejected=f" {GOOD} 2\u200b"),
        pair(3, chosen="..."),
        pair(4, rejected=""),
        pair(5, chosen="Great question! The Baltic Sea."),
    ]
    found = read_preferences(
        write(tmp_path, rows), replace(COMPACT, rubrics=("clarity", "no_praise")), 0
    )
    assert [task.prompt for task, *_ in found.pairs] == ["Name sea 0."]
    assert found.left_out == {"alike": 2, "blank": 2, "against a hard rule": 1}


def test_a_file_without_a_pair_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [pair(0, rejected=""), pair(1, chosen=BAD)])
    with pytest.raises(ConjointError, match=r"holds no pair for a judge \(1 blank, 1 alike\)"):
        read_preferences(path, COMPACT, 0)
    with pytest.raises(ConjointError, match="holds no rows"):
        read_preferences(write(tmp_path, []), COMPACT, 0)


# -- demonstrations ------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["full", "letter", "compact"])
def test_each_pair_is_the_judges_own_question_in_both_orders(template: str, tmp_path: Path) -> None:
    asked = Asked(JudgeConfig(template=template), ("clarity", "fluency"))
    path = write(tmp_path, [pair(n) for n in range(6)])
    found = read_preferences(path, asked, 0)
    verdicts = found.verdicts(100, asked.judge, seed=0)
    assert len(verdicts) == 6 and all(len(orders) == 2 for orders in verdicts)
    for orders in verdicts:
        for winner, (prompt, answer) in zip("AB", orders, strict=True):
            verdict = parse_verdict(answer["content"], template)
            assert verdict is not None and verdict.winner == winner
            better, worse = (prompt["content"].index(text) for text in (GOOD, BAD))
            assert (better < worse) == (winner == "A")
    words = {"full": "natural when read aloud", "letter": "as few words as", "compact": "on topic"}
    assert all(words[template] in row[0]["content"] for orders in verdicts for row in orders)


def test_without_rubrics_the_question_is_which_answer_is_correct_unless_the_row_has_its_own(
    tmp_path: Path,
) -> None:
    asked = replace(COMPACT, rubrics=())
    found = read_preferences(write(tmp_path, [pair(0), pair(1, rubrics=["safety"])]), asked, 0)
    first = [r[0][0]["content"].splitlines()[0] for r in found.verdicts(9, asked.judge, 0)]
    assert sorted(first) == ["Judge: correct", "Judge: safe, no needless refusal"]


def test_long_answers_are_quoted_as_the_judge_quotes_them(tmp_path: Path) -> None:
    asked = replace(COMPACT, judge=JudgeConfig(template="compact", max_answer_chars=50))
    found = read_preferences(write(tmp_path, [pair(0, chosen="sea " * 99)]), asked, 0)
    ((row, _),) = found.verdicts(2, asked.judge, 0)
    assert len(row[0]["content"]) < 220


def test_a_file_changes_the_demonstrations_by_its_share(tmp_path: Path) -> None:
    path = write(tmp_path, [pair(n) for n in range(50)])

    def prompts(cfg: SftConfig) -> list[str]:
        pairs = []
        if cfg.preferences.path:
            found = read_preferences(path, COMPACT, cfg.seed)
            rows = round(cfg.judge_rows * cfg.preferences.share)
            pairs = found.verdicts(rows, COMPACT.judge, cfg.seed)
        units = sft_conversations(cfg, pairs)
        return [row[0]["content"] for unit in units for row in unit]

    def judged(found: list[str]) -> tuple[int, int]:
        of_file = [p for p in found if "\nQ: Name sea" in p]
        return len(of_file), sum(p.startswith("Judge:") for p in found)

    plain, half = prompts(SMALL), prompts(with_file(path))
    assert judged(plain) == (0, 40) and judged(half) == (20, 40)
    assert judged(prompts(with_file(path, share=0.1))) == (4, 40)
    assert judged(prompts(with_file(path, share=1.0))) == (40, 40)
    assert Counter(p for p in plain if not p.startswith("Judge:")) == Counter(
        p for p in half if not p.startswith("Judge:")
    )
    other = prompts(replace(with_file(path), seed=1))
    assert {p for p in other if "Name sea" in p} != {p for p in half if "Name sea" in p}


def test_rows_carry_loss_on_the_verdict_alone(tmp_path: Path) -> None:
    path = write(tmp_path, [pair(n) for n in range(50)])
    tokenizer, rows, counts = sft_rows(with_file(path, share=1.0), COMPACT)
    assert counts == {"preference_pairs": 20, "preferences_left_out/too long": 0}
    trained: Counter[str] = Counter()
    for row in rows:
        text = tokenizer.decode(row["input_ids"])
        if "Q: Name sea" in text:
            labels = [label for label in row["labels"] if label != -100]
            assert row["labels"][-len(labels) :] == row["input_ids"][-len(labels) :] == labels
            trained[tokenizer.decode(labels)] += 1
    assert set(trained) == {f"A{tokenizer.eos_token}", f"B{tokenizer.eos_token}"}
    assert abs(trained["A<|end|>"] - trained["B<|end|>"]) <= 3, "of the rows that fill no batch"


def test_rows_too_long_for_the_context_leave_with_their_other_order(tmp_path: Path) -> None:
    rows = [pair(n, chosen=f"{GOOD} " * 150) if n % 2 else pair(n) for n in range(12)]
    path = write(tmp_path, rows)
    cfg = with_file(path, share=1.0)
    _, found, counts = sft_rows(cfg, COMPACT)
    assert counts == {"preference_pairs": 6, "preferences_left_out/too long": 6}
    assert max(len(row["input_ids"]) for row in found) <= cfg.model.max_length
    # Generated verdicts take the places of those that did not fit: as many rows as ever.
    assert len(found) == sum(SMALL.rows.values()) + SMALL.judge_rows
    with pytest.raises(ConjointError, match=r"none of 6 pairs .* fits sft.model.max_length=512"):
        sft_rows(with_file(write(tmp_path, rows[1::2], "long.jsonl")), COMPACT)


def test_the_command_says_what_became_of_the_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, [pair(0), pair(1), pair(2, rejected=f"{GOOD} 2")])

    def train(cfg: SftConfig, output: Path, asked: Asked) -> dict[str, float]:
        return sft_rows(cfg, asked)[2]

    monkeypatch.setattr(nano_cache, "train_sft", train)
    monkeypatch.setenv("CONJOINT_CACHE", str(tmp_path / "cache"))
    assert run([f"sft.preferences.path={path}", "judge.template=compact"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "preferences: 2 pairs; left out: 1 alike"
    assert Path(said[-1]).is_dir()
    with pytest.raises(ConjointError, match="makes nano and no other"):
        run(["model=smollm2-135m"])


# -- keys ----------------------------------------------------------------------------------------


def test_file_template_and_rubrics_decide_which_nano_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, [pair(0)])
    cfg = with_file(path)
    keys = {
        nano_key(SMALL),
        nano_key(cfg, COMPACT),
        nano_key(with_file(path, share=0.25), COMPACT),
        nano_key(cfg, replace(COMPACT, rubrics=("fluency",))),
        nano_key(cfg, replace(COMPACT, judge=JudgeConfig(template="letter"))),
    }
    write(tmp_path, [pair(0), pair(1)])
    keys.add(nano_key(cfg, COMPACT))
    assert len(keys) == 6
    # Without a file the judge changes nothing, so that a run's own judge builds no second nano.
    assert nano_key(SMALL, COMPACT) == nano_key(SMALL)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["sft.preferences.share=0", "sft.preferences.path=x.jsonl"], "expected above 0"),
        (["sft.preferences.share=0.2"], "has no effect without sft.preferences.path"),
        (["sft.preferences.path=x.jsonl", "sft.judge_rows=1"], "no room for a pair"),
        (["sft.preferences.path=x.jsonl", "model=smollm2-135m"], "set model=nano"),
    ],
)
def test_keys_that_do_nothing_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(ConjointError, match=why):
        load_config(words)


def test_a_file_that_is_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConjointError, match=r"sft.preferences.path: there is no file"):
        nano_key(with_file(str(tmp_path / "absent.jsonl")))


def test_a_run_hands_its_judge_to_the_process_that_builds_nano(tmp_path: Path) -> None:
    path = write(tmp_path, [pair(0)], "it's, a [file].jsonl")
    words = [f"sft.preferences.path='{path.replace(chr(39), chr(92) + chr(39))}'"]
    words += ["judge.template=compact", "reward.rubrics=[fluency,safety]", "sft.seed=3"]
    cfg = load_config(words)
    assert cfg.sft.preferences.path == path
    again = load_config([*_overrides("sft", asdict(cfg.sft)), *_asked_overrides(cfg.asked)])
    assert (again.sft, again.asked.rubrics) == (cfg.sft, cfg.asked.rubrics)
    assert nano_key(again.sft, again.asked) == nano_key(cfg.sft, cfg.asked)
