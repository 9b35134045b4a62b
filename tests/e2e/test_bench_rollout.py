"""`conjoint bench rollout` on a tiny model: both sides of every part really run. No timing is
asserted."""

import json
from pathlib import Path

import pytest

from conjoint.scripts.bench.config import AT_MOST, ROLLOUT_TARGETS
from tests.e2e.conftest import conjoint
from tests.fakes import tiny_llama

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PROMPTS, SIZE, ANSWER = 2, 4, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a shape that vLLM's CPU attention serves, tied as nano and SmolLM2 are."""
    from conjoint.rl.nano.model import NanoConfig, build_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(["one two three"] * 9, NanoConfig(vocab_size=320))
    tokenizer.save_pretrained(path)
    return tiny_llama(
        path,
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=320,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )


@pytest.mark.proof
def test_every_part_sets_our_engine_and_learner_beside_the_other_side(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bench.json"
    targets = {name: 1e9 if name in AT_MOST else 0 for name in ROLLOUT_TARGETS}
    ended = conjoint(
        *("bench", "rollout", f"output={file}", f"bench.model={folder}"),
        "bench.targets={" + ", ".join(f"{k}: {v}" for k, v in targets.items()) + "}",
        *(f"bench.prompts={PROMPTS}", f"bench.group_size={SIZE}", f"bench.answer_tokens={ANSWER}"),
        *("bench.repeats=2", "reward.rubrics=[no_praise]", "judge.template=letter"),
        timeout=800,
    )
    assert ended.code == 0, ended.output
    result = json.loads(file.read_text())
    ratios, setting = result["ratios"], result["setting"]
    assert ratios.keys() == ROLLOUT_TARGETS.keys()
    runs = {name: r["runs"][0] for name, r in ratios.items()}
    for name, over, under in (
        ("generation_time", "ours", "bare"),
        ("sync_over_reload", "ours", "reload"),
        ("sync_over_file", "ours", "reload_file"),
        ("joint_speedup", "trl", "ours"),
    ):
        medians = {k: sum(v) / 2 for k, v in runs[name].items()}
        assert all(len(v) == 2 and min(v) > 0 for v in runs[name].values())
        assert ratios[name]["value"] == pytest.approx(medians[over] / medians[under])
    # Forced lengths and equal seeds: the same work, token for token.
    assert setting["answers equal to bare vLLM's, token for token"] == 1.0
    assert setting["trained tokens"].startswith(f"{PROMPTS * SIZE * ANSWER}, ")
    # All but one answer of a group find its prompt, but for the block that holds the last token.
    group = runs["group_hits"]
    assert group["prompt"] == [PROMPTS * SIZE * 96.0]
    assert group["cacheable"] == [PROMPTS * (SIZE - 1) * 64.0]
    assert ratios["group_hits"]["value"] == ratios["judge_hits"]["value"] == 1.0
    assert set(setting["our step, s"]) == {"generate", "score", "train", "sync"}
