"""One combination of user, tier and mode: `python -m tests.rewards.sandbox.matrix TIER MODE ROWS
COSTLY` grades every row and prints the verdicts and what the host looks like after them.

A process of its own, because an unprivileged user needs one; standard library only, because that
user's Python has no packages.
"""

import asyncio
import contextlib
import glob
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from conjoint.envs.types import Task
from conjoint.rewards.code.reward import CodeReward
from conjoint.rewards.sandbox.base import Program, SandboxConfig, SandboxUnavailable
from conjoint.rewards.sandbox.local import languages
from conjoint.rewards.sandbox.local.jail import LocalJail
from tests.rewards.sandbox import attacks, forgeries, native

LIMITS: dict[str, Any] = {"cpu_s": 1, "memory_mb": 256, "scratch_mb": 16}
# Generous, so that a loaded machine does not turn an error into a timeout; but not for the rows
# that wait for it.
PATIENT, SHORT = 30.0, 2.0
COMBINATIONS = [(tier, mode) for tier in ("namespaces", "landlock") for mode in ("fork", "exec")]
_AT_ONCE = 6
SOCKET = "sbx-canary"


def shared_rows(path: Path) -> list[attacks.Row]:
    """The example rows, with the verdicts that they accept."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        first, _, _ = row["note"].partition(";")
        also = first.removeprefix("also=").split(",") if first.startswith("also=") else []
        must = "pass" if row["must"] == "contained" else row["must"]
        rows.append({**row, "name": f"shared {row['name']}", "must": (must, *also)})
    return rows


def reference(row: attacks.Row) -> dict[str, Any]:
    return {"language": row["language"], "tests": row["tests"]}


def own_rows(mode: str, costly: bool) -> list[attacks.Row]:
    """Programs of other languages start in one way only: they run beside one of the modes, and
    what costs a second in Python beside the other."""
    python = [*attacks.rows(), *forgeries.rows()]
    quick = [row for row in python if not row.get("costly")]
    if mode == "fork":
        return python if costly else quick
    return quick + [row for row in native.rows() if costly or not row.get("costly")]


async def offers() -> dict[str, str]:
    """ "tier mode" -> why this user does not have it, empty if it holds."""
    found = {}
    for tier, mode in COMBINATIONS:
        jail = LocalJail(SandboxConfig(isolation=tier, mode=mode, workers=1))
        try:
            await jail.start()
            found[f"{tier} {mode}"] = ""
        except SandboxUnavailable as error:
            found[f"{tier} {mode}"] = str(error)
        finally:
            await jail.close()
    return found


async def grade_all(tier: str, mode: str, rows: list[attacks.Row]) -> dict[str, Any]:
    config = SandboxConfig(isolation=tier, mode=mode, wall_s=PATIENT, **LIMITS)
    patient = LocalJail(config)
    short = LocalJail(SandboxConfig(isolation=tier, mode=mode, wall_s=SHORT, **LIMITS))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def grade(row: attacks.Row) -> tuple[str, Any]:
        if why := languages.missing(row["language"]):
            return row["name"], ["missing", None, why]
        jail = short if row.get("wall") else patient
        async with gate:
            task = Task.make("code", "?", reference(row))
            score = await CodeReward(jail).check(task, row["source"])
        return row["name"], [score.outcome, score.value, " ".join(score.reasons)]

    try:
        verdicts = dict(await asyncio.gather(*map(grade, rows)))
        # The pool answers: every zygote that is still there, and in the state that it began in.
        answers = await asyncio.gather(*(patient.run(Program("print(6 * 7)")) for _ in range(8)))
    finally:
        await patient.close()
        await short.close()
    return {
        "verdicts": verdicts,
        "answers": sorted({result.stdout.decode() for result in answers}),
        "tier": patient.tier,
    } | host()


def host() -> dict[str, Any]:
    """What attacks could have left."""
    places = ("/tmp", "/var/tmp", "/usr/lib", "/usr/bin", "/dev/shm", os.getcwd())
    segments = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=False).stdout
    # getrusage would give what whoever started this process had at the time of the fork.
    with open("/proc/self/status", encoding="ascii") as status:
        memory = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return {
        "files": [f for place in places for f in glob.glob(f"{place}/sbx_*pwn*")],
        "cores": glob.glob(os.path.join(os.getcwd(), "core*")),
        "segments": segments.count("0x00005b5b"),
        "memory_mb": memory >> 10,
        "children": children(),
    }


def children() -> list[str]:
    """Names of this process's descendants that are left; there is none to be."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                head, _, tail = stat.read().rpartition(")")
        except OSError:
            continue
        if int(tail.split()[1]) == os.getpid():
            found.append(head.partition("(")[2])
    return [name for name in found if name != "ipcs"]


def main(tier: str, mode: str, path: str, costly: str) -> None:
    os.environ["SBX_CANARY"] = os.environ["E2B_API_KEY"] = "canary-5b1"
    rows = own_rows(mode, costly == "costly")
    rows += shared_rows(Path(path)) if os.path.exists(path) else []
    with socket.socket(socket.AF_UNIX) as listener:
        # Where another process already listens there, the canary is as good.
        with contextlib.suppress(OSError):
            listener.bind("\0" + SOCKET)
            listener.listen()
        result = asyncio.run(grade_all(tier, mode, rows))
    result["must"] = {r["name"]: _must(r, tier) for r in rows}
    result["programs"] = sum(r.get("count", 1) for r in rows)
    print(json.dumps(result))


def _must(row: attacks.Row, tier: str) -> tuple[str, ...]:
    return row.get("landlock", row["must"]) if tier == "landlock" else row["must"]


if __name__ == "__main__":
    if sys.argv[1] == "offers":
        print(json.dumps(asyncio.run(offers())))
    else:
        main(*sys.argv[1:])
