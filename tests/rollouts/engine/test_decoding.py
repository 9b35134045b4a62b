"""Decoding with a plain transformers model: what is drawn, from which distribution, under which
weights; padding, the cache and answers that leave the batch change nothing."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch

from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.decoding import Decoder, Row, draw, repeats
from conjoint.rollouts.engine.vllm_worker import SampleRequest, SampleResult
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.fakes import tiny_llama

END = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def decoder(folder: Path) -> Decoder:
    made = Decoder(str(folder), RolloutConfig(max_model_len=64, max_tokens=12))
    made.stop_ids = frozenset({END})
    return made


def request(prompt: list[int], seed: int = 0, max_tokens: int = 12, heat: float = 0.7):
    return SampleRequest(prompt, max_tokens, heat, seed)


def decode(decoder: Decoder, *requests: SampleRequest) -> list[SampleResult]:
    batch = decoder.batch(requests)
    while batch.running:
        batch.step()
    return [row.result() for row in batch.rows]


def recomputed(decoder: Decoder, prompt: list[int], answer: list[int], heat: float) -> list[float]:
    """Log-prob of each token of the answer after temperature, in one pass without a cache."""
    with torch.no_grad():
        logits = decoder.model(torch.tensor([prompt + answer])).logits[0]
    table = (logits / heat).log_softmax(-1)
    return [table[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]


def change(decoder: Decoder, tmp_path: Path, version: int) -> None:
    """Every weight is another one, sent as a learner sends it."""
    torch.manual_seed(version)
    named = {n: p + 0.1 * torch.randn_like(p) for n, p in decoder.model.named_parameters()}
    sent = SharedMemorySender(str(tmp_path / f"buffer-{version}")).send(named.items(), version)
    assert decoder.load(sent) == {"version": version, "checksum": sent.checksum}


PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [20] * 20, [5, 6, 7, 8, 9, 10, 11]]


def test_logprobs_are_of_the_distribution_sampled_from_whatever_shares_the_batch(decoder: Decoder):
    requests = [request(p, seed=i, max_tokens=4 + 3 * i) for i, p in enumerate(PROMPTS)]
    together = decode(decoder, *requests)
    assert len({len(result.tokens) for result in together}) == 4, "none left the batch early"
    for asked, result in zip(requests, together, strict=True):
        (alone,) = decode(decoder, asked)
        assert result.tokens == alone.tokens
        expected = recomputed(decoder, asked.tokens, result.tokens, asked.temperature)
        assert result.logprobs == pytest.approx(expected, abs=1e-5)
        assert result.versions == [0] * len(result.tokens)


def test_equal_requests_give_equal_answers_to_the_bit_and_seeds_differ(decoder: Decoder):
    requests = [request(PROMPTS[0], seed=i) for i in range(8)]
    assert decode(decoder, *requests) == decode(decoder, *requests)
    assert len({tuple(result.tokens) for result in decode(decoder, *requests)}) > 4


def test_an_answer_ends_with_its_stop_token_or_its_room(decoder: Decoder):
    results = decode(decoder, *(request(PROMPTS[1], seed=i, heat=2.0) for i in range(64)))
    ends = Counter(result.stop_reason for result in results)
    assert ends.keys() == {"stop", "length"}
    for result in results:
        stopped = result.stop_reason == "stop"
        assert (END in result.tokens) is stopped and END not in result.tokens[:-1]
        assert stopped or len(result.tokens) == 12
    (cut,) = decode(decoder, request([7] * 60, max_tokens=12, heat=0.0))
    assert (len(cut.tokens), cut.stop_reason) == (4, "length")
    with pytest.raises(ValueError, match="64 tokens in a context of 64"):
        decoder.batch([request([7] * 64)])


def test_new_weights_between_two_steps_recompute_the_cache(decoder: Decoder, tmp_path: Path):
    asked = [request(prompt, seed=i, max_tokens=8) for i, prompt in enumerate(PROMPTS)]
    decoder.stop_ids = frozenset()
    batch = decoder.batch(asked)
    for _ in range(3):
        batch.step()
    before = copy.copy(decoder)
    before.model = copy.deepcopy(decoder.model)
    change(decoder, tmp_path, 5)
    while batch.running:
        batch.step()
    for row in batch.rows:
        assert row.versions == [0] * 3 + [5] * 5
        old = recomputed(before, row.request.tokens, row.tokens, 0.7)
        new = recomputed(decoder, row.request.tokens, row.tokens, 0.7)
        assert row.logprobs == pytest.approx(old[:3] + new[3:], abs=1e-5)
        assert max(abs(a - b) for a, b in zip(old, new, strict=True)) > 0.01


def test_weights_that_do_not_fit_are_refused_before_one_is_loaded(decoder: Decoder, tmp_path: Path):
    named = {n: torch.zeros_like(p) for n, p in decoder.model.named_parameters()}
    before = {n: p.clone() for n, p in decoder.model.named_parameters()}
    norm = named.pop("model.norm.weight")
    for more in ({}, {"model.norm.weight": norm[:1]}, {"model.norm.weight": norm, "x": norm}):
        sender = SharedMemorySender(str(tmp_path / str(len(more))) + str(sum(map(len, more))))
        with pytest.raises(RuntimeError, match="do not fit the engine's model"):
            decoder.load(sender.send({**named, **more}.items(), 1))
    assert decoder.version == 0
    assert all(torch.equal(p, before[n]) for n, p in decoder.model.named_parameters())


def test_a_folder_that_lacks_a_weight_is_refused(folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"lacks weights: \['model.norm.weight'\]"):
        Decoder(str(tmp_path), RolloutConfig())


def test_the_probe_agrees_with_a_pass_without_padding(decoder: Decoder):
    expected = recomputed(decoder, PROMPTS[0][:1], PROMPTS[0][1:], 1.0)
    assert decoder.prompt_logprobs(PROMPTS[0]) == pytest.approx(expected, abs=1e-6)


def test_what_is_drawn_follows_the_distribution_and_greedy_takes_the_likeliest():
    logits = torch.tensor([0.0, 1.0, 2.0, float("-inf")])
    chances = (logits / 0.5).softmax(-1)
    count = 4000
    rows = [row(seed=i, heat=0.5) for i in range(count)]
    tokens, logprobs = draw(logits.expand(count, -1), rows)
    for token in range(3):
        share = chances[token].item()
        assert tokens.count(token) / count == pytest.approx(share, abs=4 * (share / count) ** 0.5)
    assert 3 not in tokens
    assert logprobs == pytest.approx([chances[token].log().item() for token in tokens], abs=1e-6)
    tokens, logprobs = draw(logits[None], [row(heat=0.0)])
    assert tokens == [2] and logprobs == pytest.approx([logits.log_softmax(-1)[2].item()])


@pytest.mark.parametrize(("share", "kept"), [(0.75, [0, 2]), (0.5, [2]), (1.0, [0, 1, 2, 3])])
def test_top_p_draws_from_the_likeliest_tokens_and_reports_their_own_logprobs(
    share: float, kept: list[int]
):
    chances = torch.tensor([0.3, 0.15, 0.5, 0.05])
    rows = [row(seed=i, share=share) for i in range(600)]
    rows.append(row(seed=7))  # one without a share beside them
    tokens, logprobs = draw(chances.log().expand(len(rows), -1), rows)
    assert sorted(set(tokens[:-1])) == kept
    expected = (chances / chances[kept].sum()).log()
    assert logprobs[:-1] == pytest.approx([expected[t].item() for t in tokens[:-1]], abs=1e-6)
    assert logprobs[-1] == pytest.approx(chances.log()[tokens[-1]].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("tokens", "longest", "found"),
    [
        ([1, 5, 5, 5], 1, True),
        ([5, 5, 5, 1], 4, False),
        ([1, 5, 5], 4, False),
        ([9, 1, 2, 1, 2, 1, 2], 2, True),
        ([9, 1, 2, 1, 2, 1, 2], 1, False),
        ([2, 1, 2, 1, 2], 2, False),
        ([5, 5, 5], 0, False),
        ([], 3, False),
    ],
)
def test_a_repeated_pattern_is_seen_at_the_end_alone(tokens: list[int], longest: int, found: bool):
    assert repeats(tokens, longest, 3) is found
    vllm = pytest.importorskip("vllm.v1.core.sched.utils")
    params = pytest.importorskip("vllm.sampling_params").RepetitionDetectionParams
    if longest:
        assert vllm.check_sequence_repetition(tokens, params(longest, min_count=3)) is found


def test_an_answer_that_repeats_itself_is_cut_off(folder: Path):
    cfg = RolloutConfig(max_model_len=64, max_tokens=40, repeat_pattern=3, repeat_count=3)
    made = Decoder(str(folder), cfg)
    answers = decode(made, *(request([5], seed=i, max_tokens=60, heat=0.05) for i in range(8)))
    cut = [a for a in answers if a.stop_reason == "repetition"]
    assert cut and all(repeats(a.tokens, 3, 3) and not repeats(a.tokens[:-1], 3, 3) for a in cut)


def row(seed: int = 0, heat: float = 1.0, share: float = 1.0) -> Row:
    asked = SampleRequest([5], 8, heat, seed, share)
    return Row(asked, torch.Generator().manual_seed(seed), 8)
