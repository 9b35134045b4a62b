"""Nano: tokenizer, model, SFT rows, the cache of the trained policy."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conjoint.envs.confidence import asking, split
from conjoint.envs.nano.sources import SOURCES, demonstrations
from conjoint.envs.types import ConjointError, Task
from conjoint.rewards.judge.prompt import judge_messages, parse_verdict
from conjoint.rewards.registry import RewardConfig
from conjoint.rewards.rubrics.find import load_rubrics
from conjoint.rl.learner.optim.batched_muon import MuonAdamW, orthogonalise
from conjoint.rl.nano import cache as nano_cache
from conjoint.rl.nano import sft
from conjoint.rl.nano.cache import nano_folder, nano_policy
from conjoint.rl.nano.model import END, ROLES, NanoConfig, build_model, build_tokenizer, save_policy
from conjoint.rl.nano.sft import (
    Conversation,
    SftConfig,
    bucketed,
    judge_conversations,
    ptx_conversations,
    sft_conversations,
    tokenize,
    train_sft,
)

SMALL = SftConfig(
    rows={"math": 96, "code": 96, "instruction": 96, "open": 32},
    judge_rows=32,
    warmup_steps=2,
)


def flat(units: list[list[Conversation]]) -> list[Conversation]:
    return [row for unit in units for row in unit]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    rows = flat(sft_conversations(SMALL))
    return build_tokenizer((m["content"] for row in rows for m in row), NanoConfig())


@pytest.fixture(scope="module")
def policy(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    save_policy(build_model(tokenizer, NanoConfig(), seed=0), tokenizer, folder)
    return folder


@pytest.mark.parametrize(
    "text", ["Compute 4+7-2.", "héllo\n\tworld  ", "def f(x):\n return x", "日本 🎉", ""]
)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_digits_are_never_merged(tokenizer: Any) -> None:
    pieces = tokenizer.tokenize("12345 67")
    assert len(pieces) == 7


def test_role_and_end_marks_are_single_tokens(policy: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(policy)
    marks = [END, *(f"<|{role}|>" for role in ROLES)]
    assert all(len(loaded(mark, add_special_tokens=False)["input_ids"]) == 1 for mark in marks)
    assert loaded.eos_token == END


def test_the_saved_chat_template_opens_an_answer(policy: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(policy)
    messages = [{"role": "user", "content": "Hi"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Hi<|end|><|assistant|>"
    answered = [*messages, {"role": "assistant", "content": "Yes"}]
    assert loaded.apply_chat_template(answered, tokenize=False) == text + "Yes<|end|>"


def test_the_model_is_small_tied_and_servable(policy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy)
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 3e6
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.head_dim in (32, 64)
    assert model.dtype == torch.float32
    loaded = AutoTokenizer.from_pretrained(policy)
    assert model.generation_config.eos_token_id == loaded.eos_token_id


def test_the_seed_alone_decides_the_weights(tokenizer: Any) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, same = (build_model(tokenizer, NanoConfig(), seed=1) for _ in range(2))
    other = build_model(tokenizer, NanoConfig(), seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(one.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_labels_cover_the_answer_and_its_end_alone(tokenizer: Any) -> None:
    for row in tokenize(tokenizer, demonstrations["code"]("sft", 20)):
        trained = [i for i, label in enumerate(row["labels"]) if label != -100]
        first = trained[0]
        assert trained == list(range(first, len(row["input_ids"])))
        assert row["labels"][first:] == row["input_ids"][first:]
        assert tokenizer.decode(row["input_ids"][:first]).endswith("<|assistant|>")
        assert row["labels"][-1] == tokenizer.eos_token_id


def test_rows_rendered_in_parts_equal_the_whole_template(tokenizer: Any) -> None:
    conversations = demonstrations["instruction"]("sft", 20)
    for row, conversation in zip(tokenize(tokenizer, conversations), conversations, strict=True):
        whole = tokenizer.apply_chat_template(conversation, tokenize=False)
        assert row["input_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_bucketing_keeps_every_full_batch_and_saves_padding(tokenizer: Any) -> None:
    rows = tokenize(tokenizer, flat(sft_conversations(SMALL)))
    ordered = bucketed(rows, 16, seed=0)
    assert ordered == bucketed(rows, 16, seed=0)
    assert len(ordered) == len(rows) // 16 * 16
    counts = Counter(str(r) for r in ordered)
    assert not counts - Counter(str(r) for r in rows)

    def padded(order: list) -> int:
        runs = [order[i : i + 16] for i in range(0, len(order) - 15, 16)]
        return sum(16 * max(len(r["input_ids"]) for r in run) for run in runs)

    assert padded(ordered) < 0.8 * padded(rows)


def test_judge_rows_are_readable_and_favour_no_letter() -> None:
    rows = judge_conversations("sft", 80, seed=0)
    verdicts = [parse_verdict(row[-1]["content"], sft.JUDGE_TEMPLATE) for row in rows]
    assert Counter(v.winner for v in verdicts if v) == {"A": 40, "B": 40}
    questions = {row[0]["content"].splitlines()[0] for row in rows}
    asked = [
        judge_messages(Task.make("open", "?"), "x", "y", rubrics, sft.JUDGE_TEMPLATE)
        for rubrics in (load_rubrics(RewardConfig().rubrics), [])
    ]
    assert questions == {message["content"].splitlines()[0] for (message,) in asked}


def test_verdicts_come_last_among_rehearsed_demonstrations_both_orders_together() -> None:
    units = sft_conversations(replace(SMALL, rehearsed=0.25))
    rows = [row[0]["content"] for row in flat(units)]
    judged = [i for i, prompt in enumerate(rows) if prompt.startswith("Judge:")]
    assert len(rows) == 320 + 32
    assert judged[0] >= 240, "three quarters of the demonstrations stand before them"
    assert len(set(range(240, 352)) - set(judged)) == 80
    for i in judged[::2]:
        a, b = (rows[j].rpartition("\nA: ")[2].split("\nB: ") for j in (i, i + 1))
        assert a == b[::-1]


def test_a_stated_confidence_tells_nothing_of_the_answer_and_changes_no_other_row() -> None:
    plain = flat(sft_conversations(SMALL))
    stated = flat(sft_conversations(replace(SMALL, confidence=["math"])))
    assert stated == flat(sft_conversations(replace(SMALL, confidence=["math"]))), (
        "drawn by the seed"
    )
    changed = [(p, s) for p, s in zip(plain, stated, strict=True) if p != s]
    assert len(changed) == SMALL.rows["math"]
    said = []
    for before, after in changed:
        answer, confidence = split(after[-1]["content"])
        assert answer == before[-1]["content"] and after[:-1] == asking(before[:-1])
        assert "Compute" in after[0]["content"]
        said.append(confidence)
    assert {round(10 * q) for q in said} == set(range(11))
    other = flat(sft_conversations(replace(SMALL, confidence=["math"], seed=SMALL.seed + 1)))
    assert [r[-1] for r in other] != [r[-1] for r in stated]


def test_the_way_in_which_a_confidence_is_asked_for_decides_nano() -> None:
    assert "envs/confidence.py" in nano_cache._SOURCE_CODE
    assert nano_folder(replace(SMALL, confidence=["math"])) != nano_folder(SMALL)


def test_ptx_rows_are_verdicts_and_open_answers_only() -> None:
    rows = ptx_conversations(80)
    judged = [r for r in rows if r[0]["content"].startswith("Judge:")]
    opened = {row[0]["content"] for row in demonstrations["open"]("ptx", 20)}
    assert len(rows) == 80
    assert len(judged) == 60
    assert {r[0]["content"] for r in rows if r not in judged} == opened


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"poetry": 5}}, "sft.rows names 'poetry'"),
        ({"rows": {"math": -1}}, "0 or more"),
        ({"confidence": ["open"]}, "sft.confidence names 'open'"),
        ({"rows": {"math": 3}, "judge_rows": 0}, "sft.batch_size is 32"),
        ({"muon_lr": 0.0}, "must be above 0"),
        ({"rehearsed": 1.5}, "sft.rehearsed is 1.5; expected 0 to 1"),
    ],
)
def test_a_config_that_cannot_train_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConjointError, match=message):
        SftConfig(**change).validate()


def test_sft_trains_and_saves_a_folder_that_opens(tmp_path: Path) -> None:
    measured = train_sft(SMALL, tmp_path)
    assert measured["steps"] == 11
    assert measured["loss"] < 6.4, "a uniform guess over 768 tokens costs 6.64"
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_the_policy_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []

    def train(cfg: SftConfig, output: Path, asked: object) -> dict[str, float]:
        builds.append(cfg)
        (output / "config.json").write_text("{}")
        return {"seconds": 1.0}

    monkeypatch.setattr(nano_cache, "train_sft", train)
    folder = nano_policy(SMALL, cache_dir=tmp_path)
    assert (
        nano_policy(SMALL, cache_dir=tmp_path) == folder == nano_folder(SMALL, cache_dir=tmp_path)
    )
    assert builds == [SMALL]
    assert json.loads((folder / "sft.json").read_text())["seconds"] == 1.0
    assert nano_policy(SftConfig(), cache_dir=tmp_path) != folder
    assert len(builds) == 2


def test_a_build_that_breaks_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(cfg: SftConfig, output: Path, asked: object) -> dict[str, float]:
        (output / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(nano_cache, "train_sft", train)
    with pytest.raises(KeyboardInterrupt):
        nano_policy(SMALL, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_orthogonalised_matrices_have_singular_values_near_1() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 48), (3, 48, 16), (2, 32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_the_adam_half_equals_torch_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
    one = MuonAdamW(ours, muon_lr=0.1, adam_lr=0.01)
    two = torch.optim.AdamW(theirs.parameters(), 0.01, betas=(0.9, 0.98), weight_decay=0)
    for _ in range(5):
        x = torch.randn(4, 8)
        for model, optimizer in ((ours, one), (theirs, two)):
            optimizer.zero_grad()
            model(x).pow(3).sum().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_a_muon_step_has_the_length_of_its_learning_rate() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 16, bias=False)
    before = layer.weight.detach().clone()
    layer(torch.randn(4, 16)).pow(2).sum().backward()
    MuonAdamW(layer, muon_lr=0.1, adam_lr=0.01).step()
    length = torch.linalg.matrix_norm(layer.weight.detach() - before, ord=2)
    assert 0.05 < float(length) < 0.13


def test_every_kind_has_a_source_and_demonstrations() -> None:
    assert set(SftConfig().rows) == set(SOURCES) == set(demonstrations)
