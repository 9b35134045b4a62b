"""How a confidence is asked for and split off: tasks stay as they are, answers lose one line."""

import pytest

from conjoint.envs.base import SingleTurn
from conjoint.envs.confidence import ASK, asking, single_turn, split, stating
from conjoint.envs.types import Message, Task


@pytest.mark.parametrize(
    ("line", "confidence"),
    [
        ("Confidence: 0.7", 0.7),
        ("confidence: 1", 1.0),
        ("Confidence: 0", 0.0),
        ("Confidence: 1.0.", 1.0),
        ("Confidence: .25", 0.25),
        ("Confidence = 0.7", 0.7),
        ("**Confidence:** 0.85", 0.85),
        ("**Confidence**: **0.85**", 0.85),
        ("- Confidence: 70%", 0.7),
        ("Confidence: 100 %", 1.0),
        ("Confidence: 12.5\\%", 0.125),
    ],
)
def test_one_line_in_the_usual_ways_of_writing(line: str, confidence: float):
    assert split(f"The answer is 9\n{line}") == ("The answer is 9", confidence)
    assert split(f"The answer is 9\n\n  {line}\n\n") == ("The answer is 9", confidence)


@pytest.mark.parametrize(
    "line",
    [
        "Confidence: high",
        "Confidence: P",
        "Confidence: 1.2",
        "Confidence: -0.5",
        "Confidence: 7",
        "Confidence: 101%",
        "Confidence: 0.5 or 0.9",
        "Confidence: 0.5/1",
        "Confidence: nan",
        "Confidence: ٣",
        "Confidence:",
    ],
)
def test_a_line_without_a_number_from_0_to_1_is_unreadable_and_no_part_of_the_answer(line: str):
    assert split(f"9\n{line}") == ("9", None)


@pytest.mark.parametrize(
    "message",
    [
        "The answer is 9",
        "",
        "Confidence: 0.9\nThe answer is 9",
        "I say it with confidence: 9",
        "9 Confidence: 0.7",
        "9\nConfidence: " + "0" * 100,
        "9\nconfidently 0.7",
    ],
)
def test_without_the_label_at_the_start_of_the_last_line_the_message_is_the_answer(message: str):
    assert split(message) == (message, None)


def test_only_the_last_line_is_taken():
    assert split("9\nConfidence: 0.2\nConfidence: 0.9") == ("9\nConfidence: 0.2", 0.9)
    assert split("Confidence: 0.9") == ("", 0.9)


@pytest.mark.parametrize("tenths", range(11))
def test_what_is_written_is_read_back(tenths: int):
    assert split(stating("2+2=4,4+5=9", tenths / 10)) == ("2+2=4,4+5=9", tenths / 10)


def test_it_is_asked_for_in_the_last_user_message_and_the_task_is_not_touched():
    task = Task.make(
        "math",
        [
            Message(role="system", content="Be brief."),
            Message(role="user", content="1+1?"),
        ],
    )
    first, asked = asking(task.messages)
    assert first == task.messages[0]
    assert asked == {"role": "user", "content": f"{ASK}\n\n1+1?"}
    assert task.messages[1]["content"] == "1+1?"


async def test_only_the_kinds_that_state_one_are_asked():
    make_env = single_turn(["math"])
    math, code = Task.make("math", "1+1?"), Task.make("code", "Write f(x).")
    assert await make_env(math).start() == asking(math.messages)
    assert await make_env(code).start() == list(code.messages)
    assert type(make_env(code)) is SingleTurn
    assert await make_env(math).reply(Message(role="assistant", content="2")) == []
