"""Set-up: what it passes on from pip to uv, what it says when something is missing, its pins."""

import re
import subprocess
import sys
import tomllib

import pytest

from conjoint.scripts import bootstrap
from conjoint.scripts.bootstrap import (
    CONSTRAINTS,
    OVERRIDES,
    ROOT,
    SetupError,
    check_machine,
    explain,
    parse_pip_config,
    uv_environment,
)

LISTED = """\
:env:.find-links='/env/wheels'
global.find-links='/a /b'
global.index-url='https://mirror.example/simple'
install.cert='/cert.pem'
global.cert='/other.pem'
freeze.all='true'
"""


def test_pip_settings_reach_uv_and_the_environment_ranks_first():
    pip = parse_pip_config(LISTED)
    assert uv_environment(pip, {}) == {
        "UV_SYSTEM_CERTS": "true",
        "UV_FIND_LINKS": "/env/wheels",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "SSL_CERT_FILE": "/cert.pem",
    }


def test_several_wheel_folders_are_separated_as_uv_wants():
    pip = parse_pip_config("global.find-links='/a /b'\n")
    assert uv_environment(pip, {})["UV_FIND_LINKS"] == "/a,/b"


def test_what_the_user_set_for_uv_stays():
    pip = parse_pip_config(LISTED)
    passed = uv_environment(pip, {"UV_FIND_LINKS": "/mine", "SSL_CERT_FILE": ""})
    assert "UV_FIND_LINKS" not in passed
    assert passed["SSL_CERT_FILE"] == "/cert.pem"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("error sending request for url (https://files.example/x)", "files.example cannot be"),
        ("<HTTPSConnection(host='x')>: Failed to establish a new connection", "package registry"),
        ("invalid peer certificate: UnknownIssuer", "certificate is not trusted"),
        ("No solution found when resolving dependencies", "no matching build"),
        ("failed to write: No space left on device (os error 28)", "the disk is full"),
        ("warning: x\nerror: something new\n", "the installer failed (error: something new)"),
        ("", "the installer failed (without a word)"),
    ],
)
def test_a_failed_installation_is_explained_in_one_line(said, words):
    assert words in explain(said)
    assert "\n" not in explain(said)


def test_machines_without_builds_are_refused_by_name():
    check_machine((3, 11), "Linux", "x86_64")
    check_machine((3, 14), "Linux", "aarch64")
    with pytest.raises(SetupError, match=r"Python 3\.11 to 3\.14 is needed, this is 3\.10"):
        check_machine((3, 10), "Linux", "x86_64")
    with pytest.raises(SetupError, match=r"this is 3\.15"):
        check_machine((3, 15), "Linux", "x86_64")
    with pytest.raises(SetupError, match="this is Darwin arm64"):
        check_machine((3, 12), "Darwin", "arm64")


def test_a_stamped_environment_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / bootstrap.STAMP).write_text(bootstrap.fingerprint("cpu"))
    monkeypatch.setattr(bootstrap, "make_venv", lambda venv: pytest.fail("set up again"))
    bootstrap.set_up(tmp_path, "cpu")
    assert bootstrap.fingerprint("cpu") != bootstrap.fingerprint("gpu")


def test_a_failure_leaves_no_stamp_and_the_log_says_why(tmp_path, monkeypatch):
    (tmp_path / bootstrap.STAMP).write_text("an older set")
    monkeypatch.setattr(bootstrap, "make_venv", lambda venv: None)
    monkeypatch.setattr(bootstrap, "UV", "no such requirement!")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(SetupError, match=r"log: .*conjoint-setup\.log"):
        bootstrap.set_up(tmp_path, "cpu")
    assert not (tmp_path / bootstrap.STAMP).exists()


def test_a_configured_wheel_folder_comes_before_pytorchs_index(tmp_path, monkeypatch):
    calls: list[list[str]] = []

    def run(command, log, environment):
        calls.append(command)
        if len(calls) == 1:
            raise SetupError("no matching build")

    monkeypatch.setattr(bootstrap, "run", run)
    log = tmp_path / "log"
    bootstrap.install("python", "cpu", log, {"UV_FIND_LINKS": "/wheels"})
    assert ["--torch-backend=cpu" in command for command in calls] == [False, True]
    calls[:] = [[]]
    bootstrap.install("python", "cpu", log, {})
    bootstrap.install("python", "gpu", log, {})
    assert ["--torch-backend=cpu" in command for command in calls[1:]] == [True, False]
    assert [str(OVERRIDES) in command for command in calls[1:]] == [True, False]


def test_no_python_that_fits_is_one_sentence():
    result = subprocess.run(
        ["make", "setup", "PYTHON=/no/such/python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "set-up: Python 3.11 to 3.14 is needed, found /no/such/python" in result.stderr


def test_constraints_fit_the_project_and_name_no_address():
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "only plain pins"
    pins = dict(line.split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[\[<>=]", line)[0] for line in wanted}
    assert names <= pins.keys()
    assert not {"torchvision", "torchaudio", "torchcodec"} & pins.keys()
