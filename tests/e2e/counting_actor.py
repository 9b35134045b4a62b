"""A rollout worker without an engine: it answers at once and counts what it is asked."""

from typing import Any

from conjoint.rollouts.engine.admission import Load
from conjoint.rollouts.engine.vllm_worker import Sampled, SampleResult
from tests.fakes import END, OFFSET


def drawn_from(seed: int) -> int:
    """A letter that the renderer of the tests can read."""
    return OFFSET + 32 + seed % 90


class CountingActor:
    """A Ray actor as `rollouts/engine/actor.py` is one."""

    def __init__(self) -> None:
        self._calls = 0

    async def calls(self) -> int:
        return self._calls

    async def call(self, method: str, *args: Any) -> Any:
        self._calls += 1
        if method == "load_weights":
            return [{"version": args[1], "checksum": args[0]["sum"]}]
        if method == "sample":
            drawn = [[drawn_from(r.seed), END] for r in args[0]]
            results = [SampleResult(tokens, [-1.0, -1.0], "stop", []) for tokens in drawn]
            return Sampled(results, Load(len(results), len(results), 0.0, 0, 0, 0))
        return None
