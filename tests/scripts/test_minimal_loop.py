"""The loop in one file: no Ray, no vLLM, no DeepSpeed, and yet the update of the real learner."""

import asyncio
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conjoint.envs.nano.sources import demonstrations
from conjoint.envs.types import Completion, Group, Status, Task, Trajectory
from conjoint.rl.algo.ptx import PtxRow
from conjoint.rl.config.compose import load_config
from conjoint.rl.config.tree import Config
from conjoint.rl.learner.batch import make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.forward.model import load_model
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rl.nano.model import NanoConfig, build_model, build_tokenizer, save_policy
from conjoint.rl.nano.sft import ptx_conversations
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.decoding import Decoder
from conjoint.scripts import minimal_loop
from conjoint.scripts.minimal_loop import Learner, PlainSampler, train
from tests.fakes import tiny_llama

FILE = Path(minimal_loop.__file__)
SMALL = NanoConfig(hidden_size=32, intermediate_size=32, num_layers=1, num_heads=1)
VOCAB = 48
RUN = """
import runpy, sys
sys.argv[1:1] = ["--steps", "2", "--tasks", "math", "open", "--model"]
runpy.run_module("conjoint.scripts.minimal_loop", run_name="__main__")
print("modules", *sys.modules)
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano with random weights."""
    rows = ptx_conversations(64) + demonstrations["math"]("sft", 64)
    tokenizer = build_tokenizer((m["content"] for row in rows for m in row), SMALL)
    folder = tmp_path_factory.mktemp("nano")
    save_policy(build_model(tokenizer, SMALL, seed=0), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_llama(tmp_path_factory.mktemp("tiny"), vocab_size=VOCAB, tie_word_embeddings=True)
    (path / "tokenizer.json").write_text("{}")
    return path


def learner(folder: Path, cfg: Config) -> Learner:
    return Learner(load_model(folder, cfg.learner, torch.device("cpu")), cfg)


def group(answers: list[Completion], temperature: float, index: int = 0) -> Group:
    members = []
    for number, answer in enumerate(answers):
        t = Trajectory(status=Status.COMPLETED, temperature=temperature)
        t.extend_context([7, 8, 9 + index])
        t.extend_sampled(answer)
        t.reward, t.advantage = float(number), number - 1.0
        members.append(t)
    return Group(Task.make("math", str(index)), members, index)


def made_up(index: int) -> Group:
    rng = np.random.default_rng(index)
    drawn = [rng.integers(0, VOCAB, n).tolist() for n in (2, 5, 8)]
    return group([Completion(d, [-3.0] * len(d), "stop", 0) for d in drawn], 0.7, index)


def test_the_file_is_short() -> None:
    assert FILE.read_text(encoding="utf-8").count("\n") <= 200


def test_it_runs_without_ray_vllm_and_deepspeed(policy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(policy)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    out, _, modules = done.stdout.partition("modules ")
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert not loaded & {"ray", "vllm", "deepspeed", "trl"}
    assert re.findall(r"^step (\d)", out, re.MULTILINE) == ["1", "2"]
    names = re.findall(r"^held-out math, (\w+)", out, re.MULTILINE)
    assert names == ["before", "after", "difference"]
    figures = [float(word) for word in re.findall(r" \[?(\S*\.\d+|nan|inf)\b", out)]
    assert len(figures) >= 13  # math and PTX of two steps, and three means with their intervals
    assert all(map(math.isfinite, figures))


def test_weights_change_and_equal_seeds_give_equal_weights(policy: Path) -> None:
    sizes = "rollout.groups_per_step=6 learner.updates_per_batch=1 eval.tasks=2 eval.judge_pairs=0"
    keys = [f"model={policy}", "num_steps=2", "tasks.code.weight=0", *sizes.split()]
    cfg = load_config(["experiment=quickstart", *keys])
    start: Any = AutoModelForCausalLM.from_pretrained(policy)
    one, same = (asyncio.run(train(cfg)).state_dict() for _ in range(2))
    for name, before in start.state_dict().items():
        assert torch.isfinite(one[name]).all(), name
        assert torch.equal(one[name], same[name]), name
        assert not torch.equal(one[name], before), name


def test_an_update_is_that_of_the_learner(llama: Path) -> None:
    config, optim = LearnerConfig(threads=1, zero_stage=0), OptimConfig(lr=1e-2)
    rows = [PtxRow([5, 6, 7, 8, 9], [False, True, True, True, True])]
    batch = make_batch([made_up(0), made_up(1)], rows, config, ptx_weight=0.5)
    cfg = Config(learner=config, optim=optim)
    real = LearnerRank(llama, config, optim, cfg.loss, total_updates=100)
    metrics = real.step(batch, version=0)
    minimal = learner(llama, cfg)
    assert minimal.step(batch) == pytest.approx(metrics["loss/ptx"], abs=1e-6)
    trained = minimal.model.state_dict()
    for name, weight in real.named_weights():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-6)


async def test_calls_of_one_tick_are_one_batch_of_the_learners_log_probs(llama: Path) -> None:
    decoder = Decoder(str(llama), RolloutConfig(max_model_len=32))
    sizes: list[int] = []
    decode = decoder.batch
    decoder.batch = lambda requests: (sizes.append(len(requests)), decode(requests))[1]
    sampler = PlainSampler(decoder)

    async def ask(*seeds: int) -> list[Completion]:
        how = {"max_tokens": 6, "temperature": 0.7}
        asked = [sampler([7, 8, 9], **how, seed=seed, session="any") for seed in seeds]
        return list(await asyncio.gather(*asked))

    answers = await ask(1, 2, 3)
    (again,) = await ask(2)
    assert sizes == [3, 1]
    assert again.tokens == answers[1].tokens
    cfg = Config(learner=LearnerConfig(threads=1))
    (update,) = make_batch([group(answers, 0.7)], [], cfg.learner, ptx_weight=0.0).updates
    (micro,) = update.shards[0]
    mine, _ = learner(llama, cfg)._logprobs(micro)
    np.testing.assert_allclose(mine.detach().numpy(), micro.behavior_logprobs, atol=1e-5)


async def test_an_error_of_the_decoder_reaches_every_caller(llama: Path) -> None:
    sampler = PlainSampler(Decoder(str(llama), RolloutConfig(max_model_len=8)))
    how = {"max_tokens": 2, "temperature": 1.0, "seed": 0}
    asked = [sampler([7] * length, **how) for length in (3, 9)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
