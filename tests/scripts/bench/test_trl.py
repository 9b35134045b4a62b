"""TRL's real GRPOTrainer as the other side of the joint step, on a tiny model."""

from pathlib import Path

import pytest

from conjoint.rollouts.renderer import Renderer
from conjoint.scripts.bench.config import load_bench
from conjoint.scripts.bench.rollout.child import Child
from conjoint.scripts.bench.rollout.measure import _threads, _trl_setting
from conjoint.scripts.bench.rollout.questions import questions
from tests.fakes import tiny_llama

TRL = "conjoint.scripts.bench.rollout.trl_trainer"
PROMPTS, SIZE, ANSWER = 3, 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conjoint.rl.nano.model import NanoConfig, build_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(["one two three"] * 9, NanoConfig(vocab_size=320))
    tokenizer.save_pretrained(path)
    return tiny_llama(path, vocab_size=320, eos_token_id=tokenizer.eos_token_id)


def test_one_step_trains_the_tokens_that_our_side_trains(folder: Path):
    cfg = load_bench(
        [
            *(f"bench.prompts={PROMPTS}", f"bench.group_size={SIZE}"),
            *(f"bench.answer_tokens={ANSWER}", "learner.threads=1"),
        ]
    )
    child = Child(TRL, _trl_setting(cfg, folder), _threads(cfg))
    try:
        assert child.ask("ready", 300) == {}
        warm = child.ask("step", 300, warm=True)
        assert child.ask("gemm", 300, threads=1)["gflops"] > 0
        step = child.ask("step", 300, warm=False)
    finally:
        child.close()
    assert warm["trained_tokens"] == PROMPTS * SIZE * 4
    assert step["trained_tokens"] == PROMPTS * SIZE * ANSWER
    renderer = Renderer.load(folder)
    prompts = [len(renderer.prompt(task.messages)) for task in questions(PROMPTS)]
    assert step["prompt_tokens"] == warm["prompt_tokens"] == SIZE * sum(prompts)
    assert 0 < step["generate"] < step["seconds"]
