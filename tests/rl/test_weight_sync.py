"""Weight sync: the order of calls, what an engine must answer, and the parts of the NCCL transport
that need no GPU. Shared memory between real processes is in tests/e2e/test_weight_sync.py."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from conjoint.envs.types import StopRun
from conjoint.rl.learner.rank import NamedWeights
from conjoint.rl.weight_sync import PausedSync, WeightSyncConfig
from conjoint.rollouts.engine.base import RolloutConfig
from conjoint.rollouts.engine.vllm_worker import engine_environment
from conjoint.rollouts.weights import buffer as weights
from conjoint.rollouts.weights import nccl_sender as nccl_sync
from conjoint.rollouts.weights.buffer import SharedBuffer
from conjoint.rollouts.weights.digest import WeightDigest
from conjoint.rollouts.weights.ipc_sender import IpcSender
from conjoint.rollouts.weights.manifest import Loaded, Manifest
from conjoint.rollouts.weights.nccl_sender import DigestSource, EngineClient, NcclSender
from conjoint.rollouts.weights.sender import WeightMeta
from conjoint.rollouts.weights.shm_sender import SharedMemorySender
from tests.rollouts.engine.fake_workers import Fakes


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(4, 3).to(dtype), "b": torch.randn(7).to(dtype), "c": torch.zeros(2)}


def digest(named: dict[str, torch.Tensor]) -> str:
    made = WeightDigest()
    for name, tensor in named.items():
        made.add(name, tensor)
    return made.hexdigest()


class Log:
    """Objects that write down which of their methods are called, in one list."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []


class FakeMethod:
    def __init__(self, log: Log, name: str, worker: int, answers: dict[str, Any]) -> None:
        self._log, self._name, self._worker, self._answers = log, name, worker, answers

    def remote(self, *args: Any) -> Any:
        self._log.calls.append((self._worker, self._name, *args))
        return self._answers.get(self._name)


class FakeWorker:
    """A Ray handle: `worker.method.remote(...)` is written down and answered from a dict."""

    def __init__(self, log: Log, index: int, **answers: Any) -> None:
        self._log, self._index, self._answers = log, index, answers

    def __getattr__(self, name: str) -> FakeMethod:
        return FakeMethod(self._log, name, self._index, self._answers)


class SyncLearner:
    def __init__(self, log: Log) -> None:
        self._log = log

    async def send_weights(self, sender: Any, version: int) -> Any:
        self._log.calls.append(("send", version))
        return sender.send(Named(tensors()), version)

    async def logprobs(self, tokens: list[int]) -> list[float]:
        self._log.calls.append(("learner", "logprobs"))
        return [-1.0] * (len(tokens) - 1)


class SyncEngine:
    def __init__(self, log: Log, gap: float = 0.0) -> None:
        self._log, self._gap = log, gap

    async def pause(self, *, drain: bool = True) -> None:
        self._log.calls.append(("pause",))

    async def resume(self) -> None:
        self._log.calls.append(("resume",))

    async def load_weights(self, sent: Any, version: int) -> str:
        self._log.calls.append(("load", sent.checksum, version))
        return sent.checksum

    async def prompt_logprobs(self, tokens: list[int]) -> list[float]:
        self._log.calls.append(("engine", "logprobs"))
        return [-1.0 + self._gap] * (len(tokens) - 1)


class Named:
    def __init__(self, named: dict[str, torch.Tensor]) -> None:
        self._named = named

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self._named.items()

    def metadata(self) -> list[WeightMeta]:
        return [WeightMeta(n, t.dtype, tuple(t.shape)) for n, t in self._named.items()]


class FixedSender:
    def send(self, weights: Any, version: int) -> Loaded:
        return Loaded(f"of {version}")


async def test_order_is_pause_send_load_resume_probe_and_the_probe_is_due_every_nth_sync():
    log = Log()
    sync = PausedSync(WeightSyncConfig(probe_every=2), FixedSender(), 100, 0)
    for version in range(3):
        await sync(SyncLearner(log), SyncEngine(log), version)  # type: ignore[arg-type]
    probe = [("learner", "logprobs"), ("engine", "logprobs")]
    for version in range(3):
        expected = [("pause",), ("send", version), ("load", f"of {version}", version), ("resume",)]
        expected += probe if version != 1 else []
        assert log.calls[: len(expected)] == expected
        del log.calls[: len(expected)]
    assert not log.calls


WEIGHTS = "conjoint.rollouts.weights"


