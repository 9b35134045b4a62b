"""vLLM by itself: what our engine is measured against.
`python -m conjoint.scripts.bench.rollout.bare_vllm GIVEN`.

A process of its own with the arguments and threads of our engine: `LLM.generate` on the same
requests, and vLLM's own reload of the same tensors. Heavy: vllm, torch.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from conjoint.scripts.bench.rollout.child import Channel


class ReloadExtension:
    """Mixed into vLLM's worker: its own reload, from tensors that it holds and from a file."""

    model_runner: Any
    _held: dict[str, Any]
    _target: list[Any]

    def hold(self, folder: str) -> int:
        """Read the weights of a model folder into memory; returns their bytes."""
        from safetensors.torch import load_file

        files = sorted(Path(folder).glob("*.safetensors"))
        read = {name: tensor for file in files for name, tensor in load_file(file).items()}
        # load_file maps the file: cloned, so that no reload waits for a disk.
        self._held = {name: tensor.clone() for name, tensor in read.items()}
        self._target = [tensor.clone() for tensor in self._held.values()]
        return sum(t.numel() * t.element_size() for t in self._target)

    def reload(self) -> None:
        self.model_runner.reload_weights(weights_iterator=iter(self._held.items()))

    def reload_file(self, file: str) -> None:
        """Both halves of that route: written where the weights are, read where they are needed."""
        from safetensors import safe_open
        from safetensors.torch import save_file

        save_file(self._held, file)
        with safe_open(file, framework="pt") as tensors:
            named = ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
            self.model_runner.reload_weights(weights_iterator=named)

    def copy(self) -> None:
        """A plain copy of the same tensors between buffers that are warm."""
        for target, tensor in zip(self._target, self._held.values(), strict=True):
            target.copy_(tensor)


class Bare:
    def __init__(self, args: dict[str, Any]) -> None:
        from vllm import LLM

        extension = f"{ReloadExtension.__module__}.{ReloadExtension.__qualname__}"
        self._llm = LLM(**{**args, "worker_extension_cls": extension})

    def generate(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Seconds of one `LLM.generate`, and the tokens of each answer."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        prompts = [TokensPrompt(prompt_token_ids=r["tokens"]) for r in requests]
        params = [
            SamplingParams(
                max_tokens=r["max_tokens"],
                temperature=r["temperature"],
                seed=r["seed"],
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for r in requests
        ]
        begun = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "tokens": [list(o.outputs[0].token_ids) for o in outputs]}

    def in_worker(self, method: str, *args: Any) -> dict[str, Any]:
        """Seconds of one call of the extension, as its caller sees them."""
        begun = time.perf_counter()
        (value,) = self._llm.collective_rpc(method, args=args)
        return {"seconds": time.perf_counter() - begun, "value": value}


def main() -> None:
    channel = Channel()
    bare = Bare(json.loads(sys.argv[1]))
    for request in channel.requests():
        what = request.pop("what")
        if what == "ready":
            channel.answer()
        elif what == "generate":
            channel.answer(**bare.generate(request["requests"]))
        else:
            channel.answer(**bare.in_worker(what, *request.get("args", ())))


if __name__ == "__main__":
    main()
