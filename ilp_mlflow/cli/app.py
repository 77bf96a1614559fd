"""The `ilp` command itself: exit codes, errors in one line, and options that commands share."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ilp_mlflow.cli.console import output_options
from ilp_mlflow.core.errors import ConfigError, IlpError, StepFailed
from ilp_mlflow.core.terminal.interrupts import sigterm_as_interrupt, was_interrupted
from ilp_mlflow.core.terminal.progress import LAUNCHED_ENV

USER_ERROR = 2
"""Exit code for what the user can repair."""
FAILED = 3
"""Exit code for a step that failed, and for faults of ilp or a library."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells give it: 128 and the number of SIGINT."""
DISK_FULL = (
    "the disk is full; free some space, or move MLflow's store (tracking.uri) or the cache "
    "(XDG_CACHE_HOME)"
)
DISK_FULL_TEXTS = ("No space left on device", "database or disk is full")
"""How the operating system and SQLite say that the disk is full."""


class _Failure(NamedTuple):
    """How a command ends that did not succeed."""

    exit_code: int
    """Exit code of the process."""
    message: str
    """One line for stderr."""


class _Group(click.Group):
    """Ends every command with an exit code: what a user can repair is told in one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with sigterm_as_interrupt():
                # without standalone_mode, click hands errors on instead of printing them itself
                return super().main(
                    *args, **{**kwargs, "prog_name": "ilp", "standalone_mode": False}
                )
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USER_ERROR)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, click.Abort) or was_interrupted(error):
                # in a process that another one launched, that one says how to go on
                if LAUNCHED_ENV not in os.environ:
                    arguments = args[0] if args else kwargs.get("args") or sys.argv[1:]
                    _print_error(self._interrupted(arguments))
                sys.exit(INTERRUPTED)
            failure = _failure(error)
            _print_error(failure.message)
            sys.exit(failure.exit_code)

    def _interrupted(self, arguments: Sequence[str]) -> str:
        """What an interrupt left behind, and the command that goes on."""
        words = _without_empty_options(arguments)
        # before MLflow is imported, no run can be open
        runs = sys.modules.get("ilp_mlflow.tracking.runs")
        run_id = runs.killed_runs[-1] if runs and runs.killed_runs else ""
        if not run_id:
            state, intent = "no run was open", "to start again"
        elif self._can_resume(words):
            state, intent = f"run {run_id} is marked KILLED in MLflow", "to go on"
            if "--run-id" not in words:
                words += ["--run-id", run_id]
        else:
            state, intent = f"run {run_id} is marked KILLED in MLflow", "to start again"
        return f"interrupted; {state}; {intent}: {_own_name()} {shlex.join(words)}"

    def _can_resume(self, words: Sequence[str]) -> bool:
        """Whether a command can be told to go on with the run that an interrupt killed."""
        command = self.commands.get(words[0])
        if command is None or words[0] == "stage":
            # the --run-id of a single stage is the run that its own run is put under
            return False
        if "--checkpoint" in words:
            # models trained elsewhere are adopted in one step, which leaves no half of a run
            return False
        return any(parameter.name == "run_id" for parameter in command.params)


def _print_error(message: str) -> None:
    print(f"ilp: {message}", file=sys.stderr)


def _failure(error: BaseException) -> _Failure:
    """Exit code and message for an error; the traceback of an unexpected one is printed."""
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "ilp"
        message = f"{error.format_message().rstrip('.')}; see '{command} --help'"
        return _Failure(USER_ERROR, _one_line(message))
    if isinstance(error, click.ClickException):
        return _Failure(USER_ERROR, _one_line(error.format_message()))
    if isinstance(error, StepFailed):
        return _Failure(FAILED, _one_line(str(error.args[0])))
    # before IlpError: a full disk may be behind "MLflow does not answer", and is what to repair
    if _disk_is_full(error):
        return _Failure(USER_ERROR, DISK_FULL)
    if isinstance(error, IlpError):
        return _Failure(USER_ERROR, _one_line(str(error)))
    read_only = isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES)
    if isinstance(error, OSError) and read_only and error.filename:
        message = f"{error.filename}: {error.strerror}; make it writable, or choose another place"
        return _Failure(USER_ERROR, message)
    traceback.print_exc()
    message = (
        "this is a fault in ilp or in a library below it; please report it with the lines above"
    )
    return _Failure(FAILED, message)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, which each library tells in its own way."""
    while error is not None:
        if any(text in str(error) for text in DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _without_empty_options(words: Sequence[str]) -> list[str]:
    """Arguments without the options that have no value: MLflow projects pass on all they know."""
    next_words = [*words[1:], None]
    return [word for word, after in zip(words, next_words, strict=True) if word and after != ""]


def _own_name() -> str:
    """How this command was called, to be typed again."""
    if Path(sys.argv[0]).name != "ilp":
        return f"{shlex.quote(sys.executable)} -m ilp_mlflow"
    if shutil.which("ilp") == sys.argv[0]:
        return "ilp"
    return shlex.quote(sys.argv[0])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ilp-mlflow")
def main() -> None:
    """Find the fine-tuning samples a model did not learn, since when, why, and what fixes it."""


# Options that several commands take; "" stands for one that is not given.

RESUME_OPTION = click.option(
    "--run-id", default="", help="Go on with this run: what is finished in it is not trained again."
)
RUN_ID_OPTION = click.option(
    "--run-id", default="", help="MLflow run of the experiment (default: its newest)."
)
SEED_OPTION = click.option("--seed", default="", help="Seed in place of the experiment's.")
MODEL_OPTION = click.option(
    "--model", default="", help="Model in place of the experiment's: Hub id, folder or MLflow URI."
)
CHECKPOINTS_OPTION = click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=LOCATION",
    help="A model trained anywhere, or a trainer's output folder (its checkpoint-N are NAME@N); "
    "the first is the base.",
)
LAUNCH_OPTION = click.option(
    "--launch", default="", help="'inline', or 'project' for one MLflow project run per stage."
)


