"""`conjoint bench rewards`: what verifying costs, each figure beside its target."""

from typing import Any

from rl.bench.config import judged
from rl.bench.jail_bench import measure_jail
from rl.config import Config


def measure(cfg: Config) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes a minute or two."""
    figures, setting = measure_jail(cfg.bench, cfg.sandbox)
    return {
        "ratios": {
            name: judged(name, value, cfg.bench.targets, runs)
            for name, (value, runs) in figures.items()
            if name in cfg.bench.targets
        },
        "setting": setting,
    }
