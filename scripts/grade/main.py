"""`conjoint grade reward=NAME input=FILE output=FILE`: stored responses scored outside a run, and
a reward examined before one: --explain a verdict, --probe it with cheats, --check its contract."""

from collections import Counter

FOUND = 3
"""Exit code of a probe or a check that found something."""


def run(
    overrides: list[str], *, explain: bool = False, probe: bool = False, check: str | None = None
) -> int:
    """Grade, explain, probe or check; 0, or 3 if a probe is paid or a fault is found."""
    from conjoint.envs.types import ConjointError
    from conjoint.scripts.grade.config import load_grade

    if explain + probe + (check is not None) > 1:
        raise ConjointError("give one of --explain, --probe and --check")
    if check is not None:
        overrides = [*overrides, f"reward={check}"]
    cfg = load_grade([_row(word) if explain else word for word in overrides])
    if check is not None or probe:
        from conjoint.scripts.grade.examine import check_words, probe_words

        words, found = probe_words(cfg) if probe else check_words(cfg)
    elif explain:
        from conjoint.scripts.grade.run import explain as explained

        words, found = explained(cfg), False
    else:
        from conjoint.scripts.grade.run import grade
        from conjoint.scripts.grade.words import summary_words

        skipped: Counter[str] = Counter()
        verdicts = grade(cfg, skipped)
        words, found = summary_words(cfg, verdicts, skipped), False
    print("\n".join(words))
    return FOUND if found else 0


def _row(word: str) -> str:
    """`--explain ID` names the row as row=ID does."""
    return word if "=" in word else f"row={word}"
