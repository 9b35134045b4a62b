"""The only place where config becomes objects: `start` turns a plan into a running system."""

import asyncio
import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from conjoint.envs.confidence import single_turn
from conjoint.envs.mixture import TaskSets
from conjoint.envs.types import Task, derive_seed
from conjoint.rewards.base import RewardContext
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.lengths import Toggle
from conjoint.rewards.probes.at_start import probe_rewards
from conjoint.rewards.registry import Parts, RewardTable, reward_table
from conjoint.rewards.sandbox.backend import make_sandbox
from conjoint.rewards.sandbox.base import Sandbox
from conjoint.rewards.scoring import Scorer
from conjoint.rl.algo.ptx import PtxStream
from conjoint.rl.cluster.placement import place
from conjoint.rl.cluster.ray_start import start_ray
from conjoint.rl.config.tree import Config
from conjoint.rl.critic.context import check_judge, judge_endpoint, judging_context
from conjoint.rl.critic.snapshot import CriticSnapshot
from conjoint.rl.evaluate import Evaluator
from conjoint.rl.learner.colocated import ColocatedLearner
from conjoint.rl.learner.group import LearnerGroup, RankArguments
from conjoint.rl.models.shape import ModelShape
from conjoint.rl.nano.start_policy import policy_folder
from conjoint.rl.parts import Learning, Record, Sampling, Scoring
from conjoint.rl.plan import Plan
from conjoint.rl.run.checkpoint import Checkpoint
from conjoint.rl.run.console import RunConsole
from conjoint.rl.run.folder import RunFolder
from conjoint.rl.run.guard import Guard
from conjoint.rl.run.interrupt import Interrupt
from conjoint.rl.system import System
from conjoint.rl.weight_sync import PausedSync
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.endpoint import EndpointPolicy
from conjoint.rollouts.engine.base import RolloutEngine
from conjoint.rollouts.engine.driver import VllmEngine
from conjoint.rollouts.episode import EpisodeLimits, to_the_end
from conjoint.rollouts.gateway.play import Agents
from conjoint.rollouts.gateway.server import Gateway
from conjoint.rollouts.renderer import Renderer
from conjoint.rollouts.weights.buffer import buffer_path, sweep_buffers
from conjoint.rollouts.weights.ipc_sender import IpcSender
from conjoint.rollouts.weights.nccl_sender import NcclSender
from conjoint.rollouts.weights.sender import Sender
from conjoint.rollouts.weights.shm_sender import SharedMemorySender


async def start(
    plan: Plan,
    folder: RunFolder,
    console: RunConsole,
    interrupt: Interrupt,
    checkpoint: Checkpoint | None = None,
) -> System:
    """Start sandbox, engines and learner, and put the parts together. With `checkpoint`, the run
    goes on from it. Raises ConjointError or StopRun for what cannot start."""
    sandbox = make_sandbox(plan.cfg.sandbox)
    try:
        await sandbox.start()
        return await _start(plan, folder, console, interrupt, checkpoint, sandbox)
    except BaseException:
        await sandbox.close()  # a rented sandbox would outlive the run
        raise


async def _start(
    plan: Plan,
    folder: RunFolder,
    console: RunConsole,
    interrupt: Interrupt,
    checkpoint: Checkpoint | None,
    sandbox: Sandbox,
) -> System:
    cfg, started = plan.cfg, time.monotonic()
    endpoint = judge_endpoint(cfg.judge)
    if endpoint is not None:
        await check_judge(endpoint)
    model = await policy_folder(cfg.model, cfg.nano, cfg.asked)
    renderer = Renderer.load(model)
    ptx = plan.ptx
    if ptx is None and plan.ptx_rows:  # nano was not built yet when the plan was made
        ptx = PtxStream(plan.ptx_rows, renderer, cfg.ptx, cfg.seed)
    console.message("starting Ray, the rollout engine and the learner ...")
    sweep_buffers()
    await asyncio.to_thread(start_ray, cfg.cluster)
    interrupt.install()
    judge = Judge(cfg.judge)
    parts = Parts(cfg.reward, sandbox, judge, plan.rubrics, cfg.sandbox.isolation)
    rewards = reward_table(parts, plan.own_rewards)
    (engine, learner, judging), probes = await asyncio.gather(
        _start_engines(cfg, model, renderer),
        probe_rewards({k: cfg.reward.kinds[k] for k in cfg.kinds}, rewards, plan.tasks.first),
    )
    for words in probes:
        console.message(words)
    buffer = buffer_path(folder.path.name)
    learning = _learning(cfg, engine, learner, renderer, buffer)
    learning.ptx, learning.cost = ptx, ModelShape.cost_of(model)
    snapshot = _snapshot(cfg, judging, folder, learning.weight_sync)
    gateway = Gateway(engine, renderer)
    if plan.agents:
        await gateway.start()
    system = assemble(
        cfg,
        plan.tasks,
        renderer,
        engine,
        learning,
        Judges(judge, rewards, snapshot, endpoint),
        Record.of(cfg, folder, console),
        interrupt,
        agents=Agents(gateway, plan.agents),
        sandbox=sandbox,
    )
    system.started = started
    system.closers += [part.close for part in (sandbox, snapshot, gateway, endpoint) if part]
    system.closers += [lambda: _stop_ray(buffer), plan.own_rewards.close]
    folder.write_versions(engine=cfg.rollout.in_words(), sandbox=sandbox.tier, model=model.name)
    await _begin(system, checkpoint)
    return system


@dataclass(frozen=True, slots=True)
class Judges:
    """The rewards of a run, and the judge that they ask: the live policy, unless there is a
    snapshot or an endpoint."""

    judge: Judge
    rewards: RewardTable
    snapshot: CriticSnapshot | None = None
    endpoint: EndpointPolicy | None = None


