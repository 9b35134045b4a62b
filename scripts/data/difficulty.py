"""`conjoint data difficulty`: rows that the current policy neither always nor never gets right.

Kimi k1.5's model-based difficulty (section 2.1.1 of its report): a model answers each row ten times
at a high temperature; the share of right answers says how hard the row is for it. A group whose
answers all score the same has no advantage, so rows at either end cost samples and train nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conjoint.envs.types import ConjointError, Group, Status, StopRun, Task
from conjoint.rl.stats.intervals import pass_at_k
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.data.rows import Tally, check_files, listed_overrides
from conjoint.scripts.data.verified import check_kind, read, with_policy
from conjoint.scripts.eval.config import SampleConfig, load_sampled
from conjoint.scripts.eval.grader import Grader, Sampling, scored_groups
from conjoint.scripts.new_file import new_file

_TOKENS = 1024
TOO_HARD = "solved too seldom"
TOO_EASY = "solved too often"


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultyConfig(SampleConfig):
    """`conjoint data difficulty`."""

    input: str = ""
    """A file of task rows, as in tasks.KIND.path."""
    output: str = ""
    """A .jsonl file that does not exist yet: the rows that stay."""
    kind: str = "math"
    """Task kind of the rows; it says how answers are graded."""
    k: int = 10
    """Answers a row."""
    max_tokens: int | None = None
    """Sampled tokens that an answer may have; null: 1024. One that is cut off is wrong, as in
    training."""
    min_rate: float = 0.1
    """The least share of right answers with which a row stays."""
    max_rate: float = 0.9
    """The greatest one."""

    @property
    def tokens(self) -> int:
        return self.max_tokens or _TOKENS

    def validate(self) -> None:
        check_files(self.input, self.output)
        SampleConfig.validate(self)
        check_kind(self.kind)
        if not 0 <= self.min_rate <= self.max_rate <= 1:
            raise ConjointError(
                f"min_rate={self.min_rate} and max_rate={self.max_rate} must be shares from 0 to "
                "1, the first not above the second"
            )


@dataclass(frozen=True, slots=True)
class Tries:
    """How a row's answers came out; those that could not be graded are in neither number."""

    right: int = 0
    graded: int = 0

    @property
    def rate(self) -> float | None:
        return self.right / self.graded if self.graded else None


def run(overrides: list[str]) -> int:
    """Print how hard the rows are, write those that stay; 0, or 128 + the signal that ended it."""
    cfg = load_sampled(DifficultyConfig, listed_overrides(DifficultyConfig, overrides))
    cfg.validate()
    rows, tasks = read(cfg)

    async def use(policy: ChatPolicy, grader: Grader) -> None:
        finish(cfg, rows, await tried(policy, grader, tasks, cfg))

    return with_policy(cfg, cfg.kind, tasks, cfg.tokens, use)


async def tried(
    policy: ChatPolicy, grader: Grader, tasks: Sequence[Task], cfg: DifficultyConfig
) -> list[Tries]:
    """What became of the answers of each task. Raises StopRun if none of them could be graded."""
    sampling = Sampling(cfg.k, cfg.tokens, cfg.sampled_at, cfg.seed, cfg.concurrency)
    found = [Tries()] * len(tasks)
    async for group in scored_groups(policy, grader, tasks, sampling, "difficulty"):
        found[group.index] = _counted(group)
    if not any(tries.graded for tries in found):
        raise StopRun("no answer could be graded; look at the model or the endpoint")
    return found


def _counted(group: Group) -> Tries:
    right = graded = 0
    for trajectory in group.trajectories:
        values = [score.value for score in trajectory.checks]
        if not values or None in values:
            continue
        graded += 1
        passed = all(value is not None and value >= 1.0 for value in values)
        right += passed and trajectory.status is Status.COMPLETED
    return Tries(right, graded)


def finish(cfg: DifficultyConfig, rows: Sequence[dict[str, Any]], found: Sequence[Tries]) -> int:
    """Write the rows that stay, print the summary."""
    tally = Tally()
    with new_file(cfg.output) as out:
        for row, tries in zip(rows, found, strict=True):
            tally.rows += 1
            rate = tries.rate
            if rate is not None and rate < cfg.min_rate:
                tally.dropped[f"{TOO_HARD} (under {cfg.min_rate:.0%})"] += 1
            elif rate is not None and rate > cfg.max_rate:
                tally.dropped[f"{TOO_EASY} (over {cfg.max_rate:.0%})"] += 1
            else:
                out.write(row)
    tally.notes = _notes(cfg, found)
    print("\n".join(tally.words(cfg.output)))
    return 0


def _notes(cfg: DifficultyConfig, found: Sequence[Tries]) -> list[str]:
    whole = [tries for tries in found if tries.graded == cfg.k]
    rates = [tries.rate for tries in found if tries.rate is not None]
    counts = Counter(tries.right for tries in whole)
    notes = [f"mean share of right answers of {cfg.model}: {sum(rates) / len(rates):.3f}"]
    if whole:
        reached = sum(pass_at_k(cfg.k, tries.right, cfg.k) for tries in whole) / len(whole)
        notes.append(f"pass@{cfg.k}: {reached:.3f}")
    notes.append(f"rows by right answers of {cfg.k}:")
    notes += [f"  {right}: {counts[right]:,}" for right in sorted(counts)]
    if partly := sum(0 < tries.graded < cfg.k for tries in found):
        notes.append(f"judged by fewer answers, because some could not be graded: {partly:,}")
    if unasked := sum(not tries.graded for tries in found):
        notes.append(f"kept although no answer could be graded: {unasked:,}")
    return notes
