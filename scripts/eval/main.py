"""`conjoint eval model=PATH suite=NAMES key=value ...`: a policy on public test sets."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conjoint.envs.types import Task
    from conjoint.scripts.eval.config import SuitesConfig
    from conjoint.scripts.eval.results import EvalFolder


def run(overrides: list[str]) -> int:
    """Evaluate and return the exit code: 0, or 128 + the signal that ended it early."""
    from conjoint.rl.nano.start_policy import check_model
    from conjoint.scripts.eval.config import load_suites
    from conjoint.scripts.eval.results import EvalFolder
    from conjoint.scripts.eval.run import read_tasks

    cfg = load_suites(overrides)
    tasks = read_tasks(cfg)
    model = None if cfg.endpoint else check_model(cfg.model)
    folder = EvalFolder.plan(cfg.output, cfg.model)
    return asyncio.run(_run(cfg, tasks, model, folder))


async def _run(
    cfg: "SuitesConfig", tasks: "dict[str, list[Task]]", model: Path | None, folder: "EvalFolder"
) -> int:
    # What follows loads Ray and the engines: only now, when nothing can be refused any more.
    from conjoint.rl.run.console import RunConsole
    from conjoint.rl.run.interrupt import Interrupt, kill_all, own_processes
    from conjoint.scripts.eval.grader import Grader
    from conjoint.scripts.eval.open_policy import opened
    from conjoint.scripts.eval.run import evaluate, prompted
    from conjoint.scripts.eval.suites import SUITES

    console, interrupt = RunConsole(1), Interrupt()
    where = f" behind {cfg.endpoint}" if cfg.endpoint else ""
    console.message(f"{cfg.model}{where} on {', '.join(cfg.suite)} -> {folder.path}")
    kinds = [SUITES[name].kind for name in cfg.suite]
    grader = Grader(kinds, cfg, confidence=cfg.confidence)
    grader.check(task for some in tasks.values() for task in some)
    asked = prompted(cfg, tasks)

    async def work() -> None:
        await grader.start()
        async with opened(cfg, model, asked, console.message, interrupt.install) as policy:
            folder.claim(asdict(cfg))
            await evaluate(cfg, tasks, policy, grader, folder, console)

    try:
        await interrupt.until_stopped(work())
    finally:
        console.finish()
        started = own_processes()
        await grader.close()
        kill_all(started)
    if interrupt.signal is not None:
        console.message(f"stopped; the answers so far are in {folder.path}")
        return 128 + interrupt.signal
    console.message(f"answers, reasons and summary.json: {folder.path}")
    return 0
