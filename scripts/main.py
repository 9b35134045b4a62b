"""The `conjoint` command: verbs, flags, help and exit codes; each verb's work is in its own file.

Exit codes: 0 done, 2 a mistake the user can mend, 3 a stop rule ended the run, 128 + N a signal
ended it. Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from conjoint.envs.text import escaped
from conjoint.envs.types import ConjointError, StopRun

MISTAKE, STOPPED, INTERRUPTED = 2, 3, 130

_HOME = re.compile(r"(?:^|(?<=[=\[,\s'\"]))~[\w.-]*(?=/)|(?<==)~$")
"""A home folder where a path begins: in a word by itself, a value, a list or a command. `~KEY`
without a slash, with which Hydra removes a key, is none."""

app = typer.Typer(
    name="conjoint",
    help="One joint RL loop for language models, on Ray, vLLM and DeepSpeed.",
    epilog="Start with: conjoint quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Config keys, such as num_steps=10 or experiment=NAME (configs/experiment/).",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the config, print the plan and start nothing.")
]


@app.command()
def train(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train a policy with the joint loop; resume=RUN_DIR goes on with a run, replay=DUMP runs the
    learner alone on a stored batch."""
    _dispatch("train", overrides or [], dry_run=dry_run)


@app.command()
def quickstart(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """The same as `train experiment=quickstart`: a small policy, on this machine, in minutes."""
    _dispatch("train", ["experiment=quickstart", *(overrides or [])], dry_run=dry_run)


@app.command()
def sft(overrides: Overrides = None) -> None:
    """Build the small from-scratch policy `nano` by supervised fine-tuning, and cache it."""
    _dispatch("sft", overrides or [])


@app.command(name="eval")
def evaluate(overrides: Overrides = None) -> None:
    """Measure a model on public test sets: model=PATH suite=gsm8k,humaneval,mbpp,ifeval data=FOLDER
    limit=N k=K; see docs/evaluation.md."""
    _dispatch("eval", overrides or [])


@app.command()
def grade(
    overrides: Overrides = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print one row's verdict in words; row=ID picks it.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Try cheating answers; print which are paid."),
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(metavar="module:function", help="Try hard inputs on a reward of your own."),
    ] = None,
) -> None:
    """Score stored responses outside a run: reward=NAME input=FILE output=FILE, and reward.*,
    sandbox.* and judge.* as in a run; see docs/rewards.md."""
    _dispatch("grade", overrides or [], explain=explain, probe=probe, check=check)


@app.command()
def data(
    subverb: Annotated[
        str,
        typer.Argument(help="difficulty, guessable, decontaminate, validate, evolve or pairs."),
    ],
    overrides: Overrides = None,
) -> None:
    """Filter or make task rows: input=FILE output=FILE and keys of the tool; see
    docs/data-tools.md."""
    _dispatch("data", subverb, overrides or [])


@app.command()
def rubric(
    subverb: Annotated[str, typer.Argument(help="lint, preview, agree, diff or probe.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUBRIC|KEY=VALUE", help="Rubric files or names, and keys.", show_default=False
        ),
    ] = None,
) -> None:
    """Try rubrics before a run: lint them, preview what a judge makes of responses, measure its
    agreement, diff two versions, probe it with attacks; see docs/self-critique.md."""
    _dispatch("rubric", subverb, words or [])


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(help="What to measure: learner, rollout, joint, rewards or scheduler.")
    ],
    overrides: Overrides = None,
) -> None:
    """Measure against TRL, or against targets, on this machine; output=FILE keeps the figures."""
    _dispatch("bench", name, overrides or [])


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
) -> None:
    """Rebuild report.html from the files of a run folder."""
    _dispatch("report", run_dir)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of ended runs, such as two seeds.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A run to compare with instead of the start; once for each run."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A .jsonl file for the figures.")] = None,
) -> None:
    """What changed on the held-out tasks, with intervals pooled over runs: from start to end, or
    between two sets of runs."""
    _dispatch("compare", runs, against or [], output)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The `adapter` folder of a checkpoint.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(help="The base model, if it is not where it was when the adapter was made."),
    ] = None,
) -> None:
    """Merge a LoRA adapter into its base model, as a folder that from_pretrained opens."""
    _dispatch("merge", adapter, output, base=base)


def main() -> None:
    """The installed command."""
    app(prog_name="conjoint")


def main_of(verb: str, argv: Sequence[str]) -> None:
    """One verb by itself: what `python -m conjoint.scripts.VERB` runs."""
    app([verb, *argv], prog_name="conjoint")


def _dispatch(verb: str, *args: Any, **options: Any) -> None:
    """Call the verb's `run` and exit with its code, or with that of the error it raised."""
    if isinstance(sys.stdout, TextIOWrapper):  # rows and answers may hold what UTF-8 cannot
        sys.stdout.reconfigure(errors="backslashreplace")
    options = {key: at_home(value) for key, value in options.items()}
    try:
        code = _module_of(verb).run(*map(at_home, args), **options)
    except ConjointError as error:
        code = _say("error", error, MISTAKE)
    except StopRun as stop:
        code = _say("stopped", stop, STOPPED)
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code or 0)


def at_home(given: Any) -> Any:
    """What was typed, with ~ expanded wherever a path begins: shells leave KEY=~/x as it is. The
    one place that does so, for every command."""
    if isinstance(given, list):
        return [at_home(item) for item in given]
    if isinstance(given, Path):
        return Path(at_home(str(given)))
    if not isinstance(given, str):
        return given
    return _HOME.sub(lambda found: os.path.expanduser(found[0]), given)


def _module_of(verb: str) -> ModuleType:
    """scripts/VERB.py or, where the verb is a folder, scripts/VERB/main.py."""
    module = importlib.import_module(f"conjoint.scripts.{verb}")
    if not hasattr(module, "__path__"):
        return module
    return importlib.import_module(f"{module.__name__}.main")


def _say(word: str, error: Exception, code: int) -> int:
    print(f"{word}: {escaped(str(error))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
