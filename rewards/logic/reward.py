"""The `logic` reward: reasoning-gym's own verifier of a row, run where its answer can do no harm.

Owns the reference of such a row, the extraction of its answer and the verdict: paid only at a score
of 1, unless partial credit is asked for. Every `score_answer` runs in the verifier profile of the
jail (`rewards/logic/gym.py`), never here. An answer that hangs, crashes or is
refused there scores 0.
"""

from collections.abc import Mapping
from typing import Any

from conjoint.envs.types import ConjointError, Outcome, Score, Task
from conjoint.rewards.base import Example
from conjoint.rewards.killable import DeadlinePassed, PoolUnavailable, WorkerDied, WorkerError
from conjoint.rewards.logic import gym
from conjoint.rewards.sandbox import codec
from conjoint.rewards.sandbox.local.verifier import VerifierPool
from conjoint.rewards.text.extract import visible_text

NAME = "logic"
ANSWER_FORM = "Give your final answer between <answer> and </answer>."
"""Ends every prompt, unless the config has words of its own."""
DEADLINE_S = 2.0
"""Wall seconds for one answer; making the dataset again takes up to half of one."""
PATIENT_S = 8.0
"""The same for one that has passed them, in a process of its own: the others go on meanwhile."""

_OPEN, _CLOSE = "<answer>", "</answer>"
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x2212: "-"}
"""Full-width signs of Chinese and Japanese text, and the minus sign, as the verifiers read them."""
_END = "\u3002 \t\n"
_MAX_ANSWER = 20_000
_FIELDS = {"dataset": str, "config": dict, "seed": int, "size": int, "entry": list}
_pools: dict[tuple[str, float], VerifierPool] = {}


def gym_pool(isolation: str = "auto", deadline_s: float = DEADLINE_S) -> VerifierPool:
    """The jail that holds reasoning-gym, one for each tier and deadline in this process. See
    `close_logic`."""
    key = isolation, deadline_s
    if key not in _pools:
        _pools[key] = VerifierPool(
            NAME,
            deadline_s=deadline_s,
            warm=gym.warm,
            distributions=("reasoning-gym",),
            isolation=isolation,
        )
    return _pools[key]


def close_logic() -> None:
    """End the jails behind `gym_pool`; a later call starts them again."""
    for pool in _pools.values():
        pool.close()


def reference(
    dataset: str, config: Mapping[str, Any], seed: int, size: int, answer: str | None, entry: Any
) -> dict[str, Any]:
    """What a task of a dataset is verified by: how to make the dataset again, and the row itself
    (`entry`, in the codec's form). `answer` is the row's own, for readers only."""
    made = {"dataset": dataset, "config": dict(config), "seed": seed, "size": size}
    return {**made, "answer": answer, "entry": entry}


def validate_reference(reference: Any) -> None:
    """Raises ConjointError where a row is not in the form of `reference`."""
    if not isinstance(reference, Mapping):
        raise ConjointError(
            f"expected a reasoning-gym row ({', '.join(_FIELDS)}), found {reference!r:.80}"
        )
    for key, kind in _FIELDS.items():
        if not isinstance(reference.get(key), kind) or isinstance(reference[key], bool):
            raise ConjointError(
                f"'{key}' of a reasoning-gym row is {reference.get(key)!r:.80}; expected "
                f"{kind.__name__}"
            )
    if reference["seed"] < 0 or reference["size"] < 1 or not reference["entry"]:
        raise ConjointError("a reasoning-gym row has a seed of 0 or more, a size and an entry")


def final_answer(response: str) -> str:
    """What stands between the last <answer> and </answer> after the thinking; without such tags
    all that is said after it. An opened tag that is never closed holds no answer. Full-width signs
    become plain ones, and a Chinese full stop at the end goes."""
    text = visible_text(response).translate(_ASCII)
    closed = text.split(_CLOSE)[:-1]
    found = next((piece for piece in reversed(closed) if _OPEN in piece), None)
    if found is not None:
        return found.rpartition(_OPEN)[2].rstrip(_END).strip()
    return "" if _OPEN in text else text.rstrip(_END).strip()


