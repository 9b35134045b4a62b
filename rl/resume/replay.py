"""Dumps of a step's batch, and running the learner alone on one.

    dumps/step-000012/  batch.npz  dump.json  learner/ (hf/ and deepspeed/, as in a checkpoint)
                        manifest.json

A dump is complete: it can be copied to another machine and replayed there. `batch.npz` holds plain
arrays (no pickle); `dump.json` how they fit together, the configuration and the versions;
`manifest.json` the sha256 of each file.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conjoint.envs.text import to_json
from conjoint.envs.types import ConjointError
from conjoint.rl.config.tree import Config
from conjoint.rl.learner.batch import Batch, MicroBatch, Update
from conjoint.rl.models.resolve import check_model_folder
from conjoint.rl.nano.start_policy import check_model
from conjoint.rl.resume.resume import with_changes
from conjoint.rl.run.folder import whole_folder
from conjoint.rl.run.manifest import damage, write_manifest
from conjoint.rl.run.versions import collect_versions

if TYPE_CHECKING:
    from conjoint.rl.learner.base import Learner
    from conjoint.rl.resume.diagnose import Finding


@dataclass(frozen=True, slots=True)
class Dump:
    """A stored batch. `facts`: {step, version, updates_applied, config, versions}."""

    folder: Path
    batch: Batch
    facts: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.folder / "learner" / "hf"


@dataclass(frozen=True, slots=True)
class Replayed:
    metrics: dict[str, float]
    losses: list[float]
    """The loss of each update, skipped updates included."""
    first: "Finding | None"
    """The first number that was not finite; None if all were."""
    exact: bool
    """Whether the optimizer went on from its stored state: the updates are then those of the run,
    else only the loss and the gradient of the first one are."""

    @property
    def finite(self) -> bool:
        return self.first is None and not self.metrics["nonfinite"]


async def write_dump(
    folder: Path,
    batch: Batch,
    learner: "Learner",
    config: Config,
    *,
    step: int,
    updates_applied: int,
) -> Path:
    """Store what step `step` trains on, with the learner as it is. Appears only complete.

    `updates_applied` counts those of this batch that the learner has taken already: 0 if the dump
    is made before the step, or after one whose updates were all skipped.
    """
    with whole_folder(folder, "dump") as partial:
        await learner.save((partial / "learner").resolve())
        arrays: dict[str, np.ndarray] = {}
        facts = {
            "step": step,
            "version": step - 1,
            "updates_applied": updates_applied,
            "batch": _taken_apart(batch, arrays),
            "config": asdict(config),
            "versions": collect_versions(),
        }
        np.savez(partial / "batch.npz", allow_pickle=False, **arrays)
        (partial / "dump.json").write_text(to_json(facts, indent=1), encoding="utf-8")
        write_manifest(partial, step)
    return folder


def read_dump(folder: Path) -> Dump:
    """Raises ConjointError if the folder is no dump, or a file of it is damaged."""
    if not (folder / "dump.json").is_file():
        raise ConjointError(
            f"{folder} is not a dump: it has no dump.json; give replay=RUN_DIR/dumps/step-000012"
        )
    if not (folder / "manifest.json").is_file():
        raise ConjointError(
            f"the dump {folder} has no manifest.json, by which its files are checked: copy the "
            "whole folder; one that was written before conjoint had manifests can be replayed by "
            "the version in its dump.json only"
        )
    if found := damage(folder):
        raise ConjointError(f"the dump {folder} is damaged: {found}; copy the whole folder anew")
    try:
        facts = json.loads((folder / "dump.json").read_text(encoding="utf-8"))
        with np.load(folder / "batch.npz", allow_pickle=False) as stored:
            batch = _put_together(facts.pop("batch"), stored)
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ConjointError(f"the dump {folder} is damaged ({error}); copy it anew") from error
    return Dump(folder, batch, facts)


def open_replay(overrides: Sequence[str]) -> tuple[Dump, Config, Path]:
    """(dump, configuration, model folder) of `replay=DUMP key=value ...`.

    The configuration is the dump's own with the keys changed that are given; `model=` replaces the
    weights. Raises ConjointError.
    """
    place = next(o.partition("=")[2] for o in overrides if o.startswith("replay="))
    dump = read_dump(Path(place))
    cfg = with_changes(dump.facts["config"], overrides, f"replay={place}")
    other = any(o.startswith("model=") for o in overrides)
    model = check_model(cfg.model) if other else check_model_folder(dump.model)
    if model is None:
        raise ConjointError(
            "a replay cannot build nano; give model=FOLDER, such as a checkpoint's hf"
        )
    return dump, cfg, model


def on_one_rank(batch: Batch) -> Batch:
    """The same batch for a single rank: the update does not depend on how it is cut."""
    updates = [
        replace(update, shards=[[micro for shard in update.shards for micro in shard]])
        for update in batch.updates
    ]
    return replace(batch, updates=updates)


def replay(dump: Dump, config: Config, model: Path) -> Replayed:
    """One step of the learner on the stored batch, in this process, on one rank.

    `config` is the dump's own, maybe with keys changed to find out what matters.
    """
    from conjoint.rl.learner.rank import LearnerRank
    from conjoint.rl.resume.diagnose import Diagnosis

    # ZeRO-3 hides parameters between passes; on one rank stage 2 computes the same.
    learner = replace(config.learner, ranks=1, zero_stage=min(config.learner.zero_stage, 2))
    updates = config.num_steps * learner.updates_per_batch
    rank = LearnerRank(model, learner, config.optim, config.loss, updates, mismatch=config.mismatch)
    exact = model == dump.model.resolve() and asdict(learner) == dump.facts["config"]["learner"]
    # Whatever the weights are, a KL term refers to the policy that it did in the run.
    (rank.load if exact else rank.load_reference)(dump.model.parent)
    batch = on_one_rank(dump.batch)
    diagnosis = Diagnosis(rank.module, batch.kinds)
    rank.inspect = diagnosis.inspect
    metrics = rank.step(batch, dump.facts["version"])
    return Replayed(metrics, diagnosis.losses, diagnosis.first, exact)


def _taken_apart(batch: Batch, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Plain values of a batch; its arrays go into `arrays` under NUMBER/FIELD."""

    def micro(micro: MicroBatch) -> dict[str, Any]:
        number = f"{len(arrays)}"
        values = {f.name: getattr(micro, f.name) for f in fields(MicroBatch)}
        mine = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
        arrays.update({f"{number}/{name}": array for name, array in mine.items()})
        plain = {name: v for name, v in values.items() if name not in mine}
        return {"arrays": {name: f"{number}/{name}" for name in mine}, **plain}

    updates = [
        {
            "shards": [[micro(m) for m in shard] for shard in update.shards],
            **_plain_fields(update, "shards"),
        }
        for update in batch.updates
    ]
    return {"updates": updates, **_plain_fields(batch, "updates")}


