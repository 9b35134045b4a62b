"""Every file of configs/ composes; every key can be set, and is refused mistyped or misspelt."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import CONFIG_DIR, compose, config_groups, from_dict, load_config
from conjoint.rl.config.overrides import dataclass_in, is_dict
from conjoint.rl.config.tree import Config

GROUPS = config_groups()
EXPERIMENTS = GROUPS["experiment"]
FILES = ["tasks.math.path", "tasks.code.path", "tasks.instruction.path", "tasks.open.path"]


def experiment(name: str, *overrides: str) -> Config:
    """An experiment with a file for each path that it leaves to the user."""
    plain = compose([f"experiment={name}"])
    paths = [f"{key}=rows.jsonl" for key in FILES if at(plain, key) == ""]
    source = ["ptx.source=rows.jsonl"] if at(plain, "ptx.source") == "" else []
    return load_config([f"experiment={name}", *paths, *source, *overrides])


def at(plain: Any, path: str) -> Any:
    for part in path.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain


# -- files ------------------------------------------------------------------------------------


def test_every_file_is_reached_by_a_group_a_rubric_or_the_root():
    files = {p.relative_to(CONFIG_DIR).as_posix() for p in CONFIG_DIR.rglob("*.yaml")}
    known = {f"{group}/{name}.yaml" for group, names in GROUPS.items() for name in names}
    rubrics = {name for name in files if name.startswith("rubrics/")}
    assert files == known | rubrics | {"train.yaml", "eval.yaml"}


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g, names in GROUPS.items() for n in names if g != "experiment"],
)
def test_every_group_file_composes_and_validates(group: str, name: str):
    load_config([f"{group}={name}"])


@pytest.mark.parametrize("model", ["nano", "smollm2-135m"])
def test_the_command_that_a_run_ends_with_composes(model: str):
    from conjoint.rl.plan import next_command

    words = next_command(load_config([f"model={model}"])).partition("conjoint train ")[2].split()
    assert load_config(words).name in EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_validates_and_prints_its_plan(name: str):
    from conjoint.rl.plan import plan_words

    cfg = experiment(name)
    words = " ".join(plan_words(cfg))
    answers = cfg.rollout.groups_per_step * cfg.rollout.group_size
    assert f"= {answers} answers" in words
    assert f"math {cfg.budget_of('math')}" in words
    assert ("not been measured" in words) is not cfg.cluster.measured
    assert cfg.name == name


@pytest.mark.parametrize(
    ("name", "gpus"),
    [("quickstart", 0), ("smollm2_cpu", 0), ("gpu_1", 1), ("gpu_8", 8), ("nodes_2", 16)],
)
def test_every_experiment_asks_for_the_gpus_in_its_name(name: str, gpus: int):
    from conjoint.rl.cluster.placement import bundles

    cfg = experiment(name)
    wanted = bundles(cfg.rollout, cfg.learner)
    assert sum(bundle["GPU"] for bundle in wanted) == pytest.approx(gpus)
    assert max((bundle["GPU"] for bundle in wanted), default=0) <= 8
    assert set(EXPERIMENTS) == {"quickstart", "smollm2_cpu", "gpu_1", "gpu_8", "nodes_2"}


@pytest.mark.parametrize("name", ["gpu_1", "gpu_8", "nodes_2"])
def test_gpu_experiments_name_the_files_that_the_user_must_give(name: str):
    with pytest.raises(ConjointError, match=r"tasks\.math\.path and .*ptx\.source must name your"):
        load_config([f"experiment={name}"])
    kept = [f"tasks.{k}.weight=0" for k in ("code", "instruction", "open")]
    load_config([f"experiment={name}", "tasks.math.path=a.jsonl", "ptx.weight=0", *kept])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_muonclip_and_keeps_its_learning_rate(name: str):
    plain, muon = experiment(name), experiment(name, "optim=muonclip")
    assert plain.optim.name == "adamw"
    assert dataclasses.replace(muon.optim, name="adamw") == plain.optim


def test_smollm2_fits_its_judge_prompt_and_a_grade_school_question():
    cfg = load_config(["experiment=smollm2_cpu"])
    quoted = 2 * cfg.judge.max_answer_chars / 3  # tokens, at three characters each
    assert 340 + quoted + cfg.judge.max_tokens < cfg.rollout.max_model_len
    assert cfg.judge.template == "letter" and cfg.ptx.source == "nano"
    assert cfg.checkpoint.due(cfg.num_steps, cfg.num_steps)


# -- keys -------------------------------------------------------------------------------------


def leaves(cls: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, type) of every key; an open dictionary gives one entry named math."""
    for name, hint in get_type_hints(cls).items():
        inside = dataclass_in(hint)
        key = f"{above}{name}.math" if is_dict(hint) else f"{above}{name}"
        if inside is not None:
            yield from leaves(inside, f"{key}.")
        else:
            yield key, hint.__args__[1] if is_dict(hint) else hint


