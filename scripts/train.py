"""`conjoint train experiment=NAME key=value ...`: the joint loop, from config to report."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rl.types import ConjointError

if TYPE_CHECKING:
    from rl.config import Config
    from rl.plan import Plan


def run(overrides: list[str], *, dry_run: bool = False) -> int:
    """Train and return the exit code: 0, or 128 + the signal that ended the run early."""
    from rl.console import RunConsole
    from rl.plan import plan_words, prepare

    cfg, resume = _configured(overrides)
    plan = prepare(cfg)
    if dry_run:
        RunConsole(cfg.num_steps).header(f"{cfg.name}: dry run, nothing started", plan_words(cfg))
        return 0
    return asyncio.run(_run(plan, resume))


def _configured(overrides: list[str]) -> "tuple[Config, Path | None]":
    """The configuration, and the folder to resume (whose stored configuration it then is)."""
    from rl.config import from_dict, load_config
    from rl.run_folder import RunFolder

    resume = [o.partition("=")[2] for o in overrides if o.startswith("resume=")]
    if not resume:
        return load_config(overrides), None
    if len(overrides) > 1:
        raise ConjointError(
            "resume=RUN_DIR goes on with the configuration stored in that folder; give no other key"
        )
    import yaml

    path = Path(resume[0])
    folder = RunFolder.create(path, "", resume=True)
    if not folder.config.is_file():
        raise ConjointError(f"{path} stopped before its configuration was stored; start it anew")
    return from_dict(yaml.safe_load(folder.config.read_text(encoding="utf-8"))), path


async def _run(plan: "Plan", resume: Path | None) -> int:
    from rl.console import RunConsole
    from rl.plan import next_command, plan_words
    from rl.run_folder import RunFolder

    cfg = plan.cfg
    default = Path(cfg.run_dir) if cfg.run_dir else None
    folder = RunFolder.create(resume or default, cfg.name, resume=resume is not None)
    # What follows loads Ray and the engines: only now, when nothing can be refused any more.
    from rl.build import start
    from rl.interrupt import Interrupt, kill_all, own_processes
    from rl.report.build import build_report
    from rl.train import train

    console = RunConsole(cfg.num_steps)
    words = plan_words(cfg)
    console.header(f"{cfg.name} -> {folder.path}", words)
    folder.write_config(asdict(cfg), words)
    interrupt = Interrupt()
    system = None
    try:
        system = await interrupt.until_stopped(
            start(plan, folder, console, interrupt, resumed=resume is not None)
        )
        if system is not None:
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
    from scripts.main import main_of

    main_of("train", sys.argv[1:])
