"""The only place where `sandbox.backend` becomes a `Sandbox`, and what each backend cannot do."""

from collections.abc import Mapping
from typing import Any

from conjoint.rewards.sandbox.base import Sandbox, SandboxConfig


def make_sandbox(config: SandboxConfig) -> Sandbox:
    """Not started yet. Raises ConjointError for settings with which nothing could be run."""
    if config.backend == "local":
        from conjoint.rewards.sandbox.local.jail import LocalJail

        return LocalJail(config)
    from conjoint.rewards.sandbox.remote.remote import RemoteSandbox

    if config.backend == "http":
        from conjoint.rewards.sandbox.remote.http import HttpPlace

        return RemoteSandbox(config, HttpPlace(config))
    from conjoint.rewards.sandbox.remote.e2b import E2BPlace

    return RemoteSandbox(config, E2BPlace(config))


def unfit(config: SandboxConfig, reference: Mapping[str, Any]) -> str:
    """Why this backend cannot grade a valid code reference; empty if it can."""
    if config.backend == "local":
        return ""
    from conjoint.rewards.sandbox.remote import remote

    if reference["language"] != "python":
        return remote.unfit(config.backend, f"language '{reference['language']}'")
    if reference["tests"]["type"] == "asserts":
        return remote.unfit(config.backend, "tests of type 'asserts'")
    return ""
