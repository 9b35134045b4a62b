"""The one rule of imports, and who may import which heavy package: listed on purpose only."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("configs", "envs", "rollouts", "rewards", "rl", "scripts")
"""The order of the data. A package imports itself and those before it."""

HEAVY: dict[str, set[str]] = {
    "torch": {
        "scripts/bench/learner/head.py",
        "scripts/bench/learner/trl_step.py",
        "scripts/bench/rollout/trl_trainer.py",
        "rl/resume/diagnose.py",
        "rl/learner/forward/head.py",
        "rl/learner/forward/model.py",
        "rl/learner/place.py",
        "rl/learner/rank.py",
        "rl/learner/tensors_only.py",
        "rl/learner/stats.py",
        "rl/learner/lora.py",
        "rl/models/resolve.py",
        "rl/nano/model.py",
        "rollouts/weights/nccl_sender.py",
        "rl/learner/optim/batched_muon.py",
        "rl/learner/optim/muon.py",
        "rl/learner/optim/muon_clip.py",
        "rl/learner/optim/qk_clip.py",
        "rl/learner/optim/zero_layout.py",
        "rl/learner/forward/packed.py",
        "rl/learner/forward/reference.py",
        "rollouts/weights/shm_sender.py",
        "scripts/minimal_loop.py",
        "rollouts/engine/decoding.py",
        "rollouts/weights/digest.py",
        "rollouts/engine/transformers_worker.py",
        "rollouts/weights/buffer.py",
    },
    "transformers": {
        "scripts/bench/learner/head.py",
        "scripts/bench/learner/trl_step.py",
        "scripts/bench/rollout/trl_trainer.py",
        "rl/learner/forward/model.py",
        "rl/learner/lora.py",
        "rl/models/resolve.py",
        "rl/nano/model.py",
        "rl/learner/optim/qk_clip.py",
        "rl/learner/forward/packed.py",
        "rl/nano/sft.py",
        "rollouts/engine/decoding.py",
        "rollouts/renderer.py",
    },
    "tokenizers": {"rl/nano/model.py"},
    "huggingface_hub": {"rl/models/resolve.py"},
    "vllm": {
        "scripts/bench/rollout/bare_vllm.py",
        "rollouts/weights/ipc_sender.py",
        "rollouts/weights/nccl_sender.py",
        "rollouts/engine/cpu_executor.py",
        "rollouts/weights/ipc_receiver.py",
        "rollouts/weights/nccl_receiver.py",
        "rollouts/weights/shm_receiver.py",
        "rollouts/engine/vllm_worker.py",
    },
    "ray": {
        "scripts/bench/rollout/joint.py",
        "scripts/bench/rollout/measure.py",
        "rl/build.py",
        "rl/learner/group.py",
        "rollouts/weights/nccl_sender.py",
        "scripts/eval/open_policy.py",
        "rl/cluster/placement.py",
        "rl/cluster/private_ray.py",
        "rl/cluster/ray_start.py",
        "rollouts/engine/driver.py",
        "rollouts/engine/worker_set.py",
    },
    "deepspeed": {"rl/learner/rank.py", "rl/learner/tensors_only.py"},
    "peft": {"rl/learner/lora.py"},
    "trl": {
        "scripts/bench/learner/trl_step.py",
        "scripts/bench/rollout/trl_trainer.py",
        "rl/nano/sft.py",
    },
    "datasets": {
        "scripts/bench/learner/trl_step.py",
        "scripts/bench/rollout/trl_trainer.py",
        "rl/nano/sft.py",
    },
    "wandb": {"rl/run/metrics.py"},
    "hydra": {"rl/config/compose.py"},
    "omegaconf": {"rl/config/compose.py"},
    "openai": {"rollouts/endpoint.py"},
    "e2b": {"rewards/sandbox/remote/e2b.py"},
    "aiohttp": {"rollouts/gateway/server.py"},
    "httpx": {"rewards/sandbox/remote/e2b.py", "rewards/sandbox/remote/http.py"},
    "tenacity": {"rewards/sandbox/remote/remote.py"},
    "math_verify": {"rewards/math/symbolic.py"},
    "sympy": {"rewards/logic/gym.py", "rewards/math/symbolic.py"},
    "reasoning_gym": {"rewards/logic/gym.py"},
    "nltk": {"rewards/text/claims.py", "rewards/instructions/text.py", "scripts/rubric/wording.py"},
    "langdetect": {"rewards/instructions/text.py"},
    "pebble": {"rewards/killable.py"},
    "pyarrow": {"envs/sources/rows.py", "rewards/rubrics/pattern.py"},
    "plotly": set(),
    "gguf": set(),
}

FILES = {
    "conjoint."
    + file.relative_to(ROOT)
    .as_posix()
    .removesuffix(".py")
    .removesuffix("/__init__")
    .replace("/", "."): file
    for package in ORDER
    for file in sorted((ROOT / package).rglob("*.py"))
}
"""Module -> its file."""


def imported(tree: ast.AST, *, runtime: bool = False) -> Iterator[str]:
    """Every module that a file imports anywhere, in functions too; of `from package import name`
    both, since the name may be a module. `runtime`: but for what stands under `if TYPE_CHECKING:`,
    which never runs."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if (
            runtime
            and isinstance(node, ast.If)
            and ast.unparse(node.test).endswith("TYPE_CHECKING")
        ):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively: name the package"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = {module for module, file in FILES.items() if file.name != "__init__.py"}
