"""The score that pays a stated confidence.

The score is one minus the Brier score (Brier 1950), so that the weighted mean with correctness is
RLCR's reward (arXiv 2507.16806) up to a constant and a factor.
"""

from conjoint.envs.types import CALIBRATION, Score, Status, Trajectory


def correctness(trajectory: Trajectory) -> float | None:
    """1 for a finished answer that every verifier pays in full, 0 for any other; None if ungraded.
    A judge's opinion proves nothing and is not counted."""
    values = [score.value for score in trajectory.checks if not score.judged]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return float(trajectory.status is Status.COMPLETED and min(known) >= 1)


def calibration_score(trajectory: Trajectory) -> Score:
    """1 - (q - c)^2 for a stated confidence q and correctness c; 0, as for the worst q, where none
    is readable. A mask there would let the policy withhold it wherever it is in doubt."""
    right, stated = correctness(trajectory), trajectory.confidence
    if right is None:
        if not any(not score.judged for score in trajectory.checks):
            return Score.abstain(CALIBRATION, "no verifier grades the answer")
        return Score.infra_error(CALIBRATION, "whether the answer is right is not known")
    what = "right" if right else "not right"
    if stated is None:
        return Score.of(CALIBRATION, 0.0, f"no readable confidence; the answer is {what}")
    said = f"said {stated:g}; the answer is {what}"
    return Score.of(CALIBRATION, 1.0 - (stated - right) ** 2, said)
