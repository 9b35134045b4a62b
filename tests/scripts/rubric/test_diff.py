"""`conjoint rubric diff`: what changed, and the planted pair that flips, with its reason."""

from pathlib import Path

from conjoint.rewards.rubrics.file import read_rubric
from conjoint.scripts.rubric.diff import changed_criteria, changes
from tests.fakes import quoted
from tests.scripts.rubric.conftest import Bench, prefers

OLD = """\
name: brief
version: 1
kind: core
intent: The answer is brief.
short: brief
criteria:
  - {text: It has at most ten words., weight: 1}
  - {text: It names one source.}
examples: {good: [Yes.], bad: [Well.]}
"""
NEW = (
    OLD.replace("version: 1", "version: 2")
    .replace("at most ten", "at least ten")
    .replace("{text: It names one source.}", "{text: It names one source., mandatory: true}")
)


def write() -> None:
    Path("old.yaml").write_text(OLD)
    Path("new.yaml").write_text(NEW)


def judge(prompt: str) -> str:
    """Prefers the shorter answer by the old rubric, and the longer by the new one where the longer
    is about cats; a criterion of many words is met by the longer answers."""
    if "[ANSWER" in prompt:
        return prefers(lambda t: len(t) - 5)(prompt)
    cats = "cats" in quoted(prompt, "REQUEST")
    longer = "at least ten" in prompt and cats
    return prefers(lambda t: len(t) if longer else -len(t), why="long" if longer else "short")(
        prompt
    )


def test_the_planted_pair_flips_and_says_why(bench: Bench):
    write()
    bench.model(judge)
    rows = [
        {"prompt": f"Tell me about {topic}.", "response": text, "id": f"{topic}{len(text)}"}
        for topic in ("cats", "dogs", "rain")
        for text in ("one", "one two three")
    ]
    keys = [f"input={bench.write(rows)}", "output=out"]
    done = bench.run("diff", "old.yaml", "new.yaml", *keys)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "1 pairs flip" in said and "A -> B" in said and "turned │ 1" in said
    assert "share that flips │ 33.3 %" in said
    assert "It has at most ten words. (weight 1) │ It has at least ten words. (weight 1)" in said
    page = Path("out/index.html").read_text()
    assert page.count("<details") == 1 and "old: A" in page and "long" in page
    assert "+ It has at least ten words. A: no, B: yes" in page


def test_the_same_rubric_flips_nothing_and_a_kept_version_is_told(bench: Bench):
    write()
    bench.model(judge)
    rows = [{"prompt": "Tell me about cats.", "response": "x" * n} for n in (2, 9)]
    keys = [f"input={bench.write(rows)}", "criteria=false"]
    same = bench.run("diff", "old.yaml", "old.yaml", *keys)
    assert "0 pairs flip" in same.stdout and "The two versions are the same" in same.stdout
    Path("new.yaml").write_text(NEW.replace("version: 2", "version: 1"))
    kept = bench.run("diff", "old.yaml", "new.yaml", *keys)
    assert "1 pairs flip" in kept.stdout and "The version is the same" in kept.stdout
    one = bench.run("diff", "old.yaml", *keys)
    assert one.exit_code == 2 and "it got 1" in one.stderr


def test_a_masked_pair_is_no_flip(bench: Bench):
    write()
    bench.model(lambda p: "hm" if "at least ten" in p and "cats" in p else judge(p))
    rows = [
        {"prompt": f"About {topic}.", "response": "x" * n}
        for topic in ("cats", "dogs")
        for n in (2, 9)
    ]
    done = bench.run("diff", "old.yaml", "new.yaml", f"input={bench.write(rows)}")
    assert "0 pairs flip" in done.stdout and "masked by one of them │ 1" in " ".join(
        done.stdout.split()
    )


def test_changes_are_matched_by_likeness(tmp_path: Path):
    files = tmp_path / "old.yaml", tmp_path / "new.yaml"
    files[0].write_text(OLD)
    files[1].write_text(NEW.replace("good: [Yes.]", "good: [Yes., No.]"))
    old, new = (read_rubric(file).rubric for file in files)
    assert old is not None and new is not None
    assert [(c.what, c.old, c.new) for c in changes(old, new)] == [
        ("version", "1", "2"),
        (
            "criterion changed",
            "It has at most ten words. (weight 1)",
            "It has at least ten words. (weight 1)",
        ),
        (
            "criterion changed",
            "It names one source. (weight 1)",
            "It names one source. (weight 1, must)",
        ),
        ("good example added", "", "No."),
    ]
    assert changes(old, old) == []
    assert [sign for sign, _, _ in changed_criteria(old, new)] == ["-", "-", "+", "+"]
