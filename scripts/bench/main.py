"""`conjoint bench NAME output=FILE key=value ...`: measure, print a table, write the ratios."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

from conjoint.envs.types import ConjointError

_BENCH = "conjoint.scripts.bench"
_MEASURED_IN = {
    "joint": f"{_BENCH}.rollout.joint",
    "learner": f"{_BENCH}.learner.measure",
    "rewards": f"{_BENCH}.rewards.measure",
    "rollout": f"{_BENCH}.rollout.measure",
    "scheduler": f"{_BENCH}.scheduler.measure",
    "text": f"{_BENCH}.rewards.text",
}
"""Name -> the module whose `measure(cfg)` gives ratios and setting."""
DEFAULTS = {"joint": ["judge.template=letter", "judge.pairs_per_answer=2"]}
"""What a bench sets where the user does not."""


def run(name: str, overrides: list[str]) -> int:
    """Measure and return 0 if every target is met, 1 if not."""
    from conjoint.scripts.bench.config import load_bench

    if name not in _MEASURED_IN:
        raise ConjointError(f"there is no bench {name!r}; choose one of {list(_MEASURED_IN)}")
    given = [o.partition("=")[2] for o in overrides if o.startswith("output=")]
    output = Path(given[-1]) if given else None
    if output is not None and not output.parent.is_dir():
        raise ConjointError(f"output={output}: there is no folder {output.parent}; make it first")
    words = [*DEFAULTS.get(name, []), *overrides]
    cfg = load_bench([o for o in words if not o.startswith("output=")])
    # Read when torch loads: threads that spin while they wait would time the other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A measuring module loads torch and TRL: only now, when nothing can be refused any more.
    result = importlib.import_module(_MEASURED_IN[name]).measure(cfg)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)
    return 0 if all(ratio["met"] for ratio in result["ratios"].values()) else 1


def show(result: dict[str, Any]) -> None:
    """The ratios as a table, and under it what they were measured on."""
    from rich.console import Console
    from rich.table import Table

    from conjoint.scripts.bench.config import at_most

    console, table = Console(), Table("ratio", "value", "target", "met", "medians")
    for name, ratio in result["ratios"].items():
        side = "at most" if at_most(name) else "at least"
        medians = (
            f"{key} {sorted(values)[len(values) // 2]:.3g}"
            for runs in ratio["runs"]
            for key, values in runs.items()
        )
        met = "[green]yes[/]" if ratio["met"] else "[bold red]no[/]"
        table.add_row(
            name, f"{ratio['value']:.2f}", f"{side} {ratio['target']:g}", met, ", ".join(medians)
        )
    console.print(table)
    for key, value in result["setting"].items():
        console.print(f"{key}: {value}", highlight=False)
