"""The start policy as a folder: nano is built once and cached, anything else is resolved."""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from conjoint.envs.types import ConjointError
from conjoint.rl.models.resolve import resolve_model
from conjoint.rl.nano.preferences import Asked
from conjoint.rl.nano.sft import SftConfig
from conjoint.rl.run.checkpoint import model_folder


def check_model(spec: str) -> Path | None:
    """The folder of the model, None for nano (which is built when needed). Raises ConjointError.

    A run's folder means its newest checkpoint.
    """
    if spec == "nano":
        return None
    return model_folder(Path(spec)) or resolve_model(spec)


async def policy_folder(spec: str, sft: SftConfig, asked: Asked | None = None) -> Path:
    """The folder of the start policy; trains nano first where it is not cached yet. `asked` is how
    the run asks its judge: preference data are shown to nano in that form.

    In a process of its own: the driver stays light, and a signal can end the training.
    """
    folder = check_model(spec)
    if folder is not None:
        return folder
    from conjoint.rl.nano.cache import nano_folder

    folder = nano_folder(sft, asked)
    if not folder.is_dir():
        words = [*_overrides("sft", asdict(sft)), *(_asked_overrides(asked) if asked else ())]
        # Threads that wait must not spin: a run beside this one would slow both tenfold.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "conjoint.scripts.sft", *words),
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        if code := await process.wait():
            raise ConjointError(f"building the nano policy failed (exit code {code}); see above")
    return folder


def _overrides(key: str, value: object) -> Iterator[str]:
    """The settings as `key=value` words of the command line."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _overrides(f"{key}.{name}", item)
    else:
        yield f"{key}={_quoted(value) if isinstance(value, str) else value}"


def _asked_overrides(asked: Asked) -> Iterator[str]:
    yield from _overrides("judge.template", asked.judge.template)
    yield from _overrides("judge.max_answer_chars", asked.judge.max_answer_chars)
    yield f"reward.rubrics=[{','.join(map(_quoted, asked.rubrics))}]"


def _quoted(text: str) -> str:
    """Hydra's quoted form: names of files may hold its own signs."""
    return "'" + text.replace("'", "\\'") + "'"
