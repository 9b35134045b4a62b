"""What can be checked of an answer to one of nano's `open` tasks without a judge.

Only `conjoint compare` asks it: no reward, judge prompt or demonstration imports this file
(tests/scripts/test_compare.py), so what it finds was not trained for as such.
"""

import re
from collections.abc import Mapping
from typing import Any

from conjoint.envs.nano.words import TOPICS
from conjoint.envs.types import Status

CHECKS = ("finished", "on topic", "no praise", "brief", "no repetition")
MOST_WORDS = 12
_PRAISE = frozenset(("question", "great", "good", "what", "you", "wise"))
"""Words of which any two open an answer only where it compliments the person or the question."""
_OPENING = 4
"""Words in which a compliment shows."""
_SMALL = frozenset(("a", "the", "is", "and", "i", "like", "there", "by"))


def topic_of(row: Mapping[str, Any]) -> str | None:
    """The topic of nano's that a row's prompt names; other open tasks name none."""
    return next((t for t in TOPICS if re.search(rf"\b{t}\b", row["prompt"])), None)


def open_checks(row: Mapping[str, Any]) -> dict[str, bool]:
    """{CHECK: passed} of a row of eval/open_TAG.jsonl."""
    words = re.findall(r"[a-z]+", row["response"].lower())
    topic = topic_of(row)
    own = set(TOPICS[topic]) if topic else set()
    others = {noun for nouns in TOPICS.values() for noun in nouns} - own
    content = [word for word in words if word not in _SMALL]
    return {
        "finished": row["status"] == Status.COMPLETED,
        "on topic": bool(own & set(words)) and not others & set(words),
        "no praise": len(_PRAISE & set(words[:_OPENING])) < 2,
        "brief": len(words) <= MOST_WORDS,
        "no repetition": len(content) == len(set(content)) > 0,
    }


def open_score(row: Mapping[str, Any]) -> float:
    """Share of the checks that pass."""
    passed = open_checks(row)
    return sum(passed.values()) / len(passed)
