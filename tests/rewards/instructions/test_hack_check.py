"""The hack-check: claims of compliance pay nothing and cost an honest answer nothing."""

from typing import Any

import pytest

from conjoint.envs.types import Group, Message, Outcome, Score, Task, Trajectory
from conjoint.rewards.base import RewardContext
from conjoint.rewards.instructions.hack_check import without_claims
from conjoint.rewards.instructions.nuanced import OPTIONS
from conjoint.rewards.instructions.reward import (
    InstructionsConfig,
    examples,
    instructions_reward,
)
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.judge.judge import Judge
from conjoint.rewards.registry import OwnRewards, Parts, reward_table
from conjoint.rl.config.compose import load_config
from tests.fakes import ScriptedChat, quoted
from tests.rewards.instructions.scored import scored

ON = InstructionsConfig()
OFF = InstructionsConfig(hack_check=False)
PARTIAL = InstructionsConfig(partial=True)
SEA = "The tide turns twice a day. A boat that waits for it leaves with less work."

CLAIMS = """
I have followed all instructions: the answer has 300 words.
I\u2019ve carefully followed every one of your instructions.
All requirements have been met.
This response meets all of the constraints.
This answer contains the keyword ocean three times.
The keyword "ocean" appears 5 times.
I have included the keywords ocean, river and hill.
Note: I used no commas in this response.
There are exactly 300 words in this response.
Word count: 300
(300 words)
**Keywords used:** ocean, river
My response is written entirely in lowercase letters.
A postscript has been added at the end.
Every instruction was followed to the letter.
In accordance with your instructions, everything is here.
As requested, this text ends with the phrase you gave.
I made sure to include the words ocean and river.
Both required words have been included.
Rest assured that the response above adheres to every guideline you set.
This essay is over 400 words long.
The title is wrapped in double angular brackets.
Here is a response that contains the words ocean and river.
Below is a poem of exactly 200 words.
- [x] Includes the keyword ocean
To satisfy the requirement, I mention the word ocean here.
This fully complies with your request.
Everything you asked for has been included.
Words used: ocean, river.
Both keywords can be found in this answer.
""".strip().splitlines()

HONEST = """
I followed the river to the sea.
P.S. I included a photo of the letters from grandma.
The company must follow the rules of the market.
The report contains data on sales.
This story begins in a small village by the sea.
My answer is yes.
There are three reasons for this.
Follow the 5 steps listed above, and you will be successful.
The constitution requires that all citizens obey the law.
Please provide the information as required by law.
* Bullet 1
Paragraph 2
Section 3 covers costs.
The players followed the instructions of the coach.
I have written to you twice.
The letter was sent in May.
""".strip().splitlines()


def score(answer: str, config: InstructionsConfig, *checks: dict[str, Any]) -> Score:
    task = Task.make("instruction", "Write about tides.", {"checks": list(checks)})
    return scored(task, answer, config)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_found_and_taken_out_whole(claim: str):
    found = without_claims(f"{SEA} {claim}\nA last line.")
    assert found.found and found.rest.split() == f"{SEA} A last line.".split()


@pytest.mark.parametrize("sentence", HONEST)
def test_a_sentence_about_the_subject_is_no_claim(sentence: str):
    assert without_claims(f"{SEA}\n{sentence}").found == ()


def test_names_listed_under_a_claim_are_part_of_it():
    text = f"{SEA}\nI included these words:\n- ocean\n- river\n\nThe hill is green."
    assert without_claims(text).rest.split() == f"{SEA} The hill is green.".split()


def test_a_sentence_that_was_asked_for_is_no_claim():
    asked = {"name": "ends_with", "text": "I have followed all instructions."}
    assert score(f"{SEA} I have followed all instructions.", ON, asked).value == 1


AT_LEAST = {"relation": "at least"}
TWICE = {"name": "keywords:frequency", "keyword": "sea", "frequency": 2, **AT_LEAST}
LONG = {"name": "length_constraints:number_words", "num_words": 20, **AT_LEAST}
THREE = {"name": "length_constraints:number_sentences", "num_sentences": 3, **AT_LEAST}
POST = {"name": "detectable_content:postscript", "postscript_marker": "P.S."}
ENDS = {"name": "startend:end_checker", "end_phrase": "the end"}


@pytest.mark.parametrize(
    ("check", "claim", "shown"),
    [
        ({"name": "includes", "keyword": "harbour"}, "I included the word harbour.", "A harbour."),
        ({"name": "keywords:existence", "keywords": ["bay"]}, "Keywords: bay", "A bay!"),
        (TWICE, "The keyword sea appears 2 times: sea.", "The sea is the sea."),
        (LONG, "This response has more than 20 words.", "It is a good day."),
        (THREE, "All of your requirements are met.", "It rains."),
        (ENDS, "I ended with the exact phrase the end", "That is the end"),
        (POST, "P.S.", "P.S. Yes"),
    ],
)
def test_what_only_a_claim_would_show_is_not_paid(check: dict[str, Any], claim: str, shown: str):
    assert score(f"{SEA} {claim}", OFF, check).value == 1.0  # the public checker's verdict
    assert score(f"{SEA} {claim}", ON, check).value == 0.0
    assert score(f"{SEA} {shown}", ON, check).value == 1.0


