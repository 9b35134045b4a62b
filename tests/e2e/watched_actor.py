"""A rollout worker that a test can look into, and that keeps stale KV where it is told to."""

from conjoint.rollouts.engine.actor import EngineActor


class WatchedActor(EngineActor):
    _keeps_stale_kv = False

    async def drawn(self) -> list[int]:
        """Tokens so far of each request in the engine."""
        states = self._llm.output_processor.request_states.values()
        return [s.detokenizer.num_output_tokens() for s in states if s.detokenizer is not None]

    async def keep_old_head(self, keep: bool) -> None:
        await self._llm.collective_rpc("keep_old_head", args=(keep,))

    async def keep_stale_kv(self, keep: bool) -> None:
        self._keeps_stale_kv = keep

    async def pause(self, drain: bool) -> None:
        if not self._keeps_stale_kv:
            return await super().pause(drain)
        await self._llm.pause_generation(mode="keep", clear_cache=False)
