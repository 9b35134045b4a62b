"""The mutation harness: it tells killed from survived, and refuses a list that does not fit."""

import subprocess
from pathlib import Path

import pytest

from conjoint.envs.types import ConjointError
from conjoint.scripts import mutants
from conjoint.scripts.mutants import Mutant, copied_tree, judge, load, mutated, try_mutant

CODE = "def add(a, b):\n    return a + b\n"
TESTS = "from sums import add\n\ndef test_two():\n    assert add({}) == {}\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "sums.py").write_text(CODE)
    (tmp_path / "test_sharp.py").write_text(TESTS.format("2, 3", 5))
    (tmp_path / "test_blunt.py").write_text(TESTS.format("2, 2", 4))
    (tmp_path / "test_wrong.py").write_text(TESTS.format("2, 2", 5))
    return tmp_path


def mutant(**changes: str) -> Mutant:
    entry = {"name": "m", "file": "sums.py", "before": "a + b", "after": "a * b"}
    return Mutant(**{**entry, "test": "test_sharp.py::test_two", **changes})


def test_only_a_test_that_fails_is_a_kill_and_the_file_is_whole_again(tree, capsys):
    broken = mutant(name="no longer loads", after="a +")
    blunt = mutant(name="blunt", test="test_blunt.py::test_two")
    assert judge([mutant(), blunt, broken], tree) == 1
    said = capsys.readouterr().out
    assert [word in said for word in ("killed", "survived", "not judged")] == [True] * 3
    assert "1 of 3 mutants killed" in said
    assert (tree / "sums.py").read_text() == CODE
    assert judge([mutant()], tree) == 0


def test_a_mutant_that_hangs_is_not_a_kill(tree, monkeypatch):
    monkeypatch.setattr(mutants, "TIMEOUT", 5.0)
    hanging = mutant(before="return a + b", after="while True: pass")
    outcome = try_mutant(hanging, mutated(hanging, tree), tree)
    assert outcome == "not judged: no answer in 5 s"


def test_a_named_test_that_fails_anyway_proves_nothing(tree):
    with pytest.raises(ConjointError, match="must pass on the unbroken code"):
        judge([mutant(test="test_wrong.py::test_two")], tree)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "none.py"}, "there is no file none.py"),
        ({"before": "a - b"}, "0 times, expected once"),
        ({"before": "a"}, "3 times, expected once"),
        ({"after": "a + b"}, "two different lines"),
        ({"after": "a\n* b"}, "two different lines"),
    ],
)
def test_an_entry_that_does_not_fit_the_code_is_refused(tree, changes, words):
    with pytest.raises(ConjointError, match=words):
        mutated(mutant(**changes), tree)


def test_the_copy_has_new_files_but_no_ignored_ones(tree):
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    (tree / ".gitignore").write_text("runs/\n")
    (tree / "runs").mkdir()
    (tree / "runs" / "big").write_text("")
    with copied_tree(tree) as copy:
        assert (copy / "sums.py").read_text() == CODE
        assert not (copy / "runs").exists()
    assert not copy.exists()


def test_the_kept_list_fits_the_code():
    entries = load(mutants.ROOT / mutants.LIST)
    for entry in entries:
        mutated(entry, mutants.ROOT)
        file, _, name = entry.test.partition("::")
        name = name.partition("[")[0]
        assert f"def {name}(" in (mutants.ROOT / file).read_text(), entry.name


def test_a_malformed_list_names_the_entry(tmp_path):
    path = Path(tmp_path / "list.toml")
    path.write_text('[[mutant]]\nname = "m"\n')
    with pytest.raises(ConjointError, match="entry 1 needs the texts"):
        load(path)
    entry = '[[mutant]]\nname="m"\nfile="f"\nbefore="b"\nafter="a"\ntest="t"\n'
    path.write_text(entry * 2)
    with pytest.raises(ConjointError, match="two entries are named 'm'"):
        load(path)