def _put_together(plain: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> Batch:
    def micro(value: Mapping[str, Any]) -> MicroBatch:
        arrays = {name: stored[key] for name, key in value["arrays"].items()}
        return MicroBatch(**arrays, **{k: v for k, v in value.items() if k != "arrays"})

    updates = [
        Update(**{**update, "shards": [[micro(m) for m in shard] for shard in update["shards"]]})
        for update in plain["updates"]
    ]
    return Batch(**{**plain, "updates": updates, "kinds": tuple(plain["kinds"])})


def _plain_fields(value: Update | Batch, left_out: str) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value) if f.name != left_out}


def result_words(done: Replayed, model: Path, facts: Mapping[str, Any]) -> Sequence[str]:
    """What `conjoint train replay=` prints."""
    applied, metrics = facts["updates_applied"], done.metrics
    lines = [f"step {facts['step']}, weights of {model}"]
    if applied:
        lines.append(
            f"these weights had already taken {applied} of the step's updates when they were stored"
        )
    if not done.exact:
        lines.append("the optimizer starts anew: its state is of another layout or other weights")
    lines += [f"loss of update {n}: {loss:.9g}" for n, loss in enumerate(done.losses)]
    norm = f"{metrics['grad_norm']:.9g}" if "grad_norm" in metrics else "not finite"
    lines.append(f"mean gradient norm of applied updates: {norm}")
    lines.append(f"{metrics['updates']:.0f} updates applied, {metrics['nonfinite']:.0f} skipped")
    if done.first is not None:
        lines.append(f"first not finite: {done.first.words()}")
    elif done.finite:
        lines.append("every number is finite")
    return lines
