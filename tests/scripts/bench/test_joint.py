"""`conjoint bench joint`: which groups are judged, what counts as shared, what is compared. Engine
and learner are fakes: a step asks the judge, and takes as long as it is told."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.config.tree import Config
from conjoint.scripts.bench.config import AT_MOST, JOINT_TARGETS, load_bench
from conjoint.scripts.bench.main import DEFAULTS, run
from conjoint.scripts.bench.rollout import joint as joint_bench
from conjoint.scripts.bench.rollout.joint import arms, longest
from conjoint.scripts.bench.rollout.prefix import shared_tokens
from conjoint.scripts.bench.rollout.questions import open_quarter, questions
from tests.fakes import CharRenderer

SIZE = 4
WORDS = ["bench.prompts=8", f"bench.group_size={SIZE}", "bench.repeats=3"]


def config(*words: str) -> Config:
    return load_bench([*DEFAULTS["joint"], *WORDS, *words])


def test_every_fourth_group_is_open_and_asks_the_same():
    tasks = open_quarter(8)
    assert [t.kind for t in tasks] == (["math"] * 3 + ["open"]) * 2
    assert [t.messages for t in tasks] == [t.messages for t in questions(8)]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([], 0),
        ([[1, 2, 3]], 0),
        ([[1, 2, 3], [1, 2, 4]], 2),
        # The nearest of all earlier ones counts, and blocks do not.
        ([[1, 2, 3], [1, 5, 6], [1, 5, 7]], 1 + 2),
        ([[1, 2, 3], [9, 2, 3]], 0),
        ([[1, 2], [1, 2]], 2),
    ],
)
def test_shared_tokens_end_at_the_first_that_no_earlier_prompt_has(prompts, expected):
    assert shared_tokens(prompts) == expected


@dataclass
class FakeEngine:
    """Answers with one letter, and finds half of each prompt in its cache."""

    cached: float = 0.0
    lengths: list[int] = field(default_factory=list)
    breaks: bool = False

    async def __call__(self, tokens: Sequence[int], *, max_tokens: int, **_: Any) -> Completion:
        if self.breaks:
            raise RuntimeError("too long")
        self.cached += len(tokens) // 2
        self.lengths.append(max_tokens)
        return Completion([ord("A")], [0.0], "length", version=0)

    def drain_metrics(self) -> dict[str, float]:
        found, self.cached = self.cached, 0.0
        return {"engine/cached_tokens": found}


@dataclass
class FakeOurs:
    """A step that takes 2 s, and 0.01 s more for each call of the judge."""

    cfg: Config
    engine: FakeEngine = field(default_factory=FakeEngine)
    renderer: CharRenderer = field(default_factory=CharRenderer)
    calls: list[int] = field(default_factory=list)
    tokens: int = 512

    async def step(
        self, tasks: Sequence[Task], tokens: int, judge: Any = None
    ) -> tuple[dict[str, float], int]:
        before = len(self.engine.lengths)
        if judge:
            await judge([self._group(task, n) for n, task in enumerate(tasks)])
        self.calls.append(len(self.engine.lengths) - before)
        return {"generate": 2.0, "score": 0.01 * self.calls[-1]}, self.tokens

    def _group(self, task: Task, n: int) -> Group:
        members = []
        for k in range(SIZE):
            t = Trajectory(status=Status.TRUNCATED)
            t.messages.append({"role": "assistant", "content": f"answer {k} to {n}"})
            members.append(t)
        return Group(task, members, n)


async def test_the_arms_differ_in_the_calls_of_the_judge_alone():
    ours = FakeOurs(config())
    figures, said = await arms(ours, open_quarter(8))  # type: ignore[arg-type]
    # Two open groups; 2 of 4 neighbours each are 4 pairs, all pairs are 6; both orders.
    some, every = 2 * 4 * 2, 2 * 6 * 2
    assert ours.calls == [some, *(0, some, every), *(every, some, 0), *(0, some, every)]
    assert set(ours.engine.lengths) == {2}, "the letter and what ends it"
    value, runs = figures["judge_overhead"]
    assert value == pytest.approx((2 + 0.01 * some) / 2) and set(runs) == {"joint", "verifiable"}
    assert all(len(seconds) == 3 for seconds in runs.values())
    assert said["round robin"]["over verifiable"] == pytest.approx((2 + 0.01 * every) / 2)
    assert said["step, s"]["joint"] == {"generate": 2.0, "score": 0.16}
    hits, counted = figures["judge_shared_hits"]
    assert hits == sum(counted["cached"]) / sum(counted["shared"])
    assert len(counted["cached"]) == 3, "the short step that warms up counts nowhere"
    assert said["judge prompts"].startswith(f"{some} calls a step of ")


async def test_a_step_that_trains_on_more_tokens_is_no_comparison():
    ours = FakeOurs(config())
    step = ours.step

    async def other(*given: Any) -> Any:
        split, tokens = await step(*given)
        return split, tokens + len(ours.calls)

    ours.step = other  # type: ignore[method-assign]
    with pytest.raises(ConjointError, match="the steps differ in work"):
        await arms(ours, open_quarter(8))  # type: ignore[arg-type]


async def test_a_judge_that_breaks_is_not_timed():
    ours = FakeOurs(config(), FakeEngine(breaks=True))
    with pytest.raises(ConjointError, match="could not be asked about some pairs"):
        await arms(ours, open_quarter(8))  # type: ignore[arg-type]


def test_the_context_holds_two_answers_and_the_reply():
    tasks, renderer = open_quarter(8), CharRenderer()
    short = longest(config("bench.answer_tokens=10"), renderer, tasks)  # type: ignore[arg-type]
    long = longest(config("bench.answer_tokens=20"), renderer, tasks)  # type: ignore[arg-type]
    assert long - short == 4 * 10
    reply = config("bench.answer_tokens=10", "bench.reply_tokens=7")
    assert longest(reply, renderer, tasks) == short + 5  # type: ignore[arg-type]


def test_a_context_too_small_for_the_judge_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    joint_bench.check_context(tmp_path, 512)
    with pytest.raises(ConjointError, match=r"may have 513 tokens.*judge.template=compact"):
        joint_bench.check_context(tmp_path, 513)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench.prompts=6"], "give a multiple of 4"),
        (["judge.pairs_per_answer=0"], "set N to at least 1"),
        (["judge.mode=points", "judge.pairs_per_answer=0"], "judge.mode=pairs"),
        (["reward.rubrics=[]"], "name some in reward.rubrics"),
        (["rollout.engines=2"], "set rollout.engines=1"),
        (["bench.reply_tokens=0"], "bench.reply_tokens must be at least 1"),
    ],
)
def test_bench_joint_refuses_before_anything_starts(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("Ours", "start_ray"):
        monkeypatch.setattr(joint_bench, name, lambda *_, **__: pytest.fail("a process started"))
    with pytest.raises(ConjointError, match=said):
        run("joint", words)


def test_the_table_says_what_was_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    async def measured(cfg: Config, _: Path) -> Any:
        assert (cfg.judge.template, cfg.judge.pairs_per_answer) == ("letter", 3)
        figures = {"judge_overhead": (1.5, {"joint": [3.0]}), "judge_shared_hits": (0.9, {})}
        return figures, {"round robin": "2.0"}

    monkeypatch.setattr(joint_bench, "_measure", measured)
    file = tmp_path / "out.json"
    assert run("joint", [f"output={file}", "judge.pairs_per_answer=3"]) == 1
    met = {name: r["met"] for name, r in json.loads(file.read_text())["ratios"].items()}
    assert met == {"judge_overhead": False, "judge_shared_hits": True}
    assert "at most 1.35" in capsys.readouterr().out
    assert set(JOINT_TARGETS) - set(AT_MOST) == {"judge_shared_hits"}
