"""`python -m conjoint.scripts.mutants [NAME...]`: break one line at a time and see its test fail.

The list is tests/mutants.toml. Each mutation happens in a copy of the working tree, so the tree
itself is never touched. Exit code 1 if a mutant survives, 2 if the list does not fit the code.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from conjoint.envs.types import ConjointError

ROOT = Path(__file__).resolve().parent.parent
LIST = Path("tests/mutants.toml")
PACKAGES = ("configs", "envs", "rewards", "rl", "rollouts", "scripts")
TIMEOUT = 300.0
TESTS_FAILED = 1  # pytest's exit code; 0 is passed, others judge nothing (2: broken file, 5: none)
NO_ANSWER = -1


@dataclass(frozen=True, slots=True)
class Mutant:
    """Replace `before` by `after` in `file`; `test` (a pytest id) must then fail."""

    name: str
    file: str
    before: str
    after: str
    test: str


def main(argv: Sequence[str]) -> int:
    """Run the mutants named in `argv`, or all of them."""
    try:
        mutants = _chosen(load(ROOT / LIST), argv)
        with copied_tree(ROOT) as tree:
            return judge(mutants, tree)
    except ConjointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def load(path: Path) -> list[Mutant]:
    """The entries of a list. Raises ConjointError naming the entry and the field that is wrong."""
    keys = {field.name for field in fields(Mutant)}
    mutants = []
    for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8"))["mutant"], 1):
        if entry.keys() != keys or not all(isinstance(value, str) for value in entry.values()):
            raise ConjointError(
                f"{path}: entry {number} needs the texts {sorted(keys)}, no others."
            )
        mutants.append(Mutant(**entry))
    names = [mutant.name for mutant in mutants]
    for name in names:
        if names.count(name) > 1:
            raise ConjointError(f"{path}: two entries are named {name!r}.")
    return mutants


def _chosen(mutants: list[Mutant], names: Sequence[str]) -> list[Mutant]:
    unknown = set(names) - {mutant.name for mutant in mutants}
    if unknown:
        raise ConjointError(f"no mutant is named {sorted(unknown)[0]!r}: see {LIST}.")
    return [mutant for mutant in mutants if not names or mutant.name in names]


@contextmanager
def copied_tree(root: Path) -> Iterator[Path]:
    """A copy of every file that git tracks or would take, so none that it ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="conjoint-mutants-") as folder:
        for name in filter(None, listed):
            if (root / name).is_file():
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, target)
        # The copy under its import name: it comes before the installed package on the path.
        links = Path(folder, "build", "links", "conjoint")
        links.mkdir(parents=True)
        for package in PACKAGES:
            (links / package).symlink_to(Path(folder, package))
        yield Path(folder)


def judge(mutants: Sequence[Mutant], tree: Path) -> int:
    """Print one row a mutant and return the exit code. Mutates `tree`, one file at a time."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    console = Console()
    mutations = [(mutant, mutated(mutant, tree)) for mutant in mutants]
    tests = sorted({mutant.test for mutant in mutants})
    code, said = run_tests(tests, tree)
    if code != 0:
        raise ConjointError(f"the named tests must pass on the unbroken code, but:\n{said}")
    table = Table("mutant", "named test", "seconds", "outcome")
    survivors = 0
    for mutant, text in track(mutations, console=console, transient=True):
        start = time.monotonic()
        outcome = try_mutant(mutant, text, tree)
        survivors += outcome != "killed"
        style = "green" if outcome == "killed" else "bold red"
        seconds = f"{time.monotonic() - start:.1f}"
        test = mutant.test.rpartition("::")[2]
        table.add_row(mutant.name, test, seconds, f"[{style}]{outcome}[/]")
    console.print(table)
    console.print(f"{len(mutants) - survivors} of {len(mutants)} mutants killed", highlight=False)
    return 1 if survivors else 0


def mutated(mutant: Mutant, tree: Path) -> str:
    """The text of the file after the mutation. Raises ConjointError unless it changes one line."""
    path = tree / mutant.file
    if not path.is_file():
        raise ConjointError(f"mutant {mutant.name}: there is no file {mutant.file}.")
    text = path.read_text(encoding="utf-8")
    if "\n" in mutant.before + mutant.after or mutant.before == mutant.after:
        raise ConjointError(f"mutant {mutant.name}: before and after must be two different lines.")
    if text.count(mutant.before) != 1:
        raise ConjointError(
            f"mutant {mutant.name}: {mutant.file} holds {mutant.before!r} "
            f"{text.count(mutant.before)} times, expected once."
        )
    return text.replace(mutant.before, mutant.after)


def try_mutant(mutant: Mutant, text: str, tree: Path) -> str:
    """killed, survived, or why neither can be said."""
    path = tree / mutant.file
    original = path.read_bytes()
    path.write_text(text, encoding="utf-8")
    try:
        code, said = run_tests([mutant.test], tree)
    finally:
        path.write_bytes(original)
    if code == TESTS_FAILED:
        return "killed"
    return "survived" if code == 0 else f"not judged: {said.splitlines()[-1]}"


def run_tests(tests: Sequence[str], tree: Path) -> tuple[int, str]:
    """pytest's exit code and last lines, with the packages of `tree` instead of the installed ones.

    Without bytecode: a mutant may equal the original in size and second, all that a cache checks.
    """
    path = os.pathsep.join(map(str, (tree, tree / "build" / "links")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return NO_ANSWER, f"no answer in {TIMEOUT:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, "\n".join(said.splitlines()[-15:] or ["no output"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
