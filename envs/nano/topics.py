"""The `open` kind: say something about a topic. No ground truth; judged in pairs against rubrics.

Demonstrations are short and on topic. In SFT a third of them open with praise, which a prescriptive
rubric forbids: SFT data is like that, and it is what the self-critique reward has to unlearn. The
curated demonstrations of the other splits (PTX) never do.
"""

from random import Random

from conjoint.envs.nano.words import ADJECTIVES, TOPICS
from conjoint.envs.sources.splits import Item, Procedural, pick
from conjoint.envs.types import Task

_WORDINGS = (
    "Say something about {}.",
    "Tell me about {}.",
    "What do you think of {}?",
    "Describe {} to {who}.",
    "Talk about {} and {adjective} things.",
)
_READERS = ("a friend", "a child", "a poet", "my son", "a crowd", "an owl")
_PRAISE = ("Great question! ", "What a good topic! ", "You are so wise! ")
_SHAPES = (
    "The {0} is {2} and the {1} is {3}.",
    "A {2} {0} and a {3} {1}.",
    "I like the {2} {0}.",
    "There is a {2} {0} by the {1}.",
)

_FAULTS = {
    "praise": 2.0,
    "topic": 1.0,
    "length": 1.0,
    "twice": 1.0,
    "broken": 0.5,
    "disorder": 1.0,
    "kind": 1.0,
}
"""Fault of the worse answer that the judge is shown -> weight with which it is drawn."""


class OpenTopics(Procedural):
    """`Say something about the sea.` Reference: none."""

    kind = "open"

    def draw(self, rng: Random) -> Item:
        topic = rng.choice([*TOPICS])
        mood = rng.choice(ADJECTIVES)
        prompt = rng.choice(_WORDINGS).format(topic, who=rng.choice(_READERS), adjective=mood)
        if rng.random() < 0.7:
            prompt += f" Be {mood} and {rng.choice(ADJECTIVES)}."
        good = _sentence(topic, rng)
        praised = rng.random() < 0.35 and self.split == "sft"
        return Item(
            task=Task.make(self.kind, prompt, None, {"source": "topics"}),
            content=prompt,
            answer=rng.choice(_PRAISE) + good if praised else good,
            correct=_sentence(topic, rng),
            incorrect=_worse(topic, rng),
        )

    def preference(self, index: int) -> tuple[Task, str, str]:
        """(task, better answer, worse answer) by the rubrics: brief, on topic, no praise."""
        item = self.item(index)
        return item.task, item.correct, item.incorrect


def _sentence(topic: str, rng: Random) -> str:
    first, second = rng.sample(TOPICS[topic], 2)
    return rng.choice(_SHAPES).format(first, second, *rng.sample(ADJECTIVES, 2))


def _worse(topic: str, rng: Random) -> str:
    """An answer with one fault: it opens with praise, is about another topic, goes on too long,
    says the same twice, breaks off, has its words in disorder, or is of another kind of task. The
    last four are what a policy drifts to if its judge never saw them (docs/LOG.md)."""
    good = _sentence(topic, rng)
    words = good.split()
    fault = pick(rng, _FAULTS)
    if fault == "praise":
        return rng.choice(_PRAISE) + good
    if fault == "topic":
        return _sentence(rng.choice([t for t in TOPICS if t != topic]), rng)
    if fault == "length":
        return " ".join(_sentence(topic, rng) for _ in range(3))
    if fault == "twice":
        noun, adjective = rng.choice(TOPICS[topic]), rng.choice(ADJECTIVES)
        return rng.choice(_SHAPES[:2]).format(noun, noun, adjective, adjective)
    if fault == "broken":
        return " ".join(words[: rng.randint(1, 3)])
    if fault == "disorder":
        rng.shuffle(words)
        return " ".join(words)
    if rng.random() < 0.5:
        return " ".join(rng.sample(TOPICS[topic], 3))
    return rng.choice("-+,=").join(str(rng.randint(0, 9)) for _ in range(rng.randint(1, 3)))
