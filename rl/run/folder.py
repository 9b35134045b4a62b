"""The run folder: where every file of a run lies, and how each is written whole.

    config.yaml  versions.json  metrics.jsonl  rollouts/step-000012.jsonl  eval/TAG.jsonl
    checkpoints/  dumps/  judge/  wandb/  summary.json  report.html  resumes.jsonl  set-aside/

Whole files are written under a temporary name and renamed. `metrics.jsonl` grows line by line
(`rl/run/metrics.py`), so only its last line can be torn. Nothing is ever deleted: what a resume
outdates is moved into `set-aside/`.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from conjoint.envs.text import escaped, plain, to_json
from conjoint.envs.types import ConjointError, Group, Trajectory
from conjoint.rl.run.versions import collect_versions


class RunFolder:
    """Paths and writers of one run. `RunFolder.create` starts one; the constructor opens one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.versions = path / "versions.json"
        self.metrics = path / "metrics.jsonl"
        self.rollouts = path / "rollouts"
        self.eval = path / "eval"
        self.checkpoints = path / "checkpoints"
        self.dumps = path / "dumps"
        self.resumes = path / "resumes.jsonl"
        self.wandb = path / "wandb"
        self.summary = path / "summary.json"
        self.report = path / "report.html"

    @staticmethod
    def create(path: Path | None, name: str, resume: bool = False) -> "RunFolder":
        """A new folder (default `runs/NAME-YYYYMMDD-HHMMSS`), or with `resume` an existing run.

        Of two runs started on one path at once, one wins: creating metrics.jsonl is the claim.
        Raises ConjointError if the path holds a run (holds none, with `resume`) or is unwritable.
        """
        if resume:
            return _existing(path)
        run = RunFolder(path or unused(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"))
        taken = (
            f"The folder {run.path} already holds a run; choose another run_dir, or continue that "
            f"run with resume={run.path}."
        )
        if run.exists:
            raise ConjointError(taken)
        try:
            for folder in (run.path, run.rollouts, run.eval, run.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            run.metrics.open("x").close()
        except FileExistsError as error:
            if run.exists:
                raise ConjointError(taken) from error
            raise _unwritable(run.path, error) from error
        except OSError as error:
            raise _unwritable(run.path, error) from error
        return run

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.config.is_file() or self.metrics.is_file()

    def rollouts_of(self, step: int) -> Path:
        return self.rollouts / f"step-{step:06d}.jsonl"

    def eval_of(self, tag: str) -> Path:
        return self.eval / f"{tag}.jsonl"

    def dump_of(self, step: int) -> Path:
        return self.dumps / f"step-{step:06d}"

    def write_config(self, config: Mapping[str, Any], words: Sequence[str] = ()) -> None:
        """The resolved config; `words` (the batch arithmetic in words) open it as comments."""
        head = "".join(f"# {escaped(line)}\n" for text in words for line in text.splitlines())
        body = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=100)
        write_atomically(self.config, head + body)

    def write_versions(self, **more: Any) -> None:
        """What the run was made with; `more` adds facts only the caller knows (device, engine)."""
        write_atomically(self.versions, to_json({**collect_versions(), **more}, indent=2) + "\n")

    def write_rollouts(self, step: int, groups: Sequence[Group]) -> Path:
        """One line a trajectory, in group order."""
        rows = (
            _trajectory_row(group, k, trajectory)
            for group in groups
            for k, trajectory in enumerate(group.trajectories)
        )
        return write_jsonl(self.rollouts_of(step), rows)

    def write_eval(self, tag: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Evaluation rows {task_id, kind, score, status, response, num_tokens, reasons}.

        Tags: start, end, step-000012 in between; of each also TAG_greedy, judge_TAG, judge_self_TAG
        and judge_snapshot_TAG.
        """
        return write_jsonl(self.eval_of(tag), rows)

    def truncate_after(self, step: int) -> Path | None:
        """Make the folder what it was after `step`: later metrics, rollouts, evaluations,
        checkpoints, dumps, summary and report move into `set-aside/DATE-after-step-N/`. Returns
        that folder, None if nothing was later. A metrics line torn by the interruption moves too.
        """
        kept, later = _split_lines(self.metrics, step)
        files = [p for p in self.rollouts.glob("step-*.jsonl") if _step_of(p.stem) > step]
        files += [p for p in self.eval.glob("*.jsonl") if _is_later_eval(p.stem, step)]
        for folder in (self.checkpoints, self.dumps):
            files += [p for p in folder.glob("step-*") if _step_of(p.name) > step]
        files += [p for p in (self.summary, self.report) if p.exists()]
        if not (later or files):
            return None
        stamp = f"{datetime.now():%Y%m%d-%H%M%S}-after-step-{step:06d}"
        aside = unused(self.path / "set-aside" / stamp)
        aside.mkdir(parents=True)
        if later:
            write_atomically(aside / self.metrics.name, "".join(later))
            write_atomically(self.metrics, "".join(kept))
        for file in sorted(files):
            target = aside / file.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        return aside


def write_atomically(path: Path, text: str) -> None:
    """Write and rename, so a reader finds the old file or the new one, never half of one.

    A lone surrogate, which UTF-8 cannot hold, is written as its escape.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


@contextmanager
def whole_folder(target: Path, what: str) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends, so nobody finds half of one.

    What a killed process left half-written beside it is removed, and a `target` that is there is
    replaced. Raises ConjointError naming `what`, such as "checkpoint", if it cannot be written.
    """
    partial = target.with_name(f".partial-{target.name}")
    try:
        for leftover in (*target.parent.glob(".partial-*"), target):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise ConjointError(f"cannot write the {what} {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line; non-finite numbers become null."""
    write_atomically(path, "".join(to_json(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none if it is absent.

    A torn last line (an interrupted run) is left out; a broken line before it raises ConjointError.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif line.strip() and number < len(lines):
            raise ConjointError(
                f"{path}, line {number}: expected one JSON object; the file was damaged after it "
                "was written, so restore it or remove that line."
            )
    return rows


def _existing(path: Path | None) -> RunFolder:
    if path is None:
        raise ConjointError("To resume, name the folder of the run: resume=RUN_DIR.")
    run = RunFolder(path)
    if not run.exists:
        raise ConjointError(
            f"The folder {path} holds no run to resume: it has neither config.yaml nor "
            "metrics.jsonl; name the folder that an earlier `conjoint train` printed."
        )
    if not os.access(path, os.W_OK):
        raise _unwritable(path, PermissionError("no permission to write"))
    return run


def _unwritable(path: Path, error: OSError) -> ConjointError:
    why = error.strerror or str(error)
    return ConjointError(f"Cannot write to the run folder {path} ({why}); choose another run_dir.")


def unused(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, ... if it is taken."""
    candidate, n = path, 2
    while candidate.exists():
        candidate, n = path.with_name(f"{path.name}-{n}"), n + 1
    return candidate


def _step_of(stem: str) -> int:
    match = re.fullmatch(r"step-(\d+)", stem)
    return int(match[1]) if match else -1


def _is_later_eval(tag: str, step: int) -> bool:
    return any(part == "end" or _step_of(part) > step for part in tag.split("_"))


def _split_lines(path: Path, step: int) -> tuple[list[str], list[str]]:
    """Lines of metrics.jsonl of steps up to `step`, and the others (later or torn)."""
    kept: list[str] = []
    later: list[str] = []
    if path.is_file():
        # Not splitlines(): it would also cut at characters that JSON strings may hold.
        *whole, torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for line in whole:
            row = _parse(line)
            fits = row is not None and row.get("step", 0) <= step
            (kept if fits else later).append(line + "\n")
        later += [torn] if torn else []
    return kept, later


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _trajectory_row(group: Group, k: int, t: Trajectory) -> dict[str, Any]:
    return {
        "task_id": group.task.id,
        "kind": group.task.kind,
        "group": group.index,
        "member": k,
        "messages": t.messages,
        "reference": group.task.reference,
        "meta": group.task.meta,
        "response": t.response,
        "status": t.status,
        "scores": [
            {"name": s.name, "value": s.value, "outcome": s.outcome, "reasons": s.reasons}
            | ({"judged": True} if s.judged else {})
            for s in t.scores
        ],
        "reward": t.reward,
        "advantage": t.advantage,
        "num_tokens": t.num_sampled,
        "budget": t.budget,
        "temperature": t.temperature,
        "top_p": t.top_p,
        "engine": t.engine,
        "metrics": t.metrics,
        **({} if t.answer is None else {"confidence": t.confidence}),
        "tokens": t.tokens,
        "sampled": [int(s) for s in t.sampled],
        "behavior_logprobs": t.behavior_logprobs,
        "versions": t.versions,
    }
