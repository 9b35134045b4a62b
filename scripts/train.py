"""`conjoint train experiment=NAME key=value ...`: the joint loop, from config to report."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conjoint.rl.config.tree import Config
    from conjoint.rl.plan import Plan
    from conjoint.rl.resume.resume import Resume

NOT_FINITE = 3
"""Exit code of a replay that finds a number which is not finite."""


def run(overrides: list[str], *, dry_run: bool = False) -> int:
    """Train and return the exit code: 0, or 128 + the signal that ended the run early."""
    from conjoint.rl.plan import prepare
    from conjoint.rl.run.console import RunConsole

    if any(o.startswith("replay=") for o in overrides):
        return _replay(overrides, dry_run=dry_run)
    cfg, resume = _configured(overrides)
    plan = prepare(cfg)
    if dry_run:
        RunConsole(cfg.num_steps).header(f"{cfg.name}: dry run, nothing started", plan.words)
        return 0
    return asyncio.run(_run(plan, resume))


def _configured(overrides: list[str]) -> "tuple[Config, Resume | None]":
    """The configuration, and the run to go on with (whose stored configuration it then is)."""
    from conjoint.rl.config.compose import load_config
    from conjoint.rl.resume.resume import open_resume

    if any(o.startswith("resume=") for o in overrides):
        return open_resume(overrides)
    return load_config(overrides), None


def _replay(overrides: list[str], *, dry_run: bool) -> int:
    """The learner alone on a stored batch: 0 if every number is finite, else 3."""
    from conjoint.rl.resume.replay import open_replay, replay, result_words

    dump, cfg, model = open_replay(overrides)
    if dry_run:
        print(f"replay of step {dump.facts['step']} with {model}: dry run, nothing started")
        return 0
    done = replay(dump, cfg, model)
    print("\n".join(result_words(done, model, dump.facts)))
    return 0 if done.finite else NOT_FINITE


async def _run(plan: "Plan", resume: "Resume | None") -> int:
    from conjoint.rl.plan import next_command
    from conjoint.rl.run.console import RunConsole
    from conjoint.rl.run.folder import RunFolder

    cfg = plan.cfg
    checkpoint = resume.begin(cfg.num_steps) if resume else None
    new = Path(cfg.run_dir) if cfg.run_dir else None
    folder = resume.folder if resume else RunFolder.create(new, cfg.name)
    # What follows loads Ray and the engines: only now, when nothing can be refused any more.
    from conjoint.rl.build import start
    from conjoint.rl.report.build import build_report
    from conjoint.rl.run.cycle_collector import collecting_less
    from conjoint.rl.run.interrupt import Interrupt, kill_all, own_processes
    from conjoint.rl.train import train

    console = RunConsole(cfg.num_steps)
    words = plan.words
    console.header(f"{cfg.name} -> {folder.path}", words)
    folder.write_config(asdict(cfg), words)
    interrupt = Interrupt()
    system = None
    try:
        system = await interrupt.until_stopped(start(plan, folder, console, interrupt, checkpoint))
        if system is not None:
            with collecting_less():
                await train(system)
            if not interrupt.stopped:
                system.write_summary()
    finally:
        console.finish()
        started = own_processes()
        if system is not None:
            await system.close()
        kill_all(started)
        if system is not None:
            # Also of a run that a stop rule, a signal or an error ended: it shows what led there.
            console.message(f"report: {build_report(folder.path)}")
    if interrupt.signal is not None:
        console.message(f"stopped; go on with: conjoint train resume={folder.path}")
        return 128 + interrupt.signal
    console.message(f"next:   {next_command(cfg)}")
    return 0


if __name__ == "__main__":
    from conjoint.scripts.main import main_of

    main_of("train", sys.argv[1:])
