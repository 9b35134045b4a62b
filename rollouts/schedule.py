"""Values that move over a run, as pure functions of how far it has come: temperature, budgets,
learning rate and the weight of PTX."""

import math

SCHEDULES = ("constant", "linear", "cosine")


def scheduled(schedule: str, start: float, end: float, progress: float) -> float:
    """The value after `progress` in [0, 1] of the way from `start` to `end`; constant stays."""
    if schedule == "constant" or progress == 0:
        return start
    if schedule == "linear":
        return end + (start - end) * (1 - progress)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def progress_of(step: int, num_steps: int) -> float:
    """0 in the first step of a run, 1 in its last (`step` counts from 0)."""
    return min(step / max(1, num_steps - 1), 1.0)
