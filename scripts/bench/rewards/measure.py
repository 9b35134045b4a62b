"""`conjoint bench rewards`: what verifying costs, each figure beside its target."""

from typing import Any

from conjoint.scripts.bench.config import BenchRun, against_targets
from conjoint.scripts.bench.rewards.jail import measure_jail
from conjoint.scripts.bench.rewards.math import measure_math


def measure(cfg: BenchRun) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes a minute or two."""
    figures, setting = measure_jail(cfg.bench, cfg.sandbox)
    found = measure_math(cfg.bench.problems, cfg.bench.group_size, cfg.seed)
    rates, wrong = found["verdicts_per_second"], found["wrong"]
    figures |= {
        "math_speedup": (
            found["speedup"],
            {k: [v] for k, v in rates.items()},
        ),
        "math_wrong_more": (
            float(wrong["ours"] - wrong["math_verify"]),
            {k: [float(v)] for k, v in wrong.items()},
        ),
        "math_slowest_s": (found["slowest_s"], {"answers": [float(found["answers"])]}),
    }
    return {
        "ratios": against_targets(figures, cfg.bench.targets),
        "setting": setting,
    }
