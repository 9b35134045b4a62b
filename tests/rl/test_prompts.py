"""What a dry run refuses because a run would: template, end token, prompts and rows too long."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from conjoint.envs.types import ConjointError
from conjoint.rl.config.compose import load_config
from conjoint.rl.plan import prepare
from conjoint.rollouts.renderer import Renderer
from conjoint.scripts.main import app
from tests.agents import tokenizer

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + PLAIN
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + PLAIN
)
QUESTION = {"prompt": "2+2?", "answer": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "2+2?"}


CONFIG = {
    "model_type": "llama",
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def model(folder: Path, template: str | None = PLAIN, **generation: Any) -> Path:
    """A folder with nano's tokenizer, this template and no weights: nothing may load them."""
    folder = folder / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"no weights")
    tokenizer(template or PLAIN).save_pretrained(folder)
    if template is None:
        (folder / "chat_template.jinja").unlink()
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def rows(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def keys(model: Path, path: str, *more: str) -> list[str]:
    return [
        *(f"model={model}", f"tasks.math.path={path}", "ptx.weight=0", "ptx.end_weight=0"),
        *("tasks.instruction.weight=0", "tasks.open.weight=0", "critic.refine=false"),
        *("rollout.max_model_len=256", "rollout.max_tokens=64", "budget.enabled=false", *more),
    ]


def refusal(*given: Any) -> str:
    """The sentence of the command."""
    done = CliRunner().invoke(app, ["train", "--dry-run", *keys(*given)])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    return done.stderr


def without(folder: Path, *names: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in names}))


def test_a_model_without_a_chat_template_or_an_end_token_is_refused(tmp_path: Path) -> None:
    path = rows(tmp_path, QUESTION)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    assert "has no chat template" in refusal(model(tmp_path / "a", None), path)
    endless = model(tmp_path / "b")
    without(endless, "eos_token")
    assert "has no end token" in refusal(endless, path)
    broken = model(tmp_path / "c")
    (broken / "tokenizer.json").write_text("{}")
    assert "cannot be loaded" in refusal(broken, path)


def test_the_plan_of_a_local_model_says_its_memory(tmp_path: Path) -> None:
    plan = prepare(load_config(keys(model(tmp_path), rows(tmp_path, QUESTION))))
    assert plan.words[-1].startswith("Memory of a learner rank, estimated: weights 0.00 GB")


@pytest.mark.parametrize(
    ("template", "prompt", "says"),
    [
        (NO_SYSTEM, [SYSTEM, ASKED], "row 2 (roles system, user): the chat template cannot render"),
        (ALTERNATE, [ASKED, ASKED], "roles must alternate"),
        (PLAIN.replace("m.content", "m.content + 1"), [ASKED], "row 1 (roles user)"),
    ],
)
def test_a_template_that_refuses_the_rows_is_refused_with_file_and_row(
    tmp_path: Path, template: str, prompt: list[Any], says: str
) -> None:
    path = rows(tmp_path, QUESTION, {"prompt": prompt, "answer": "4"})
    said = refusal(model(tmp_path, template), path)
    assert says in said and path in said


def test_prompts_longer_than_the_context_are_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    long, tight = {**QUESTION, "prompt": "1+" * 300}, {**QUESTION, "prompt": "1+" * 110}
    folder = model(tmp_path)
    path = rows(tmp_path, QUESTION, long, tight, {**long, "prompt": "2+" * 300})
    said = refusal(folder, path)
    assert "2 of 4 prompts (row 2, 4)" in said and "tasks.math.too_long=drop" in said
    assert "rollout.max_model_len=256 (the longest has 60" in said
    plan = prepare(load_config(keys(folder, path, "tasks.math.too_long=drop")))
    drawn = {task.prompt for task in plan.tasks.mixture.next(32) if task.kind == "math"}
    assert drawn == {"2+2?", tight["prompt"]}
    notes = "\n".join(plan.words)
    assert "2 of 4 prompts (row 2, 4)" in notes and "are dropped" in notes
    assert "1 of 4 prompts (row 3) of kind math leave an answer less than its budget" in notes
    assert "and none is left" in refusal(folder, rows(tmp_path, long), "tasks.math.too_long=drop")
    assert "must be refuse or drop" in refusal(folder, path, "tasks.math.too_long=cut")
    prepare(load_config(keys(folder, path, "tasks.math.agent.run='cat'", "rollout.max_turns=2")))


def test_other_rows_and_contexts_that_do_not_fit_are_refused_before_the_run(tmp_path: Path) -> None:
    folder, path = model(tmp_path), rows(tmp_path, QUESTION)
    assert "has 512 positions" in refusal(folder, path, "rollout.max_model_len=513")
    ptx = tmp_path / "ptx.jsonl"
    ptx.write_text(json.dumps({"text": "a long text " * 100}))
    said = refusal(folder, path, "ptx.weight=0.1", f"ptx.source={ptx}", "ptx.max_tokens=64")
    assert "more than ptx.max_tokens=64" in said
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "x", "chosen": "y" * 900, "rejected": "z" * 900}))
    said = refusal(folder, path, f"eval.pairs={pairs}", "judge.max_answer_chars=1000")
    assert "eval.pairs: pair 1 needs" in said


def test_a_nano_that_is_not_built_counts_with_the_tokenizer_that_it_will_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONJOINT_CACHE", str(tmp_path / "empty"))
    made = (tokenizer(PLAIN), [], {})
    monkeypatch.setattr("conjoint.rl.nano.sft.sft_rows", lambda *_: made)
    path = rows(tmp_path, QUESTION, {**QUESTION, "prompt": "1+" * 300})
    with pytest.raises(ConjointError, match=r"1 of 2 prompts \(row 2\)"):
        prepare(load_config(["experiment=quickstart", f"tasks.math.path={path}"]))


# -- end tokens --------------------------------------------------------------------------------


def test_end_of_turn_tokens_of_the_generation_config_end_answers(tmp_path: Path) -> None:
    """As Gemma: the tokenizer's end token closes no turn of the template."""
    pad, user = tokenizer().convert_tokens_to_ids(["<|pad|>", "<|user|>"])
    turn = PLAIN.replace("<|end|>", "<|pad|>")
    folder = model(tmp_path, turn, eos_token_id=[user, pad, 399_999])
    renderer = Renderer.load(folder)
    assert renderer.stop_ids == (pad, tokenizer().eos_token_id, user)
    appended = renderer.next_turn([{"role": "user", "content": "x"}])
    assert renderer.raw_text(appended) == "<|user|>x<|pad|><|assistant|>"
    for eos, ids in ((pad, {pad}), (None, set())):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
        assert set(Renderer.load(folder).stop_ids) == ids | {tokenizer().eos_token_id}


@pytest.mark.parametrize("text", ["[]", "{", '{"eos_token_id": "x"}', '{"eos_token_id": [true]}'])
def test_a_generation_config_that_names_no_token_is_refused(tmp_path: Path, text: str) -> None:
    folder = model(tmp_path)
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(ConjointError, match=r"generation_config\.json"):
        Renderer.load(folder)
