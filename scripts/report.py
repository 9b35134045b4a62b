"""`conjoint report RUN_DIR`: rebuild the report of a run from its files alone."""

import sys
from pathlib import Path


def run(run_dir: Path) -> int:
    """Write report.html and print its path. Raises ConjointError if the folder holds no run."""
    from conjoint.rl.report.build import build_report

    print(build_report(run_dir))
    return 0


if __name__ == "__main__":
    from conjoint.scripts.main import main_of

    main_of("report", sys.argv[1:])
