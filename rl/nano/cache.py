"""Nano's folder in the cache: found by a hash of all that decides what nano is, built once."""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from conjoint.rewards.rubrics.find import DEFAULT_RUBRICS, find_rubric
from conjoint.rl.nano.preferences import Asked, check_file
from conjoint.rl.nano.sft import SftConfig, train_sft

_SOURCE_CODE = (
    "envs/sources/splits.py",
    *(f"envs/nano/{name}.py" for name in ("arithmetic", "constraints", "functions")),
    *(f"envs/nano/{name}.py" for name in ("sources", "topics", "words")),
    *("envs/confidence.py", "rl/nano/model.py", "rl/nano/sft.py"),
    *("rl/learner/optim/batched_muon.py", "rewards/judge/prompt.py"),
    *("rl/nano/preferences.py", "rewards/judge/pairs.py"),
)
"""What decides nano beside its config and its rubrics."""


def nano_key(cfg: SftConfig, asked: Asked | None = None) -> str:
    """A hash of the config and of every file that decides what nano is.

    Raises ConjointError for preferences that are not there.
    """
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(json.dumps(asdict(cfg), sort_keys=True).encode())
    files = [root / name for name in _SOURCE_CODE]
    files += [find_rubric(name) for name in DEFAULT_RUBRICS]
    if cfg.preferences.path:
        asked = asked or Asked()
        digest.update(f"{asked.judge.template} {asked.judge.max_answer_chars}".encode())
        files += [check_file(cfg.preferences.path), *map(find_rubric, asked.rubrics)]
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def nano_folder(
    cfg: SftConfig, asked: Asked | None = None, *, cache_dir: Path | None = None
) -> Path:
    """Where the nano of this config is cached; the folder exists once it is built."""
    home = Path(os.environ.get("CONJOINT_CACHE") or Path.home() / ".cache" / "conjoint")
    return (cache_dir or home) / f"nano-{nano_key(cfg, asked)}"


def nano_policy(
    cfg: SftConfig | None = None, asked: Asked | None = None, *, cache_dir: Path | None = None
) -> Path:
    """The folder of the trained nano: built now if this config was never built here. `asked` is
    how a run asks its judge, for the preferences.

    Written under a temporary name and renamed, so that an interrupted build leaves nothing behind
    that looks finished; of two builds at once the first one to finish counts.
    """
    cfg = cfg or SftConfig()
    folder = nano_folder(cfg, asked, cache_dir=cache_dir)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".nano-", dir=folder.parent))
    try:
        measured = train_sft(cfg, temporary, asked)
        (temporary / "sft.json").write_text(
            json.dumps({"config": asdict(cfg), **measured}, indent=2) + "\n", encoding="utf-8"
        )
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
