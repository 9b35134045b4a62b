"""Going on with a run: which checkpoint, and which keys may differ from the stored configuration.

resume=RUN_DIR                               from the newest checkpoint
resume=RUN_DIR/checkpoints/step-000010       from that one; what came later is set aside
resume=RUN_DIR num_steps=60 eval.every=10    keys that do not touch what is trained may change
resume=RUN_DIR optim.lr=1e-5 resume_allow=[optim.lr]      any other key, by name
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from conjoint.envs.text import to_json
from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import compose, config_groups, from_dict
from conjoint.rl.config.tree import Config
from conjoint.rl.run.checkpoint import Checkpoint, read_checkpoint
from conjoint.rl.run.folder import RunFolder

FREE_KEYS = (
    "num_steps",
    "eval.tasks",
    "eval.temperature",
    "eval.greedy",
    "eval.open_tasks",
    "eval.judge_pairs",
    "eval.pairs",
    "eval.every",
    "checkpoint",
    "guard",
    "tracking",
    "cluster",
    "learner.start_seconds",
    "learner.step_seconds",
    "rollout.start_timeout_s",
    "rollout.request_timeout_s",
    "rollout.heartbeat_s",
    "rollout.hang_timeout_s",
    "rollout.max_deaths",
)
"""Keys, with all keys below them, that change neither the data nor an update, so a resumed run may
change them. `num_steps` may change unless a schedule runs over it. `eval.seed` may not: it decides
which rows of a file are trained on."""

_OWN_KEYS = ("resume", "resume_allow", "run_dir", "replay")
"""Say where a run lies or what to do with it, not what it is."""

_RETIRED = ("bench", "sft.length_rows")
"""Keys that config.yaml held once and that never changed what is trained."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The run to go on with; `changed` maps a key to its stored and its new value."""

    folder: RunFolder
    checkpoint: str | None
    """Name of the checkpoint to start from, None for the newest."""
    changed: dict[str, tuple[Any, Any]]

    def begin(self, num_steps: int) -> Checkpoint:
        """The checkpoint to start from, after its hashes are checked. What is later in the run
        folder is set aside, and resumes.jsonl gets a line {time, step, changed: {KEY: [STORED,
        NEW]}}. Raises ConjointError before anything is touched."""
        folder, step, state = read_checkpoint(self.folder.checkpoints, self.checkpoint)
        if step > num_steps:
            raise ConjointError(
                f"num_steps={num_steps} is below the {step} steps of {folder}; raise it, or resume "
                "from an earlier checkpoint"
            )
        self.folder.truncate_after(step)
        line = to_json({"time": time.time(), "step": step, "changed": self.changed})
        with self.folder.resumes.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return folder, step, state


def open_resume(overrides: Sequence[str]) -> tuple[Config, Resume]:
    """The configuration to go on with, and where. Raises ConjointError for a change not allowed."""
    place = next(o.partition("=")[2] for o in overrides if o.startswith("resume="))
    folder, checkpoint = _place(Path(place))
    stored = _stored(folder)
    run_dir = stored.pop("run_dir", None)
    cfg = with_changes(stored, overrides, f"resume={place}")
    changed = differences(asdict(from_dict(stored)), asdict(cfg))
    refused = [key for key in changed if not _allowed(key, cfg)]
    if refused:
        shown = ", ".join(f"{k}: {_word(changed[k][0])} -> {_word(changed[k][1])}" for k in refused)
        raise ConjointError(
            f"{folder.path} was trained with another configuration ({shown}), and what is trained "
            f"would change; leave that out, start a new run, or add "
            f"resume_allow=[{','.join(refused)}] to change it from here on"
        )
    cfg = replace(cfg, run_dir=run_dir, resume=None, resume_allow=[])
    return cfg, Resume(folder, checkpoint, changed)


def with_changes(stored: Mapping[str, Any], given: Sequence[str], where: str) -> Config:
    """A stored configuration with `key=value` overrides. A file of configs/ cannot be chosen: it
    would undo keys that the run has set."""
    groups = config_groups()
    for override in given:
        key = override.lstrip("+~").partition("=")[0]
        if key in groups:
            raise ConjointError(
                f"{override} picks a file of configs/, but {where} goes on with the stored "
                f"configuration; give the keys that should change, such as {key}.KEY=VALUE"
                if key != "experiment"
                else f"{where} goes on with the stored configuration; leave {override} out and use "
                "conjoint train"
            )
    return from_dict(compose(given, base=stored))


def differences(stored: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (stored, new) where they differ, without the keys of resuming itself."""
    before, after = _flat(stored), _flat(new)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.partition(".")[0] not in _OWN_KEYS
    }


def _place(path: Path) -> tuple[RunFolder, str | None]:
    """(run, checkpoint) that a path means: a run folder, or a checkpoint in one."""
    if path.parent.name == "checkpoints" and path.name.startswith("step-"):
        return RunFolder.create(path.parent.parent, "", resume=True), path.name
    return RunFolder.create(path, "", resume=True), None


def _stored(folder: RunFolder) -> dict[str, Any]:
    if not folder.config.is_file():
        raise ConjointError(
            f"{folder.path} stopped before its configuration was stored; start it anew"
        )
    try:
        stored = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConjointError(f"{folder.config} is not valid YAML ({error}); restore it.") from error
    for key in _RETIRED:
        above, _, last = key.rpartition(".")
        (stored.get(above, {}) if above else stored).pop(last, None)
    # Before there was a choice, every objective had the learner as its old policy.
    stored.setdefault("loss", {}).setdefault("old", "learner")
    return stored


def _allowed(key: str, cfg: Config) -> bool:
    named = list(cfg.resume_allow)
    free = [k for k in FREE_KEYS if k != "num_steps" or not cfg.scheduled]
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in [*free, *named])


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        place = f"{above}{key}"
        if isinstance(item, Mapping) and item:
            found |= _flat(item, f"{place}.")
        else:
            found[place] = list(item) if isinstance(item, tuple) else item
    return found


def _word(value: Any) -> str:
    return to_json(value)
