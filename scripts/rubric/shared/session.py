"""What the judging subverbs share: a policy or endpoint that answers for as long as the work lasts,
the responses to judge, and the folder that holds the page, the verdicts and the responses."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from conjoint.envs.types import ConjointError, StopRun, Task
from conjoint.rewards.rubrics.rubric import Rubric
from conjoint.rl.run.folder import write_jsonl
from conjoint.rl.run.interrupt import Interrupt
from conjoint.scripts.rubric.shared.config import JudgedConfig, PreviewConfig
from conjoint.scripts.rubric.shared.judged import Judged, asked, judge_prompts
from conjoint.scripts.rubric.shared.meter import Meter
from conjoint.scripts.rubric.shared.page import Page
from conjoint.scripts.rubric.shared.rows import (
    Answers,
    fresh_answers,
    read_answers,
    read_prompts,
    stored_rows,
)
from conjoint.scripts.until_signal import say, supervised

_FILLER = "word "
"""About a token, of which an answer that is not there yet is made to size the context."""


@dataclass(slots=True)
class Session:
    """Who is asked, and where what comes out goes."""

    policy: Meter | None
    judge: Meter
    folder: Path
    console: Console
    stored: list[Answers]
    tasks: list[Task]

    def finish(self, page: Page, judged: Sequence[Judged], groups: Sequence[Answers] = ()) -> None:
        """Print and write everything."""
        page.show(self.console)
        page.write(self.folder / "index.html")
        write_jsonl(self.folder / "verdicts.jsonl", [pair.plain() for pair in judged])
        if groups:
            write_jsonl(self.folder / "responses.jsonl", stored_rows(groups))
        self.console.print(f"page: {self.folder / 'index.html'}", soft_wrap=True, markup=False)


def session(
    subverb: str,
    cfg: JudgedConfig,
    rubrics: Sequence[Rubric],
    work: Callable[[Session], Awaitable[None]],
    stored: Sequence[Answers] | None = None,
) -> int:
    """Run `work` with the policy and the judge of the config; 0, or 128 + a signal's number.

    `stored` are the responses to judge if the caller has them already.
    """
    folder, console = cfg.folder(subverb), Console(highlight=False)
    groups: list[Answers] = list(stored or [])
    tasks: list[Task] = []
    if stored is None and cfg.samples:
        tasks = read_prompts(cfg.input, cfg.limit)
    elif stored is None:
        groups = read_answers(cfg.input, cfg.limit)
    if not tasks and not any(len(group.texts) > 1 for group in groups):
        raise ConjointError(f"{cfg.input}: no prompt has two answers, so there is no pair to judge")
    prompts = judge_prompts(cfg, groups, rubrics)
    if isinstance(cfg, PreviewConfig):
        texts = [_FILLER * cfg.max_tokens] * 2
        prompts += judge_prompts(cfg, [Answers(t, ["0", "1"], texts) for t in tasks], rubrics)
        prompts += [(task, cfg.max_tokens) for task in tasks]

    async def supervised_work(interrupt: Interrupt) -> None:
        async with asked(cfg, prompts, interrupt) as (policy, judge):
            await work(Session(policy, judge, folder, console, groups, tasks))

    return supervised(supervised_work)


async def responses(cfg: PreviewConfig, now: Session) -> tuple[list[Answers], list[str]]:
    """The stored responses, or fresh ones, and what to know about them."""
    if not now.tasks:
        return now.stored, []
    assert now.policy is not None, "validate() saw to it"
    say(f"answering {len(now.tasks)} prompts, {cfg.k} answers each ...")
    groups, lost = await fresh_answers(
        now.policy,
        now.tasks,
        k=cfg.k,
        max_tokens=cfg.max_tokens,
        temperature=cfg.temperature,
        seed=cfg.seed,
    )
    if all(len(group.texts) < 2 for group in groups):
        raise StopRun(
            f"{lost} of {cfg.k * len(now.tasks)} answers could not be had; look at the context "
            "(max_model_len) and the endpoint"
        )
    notices = [f"{lost} answers could not be had and are left out."] if lost else []
    return groups, notices
