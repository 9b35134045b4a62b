"""How episodes of agents end: by themselves, at a deadline, by a limit, with a broken engine."""

import asyncio
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import psutil
import pytest

from conjoint.envs.agent import AgentConfig, AgentError, CommandAgent, FunctionAgent, load_agent
from conjoint.envs.base import SingleTurn
from conjoint.envs.types import Completion, ConjointError, Status, StopRun, Task
from conjoint.rollouts.collector import Collector
from conjoint.rollouts.episode import EpisodeLimits
from conjoint.rollouts.gateway.play import Agents, play_agent
from conjoint.rollouts.gateway.server import Gateway
from tests.agents import ROOMY, Scripted, play, tool_renderer

TASK = Task.make("travel", "Where to?")


async def episode(agent: Any, engine: Scripted, limits: EpisodeLimits = ROOMY) -> Any:
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    try:
        return await play_agent(agent, gateway, TASK, limits, 0, "s")
    finally:
        await gateway.close()


def gone(pid: int) -> bool:
    """Whether it has ended, or does within a moment: a kill takes one."""
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def shell(script: str, deadline_s: float = 20.0) -> CommandAgent:
    return CommandAgent(("sh", "-c", script), deadline_s)


async def test_a_command_past_its_deadline_is_killed_with_what_it_started(tmp_path: Path):
    pids = tmp_path / "pids"
    agent = shell(f"sleep 300 & echo $! > {pids}; echo $$ >> {pids}; wait", deadline_s=4.0)
    with pytest.raises(AgentError, match=r"more than its 4 s"):
        await episode(agent, Scripted("x"))
    assert all(gone(int(pid)) for pid in pids.read_text().split())


async def test_a_child_that_outlives_its_command_does_not_hold_the_episode_up(tmp_path: Path):
    pid = tmp_path / "pid"
    with pytest.raises(AgentError, match="ended without asking"):
        await episode(shell(f"sleep 300 & echo $! > {pid}"), Scripted("x"))
    assert gone(int(pid.read_text()))


ESCAPES = {
    "a session of its own": "setsid sh child &",
    "a second fork": "(setsid sh -c 'sh child & wait' &);",
    "another environment": "env -i setsid sh child &",
    "deaf": "setsid sh -c 'trap \"\" TERM HUP INT; sh child' &",
}


@pytest.mark.parametrize("how", ESCAPES)
async def test_no_child_outlives_the_episode_or_a_run_that_is_killed(tmp_path: Path, how: str):
    pids = tmp_path / "pids"
    (tmp_path / "child").write_text(f"echo $$ $PPID >> {pids}\nsleep 300\n")
    command = f"cd {tmp_path}; {ESCAPES[how]} while ! test -s {pids}; do sleep 0.05; done"
    with pytest.raises(AgentError, match="ended without asking"):
        await episode(shell(command), Scripted("x"))
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    pids.unlink()
    driver = (
        "import asyncio; from conjoint.envs.agent import CommandAgent; "
        "from conjoint.envs.types import Task; "
        f"agent = CommandAgent(('sh', '-c', {command + '; sleep 300'!r})); "
        "asyncio.run(agent('http://127.0.0.1:1/v1', Task.make('travel', 'x')))"
    )
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", driver)
    while not (pids.exists() and pids.read_text().strip()):
        await asyncio.sleep(0.02)
    run.kill()
    await run.wait()
    assert all(gone(int(pid)) for pid in pids.read_text().split())


async def test_a_command_that_fails_says_its_last_words():
    with pytest.raises(AgentError, match=r"(?s)sh ended with code 3: .*no such hotel$"):
        await episode(shell("yes | head -c 100000; echo no such hotel; exit 3"), Scripted("x"))


async def test_a_command_dies_with_the_run_that_started_it(tmp_path: Path):
    pid = tmp_path / "pid"
    script = (
        "import asyncio; from conjoint.envs.agent import CommandAgent; "
        "from conjoint.envs.types import Task; "
        f"agent = CommandAgent(('sh', '-c', 'echo $$ > {pid}; exec sleep 300')); "
        "asyncio.run(agent('http://127.0.0.1:1/v1', Task.make('travel', 'x')))"
    )
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    while not (pid.exists() and pid.read_text().strip()):
        await asyncio.sleep(0.02)
    run.kill()
    await run.wait()
    assert gone(int(pid.read_text()))


async def test_a_cancelled_episode_leaves_no_process(tmp_path: Path):
    pid = tmp_path / "pid"
    running = asyncio.ensure_future(episode(shell(f"echo $$ > {pid}; sleep 300"), Scripted("x")))
    while not (pid.exists() and pid.read_text().strip()):
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(int(pid.read_text()))


