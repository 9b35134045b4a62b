"""One episode as its client sees it: requests in, answers out, every token recorded.

Who waits for whom: requests of one session are answered one after the other, so that the budget is
exact; sessions do not wait for each other. The client's word is taken for what it tells the policy,
never for what the policy said: answers are kept as the tokens that were drawn.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from conjoint.envs.types import (
    Completion,
    ConjointError,
    Message,
    Sampler,
    Status,
    ToolCall,
    Trajectory,
    derive_seed,
)
from conjoint.rollouts.episode import EpisodeLimits, Pace, unpaced
from conjoint.rollouts.gateway.branches import Branch, Branches, Place
from conjoint.rollouts.gateway.parameters import Ask, ChatAsk, Refusal, TextAsk
from conjoint.rollouts.gateway.tool_calls import form_of, read_calls
from conjoint.rollouts.renderer import Renderer


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer as the client gets it."""

    text: str
    finish: str
    """ "stop", "length" or "tool_calls"."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: list[int]
    """All tokens before the answer."""
    choices: list[Choice]


class Session:
    """Answers from a sampler and keeps the record. Made by `Gateway.open`."""

    def __init__(
        self,
        sampler: Sampler,
        renderer: Renderer,
        limits: EpisodeLimits,
        seed: int,
        session: str = "",
        pace: Pace = unpaced,
        while_answering: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`session` as in `envs.types.Sampler`. `while_answering` is entered while a request waits
        for its answer."""
        self._sampler = sampler
        self._renderer = renderer
        self._limits = limits
        self._seed = seed
        self._session = session
        self._pace = pace
        self._while_answering = while_answering
        self._form = form_of(renderer.template)
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._branches = Branches(limits.begin)
        self._last: Branch | None = None
        self._asked: Counter[int] = Counter()
        self._spent = 0
        self._cut = False
        self._refused = 0
        self._closed = False
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Set when the sampler broke: the episode cannot go on."""

    async def chat(self, ask: ChatAsk) -> Answer:
        """Answer a dialogue. Raises Refusal for what cannot be answered."""
        messages, tools = ask.dialogue, ask.shown_tools
        if (tools or any("tool_calls" in m for m in messages)) and not self._renderer.knows_tools:
            raise Refusal("the policy's chat template knows no tools", "tools")

        def grow() -> _Request:
            place = self._branches.for_messages(messages, tools)
            new = messages[place.turn.messages if place else 0 :]
            try:
                context = (
                    self._renderer.next_turn(new, tools)
                    if place
                    else self._renderer.prompt(messages, tools)
                )
            except ConjointError as error:
                raise Refusal(str(error), "messages") from error
            if place and not place.turn.closed:
                # The client had cut the answer off: the turn is closed for the policy.
                context = [self._renderer.stop_ids[0], *context]
            return _Request(place, self._branches.begin(place, tools, chat=True), new, context)

        def read(tokens: Sequence[int], text: str | None) -> tuple[str, list[ToolCall]]:
            if tools and ask.tool_choice == "auto":
                raw = self._renderer.raw_text(tokens) if text is None else text
                rest, calls = read_calls(self._form, raw, messages)
                if calls:
                    return rest.strip(), calls
            return (self._renderer.text(tokens) if text is None else text.strip()), []

        return await self._answer(ask, grow, read)

    async def complete(self, ask: TextAsk) -> Answer:
        """Go on with a text or with tokens. Raises Refusal for what cannot be answered."""
        prompt = ask.prompt
        if not isinstance(prompt, str) and not all(
            0 <= token < self._renderer.vocab_size for token in prompt
        ):
            raise Refusal("prompt has token ids that the policy does not know", "prompt")

        def grow() -> _Request:
            if isinstance(prompt, str):
                place = self._branches.for_text(prompt)
                text = prompt[place.turn.chars if place else 0 :]
                context = self._renderer.encode_as_written(text)
            else:
                place = self._branches.for_tokens(prompt)
                context = prompt[place.turn.tokens if place else 0 :]
                text = self._renderer.raw_text(context)
            new = [Message(role="user", content=text)] if text else []
            branch = self._branches.begin(place, [], chat=False)
            return _Request(place, branch, new, context, text)

        def read(tokens: Sequence[int], text: str | None) -> tuple[str, list[ToolCall]]:
            return (self._renderer.raw_text(tokens) if text is None else text), []

        return await self._answer(ask, grow, read)

    def trajectory(self) -> Trajectory:
        """The branch that was answered last. TRUNCATED if its last answer was cut off by a limit of
        the episode (or refused for one), else COMPLETED."""
        branch = self._last or Branch(self._limits.begin())
        trajectory = branch.trajectory
        trajectory.status = Status.TRUNCATED if self._cut else Status.COMPLETED
        trajectory.metrics["agent/turns"] = float(len(branch.turns))
        trajectory.metrics["agent/branches"] = float(len(self._branches.all))
        trajectory.metrics["agent/sampled"] = float(self._spent)
        return trajectory

    @property
    def asked(self) -> bool:
        """Whether the client asked for anything that could be answered or cut off."""
        return self._last is not None

    def fail(self, error: BaseException) -> None:
        """The sampler broke, or we did: nothing is answered any more."""
        if not self.failed.done():
            self.failed.set_result(error)

    def close(self) -> None:
        """Give up what is still being sampled; nothing is answered any more."""
        self._closed = True
        for task in self._running:
            task.cancel()

    async def _answer(
        self,
        ask: Ask,
        grow: "Callable[[], _Request]",
        read: "Callable[[Sequence[int], str | None], tuple[str, list[ToolCall]]]",
    ) -> Answer:
        """`grow` finds where the request goes on; `read` takes an answer apart (its tokens, and its
        text if a stop string cut it)."""
        with self._while_answering():
            async with self._lock:
                if self._closed or self.failed.done():
                    raise Refusal("the session has ended", code="no_session", status=404)
                request = grow()
                prompt = [*request.branch.trajectory.tokens, *request.context]
                if not prompt:
                    raise Refusal("the prompt is empty", "prompt")
                room = self._room(request.branch, len(prompt), ask.n)
                if room < 1:
                    return self._no_room(request, prompt, ask)
                self._refused = 0
                limit = min(room, ask.limit or room)
                completions = await self._samples(prompt, limit, request.branch, ask)
                answer = self._record(request, prompt, completions, ask, read)
                # Cut by the episode or the engine, and not by the client's own limit.
                ours = room == limit or completions[0].stop_reason != "length"
                self._cut = ours and answer.choices[0].finish == "length"
                return answer

    def _record(
        self,
        request: "_Request",
        prompt: list[int],
        completions: Sequence[Completion],
        ask: Ask,
        read: "Callable[[Sequence[int], str | None], tuple[str, list[ToolCall]]]",
    ) -> Answer:
        choices, grown = [], []
        for completion in completions:
            kept, text = self._stopped(completion, ask.stops)
            said, calls = read(kept.tokens, text)
            answer = Message(role="assistant", content=said)
            if calls:
                answer["tool_calls"] = calls
            branch = self._branches.begin(
                request.place, request.branch.tools, chat=request.branch.chat
            )
            branch.append(
                [*request.messages, answer],
                request.context,
                kept,
                closed=bool(kept.tokens) and kept.tokens[-1] in self._renderer.stop_ids,
                # With a stop string that cut it: who goes on from there wrote it down again.
                text="" if branch.chat else request.text + self._renderer.raw_text(kept.tokens),
            )
            grown.append(branch)
            self._spent += len(completion.tokens)
            finish = "stop" if kept.stop_reason == "stop" else "length"
            choices.append(
                Choice(
                    said,
                    "tool_calls" if calls and finish == "stop" else finish,
                    kept.tokens,
                    kept.logprobs,
                    calls,
                )
            )
        self._branches.add(grown, request.place)
        self._last = grown[0]
        return Answer(prompt, choices)

    def _room(self, branch: Branch, prompt: int, choices: int) -> int:
        """Tokens that each choice may have."""
        if len(branch.turns) >= self._limits.max_turns:
            return 0
        budget = (self._limits.budget - self._spent) // choices
        return min(budget, self._limits.max_model_len - prompt)

    def _no_room(self, request: "_Request", prompt: list[int], ask: Ask) -> Answer:
        """An empty answer that ended by its length; whoever asks once more is refused."""
        self._cut = True
        self._refused += 1
        if request.place is None:
            request.branch.trajectory.messages.extend(request.messages)
        if request.place is not None or self._last is None:
            self._last = request.branch
        if self._refused > 1:
            raise Refusal(
                f"no token is left of the episode's {self._limits.budget}, of the "
                f"{self._limits.max_model_len} of its context, or no turn of its "
                f"{self._limits.max_turns}",
                code="context_length_exceeded",
            )
        return Answer(prompt, [Choice("", "length") for _ in range(ask.n)])

    async def _samples(
        self, prompt: list[int], limit: int, branch: Branch, ask: Ask
    ) -> list[Completion]:
        """Seeds derive from (episode, turn), and from how often the same was asked before."""
        same = hash(tuple(prompt))
        known = self._asked[same]
        self._asked[same] += ask.n
        parts: list[object] = [len(branch.turns)]
        if ask.seed is not None:
            parts += ["client", ask.seed]
        tasks = [
            asyncio.ensure_future(
                self._sample(prompt, limit, [*parts, *(["again", i] if i else [])])
            )
            for i in range(known, known + ask.n)
        ]
        self._running.update(tasks)
        try:
            return list(await asyncio.gather(*tasks))
        except Exception as error:
            for task in tasks:
                task.cancel()
            self.fail(error)
            raise
        finally:
            self._running.difference_update(tasks)

    async def _sample(self, prompt: list[int], limit: int, parts: list[object]) -> Completion:
        """One answer, which the engine may give in several parts (when it is paused)."""
        tokens: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        while True:
            async with self._pace(self._spent + len(tokens)) as share:
                got = await self._sampler(
                    [*prompt, *tokens],
                    max_tokens=min(limit - len(tokens), share),
                    temperature=self._limits.temperature,
                    top_p=self._limits.top_p,
                    seed=derive_seed(self._seed, *parts, *([len(tokens)] if tokens else [])),
                    session=self._session,
                )
            tokens += got.tokens
            logprobs += got.logprobs
            versions += got.versions or [got.version] * len(got.tokens)
            unfinished = got.stop_reason in ("length", "abort") and len(tokens) < limit
            if not unfinished:
                reason = "length" if got.stop_reason == "abort" else got.stop_reason
                return Completion(tokens, logprobs, reason, got.version, got.engine, versions)

    def _stopped(
        self, completion: Completion, stops: Sequence[str]
    ) -> tuple[Completion, str | None]:
        """What is kept of an answer that holds a stop string: the tokens up to the one that ends
        it, and the text before it. What the engine drew beyond was never seen by anyone."""
        text = self._renderer.raw_text(completion.tokens)
        places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
        if not places:
            return completion, None

        def holds(count: int) -> bool:
            begun = self._renderer.raw_text(completion.tokens[:count])
            return any(stop and stop in begun for stop in stops)

        low, high = 1, len(completion.tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle + 1, high)
        c, versions = completion, completion.versions[:low]
        version = versions[-1] if versions else c.version
        kept = Completion(c.tokens[:low], c.logprobs[:low], "stop", version, c.engine, versions)
        return kept, text[: min(places)]


@dataclass(slots=True)
class _Request:
    """A request whose place in the record is known."""

    place: Place | None
    branch: Branch
    """The record before it."""
    messages: list[Message]
    """New ones."""
    context: list[int]
    """Their tokens."""
    text: str = ""
    """Likewise, for a prompt that is text."""
