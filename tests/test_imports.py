"""Who may import whom, and which file may import which heavy package: listed on purpose only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rl", "envs", "rewards", "rollouts", "configs", "scripts")

# Imports in functions count too; only `if TYPE_CHECKING:` does not, because it never runs.
HEAVY: dict[str, set[str]] = {
    "torch": {
        "rl/bench/head_bench.py",
        "rl/bench/trl_step.py",
        "rl/bench/trl_trainer.py",
        "rl/diagnose.py",
        "rl/head.py",
        "rl/learner_model.py",
        "rl/learner_rank.py",
        "rl/learner_stats.py",
        "rl/lora.py",
        "rl/models.py",
        "rl/nano.py",
        "rl/nccl_sync.py",
        "rl/optim/batched_muon.py",
        "rl/optim/muon.py",
        "rl/optim/muon_clip.py",
        "rl/optim/qk_clip.py",
        "rl/optim/zero_layout.py",
        "rl/packed.py",
        "rl/reference.py",
        "rl/weight_sync.py",
        "rollouts/decoding.py",
        "rollouts/digest.py",
        "rollouts/transformers_worker.py",
        "rollouts/weights.py",
    },
    "transformers": {
        "rl/bench/head_bench.py",
        "rl/bench/trl_step.py",
        "rl/bench/trl_trainer.py",
        "rl/learner_model.py",
        "rl/lora.py",
        "rl/models.py",
        "rl/nano.py",
        "rl/optim/qk_clip.py",
        "rl/packed.py",
        "rl/sft.py",
        "rollouts/decoding.py",
        "rollouts/renderer.py",
    },
    "tokenizers": {"rl/nano.py"},
    "huggingface_hub": {"rl/models.py"},
    "vllm": {
        "rl/bench/bare_vllm.py",
        "rl/ipc_sync.py",
        "rl/nccl_sync.py",
        "rollouts/cpu_executor.py",
        "rollouts/ipc_transfer.py",
        "rollouts/nccl_transfer.py",
        "rollouts/shm_transfer.py",
        "rollouts/vllm_worker.py",
    },
    "ray": {
        "rl/bench/joint_bench.py",
        "rl/bench/rollout_bench.py",
        "rl/build.py",
        "rl/learner_group.py",
        "rl/nccl_sync.py",
        "rl/eval/policy.py",
        "rl/placement.py",
        "rl/ray_start.py",
        "rollouts/vllm_engine.py",
        "rollouts/worker_set.py",
    },
    "deepspeed": {"rl/learner_rank.py"},
    "peft": {"rl/lora.py"},
    "trl": {"rl/bench/trl_step.py", "rl/bench/trl_trainer.py", "rl/sft.py"},
    "datasets": {"rl/bench/trl_step.py", "rl/bench/trl_trainer.py", "rl/sft.py"},
    "wandb": {"rl/metrics.py"},
    "hydra": {"rl/config.py"},
    "omegaconf": {"rl/config.py"},
    "openai": {"rollouts/endpoint.py"},
    "e2b": {"rewards/sandbox/e2b.py"},
    "aiohttp": {"rollouts/gateway/server.py"},
    "httpx": {"rewards/sandbox/e2b.py", "rewards/sandbox/http.py"},
    "tenacity": {"rewards/sandbox/remote.py"},
    "math_verify": {"rewards/symbolic.py"},
    "sympy": {"rewards/gym.py", "rewards/symbolic.py"},
    "reasoning_gym": {"rewards/gym.py"},
    "nltk": {"rewards/claims.py", "rewards/ifeval/text.py", "rl/rubric/wording.py"},
    "langdetect": {"rewards/ifeval/text.py"},
    "pebble": {"rewards/worker.py"},
    "pyarrow": {"envs/sources/dataset.py", "rl/ptx.py"},
    "plotly": set(),
    "gguf": set(),
}

FILES = sorted(
    file.relative_to(ROOT).as_posix() for name in PACKAGES for file in (ROOT / name).rglob("*.py")
)


def imported(file: str) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere when it runs, with the line."""
    module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    todo: list[ast.AST] = [module]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively: name the package"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        todo += ast.iter_child_nodes(node)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def breaks_direction(file: str, module: str) -> bool:
    """rl.types <- envs, rewards, rollouts <- the rest of rl <- scripts."""
    if not any(within(module, package) for package in PACKAGES):
        return False
    if file == "rl/types.py":
        return True
    home = file.partition("/")[0]
    if home in ("envs", "rewards", "rollouts"):
        return within(module, "scripts") or (
            within(module, "rl") and not within(module, "rl.types")
        )
    return home != "scripts" and within(module, "scripts")


@pytest.mark.parametrize("file", FILES)
def test_imports_point_one_way(file: str):
    wrong = [
        f"{file}:{line} imports {module}"
        for module, line in imported(file)
        if breaks_direction(file, module) and module != "rl"
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_heavy_packages_are_imported_only_where_listed(package: str):
    found = {file for file in FILES for module, _ in imported(file) if within(module, package)}
    assert found == HEAVY[package]


@pytest.mark.parametrize(
    "modules",
    [
        "rl.types, rewards.base, envs.base",
        "rl.config",
        "scripts.main, scripts.train, scripts.report",
    ],
)
def test_light_modules_load_no_heavy_package(modules: str):
    result = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert sorted(loaded & HEAVY.keys()) == []


@pytest.mark.parametrize(
    ("file", "module", "broken"),
    [
        ("rl/types.py", "envs.base", True),
        ("envs/base.py", "rl.types", False),
        ("rewards/base.py", "rl.typesetting", True),
        ("rollouts/x.py", "rl.learner", True),
        ("rl/train.py", "rollouts.engine", False),
        ("rl/train.py", "scripts.main", True),
        ("scripts/train.py", "rl.train", False),
        ("rewards/base.py", "scripts.main", True),
        ("rewards/base.py", "rlax", False),
    ],
)
def test_the_direction_rule_itself(file: str, module: str, broken: bool):
    assert breaks_direction(file, module) is broken
