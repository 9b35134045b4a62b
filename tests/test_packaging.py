"""What is installed: one top-level name, every folder, and commands that no other file breaks."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from conjoint.scripts.mutants import copied_tree

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FIRST = "import sys; sys.path.insert(0, {!r})"
"""The wheel comes before this checkout, but behind it stands all that is installed beside it."""
TOP = ("configs", "envs", "rewards", "rl", "rollouts", "scripts")


def test_the_list_of_packages_is_that_of_the_folders():
    folders = {
        "conjoint." + ".".join(file.parent.relative_to(ROOT).parts)
        for top in TOP
        for file in (ROOT / top).rglob("*.py")
    }
    assert set(SETTINGS["packages"]) == folders
    assert SETTINGS["package-dir"] == {f"conjoint.{top}": top for top in TOP}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in it, as site-packages would have it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "-q"]
    with copied_tree(ROOT) as tree:  # a build leaves files in the folder that it builds
        subprocess.run([*command, "-o", str(folder), str(tree)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_owns_one_name(installed: Path):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"conjoint"}
    for file in ("configs/train.yaml", "rl/report/report.html", "scripts/rubric/attacks.yaml"):
        assert (installed / "conjoint" / file).is_file(), file


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--dry-run", "experiment=quickstart"],
        ["sft", "sft.rows.math=64", "sft.rows.code=32", "sft.rows.instruction=32",
         "sft.rows.open=32", "sft.judge_rows=32"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_command_runs_beside_hostile_files_of_the_same_names(
    installed: Path, tmp_path: Path, words: list[str]
):
    """A user's own scripts/, configs/, rewards.py and rl/ on the path and in the working folder."""
    raising = "raise RuntimeError('a file of the user was imported')\n"
    for name in ("scripts", "configs", "rl", "envs", "rollouts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(raising)
    (tmp_path / "rewards.py").write_text(raising)
    run = "from conjoint.scripts.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{FIRST.format(str(installed))}; {run}", *words],
        cwd=tmp_path,
        # A new shell's: learner ranks of other tests leave variables in this process.
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{installed}",
            "CONJOINT_CACHE": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if words[0] == "sft":
        assert (Path(done.stdout.strip().splitlines()[-1]) / "model.safetensors").is_file()