def nodes(cls: type, above: str = "") -> Iterator[tuple[str, type]]:
    yield above, cls
    for name, hint in get_type_hints(cls).items():
        if (inside := dataclass_in(hint)) is not None:
            yield from nodes(inside, f"{above}{name}.{'math.' if is_dict(hint) else ''}")


LEAVES = list(leaves(Config))
NODES = list(nodes(Config))
DEFAULTS = compose([])


def sample(hint: Any) -> Any:
    """A value of the type that is no key's default."""
    text = str(hint)
    if "tuple" in text:
        return [3.0, 77.0]
    if "list" in text:
        return ["unlikely"]
    return {int: 7777, float: 77.25, bool: None}.get(hint, "unlikely")


@pytest.mark.parametrize("part", sorted({key.partition(".")[0] for key, _ in LEAVES}))
def test_every_key_can_be_set_from_the_command_line(part: str):
    """All keys of a part at once: composing takes a tenth of a second, whatever is in it."""
    wanted = {}
    for key, hint in LEAVES:
        if key.partition(".")[0] == part:
            default = at(dataclasses.asdict(Config()), key)
            wanted[key] = not default if hint is bool else sample(hint)
    written = {k: json.dumps(v) if not isinstance(v, str) else v for k, v in wanted.items()}
    composed = compose([f"{key}={value}" for key, value in written.items()])
    assert {key: at(composed, key) for key in wanted} == wanted


@pytest.mark.parametrize("key", ["num_steps", "budget.tokens.math", "tasks.math.heldout"])
def test_a_plus_is_allowed_and_never_needed(key: str):
    assert at(compose([f"+{key}=3"]), key) == at(compose([f"{key}=3"]), key) == 3


# A raw key of vLLM or DeepSpeed has a type of theirs, and so has one of a reasoning-gym dataset.
@pytest.mark.parametrize("key", [key for key, hint in LEAVES if "Any" not in str(hint)])
def test_a_value_of_the_wrong_type_is_refused_with_its_key(key: str):
    wrong: Any = {"unlikely": {}}
    data = copy.deepcopy(DEFAULTS)
    node = data
    *above, last = key.split(".")
    for part in above:
        node = node.setdefault(part, {})
    node[last] = wrong
    with pytest.raises(ConjointError) as refused:
        from_dict(data)
    assert str(refused.value).startswith(f"{key}=") and "expected" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("above", "cls"), NODES, ids=[above or "config" for above, _ in NODES])
def test_a_misspelt_key_is_refused_at_every_depth_with_a_suggestion(above: str, cls: type):
    name = max(get_type_hints(cls), key=len)
    typo = name[:-1]
    with pytest.raises(ConjointError) as refused:
        load_config([f"{above}{typo}=1"])
    expected = f"unknown config key {above}{typo}; did you mean {above}{name}?"
    assert str(refused.value) == expected
    # Also where it comes from a file: a stored config.yaml, or one that a user edits.
    data = copy.deepcopy(DEFAULTS)
    node: Any = data
    for part in above.split(".")[:-1]:
        node = node.setdefault(part, {})
    node[typo] = 1
    with pytest.raises(ConjointError) as refused:
        from_dict(data)
    assert str(refused.value) == expected


def test_a_configuration_survives_its_own_file():
    import yaml

    cfg = experiment("nodes_2")
    stored = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(cfg)))))
    assert from_dict(stored) == cfg


def test_defaults_of_the_code_are_what_no_file_changes():
    assert load_config([]).optim == Config().optim
    assert Path(CONFIG_DIR / "train.yaml").is_file()
