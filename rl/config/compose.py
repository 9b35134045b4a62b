"""Command line and YAML -> a validated config.

Hydra composes the files and overrides, pydantic checks the types, `checks.py` refuses values that
contradict each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from conjoint.envs.types import ConjointError
from conjoint.rl.config.checks import validate, validate_parts
from conjoint.rl.config.overrides import checked, one_line, refuse_unknown, type_error, unreadable
from conjoint.rl.config.tree import Config

T = TypeVar("T")
C = TypeVar("C", bound=Config)


CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"
"""Folder of the YAML files."""


def load_config(overrides: Sequence[str]) -> Config:
    """The config of a run: `configs/train.yaml` with `overrides` (KEY=VALUE), validated.

    Raises ConjointError for a key, value or combination that cannot be used.
    """
    return from_dict(compose(overrides))


def compose(
    overrides: Sequence[str],
    base: Mapping[str, Any] | None = None,
    root: type = Config,
    file: str = "train",
) -> dict[str, Any]:
    """Compose `configs/FILE.yaml` and overrides into a plain dict of keys and values.

    `base`, if given, takes the place of the file: a resumed run gives its stored config. `root` is
    the dataclass whose fields are the valid keys. Raises ConjointError for an override or a YAML
    file that Hydra cannot read.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # `experiment` picks a file but is no field of the config.
    mine = {f.name for f in fields(root)} | ({"experiment"} if issubclass(root, Config) else set())
    groups = {name: files for name, files in config_groups().items() if name in mine}
    ready = [checked(override, root, groups) for override in overrides]
    # Hydra's state is global: without this a second call in one process is refused.
    GlobalHydra.instance().clear()
    # Each key is stored with its default, so that Hydra knows the keys that a user may set.
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
    """Folder of configs/ -> names of its files. A user picks one file of a folder: optim=muon."""
    folders = [f for f in CONFIG_DIR.iterdir() if f.is_dir() and f.name != "rubrics"]
    found = {f.name: sorted(p.stem for p in f.glob("*.yaml")) for f in folders}
    return {name: files for name, files in found.items() if files}


def from_dict(data: Mapping[str, Any], root: type[C] = Config) -> C:
    """A validated config from nested keys and values. `root` is Config or a subclass.

    Raises ConjointError, which names an unknown key or a wrong type with its path, or the keys of
    values that cannot be.
    """
    config = typed(root, data)
    validate(config)
    return config


def typed(root: type[T], data: Mapping[str, Any]) -> T:
    """An instance of the dataclass `root`, types checked and every part valid by itself.

    Raises ConjointError, which names an unknown key or a wrong type with its path, or the key of a
    value that a part refuses. The rules of `root` itself are left to the caller.
    """
    from pydantic import TypeAdapter, ValidationError

    refuse_unknown(root, data)
    try:
        config = TypeAdapter(root).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConjointError(
            type_error(where, first["input"], first["type"], first["msg"].lower())
        ) from error
    validate_parts(config)
    return config


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One sentence in place of Hydra's message of several lines."""
    for override in overrides:
        if override.startswith("~"):
            return f"{override} removes nothing: the key is not set"
        key, _, value = override.lstrip("+").partition("=")
        if "," in value and value[:1] not in "[{'\"":
            return f"{key}={value}: expected one value; a list is written [{value}]"
    return f"the configuration cannot be composed: {one_line(error)}"
