"""The weights that judge where they are not those being trained: an engine of its own, whose
weights are a folder.

    RUN_DIR/judge/             what judges now, as `from_pretrained` opens it
    checkpoints/STEP/judge/    what judged then, the same files

The learner writes the folder, and the engine is given its bytes through the weight sync, whole and
acknowledged by checksum: at the start, at a promotion, and when a run goes on. So what judges after
a resume is, bit for bit, what judged before it.
"""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from conjoint.envs.types import ConjointError, Sampler
from conjoint.rl.run.folder import whole_folder
from conjoint.rollouts.weights.manifest import Sent

if TYPE_CHECKING:
    import torch

    from conjoint.rl.learner.base import Learner
    from conjoint.rollouts.weights.shm_sender import SharedMemorySender

NAME = "judge"
"""Name of the snapshot's folder, in a run folder and in a checkpoint."""


class SnapshotEngine(Sampler, Protocol):
    """What a snapshot needs of its `RolloutEngine`."""

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def load_weights(self, sent: Sent, version: int, /) -> str: ...

    def drain_metrics(self) -> dict[str, float]: ...

    async def close(self) -> None: ...


class CriticSnapshot:
    """One engine that judges with the weights of one version until it is given others."""

    def __init__(
        self,
        engine: SnapshotEngine,
        run: Path,
        sender: "SharedMemorySender",
        margin: float,
        probe: Callable[["Learner", Any], Awaitable[None]] | None = None,
    ) -> None:
        """`run` is the run folder. `margin` as in `judge.promotion_margin`. `probe` raises StopRun
        unless the engine uses the learner's weights."""
        self.engine = engine
        self.folder = run / NAME
        self.version = 0
        self._sender = sender
        self._margin = margin
        self._probe = probe
        self._promotions = self._refusals = 0

    async def take(self, learner: "Learner", version: int) -> None:
        """From now on judge with the learner's weights."""
        with whole_folder(self.folder, "judge's snapshot") as partial:
            await learner.save_model(partial.resolve())
        await self._load(version)
        if self._probe is not None:
            await self._probe(learner, self.engine)

    def save(self, checkpoint: Path) -> None:
        """Keep what judges now in a checkpoint that is being written."""
        link_files(self.folder, checkpoint / NAME)

    async def restore(self, checkpoint: Path, state: Mapping[str, int]) -> None:
        """Judge as when `checkpoint` was saved."""
        if not (checkpoint / NAME).is_dir():
            raise ConjointError(
                f"{checkpoint} holds no snapshot of a judge, so judge.policy cannot become frozen "
                "or promoted here; start a new run for that"
            )
        with whole_folder(self.folder, "judge's snapshot") as partial:
            link_files(checkpoint / NAME, partial)
        self._promotions, self._refusals = state["promotions"], state["refusals"]
        await self._load(state["version"])

    async def _load(self, version: int) -> None:
        await self.engine.pause()
        weights = stored_weights(self.folder)
        sent = await asyncio.to_thread(self._sender.send, weights, version)
        await self.engine.load_weights(sent, version)
        await self.engine.resume()
        self.version = version

    async def promote_if_better(
        self,
        learner: "Learner",
        version: int,
        live: Sequence[Mapping[str, Any]],
        snapshot: Sequence[Mapping[str, Any]],
    ) -> str:
        """Take the live weights if their accuracy on the held-out pairs allows it, and say what was
        decided. `live`, `snapshot`: the rows of the evaluation, the same pairs."""
        ours, theirs = (fmean(row["score"] for row in rows) for rows in (live, snapshot))
        figures = (
            f"the live critic is right on {ours:.1%} of {len(live)} held-out pairs, the snapshot "
            f"of step {self.version} on {theirs:.1%}"
        )
        if not is_promoted(ours, theirs, self._margin):
            self._refusals += 1
            return f"promotion refused: {figures}"
        await self.take(learner, version)
        self._promotions += 1
        return f"promoted: {figures}"

    def state(self) -> dict[str, int]:
        return {
            "version": self.version,
            "promotions": self._promotions,
            "refusals": self._refusals,
        }

    def drain_metrics(self) -> dict[str, float]:
        """Which step's weights judge, decisions so far, deaths of its engine since the last call.

        The age of what judges and what became of each promotion explain a change of the reward.
        """
        return {
            "judge/snapshot_version": float(self.version),
            "judge/promotions": float(self._promotions),
            "judge/promotions_refused": float(self._refusals),
            "judge/engine_deaths": self.engine.drain_metrics().get("engine/deaths", 0.0),
        }

    async def close(self) -> None:
        await self.engine.close()
        Path(self._sender.path).unlink(missing_ok=True)


def is_promoted(live: float, snapshot: float, margin: float) -> bool:
    """The rule: the live critic's accuracy is not lower than the snapshot's plus the margin. No
    interval: to refuse costs little, for the next evaluation asks again."""
    return live >= snapshot + margin - 1e-9  # as sums of floats may miss what is equal


def stored_weights(folder: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """(name, tensor) of each tensor in a folder's safetensors files, read one after another.

    Raises ConjointError if there is none.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConjointError(f"{folder} holds no *.safetensors, so no weights to judge with")
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  # it is no mapping
                yield name, stored.get_tensor(name)


def link_files(source: Path, target: Path) -> None:
    """The files of a folder once more, without their bytes where the file system can do that: they
    are only ever replaced, never changed."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=link)
