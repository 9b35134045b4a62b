"""Checkpoints: written aside, hashed, renamed. Each holds a folder that `from_pretrained` opens.

    checkpoints/step-000012/  hf/  deepspeed/  state.json  manifest.json (sha256 of every file)

A folder without a manifest was never finished and is ignored. `state.json` is plain data; nothing
here is a pickle except DeepSpeed's own files, which the manifest's hashes guard.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.types import ConjointError

if TYPE_CHECKING:
    from rl.learner import Learner


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    every: int = 20
    """Steps between checkpoints; the last step always makes one. 0: only the last."""
    keep: int = 2
    """Newest checkpoints that stay."""

    def validate(self) -> None:
        if self.every < 0:
            raise ConjointError(f"checkpoint.every={self.every} must be 0 or more")
        if self.keep < 1:
            raise ConjointError(f"checkpoint.keep={self.keep} must be at least 1")

    def due(self, step: int, num_steps: int) -> bool:
        """Whether to save after `step` steps are done."""
        return step == num_steps or bool(self.every and step % self.every == 0)


async def save_checkpoint(
    root: Path, step: int, learner: "Learner", state: dict[str, Any], keep: int
) -> Path:
    """Save after `step` steps are done; returns the finished folder."""
    target = root / f"step-{step:06d}"
    if (target / "manifest.json").exists():
        return target
    partial = root / f".partial-{target.name}"
    for leftover in (partial, target):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        await learner.save(partial.resolve())
        (partial / "state.json").write_text(json.dumps(state, ensure_ascii=False))
        hashes = {str(p.relative_to(partial)): _sha256(p) for p in _files(partial)}
        (partial / "manifest.json").write_text(json.dumps({"step": step, "sha256": hashes}))
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ConjointError(f"cannot write the checkpoint {target}: {error}") from error
    for old in finished_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return target


def finished_checkpoints(root: Path) -> list[Path]:
    """Oldest first; those that were interrupted while being written are not among them."""
    return sorted(p.parent for p in root.glob("step-*/manifest.json"))


def read_checkpoint(root: Path) -> tuple[Path, int, dict[str, Any]]:
    """(folder, steps done, state) of the newest checkpoint, after its hashes are checked."""
    found = finished_checkpoints(root)
    if not found:
        raise ConjointError(
            f"{root} holds no finished checkpoint to resume from; start anew in another folder"
        )
    folder = found[-1]
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, expected in manifest["sha256"].items():
        file = folder / name
        if not file.exists() or _sha256(file) != expected:
            older = (
                f"delete {folder} to go on from {found[-2].name}"
                if len(found) > 1
                else ("no older one is left")
            )
            raise ConjointError(f"{file} of the newest checkpoint is damaged or missing; {older}")
    return folder, manifest["step"], json.loads((folder / "state.json").read_text())


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
