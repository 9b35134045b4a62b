"""reasoning-gym as a source and its verifiers as a reward: all of it in the verifier jail."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.logic import gym
from conjoint.rewards.logic.reward import (
    PATIENT_S,
    LogicVerifier,
    close_logic,
    examples,
    final_answer,
    gym_pool,
    validate_reference,
)
from conjoint.rewards.logic.source import GymSource
from conjoint.rewards.sandbox.base import SandboxUnavailable
from conjoint.rewards.sandbox.inside import calls
from conjoint.rewards.sandbox.local.verifier import VerifierPool
from conjoint.rl.config.compose import load_config
from conjoint.rl.tasks import build_tasks

PAYS_ANY_TEXT = {"game_of_life_halting"}
"""Refused as a source for that."""


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    try:
        asyncio.run(gym_pool().start())
    except SandboxUnavailable as error:
        pytest.skip(f"no tier of the jail here: {error}")
    yield gym_pool()
    close_logic()


def source(pool: VerifierPool, datasets: dict[str, Any], split: str = "train", **more: Any):
    return GymSource(datasets, split, **{"seed": 0, "allow_gameable": True, **more})


def score(task: Task, response: str, partial: bool = False) -> Score:
    return asyncio.run(LogicVerifier(partial)(task, response))


def test_no_answer_of_any_dataset_touches_a_file_or_writes_its_own_score(
    pool: VerifierPool, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    names = pool.call_blocking(gym.names)
    assert len(names) == 105 and "composite" not in names

    # Sixteen a call: a fork for each would take as long again. What kills a call would be seen.
    source = (
        "from conjoint.rewards.logic import gym\n"
        "rows = {name: gym.draw(name, {}, 3, 1, 0, 1)[0][2] for name in NAMES}\n"
        "for name, entry in rows.items():\n"
        "    for text in (ANSWER, f'[{ANSWER}]'):\n"
        "        value, _ = gym.score(name, {}, 3, 1, entry, text)\n"
        "        if value == 1.0: print(name)\n"
        "print('done')"
    )
    file = tmp_path / "sbx_pwn"
    answer = (
        f"(__import__('os').system('touch {file}'), open('{file}', 'w'), "
        "__import__('os').write(3, b'[\"value\", \"forged\"]\\n'), __import__('os')._exit(0))"
    )

    async def attack(part: list[str]) -> str:
        head = f"NAMES = {part!r}\nANSWER = {answer!r}\n"
        return await pool.call(calls.attempt, head + source, deadline_s=120.0)

    async def attack_all() -> list[str]:
        return await asyncio.gather(*(attack(names[i : i + 16]) for i in range(0, 105, 16)))

    for printed in asyncio.run(attack_all()):
        assert set(printed.split()) - PAYS_ANY_TEXT == {"done"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "knights_knaves",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    ],
)
def test_right_answers_are_paid_by_datasets_that_evaluate_them(
    pool: VerifierPool, name: str
) -> None:
    for question, answer, entry in pool.call_blocking(gym.draw, name, {}, 5, 8, 0, 4):
        assert answer is not None and question
        if "Integral" in answer:
            continue  # the library's own answer restates the problem there
        assert pool.call_blocking(gym.score, name, {}, 5, 8, entry, answer) == [1.0, ""], answer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("simple_integration", "Integral({integrand}, {variable})"),
        ("intermediate_integration", "Integral({integrand}, {variable}) + C"),
        ("simple_integration", "x.__class__"),
        ("countdown", "(lambda: 1)()"),
        ("countdown", "sympify('1')"),
        ("puzzle24", "__import__('os').getpid()"),
        ("n_queens", "[].append(1)"),
    ],
)
def test_code_and_restated_problems_are_not_paid(
    pool: VerifierPool, name: str, answer: str
) -> None:
    task = source(pool, {name: {}}).task(0)
    metadata = gym.codec.decode(task.reference["entry"])["metadata"]
    text = answer.format(**metadata) if "{" in answer else answer
    result = score(task, f"<answer>{text}</answer>", partial=True)
    assert result.value is not None and result.value <= 0.05, result


def test_only_a_full_score_is_paid_unless_partial_credit_is_asked_for(pool: VerifierPool) -> None:
    task = source(pool, {"word_sorting": {}}).task(0)
    right = task.reference["answer"]
    half = ", ".join(reversed(right.split(", ")))
    assert score(task, f"So: <answer>{right}</answer>").outcome is Outcome.PASS
    assert score(task, f"<answer>{half}</answer>").value == 0.0
    partial = score(task, f"<answer>{half}</answer>", partial=True).value
    assert partial is not None and 0.0 < partial < 1.0


def test_an_answer_that_hangs_scores_0_as_timeout(
    pool: VerifierPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for held in (pool, gym_pool(deadline_s=PATIENT_S)):
        monkeypatch.setattr(held, "deadline_s", 0.3)
    result = score(examples()[1].task, "<answer>(x+a+b+c+d+f+g+h+j+k+l)**99</answer>")
    assert (result.value, result.outcome) == (0.0, Outcome.TIMEOUT)


@pytest.mark.parametrize(
    ("formula", "taken"),
    [
        ("9**9**9**9", False),
        ("9^9^9^9", False),
        ("((9**999)**999)**999", False),
        ("9**(999*999*999)", False),
        ("9**(1/0.0001)", False),
        ("9**sqrt(10**30)", False),
        ("9**" + "9" * 1900, False),
        ("(x+y)**400", False),
        ("(" * 900 + "1" + ")" * 900, False),
        ("x**2/3 + C", True),
        ("(x+1)**20 - x**(1/2) + 2**10", True),
        ("exp(-x**2)/sqrt(2*pi)", True),
    ],
)
def test_a_power_that_would_never_be_worked_out_is_no_formula(formula: str, taken: bool) -> None:
    assert gym._is_formula(formula) is taken


@pytest.mark.parametrize(
    "answer",
    ["nan", "-NaN", "nan + nanj", "inf-infj", "\uff4e\uff41\uff4e", "1e999", "None"],
)
def test_what_is_no_finite_value_is_never_paid(pool: VerifierPool, answer: str) -> None:
    """The distance of complex_arithmetic to NaN was as good as none."""
    task = source(pool, {"complex_arithmetic": {}}, allow_gameable=False).task(0)
    result = score(task, f"<answer>{answer}</answer>", partial=True)
    assert result.value == 0.0 and "is no value" in result.reasons[0]


@pytest.mark.parametrize(
    ("answer", "row", "word"),
    [
        ("banana, inferno, nano", "yes", ""),
        ("0x1e999", "no", ""),
        ("1e5", "100000", ""),
        ("None", "None", ""),
        ('{"state": null}', '{"state": null, "safe": true}', ""),
        ("null", None, "null"),
        ("[1, nan]", "[1, 2]", "nan"),
        ("-Infinity", "5", "Infinity"),
        ("2 * 1E+400", "5", "1E+400"),
        ("1" + "0" * 400 + "e5", "5", "1" + "0" * 39),
    ],
)
def test_words_of_no_value_count_only_where_the_row_has_them(
    answer: str, row: str | None, word: str
) -> None:
    assert gym._no_value(answer, {"question": "What is it?", "answer": row}) == word


def test_each_example_is_paid_and_none_of_its_cheats(
    pool: VerifierPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "deadline_s", 3.0)
    for example in examples():
        assert score(example.task, example.right).value == 1.0
        for name, cheat in example.cheats.items():
            assert score(example.task, cheat).value == 0.0, name


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>x</think>It is <answer> 7 </answer>.", "7"),
        ("<answer>6</answer>, no:\n<answer>7</answer>", "7"),
        ("7", "7"),
        ("<think><answer>7</answer></think>done", "done"),
        ("<answer>7", ""),
        ("<answer>6<answer>7</answer>", "7"),
        ("<think>7", ""),
        ("<answer></answer>", ""),
        ("答案是<answer>-4</answer>。", "-4"),
        ("答案是＜answer＞−４＜／answer＞", "-4"),  # noqa: RUF001
        ("<answer>４２。</answer>", "42"),  # noqa: RUF001
        ("４２。\n", "42"),  # noqa: RUF001
        ("La respuesta es <answer>-4</answer>, ¿no?", "-4"),
        ("<answer>sí</answer>", "sí"),
        ("<answer>" * 12_000, ""),
        ("<answer>7</answer>" + "</answer>" * 9_000, "7"),
    ],
)
def test_the_answer_stands_between_the_last_tags(response: str, answer: str) -> None:
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "7",
        {},
        {"dataset": "chain_sum"},
        {"dataset": "chain_sum", "config": {}, "seed": -1, "size": 1, "entry": ["dict", []]},
        {"dataset": "chain_sum", "config": {}, "seed": 0, "size": True, "entry": ["dict", []]},
        {"dataset": "chain_sum", "config": {}, "seed": 0, "size": 1, "entry": []},
    ],
)
def test_an_unusable_reference_is_refused_and_masked(reference: Any) -> None:
    with pytest.raises(ConjointError):
        validate_reference(reference)
    result = score(Task.make("logic", "?", reference), "<answer>7</answer>")
    assert result.outcome is Outcome.INFRA_ERROR and result.value is None


def test_a_dataset_that_cannot_be_made_again_masks(pool: VerifierPool) -> None:
    reference = {**examples()[0].task.reference, "dataset": "no_such"}
    result = score(Task.make("logic", "?", reference), "<answer>-4</answer>")
    assert result.outcome is Outcome.INFRA_ERROR and "no_such" in result.reasons[0]


def test_rows_are_pure_in_seed_and_index_and_survive_json(pool: VerifierPool) -> None:
    datasets = {"chain_sum": {"min_terms": 3, "max_terms": 3}, "maze": {}}
    one, again = source(pool, datasets), source(pool, datasets)
    assert [one.task(i) for i in (0, 1, 5)] == [again.task(i) for i in (0, 1, 5)]
    assert one.fingerprint == again.fingerprint
    other = source(pool, datasets, seed=1)
    assert one.task(0) != other.task(0) and one.fingerprint != other.fingerprint
    task = one.task(4)
    assert task.meta["dataset"] == "chain_sum" and one.task(3).meta["dataset"] == "maze"
    assert task.prompt.endswith("</answer>.")
    restored = Task.make(task.kind, task.prompt, json.loads(json.dumps(task.reference)))
    assert score(restored, f"<answer>{task.reference['answer']}</answer>").value == 1.0


def test_no_question_is_in_both_splits(pool: VerifierPool) -> None:
    easy = {"chain_sum": {"min_terms": 2, "max_terms": 2, "max_digits": 1, "min_digits": 1}}
    train, heldout = source(pool, easy), source(pool, easy, "heldout", seed=7)
    asked = {train.task(i).prompt for i in range(60)}
    assert len(asked) > 20 and asked.isdisjoint({heldout.task(i).prompt for i in range(30)})


def test_difficulty_is_the_datasets_own_keys_and_a_level(pool: VerifierPool) -> None:
    def terms(config: dict[str, Any]) -> int:
        first = source(pool, {"chain_sum": config}).task(0)
        return gym.codec.decode(first.reference["entry"])["metadata"]["num_terms"]

    assert terms({"min_terms": 9, "max_terms": 9}) == 9
    assert terms({"level": 3, "min_terms": 20, "max_terms": 20}) == 20
    digits = [source(pool, {"chain_sum": {"level": n}}).task(0).prompt for n in (0, 3)]
    assert len(digits[0]) < len(digits[1])


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"composite": {}}, "no dataset 'composite'"),
        ({"chain_sums": {}}, r"no dataset 'chain_sums'; it has .*chain_sum"),
        ({"chain_sum": {"terms": 3}}, "no key 'terms'; it has min_terms"),
        ({"chain_sum": {"seed": 3}}, "no key 'seed'"),
        ({"chain_sum": {"min_terms": -3}}, "min_terms must be positive"),
        ({"chain_sum": {"level": "hard"}}, "does not take"),
    ],
)
def test_unknown_datasets_and_keys_are_refused(
    pool: VerifierPool, datasets: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConjointError, match=message):
        source(pool, datasets)


def test_a_dataset_that_pays_for_junk_is_refused_unless_allowed(pool: VerifierPool) -> None:
    for name, junk in (("coin_flip", "'0'"), ("game_of_life_halting", "'I do not know'")):
        with pytest.raises(ConjointError, match=f"{name} pays .* for the answer {junk}"):
            source(pool, {name: {}}, allow_gameable=False)
        assert source(pool, {name: {}}).task(0)


def test_junk_that_is_right_by_chance_is_no_reason_to_refuse(pool: VerifierPool) -> None:
    # "0" is the right answer in half of circuit_logic's rows, and pays in no other.
    assert source(pool, {"circuit_logic": {}}, allow_gameable=False).task(0)
    paid = pool.call_blocking(gym.junk_pay, "circuit_logic", {}, 1, 40, False)
    assert paid == dict.fromkeys((*gym.JUNK, "prompt"), 0.0)
    # With partial credit it matters what junk earns without being right.
    with pytest.raises(ConjointError, match="rectangle_count pays"):
        source(pool, {"rectangle_count": {}}, allow_gameable=False, partial=True)
    assert source(pool, {"rectangle_count": {}}, allow_gameable=False).task(0)


def test_a_run_draws_its_logic_tasks_from_the_datasets_it_names(pool: VerifierPool) -> None:
    only = [f"tasks.{kind}.weight=0" for kind in ("math", "code", "instruction", "open")]
    named = "tasks.logic.datasets={chain_sum:{level:1}}"
    cfg = load_config([*only, named, "tasks.logic.prompt_suffix=End.", "eval.tasks=2"])
    sets = build_tasks(cfg)
    (task,) = [t for t in sets.mixture.next(3) if t.kind == "logic"][:1]
    assert task.meta["dataset"] == "chain_sum" and task.prompt.endswith("\nEnd.")
    assert len(sets.heldout["logic"]) == 2
    gameable = [*only, "tasks.logic.datasets.coin_flip={}"]
    with pytest.raises(ConjointError, match=r"tasks\.logic\.allow_gameable=true"):
        build_tasks(load_config(gameable))
    build_tasks(load_config([*gameable, "tasks.logic.allow_gameable=true"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks.math.datasets.chain_sum={}"], r"reward\.kinds\.math=\[logic\]"),
        (["tasks.logic.datasets.maze={}", "tasks.logic.path=x.jsonl"], "not both"),
    ],
)
def test_contradictions_of_the_config_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConjointError, match=message):
        load_config(overrides)