@pytest.mark.parametrize("gap", [0.01, float("nan")])
async def test_a_probe_beyond_its_tolerance_stops_the_run(gap: float):
    sync = PausedSync(WeightSyncConfig(probe_tolerance=0.005), FixedSender(), 100, 0)
    with pytest.raises(StopRun, match="does not use the weights it was sent"):
        await sync(SyncLearner(Log()), SyncEngine(Log(), gap), 0)  # type: ignore[arg-type]


async def test_probe_every_0_never_probes():
    log = Log()
    sync = PausedSync(WeightSyncConfig(probe_every=0), FixedSender(), 100, 0)
    await sync(SyncLearner(log), SyncEngine(log), 0)  # type: ignore[arg-type]
    assert ("engine", "logprobs") not in log.calls


# -- what engines must answer -----------------------------------------------------------------


async def engine_answering(*receipts: Any) -> Fakes:
    """One worker a receipt; each answers `load_weights` with it."""
    fakes = await Fakes(engines=len(receipts)).ready(version=None)
    for actor, receipt in zip(fakes.launched, receipts, strict=True):
        actor.receipts = [receipt]
    return fakes


async def test_engines_that_all_confirm_may_sample_and_are_told_nothing_they_hold():
    right = {"version": 3, "checksum": "x"}
    fakes = await engine_answering(right, right)
    assert await fakes.engine.load_weights(Loaded("x"), 3) == "x"
    for actor in fakes.launched:
        assert [c for c in actor.calls if c[0] != "ping"][1:] == [("load_weights", None, 3)]
    await fakes.engine.close()


@pytest.mark.parametrize(
    "wrong", [{"version": 3, "checksum": "y"}, {"version": 2, "checksum": "x"}, None]
)
async def test_one_wrong_receipt_stops_the_run_and_no_engine_samples(wrong: Any):
    fakes = await engine_answering({"version": 3, "checksum": "x"}, wrong)
    with pytest.raises(StopRun, match="expected version 3 and checksum x"):
        await fakes.engine.load_weights(Loaded("x"), 3)
    with pytest.raises(StopRun, match="must not sample"):
        await fakes.engine([1], max_tokens=1, temperature=1.0, seed=0)
    await fakes.engine.close()


# -- shared memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [weights._CHUNK, 40])
def test_shared_memory_holds_every_tensor_and_its_checksum_sees_one_changed_byte(
    tmp_path, monkeypatch, chunk: int
):
    monkeypatch.setattr(weights, "_CHUNK", chunk)
    sender = SharedMemorySender(str(tmp_path / "buffer"))
    named = tensors()
    sent = sender.send(Named(named), 5)
    reader = SharedBuffer(sent.path, sent.nbytes, create=False)
    assert (sent.version, sent.checksum) == (5, reader.checksum(sent.nbytes))
    for spec in sent.tensors:
        flat = torch.frombuffer(
            bytearray(reader.view[spec.offset : spec.offset + spec.nbytes]), dtype=torch.float32
        )
        assert torch.equal(flat.view(spec.shape), named[spec.name])
    assert sent.update_info() is not None
    assert Manifest.from_dict(sent.update_info()["manifest"]) == sent
    for place in (0, sent.nbytes - 1):
        reader.view[place] = reader.view[place] ^ 1
        assert reader.checksum(sent.nbytes) != sent.checksum
        reader.view[place] = reader.view[place] ^ 1