async def test_the_wait_for_the_policy_is_not_the_agents_time(monkeypatch: pytest.MonkeyPatch):
    loop = asyncio.get_running_loop()
    ahead, now = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + ahead)

    def let_pass(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    class Slow(Scripted):
        async def __call__(self, tokens: Any, **how: Any) -> Completion:
            let_pass(200)
            await asyncio.sleep(0.01)
            return await super().__call__(tokens, **how)

    async def idle(base_url: str, task: Task) -> None:
        await play(base_url, task)
        let_pass(200)
        await asyncio.sleep(60)

    t = await episode(FunctionAgent(play, deadline_s=100), Slow("hello"))
    assert t.status is Status.COMPLETED
    with pytest.raises(AgentError, match="more than its 100 s"):
        await episode(FunctionAgent(idle, deadline_s=100), Slow("hello"))


async def test_an_agent_that_stumbles_over_a_limit_is_truncated_and_else_failed():
    from openai import OpenAIError

    async def greedy(base_url: str, task: Task) -> None:
        for _ in range(3):
            await play(base_url, task)
        raise OSError("no network")

    t = await episode(FunctionAgent(greedy), Scripted("x" * 9), EpisodeLimits(12, 999, 9, 1.0))
    assert t.status is Status.TRUNCATED and t.num_sampled == 2
    with pytest.raises(OSError, match="no network"):
        await episode(FunctionAgent(greedy), Scripted("x" * 9))

    async def wrong(base_url: str, task: Task) -> None:
        await play(base_url + "/nowhere", task)

    with pytest.raises(OpenAIError):
        await episode(FunctionAgent(wrong), Scripted("x"))


async def test_a_broken_engine_ends_the_episode_and_a_stop_rule_the_run():
    class Broken(Scripted):
        async def __call__(self, tokens: Any, **how: Any) -> Completion:
            raise StopRun("four workers died")

    async def stubborn(base_url: str, task: Task) -> None:
        try:
            await play(base_url, task)
        except Exception:
            await asyncio.sleep(60)

    engine = Broken("x")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    agents = Agents(gateway, {"travel": FunctionAgent(stubborn)})
    collector = Collector(engine, tool_renderer(), SingleTurn, 0, agents)
    with pytest.raises(StopRun, match="four workers died"):
        async for _ in collector.stream([TASK], 2, lambda _: ROOMY, tag=0):
            pass
    await gateway.close()


async def test_a_broken_agent_masks_its_own_trajectory():
    async def broken(base_url: str, task: Task) -> None:
        raise RuntimeError("no browser")

    engine = Scripted("x")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    agents = Agents(gateway, {"travel": FunctionAgent(broken)})
    collector = Collector(engine, tool_renderer(), SingleTurn, 0, agents)
    groups = [g async for g in collector.stream([TASK], 2, lambda _: ROOMY, tag=0)]
    await gateway.close()
    assert [t.status for t in groups[0].trajectories] == [Status.FAILED, Status.FAILED]
    assert "no browser" in groups[0].trajectories[0].response


async def test_an_episode_under_way_shows_nothing_that_could_be_taken_up_again():
    shown: list[Any] = []

    async def looks(base_url: str, task: Task) -> None:
        await play(base_url, task)
        shown.append(episodes[0].trajectory)

    engine = Scripted("hello")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    agents = Agents(gateway, {"travel": FunctionAgent(looks)})
    collector = Collector(engine, tool_renderer(), SingleTurn, 0, agents)
    episodes = collector.episodes(TASK, 1, ROOMY, (0, 0), "s")
    (t,) = await collector.play(TASK, episodes)
    # Another run of it ends where this one did; what is ended is not played again.
    assert await collector.play(TASK, episodes, [t]) == [t] and len(engine.asked) == 1
    await gateway.close()
    assert (shown[0].tokens, shown[0].status) == ([], Status.RUNNING)
    assert episodes[0].trajectory is t and t.num_sampled == 6


async def test_what_is_asked_after_the_end_is_not_sampled():
    urls: list[str] = []

    async def leaves_a_task(base_url: str, task: Task) -> None:
        await play(base_url, task)
        urls.append(base_url)

    engine = Scripted("x")
    gateway = Gateway(engine, tool_renderer())
    await gateway.start()
    await play_agent(FunctionAgent(leaves_a_task), gateway, TASK, ROOMY, 0, "s")
    with pytest.raises(Exception, match="no such session"):
        await play(urls[0], TASK)
    await gateway.close()
    assert len(engine.asked) == 1


# -- configuration ----------------------------------------------------------------------------


async def test_agents_are_found_by_module_file_or_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(load_agent(AgentConfig("tests.agents:play"), "k"), FunctionAgent)
    file = tmp_path / "json.py"  # not the standard library's
    file.write_text("async def go(base_url, task):\n    raise OSError('mine')\n")
    own = load_agent(AgentConfig(f"{file}:go", 5.0, 2), "k")
    assert (own.deadline_s, own.concurrency) == (5.0, 2)
    assert str(tmp_path) in sys.path
    found = PathFinder.find_spec("json")  # as a process that starts later finds it
    assert found is not None
    assert found.origin != str(file)
    with pytest.raises(OSError, match="mine"):
        await own("", TASK)
    command = load_agent(AgentConfig(f"{sys.executable} -m 'tests.agents' --x=a:b"), "k")
    assert isinstance(command, CommandAgent)
    assert command.words == (sys.executable, "-m", "tests.agents", "--x=a:b")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("tests.agents:nothing", "has no function nothing"),
        ("tests.nowhere:play", "cannot be imported"),
        ("nowhere.py:play", "cannot be imported"),
        ("tests.agents:call", "is not an async function"),
        ("tests.agents:Scripted", "is not an async function"),
        ("no-such-command --x", "nor a command that can be found"),
        ("'", "cannot be read"),
        (" ", "nor a command that can be found"),
    ],
)
def test_an_agent_that_cannot_be_is_refused_with_its_key(run: str, words: str):
    with pytest.raises(ConjointError, match=words) as refused:
        load_agent(AgentConfig(run), "tasks.travel.agent")
    assert str(refused.value).startswith("tasks.travel.agent.run=")


def test_an_agent_of_other_parameters_is_refused(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("async def go(url):\n    pass\n")
    with pytest.raises(ConjointError, match=r"must take \(base_url, task\)"):
        load_agent(AgentConfig(f"{file}:go"), "k")
