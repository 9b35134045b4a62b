"""`conjoint compare RUN...`: what changed from start to end, or against other runs."""

import sys
from collections.abc import Sequence
from pathlib import Path


def run(runs: Sequence[Path], against: Sequence[Path] = (), output: Path | None = None) -> int:
    """Print one line a figure; with `output` keep them as JSON lines. Raises ConjointError."""
    from rich.console import Console
    from rich.table import Table

    from conjoint.envs.types import ConjointError
    from conjoint.rl.report.compare import as_rows, compare
    from conjoint.rl.report.load import load_run
    from conjoint.rl.run.folder import write_jsonl

    if output is not None and output.exists():
        raise ConjointError(f"--output {output} exists already and is not overwritten")
    changes = compare([load_run(r) for r in runs], [load_run(r) for r in against])
    table = Table(
        "figure", "before", "after", "change", "95 % interval", "each run", "tasks", "set"
    )
    for c in changes:
        interval = f"[{c.change.lo:+.4f}, {c.change.hi:+.4f}]"
        each = " ".join(f"{value:+.3f}" for value in c.each)
        table.add_row(
            *(c.name, f"{c.before:.4f}", f"{c.after:.4f}", f"{c.change.mean:+.4f}", interval),
            *(each, f"{c.change.n}", c.set_hash),
        )
    # A terminal folds the table to its width; a file gets every column whole.
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    if output is not None:
        write_jsonl(output, as_rows(changes))
    return 0


if __name__ == "__main__":
    from conjoint.scripts.main import main_of

    main_of("compare", sys.argv[1:])
