"""The arithmetic of `conjoint bench rollout`, its keys, and the line to the other side's process.

That both sides really run is tests/e2e/test_bench_rollout.py."""

import json
import os
from pathlib import Path

import pytest

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rl.models.shape import TokenCost
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.scripts.bench.config import AT_MOST, PARTS, ROLLOUT_TARGETS, BenchConfig, load_bench
from conjoint.scripts.bench.main import run
from conjoint.scripts.bench.rollout import measure as rollout_bench
from conjoint.scripts.bench.rollout.child import Child
from conjoint.scripts.bench.rollout.ours import forced
from conjoint.scripts.bench.rollout.parts import interleaved, random_prompts, ratio
from conjoint.scripts.bench.rollout.prefix import cacheable_tokens
from conjoint.scripts.bench.rollout.questions import floor_seconds, questions, token_reward

A, B, C = [1] * 4, [2] * 4, [3] * 4


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([A + B + C], 0),
        ([A + B + [9], A + B + [9]], 8),
        # The first answer token is read off the last one of the prompt, which is always computed.
        ([A + B, A + B], 4),
        ([A + B + C, A + C + C], 4),
        # What follows a block that differs is not the same context.
        ([A + B + C + [9], C + B + C + [9]], 0),
        ([[*A, 2, 2, 2, 5, 9], [*A, 2, 2, 2, 6, 9]], 4),
        ([A + B + [9], A + C + [9], A + C + [9]], 4 + 8),
        ([[1, 1], [1, 1]], 0),
    ],
)
def test_cacheable_tokens_are_full_blocks_that_an_earlier_prompt_begins_with(prompts, expected):
    assert cacheable_tokens(prompts, 4) == expected


def test_a_group_of_k_can_hit_all_blocks_but_once():
    (prompt,) = random_prompts(1, 96, 50_000, "x")
    assert cacheable_tokens([prompt] * 8, 32) == 7 * 64
    assert random_prompts(1, 96, 50_000, "x") == [prompt] != random_prompts(1, 96, 50_000, "y")


def test_the_floor_counts_each_token_once_and_its_backward_pass_twice():
    matrices = TokenCost(token=2.0, pair=0.0, trained=0.0)
    # Two prompts of 10 and 20 tokens, 3 answers of 5 each: 30 answer tokens, the last of each of
    # which the engine need not compute.
    found = floor_seconds(matrices, [10, 20], 3, 5, gflops=1e-9)
    assert found == {"generate": 2.0 * (30 + 6 * 4), "train": 3 * 2.0 * (30 + 6 * 5)}
    head = TokenCost(token=0.0, pair=0.0, trained=1.0)
    # The first token of a group's answers is drawn from one row of logits.
    assert floor_seconds(head, [10, 20], 3, 5, 1e-9) == {"generate": 2 + 6 * 4, "train": 3 * 30}
    pairs = TokenCost(token=0.0, pair=1.0, trained=0.0)
    assert floor_seconds(pairs, [2], 1, 2, 1e-9)["generate"] == 3 + (2 + 1)
    assert floor_seconds(matrices, [10], 1, 5, 4e-9)["train"] == 3 * 2.0 * 15 / 4


async def test_rounds_alternate_and_the_ratio_is_of_medians():
    order: list[str] = []
    takes = {"ours": [3.0, 1.0, 2.0], "bare": [1.0, 9.0, 1.0]}

    def variant(name: str):
        async def seconds(number: int) -> float:
            order.append(name)
            return takes[name][number]

        return seconds

    runs = await interleaved({name: variant(name) for name in takes}, 3)
    assert order == ["ours", "bare", "bare", "ours", "ours", "bare"]
    assert runs == takes and ratio(runs, "ours", "bare") == 2.0


def test_questions_differ_and_the_reward_differs_with_the_tokens():
    tasks = questions(12)
    assert len({t.id for t in tasks}) == 12 and questions(3) == tasks[:3]
    assert [token_reward(t) for t in ([2, 4], [1, 2], [1, 3])] == [1.0, 0.5, 0.0]


