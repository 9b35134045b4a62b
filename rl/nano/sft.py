"""SFT of nano: generated demonstrations and judge verdicts, those of a preference file among them,
trained with TRL's SFTTrainer.

`rl/nano/cache.py` keeps what comes of it. Importing this file costs nothing: torch and trl load
when training starts.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from conjoint.envs.confidence import asking, stating
from conjoint.envs.nano.sources import (
    SOURCES,
    VERIFIABLE,
    demonstrations,
    open_pairs,
    verifiable_pairs,
)
from conjoint.envs.types import ConjointError, Message, Task, derive_seed
from conjoint.rewards.judge.config import JudgeConfig
from conjoint.rewards.rubrics.find import DEFAULT_RUBRICS, load_rubrics
from conjoint.rewards.rubrics.rubric import Rubric
from conjoint.rl.nano.model import NanoConfig, build_model, build_tokenizer, save_policy
from conjoint.rl.nano.preferences import (
    Asked,
    Conversation,
    PreferenceConfig,
    both_orders,
    read_preferences,
)
from conjoint.rollouts.renderer import Renderer

Row = dict[str, list[int]]

JUDGE_TEMPLATE = "compact"
_JUDGE = JudgeConfig(template=JUDGE_TEMPLATE)
_WINDOW = 8
"""Batches among which rows are sorted by length."""


@dataclass(frozen=True, slots=True)
class SftConfig:
    """How nano is made. One pass over the rows: demonstrations in random order, then the verdicts.

    Short on purpose: nano has to be imperfect on every kind, so that RL has something to do.
    """

    rows: dict[str, int] = field(
        default_factory=lambda: {"math": 5800, "code": 1600, "instruction": 4200, "open": 500}
    )
    """Demonstrations by task kind."""
    confidence: list[str] = field(default_factory=list)
    """Kinds whose demonstrations state a confidence, beside those of tasks.KIND.confidence. It is
    drawn by the seed, whatever the answer: nano learns the form and nothing to say in it."""
    judge_rows: int = 3000
    """Judge verdicts: they bootstrap the critic, as K2's SFT does. `preferences` are among them."""
    rehearsed: float = 0.15
    """Share of the demonstrations that is shuffled among the verdicts, so that they stay known."""
    batch_size: int = 32
    muon_lr: float = 0.01
    """Peak learning rate of the hidden matrices."""
    adam_lr: float = 3e-3
    """Peak learning rate of embeddings and norms."""
    warmup_steps: int = 20
    decay: float = 0.3
    """Share of the steps, the last ones, over which both learning rates fall linearly to 0."""
    seed: int = 0
    preferences: PreferenceConfig = field(default_factory=PreferenceConfig)
    model: NanoConfig = field(default_factory=NanoConfig)

    def validate(self) -> None:
        if unknown := set(self.rows) - set(SOURCES):
            raise ConjointError(
                f"sft.rows names {min(unknown)!r}; expected kinds among {', '.join(SOURCES)}"
            )
        if unknown := set(self.confidence) - set(VERIFIABLE):
            raise ConjointError(
                f"sft.confidence names {min(unknown)!r}; expected kinds that a verifier grades: "
                f"{', '.join(VERIFIABLE)}"
            )
        if min([*self.rows.values(), self.judge_rows]) < 0:
            raise ConjointError("sft.rows and sft.judge_rows must be 0 or more")
        if sum(self.rows.values()) + self.judge_rows < self.batch_size or self.batch_size < 1:
            raise ConjointError(
                f"sft.batch_size is {self.batch_size}; expected at least 1 and at most all rows"
            )
        if self.preferences.path and self.judge_rows * self.preferences.share < 2:
            raise ConjointError(
                f"sft.preferences.share={self.preferences.share} of sft.judge_rows="
                f"{self.judge_rows} has no room for a pair in both orders; raise one of them"
            )
        for key in ("rehearsed", "decay"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConjointError(f"sft.{key} is {getattr(self, key)}; expected 0 to 1")
        if min(self.muon_lr, self.adam_lr) <= 0 or self.warmup_steps < 0:
            raise ConjointError(
                "sft.muon_lr and sft.adam_lr must be above 0, sft.warmup_steps 0 or more"
            )


def judge_conversations(split: str, count: int, seed: int) -> list[Conversation]:
    """Verdicts on pairs of all kinds; each pair in both orders, so that no letter is favoured."""
    each = -(-count // (2 * len(SOURCES)))
    pairs: list[tuple[Task, str, str, list[Rubric]]] = []
    for kind in VERIFIABLE:
        pairs += [(*pair, []) for pair in verifiable_pairs[kind](split, each, seed + 1)]
    rubrics = load_rubrics(DEFAULT_RUBRICS)
    pairs += [(*pair, rubrics) for pair in open_pairs(split, each, seed + 1)]
    return [row for pair in pairs for row in both_orders(*pair, _JUDGE)][:count]


def ptx_conversations(count: int, seed: int = 0) -> list[Conversation]:
    """Curated rows of the `ptx` split for the PTX loss: three judge verdicts to one open answer.

    They keep the judge and the voice of nano as SFT left them, and teach no verifiable kind.
    """
    chat = -(-count // 4)
    rows = demonstrations["open"]("ptx", chat, seed)
    rows += judge_conversations("ptx", count - chat, seed)
    Random(derive_seed("ptx-order", seed)).shuffle(rows)
    return rows


def sft_conversations(
    cfg: SftConfig, preferences: Sequence[Sequence[Conversation]] = ()
) -> list[list[Conversation]]:
    """All rows of one SFT, from the `sft` split alone: demonstrations, then verdicts, of which
    `preferences` replace as many generated ones. What belongs together is one entry.

    A verdict is one bit, whose gradient drowns in that of the demonstrations when they are mixed
    all along; both orders of a pair stand together, so that a letter cannot win in a batch.
    """
    rng = Random(derive_seed("sft-order", cfg.seed))
    rows = [row for kind, n in cfg.rows.items() for row in _demonstrations(cfg, kind, n)]
    rng.shuffle(rows)
    first = round(len(rows) * (1 - cfg.rehearsed))
    generated = cfg.judge_rows - sum(map(len, preferences))
    verdicts = judge_conversations("sft", generated, cfg.seed)
    last = [[row] for row in rows[first:]]
    last += [verdicts[i : i + 2] for i in range(0, len(verdicts), 2)]
    last += [list(pair) for pair in preferences]
    rng.shuffle(last)
    # Shuffled again, the first quarter apart from the rest. This changes nothing in kind: it keeps
    # the order of rows with which the figures of docs/LOG.md were measured.
    parts = [last[: len(last) // 4], last[len(last) // 4 :]]
    for part in parts:
        rng.shuffle(part)
    return [[row] for row in rows[:first]] + parts[0] + parts[1]


def _demonstrations(cfg: SftConfig, kind: str, count: int) -> list[Conversation]:
    """Conversations of one kind, as the policy will be asked in a run."""
    rows = demonstrations[kind]("sft", count, cfg.seed)
    if kind not in cfg.confidence:
        return rows
    rng = Random(derive_seed("sft-confidence", kind, cfg.seed))
    return [
        [
            *asking(row[:-1]),
            Message(role="assistant", content=stating(row[-1]["content"], rng.randint(0, 10) / 10)),
        ]
        for row in rows
    ]


def tokenize(tokenizer: Any, conversations: Sequence[Conversation]) -> list[Row]:
    """`input_ids` and `labels` of each conversation; labels are -100 but on the last answer."""
    renderer, rows = Renderer(tokenizer), []
    for conversation in conversations:
        prompt = renderer.prompt(conversation[:-1])
        answer = [*renderer.encode(conversation[-1]["content"]), renderer.stop_ids[0]]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def fitting(
    tokenizer: Any, units: Sequence[Sequence[Conversation]], longest: int
) -> list[Sequence[Conversation]]:
    """The units of which no row has more than `longest` tokens, so that a pair stays whole."""
    lengths = (len(row["input_ids"]) for row in tokenize(tokenizer, _flat(units)))
    return [unit for unit in units if max([next(lengths) for _ in unit]) <= longest]


def _flat(units: Sequence[Sequence[Conversation]]) -> list[Conversation]:
    return [row for unit in units for row in unit]


def bucketed(rows: Sequence[Row], batch: int, seed: int) -> list[Row]:
    """Rows reordered so that each run of `batch` rows has similar lengths: little padding.

    Rows that fill no batch are left out.
    """
    rng = Random(derive_seed("sft-batches", seed))
    batches: list[list[Row]] = []
    for start in range(0, len(rows), batch * _WINDOW):
        window = sorted(
            rows[start : start + batch * _WINDOW], key=lambda row: len(row["input_ids"])
        )
        runs = [window[i : i + batch] for i in range(0, len(window), batch)]
        rng.shuffle(runs)
        batches += [run for run in runs if len(run) == batch]
    return [row for run in batches for row in run]


def train_sft(cfg: SftConfig, output: Path, asked: Asked | None = None) -> dict[str, float]:
    """Build, train and save nano into the folder `output`; returns seconds, tokens, loss, steps,
    and what became of the preference pairs."""
    started = time.monotonic()
    tokenizer, rows, counts = sft_rows(cfg, asked or Asked())
    model = build_model(tokenizer, cfg.model, derive_seed("nano", cfg.seed))
    trainer = _trainer(cfg, model, tokenizer, rows)
    result = trainer.train()
    save_policy(model, tokenizer, output)
    return {
        "seconds": time.monotonic() - started,
        "tokens": float(sum(len(row["input_ids"]) for row in rows)),
        "loss": float(result.training_loss),
        "steps": float(trainer.state.global_step),
        **counts,
    }


def sft_rows(cfg: SftConfig, asked: Asked) -> tuple[Any, list[Row], dict[str, float]]:
    """The tokenizer, the rows in the order of training, and what became of the preference pairs.

    Raises ConjointError for preferences of which none can be trained on.
    """
    counts: dict[str, float] = {}
    pairs: list[list[Conversation]] = []
    longest, given = cfg.model.max_length, cfg.preferences
    if given.path:
        found = read_preferences(given.path, asked, cfg.seed)
        pairs = found.verdicts(round(cfg.judge_rows * given.share), asked.judge, cfg.seed)
        counts = {f"preferences_left_out/{why}": n for why, n in found.left_out.items()}
    units = sft_conversations(cfg, pairs)
    tokenizer = build_tokenizer((m["content"] for c in _flat(units) for m in c), cfg.model)
    if pairs:
        fit = fitting(tokenizer, pairs, longest)
        if not fit:
            raise ConjointError(
                f"sft.preferences.path: in judge.template={asked.judge.template} none of "
                f"{len(pairs)} pairs of {given.path} fits sft.model.max_length={longest} tokens; "
                "nano is asked in judge.template=compact"
            )
        counts |= {"preferences_left_out/too long": len(pairs) - len(fit)}
        counts |= {"preference_pairs": len(fit)}
        units = sft_conversations(cfg, fit)
    rows = tokenize(tokenizer, _flat(fitting(tokenizer, units, longest)))
    return tokenizer, bucketed(rows, cfg.batch_size, cfg.seed), counts


def _trainer(cfg: SftConfig, model: Any, tokenizer: Any, rows: list[Row]) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, get_wsd_schedule
    from transformers.utils import logging
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from conjoint.rl.learner.optim.batched_muon import MuonAdamW

    logging.disable_progress_bar()
    steps = len(rows) // cfg.batch_size
    optimizer = MuonAdamW(model, cfg.muon_lr, cfg.adam_lr)
    schedule = get_wsd_schedule(
        optimizer,
        cfg.warmup_steps,
        num_decay_steps=round(steps * cfg.decay),
        num_training_steps=steps,
        decay_type="linear",
    )
    args = SFTConfig(
        output_dir=tempfile.gettempdir(),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=cfg.batch_size,
        num_train_epochs=1,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        # The rows are shuffled, bucketed by length and tokenised already.
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=derive_seed("trainer", cfg.seed),
    )
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
        callbacks=[_progress(steps)],
    )
    trainer.remove_callback(PrinterCallback)  # a line of raw figures
    return trainer


def _progress(steps: int) -> Any:
    """A callback that draws one rich line."""
    from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn
    from transformers import TrainerCallback

    class ProgressLine(TrainerCallback):
        def __init__(self) -> None:
            self.bar = Progress(
                *Progress.get_default_columns()[:3], TimeElapsedColumn(), TimeRemainingColumn()
            )
            self.line = self.bar.add_task("SFT of nano", total=steps)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(self.line, completed=state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.stop()

    return ProgressLine()
