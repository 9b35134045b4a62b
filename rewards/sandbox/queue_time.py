"""How long programs wait for their turn, and how many of them our machinery failed."""


class QueueTime:
    """Counts since the last `drain`."""

    def __init__(self) -> None:
        self.retried = 0
        self.infra_errors = 0
        self._waits: list[float] = []

    def waited(self, seconds: float) -> None:
        self._waits.append(seconds)

    def drain(self) -> dict[str, float]:
        """`sandbox/*` metrics; none if no program ran."""
        waits, retried, lost = self._waits, self.retried, self.infra_errors
        self._waits, self.retried, self.infra_errors = [], 0, 0
        if not waits:
            return {}
        return {
            "sandbox/programs": float(len(waits)),
            "sandbox/queue_s_mean": sum(waits) / len(waits),
            "sandbox/queue_s_max": max(waits),
            "sandbox/retried": float(retried),
            "sandbox/infra_errors": float(lost),
        }
