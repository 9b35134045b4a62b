"""Checkpoints: written aside, hashed, renamed. Each holds a folder that `from_pretrained` opens.

    checkpoints/step-000012/  hf/  deepspeed/  state.json  manifest.json (sha256 of every file)
                              judge/ (the weights that judged, where those were others)

A folder without a manifest was never finished and is ignored. `state.json` is plain data; nothing
here is a pickle except DeepSpeed's own files, which the manifest's hashes guard.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoint.envs.types import ConjointError
from conjoint.rl.run.folder import whole_folder

if TYPE_CHECKING:
    from conjoint.rl.critic.snapshot import CriticSnapshot
    from conjoint.rl.learner.base import Learner


FORMAT = 4
"""Of state.json. Raise it when the state of any part is no longer read as it was written."""

Checkpoint = tuple[Path, int, dict[str, Any]]
"""Folder, steps done, and the state of everything but the learner."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """When to save, and what stays: a checkpoint that any of the rules below wants."""

    every: int = 20
    """Steps between checkpoints; the last step always makes one. 0: only the last."""
    keep: int = 2
    """Newest checkpoints that stay."""
    keep_every: int = 0
    """Checkpoints whose step is a multiple of this stay for ever; 0: none."""
    keep_best: bool = False
    """Save at each evaluation too, and keep the checkpoint with the highest held-out mean: sampled
    scores averaged over each verifiable kind and then over kinds. Needs eval.every and eval.tasks.
    It is the best of several, so its own score flatters it: report another seed's."""

    def validate(self) -> None:
        if self.every < 0 or self.keep_every < 0:
            raise ConjointError("checkpoint.every and checkpoint.keep_every must be 0 or more")
        if self.keep < 1:
            raise ConjointError(f"checkpoint.keep={self.keep} must be at least 1")
        if self.every and self.keep_every % self.every:
            raise ConjointError(
                f"checkpoint.keep_every={self.keep_every} must be a multiple of "
                f"checkpoint.every={self.every}, or no such step is saved"
            )
        if self.keep_every and not (self.every or self.keep_best):
            raise ConjointError(
                f"checkpoint.keep_every={self.keep_every} has no effect with checkpoint.every=0, "
                "which saves the last step only"
            )

    def due(self, step: int, num_steps: int, *, evaluated: bool = False) -> bool:
        """Whether to save after `step` steps are done; `evaluated` if these weights have been."""
        return (
            step == num_steps
            or bool(self.every and step % self.every == 0)
            or (self.keep_best and evaluated)
        )

    def kept(self, steps: Collection[int], scores: Mapping[int, float]) -> set[int]:
        """Which checkpoints stay. `scores`: the held-out mean of those that were evaluated."""
        ordered = sorted(steps)
        stay = set(ordered[-self.keep :])
        if self.keep_every:
            stay |= {step for step in ordered if step and step % self.keep_every == 0}
        scored = [step for step in ordered if step in scores]
        if self.keep_best and scored:
            # Of equals the newest: it has trained for longer.
            stay.add(max(scored, key=lambda step: (scores[step], step)))
        return stay


async def save_checkpoint(
    root: Path,
    step: int,
    learner: "Learner",
    state: Mapping[str, Any],
    judge: "CriticSnapshot | None" = None,
) -> Path:
    """Save after `step` steps are done; returns the finished folder."""
    target = root / f"step-{step:06d}"
    if (target / "manifest.json").exists():
        return target
    with whole_folder(target, "checkpoint") as partial:
        await learner.save(partial.resolve())
        if judge is not None:
            judge.save(partial)
        text = json.dumps({"format": FORMAT, **state}, ensure_ascii=False)
        (partial / "state.json").write_text(text, encoding="utf-8")
        hashes = {str(p.relative_to(partial)): _sha256(p) for p in _files(partial)}
        (partial / "manifest.json").write_text(json.dumps({"step": step, "sha256": hashes}))
    return target


def prune(root: Path, config: CheckpointConfig, scores: Mapping[int, float]) -> None:
    """Delete the checkpoints that no rule of `config` keeps."""
    found = {checkpoint_step(folder): folder for folder in finished_checkpoints(root)}
    for step in found.keys() - config.kept(found, scores):
        shutil.rmtree(found[step])


def finished_checkpoints(root: Path) -> list[Path]:
    """Oldest first; those that were interrupted while being written are not among them."""
    return sorted(p.parent for p in root.glob("step-*/manifest.json"))


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def read_checkpoint(root: Path, name: str | None = None) -> Checkpoint:
    """The checkpoint `name`, the newest if None.

    Every file is compared with its hash first. Raises ConjointError naming the file that is damaged
    and the checkpoint before it.
    """
    found = finished_checkpoints(root)
    if not found:
        raise ConjointError(
            f"{root} holds no finished checkpoint to resume from; start anew in another folder"
        )
    folder = root / name if name else found[-1]
    if folder not in found:
        raise ConjointError(
            f"{folder} is not a finished checkpoint; there are {', '.join(f.name for f in found)}"
        )
    damage = _damage(folder)
    if damage:
        older = found[: found.index(folder)]
        advice = (
            f"go on from the one before it with resume={older[-1]}"
            if older
            else "there is none before it, so start anew"
        )
        raise ConjointError(f"the checkpoint {folder} cannot be used: {damage}; {advice}")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if (written := state.pop("format", 1)) != FORMAT:
        raise ConjointError(
            f"the state of checkpoint {folder} has format {written} and this conjoint reads format "
            f"{FORMAT}; start a new run from its weights with model={folder / 'hf'}"
        )
    return folder, checkpoint_step(folder), state


def model_folder(path: Path) -> Path | None:
    """The model of a checkpoint's folder, or of the newest checkpoint of a run's; None if `path` is
    neither. Raises ConjointError for a run without one, and for damaged files."""
    if (path / "checkpoints").is_dir():
        found = finished_checkpoints(path / "checkpoints")
        if not found:
            raise ConjointError(f"the run {path} has no finished checkpoint yet")
        path = found[-1]
    elif not ((path / "manifest.json").is_file() and (path / "hf").is_dir()):
        return None
    if damage := _damage(path):
        raise ConjointError(f"the checkpoint {path} cannot be used: {damage}")
    return path / "hf"


def _damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if they are as they were written."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        step, hashes = manifest["step"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError):
        return "its manifest.json is damaged"
    if step != checkpoint_step(folder):
        return f"its manifest.json is of step {step}"
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} is damaged (its sha256 is not that of the manifest)"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
