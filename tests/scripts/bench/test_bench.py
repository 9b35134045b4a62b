"""`conjoint bench` on a tiny model: the whole way from keys to the file. No timing is asserted."""

import json
from pathlib import Path

import pytest

from conjoint.envs.types import ConjointError
from conjoint.scripts.bench.config import AT_MOST, REWARD_TARGETS, TARGETS, BenchConfig
from conjoint.scripts.bench.learner import measure as learner_bench
from conjoint.scripts.bench.learner.random_groups import lengths
from conjoint.scripts.bench.main import run
from conjoint.scripts.bench.rewards import measure as rewards_bench
from tests.fakes import tiny_llama

SMALL = ["bench.repeats=1", "bench.head_tokens=64", "bench.group_size=2", "learner.threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conjoint.rl.nano.model import NanoConfig, build_tokenizer

    path = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(["one two three"] * 9, NanoConfig(vocab_size=320))
    tokenizer.save_pretrained(path)
    return tiny_llama(path, vocab_size=320, max_position_embeddings=1024)


def test_bench_writes_every_ratio_with_its_target_and_raw_figures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "bench.json"
    targets = "bench.targets={head_memory: 1e9, head_time: 1e9, packing: 0, tokens_per_second: 1e9}"
    code = run("learner", [f"output={file}", f"bench.model={folder}", targets, *SMALL])
    result = json.loads(file.read_text())
    ratios = result["ratios"]
    assert ratios.keys() == TARGETS.keys()
    assert [ratios[k]["met"] for k in TARGETS] == [True, True, True, False] and code == 1
    assert ratios["head_time"]["target"] == 1e9
    for ratio in ratios.values():
        (runs,) = ratio["runs"]
        assert all(len(values) == 1 for values in runs.values())
    (steps,) = ratios["packing"]["runs"]
    setting = result["setting"]
    padding = setting["padded_over_real_tokens"]
    assert padding > 1
    (trl,), (packed,), (shared,) = steps["trl"], steps["packed"], steps["shared"]
    assert ratios["packing"]["value"] == pytest.approx(trl / packed / padding)
    assert ratios["tokens_per_second"]["value"] == pytest.approx(trl / shared)
    rates = setting["trained_tokens_per_second"]
    assert rates["trl"] == pytest.approx(setting["trained_tokens"] / trl)
    assert "tokens_per_second" in capsys.readouterr().out


def test_bench_lengths_come_from_the_file_or_the_written_distribution(
    folder: Path, tmp_path: Path
) -> None:
    many = BenchConfig(groups=200, group_size=4)
    drawn = lengths(many, folder, 0)
    answers = sorted(n for _, group in drawn for n in group)
    assert 80 < sorted(p for p, _ in drawn)[100] < 92 and 107 < answers[len(answers) // 2] < 121
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "one", "answer": "two three"}) + "\n")
    found = lengths(BenchConfig(rows=str(rows), groups=1, group_size=2), folder, 0)
    assert len(set(found[0][1])) == 1 and found[0][0] > 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench.repeats=0"], "bench.repeats must be at least 1"),
        (["bench.group_size=1"], "bench.group_size must be at least 2"),
        (["bench.programs=0"], "bench.programs must be at least 1"),
        (["bench.soak=-1"], "bench.soak must be 0"),
        (["bench.targets.speed=2.0"], "bench.targets.speed is not measured"),
        (["bench.model=nowhere/at/all"], "is not known"),
        (["output=/no/such/folder/x.json"], "there is no folder"),
        (["learner.attention=flex_attention", "learner.share_prompts=false"], "runs on CPU"),
        (["learner.ranks=2"], "compares one rank on CPU"),
        (["bench.rows=no-such-rows.jsonl"], "there is no file"),
    ],
)
def test_bench_refuses_before_it_loads_anything(
    words: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_bench, "HeadBench", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ConjointError, match=said):
        run("learner", [f"bench.model={folder}", *words])


def test_bench_rewards_sets_each_figure_of_the_jail_beside_its_target(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "bench.json"
    small = [
        "bench.programs=3",
        "bench.repeats=1",
        "bench.soak=5",
        "sandbox.workers=1",
        "bench.problems=3",
    ]
    targets = {name: 1e9 if name in AT_MOST else 0 for name in REWARD_TARGETS}
    given = "bench.targets={" + ", ".join(f"{k}: {v}" for k, v in targets.items()) + "}"
    assert run("rewards", [f"output={file}", given, *small]) == 0
    result = json.loads(file.read_text())
    lacking = result["setting"].get("not on this machine", {})
    of_jail = {name for name in REWARD_TARGETS if not name.startswith("math")}
    assert {name.rpartition("_")[2] for name in of_jail} == {"namespaces", "landlock"}
    absent = {name for name in of_jail if f"fork_{name.rpartition('_')[2]}" in lacking}
    assert result["ratios"].keys() == REWARD_TARGETS.keys() - absent
    for name, ratio in result["ratios"].items():
        assert ratio["met"] and ratio["target"] == targets[name]
        (runs,) = ratio["runs"]
        if name.startswith(("fork", "exec")):
            assert ratio["value"] == runs[name][0] > 0
        if name.startswith("overhead"):
            bare, jailed = runs["bare"], runs[name.replace("overhead_ms", "fork")]
            assert len(bare) == len(jailed) == 3
            assert ratio["value"] == pytest.approx(1000 * (sorted(jailed)[1] - sorted(bare)[1]))
        if name.startswith("soak_left"):
            assert ratio["value"] == 0
        if name == "math_speedup":
            assert ratio["value"] == pytest.approx(runs["ours"][0] / runs["math_verify"][0])
    assert "overhead_ms" in capsys.readouterr().out


def test_a_missed_target_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"fork_landlock": (249.0, {"fork_landlock": [249.0]})}
    monkeypatch.setattr(rewards_bench, "measure_jail", lambda *_: (figures, {}))
    same = {"ours": 0, "math_verify": 0}
    rates = {"ours": 2.0, "math_verify": 0.1}
    math = {"speedup": 20.0, "verdicts_per_second": rates, "wrong": same}
    monkeypatch.setattr(
        rewards_bench, "measure_math", lambda *_: {**math, "slowest_s": 1.0, "answers": 1}
    )
    assert run("rewards", []) == 1
    assert run("rewards", ["bench.targets.fork_landlock=249"]) == 0


def test_there_is_no_other_bench() -> None:
    with pytest.raises(ConjointError, match="choose one of"):
        run("sandbox", [])


def test_rows_that_are_not_questions_are_named(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "one"}\n')
    with pytest.raises(ConjointError, match=r"line 1 has no texts question and answer"):
        lengths(BenchConfig(rows=str(rows)), folder, 0)
