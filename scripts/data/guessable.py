"""`conjoint data guessable`: rows whose answer can be had without working it out.

Kimi k1.5's easy-to-hack filter (section 2.1.1 of its report): a model that is asked for the answer
at once, without reasoning, and gives it within 8 tries. And what needs no model: answers that are
one of a few by their form.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conjoint.envs.types import ConjointError, Group, Message, StopRun, Task
from conjoint.rl.config.overrides import suggest
from conjoint.rollouts.chat import ChatPolicy
from conjoint.scripts.data.rows import Tally, check_files, listed_overrides
from conjoint.scripts.data.verified import check_kind, read, with_policy
from conjoint.scripts.eval.config import SampleConfig, load_sampled
from conjoint.scripts.eval.grader import Grader, Sampling, scored_groups
from conjoint.scripts.new_file import new_file

YES_NO, CHOICE, IN_PROMPT = "yes_no", "choice", "in_prompt"
FORMS = {
    YES_NO: "the answer is yes or no, true or false",
    CHOICE: "the answer is the letter of a choice",
    IN_PROMPT: "the answer stands in the prompt",
}
"""What a row is reported for without a model -> in words."""
GUESSED = "answered without reasoning"

_YES_NO = frozenset(("yes", "no", "true", "false", "correct", "incorrect"))
_LETTER = re.compile(r"(?:option |choice |answer )?\(?([a-h])[).]?", re.IGNORECASE)
_CHOICES = re.compile(r"(?:^|[\s(])([A-Ha-h])[).:](?=\s)")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}|\$|\\[()]")

_TOKENS = 48
AT_ONCE = "Reply with the final answer alone, at once: no reasoning, no steps, no explanation."
_AT_ONCE_MATH = " Write it as \\boxed{answer}."


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessableConfig(SampleConfig):
    """`conjoint data guessable`. Without `model` only the form of the answers is looked at."""

    input: str = ""
    """A file of task rows, as in tasks.KIND.path."""
    output: str = ""
    """A .jsonl file that does not exist yet: the rows that stay."""
    kind: str = "math"
    """Task kind of the rows; it says how answers are graded."""
    k: int = 8
    """Tries a row."""
    max_tokens: int | None = None
    """Sampled tokens that a try may have; null: 48, room for an answer and none to reason."""
    drop: list[str] = field(default_factory=lambda: [YES_NO, CHOICE])
    """Forms whose rows are dropped; the others are only counted. Of yes_no, choice, in_prompt."""

    @property
    def tokens(self) -> int:
        return self.max_tokens or _TOKENS

    def validate(self) -> None:
        check_files(self.input, self.output)
        if self.model or self.endpoint:
            SampleConfig.validate(self)
        for name in self.drop:
            if name not in FORMS:
                raise ConjointError(f"drop={name} is no form of answers; {suggest(name, FORMS)}")
        check_kind(self.kind)


def run(overrides: list[str]) -> int:
    """Print what was found and write the rows that stay; 0, or 128 + the signal that ended it."""
    cfg = load_sampled(GuessableConfig, listed_overrides(GuessableConfig, overrides))
    cfg.validate()
    rows, tasks = read(cfg)
    if not cfg.model:
        return finish(cfg, rows, tasks, None)
    asked = [at_once(task) for task in tasks]

    async def use(policy: ChatPolicy, grader: Grader) -> None:
        finish(cfg, rows, tasks, await guesses(policy, grader, asked, cfg))

    return with_policy(cfg, cfg.kind, asked, cfg.tokens, use)


def at_once(task: Task) -> Task:
    """The task as it is asked here: for the answer alone."""
    words = AT_ONCE + (_AT_ONCE_MATH if task.kind == "math" else "")
    last = task.messages[-1]
    message = Message(role=last["role"], content=f"{last['content']}\n\n{words}")
    return replace(task, messages=(*task.messages[:-1], message))


async def guesses(
    policy: ChatPolicy, grader: Grader, tasks: Sequence[Task], cfg: GuessableConfig
) -> list[bool | None]:
    """Whether each task was answered right in one of its tries; None if no try could be graded.

    Raises StopRun if that is so of all of them.
    """
    sampling = Sampling(cfg.k, cfg.tokens, cfg.sampled_at, cfg.seed, cfg.concurrency)
    found: list[bool | None] = [None] * len(tasks)
    async for group in scored_groups(policy, grader, tasks, sampling, "guess"):
        found[group.index] = _guessed(group)
    if all(guess is None for guess in found):
        raise StopRun("no try could be graded; look at the model or the endpoint")
    return found


def _guessed(group: Group) -> bool | None:
    values = [
        [score.value for score in t.scores if score.value is not None] for t in group.trajectories
    ]
    graded = [v for v in values if v]
    return any(min(v) >= 1.0 for v in graded) if graded else None


def forms(task: Task) -> list[str]:
    """What the form of the reference gives away; [] for references that are not one answer."""
    reference = task.reference
    if isinstance(reference, bool):
        return [YES_NO]
    if not isinstance(reference, (str, int, float)):
        return []
    written = _plain(str(reference))
    answer, prompt = written.casefold(), _plain(task.prompt).casefold()
    found = []
    if answer in _YES_NO:
        found.append(YES_NO)
    letter = _LETTER.fullmatch(answer)
    if letter and (_listed(task.prompt) or written.isupper()):
        found.append(CHOICE)
    if answer and re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)", prompt):
        found.append(IN_PROMPT)
    return found


def _listed(prompt: str) -> bool:
    """Whether the prompt lists choices: "A) ... B) ..."."""
    letters = [letter.upper() for letter in _CHOICES.findall(prompt)]
    return "A" in letters and "B" in letters


def _plain(text: str) -> str:
    """Text without LaTeX wrapping and spacing."""
    text = _WRAPPED.sub(lambda m: m[1] or "", unicodedata.normalize("NFKC", text))
    return " ".join(text.split()).rstrip(".")


def finish(
    cfg: GuessableConfig,
    rows: Sequence[dict[str, Any]],
    tasks: Sequence[Task],
    guessed: Sequence[bool | None] | None,
) -> int:
    """Write the rows that stay, print the summary; `guessed` is None where no model was asked."""
    tally, counts, unasked = Tally(), Counter[str](), 0
    with new_file(cfg.output) as out:
        for i, (row, task) in enumerate(zip(rows, tasks, strict=True)):
            tally.rows += 1
            found = forms(task)
            counts.update(found)
            guess = guessed[i] if guessed else None
            unasked += bool(guessed) and guess is None
            reasons = [FORMS[name] for name in found if name in cfg.drop]
            reasons += [GUESSED] if guess else []
            if reasons:
                tally.dropped[reasons[0]] += 1
            else:
                out.write(row)
    tally.notes = _notes(cfg, counts, guessed, unasked)
    print("\n".join(tally.words(cfg.output)))
    return 0


def _notes(
    cfg: GuessableConfig,
    counts: Counter[str],
    guessed: Sequence[bool | None] | None,
    unasked: int,
) -> list[str]:
    notes = ["found, dropped or not:"]
    notes += [f"  {words}: {counts[name]:,}" for name, words in FORMS.items()]
    if guessed is None:
        return [*notes, "  no model was asked; model=PATH tries each row without reasoning"]
    right = sum(map(bool, guessed))
    notes.append(f"  {GUESSED}, within {cfg.k} tries of {cfg.model}: {right:,}")
    if unasked:
        notes.append(f"kept although no try could be graded: {unasked:,}")
    return notes
