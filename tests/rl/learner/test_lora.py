"""LoRA: what is trained, what engines and checkpoints get, and what `conjoint merge` writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from conjoint.envs.types import Completion, ConjointError, Group, Status, Task, Trajectory
from conjoint.rl.algo.losses import LossConfig
from conjoint.rl.learner.batch import make_batch
from conjoint.rl.learner.config import LearnerConfig
from conjoint.rl.learner.deepspeed_config import deepspeed_config
from conjoint.rl.learner.lora import LoraConfig, merge_adapter
from conjoint.rl.learner.optim.schedules import OptimConfig
from conjoint.rl.learner.rank import LearnerRank
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from conjoint.scripts.main import app
from tests.fakes import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_llama(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True)
    (path / "tokenizer.json").write_text("{}")
    return path


def rank(folder: Path, stage: int = 0, dtype: str = "fp32") -> LearnerRank:
    config = LearnerConfig(
        threads=1, zero_stage=stage, dtype=dtype, lora=LoraConfig(rank=4, alpha=8.0)
    )
    return LearnerRank(folder, config, OptimConfig(lr=1e-2), LossConfig(), 10)


def go_on(learner: LearnerRank, steps: int = 2) -> dict[str, float]:
    metrics = {}
    for step in range(steps):
        members = []
        for member in range(3):
            t = Trajectory(status=Status.COMPLETED, advantage=member - 1.0)
            t.extend_context([1 + step, 2, 3])
            answer = [7 + member] * (3 + member)
            t.extend_sampled(Completion(answer, [-3.0] * len(answer), "stop", version=0))
            members.append(t)
        group = Group(Task.make("math", "0"), members, 0)
        metrics = learner.step(make_batch([group], [], learner._config, 0.0), step)
    return metrics


def weights(learner: LearnerRank) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.named_weights()}


def reference(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: p.detach() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_engines_get_the_merged_weights_under_the_names_of_the_base(
    folder: Path, tmp_path: Path, stage: int
) -> None:
    learner = rank(folder, stage)
    base = reference(folder)
    assert same(weights(learner), base), "a fresh adapter changes nothing"
    go_on(learner)
    found = weights(learner)
    assert found.keys() == base.keys()
    for name in base:
        adapted = "_proj" in name
        assert torch.equal(found[name], base[name]) is not adapted, name
    metadata = learner.named_weights().metadata()
    assert [(m.name, m.shape) for m in metadata] == [(n, tuple(v.shape)) for n, v in base.items()]
    learner.save(tmp_path)
    opened = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "adapter")
    )
    merged: Any = opened.merge_and_unload()  # pyright: ignore[reportCallIssue]
    for name, value in merged.named_parameters():
        assert torch.allclose(found[name], value, atol=1e-7), name


def test_the_learner_computes_what_the_merged_weights_do(folder: Path, tmp_path: Path) -> None:
    learner = rank(folder)
    go_on(learner)
    learner.save(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokens = [1, 2, 3, 7, 7]
    with torch.no_grad():
        table = merged(torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = [float(table[i, token]) for i, token in enumerate(tokens[1:])]
    assert learner.logprobs(tokens) == pytest.approx(expected, abs=1e-5)


def test_the_checksum_of_a_sync_covers_the_merged_weights(folder: Path, tmp_path: Path) -> None:
    learner = rank(folder)
    sender = SharedMemorySender(str(tmp_path / "buffer"))
    checksums = []
    for version in range(3):
        sent = learner.send_weights(sender, version)
        checksums.append(sent.checksum)
        assert {spec.name for spec in sent.tensors} == reference(folder).keys()
        go_on(learner, 1)
    assert len(set(checksums)) == 3, "every step reaches the bytes that engines check"


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_only_the_adapter_is_trained(folder: Path, stage: int) -> None:
    learner = rank(folder, stage)
    module = learner._engine.module
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    go_on(learner)
    if stage != 3:
        base = reference(folder)
        named = dict(module.get_base_model().named_parameters())
        frozen = {k.replace(".base_layer.", "."): v for k, v in named.items() if "lora_" not in k}
        assert all(torch.equal(frozen[name], base[name]) for name in base)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_save_load_continue_is_bit_equal(folder: Path, tmp_path: Path, stage: int) -> None:
    whole = rank(folder, stage)
    go_on(whole)
    whole.save(tmp_path)
    go_on(whole)
    resumed = rank(folder, stage)
    resumed.load(tmp_path)
    go_on(resumed)
    assert same(weights(whole), weights(resumed))
    assert not same(weights(whole), reference(folder))


def test_a_checkpoint_holds_an_adapter_and_a_merged_model(folder: Path, tmp_path: Path) -> None:
    learner = rank(folder)
    go_on(learner)
    learner.save(tmp_path)
    opened = reference(tmp_path / "hf")
    assert same(opened, weights(learner))
    assert (tmp_path / "hf" / "tokenizer.json").is_file()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)
    assert config["base_model_name_or_path"] == str(folder)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 7, "A and B of seven projections in two layers"


def test_bf16_adapters_have_fp32_masters_and_merge(folder: Path) -> None:
    learner = rank(folder, 2, "bf16")
    start = weights(learner)
    go_on(learner)
    found = weights(learner)
    assert all(value.dtype is torch.bfloat16 for value in found.values())
    assert not torch.equal(
        found["model.layers.0.mlp.up_proj.weight"], start["model.layers.0.mlp.up_proj.weight"]
    )


def test_no_global_random_state_is_drawn(folder: Path) -> None:
    before = torch.random.get_rng_state()
    rank(folder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_merge_verb_writes_the_folder_that_the_checkpoint_has(
    folder: Path, tmp_path: Path
) -> None:
    learner = rank(folder)
    go_on(learner)
    learner.save(tmp_path)
    adapter, output = tmp_path / "adapter", tmp_path / "merged"
    result = CliRunner().invoke(app, ["merge", str(adapter), str(output)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(output))
    ours, theirs = reference(output), reference(tmp_path / "hf")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in theirs)
    assert (output / "tokenizer.json").is_file()
    for args, said in (
        ((folder, tmp_path / "x"), r"no adapter_config\.json"),
        ((adapter, output), "not empty"),
        ((adapter, tmp_path / "x", str(tmp_path / "gone")), "does not exist"),
    ):
        with pytest.raises(ConjointError, match=said):
            merge_adapter(*args)
    other = tiny_llama(tmp_path / "other", hidden_size=16)
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(ConjointError, match="does not fit the model"):
        merge_adapter(adapter, tmp_path / "x", str(other))


def test_what_lora_cannot_do_is_refused() -> None:
    lora = LearnerConfig(lora=LoraConfig(rank=4))
    lora.validate()
    for name in ("muon", "muonclip"):
        with pytest.raises(ConjointError, match=r"which learner\.lora freezes"):
            deepspeed_config(lora, OptimConfig(name=name))
    for keys, said in (
        ({"rank": -1}, r"learner\.lora\.rank"),
        ({"rank": 4, "alpha": 0.0}, r"learner\.lora\.alpha above 0"),
        ({"alpha": 8.0}, r"learner\.lora\.alpha does nothing"),
    ):
        with pytest.raises(ConjointError, match=said):
            LoraConfig(**keys).validate()