def experiment_command(
    name: str, *options: Callable[..., Any], required: bool = True
) -> Callable[..., Any]:
    """A command that takes EXPERIMENT, --json and --quiet besides its own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        decorated: Any = output_options(function)
        # from the last to the first, as decorators apply: --help lists them in their order
        for option in reversed(options):
            decorated = option(decorated)
        argument = click.argument("experiment", type=click.Path(path_type=Path), required=required)
        return main.command(name)(argument(decorated))

    return decorate


def scoring_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `config.ScoringConfig`, "" for its default."""
    decorators = (
        click.option("--preset", default="", help="'default' or 'paper'."),
        click.option(
            "--verdicts",
            default="",
            metavar="RULE",
            help="Judge all rows by 'greedy', 'long', or 'verify:CHECK': 'verify:math', or a "
            "function of yours as 'verify:my_checks.passes'.",
        ),
        click.option(
            "--options", default="", help="Wrong options chosen for a sample that gives none."
        ),
        click.option(
            "--dtype",
            default="",
            help="'float32', 'bfloat16', or 'mixed': decide in float32 what is close in bfloat16.",
        ),
        click.option("--device", default="", help="'auto', 'cpu', 'cuda', ..."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def data_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `config.DataConfig` that say how rows are read, and the chat template."""
    decorators = (
        click.option(
            "--fields",
            default="",
            metavar="FIELD=COLUMN,...",
            help="Columns of other names, such as prompt=question,completion=answer.",
        ),
        click.option(
            "--format", default="", help="How rows are written (default: told by their fields)."
        ),
        click.option("--split", default="", help="Split of a data set folder (default: train)."),
        click.option("--limit", default="", help="Read only so many rows, from the top."),
        click.option(
            "--chat-template",
            default="",
            metavar="FILE",
            help="Jinja file in place of the models' own chat template.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def take_data_options(options: dict[str, Any]) -> dict[str, str]:
    """The options of `config.DataConfig`, taken out of those of a command."""
    return {name: options.pop(name) for name in ("fields", "format", "split", "limit")}


def find_chat_template(path: str) -> str | None:
    """The absolute path of the file behind --chat-template; None where it is not given.

    Raises ConfigError when there is no such file.
    """
    if not path:
        return None
    if not Path(path).is_file():
        raise ConfigError(f"--chat-template {path}: no such file; check the path")
    return str(Path(path).absolute())
