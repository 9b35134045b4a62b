"""Which rubrics judge what: found by name or path, chosen for a task, and its own added.

A rubric file is documented in docs/self-critique.md; the shipped ones are in configs/rubrics/.
`rewards/rubrics/rubric.py` says what a rubric is, `rewards/rubrics/file.py` reads one.
"""

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from conjoint.envs.types import ConjointError, Task, derive_seed
from conjoint.rewards.rubrics.file import Problem, inline_rubric, read_rubric, shown
from conjoint.rewards.rubrics.rubric import EVERY_KIND, KINDS, Criterion, Rubric

__all__ = ["EVERY_KIND", "KINDS", "Criterion", "Rubric", "load_rubrics", "rubrics_for"]

DEFAULT_RUBRICS = ("clarity", "fluency", "grounded", "no_praise", "no_self_justification")
"""Default of `reward.rubrics`. Nano's critic is shown these in SFT: it answers a question that it
has never seen by the position of the answers."""
TASK_KEY = "rubrics"
"""Where a task's row (its `meta`) names or holds rubrics of its own."""


def shipped_rubrics() -> list[str]:
    """Names of the rubrics that come with conjoint, sorted."""
    folder = files("conjoint.configs").joinpath("rubrics")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_rubrics(
    names: Sequence[str], search: Sequence[Path] = (), key: str = "reward.rubrics"
) -> list[Rubric]:
    """Load rubrics in the order given; `key` is the config key that names them.

    A name ending in .yaml or .yml is a file, relative to the `search` folders or the working
    folder; any other is NAME.yaml in a `search` folder, else a shipped rubric. Raises
    ConjointError for a rubric that is missing, malformed or given twice.
    """
    rubrics = [_load(find_rubric(name, search, key)) for name in names]
    _refuse_twice(rubrics, key)
    return rubrics


def find_rubric(name: str, search: Sequence[Path] = (), key: str = "reward.rubrics") -> Path:
    """The file of a rubric. Raises ConjointError if there is none."""
    if name.endswith((".yaml", ".yml")):
        tried = [folder / name for folder in search] + [Path(name)]
    else:
        tried = [folder / f"{name}.yaml" for folder in search]
        tried.append(Path(str(files("conjoint.configs").joinpath("rubrics", f"{name}.yaml"))))
    for path in tried:
        if path.is_file():
            return path
    raise ConjointError(
        f"{key}: no rubric '{name}'; give the path of a YAML file or one of: "
        + ", ".join(shipped_rubrics())
    )


def rubrics_for(task: Task, rubrics: Sequence[Rubric], seed: int) -> list[Rubric]:
    """The rubrics that judge the answers to one task.

    Those of the run that apply to its kind, of alternatives one that `seed` and the task draw, and
    the task's own at the end; one of its own replaces a rubric of the run of the same name. Raises
    ConjointError for a task's rubric that is missing or malformed.
    """
    own = task_rubrics(task)
    names = {rubric.name for rubric in own}
    sets: dict[str, list[Rubric]] = {}
    for rubric in rubrics:
        if rubric.applies(task.kind) and rubric.name not in names:
            sets.setdefault(rubric.alternative_to or rubric.name, []).append(rubric)
    drawn = (
        random.Random(derive_seed(seed, "alternative", task.id, name)).choice(some)
        for name, some in sets.items()
    )
    return [*drawn, *own]


def task_rubrics(task: Task) -> list[Rubric]:
    """The rubrics that a task's row names (a name or a path) or holds (a mapping)."""
    given = task.meta.get(TASK_KEY)
    if given is None:
        return []
    if not isinstance(given, list):
        raise ConjointError(
            f"field '{TASK_KEY}' is a {type(given).__name__}; expected a list of rubric names, "
            "paths and mappings"
        )
    rubrics = []
    for i, item in enumerate(given):
        at = f"{TASK_KEY}[{i}]"
        if isinstance(item, str):
            rubrics.append(_load(find_rubric(item, key=at)))
            continue
        if not isinstance(item, Mapping):
            raise ConjointError(
                f"field '{at}' is {shown(item)}; expected a name, a path or a mapping"
            )
        rubric = inline_rubric(item)
        if isinstance(rubric, Problem):
            raise ConjointError(f"field '{at}': {rubric.words}")
        rubrics.append(rubric)
    _refuse_twice(rubrics, f"field '{TASK_KEY}'")
    return rubrics


def _load(path: Path) -> Rubric:
    return _read(path.resolve(), path.stat().st_mtime_ns, str(path))


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, said: str) -> Rubric:
    """Read once for all the groups that need it, and again only when the file has changed."""
    found = read_rubric(path)
    if found.rubric is None:
        problem = found.problems[0]
        raise ConjointError(f"rubric file {said}:{problem.line}: {problem.words}")
    return found.rubric


def _refuse_twice(rubrics: Sequence[Rubric], where: str) -> None:
    seen: set[str] = set()
    for rubric in rubrics:
        if rubric.name in seen:
            raise ConjointError(f"{where}: the rubric '{rubric.name}' is given twice")
        seen.add(rubric.name)
