"""`conjoint bench text`: how the time of everything that reads a policy's text grows with it.

Owns the hostile texts and the fit: CPU seconds of this process at lengths that double, and the
slope of their logarithms. 1 is linear, 2 is quadratic. A reader that refuses a text above a stated
length, or looks at a part of it, has a slope of 0 from there on.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from conjoint.scripts.bench.config import BenchRun, Figures, against_targets

Reader = Callable[[str], object]
SHORTEST = 4_000
"""Characters of the first text; each further one has twice as many."""
_FLOOR_S = 0.002
"""Times below are mostly not the text's, and say nothing about a slope."""
_WINDOW = 4
"""Neighbouring lengths that one slope is fitted to: a limit must not hide what is below it."""
_STALL_S = 5.0
"""Longer texts of a shape are left out after one that took so long."""

UNITS = {
    "letters": "a",
    "digits": "7",
    "spaces": " ",
    "lines": "\n",
    "words": "wind and sea ",
    "short lines": "of the sea\n",
    "sentences": "It rains. ",
    "dots": ".",
    "abbreviations": "e.g. A. ",
    "exclamations": "! ",
    "Chinese": "潮水涨落。",
    "accents": "e\u0301\u0323",
    "hidden": "\u200b",
    "surrogates": "\ud800",
    "answer tags": "<answer>",
    "closed answer tags": "</answer>",
    "answer is": "the answer is 4 ",
    "equals": "1=",
    "hashes": "#### 4 ",
    "lines of hashes": "#### \n",
    "boxes": "\\boxed{",
    "box and blanks": "\\boxed  ",
    "braces": "{",
    "brackets": "[(",
    "fractions": "\\frac{1}{",
    "roots": "\\sqrt{",
    "powers": "9^{",
    "commas": "1,000,",
    "commas and words": ", a",
    "fences": "```\n",
    "fences in words": "a```",
    "tildes": "~~~a\n",
    "thoughts": "<think>",
    "closed thoughts": "</think>",
    "turns": "\n  user ",
    "stars": "*",
    "emphasis": "**a* ",
    "dividers": "***\n",
    "placeholders": "[a] [",
    "bullets": "\n- ",
    "comments": "<!--",
    "tags": "<b ",
    "tags and quotes": "<b \"'",
    "pictures": "![",
    "links": "[a](",
    "definitions": "[a]: ",
    "entities": "&#",
    "quotes": "\"'",
    "claims": "I have included ",
    "claims of counts": "the answer has 5 ",
    "tool calls": "<tool_call>",
    "Kimi's tool calls": "<|tool_call_begin|><|tool_call_argument_begin|>",
    "template tokens": "<|>|",
    "JSON": '{"a":[',
    "backslashes": "\\",
    "praise": "Sure! great ",
    "confidence": "\nConfidence: ",
}
"""Shape -> what a text repeats."""


def readers() -> dict[str, Reader]:
    """Everything in a run's driver that reads an answer, by name; what runs in a jail is not here,
    for there a deadline ends it."""
    return {**_verifiers(), **_judges(), **_around()}


def _verifiers() -> dict[str, Reader]:
    from conjoint.envs.types import Group, Message, Task, Trajectory
    from conjoint.rewards.base import RewardContext
    from conjoint.rewards.code.extract import extract_programs
    from conjoint.rewards.code.output import OutputCheck
    from conjoint.rewards.instructions.reward import InstructionsConfig, instructions_reward
    from conjoint.rewards.judge.config import JudgeConfig
    from conjoint.rewards.judge.judge import Judge
    from conjoint.rewards.logic.reward import final_answer as logic_answer
    from conjoint.rewards.math.reward import MathVerifier

    mathematics, loop = MathVerifier(), asyncio.new_event_loop()
    asked = Task.make("instruction", "Write about tides.", _every_check())
    instructions = instructions_reward(Judge(JudgeConfig()), InstructionsConfig(partial=True))

    def graded(gold: str, form: str = "{}") -> Reader:
        task = Task.make("math", "How many?", gold)
        return lambda text: loop.run_until_complete(mathematics(task, form.replace("{}", text)))

    def followed(text: str) -> object:
        answer = Trajectory(messages=[Message(role="assistant", content=text)])
        return loop.run_until_complete(instructions(Group(asked, [answer]), RewardContext()))

    def printed(kind: str) -> Reader:
        check = OutputCheck(kind)
        return lambda text: check.same(b"7 7\n", text.encode("utf-8", "replace"))

    return {
        "math": graded("42"),
        "math, a boxed number": graded("42", "\\boxed{{}}"),
        "math, a boxed formula": graded("\\sqrt{2}", "\\boxed{{}}"),
        "math, a boxed list": graded("(1, 2)", "\\boxed{({})}"),
        "math, a boxed letter": graded("B", "\\boxed{{}}"),
        "code": lambda text: extract_programs(text, "python", {"entry": "f"}),
        "code in a fence": lambda text: extract_programs(
            f"```python\n{text}\n```", "python", {"entry": "f"}
        ),
        "output": printed("exact"),
        "output in floats": printed("floats"),
        "instructions": followed,
        "logic": logic_answer,
    }