def assemble(
    cfg: Config,
    tasks: TaskSets,
    renderer: Renderer,
    engine: RolloutEngine,
    learning: Learning,
    judges: Judges,
    record: Record,
    interrupt: Interrupt,
    *,
    agents: Agents | None = None,
    sandbox: Sandbox | None = None,
) -> System:
    """Put the parts of a run together; starts nothing. Tests pass fakes for engine and learner."""
    live = RewardContext(to_the_end(engine), renderer, cfg.seed, num_steps=cfg.num_steps)
    paid_by = judging_context(live, judges.snapshot, judges.endpoint)
    scorer = Scorer(judges.rewards, paid_by, cfg.confident)
    collector = Collector(engine, renderer, single_turn(cfg.confident), cfg.seed, agents)
    held = judging_context(live, judges.snapshot, None) if cfg.judge.policy == "promoted" else None
    evaluator = Evaluator(
        cfg.eval,
        tasks,
        collector,
        scorer,
        judges.judge,
        live,  # evaluations measure the policy, whoever judges the run
        functools.partial(_evaluation_limits, cfg),
        held,
    )
    return System(
        cfg=cfg,
        sampling=Sampling(tasks.mixture, engine, collector),
        scoring=Scoring(scorer, judges.judge, judges.snapshot, sandbox),
        learning=learning,
        evaluator=evaluator,
        guard=Guard(cfg.guard),
        record=record,
        interrupt=interrupt,
        toggle=Toggle(cfg.budget.toggle),
    )


def _evaluation_limits(cfg: Config, task: Task) -> EpisodeLimits:
    """Limits of an evaluation. They do not follow the schedules of budget and temperature, so that
    evaluations of one run can be compared."""
    largest, rollout = cfg.largest_budget_of(task.kind), cfg.rollout
    return EpisodeLimits(largest, rollout.max_model_len, rollout.max_turns, 0.0)


async def _begin(system: System, checkpoint: Checkpoint | None) -> None:
    """Load the state of `checkpoint`, or give the judge's own engine its first weights."""
    learner, snapshot = system.learning.learner, system.scoring.snapshot
    if checkpoint is not None:
        place, step, state = checkpoint
        await learner.load(place.resolve())
        system.load_state(step, state)
        if snapshot:
            await snapshot.restore(place, state["snapshot"])
    elif snapshot:
        await snapshot.take(learner, 0)


async def _start_engines(
    cfg: Config, model: Path, renderer: Renderer
) -> tuple[VllmEngine, LearnerGroup, VllmEngine | None]:
    """Start the engine's workers, the learner ranks and the judge's own worker, if it has one. All
    load at the same time."""
    backend, rollout = cfg.weight_sync.backend, cfg.rollout
    one = replace(rollout, engines=1)
    workers = rollout.engines + cfg.judge.has_own_engine
    placement = await place(replace(rollout, engines=workers), cfg.learner, backend)
    first = cfg.learner.ranks
    engine = VllmEngine.launch(str(model), rollout, cfg.seed, backend, placement, first)
    judging = None
    if cfg.judge.has_own_engine:
        seed, last = derive_seed(cfg.seed, "judge"), first + rollout.engines
        judging = VllmEngine.launch(str(model), one, seed, backend, placement, last)
    arguments = RankArguments(
        model,
        cfg.learner,
        cfg.optim,
        cfg.loss,
        total_updates=cfg.num_steps * cfg.learner.updates_per_batch,
        mismatch=cfg.mismatch,
    )
    stop_ids, deadline = renderer.stop_ids, rollout.start_timeout_s
    learner, _ = await asyncio.gather(
        LearnerGroup.start(arguments, placement),
        asyncio.gather(*(e.ready(stop_ids, deadline) for e in (engine, judging) if e)),
    )
    return engine, learner, judging


def _snapshot(
    cfg: Config, engine: VllmEngine | None, folder: RunFolder, sync: PausedSync
) -> CriticSnapshot | None:
    """The judge with weights of its own. Its engine refuses to sample until it gets the first."""
    if engine is None:
        return None
    sender = SharedMemorySender(f"{buffer_path(folder.path.name)}-judge")
    probe = sync.probe if cfg.weight_sync.probe_every else None
    return CriticSnapshot(engine, folder.path, sender, cfg.judge.promotion_margin, probe)


def _learning(
    cfg: Config, engine: VllmEngine, learner: LearnerGroup, renderer: Renderer, buffer: str
) -> Learning:
    weight_sync = PausedSync(
        cfg.weight_sync,
        _sender(cfg, engine, buffer),
        renderer.vocab_size,
        cfg.seed,
        drain=not (cfg.rollout.partial and cfg.rollout.max_staleness),
    )
    return Learning(
        ColocatedLearner(learner, engine) if cfg.rollout.sleep else learner, weight_sync
    )


def _sender(cfg: Config, engine: VllmEngine, buffer: str) -> Sender:
    """The transport that the config names. It connects when it first sends."""
    if cfg.weight_sync.backend == "shm":
        return SharedMemorySender(buffer, cfg.rollout.dtype if cfg.weight_sync.delta else None)
    sender = IpcSender if cfg.weight_sync.backend == "ipc" else NcclSender
    return sender(engine.workers, cfg.rollout.tensor_parallel, cfg.rollout.request_timeout_s)


async def _stop_ray(buffer: str) -> None:
    await asyncio.to_thread(ray.shutdown)
    for path in (buffer, f"{buffer}.delta"):
        Path(path).unlink(missing_ok=True)