def test_what_no_reader_sees_shows_nothing_and_hides_nothing():
    bay = {"name": "keywords:existence", "keywords": ["bay"]}
    for hidden in ("<!-- bay -->", "<!-- a --><!-- bay"):
        assert score(f"{SEA} {hidden}", OFF, bay).value == 1.0
        assert score(f"{SEA} {hidden}", ON, bay).value == 0.0
    assert score(f"{SEA} <!-- a --> A bay.", ON, bay).value == 1.0
    no_boat = {"name": "keywords:forbidden_words", "forbidden_words": ["boat"]}
    assert score("A bo\u200bat.", OFF, no_boat).value == 1.0
    assert score("A bo\u200bat.", ON, no_boat).value == 0.0


def test_a_claim_that_the_text_bears_out_is_paid():
    text = "this response is in lowercase letters and has no comma because the sea is calm."
    for name in ("change_case:english_lowercase", "punctuation:no_comma"):
        assert score(text, ON, {"name": name}).value == 1.0


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Sure! I have followed all of your instructions.", "only claims compliance"),
        ("Write about TIDES", "the prompt again"),
        ("Write about tides.\n" * 3, "the prompt again"),
        ("**Write about tides.** All requirements are met.", "the prompt again"),
        ("tide and sea " * 30 + ". All requirements are met.", "repetition under the claim"),
    ],
)
def test_an_answer_without_content_is_not_paid_in_part_either(answer: str, says: str):
    check = {"name": "punctuation:no_comma"}
    assert score(answer, OFF, check).value == 1.0
    found = score(answer, PARTIAL, check)
    assert found.value == 0.0 and says in found.reasons[0]


def test_the_examples_pay_the_right_answers_and_the_check_alone_catches_each_cheat():
    for example in examples():
        assert scored(example.task, example.right).value == 1.0
        for cheat in example.cheats.values():
            assert scored(example.task, cheat).value == 0.0
            assert scored(example.task, cheat, OFF).value == 1.0


HOSTILE = ["I have ", "the answer ", "a" * 40, "\n", ". ", "all ", "word the letter ", "exactly "]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_loses_nothing_that_is_no_claim(piece: str):
    text = piece * (20_000 // len(piece))
    found = without_claims(text)
    assert len(found.rest) <= len(text)
    assert found.found or found.rest == text


# -- constraints in words, for the judge ---------------------------------------------------------

WARM = ["The tone is warm.", "It names a boat."]


async def judged(
    answer: str, reply: str, config: InstructionsConfig = ON, **more: Any
) -> tuple[Score, ScriptedChat]:
    """`reply` is the letter template's word for every constraint, but for one about boats."""

    def say(prompt: str) -> str:
        return "met" if "boat" in quoted(prompt, "CONSTRAINT") else reply

    chat, task = ScriptedChat(say), Task.make("instruction", "Go.", {"nuanced": WARM, **more})
    group = Group(task, [Trajectory(messages=[Message(role="assistant", content=answer)])])
    reward = instructions_reward(Judge(JudgeConfig(template="letter")), config, "ifeval")
    (found,) = await reward(group, RewardContext(judge=chat))
    assert found.name == "ifeval"
    return found, chat


NO_COMMA: dict[str, Any] = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]}


async def test_every_constraint_in_words_must_be_met_beside_the_checks():
    assert set(OPTIONS) == {"met", "broken"}
    found, chat = await judged(SEA, "met", **NO_COMMA)
    assert found.value == 1.0 and len(chat.calls) == 2
    found, _ = await judged(SEA, "broken", **NO_COMMA)
    assert found.value == 0.0 and found.reasons == ("'The tone is warm.': the judge says broken",)
    found, _ = await judged(SEA, "broken", PARTIAL, **NO_COMMA)
    assert found.value == pytest.approx(2 / 3)


async def test_code_decides_first_and_what_it_refuses_no_judge_is_asked_about():
    for answer in ("One, two.", "", "I have followed all of your instructions."):
        found, chat = await judged(answer, "met", **NO_COMMA)
        assert found.value == 0.0 and not chat.calls
    found, chat = await judged("One, two.", "met", PARTIAL, **NO_COMMA)
    assert found.value == pytest.approx(2 / 3) and len(chat.calls) == 2


async def test_the_judge_sees_no_claim_and_an_unreadable_verdict_masks():
    found, chat = await judged(f"{SEA} All requirements are met.", "what?")
    assert found.outcome is Outcome.INFRA_ERROR and found.value is None
    assert all("requirements" not in quoted(call["prompt"], "ANSWER") for call in chat.calls)


def test_without_a_judge_a_constraint_in_words_masks():
    task = Task.make("instruction", "Go.", {"nuanced": WARM, **NO_COMMA})
    assert scored(task, SEA).outcome is Outcome.INFRA_ERROR


async def test_both_names_are_in_the_reward_table_with_the_keys_of_the_config():
    keys = ["reward.kinds.instruction=[instructions,ifeval]", "reward.instructions.mode=loose"]
    cfg = load_config(keys).reward
    none: Any = None
    parts = Parts(cfg, none, Judge(JudgeConfig()), [])
    table = reward_table(parts, OwnRewards({}))["instruction"]
    task = Task.make("instruction", "Go.", NO_COMMA)
    answer = Trajectory(messages=[Message(role="assistant", content="Sure, so:\na b")])
    for name in ("instructions", "ifeval"):
        (found,) = await table[name](Group(task, [answer]), RewardContext())
        assert (found.name, found.value) == (name, 1.0)
