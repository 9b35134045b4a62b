"""TRL's GRPOTrainer, one step when it is told to:
`python -m conjoint.scripts.bench.rollout.trl_trainer GIVEN`.

The whole of a step as `trainer.train()` makes it: its transformers generation, rewards,
advantages, loss, backward, clipping and AdamW. A callback holds each step until the bench asks for
it. As a user finds it but for what makes both sides do the same: every answer has the same length,
gradient checkpointing (time for memory) is off, no logs. Heavy: trl, torch, datasets.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from conjoint.scripts.bench.rollout.child import Channel
from conjoint.scripts.bench.rollout.questions import questions, token_reward

_ROWS = 8  # GRPOConfig's default per_device_train_batch_size
_WARM_TOKENS = 4
_STEPS = 10**6


def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
    return [token_reward(tokens) for tokens in completion_ids]


def gemm_gflops(threads: int, size: int = 2048, rounds: int = 5) -> float:
    """The best fp32 matrix product that this machine makes with as many threads."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = math.inf
    for _ in range(rounds):
        begun = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best / 1e9


class TrlTrainer:
    def __init__(self, given: dict[str, Any], channel: Channel, workdir: str) -> None:
        import torch
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, TrainerCallback
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

        torch.set_num_threads(given["threads"])
        self._channel, self._tokens = channel, given["answer_tokens"]
        answers = given["prompts"] * given["group_size"]
        rows = math.gcd(_ROWS, answers)
        config = GRPOConfig(
            output_dir=workdir,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            max_steps=_STEPS,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=answers // rows,
            num_generations=given["group_size"],
            max_completion_length=self._tokens,
            generation_kwargs={"min_new_tokens": self._tokens},
            lr_scheduler_type="constant",
            learning_rate=given["lr"],
            weight_decay=given["weight_decay"],
            adam_beta1=given["beta1"],
            adam_beta2=given["beta2"],
            max_grad_norm=given["gradient_clipping"],
        )
        tasks = questions(given["prompts"])
        self.trainer: Any = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": list(t.messages)} for t in tasks]),
        )
        self._generate = self.trainer._generate_and_score_completions
        self.trainer._generate_and_score_completions = self._timed_generate
        hold: Any = TrainerCallback()
        hold.on_step_begin, hold.on_step_end = self._on_step_begin, self._on_step_end
        self.trainer.add_callback(hold)
        self._answer: dict[str, Any] = {}
        self._begun = 0.0

    def _timed_generate(self, inputs: Any) -> Any:
        begun = time.perf_counter()
        made = self._generate(inputs)
        self._answer = {
            "generate": time.perf_counter() - begun,
            "trained_tokens": int(made["completion_mask"].sum()),
            # One prompt is counted in each of its answers.
            "prompt_tokens": int(made["prompt_mask"].sum()),
        }
        return made

    def _on_step_begin(self, *_: Any, **__: Any) -> None:
        """Answers what is asked in the meantime; a step that is asked for begins."""
        for request in self._channel.requests():
            if request["what"] == "step":
                self._force(_WARM_TOKENS if request["warm"] else self._tokens)
                self._begun = time.perf_counter()
                return
            if request["what"] == "gemm":
                self._channel.answer(gflops=gemm_gflops(request["threads"]))
            else:
                self._channel.answer()
        sys.exit(0)  # the bench has ended

    def _force(self, tokens: int) -> None:
        """Short answers in the step that is not counted: it would take minutes as well."""
        config, kwargs = self.trainer.generation_config, self.trainer.generation_kwargs
        config.max_new_tokens = config.min_new_tokens = tokens
        kwargs["max_new_tokens"] = kwargs["min_new_tokens"] = tokens

    def _on_step_end(self, *_: Any, **__: Any) -> None:
        self._channel.answer(seconds=time.perf_counter() - self._begun, **self._answer)


def main() -> None:
    channel = Channel()
    with tempfile.TemporaryDirectory(prefix="conjoint-bench-") as workdir:
        TrlTrainer(json.loads(sys.argv[1]), channel, workdir).trainer.train()


if __name__ == "__main__":
    main()
