"""Command line and YAML -> a validated config: Hydra composes, pydantic types, `checks` refuses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from conjoint.envs.types import ConjointError
from conjoint.rl.config.checks import validate
from conjoint.rl.config.overrides import checked, one_line, refuse_unknown, type_error, unreadable
from conjoint.rl.config.tree import Config

T = TypeVar("T")
C = TypeVar("C", bound=Config)


CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"


def load_config(overrides: Sequence[str]) -> Config:
    """A run's config: `configs/train.yaml` with overrides, validated. Raises ConjointError."""
    return from_dict(compose(overrides))


def compose(
    overrides: Sequence[str],
    base: Mapping[str, Any] | None = None,
    root: type = Config,
    file: str = "train",
) -> dict[str, Any]:
    """The plain dict that Hydra makes of `configs/FILE.yaml` (of `base` instead, if given) and
    overrides; `root` is the dataclass that it is for."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    mine = {f.name for f in fields(root)} | ({"experiment"} if issubclass(root, Config) else set())
    groups = {name: files for name, files in config_groups().items() if name in mine}
    ready = [checked(override, root, groups) for override in overrides]
    GlobalHydra.instance().clear()
    # Every key exists with its default, so that Hydra knows which ones a user may set.
    ConfigStore.instance().store(name="defaults_of_code", node=asdict(root()))
    ConfigStore.instance().store(name="stored", node=dict(base or {}))
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composed = hydra_compose(file if base is None else "stored", overrides=ready)
        plain = OmegaConf.to_container(composed, resolve=True)
    except OverrideParseException as error:
        raise ConjointError(unreadable(error.override)) from error
    except YAMLError as error:
        raise ConjointError(f"a file in configs/ is not YAML: {one_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConjointError(_explain(error, overrides)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def config_groups() -> dict[str, list[str]]:
    """The folders of configs/ that a user picks one file of."""
    folders = [f for f in CONFIG_DIR.iterdir() if f.is_dir() and f.name != "rubrics"]
    found = {f.name: sorted(p.stem for p in f.glob("*.yaml")) for f in folders}
    return {name: files for name, files in found.items() if files}


def from_dict(data: Mapping[str, Any], root: type[C] = Config) -> C:
    """A validated config; unknown keys and wrong types are named with their path. `root` is Config,
    or what extends it."""
    config = typed(root, data)
    validate(config)
    return config


def typed(root: type[T], data: Mapping[str, Any]) -> T:
    """The dataclass with its values. Raises ConjointError naming an unknown key or a wrong type."""
    from pydantic import TypeAdapter, ValidationError

    refuse_unknown(root, data)
    try:
        return TypeAdapter(root).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConjointError):
            raise cause from error
        where = ".".join(map(str, first["loc"]))
        raise ConjointError(
            type_error(where, first["input"], first["type"], first["msg"].lower())
        ) from error


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One sentence for what Hydra says in several lines."""
    for override in overrides:
        if override.startswith("~"):
            return f"{override} removes nothing: the key is not set"
        key, _, value = override.lstrip("+").partition("=")
        if "," in value and value[:1] not in "[{'\"":
            return f"{key}={value}: expected one value; a list is written [{value}]"
    return f"the configuration cannot be composed: {one_line(error)}"
