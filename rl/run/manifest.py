"""The manifest of a stored folder: the sha256 of each of its files.

It finds files that a disk or a copy has damaged. It keeps nobody out: who can write the folder can
write the manifest as well.
"""

import hashlib
import json
from pathlib import Path

NAME = "manifest.json"


def write_manifest(folder: Path, step: int) -> None:
    """Hash all files of the folder. The manifest is written last: a folder that has one is
    complete."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    hashes = {str(p.relative_to(folder)): _sha256(p) for p in files}
    (folder / NAME).write_text(json.dumps({"step": step, "sha256": hashes}))


def damage(folder: Path, step: int | None = None) -> str | None:
    """Description of the first damage to the files of the folder, None if they are intact. `step`
    is the step that the manifest must be of."""
    try:
        manifest = json.loads((folder / NAME).read_text())
        found, hashes = manifest["step"], dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {NAME} is damaged"
    if step not in (None, found):
        return f"its {NAME} is of step {found}"
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} is damaged (its sha256 is not that of the manifest)"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
