"""What `conjoint train` says about a wrong key, value or combination: one plain sentence each."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import load_config

GPUS = ["rollout=gpu", "learner=gpu"]
SHARED = [*GPUS, "rollout.gpus_per_engine=0.4", "learner.gpus_per_rank=0.6"]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConjointError) as refused:
        load_config(overrides)
    message = str(refused.value)
    assert "\n" not in message
    for jargon in ("hydra", "omegaconf", "Hydra", "struct", "pydantic", "Lexer", "://"):
        assert jargon not in message
    return message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.group_sise=4", "unknown config key rollout.group_sise; did you mean "
         "rollout.group_size?"),
        ("num_steps=abc", "num_steps='abc': expected a whole number"),
        ("num_steps=", "num_steps='': expected a whole number"),
        ("num_steps=1.5", "num_steps=1.5: expected a whole number"),
        ("num_steps=true", "num_steps=True: expected a whole number"),
        ("optim.lr=fast", "optim.lr='fast': expected a number"),
        ("budget.enabled=maybe", "budget.enabled='maybe': expected true or false"),
        ("reward.rubrics=clarity", "reward.rubrics='clarity': expected a list, such as [a,b]"),
        ("rollout.temperature=3", "rollout.temperature=3: expected keys and values"),
        ("loss=nope", "there is no configuration of loss named 'nope'; known are cispo, dapo, "
         "dr_grpo, grpo, gspo, k2, k2_5, reinforce_pp, rloo"),
        ("num_steps.x=1", "num_steps takes a value and has no key 'x' inside"),
        ("num_steps=1,2", "num_steps=1,2: expected one value; a list is written [1,2]"),
        ("tasks.math.wieght=1", "unknown config key tasks.math.wieght; did you mean "
         "tasks.math.weight?"),
        ("~tasks.cde", "~tasks.cde removes nothing: the key is not set"),
        ("model=", "model is empty; give nano, smollm2-135m, a folder or a hub id"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_one_sentence(override: str, message: str):
    assert refusal(override) == message


@pytest.mark.parametrize("override", ["=5", "a b", "num_steps", "--help", "+=1", "", "a@b=1"])
def test_what_is_not_key_value_says_so(override: str):
    assert refusal(override) == (
        f"{override!r} is not KEY=VALUE; write a key, an equals sign and a value, such as "
        "num_steps=10"
    )


def test_a_key_far_from_any_lists_what_there_is():
    message = refusal("nonsense=1")
    assert message.startswith("unknown config key nonsense; known are advantage, budget, ")


def test_an_unknown_experiment_lists_those_there_are():
    message = refusal("experiment=nope")
    assert message.startswith("there is no experiment named 'nope'; known are ")
    assert "quickstart" in message and refusal("experiment=quikstart").endswith(
        "did you mean quickstart?"
    )


def test_a_path_with_special_characters_is_told_how_to_be_quoted_and_then_works():
    message = refusal("tasks.math.path=/a/b=c.jsonl")
    assert "tasks.math.path='\"VALUE\"'" in message
    cfg = load_config(['tasks.math.path="/a/b=c.jsonl"'])
    assert cfg.tasks["math"].path == "/a/b=c.jsonl"


def test_a_file_of_tasks_needs_no_plus_and_a_missing_one_is_named(tmp_path):
    from conjoint.rl.tasks import build_tasks

    cfg = load_config(["tasks.math.path=missing.jsonl"])
    with pytest.raises(ConjointError, match=r"there is no file missing\.jsonl; give a \.jsonl"):
        build_tasks(cfg)


def test_a_kind_can_be_removed_and_one_of_your_own_added():
    assert "code" not in load_config(["~tasks.code"]).tasks
    cfg = load_config(["tasks.puzzle.weight=2", "reward.kinds.puzzle=[my.module:check]"])
    assert cfg.kinds["puzzle"].weight == 2


CONTRADICTIONS = {
    "no steps": (["num_steps=0"], "num_steps=0 must be at least 1"),
    "resume and run_dir": (["resume=a", "run_dir=b"], "not both"),
    "resume and replay": (["resume=a", "replay=b"], "resume=RUN_DIR or replay=DUMP, not both"),
    "critic as a task": (["tasks.critic.weight=1"], "tasks.critic: critic tasks come from"),
    "negative weight": (["tasks.math.weight=-1"], "tasks.math.weight and"),
    "negative heldout": (["tasks.math.heldout=-1"], "tasks.math.heldout must be 0 or more"),
    "an agent of one turn": (["tasks.math.agent.run=a:b"], "more than rollout.max_turns=1 turn"),
    "an agent held back": (
        ["tasks.math.agent.run=a:b", "rollout.max_turns=2", "rollout.max_staleness=1",
         "rollout.segment_tokens=8"],
        "tasks.math.agent.run cannot be held back by rollout.segment_tokens=8",
    ),
    "settings of no agent": (["tasks.math.agent.concurrency=2"], "set tasks.math.agent.run"),
    "no time for an agent": (
        ["tasks.math.agent.run=a:b", "tasks.math.agent.deadline_s=0"],
        "tasks.math.agent.deadline_s=0 must be above 0",
    ),
    "no agent at a time": (
        ["tasks.math.agent.run=a:b", "tasks.math.agent.concurrency=0"],
        "tasks.math.agent.concurrency=0 must be at least 1",
    ),
    "confidence of a judged kind": (
        ["tasks.open.confidence=true"], "add the rubric 'calibrated' to reward.rubrics"
    ),
    "confidence of another judged kind": (
        ["tasks.code.confidence=true", "reward.kinds.code=[safety,rubric]"],
        "code is only judged (safety, rubric)",
    ),
    "confidence of an agent": (
        ["tasks.math.confidence=true", "tasks.math.agent.run=a:b", "rollout.max_turns=2"],
        "nothing asks for tasks.math.confidence",
    ),
    "nothing that pays": (["reward.weights.math=0"], "all its rewards weigh 0"),
    "a negative weight": (["reward.weights.math=-1"], "reward.weights.math=-1.0 must be 0 or more"),
    "a misspelt weight": (["reward.weights.mth=2"], "reward.weights.mth names no reward"),
    "a misspelt range": (["reward.ranges.math=[0,2]"], "reward.ranges.math names no reward"),
    "a misspelt kind": (["reward.kinds.mathe=[math]"], "reward.kinds.mathe names no task kind"),
    "paid for being cut off": (["budget.penalty=0.5"], "budget.penalty=0.5 must be 0 or less"),
    "turns of nobody": (["rollout.max_turns=5"], "rollout.max_turns=5 has no effect"),
    "updates without PTX": (
        ["experiment=quickstart", "ptx.rows_per_step=1"], "ptx.rows_per_step=1 leaves some"
    ),
    "a confidence that costs": (
        ["tasks.math.confidence=true", "reward.weights.calibration=-1"],
        "reward.weights.calibration=-1.0 must be 0 or more",
    ),
    "the weight of no confidence": (
        ["reward.weights.calibration=0.5"], "no task kind states a confidence"
    ),
    "the weight of a confidence that takes no part": (
        ["reward.weights.calibration=0.5", "tasks.math={confidence: true, weight: 0}"],
        "no task kind states a confidence",
    ),
    "kind without reward": (["tasks.mth.weight=1"], "did you mean math?"),
    "budget of no kind": (["budget.tokens.mth=1"], "budget.tokens.mth names no task kind"),
    "end of no kind": (
        ["budget.schedule=linear", "budget.end_tokens.mth=9"],
        "budget.end_tokens.mth names no task kind",
    ),
    "end without a schedule": (["budget.end_tokens.math=9"], "no effect with budget.schedule="),
    "schedule without an end": (["budget.schedule=linear"], "where the budgets should end"),
    "unknown schedule": (["budget.schedule=steps"], "budget.schedule is 'steps'; choose one of"),
    "schedule of budgets that are off": (
        ["budget.enabled=false", "budget.schedule=cosine", "budget.end_default=9"],
        "budget.schedule=cosine has no effect with budget.enabled=false",
    ),
    "no token": (["budget.tokens.math=0"], "budget.tokens.math=0 must be at least 1 token"),
    "toggle without budgets": (
        ["budget.enabled=false", "budget.toggle={every: 5, kinds: [math]}"],
        "budget.toggle.every=5 has no effect with budget.enabled=false",
    ),
    "toggle of no kind": (
        ["budget.toggle={every: 5, kinds: [mth]}"], "budget.toggle.kinds.mth names no task kind"
    ),
    "toggle of a judged kind": (
        ["budget.toggle={every: 5, kinds: [open]}"], "open is judged by rubrics alone"
    ),
    "length reward of no kind": (
        ["budget.length.weight.mth=1"], "budget.length.weight.mth names no task kind"
    ),
    "nucleus of no kind": (["rollout.top_p.mth=0.9"], "rollout.top_p.mth names no task kind"),
    "nucleus of nothing": (["rollout.top_p.math=0"], "rollout.top_p.math=0"),
    "nucleus without a weight": (
        ["rollout.top_p.math=0.9", "loss.old=learner", "mismatch.correction=none"],
        "mismatch.correction=truncate or band and",
    ),
    "nucleus with a weight a sequence": (
        ["rollout.top_p.math=0.9", "loss.old=learner", "mismatch.level=sequence"],
        "mismatch.level=token, which",
    ),
    "nucleus of an old sampler": (["rollout.top_p.math=0.9"], "it needs loss.old=learner"),
    "a ratio counted twice": (
        ["mismatch.correction=truncate"], "log-ratio holds that already; set loss.old=learner"
    ),
    "nucleus below the band": (
        ["rollout.top_p.math=0.4", "loss.old=learner", "mismatch.correction=band"],
        "mismatch.low=0.5 would drop",
    ),
    "nothing left": (
        [f"tasks.{kind}.weight=0" for kind in ("math", "code", "instruction", "open")],
        "no task kind is left",
    ),
    "only judged kinds, no rubric": (
        ["reward.rubrics=[]", *(f"tasks.{k}.weight=0" for k in ("math", "code", "instruction"))],
        "no task kind is left",
    ),
    "file left to the user": (['tasks.math.path=""'], "tasks.math.path must name your files"),
    "PTX left to the user": (['ptx.source=""'], "ptx.source must name your files"),
    "unequal updates": (
        ["rollout.groups_per_step=10", "learner.updates_per_batch=3"],
        "cannot be split into learner.updates_per_batch=3 equal updates",
    ),
    "answer as long as the context": (["rollout.max_tokens=256"], "leaves no room for a prompt"),
    "micro-batch below one sequence": (
        ["learner.tokens_per_microbatch=255", "ptx.max_tokens=100"],
        "cannot hold one sequence of rollout.max_model_len=256",
    ),
    "micro-batch below a PTX row": (
        ["ptx.max_tokens=5000"], "cannot hold one row of ptx.max_tokens=5000"
    ),
    "NCCL on CPU": (["weight_sync.backend=nccl"], "needs whole GPUs on both sides"),
    "NCCL on a CPU learner": (
        ["rollout=gpu", "weight_sync.backend=nccl"], "needs whole GPUs on both sides"
    ),
    "NCCL on a shared GPU": (
        [*GPUS, "weight_sync.backend=nccl", "rollout.gpus_per_engine=0.5"],
        "needs whole GPUs on both sides",
    ),
    "unknown transport": (["weight_sync.backend=rdma"], "use shm, nccl or ipc"),
    "unknown engine": (["rollout.backend=sglang"], "use vllm or transformers"),
    "vLLM's keys without vLLM": (
        ["rollout.backend=transformers", "rollout.vllm.seed=1"],
        "rollout.vllm={'seed': 1} has no effect with rollout.backend=transformers; leave it at {}",
    ),
    "tensor parallel without vLLM": (
        ["rollout.backend=transformers", "rollout.tensor_parallel=2"], "leave it at 1"
    ),
    "a KV cache of vLLM's": (
        ["rollout.backend=transformers", "rollout.kv_cache_gb=2"], "leave it at 1.0"
    ),
    "NCCL without vLLM": (
        ["rollout.backend=transformers", "weight_sync.backend=nccl"], "transformers takes shm"
    ),
    "sleep without a GPU": (["rollout.sleep=true"], "rollout.sleep=true is for one GPU that"),
    "sleep on a GPU of its own": ([*GPUS, "rollout.sleep=true"], "such as rollout.gpus_per_engine"),
    "sleep while later answers run": (
        [*SHARED, "rollout.sleep=true", "rollout.max_staleness=1"], "needs rollout.max_staleness=0"
    ),
    "sleep with NCCL": (
        [*SHARED, "rollout.sleep=true", "weight_sync.backend=nccl"], "needs whole GPUs on both"
    ),
    "sleep of a plain engine": (
        [*SHARED, "rollout.sleep=true", "rollout.backend=transformers", "rollout.block_size=32"],
        "rollout.sleep=True has no effect with rollout.backend=transformers",
    ),
    "a delta by NCCL": (
        [*GPUS, "weight_sync.backend=nccl", "weight_sync.delta=true"],
        "weight_sync.delta has no effect with weight_sync.backend=nccl",
    ),
    "a delta of an unnamed type": (
        ["weight_sync.delta=true", "rollout.dtype=auto"], "rollout.dtype=auto must be float32"
    ),
    "IPC on CPU": (["weight_sync.backend=ipc"], "weight_sync.backend=ipc is for one GPU that"),
    "IPC over two GPUs": (
        [*SHARED, "weight_sync.backend=ipc", "rollout.engines=2"], "is for one GPU that"
    ),
    "IPC without vLLM": (
        ["weight_sync.backend=ipc", "rollout.backend=transformers"], "transformers takes shm"
    ),
    "raw vLLM parallelism": (
        ["rollout.vllm.tensor_parallel_size=2"], "use rollout.engines and rollout.tensor_parallel"
    ),
    "raw DeepSpeed stage": (
        ["learner.deepspeed.zero_optimization.stage=3"], "set learner.zero_stage instead"
    ),
    "GPUs of an engine": (
        [*GPUS, "rollout.tensor_parallel=2"], "equal to rollout.tensor_parallel=2"
    ),
    "shared GPU for two ranks": (
        [*GPUS, "learner.ranks=2", "learner.gpus_per_rank=0.5"], "a fraction with learner.ranks=1"
    ),
    "constant of another loss": (["loss.clip_low=0.1"], "has no effect with loss.name=k2"),
    "judge template": (["judge.template=zzz"], "judge.template must be one of"),
    "nothing to compare": (["rollout.group_size=1"], "leaves nothing to compare"),
    "bf16 without master weights": (["learner.dtype=bf16"], "set learner.zero_stage to 1, 2 or 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused_one_by_one(case: str):
    overrides, fragment = CONTRADICTIONS[case]
    assert fragment in refusal(*overrides)


def parts(config: Any) -> list[Any]:
    inside = [getattr(config, field.name) for field in fields(config)]
    return [deep for part in inside if is_dataclass(part) for deep in (*parts(part), part)]


def test_every_part_is_validated_once_and_in_no_other_way(monkeypatch: pytest.MonkeyPatch):
    found, seen = parts(load_config([])), []
    kinds = {type(part) for part in found}
    assert {"RemoteConfig", "ToggleConfig", "PreferenceConfig"} <= {k.__name__ for k in kinds}
    assert not any(hasattr(kind, "__post_init__") for kind in kinds)
    for kind in kinds:
        if hasattr(kind, "validate"):
            monkeypatch.setattr(kind, "validate", lambda self: seen.append(type(self)))
    monkeypatch.setattr("conjoint.rl.config.compose.validate", lambda cfg: None)
    load_config([])
    assert seen == [type(part) for part in found if hasattr(part, "validate")]


def test_what_lies_just_inside_each_limit_is_accepted():
    load_config(["rollout.max_tokens=255", "budget.default=255"])
    load_config(["learner.tokens_per_microbatch=256", "ptx.max_tokens=256"])
    load_config(["rollout.groups_per_step=9", "learner.updates_per_batch=3"])
    load_config([*GPUS, "weight_sync.backend=nccl"])
    load_config([*GPUS, "rollout.tensor_parallel=2", "rollout.gpus_per_engine=2"])
    load_config([*SHARED, "rollout.sleep=true", "weight_sync.backend=ipc"])
    load_config([*SHARED, "rollout.sleep=true", "weight_sync.delta=true"])
    load_config(["rollout.backend=transformers", "rollout.engines=2"])
    load_config(["ptx.weight=0", "ptx.max_tokens=5000", 'ptx.source=""'])
    load_config(["rollout.top_p.math=0.5", "loss=grpo", "mismatch.correction=band"])
    load_config(["rollout.top_p.math=1", "mismatch.correction=none"])
    load_config(["budget.enabled=false", "budget.length.weight.math=0.5"])


def test_a_confidence_is_on_by_one_key_which_also_decides_what_nano_is_shown():
    plain, cfg = load_config([]), load_config(["tasks.math.confidence=true"])
    assert (plain.confident, plain.nano.confidence) == ([], [])
    assert (cfg.confident, cfg.nano.confidence) == (["math"], ["math"])
    both = load_config(["tasks.math.confidence=true", "sft.confidence=[code]"])
    assert both.confident == ["math"] and both.nano.confidence == ["code", "math"]
    unpaid = load_config(["tasks.math.confidence=true", "reward.weights.calibration=0"])
    assert unpaid.confident == ["math"] and unpaid.nano == cfg.nano
    logic = ["tasks.logic={confidence: true, path: a.jsonl}", "tasks.code.confidence=true"]
    assert load_config(logic).nano.confidence == ["code"], "nano is shown no logic"
    with pytest.raises(ConjointError, match=r"sft\.confidence names 'open'"):
        load_config(["tasks.open.confidence=true", "reward.kinds.open=[math]"])


def test_a_run_says_which_engine_sampled():
    plain = ["rollout.backend=transformers", "rollout.engines=2"]
    assert load_config([]).rollout.in_words() == "1 vLLM worker(s), float32"
    assert load_config(plain).rollout.in_words() == "2 transformers worker(s), float32"