def _every_check() -> dict[str, Any]:
    values = {
        **{"keywords": ["sea"], "forbidden_words": ["rock"], "keyword": "sea", "letter": "e"},
        **{"relation": "at least", "let_relation": "at least", "capital_relation": "at least"},
        **{"language": "en", "postscript_marker": "P.S.", "section_spliter": "Part"},
        **{"prompt_to_repeat": "Say hi.", "end_phrase": "The end.", "first_word": "tides"},
        **{"text": "The sea", "style": "lower"},
    }
    from conjoint.rewards.instructions.reference import RULES

    checks = []
    for name, rule in RULES.items():
        asked = {key: values.get(key, 3) for key in rule.parameters}
        checks.append({"name": name, **asked, **_HOUSE_WORDS.get(name, {})})
    return {"checks": checks}


_HOUSE_WORDS = {"word_count": {"relation": "at_least"}}


def _judges() -> dict[str, Reader]:
    from conjoint.envs.types import Task
    from conjoint.rewards.judge.choice import parse_choice
    from conjoint.rewards.judge.faithfulness import _not_an_answer as unfaithful
    from conjoint.rewards.judge.pairs import fault
    from conjoint.rewards.judge.prompt import TEMPLATES, judge_messages, parse_verdict
    from conjoint.rewards.rubrics.find import load_rubrics, shipped_rubrics
    from conjoint.rewards.text.claims import distinct, sentences
    from conjoint.rewards.text.extract import visible_text

    task = Task.make("faithfulness", "What is it?", {"context": "It is the sea. It is wide."})
    rubrics = load_rubrics(shipped_rubrics())

    def prompt(text: str) -> object:
        return [judge_messages(task, text, text, rubrics, template) for template in TEMPLATES]

    def verdict(text: str) -> object:
        return [parse_verdict(text, t) or parse_choice(text, {"yes": ""}, t) for t in TEMPLATES]

    def claims(text: str) -> object:
        return unfaithful(distinct(sentences(visible_text(text))), task)

    return {
        "rubric patterns": lambda text: fault(text, rubrics),
        "judge's prompt": prompt,
        "judge's verdict": verdict,
        "claims": claims,
    }


def _around() -> dict[str, Reader]:
    from conjoint.envs.confidence import split
    from conjoint.rewards.lengths import length_rewards
    from conjoint.rewards.text.extract import visible_text
    from conjoint.rewards.text.quoting import printable
    from conjoint.rewards.text.reader import readable
    from conjoint.rl.nano.model import NanoConfig, build_tokenizer
    from conjoint.rollouts.gateway.tool_calls import FORMS, read_calls
    from conjoint.rollouts.renderer import Renderer

    renderer = Renderer(build_tokenizer([UNITS["words"]], NanoConfig()))

    def rendered(text: str) -> object:
        text = text.encode("utf-8", "replace").decode()
        return renderer.text(renderer.prompt([{"role": "user", "content": text}]))

    def of_lengths(text: str) -> object:
        return length_rewards(list(map(ord, text)), [True] * len(text))

    return {
        "visible text": visible_text,
        "confidence": split,
        "tool calls": lambda text: [read_calls(form, text, []) for form in FORMS],
        "renderer": rendered,
        "report": printable,
        "what a reader sees": readable,
        "length reward": of_lengths,
    }


def slope(read: Reader, unit: str, longest: int) -> tuple[float, float]:
    """(steepest slope of log time against log length, the most CPU seconds) of texts of `unit`s."""
    lengths, times = [], []
    length = SHORTEST
    while length <= longest and (not times or times[-1] < _STALL_S):
        text = (unit * (length // len(unit) + 1))[:length]
        lengths.append(length)
        times.append(min(_seconds(read, text) for _ in range(3 if length < 100_000 else 2)))
        length *= 2
    return steepest(lengths, times), max(times)


def _seconds(read: Reader, text: str) -> float:
    began = time.process_time()
    read(text)
    return time.process_time() - began


def steepest(lengths: Sequence[int], times: Sequence[float]) -> float:
    """The steepest least-squares slope over any `_WINDOW` neighbouring lengths whose times are
    above the floor; 0 where there are no such."""
    points = [
        (math.log(n), math.log(t)) for n, t in zip(lengths, times, strict=True) if t >= _FLOOR_S
    ]
    windows = [points[i : i + _WINDOW] for i in range(max(len(points) - _WINDOW, 0) + 1)]
    return max((_fit(window) for window in windows if len(window) >= 2), default=0.0)


def _fit(points: Sequence[tuple[float, float]]) -> float:
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    over = sum((a - x) * (b - y) for a, b in points)
    return over / sum((a - x) ** 2 for a, _ in points)


def measure(cfg: BenchRun) -> dict[str, Any]:
    """{"ratios": {NAME: {value, target, met, runs}}, "setting": {...}}; takes an hour of CPU at
    1,000,000 characters."""
    figures: Figures = {}
    slowest = {}
    for name, read in readers().items():
        found = {shape: slope(read, unit, cfg.bench.characters) for shape, unit in UNITS.items()}
        shape = max(found, key=lambda s: found[s][0])
        figures[f"slope: {name}"] = found[shape][0], {shape: [found[shape][0]]}
        shape = max(found, key=lambda s: found[s][1])
        slowest[name] = f"{found[shape][1]:.2f} s at most, on {shape}"
    targets = dict.fromkeys(figures, cfg.bench.targets["slope"])
    return {
        "ratios": against_targets(figures, targets),
        "setting": {"characters": cfg.bench.characters, **slowest},
    }
