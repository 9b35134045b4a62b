"""`python -m conjoint.scripts.bench.rewards.study`: how often the math reward is wrong.

Grades references against rewritings of themselves (a refusal is false) and near misses (a payment
is false), by the reward and by math-verify as it comes, and prints a table in Markdown. References
are generated (`mutations.py`) and, where the folder of `data=` has them, those of GSM8K's test set
and the labelled answers of its `reports`. The full study takes
a minute or two of CPU. `references=` sets their number; with a smaller `every=` math-verify gets
more of them.
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
from conjoint.scripts.bench.rewards.mutations import FORMS, Case, cases, number_case

REFERENCES = 2_220
REPORTED = "reported"
_EVERY = 20
"""math-verify, many times as slow, grades every twentieth reference."""
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
    form = "{}" if case.form == REPORTED else "We work it out.\nThe answer is $\\boxed{{{}}}$."
    yield from ((form.format(answer), True) for answer in case.same)
    yield from ((form.format(answer), False) for answer in case.other)


async def ours(found: Iterable[Case]) -> Tally:
    """The reward's verdicts."""
    tally, verifier = Tally(), MathVerifier()
    try:
        await verifier.start()
        began = time.process_time()
        for case in found:
            for response, right in labelled(case):
                score = await verifier(Task.make("math", "?", case.gold), response)
                tally.add(case.gold, response, right, score.value == 1.0)
        tally.seconds = time.process_time() - began
    finally:
        verifier.close()
    return tally


def theirs(found: Iterable[Case]) -> Tally:
    """math-verify's verdicts; what it raises on is refused."""
    tally = Tally()
    plain_verdict("1", "\\boxed{1}")
    began = time.process_time()
    for case in found:
        for response, right in labelled(case):
            try:
                paid = plain_verdict(case.gold, response)
            except Exception:
                paid = False
            tally.add(case.gold, response, right, paid)
    tally.seconds = time.process_time() - began
    return tally


def gsm8k(folder: Path, seed: int) -> list[Case]:
    """The references of GSM8K's test set; none where the file is not there."""
    path, rng = folder / "gsm8k_test.jsonl", Random(seed)
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [number_case("gsm8k", row["answer"].rpartition("#### ")[2].strip(), rng) for row in rows]


def reported(folder: Path) -> list[Case]:
    """The labelled mathematics of the folder's `reports`; responses are whole."""
    found = []
    for path in sorted((folder / "reports").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("kind") == "math" and "want" in (row.get("meta") or {}):
                whole = (row["response"],)
                right, wrong = (whole, ()) if row["meta"]["want"] == 1 else ((), whole)
                found.append(Case(REPORTED, row["reference"], right, wrong))
    return found


def table(tallies: dict[str, tuple[Tally, Tally]]) -> str:
    """The figures of both graders in Markdown."""
    lines = [
        "| references | grader | rewritings refused | near misses paid | answers a second |",
        "|---|---|---|---|---|",
    ]
    for name, pair in tallies.items():
        for grader, tally in zip(("conjoint", "math-verify"), pair, strict=True):
            rate = (tally.same + tally.other) / max(tally.seconds, 1e-9)
            refused, paid = _share(tally.refused, tally.same), _share(tally.accepted, tally.other)
            lines.append(f"| {name} | {grader} | {refused} | {paid} | {rate:,.0f} |")
    return "\n".join(lines)


def _share(count: int, total: int) -> str:
    return f"{count} of {total} ({100 * count / max(total, 1):.2f} %)"


def main(arguments: list[str]) -> int:
    """Print the table, the speed of both, and what the reward got wrong."""
    given = dict(argument.split("=", 1) for argument in arguments)
    count, folder = int(given.get("references", REFERENCES)), Path(given.get("data", _DATA))
    step = int(given.get("every", _EVERY))
    sources = {
        f"generated, {len(FORMS)} forms": cases(count, seed=0),
        "GSM8K test": gsm8k(folder, seed=0),
        "reports": reported(folder),
    }
    tallies: dict[str, tuple[Tally, Tally]] = {}
    for name, found in sources.items():
        if found:
            few = found if found[0].form == REPORTED else found[::step]
            tallies[name] = (asyncio.run(ours(found)), theirs(few))
    print(table(tallies))
    for one, _ in tallies.values():
        print("".join(f"{line}\n" for line in one.wrong[:200]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
