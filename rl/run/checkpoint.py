"""Checkpoints: saving, pruning and verified reading.

    checkpoints/step-000012/  hf/            the model, for `from_pretrained`
                              deepspeed/     the learner's state
                              state.json     the state of all other parts
                              judge/         weights of the judge, if it has its own
                              manifest.json  sha256 of each file

A checkpoint is written under another name, hashed, and then renamed. A folder without a manifest is
unfinished and is ignored. All files but DeepSpeed's are free of pickles, and of those only tensors
are read (`rl/learner/tensors_only.py`).
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoint.envs.text import escaped
from conjoint.envs.types import ConjointError
from conjoint.rl.run.folder import whole_folder
from conjoint.rl.run.manifest import damage, write_manifest

if TYPE_CHECKING:
    from conjoint.rl.critic.snapshot import CriticSnapshot
    from conjoint.rl.learner.base import Learner


FORMAT = 4
"""Format of state.json. Raise it whenever the stored state of any part changes its meaning."""

Checkpoint = tuple[Path, int, dict[str, Any]]
"""(folder, number of steps done, state of all parts but the learner)."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """When to save, and which checkpoints to keep: those that any rule below keeps."""

    every: int = 20
    """Steps between checkpoints. The last step is always saved; 0 saves only that one."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of this; 0 keeps none for that."""
    keep_best: bool = False
    """Save at each evaluation too, and keep the checkpoint with the highest held-out mean: scores
    of sampled answers, averaged within each verifiable kind and then over kinds. Needs eval.every
    and eval.tasks. The score of the best of several checkpoints is biased upwards: report a score
    on another eval.seed."""

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
        """Whether to save after `step` steps. `evaluated`: these weights have been evaluated."""
        return (
            step == num_steps
            or bool(self.every and step % self.every == 0)
            or (self.keep_best and evaluated)
        )

    def kept(self, steps: Collection[int], scores: Mapping[int, float]) -> set[int]:
        """The steps, out of `steps`, whose checkpoints are kept.

        `scores` maps the evaluated steps to their held-out means.
        """
        ordered = sorted(steps)
        stay = set(ordered[-self.keep :])
        if self.keep_every:
            stay |= {step for step in ordered if step and step % self.keep_every == 0}
        scored = [step for step in ordered if step in scores]
        if self.keep_best and scored:
            # A tie goes to the newest checkpoint, which has trained for longest.
            stay.add(max(scored, key=lambda step: (scores[step], step)))
        return stay


async def save_checkpoint(
    root: Path,
    step: int,
    learner: "Learner",
    state: Mapping[str, Any],
    judge: "CriticSnapshot | None" = None,
) -> Path:
    """Save a checkpoint after `step` steps; returns its folder.

    `state` is plain JSON data. A finished checkpoint of this step is left as it is.
    """
    target = root / f"step-{step:06d}"
    if (target / "manifest.json").exists():
        return target
    with whole_folder(target, "checkpoint") as partial:
        await learner.save(partial.resolve())
        if judge is not None:
            judge.save(partial)
        text = escaped(json.dumps({"format": FORMAT, **state}, ensure_ascii=False))
        (partial / "state.json").write_text(text, encoding="utf-8")
        write_manifest(partial, step)
    return target


def prune(root: Path, config: CheckpointConfig, scores: Mapping[int, float]) -> None:
    """Delete the checkpoints that no rule of `config` keeps."""
    found = {checkpoint_step(folder): folder for folder in finished_checkpoints(root)}
    for step in found.keys() - config.kept(found, scores):
        shutil.rmtree(found[step])


def finished_checkpoints(root: Path) -> list[Path]:
    """Folders of the complete checkpoints, oldest first."""
    return sorted(p.parent for p in root.glob("step-*/manifest.json"))


def checkpoint_step(folder: Path) -> int:
    """Number of steps done, from the name of a checkpoint's folder."""
    return int(folder.name.removeprefix("step-"))


def read_checkpoint(root: Path, name: str | None = None) -> Checkpoint:
    """The checkpoint `name`, by default the newest, after each file is compared with its hash.

    Raises ConjointError if there is no such checkpoint, if a file is damaged (with the name of an
    earlier checkpoint to use), or if `state.json` has another format.
    """
    found = finished_checkpoints(root)
    if not found:
        raise ConjointError(
            f"{root} holds no finished checkpoint to resume from; start anew in another folder"
        )
    folder = root / name if name else found[-1]
    # A folder that exists but is unfinished is refused as well.
    if folder not in found:
        raise ConjointError(
            f"{folder} is not a finished checkpoint; there are {', '.join(f.name for f in found)}"
        )
    if found_damage := damage(folder, checkpoint_step(folder)):
        older = found[: found.index(folder)]
        advice = (
            f"go on from the one before it with resume={older[-1]}"
            if older
            else "there is none before it, so start anew"
        )
        raise ConjointError(f"the checkpoint {folder} cannot be used: {found_damage}; {advice}")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if (written := state.pop("format", 1)) != FORMAT:
        raise ConjointError(
            f"the state of checkpoint {folder} has format {written} and this conjoint reads format "
            f"{FORMAT}; start a new run from its weights with model={folder / 'hf'}"
        )
    return folder, checkpoint_step(folder), state


def model_folder(path: Path) -> Path | None:
    """The model folder of a checkpoint, or of the newest checkpoint of a run.

    None if `path` is neither a checkpoint nor a run. Raises ConjointError for a run without a
    finished checkpoint, and for damaged files.
    """
    if (path / "checkpoints").is_dir():
        found = finished_checkpoints(path / "checkpoints")
        if not found:
            raise ConjointError(f"the run {path} has no finished checkpoint yet")
        path = found[-1]
    elif not ((path / "manifest.json").is_file() and (path / "hf").is_dir()):
        return None
    if found_damage := damage(path, checkpoint_step(path)):
        raise ConjointError(f"the checkpoint {path} cannot be used: {found_damage}")
    return path / "hf"