def test_forced_answers_read_their_end_tokens_from_an_empty_file(tmp_path: Path):
    cfg = RolloutConfig(max_model_len=100, vllm={"seed": 3})
    longer = forced(cfg, 700, tmp_path)
    assert longer.vllm == {"seed": 3, "generation_config": str(tmp_path)}
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {}
    assert (longer.max_model_len, forced(cfg, 50, tmp_path).max_model_len) == (700, 100)


def test_what_must_be_lower_and_what_must_be_higher():
    assert {n for n in ROLLOUT_TARGETS if n not in AT_MOST} == {
        "group_hits",
        "judge_hits",
        "joint_speedup",
    }
    assert BenchConfig().parts == list(PARTS)
    assert BenchConfig().targets.items() >= ROLLOUT_TARGETS.items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench.parts=[speed]"], "bench.parts=speed is not measured"),
        (["bench.parts=[]"], r"bench.parts=\[\] is not measured"),
        (["bench.prompts=0"], "bench.prompts must be at least 1"),
        (["bench.prompt_tokens=0"], "bench.prompt_tokens must be at least 1"),
        (["bench.answer_tokens=0"], "bench.answer_tokens must be at least 1"),
        (["rollout.engines=2"], "set rollout.engines=1"),
        (["rollout.backend=transformers"], "set rollout.backend=vllm"),
        (["learner.ranks=2"], "set learner.ranks=1"),
        (["learner.threads=1"], "set learner.threads=2"),
        (["optim.name=muon"], "set optim.name=adamw"),
        (["bench.answer_tokens=5000"], "cannot hold one sequence"),
        (["bench.model=nowhere/at/all"], "is not known"),
    ],
)
def test_bench_rollout_refuses_before_anything_starts(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Child", "Ours", "start_ray"):
        monkeypatch.setattr(rollout_bench, name, lambda *_, **__: pytest.fail("a process started"))
    with pytest.raises(ConjointError, match=said):
        run("rollout", words)


async def test_without_smollm2_the_model_is_nano_and_the_file_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(spec: str) -> Path:
        raise ConjointError(f"model {spec} needs a package, which is missing")

    async def folder(spec: str, *_: object) -> Path:
        return tmp_path / spec

    monkeypatch.setattr(rollout_bench, "resolve_model", absent)
    monkeypatch.setattr(rollout_bench, "policy_folder", folder)
    found, said = await rollout_bench.bench_model(load_bench([]))
    assert found == tmp_path / "nano" and "smollm2-135m needs a package" in said


SIDE = """
import os, sys, time
from conjoint.scripts.bench.rollout.child import Channel
channel = Channel()
print("a library that prints")
os.system("echo and one below Python")
for request in channel.requests():
    if request["what"] == "sleep":
        time.sleep(600)
    if request["what"] == "die":
        sys.exit("this is why")
    channel.answer(got=request, given=sys.argv[1], env=os.environ["SIDE"])
"""


@pytest.fixture
def side(tmp_path: Path):
    (tmp_path / "other_side.py").write_text(SIDE)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    child = Child("other_side", {"a": [1]}, {"PYTHONPATH": path, "SIDE": "x"})
    yield child
    child.close()


def test_the_other_side_answers_whatever_its_libraries_print(side: Child):
    expected = {"got": {"what": "it", "n": 3}, "given": '{"a": [1]}', "env": "x"}
    assert side.ask("it", 60, n=3) == expected
    assert side.ask("again", 60)["got"] == {"what": "again"}


@pytest.mark.parametrize(("what", "said"), [("die", "this is why"), ("sleep", "during 'sleep'")])
def test_the_other_side_that_dies_or_hangs_is_ended_and_quoted(side: Child, what: str, said: str):
    side.ask("start", 60)
    with pytest.raises(StopRun, match=said):
        side.ask(what, 2)
    assert side._process.returncode is not None
    with pytest.raises(StopRun):
        side.ask("more", 2)