TREES = {module: ast.parse(file.read_text()) for module, file in FILES.items()}
IMPORTS = {module: set(imported(tree)) for module, tree in TREES.items()}
RUNTIME_IMPORTS = {module: set(imported(tree, runtime=True)) for module, tree in TREES.items()}


def upwards(module: str, other: str) -> bool:
    """Whether `other` stands in a later package than `module`, which imports it."""
    home, away = (ORDER.index(name.split(".")[1]) for name in (module, other))
    return away > home


def test_a_package_imports_only_itself_and_those_before_it():
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others & FILES.keys())
        if upwards(module, other)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    graph = {module: (others & MODULES) - {module} for module, others in IMPORTS.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_every_import_of_ours_has_the_one_name_and_exists():
    for module, others in IMPORTS.items():
        for other in others:
            top = other.partition(".")[0]
            assert top not in ORDER, f"{module} imports {other}: write conjoint.{other}"
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("conjoint"):
                assert node.module in FILES, f"{module}:{node.lineno} imports {node.module}"


@pytest.mark.parametrize("package", sorted(HEAVY))
def test_heavy_packages_are_imported_only_where_listed(package: str):
    found = {
        FILES[module].relative_to(ROOT).as_posix()
        for module, others in RUNTIME_IMPORTS.items()
        if any(n == package or n.startswith(f"{package}.") for n in others)
    }
    assert found == HEAVY[package]


@pytest.mark.parametrize(
    "modules",
    [
        "conjoint.envs.types, conjoint.rewards.base, conjoint.envs.base",
        "conjoint.rl.config.compose",
        "conjoint.scripts.main, conjoint.scripts.train, conjoint.scripts.report",
    ],
)
def test_light_modules_load_no_heavy_package(modules: str):
    result = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert sorted(loaded & HEAVY.keys()) == []


@pytest.mark.parametrize(
    ("module", "other", "wrong"),
    [
        ("conjoint.envs.types", "conjoint.rewards.base", True),
        ("conjoint.rollouts.chat", "conjoint.envs.types", False),
        ("conjoint.rollouts.chat", "conjoint.rewards.base", True),
        ("conjoint.rewards.base", "conjoint.rl.train", True),
        ("conjoint.rl.train", "conjoint.rewards.base", False),
        ("conjoint.rl.train", "conjoint.scripts.main", True),
        ("conjoint.scripts.train", "conjoint.rl.train", False),
    ],
)
def test_the_rule_itself(module: str, other: str, wrong: bool):
    assert upwards(module, other) is wrong


def test_rooms_stay_small():
    """At most 13 files a folder, 400 lines a file and 60 a function."""
    for package in ORDER:
        for folder in [ROOT / package, *(f for f in (ROOT / package).rglob("*") if f.is_dir())]:
            files = [f for f in folder.glob("*.py") if f.name != "__init__.py"]
            assert len(files) <= 13, f"{folder} has {len(files)} files"
    for module, file in FILES.items():
        source = file.read_text()
        assert source.count("\n") <= 400, f"{file} has {source.count(chr(10))} lines"
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 60, f"{module}.{node.name} has {lines} lines"