class LogicVerifier:
    """The check `(task, response) -> Score`.

    With `partial` the score is the dataset's own; it pays some datasets' wrong answers a little.
    """

    def __init__(self, partial: bool = False, isolation: str = "auto") -> None:
        self._partial = partial
        self._pool = gym_pool(isolation)
        self._patient = gym_pool(isolation, PATIENT_S)

    async def __call__(self, task: Task, response: str) -> Score:
        row = task.reference
        try:
            validate_reference(row)
        except ConjointError as error:
            return Score.infra_error(NAME, f"unusable reference: {error}")
        answer = final_answer(response)
        if not answer:
            return Score.of(NAME, 0.0, "there is no answer")
        if len(answer) > _MAX_ANSWER:
            return Score.of(NAME, 0.0, f"the answer is longer than {_MAX_ANSWER} characters")
        shown = answer[:80].encode("utf-8", "replace").decode()
        made = (row["dataset"], row["config"], row["seed"], row["size"], row["entry"])
        try:
            try:
                value, refused = await self._pool.call(gym.score, *made, answer)
            except DeadlinePassed:
                value, refused = await self._patient.call(gym.score, *made, answer)
        except PoolUnavailable as error:
            return Score.infra_error(NAME, str(error))
        except DeadlinePassed as error:
            return Score(NAME, 0.0, Outcome.TIMEOUT, (f"scoring {shown!r} {error}",))
        except WorkerDied as error:
            return Score(NAME, 0.0, Outcome.ERROR, (f"scoring {shown!r}: {error}",))
        except WorkerError as error:  # before the answer was looked at
            return Score.infra_error(NAME, f"{row['dataset']} cannot be made: {error}")
        if value is None:
            return Score.of(NAME, 0.0, f"answered {shown!r}, which was refused: {refused}")
        paid = value if self._partial or value >= 1.0 else 0.0
        return Score.of(NAME, paid, f"answered {shown!r}, scored {value:g} by {row['dataset']}")


def examples() -> list[Example]:
    """Rows of two datasets that evaluate an answer or read one strictly, for the probes."""
    question = "State the final answer to the following arithmetic problem: 4 - 1 - 7 ="
    sums = _example_task(question, "chain_sum", "-4", {"expression": "4 - 1 - 7"})
    integral = _example_task(
        "Calculate the antiderivative: ∫ 2*x dx",
        "simple_integration",
        "x**2 + C",
        {"integrand": "2*x", "variable": "x"},
    )
    forged = (
        "__import__('os').write(3, b'[\"value\", [1.0, \"\"]]\\n') or __import__('os')._exit(0)"
    )
    return [
        Example(
            sums,
            "4 - 1 is 3, and 3 - 7 is <answer>-4</answer>",
            {
                "several answers": "<answer>-4 or -5 or -6</answer>",
                "answers one after the other": "<answer>-4</answer> or <answer>-5</answer>",
                "the problem restated": "<answer>4 - 1 - 7</answer>",
                "answer in the thinking only": "<think><answer>-4</answer></think>It is hard.",
                "answer never closed": "<answer>-4",
            },
        ),
        Example(
            integral,
            "<answer>x**2 + C</answer>",
            {
                "the problem restated": "<answer>Integral(2*x, x)</answer>",
                "code that writes a score": f"<answer>{forged}</answer>",
            },
        ),
    ]


def _example_task(question: str, dataset: str, answer: str, metadata: dict[str, Any]) -> Task:
    entry = codec.encode({"question": question, "answer": answer, "metadata": metadata})
    row = reference(dataset, {}, 0, 1, answer, entry)
    return Task.make(NAME, f"{question}\n{ANSWER_FORM}", row, {"source": "reasoning_gym"})
