"""Muon against its formula and torch's own, and the proof that it runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conjoint.envs.types import ConjointError, StopRun
from conjoint.rl.learner.optim import muon, zero_layout
from conjoint.rl.learner.optim.batched_muon import orthogonalise
from conjoint.rl.learner.optim.muon import MOONLIGHT, Muon, muon_groups
from conjoint.rl.learner.optim.muon_clip import MuonClip
from conjoint.rl.learner.optim.schedules import OptimConfig
from tests.fakes import tiny_llama

SHAPES = ((16, 16), (16, 48), (40, 8), (16, 16))


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as Moonlight writes it, in double precision."""
    x = matrix.double() / matrix.double().norm()
    for a, b, c in MOONLIGHT:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [2, None])
def test_orthogonalise_equals_the_written_iteration(
    shape: tuple[int, int], rank: int | None
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    if rank:
        matrix = torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
    found = orthogonalise(matrix[None], MOONLIGHT)[0]
    assert float((found - newton_schulz(matrix)).abs().max()) < 1e-4


def groups(parameters: list[nn.Parameter], decay: float, on: bool) -> list[dict]:
    return [{"params": parameters, "muon": on, "weight_decay": decay}]


def test_muon_steps_equal_the_formula() -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    expected = [p.detach().double() for p in parameters]
    momenta = [torch.zeros_like(e) for e in expected]
    ours = Muon(groups(parameters, 0.1, True), 0.02, 0.95, (0.9, 0.95), 1e-8)
    for step in range(4):
        for group in ours.param_groups:
            group["lr"] = 0.02 / (step + 1)
        for i, p in enumerate(parameters):
            p.grad = torch.randn(p.shape)
            momenta[i] = 0.95 * momenta[i] + p.grad.double()
            o = newton_schulz(p.grad.double() + 0.95 * momenta[i])
            o = o * 0.2 * max(p.shape) ** 0.5
            expected[i] = expected[i] - 0.02 / (step + 1) * (o + 0.1 * expected[i])
        ours.step()
    worst = max(
        float((p.detach() - e).abs().max()) for p, e in zip(parameters, expected, strict=True)
    )
    assert worst < 1e-5


def test_muon_steps_equal_torch_muon_within_its_bf16() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = Muon(groups(ours, 0.1, True), 0.02, 0.95, (0.9, 0.95), 1e-8)
    two = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        one.step()
        two.step()
    for p, q in zip(ours, theirs, strict=True):
        # Three updates of about 0.2 lr = 4e-3 each; bf16 rounds by 1 %.
        assert float((p - q).detach().abs().max()) < 1e-3


def test_the_adamw_part_equals_torch_adamw_with_decay() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5, 7)) for _ in range(2))
    one = Muon(groups([ours], 0.1, False), 0.02, 0.95, (0.9, 0.95), 1e-8)
    two = torch.optim.AdamW([theirs], 0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for _ in range(4):
        ours.grad = torch.randn(5, 7)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_big_matrices_are_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def updates() -> list[torch.Tensor]:
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
        optimizer = Muon(groups(parameters, 0.0, True), 0.02, 0.95, (0.9, 0.95), 1e-8)
        for p in parameters:
            p.grad = torch.randn(p.shape)
        optimizer.step()
        assert optimizer.calls == len(SHAPES)
        return [p.detach() for p in parameters]

    together = updates()
    monkeypatch.setattr(muon, "_BATCH", 1)
    for a, b in zip(together, updates(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_embeddings_head_and_vectors_stay_with_adamw(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for tied in (True, False):
        folder = tiny_llama(tmp_path / str(tied), tie_word_embeddings=tied)
        model = AutoModelForCausalLM.from_pretrained(folder)
        names = {id(p): name for name, p in model.named_parameters()}
        hidden, matrices, vectors = muon_groups(model, 0.1)
        assert all("proj" in names[id(p)] for p in hidden["params"])
        assert len(hidden["params"]) == 2 * 7
        outer = {names[id(p)] for p in matrices["params"]}
        assert outer == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
        assert vectors["weight_decay"] == 0.0 and hidden["weight_decay"] == 0.1
        assert all("norm" in names[id(p)] for p in vectors["params"])


def test_stacks_of_matrices_and_models_without_any_are_refused() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.zeros(4, 8, 8))

    with pytest.raises(ConjointError, match=r"up of this model is 3-D; use optim\.name=adamw"):
        muon_groups(Experts(), 0.0)
    with pytest.raises(ConjointError, match="no hidden matrix"):
        muon_groups(nn.Embedding(4, 4), 0.0)


def test_the_start_stops_where_nothing_is_orthogonalised(monkeypatch: pytest.MonkeyPatch) -> None:
    def started() -> MuonClip:
        run = MuonClip(nn.Linear(24, 32), OptimConfig(name="muon"), "segments")
        run.start(run.optimizer, torch.device("cpu"))
        return run

    run = started()
    assert not run.optimizer.state, "the proof leaves no momentum behind"
    monkeypatch.setattr(muon, "orthogonalise", lambda stack, coefficients: stack)
    with pytest.raises(StopRun, match="not orthogonalised"):
        started()
    monkeypatch.undo()
    run = started()
    # As if a wrapper had dropped the group of matrices on its way to the step.
    del run.optimizer.param_groups[0]
    run.optimizer.step()
    with pytest.raises(StopRun, match="orthogonalised 0 matrices in one update, expected 1"):
        run.after_step(applied=True)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_pieces_of_a_flat_group_are_where_zero_puts_them(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters end to end, with padding between and after, cut into one range a rank."""
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5, 2), (4, 4))]
    offsets, total = [0, 12, 24], 42
    flat = torch.zeros(total)
    for parameter, offset in zip(parameters, offsets, strict=True):
        flat[offset : offset + parameter.numel()] = parameter.detach().flatten()
    rebuilt = [torch.zeros(p.numel()) for p in parameters]
    for rank, held in enumerate(flat.chunk(world)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group, rank=rank: rank)
        wrapper = SimpleNamespace(
            single_partition_of_fp32_groups=[held],
            real_dp_process_group=[None],
            round_robin_bit16_groups=[parameters],
            round_robin_bit16_offsets=[offsets],
        )
        layout = zero_layout._flat_groups(wrapper)[id(held)]
        for whole, piece in zip(rebuilt, layout.pieces, strict=True):
            whole[piece.start : piece.start + piece.length] = piece.of(held)
        assert layout.split == {1: set(), 2: {1}, 3: {1, 2}}[world]
    for parameter, whole in zip(parameters, rebuilt, strict=True):
        assert torch.equal(parameter.detach().flatten(), whole)
