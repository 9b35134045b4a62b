"""What grading says of one row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.types import Outcome
from conjoint.scripts.grade.rows import GradeRow

BAD_REFERENCE = "bad_reference"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What grading gave one row: `score` in [0, 1], or None for a row that could not be graded."""

    row: GradeRow
    score: float | None
    status: Outcome
    reasons: tuple[str, ...]
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """The score of each reward, where there are several."""

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "id": self.row.id,
            "score": self.score,
            "status": self.status.value,
            "reasons": list(self.reasons),
        }
        return plain | ({"scores": dict(self.scores)} if self.scores else {})
