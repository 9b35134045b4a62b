"""What all sides of a joint step share: the prompts, the reward, and what the FLOPs allow. Pure."""

from collections.abc import Sequence

from conjoint.envs.types import Message, Task
from conjoint.rl.models.shape import TokenCost

_QUESTIONS = (
    "A box holds {a} pens and {b} pencils. How many things are in {c} such boxes?",
    "Anna reads {a} pages a day and Ben reads {b}. How many pages do they read in {c} days?",
    "A train goes {a} km in the first hour, {b} in the second and {c} in the third. How far is it?",
    "There are {a} apples; {b} are sold and {c} are thrown away. How many are left?",
)


def questions(count: int) -> list[Task]:
    """Grade-school questions, no two alike."""
    made = []
    for n in range(count):
        text = _QUESTIONS[n % len(_QUESTIONS)].format(a=90 + n, b=12 + n, c=3 + n)
        made.append(Task.make("math", [Message(role="user", content=text)]))
    return made


def open_quarter(count: int) -> list[Task]:
    """The same questions, of which every fourth is of kind open."""
    tasks = questions(count)
    return [Task.make("open", t.messages) if n % 4 == 3 else t for n, t in enumerate(tasks)]


def token_reward(tokens: Sequence[int]) -> float:
    """The share of even token ids: costs nothing, and differs within every group."""
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def floor_seconds(
    cost: TokenCost, prompts: Sequence[int], answers: int, tokens: int, gflops: float
) -> dict[str, float]:
    """Seconds of generation and of training if all that is needed ran at `gflops`: each prompt
    once, each of its `answers` of `tokens` tokens once, and twice as much again for the backward
    pass."""
    heads = len(prompts)  # the first token of each answer is read off the prompt, once
    generate = sum(
        cost.of(n, 0, 0) + answers * cost.of(tokens - 1, n, tokens - 1) for n in prompts
    ) + cost.of(0, 0, heads)
    train = 3 * sum(cost.of(n, 0, 0) + answers * cost.of(tokens, n, tokens) for n in prompts)
    return {"generate": generate / gflops / 1e9, "train": train / gflops / 1e9}