# -- NCCL without a GPU -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_digest_is_equal_for_equal_tensors_in_any_order(dtype: torch.dtype):
    named = tensors(dtype)
    assert digest(named) == digest(dict(reversed(named.items())))
    assert digest(named) == digest({name: t.clone() for name, t in named.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digest_sees_any_one_changed_element(dtype: torch.dtype):
    named = tensors(dtype)
    whole = digest(named)
    for name, tensor in named.items():
        for i in range(tensor.numel()):
            changed = tensor.clone()
            flat = changed.view(-1)
            flat[i] = torch.nextafter(flat[i].float(), torch.tensor(9.0)) if i else -9.0
            if torch.equal(changed, tensor):  # one fp32 step is less than one bf16 step
                flat[i] += 1
            assert digest({**named, name: changed}) != whole, (name, i)


def test_digest_sees_a_swap_a_missing_zero_tensor_and_another_name_shape_or_type():
    named = tensors()
    swapped = named["b"][[1, 0, 2, 3, 4, 5, 6]]
    variants = [
        {**named, "b": swapped},
        {**named, "b": named["b"].view(7, 1)},
        {**named, "c": named["c"].to(torch.int32)},
        {k: named[k] for k in ("a", "b")},
        {"a": named["a"], "B": named["b"], "c": named["c"]},
    ]
    assert len({digest(named), *map(digest, variants)}) == 1 + len(variants)


def test_digest_does_not_depend_on_the_chunks_it_is_computed_in(monkeypatch):
    named = tensors()
    whole = digest(named)
    monkeypatch.setattr("conjoint.rollouts.weights.digest._CHUNK", 2)
    assert digest(named) == whole


def test_source_digests_what_it_gives_and_metadata_agrees_with_it():
    source = DigestSource(Named(tensors()))
    given = dict(source)
    assert source.digest.hexdigest() == digest(given)
    assert [(m.name, m.dtype, m.shape) for m in source.metadata()] == [
        (name, t.dtype, tuple(t.shape)) for name, t in given.items()
    ]


def test_metadata_of_a_zero3_shard_is_that_of_the_full_tensor():
    module = torch.nn.Linear(3, 2)
    module.weight.data = torch.empty(0)
    module.weight.ds_shape = torch.Size((2, 3))  # type: ignore[assignment]
    found = NamedWeights(module, gather=True).metadata()
    assert [(m.name, m.shape) for m in found] == [("weight", (2, 3)), ("bias", (2,))]


def test_client_gives_each_engine_its_ranks_and_every_call_its_version(monkeypatch):
    log = Log()
    monkeypatch.setattr(nccl_sync.ray, "get", lambda calls, timeout: calls)
    client = EngineClient([FakeWorker(log, i) for i in range(3)], 2, 9.0)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert log.calls == [
        (i, "init_transfer", {"rank_offset": 1 + 2 * i, "world_size": 7}) for i in range(3)
    ]
    log.calls.clear()
    client.version = 4
    client.start_weight_update()
    client.update_weights({"names": ["a"]})
    client.finish_weight_update()
    assert log.calls == [
        *((i, "start_weight_update") for i in range(3)),
        *((i, "update_weights", {"names": ["a"], "version": 4}) for i in range(3)),
        *((i, "finish_weight_update", 4) for i in range(3)),
    ]


class FakeTrainer:
    """The order in which vLLM's trainer engine drives client and source."""

    def __init__(self, client: Any, source: Any) -> None:
        self.client, self.source = client, source
        self.sent: list[dict[str, torch.Tensor]] = []

    def send_weights(self) -> None:
        self.client.start_weight_update()
        self.client.update_weights({"names": [m.name for m in self.source.metadata()]})
        self.sent.append(dict(self.source))
        self.client.finish_weight_update()


def test_sender_connects_once_and_answers_the_digest_of_each_version(monkeypatch):
    log, opened = Log(), []
    monkeypatch.setattr(nccl_sync.ray, "get", lambda calls, timeout: calls)

    def open_link(self: NcclSender, weights: Any) -> Any:
        client = EngineClient(self.workers, self.tensor_parallel, self.timeout_s)
        source = DigestSource(weights)
        opened.append(self.world_size)
        return nccl_sync.Link(client, source, FakeTrainer(client, source))

    monkeypatch.setattr(NcclSender, "_open", open_link)
    sender = NcclSender([FakeWorker(log, 0), FakeWorker(log, 1)], 4, 9.0)
    first, second = tensors(), {**tensors(), "b": torch.ones(7)}
    assert sender.send(Named(first), 1) == Loaded(digest(first))
    assert sender.send(Named(second), 2) == Loaded(digest(second))
    assert opened == [9]
    assert [c[2] for c in log.calls if c[1] == "finish_weight_update"] == [1, 1, 2, 2]
    assert Loaded(digest(first)).update_info() is None


def test_our_calls_fit_the_trainer_protocol_of_the_installed_vllm():
    """vLLM's own trainer class, with only the broadcast replaced."""
    engine = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    calls: list[str] = []

    class Client:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: calls.append(name)

    class Group:
        def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
            calls.append(f"broadcast {tuple(tensor.shape)}")

    source: Any = DigestSource(Named(tensors()))
    trainer = engine.NCCLTrainerWeightTransferEngine(
        client=Client(), source=source, is_sender=True, packed=False
    )
    trainer.model_update_group = Group()
    torch_stream, torch.cuda.current_stream = torch.cuda.current_stream, lambda: None
    try:
        trainer.send_weights()
    finally:
        torch.cuda.current_stream = torch_stream
    assert calls[0] == "start_weight_update" and calls[-1] == "finish_weight_update"
    assert sorted(calls[1:-1]) == [
        "broadcast (2,)",
        "broadcast (4, 3)",
        "broadcast (7,)",
        "update_weights",
    ]
    assert source.digest.hexdigest() == digest(tensors())


GPU_ENGINES = [
    ("nccl_engine", "NCCLWeightTransferEngine", "nccl_receiver", "DigestNcclEngine", {}),
    (
        "ipc_engine",
        "IPCWeightTransferEngine",
        "ipc_receiver",
        "DigestIpcEngine",
        {"ipc_handles": [{}]},
    ),
]


@pytest.mark.parametrize(("module", "base", "ours", "name", "more"), GPU_ENGINES)
def test_receiving_engine_answers_the_digest_of_what_arrived_and_restores_its_model(
    monkeypatch, module: str, base: str, ours: str, name: str, more: dict[str, Any]
):
    """All tensors in one call as NCCL sends them, then one a call as packed IPC does."""
    theirs = getattr(pytest.importorskip(f"vllm.distributed.weight_transfer.{module}"), base)
    receiving = getattr(importlib.import_module(f"{WEIGHTS}.{ours}"), name)
    loaded: dict[str, torch.Tensor] = {}

    class Model:
        def load_weights(self, weights: Any) -> None:
            loaded.update(weights)

    def receive(self: Any, info: Any) -> None:
        for each in info.names:
            self.model.load_weights(iter([(each, arriving[each])]))

    monkeypatch.setattr(theirs, "start_weight_update", lambda self: None)
    monkeypatch.setattr(theirs, "finish_weight_update", lambda self: None)
    monkeypatch.setattr(theirs, "receive_weights", receive)
    receiver = object.__new__(receiving)
    receiver.model = model = Model()
    arriving = tensors()
    for version, parts in enumerate(([["a", "b", "c"]], [["a"], ["b"], ["c"]]), start=1):
        receiver.start_weight_update()
        for names in parts:
            assert receiver.receipt is None, "confirmed before the load was finished"
            fields = {"dtype_names": ["x"] * len(names), "shapes": [[1]] * len(names)}
            handles = {key: value * len(names) for key, value in more.items()}
            info = {"names": names, **fields, **handles, "version": version}
            receiver.receive_weights(receiver.parse_update_info(info))
        receiver.finish_weight_update()
        assert receiver.receipt == {"version": version, "checksum": digest(arriving)}
        assert receiver.model is model
        arriving = {**arriving, "a": torch.ones(4, 3)}
    assert loaded.keys() == arriving.keys()
    receiver.start_weight_update()
    with pytest.raises(AssertionError, match="without update_weights"):
        receiver.finish_weight_update()


# -- CUDA IPC without a GPU -------------------------------------------------------------------


def test_ipc_goes_through_the_trainer_class_of_the_installed_vllm(monkeypatch):
    """Only the export of GPU memory is replaced: by one part for each tensor."""
    engine = pytest.importorskip("vllm.distributed.weight_transfer.ipc_engine")
    log = Log()
    monkeypatch.setattr(nccl_sync.ray, "get", lambda calls, timeout: calls)
    trainer = engine.IPCTrainerWeightTransferEngine

    def export(self: Any, source: Any) -> None:
        for name, tensor in source:
            self._do_send([name], ["float32"], [list(tensor.shape)], {"gpu": ()}, [4])

    def made(self: Any, *, client: Any, source: Any, is_sender: bool, packed: bool, **sizes: Any):
        self.client, self.source, self.is_sender, self.packed = client, source, is_sender, packed

    monkeypatch.setattr(trainer, "__init__", made)
    monkeypatch.setattr(trainer, "_send_packed", export)
    monkeypatch.setattr(trainer, "_post_send_sync", staticmethod(lambda: None))
    sender = IpcSender([FakeWorker(log, 0), FakeWorker(log, 1)], 1, 9.0)
    for version in (1, 2):
        assert sender.send(Named(tensors()), version) == Loaded(digest(tensors()))
    calls = [(worker, name) for worker, name, *_ in log.calls]
    once = ["start_weight_update", *["update_weights"] * 3, "finish_weight_update"]
    names = ["init_transfer", *once, *once]
    assert calls == [(worker, name) for name in names for worker in (0, 1)]
    assert log.calls[0][2] == {"packed": True}, "each engine is told how the parts are packed"
    updates = [call[2] for call in log.calls if call[1] == "update_weights"]
    assert [u["version"] for u in updates] == [1] * 6 + [2] * 6
    receiving = importlib.import_module(f"{WEIGHTS}.ipc_receiver").DigestIpcUpdateInfo
    assert receiving(**updates[0]).names == ["a"]


def test_only_ipc_lets_engines_unpickle():
    key = "VLLM_ALLOW_INSECURE_SERIALIZATION"
    assert [key in engine_environment(RolloutConfig(), b) for b in ("shm", "nccl", "ipc")] == [
        False,
        False,
        True,
    ]
