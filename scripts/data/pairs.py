"""`conjoint data pairs`: pairs of a policy's own answers, one proven right and one proven wrong.

What critic refinement judges on policy, kept: as `eval.pairs` they are a fixed test of every critic
that comes of this policy, as `sft.preferences.path` they are its demonstrations.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from conjoint.envs.nano.sources import SOURCES, VERIFIABLE
from conjoint.envs.types import ConjointError, Group, StopRun, Task, derive_seed
from conjoint.rl.critic.tasks import answer_pairs
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.data.rows import Tally, check_files, check_output, listed_overrides
from conjoint.scripts.data.verified import check_kind, read, with_policy
from conjoint.scripts.eval.config import SampleConfig, load_sampled
from conjoint.scripts.eval.grader import Grader, Sampling, scored_groups
from conjoint.scripts.new_file import new_file

_TOKENS = 1024
_BUILT_IN = 1024
ALL_RIGHT, ALL_WRONG, TOO_FEW = "no wrong answer", "no right answer", "no finished pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig(SampleConfig):
    """`conjoint data pairs`."""

    input: str = ""
    """A file of task rows, as in tasks.KIND.path; "" takes held-out tasks of the
    built-in source of `kind`."""
    output: str = ""
    """A .jsonl file that does not exist yet: {kind, prompt, chosen, rejected}."""
    kind: str = "math"
    """Task kind; it says how answers are graded."""
    limit: int | None = None
    """The first so many tasks; null: all of a file, 1024 of the built-in source."""
    k: int = 8
    """Answers a task."""
    temperature: float | None = 1.0
    max_tokens: int | None = None
    """Sampled tokens that an answer may have; null: 1024. One that is cut off is in no pair."""
    per_task: int = 1
    """The most pairs of one task."""

    @property
    def tokens(self) -> int:
        return self.max_tokens or _TOKENS

    def validate(self) -> None:
        if self.input:
            check_files(self.input, self.output)
        else:
            check_output(self.output)
        SampleConfig.validate(self)
        check_kind(self.kind)
        if not self.input and self.kind not in VERIFIABLE:
            raise ConjointError(
                f"kind={self.kind} has no built-in source ({', '.join(VERIFIABLE)} have); give "
                "input=FILE"
            )
        if self.k < 2 or self.per_task < 1 or (self.limit is not None and self.limit < 1):
            raise ConjointError("k must be at least 2, limit and per_task at least 1")


def run(overrides: list[str]) -> int:
    """Write the pairs, print how many; 0, or 128 + the signal that ended it."""
    cfg = load_sampled(PairsConfig, listed_overrides(PairsConfig, overrides))
    cfg.validate()
    tasks = _tasks(cfg)

    async def use(policy: ChatPolicy, grader: Grader) -> None:
        finish(cfg, *await paired(policy, grader, tasks, cfg))

    return with_policy(cfg, cfg.kind, tasks, cfg.tokens, use)


def _tasks(cfg: PairsConfig) -> list[Task]:
    if cfg.input:
        return read(cfg)[1][: cfg.limit]
    source = SOURCES[cfg.kind]("heldout", cfg.seed)
    return [source.task(i) for i in range(cfg.limit or _BUILT_IN)]


async def paired(
    policy: ChatPolicy, grader: Grader, tasks: Sequence[Task], cfg: PairsConfig
) -> tuple[list[dict[str, Any]], Tally]:
    """The rows in the order of the tasks, and why other tasks give none. Raises StopRun if no
    answer could be graded."""
    sampling = Sampling(cfg.k, cfg.tokens, cfg.sampled_at, cfg.seed, cfg.concurrency)
    found: dict[int, list[dict[str, Any]]] = {}
    dropped: Counter[str] = Counter()
    graded = 0
    async for group in scored_groups(policy, grader, tasks, sampling, "pairs"):
        rng = Random(derive_seed(cfg.seed, "pairs", group.task.id))
        pairs = answer_pairs(group, rng)[: cfg.per_task]
        found[group.index] = [
            {
                "kind": group.task.kind,
                "prompt": [dict(message) for message in group.task.messages],
                "chosen": right,
                "rejected": wrong,
            }
            for right, wrong in pairs
        ]
        scores = [s.value for t in group.trajectories for s in t.scores if s.value is not None]
        graded += len(scores)
        if not pairs:
            dropped[_why(group, scores)] += 1
    if not graded:
        raise StopRun("no answer could be graded; look at the model or the endpoint")
    tally = Tally(rows=len(tasks), dropped=dropped)
    return [row for index in sorted(found) for row in found[index]], tally


def _why(group: Group, scores: Sequence[float]) -> str:
    if len(scores) == len(group.trajectories):
        if min(scores) >= 1:
            return ALL_RIGHT
        if max(scores) < 1:
            return ALL_WRONG
    return TOO_FEW


def finish(cfg: PairsConfig, rows: Sequence[dict[str, Any]], tally: Tally) -> None:
    """Write the rows, print the summary."""
    with new_file(cfg.output) as out:
        for row in rows:
            out.write(row)
    tally.notes = [f"pairs: {len(rows):,}"]
    print("\n".join(tally.words(cfg.output)))
