"""A simulated engine: vLLM's scheduler as far as its KV cache goes, on a virtual clock.

Requests are let in first come, first served while their tokens fit; each step draws one token for
all that run; if a block is missing, the one let in last is thrown out and computed anew later.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from conjoint.rollouts.engine.admission import Admission, Load

BLOCK = 16
MAX_NUM_SEQS = 256
GROUPS, GROUP_SIZE = 200, 8
PREFILL = 8192
"""Most tokens computed anew in one step."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Cost of a step, in any unit."""

    fixed: float
    token: float
    prefill_token: float


MEMORY_BOUND = Machine(fixed=1.0, token=0.002, prefill_token=0.002)
"""A GPU: reading the weights is most of a step."""
COMPUTE_BOUND = Machine(fixed=0.05, token=0.05, prefill_token=0.01)
"""A CPU."""


@dataclass(slots=True, eq=False)
class _Request:
    group: int
    tokens: int
    """Prompt and what is drawn."""
    left: int

    @property
    def blocks(self) -> int:
        return -(-(self.tokens + 1) // BLOCK)


@dataclass
class Outcome:
    duration: float = 0.0
    thrown_away: int = 0
    """Tokens whose KV was dropped and computed anew."""


@dataclass
class _Engine:
    machine: Machine
    kv_blocks: int
    free: int
    outcome: Outcome = field(default_factory=Outcome)
    waiting: list[_Request] = field(default_factory=list)
    running: list[_Request] = field(default_factory=list)
    preemptions: int = 0
    usage: float = 0.0
    most: int = 0

    @property
    def active(self) -> int:
        return len(self.waiting) + len(self.running)

    def step(self) -> list[_Request]:
        """One token for all that run; returns those that have ended."""
        self._grow()
        prefill = self._let_in()
        self.usage = max(self.usage, 1 - self.free / self.kv_blocks)
        self.most = max(self.most, self.active)
        for request in self.running:
            request.tokens += 1
            request.left -= 1
        cost = self.machine
        self.outcome.duration += (
            cost.fixed + cost.token * len(self.running) + cost.prefill_token * prefill
        )
        ended = [r for r in self.running if r.left == 0]
        for request in ended:
            self.running.remove(request)
            self.free += -(-request.tokens // BLOCK)
        return ended

    def _grow(self) -> None:
        for request in list(self.running):
            if request not in self.running:
                continue
            need = request.blocks - -(-request.tokens // BLOCK)
            while need > self.free and request in self.running:
                self._throw_out(self.running.pop())
            if request in self.running:
                self.free -= need

    def _throw_out(self, last: _Request) -> None:
        self.free += -(-last.tokens // BLOCK)
        self.waiting.insert(0, last)
        self.preemptions += 1
        self.outcome.thrown_away += last.tokens

    def _let_in(self) -> int:
        prefill = 0
        while self.waiting and len(self.running) < MAX_NUM_SEQS and prefill < PREFILL:
            request = self.waiting[0]
            if request.blocks > self.free:
                break
            self.running.append(self.waiting.pop(0))
            self.free -= request.blocks
            prefill += request.tokens
        return prefill

    def report(self) -> Load:
        load = Load(GROUP_SIZE, self.most, self.usage, self.preemptions, 0, 0)
        self.preemptions, self.usage, self.most = 0, 1 - self.free / self.kv_blocks, self.active
        return load


def _requests(seed: int) -> Iterator[_Request]:
    draw = random.Random(seed)
    for group in range(GROUPS):
        for _ in range(GROUP_SIZE):
            length = 1 + min(2000, int(draw.lognormvariate(5.0, 1.0)))
            yield _Request(group, draw.randint(20, 200), length)


def simulate(machine: Machine, kv_blocks: int, seed: int, *, admits: bool) -> Outcome:
    """Answer all groups, with admission or with as many at once as the engine takes. A group comes
    in whole, and its report is given when its last answer has ended."""
    engine = _Engine(machine, kv_blocks, kv_blocks)
    admission = Admission(1, MAX_NUM_SEQS)
    pending = list(_requests(seed))[::-1]
    left = [GROUP_SIZE] * GROUPS
    while pending or engine.active:
        limit = admission.capacity([0]) if admits else MAX_NUM_SEQS
        while pending and engine.active < limit:
            engine.waiting += [pending.pop() for _ in range(GROUP_SIZE)]
        for request in engine.step():
            left[request.group] -= 1
            if not left[request.group]:
                admission.observe(0, engine.report())
    return engine.outcome
