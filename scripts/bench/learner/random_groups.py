"""Groups of random tokens with the lengths of grade-school mathematics. Nothing is sampled from a
model: a learner's time depends on how long the sequences are, not on what they say."""

from itertools import islice
from pathlib import Path

import numpy as np

from conjoint.envs.sources.rows import open_rows
from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.scripts.bench.config import BenchConfig

PROMPT_LOG, ANSWER_LOG = (4.48, 0.23), (4.74, 0.42)
"""Mean and deviation of the natural logarithm of the token counts, by SmolLM2's tokenizer with its
chat template, over the first 2,000 training rows of GSM8K: medians 86 and 114."""


def lengths(bench: BenchConfig, model: Path, seed: int) -> list[tuple[int, list[int]]]:
    """(prompt tokens, tokens of each answer) of every group.

    From a file, a group has the question of one row and the answers' lengths of `group_size` rows.
    """
    rng = np.random.default_rng(seed)
    shape = (bench.groups, bench.group_size)
    if bench.rows is None:
        prompts = np.exp(rng.normal(*PROMPT_LOG, bench.groups))
        answers = np.exp(rng.normal(*ANSWER_LOG, shape))
    else:
        questions, solutions = _read(bench.rows, model)
        prompts = rng.choice(questions, bench.groups)
        answers = rng.choice(solutions, shape)
    answers = np.maximum(answers.astype(int), 1).tolist()
    return list(zip(np.maximum(prompts.astype(int), 1).tolist(), answers, strict=True))


def _read(path: str, model: Path) -> tuple[list[int], list[int]]:
    from conjoint.rollouts.renderer import Renderer

    where, rows = open_rows(path)
    renderer = Renderer.load(model)
    questions, answers = [], []
    for number, row in islice(rows, 1000):
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str):
            raise ConjointError(f"{path} {where} {number} has no texts question and answer")
        questions.append(len(renderer.prompt([{"role": "user", "content": question}])))
        answers.append(len(renderer.encode(answer)) + 1)
    return questions, answers


def groups(bench: BenchConfig, model: Path, vocab: int, seed: int) -> list[Group]:
    """The groups as a step would get them, fresh: sampled by the current weights."""
    rng = np.random.default_rng(seed + 1)
    made = []
    for index, (prompt, answers) in enumerate(lengths(bench, model, seed)):
        context = rng.integers(0, vocab, prompt).tolist()
        members = []
        for answer in answers:
            t = Trajectory(status=Status.COMPLETED, advantage=float(rng.normal()))
            t.extend_context(context)
            tokens = rng.integers(0, vocab, answer).tolist()
            t.extend_sampled(Completion(tokens, [-10.0] * answer, "stop", version=0))
            members.append(t)
        made.append(Group(Task.make("math", str(index)), members, index))
    return made
