"""`python -m conjoint.scripts.bench.rewards.study`: how often the math reward is wrong.

Grades references against rewritings of themselves (a refusal is false) and near misses (a payment is
false), by the reward and by math-verify as it comes, and prints a table in Markdown. References are
generated (`mutations.py`) and, where the folder of `data=` has them, those of GSM8K's test set and
its labelled mathematics. The full study takes some minutes.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from conjoint.envs.types import Task
from conjoint.rewards.math.reward import MathVerifier
from conjoint.rewards.math.symbolic import plain_verdict
from conjoint.scripts.bench.rewards.mutations import Case, cases, number_case

REFERENCES = 2_220
_DATA = Path("../shared/data")


@dataclass(slots=True)
class Tally:
    """Verdicts of one grader on one source of references."""

    same: int = 0
    other: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, gold: str, answer: str, right: bool, paid: bool) -> None:
        self.same += right
        self.other += not right
        self.refused += right and not paid
        self.accepted += paid and not right
        if paid is not right:
            self.wrong.append(f"{gold!r} against {answer!r}, {'refused' if right else 'paid'}")


def labelled(case: Case) -> Iterator[tuple[str, bool]]:
    """The case's answers with their labels."""
    yield from ((answer, True) for answer in case.same)
    yield from ((answer, False) for answer in case.other)


def response(answer: str) -> str:
    return f"We work it out.\nThe answer is $\\boxed{{{answer}}}$."


async def ours(found: Iterable[Case]) -> Tally:
    """The reward's verdicts."""
    tally, verifier = Tally(), MathVerifier()
    try:
        await verifier.start()
        began = time.perf_counter()
        for case in found:
            for answer, right in labelled(case):
                score = await verifier(Task.make("math", "?", case.gold), response(answer))
                tally.add(case.gold, answer, right, score.value == 1.0)
        tally.seconds = time.perf_counter() - began
    finally:
        verifier.close()
    return tally


def theirs(found: Iterable[Case]) -> Tally:
    """math-verify's verdicts; what it raises on is refused."""
    tally = Tally()
    plain_verdict("1", response("1"))
    began = time.perf_counter()
    for case in found:
        for answer, right in labelled(case):
            try:
                paid = plain_verdict(case.gold, response(answer))
            except Exception:
                paid = False
            tally.add(case.gold, answer, right, paid)
    tally.seconds = time.perf_counter() - began
    return tally


def gsm8k(folder: Path, seed: int) -> list[Case]:
    """The references of GSM8K's test set; none where the file is not there."""
    path, rng = folder / "gsm8k_test.jsonl", Random(seed)
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [number_case("gsm8k", row["answer"].rpartition("#### ")[2].strip(), rng) for row in rows]


def table(tallies: dict[str, tuple[Tally, Tally]]) -> str:
    """The figures of both graders in Markdown; a pair of columns holds ours and math-verify's."""
    lines = [
        "| references | rewritings | refused: ours | math-verify | near misses | paid: ours | math-verify |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (one, other) in tallies.items():
        lines.append(
            f"| {name} | {one.same} | {_share(one.refused, one.same)} | {_share(other.refused, other.same)} "
            f"| {one.other} | {_share(one.accepted, one.other)} | {_share(other.accepted, other.other)} |"
        )
    return "\n".join(lines)


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.2f} %)" if total else "-"


def main(arguments: list[str]) -> int:
    """Print the table, the speed of both, and what the reward got wrong."""
    given = dict(argument.split("=", 1) for argument in arguments)
    count, folder = int(given.get("references", REFERENCES)), Path(given.get("data", _DATA))
    sources = {"generated": cases(count, seed=0), "GSM8K test": gsm8k(folder, seed=0)}
    tallies: dict[str, tuple[Tally, Tally]] = {}
    for name, found in sources.items():
        if found:
            tallies[name] = (asyncio.run(ours(found)), theirs(found))
    print(table(tallies))
    for name, (one, other) in tallies.items():
        print(f"{name}: {other.seconds / one.seconds:.1f} times as fast as math-verify")
        print("\n".join(f"  {line}" for line in one.wrong[:200]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
