"""Reads a run folder into plain records. Missing files are missing parts, never errors."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from conjoint.envs.types import ConjointError
from conjoint.rewards.registry import default_kinds
from conjoint.rl.run.folder import RunFolder, read_jsonl

Row = dict[str, Any]
"""One line of a JSONL file of the run."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What the report and the summary are made from.

    `metrics` has one row a step, ascending; `before` what was measured before the first one;
    `evals` maps a tag to its rows; `rollouts` maps the first and the last step that has a rollouts
    file to its rows.
    """

    folder: RunFolder
    words: list[str]
    config: dict[str, Any]
    config_text: str
    versions: dict[str, Any]
    before: Row
    metrics: list[Row]
    evals: dict[str, list[Row]]
    rollouts: dict[int, list[Row]]

    @property
    def kinds(self) -> list[str]:
        """Task kinds met anywhere in the run, in reading order."""
        names = {r["kind"] for rows in self.rollouts.values() for r in rows}
        for row in self.metrics:
            names |= {k.partition("/")[2] for k in row if k.startswith("groups/")}
        names |= {r["kind"] for tag, rows in self.evals.items() if "judge" not in tag for r in rows}
        return sort_kinds(names)

    def series(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one metric, without the steps that lack it or are not finite."""
        return [
            (float(row["step"]), float(row[name]))
            for row in [self.before, *self.metrics]
            if isinstance(row.get(name), int | float) and math.isfinite(row[name])
        ]

    def setting(self, path: str) -> Any:
        """A value of the config by dotted path, None if there is none."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def load_run(path: Path) -> RunData:
    """Raises ConjointError if the folder holds no run or a file in it is damaged."""
    folder = RunFolder(path)
    if not folder.exists:
        raise ConjointError(
            f"{path} holds no run: it has neither config.yaml nor metrics.jsonl; name a run folder."
        )
    text = folder.config.read_text(encoding="utf-8") if folder.config.is_file() else ""
    by_step = _by_step(read_jsonl(folder.metrics))
    return RunData(
        folder=folder,
        words=[line[2:] for line in takewhile(_is_comment, text.splitlines())],
        config=_config(folder.config, text),
        config_text=text,
        versions=_json(folder.versions),
        before=next((row for row in by_step if row["step"] == 0), {}),
        metrics=[row for row in by_step if row["step"] > 0],
        evals={file.stem: read_jsonl(file) for file in sorted(folder.eval.glob("*.jsonl"))},
        rollouts=_first_and_last(folder),
    )


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """summary.json, {} if the run has not written it."""
    return _json(folder.summary)


def task_scores(rows: Sequence[Row], kind: str | None = None) -> dict[str, float]:
    """Task id -> score of the graded rows, of one kind if given; several answers are averaged."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get("score") is not None and kind in (None, row["kind"]):
            found.setdefault(row["task_id"], []).append(float(row["score"]))
    return {task: sum(values) / len(values) for task, values in found.items()}


def eval_fingerprint(data: RunData) -> str | None:
    """Hash of the held-out task ids, the eval config and the seed: equal in runs whose evaluations
    may be compared. None without an evaluation."""
    rows = data.evals.get("start") or data.evals.get("end")
    if not rows:
        return None
    tasks = sorted({row["task_id"] for row in rows})
    content = json.dumps([tasks, data.setting("eval")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def sort_kinds(names: set[str]) -> list[str]:
    known = [kind for kind in default_kinds() if kind in names]
    return known + sorted(names - set(known) - {""})


def _is_comment(line: str) -> bool:
    return line.startswith("# ")


def _config(path: Path, text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConjointError(f"{path} is not valid YAML ({error}); restore it.") from error
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConjointError(f"{path} is not valid JSON ({error}); restore it.") from error


def _by_step(rows: Sequence[Row]) -> list[Row]:
    """One row a step; a step logged in several calls is merged, the later value wins."""
    merged: dict[int, Row] = {}
    for row in rows:
        step = int(row.get("step", 0))
        merged.setdefault(step, {"step": step}).update(row)
    return [merged[step] for step in sorted(merged)]


def _first_and_last(folder: RunFolder) -> dict[int, list[Row]]:
    files = sorted(folder.rollouts.glob("step-*.jsonl"))
    chosen = {int(file.stem.removeprefix("step-")): file for file in files[:1] + files[-1:]}
    return {step: read_jsonl(file) for step, file in chosen.items()}
