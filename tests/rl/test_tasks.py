"""Task sets of a run: what the two seeds decide."""

import json
from pathlib import Path

import pytest

from conjoint.envs.mixture import TaskSets
from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import load_config
from conjoint.rl.plan import prepare
from conjoint.rl.tasks import build_tasks


def sets(*overrides: str) -> TaskSets:
    return build_tasks(load_config(["eval.tasks=50", "eval.judge_pairs=30", *overrides]))


def ids(found: TaskSets) -> dict[str, list[str]]:
    return {kind: [task.id for task in tasks] for kind, tasks in found.heldout.items()}


def test_the_seed_of_the_run_moves_the_training_tasks_and_no_held_out_one():
    one, other = sets("seed=0"), sets("seed=1")
    assert ids(one) == ids(other) and one.judge_pairs == other.judge_pairs
    assert [t.id for t in one.mixture.next(8)] != [t.id for t in other.mixture.next(8)]


def test_the_seed_of_the_evaluation_draws_other_held_out_tasks_and_pairs_and_only_those():
    one, other = sets("eval.seed=1"), sets("eval.seed=2")
    for kind, drawn in ids(one).items():
        assert len(set(drawn)) == 50
        assert set(drawn) != set(ids(other)[kind])
    assert one.judge_pairs != other.judge_pairs
    assert [t.id for t in one.mixture.next(8)] == [t.id for t in other.mixture.next(8)]


def test_open_tasks_are_held_out_beside_those_of_a_verifier():
    assert sets().open == []
    found = sets("eval.open_tasks=20", "eval.tasks=0")
    assert {task.kind for task in found.open} == {"open"} and len({t.id for t in found.open}) == 20
    assert found.heldout == {}
    assert found.open == sets("eval.open_tasks=20", "seed=5").open
    trained = {task.id for task in found.mixture.next(400)}
    assert not trained & {task.id for task in found.open}


def test_the_judges_pairs_can_come_from_a_file(tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"kind": "math", "prompt": f"Compute {n}+1.", "chosen": f"{n + 1}", "rejected": f"{n}"}
        for n in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sets(f"eval.pairs={file}").judge_pairs
    assert len(found) == 30, "the first eval.judge_pairs of them"
    task, right, wrong = found[2]
    assert (task.kind, task.prompt, right, wrong) == ("math", "Compute 2+1.", "3", "2")
    file.write_text(json.dumps({**rows[0], "rejected": " 1 "}) + "\n")
    with pytest.raises(ConjointError, match=r"eval\.pairs: .*line 1: .*are alike"):
        sets(f"eval.pairs={file}")
    with pytest.raises(ConjointError, match=r"eval\.pairs has no effect"):
        sets(f"eval.pairs={file}", "eval.judge_pairs=0")


def test_a_row_with_a_broken_rubric_of_its_own_is_refused_with_its_place(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    own = {"intent": "It rhymes.", "criteria": [{"text": "Two lines rhyme."}]}
    good, bad = {"prompt": "Sing.", "rubrics": [own]}, {"prompt": "Go.", "rubrics": [{"kind": "x"}]}
    rows.write_text(json.dumps(good) + "\n")
    keys = [f"tasks.open.path={rows}", "tasks.open.weight=1"]
    found = sets(*keys, *(f"tasks.{kind}.weight=0" for kind in ("math", "code", "instruction")))
    assert found.mixture.next(1)[0].meta["rubrics"] == [own]
    rows.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(ConjointError, match=r"rows\.jsonl, row 2: field 'rubrics\[0\]': 'kind' m"):
        sets(*keys)


def test_a_rubric_of_single_tasks_cannot_judge_all_of_them(tmp_path: Path):
    file = tmp_path / "one.yaml"
    file.write_text(
        "{name: one, version: 1, kind: task, intent: It rhymes., short: rhymes,"
        " criteria: [{text: Two lines rhyme.}]}"
    )
    with pytest.raises(ConjointError, match="'one' is of kind task"):
        prepare(load_config([f"reward.rubrics=[{file}]"]))
